"use strict";
// Utterances: players, and the words of a transcript against its reference. Foreign text reaches the page by textContent alone.
const SPEECH = (() => {
  const changes = {
    broke: ["▼", "broke: more word errors"], fixed: ["▲", "fixed: fewer word errors"], changed: ["~", "other words, as many errors"],
    redacted: ["▪", "as many errors, text redacted"], reworded: ["≈", "same words, other writing"], wrong: ["✗", "with errors"], right: ["✓", "no errors"], unscored: ["–", "no words to find"],
  };
  const KINDS = { s: ["mistaken", "said", "heard"], d: ["left out", "said"], i: ["made up", "heard"], c: ["joined", "said", "heard"] };

  function player(number, place, { byId, element }) {
    const url = byId(`sound-${number}`)?.textContent ?? "";
    if (!/^data:audio\/(flac|wav|mpeg|ogg);base64,[A-Za-z0-9+/=]+$/.test(url)) return element("p", { class: "no-picture", text: "audio missing from this page" });
    return element("audio", { controls: "", preload: "none", src: url, "aria-label": `recording ${place + 1} of this utterance` });
  }
  function marked([kind, said, heard], { element, foreign }) {
    const parts = [element("span", { class: "unseen", text: `[${KINDS[kind][0]}: ` })];
    if (kind === "c") parts.push(foreign(said), element("span", { "aria-hidden": "true", text: "=" }), element("span", { class: "unseen", text: " heard as " }), foreign(heard));
    else {
      if (kind !== "i") parts.push(element("span", { class: "unseen", text: "said " }), kind === "d" ? element("span", { class: "arrow", "aria-hidden": "true", text: "−" }) : null, foreign(said, "del"));
      if (kind === "s") parts.push(element("span", { class: "arrow", "aria-hidden": "true", text: "→" }));
      if (kind !== "d") parts.push(element("span", { class: "unseen", text: kind === "s" ? ", heard " : "heard " }), kind === "i" ? element("span", { class: "arrow", "aria-hidden": "true", text: "+" }) : null, foreign(heard, "ins"));
    }
    parts.push(element("span", { class: "unseen", text: "]" }));
    return element("span", { class: `w w-${kind}`, title: KINDS[kind][0] }, ...parts);
  }
  function aligned(words, tools) {
    if (!words.length) return tools.element("p", { class: "aligned soft", text: "no words" });
    const parts = words.flatMap((each, place) => [...(place ? [" "] : []), typeof each === "string" ? tools.foreign(each) : marked(each, tools)]);
    return tools.element("p", { class: "aligned", dir: "auto" }, ...parts);
  }
  function tally([words, substitutions, deletions, insertions]) {
    const errors = substitutions + deletions + insertions;
    const kinds = [[substitutions, "mistaken"], [deletions, "left out"], [insertions, "made up"]].filter(([count]) => count).map(([count, kind]) => `${count} ${kind}`);
    return `${errors ? "✗" : "✓"} ${errors} ${errors === 1 ? "error" : "errors"} in ${words} ${words === 1 ? "word" : "words"}${kinds.length ? `: ${kinds.join(", ")}` : ""}`;
  }
  function transcript(title, side, first, reason, tools) {
    const { element, foreign } = tools;
    const text = side[0] === 1 ? first[0] : side[0];
    const found = side[5] === 1 ? first[5] : side[5];
    const rows = [["reason", foreign(reason)], ["ended by", foreign(side[3])]];
    for (const [name, value] of side[4]) rows.push([name, foreign(value)]);
    if (found === null || found[1] === null) rows.unshift(["scored as", side[1] === null ? element("span", { class: "soft", text: "nothing" }) : foreign(side[1])]);
    const errors = found === null ? 0 : found[0][1] + found[0][2] + found[0][3];
    return element("div", { class: "answer" },
      element("h4", {}, title, found === null ? null : element("span", { class: errors ? "mark-wrong" : "mark-right", text: tally(found[0]) }), side[0] === 1 ? element("span", { text: "the same text" }) : null),
      found !== null && found[1] !== null ? aligned(found[1], tools) : null,
      found !== null && found[1] !== null ? element("h4", { text: "as written" }) : null,
      text === null ? element("pre", { class: "none", text: "no transcript" }) : text === "" ? element("pre", { class: "none", text: "empty transcript" }) : foreign(text, "pre", "written"),
      element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", { text: name }), element("dd", {}, value)])));
  }
  function said(row, { element, foreign }) {
    const parts = [element("h4", { text: "what was said" }), row[2] === null || row[2] === "" ? element("pre", { class: "none", text: row[2] === null ? "not recorded" : "nothing" }) : foreign(row[2], "pre", "gold")];
    if (row[0] !== null) parts.push(element("details", {}, element("summary", { text: "prompt" }), foreign(row[0], "pre")));
    return parts;
  }
  const searched = (side) => (Array.isArray(side[5]) && Array.isArray(side[5][1]) ? `\n${side[5][1].map((each) => (typeof each === "string" ? each : `${each[1]} ${each[2]}`)).join(" ")}` : "");
  return { changes, player, transcript, said, searched };
})();
