// A word or two, bit by bit, with what the bits mean; every bit can be turned, and what the Host keeps of them stands below.

const bit = (words, n) => (words[n >> 5] >>> (n & 31)) & 1;

function value(words, pieces) {                            // a field's value; its pieces are [low, high] runs of bits, lowest first
  let out = 0n, at = 0n;
  for (const [low, high] of pieces)
    for (let n = low; n <= high; n++) out |= BigInt(bit(words, n)) << at++;
  return out;
}

const kept = (words, keep) => words.map((w, i) => ((w & keep[i][0]) | keep[i][1]) >>> 0);

function render({ model, el }) {
  const { fields, digits, keep, keep_title } = model.get("data");
  const owner = [];
  fields.forEach((f, i) => f.bits.forEach(([low, high]) => { for (let n = low; n <= high; n++) owner[n] = i; }));
  const words = () => model.get("words");
  const set = (next) => { model.set("words", next.map((w) => w >>> 0)); model.save_changes(); };
  const turn = (n) => set(words().map((w, i) => (i === n >> 5 ? w ^ (1 << (n & 31)) : w)));
  const grid = h("div.bits", { role: "group", "aria-label": "bits, the highest first" });
  const raw = h("div.row.raw", {});
  const table = h("tbody", {});

  words().forEach((_, i) => raw.append(h("label", {}, words().length > 1 ? ["a ", "b "][i] : "value ",
    h("input.mono", { type: "text", size: 10, spellcheck: "false", onchange: (e) => {
      const n = Number.parseInt(e.target.value, 16);
      if (Number.isNaN(n)) draw(); else set(words().map((w, k) => (k === i ? n : w)));
    } }))));
  for (let n = 32 * words().length - 1; n >= 0; n--)
    grid.append(h("button", { type: "button", "data-bit": n, onclick: () => turn(n) }));

  function draw() {
    const now = words(), host = keep && kept(now, keep);
    raw.querySelectorAll("input").forEach((input, i) => { input.value = hex(now[i]); });
    grid.querySelectorAll("button").forEach((b) => {
      const n = +b.dataset.bit, name = fields[owner[n]]?.name || "unused";
      const lost = host && bit(host, n) !== bit(now, n);
      b.textContent = bit(now, n);
      b.className = `f${(owner[n] ?? -1) % 2 === 0 ? "e" : "o"}${lost ? " new" : ""}`;
      b.title = `bit ${n}: ${name}${lost ? `; the Host makes it ${bit(host, n)}` : ""}`;
      b.setAttribute("aria-label", b.title);
      b.setAttribute("aria-pressed", String(bit(now, n) === 1));
    });
    table.replaceChildren(...fields.map((f) => {
      const v = value(now, f.bits), w = host ? value(host, f.bits) : v, say = (x) => f.meanings?.[String(x)] || "";
      const text = (x) => "0x" + x.toString(16);
      return h("tr", {}, h("td", {}, f.name), h("td.mono", {}, f.bits.map(([low, high]) => (low === high ? low : `${low}–${high}`)).join(", ")),
        h("td.mono", {}, text(v)), h("td", {}, say(v)),
        host && h("td.mono", { class: w !== v ? "new" : "" }, text(w)), host && h("td", { class: w !== v ? "new" : "" }, say(w)));
    }));
  }

  const head = ["field", "bits", "value", "means", ...(keep ? [keep_title, "means"] : [])];
  frame(model, el, h("style", {}, `
    .bits { display: grid; grid-template-columns: repeat(16, minmax(0, 1fr)); gap: 2px; margin: .4rem 0 .7rem; }
    .bits button { padding: 0; min-width: 0; min-height: 1.9rem; font: 13px ui-monospace, "DejaVu Sans Mono", monospace; border-radius: 3px; border-color: transparent; }
    .bits .fe { background: var(--g2); color: var(--ink); } .bits .fo { background: var(--g1); color: var(--ink); }
    .bits button[aria-pressed="true"] { font-weight: 800; box-shadow: inset 0 -4px var(--w2); }
    .bits .new { background: var(--new-ground); color: var(--new); box-shadow: inset 0 -4px var(--new); }
    .raw { flex-wrap: wrap; }`),
    raw, grid, h("div.scroll", {}, h("table", {}, h("thead", {}, h("tr", {}, head.map((t) => h("th", {}, t)))), table)));
  model.on("change:words", draw);
  draw();
}

export default { render };
