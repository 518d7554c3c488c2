// A word or two, bit by bit, with what the bits mean; every bit can be turned, and what somebody keeps of them stands beside it.

const bit = (words, n) => (words[n >> 5] >>> (n & 31)) & 1;

function value(words, pieces) {                            // a field's value; its pieces are [low, high] runs of bits, lowest first
  let out = 0n, at = 0n;
  for (const [low, high] of pieces)
    for (let n = low; n <= high; n++) out |= BigInt(bit(words, n)) << at++;
  return out;
}

// What becomes of the words: the rules in order, each only where it applies, until one ends it. `kills` has its last words.
function applied(words, rules) {
  let now = [...words];
  for (const { word, mask, equals, unless, keep, add, ends, kills } of rules) {
    if (mask && (((now[word] & mask) >>> 0) === equals) === !!unless) continue;
    if (kills) return { words: now, kills };
    now = now.map((w, i) => ((w & keep[i]) | add[i]) >>> 0);
    if (ends) break;
  }
  return { words: now };
}

const SAYS = { segment: say_segment, gate: say_gate };

function render({ model, el }) {
  const { fields, rules, rules_title, examples, says } = model.get("data"), names = Object.keys(examples || {});
  const owner = [];
  fields.forEach((f, i) => f.bits.forEach(([low, high]) => { for (let n = low; n <= high; n++) owner[n] = i; }));
  const words = () => model.get("words");
  const set = (next) => { model.set("words", next.map((w) => w >>> 0)); model.save_changes(); };
  const turn = (n) => set(words().map((w, i) => (i === n >> 5 ? w ^ (1 << (n & 31)) : w)));
  const grid = h("div.bits", { role: "group", "aria-label": "bits, the highest first" });
  const which = h("select", { "aria-label": "an example", onchange: () => set(examples[which.value]) },
    h("option", { value: "", hidden: true }, "your own"), names.map((name) => h("option", { value: name }, name)));

  const table = h("tbody", {}), sentence = h("output.sentence", { "aria-live": "polite" });
  const raw = h("div.row.raw", {}, names.length > 0 && which);
  words().forEach((_, i) => raw.append(h("label", {}, words().length > 1 ? ["a ", "b "][i] : "value ",
    h("input.mono", { type: "text", size: 10, spellcheck: "false", onchange: (e) => {
      const n = Number.parseInt(e.target.value, 16);
      if (Number.isNaN(n)) draw(); else set(words().map((w, k) => (k === i ? n : w)));
    } }))));
  for (let n = 32 * words().length - 1; n >= 0; n--)
    grid.append(h("button", { type: "button", "data-bit": n, onclick: () => turn(n) }));

  function tell(now, after) {
    const lines = [];
    if (says) lines.push(h("div", {}, SAYS[says](...now)));
    if (after?.kills) lines.push(h("div.new", {}, "The Guest is killed: " + after.kills.replace(/\{(.*?)\}/g, (_, name) => value(now, fields.find((f) => f.name === name).bits))));
    else if (after && says) lines.push(h("div", {}, `${rules_title}: ${SAYS[says](...after.words)}`));
    sentence.replaceChildren(...lines);
  }

  function draw() {
    const now = words(), after = rules && applied(now, rules), host = after && !after.kills && after.words;
    raw.querySelectorAll("input").forEach((input, i) => { input.value = hex(now[i]); });
    which.value = names.find((name) => examples[name].every((w, i) => w === now[i])) || "";
    grid.querySelectorAll("button").forEach((b) => {
      const n = +b.dataset.bit, name = fields[owner[n]]?.name || "unused";
      const lost = host && bit(host, n) !== bit(now, n);
      b.textContent = bit(now, n);
      b.className = `f${(owner[n] ?? -1) % 2 === 0 ? "e" : "o"}${lost ? " new" : ""}`;
      b.title = `bit ${n % 32}${now.length > 1 ? " of " + "ab"[n >> 5] : ""}: ${name}${lost ? `; becomes ${bit(host, n)}` : ""}`;
      b.setAttribute("aria-label", b.title);
      b.setAttribute("aria-pressed", String(bit(now, n) === 1));
    });
    tell(now, after);
    table.replaceChildren(...fields.map((f) => {
      const v = value(now, f.bits), w = host ? value(host, f.bits) : v, say = (x) => f.meanings?.[String(x)] || "";
      const text = (x) => "0x" + x.toString(16), place = ([low, high]) => (now.length > 1 ? "ab"[low >> 5] + "\u00a0" : "") + (low === high ? low % 32 : `${low % 32}–${high % 32}`);
      const cell = (x) => [h("code", {}, text(x)), say(x) && [" ", rich(say(x))]];
      return h("tr", {}, h("td", {}, f.name + " ", h("span.soft.place", {}, f.bits.map(place).join(", "))), h("td", {}, cell(v)),
        rules && h("td", { class: w !== v ? "new" : "" }, host ? cell(w) : "–"));
    }));
  }

  const head = ["field, bits", "value", ...(rules ? [rules_title] : [])];
  frame(model, el, h("style", {}, `
    .bits { display: grid; grid-template-columns: repeat(16, minmax(0, 1fr)); gap: 2px; margin: .4rem 0 .7rem; }
    .bits button { padding: 0; min-width: 0; min-height: 1.9rem; font: 13px ui-monospace, "DejaVu Sans Mono", monospace; border-radius: 3px; border-color: transparent; }
    .bits .fe { background: var(--g2); color: var(--ink); } .bits .fo { background: var(--g1); color: var(--ink); }
    .bits button[aria-pressed="true"] { font-weight: 800; box-shadow: inset 0 -4px var(--w2); }
    .bits .new { background: var(--new-ground); color: var(--new); box-shadow: inset 0 -4px var(--new); }
    .raw { flex-wrap: wrap; } .sentence { display: block; margin: .4rem 0; } .place { font-size: 12px; } .sentence div { padding: .15rem .3rem; } select { max-width: 100%; }`),
    raw, grid, words().length > 1 && h("p.soft", {}, "b above, a below; the highest bit of each first."), (says || rules) && sentence,
    h("div.scroll", {}, h("table", {}, h("thead", {}, h("tr", {}, head.map((t) => h("th", {}, t)))), table)));
  model.on("change:words", draw);
  draw();
}

export default { render, applied };
