"use strict";
// The item list: opens packed rows as they are looked at. Foreign text reaches the page by textContent alone.
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const config = JSON.parse(byId("config").textContent);
  const CHANGE_WORDS = {
    broke: ["▼", "broke"], fixed: ["▲", "fixed"], changed: ["~", "another answer"], reworded: ["≈", "other words"], redacted: ["▪", "same score, text redacted"],
    same: ["=", "unchanged"], wrong: ["✗", "wrong"], right: ["✓", "right"], unscored: ["–", "no score"],
  };
  const speech = typeof SPEECH === "undefined" ? null : SPEECH; // of pages with utterances: speech.js
  const MOST_GROUPS = 1000; // a longer select is slow; the search finds the others
  const indexes = new Map();
  const chunks = new Map();
  const state = { view: 0, page: 0, search: "", change: "", task: "", reason: "", stratum: "", errors: false, found: [], here: -1, run: 0 };

  function element(tag, options = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "text") made.textContent = value;
      else if (name === "class") made.className = value;
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }
  const foreign = (text, tag = "bdi", cls = "") => element(tag, { dir: "auto", text: String(text), ...(cls ? { class: cls } : {}) });

  // ---- packed data
  async function unpack(id) {
    const binary = atob(byId(id).textContent);
    const bytes = new Uint8Array(binary.length);
    for (let place = 0; place < binary.length; place++) bytes[place] = binary.charCodeAt(place);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }
  function once(cache, key, make) {
    if (!cache.has(key)) cache.set(key, make());
    return cache.get(key);
  }
  const indexOf = (view) => once(indexes, view, () => unpack(`index-${view}`));
  const chunkOf = (view, part) => once(chunks, `${view}-${part}`, () => unpack(`rows-${view}-${part}`));
  async function rowOf(view, place) {
    return (await chunkOf(view, Math.floor(place / config.chunk)))[place % config.chunk];
  }

  // ---- filters
  function options(select, first, entries) {
    select.replaceChildren(element("option", { value: "", text: first }), ...entries.map(([value, text]) => element("option", { value, text })));
    select.closest("label").hidden = entries.length < 2;
  }
  async function setUpView() {
    const index = await indexOf(state.view);
    const view = config.views[state.view];
    const number = (count) => count.toLocaleString("en");
    options(byId("change"), "any", config.changes.flatMap((name, code) => (view.counts[name] ? [[code, `${wordsOf(name)[1]} (${number(view.counts[name])})`]] : [])));
    options(byId("task"), "every task", index.task_names.map((name, code) => [code, name]));
    options(byId("reason"), "any", index.reason_names.map((name, code) => [code, name]));
    options(byId("stratum"), "every group", index.strata_names.map((name, code) => [code, name]).slice(0, MOST_GROUPS).sort((a, b) => a[1].localeCompare(b[1], "en", { numeric: true })));
    byId("errors").closest("label").hidden = !index.error.some((flag) => flag);
    byId("filters").hidden = false;
  }
  function hit(row, id, groups, words) {
    let text = `${id}\n${groups}\n${row[0] ?? ""}\n${row[1] ?? ""}\n${row[2] ?? ""}`;
    for (const side of row.slice(4)) if (speech && side.length > 5) text += speech.searched(side);
    for (const side of row.slice(4)) text += `\n${typeof side[0] === "string" ? side[0] : ""}\n${side[1] ?? ""}\n${side[4].map((part) => part[1]).join("\n")}`;
    text = text.toLowerCase();
    return words.every((word) => text.includes(word));
  }
  async function filter() {
    const run = ++state.run;
    const index = await indexOf(state.view);
    const total = index.id.length;
    const change = state.change === "" ? -1 : Number(state.change);
    const task = state.task === "" ? -1 : Number(state.task);
    const reason = state.reason === "" ? -1 : Number(state.reason);
    const stratum = state.stratum === "" ? -1 : Number(state.stratum);
    const combinations = stratum < 0 ? null : index.combination_names.map((names) => names.includes(stratum));
    const kept = [];
    for (let place = 0; place < total; place++) {
      if (change >= 0 && index.change[place] !== change) continue;
      if (task >= 0 && index.task[place] !== task) continue;
      if (reason >= 0 && index.reason0[place] !== reason && (!index.reason1 || index.reason1[place] !== reason)) continue;
      if (combinations && !combinations[index.combination[place]]) continue;
      if (state.errors && !index.error[place]) continue;
      kept.push(place);
    }
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) {
      state.found = kept;
      return run === state.run;
    }
    const groups = index.combination_names.map((codes) => codes.map((code) => index.strata_names[code]).join("\n"));
    const found = [];
    let block = -1, rows = null, told = performance.now();
    for (const place of kept) {
      const part = Math.floor(place / config.chunk);
      if (part !== block) {
        rows = await chunkOf(state.view, part);
        block = part;
        if (run !== state.run) return false;
        if (performance.now() - told > 250) {
          byId("count").textContent = `Searching: ${Math.round((100 * place) / total)} %`;
          await new Promise((done) => setTimeout(done));
          told = performance.now();
        }
      }
      if (hit(rows[place % config.chunk], index.id[place], groups[index.combination[place]], words)) found.push(place);
    }
    state.found = found;
    return run === state.run;
  }

  // ---- rows
  const wordsOf = (name) => (config.views[state.view].speech && speech.changes[name]) || CHANGE_WORDS[name];
  function chip(name) {
    const [symbol, words] = wordsOf(name);
    return element("span", { class: `chip c-${name}` }, element("span", { class: "symbol", "aria-hidden": "true", text: symbol }), words);
  }
  function picture(entry, place) {
    if (speech && typeof entry === "object" && "sound" in entry) return speech.player(entry.sound, place, { byId, element });
    if (Array.isArray(entry)) return element("p", { class: "no-picture" }, foreign(entry[0]), ` (sha256 ${entry[1]}…)`);
    const url = byId(`picture-${entry}`)?.textContent ?? "";
    if (!/^data:image\/(png|webp);base64,[A-Za-z0-9+/=]+$/.test(url)) return element("p", { class: "no-picture", text: "image missing from this page" });
    const [width, height, pixelated] = config.pictures[entry];
    const image = element("img", { alt: `image ${place + 1} of this item`, width, height, class: pixelated ? "pixelated" : "", src: url });
    const button = element("button", { type: "button", title: "larger or smaller", "aria-pressed": "false" }, image);
    button.addEventListener("click", () => button.setAttribute("aria-pressed", button.closest(".item-body").classList.toggle("large")));
    return button;
  }
  function judged(value) {
    if (value === null) return element("span", { text: "– no score" });
    if (value >= 1) return element("span", { class: "mark-right", text: "✓ right" });
    if (value <= 0) return element("span", { class: "mark-wrong", text: "✗ wrong" });
    return element("span", { text: value.toFixed(3) });
  }
  function answer(title, side, first, reason) {
    if (speech && side.length > 5) return speech.transcript(title, side, first, reason, { element, foreign });
    const text = side[0] === 1 ? first[0] : side[0];
    const rows = [["answer read", side[1] === null ? element("span", { class: "soft", text: "none" }) : foreign(side[1])], ["reason", foreign(reason)], ["ended by", foreign(side[3])]];
    for (const [name, value] of side[4]) rows.push([name, foreign(value)]);
    return element("div", { class: "answer" }, element("h4", {}, title, judged(side[2]), side[0] === 1 ? element("span", { text: "the same text" }) : null),
      text === null ? element("pre", { class: "none", text: "no answer" }) : text === "" ? element("pre", { class: "none", text: "empty answer" }) : foreign(text, "pre"),
      element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", { text: name }), element("dd", {}, value)])));
  }
  const address = (index, place) => `#item/${state.view}/${encodeURIComponent(index.task_names[index.task[place]])}/${encodeURIComponent(index.id[place])}`;
  function card(index, place, row) {
    const names = config.views[state.view].sides;
    const compared = names.length > 1;
    const groups = index.combination_names[index.combination[place]].map((code) => index.strata_names[code]);
    const head = element("div", { class: "item-head" }, chip(config.changes[index.change[place]]),
      element("a", { href: address(index, place), title: "link to this item" }, foreign(index.id[place])),
      foreign(index.task_names[index.task[place]], "bdi", "soft"), ...groups.map((name) => foreign(name, "bdi", "soft")));
    const asked = element("div", { class: "asked" });
    const spoken = speech && row[4].length > 5;
    if (spoken) asked.append(...speech.said(row, { element, foreign }));
    else asked.append(element("h4", { text: row[1] === null ? "asked" : "asked, reference" }), row[0] === null ? element("pre", { class: "none", text: "not on this page" }) : foreign(row[0], "pre"));
    if (row[1] !== null) asked.append(element("h4", { text: "asked, candidate" }), foreign(row[1], "pre"));
    if (!spoken) asked.append(element("dl", {}, element("dt", { text: "gold" }), element("dd", {}, row[2] === null ? element("span", { class: "soft", text: "not recorded" }) : foreign(row[2]))));
    const pictures = row[3].length && !spoken ? element("div", { class: row[3].length > 2 ? "pictures many" : "pictures" }, ...row[3].map(picture)) : null;
    if (spoken) asked.append(...row[3].map(picture));
    const body = element("div", { class: `item-body${compared ? "" : " alone"}${pictures ? " pictured" : ""}` }, pictures, asked, answer(compared ? "reference" : "response", row[4], null, index.reason_names[index.reason0[place]]));
    if (compared) body.append(answer("candidate", row[5], row[4], index.reason_names[index.reason1[place]]));
    const made = element("li", { class: state.here === place ? "item here" : "item" }, head, body);
    made.dataset.place = place;
    return made;
  }
  async function render(focus = false) {
    const index = await indexOf(state.view);
    const run = state.run;
    const pages = Math.max(1, Math.ceil(state.found.length / config.pageSize));
    state.page = Math.min(Math.max(0, state.page), pages - 1);
    const shown = state.found.slice(state.page * config.pageSize, (state.page + 1) * config.pageSize);
    const rows = await Promise.all(shown.map((place) => rowOf(state.view, place)));
    if (run !== state.run) return;
    byId("list").replaceChildren(...shown.map((place, number) => card(index, place, rows[number])));
    const number = (count) => count.toLocaleString("en");
    const total = index.id.length;
    const count = state.found.length;
    const from = state.page * config.pageSize + 1;
    byId("count").textContent = total === 0 ? "There are no items to show." : count === 0 ? `No item of ${number(total)} fits.` : `${number(from)} to ${number(from + shown.length - 1)} of ${number(count)} items${count === total ? "" : ` that fit, of ${number(total)}`}.${state.search ? " Searched: ids and the texts on this page." : ""}`;
    for (const pager of document.querySelectorAll("[data-pager]")) {
      pager.hidden = pages < 2;
      pager.replaceChildren(...[["first", 0, state.page > 0], ["previous", state.page - 1, state.page > 0], [null], ["next", state.page + 1, state.page < pages - 1], ["last", pages - 1, state.page < pages - 1]].map(([text, target, enabled]) => {
        if (text === null) return element("span", { text: `page ${number(state.page + 1)} of ${number(pages)}` });
        const button = element("button", { type: "button", text });
        button.disabled = !enabled;
        button.addEventListener("click", () => { state.page = target; render(true); });
        return button;
      }));
    }
    if (focus) {
      byId("count").scrollIntoView();
      byId("list").focus({ preventScroll: true });
    }
  }
  async function refresh() {
    state.page = 0;
    if (await filter()) await render();
  }
  async function changeView() {
    Object.assign(state, { change: "", task: "", reason: "", stratum: "", errors: false });
    byId("errors").checked = false;
    await setUpView();
    await refresh();
  }

  // ---- links to one item
  async function follow() {
    const match = /^#item\/(\d+)\/([^/]*)\/(.*)$/.exec(location.hash);
    if (!match) return false;
    const view = Number(match[1]);
    if (view >= config.views.length) return false;
    let task, id;
    try { [task, id] = [decodeURIComponent(match[2]), decodeURIComponent(match[3])]; } catch { return false; }
    const index = await indexOf(view);
    const place = index.id.findIndex((name, number) => name === id && index.task_names[index.task[number]] === task);
    if (place < 0) return false;
    Object.assign(state, { view, search: "", change: "", task: "", reason: "", stratum: "", errors: false, here: place });
    byId("search").value = "";
    if (byId("view")) byId("view").value = String(view);
    byId("errors").checked = false;
    await setUpView();
    await filter();
    state.page = Math.floor(place / config.pageSize);
    await render();
    byId("list").querySelector(".here")?.scrollIntoView({ block: "start" });
    return true;
  }

  // ---- the rest of the page
  function theme() {
    const button = byId("theme");
    const themes = ["auto", "light", "dark"];
    const show = (name) => { root.dataset.theme = name; button.querySelector("span").textContent = name; };
    let stored = null;
    try { stored = localStorage.getItem("workbench-theme"); } catch { /* file:// without storage */ }
    show(themes.includes(stored) ? stored : "auto");
    button.hidden = false;
    button.addEventListener("click", () => {
      const next = themes[(themes.indexOf(root.dataset.theme) + 1) % 3];
      show(next);
      try { localStorage.setItem("workbench-theme", next); } catch { /* the choice lasts for this visit */ }
    });
  }
  function choosers() {
    for (const chooser of document.querySelectorAll(".chooser")) chooser.hidden = false;
    for (const select of document.querySelectorAll(".axis-choice")) {
      select.addEventListener("change", () => {
        for (const block of select.closest(".forest-of").querySelectorAll(".forest-axis-block")) block.hidden = select.value !== "" && block.dataset.axis !== select.value && !block.dataset.axis.startsWith("all ");
      });
    }
    byId("only-different")?.addEventListener("change", (event) => byId("environment-table").classList.toggle("only-differing", event.target.checked));
  }
  function listen() {
    let timer = 0;
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("search").addEventListener("input", (event) => {
      clearTimeout(timer);
      timer = setTimeout(() => { state.search = event.target.value; refresh(); }, 200);
    });
    for (const name of ["change", "task", "reason", "stratum"]) byId(name).addEventListener("change", (event) => { state[name] = event.target.value; refresh(); });
    byId("errors").addEventListener("change", (event) => { state.errors = event.target.checked; refresh(); });
    byId("view")?.addEventListener("change", (event) => { state.view = Number(event.target.value); changeView(); });
    byId("clear").addEventListener("click", () => { state.search = ""; byId("search").value = ""; changeView(); });
    window.addEventListener("hashchange", follow);
  }
  async function start() {
    theme();
    choosers();
    if (!config.views.length) { root.dataset.ready = "true"; return; }
    if (typeof DecompressionStream === "undefined") {
      byId("count").textContent = "This browser is too old to open the packed items; items.csv beside this page has them.";
      root.dataset.ready = "true";
      return;
    }
    listen();
    if (!(await follow())) {
      // The first candidate with flips: an empty beginning would hide them.
      state.view = Math.max(0, config.views.findIndex((view) => view.counts.broke || view.counts.fixed));
      if (byId("view")) byId("view").value = String(state.view);
      await setUpView();
      await refresh();
    }
    root.dataset.ready = "true";
  }
  // After the first paint: the verdict is there before the rows are.
  requestAnimationFrame(() => setTimeout(() => start().catch((error) => {
    byId("count").textContent = "The items could not be opened; items.csv beside this page has them.";
    root.dataset.ready = "failed";
    throw error;
  })));
})();
