"use strict";
// Filters of the zoo's rows, links to one row, and the theme. Everything is in the page already: nothing foreign is built here.
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const rows = [...document.querySelectorAll(".zoo-row")];
  const texts = rows.map((row) => `${row.closest(".zoo-family").querySelector(".zoo-name").textContent}\n${row.querySelector("summary").textContent}`.toLowerCase());
  const names = ["verdict", "modality", "layout"];

  function filter() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      const fits = names.every((name) => !byId(name).value || row.dataset[name] === byId(name).value) && words.every((word) => texts[place].includes(word));
      row.hidden = !fits;
      shown += fits;
    });
    for (const kind of [".zoo-family", ".zoo-group"]) {
      for (const each of document.querySelectorAll(kind)) each.hidden = !each.querySelector(".zoo-row:not([hidden])");
    }
    byId("count").textContent = shown === rows.length ? `${rows.length} rows.` : shown === 0 ? `No row of ${rows.length} fits.` : `${shown} of ${rows.length} rows fit.`;
  }
  function clear() {
    byId("search").value = "";
    for (const name of names) byId(name).value = "";
    filter();
  }
  function follow() {
    const row = /^#row-\d+$/.test(location.hash) ? byId(location.hash.slice(1)) : null;
    if (!row) return;
    clear();
    row.open = true;
    row.scrollIntoView({ block: "start" });
  }
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
  theme();
  byId("filters").hidden = rows.length < 2;
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("input", filter);
  for (const name of names) {
    byId(name).closest("label").hidden = byId(name).options.length < 3;
    byId(name).addEventListener("change", filter);
  }
  byId("clear").addEventListener("click", clear);
  window.addEventListener("hashchange", follow);
  follow();
  root.dataset.ready = "true";
})();
