// A descriptor table three times over: as the Guest wrote it, as the Host keeps it, as the processor reads it.

const same = (x, y) => x[0] === y[0] && x[1] === y[1];
const empty = ([a, b]) => !a && !b;
const pair = ([a, b]) => hex(a) + " " + hex(b);

function render({ model, el }) {
  const { rows, kind, names } = model.get("data"), say = kind === "gdt" ? say_segment : say_gate;
  const short = ([a, b]) => {
    if (empty([a, b])) return "–";
    if (!(b & 0x8000)) return "not present";
    const ring = (b >>> 13) & 3;
    if (kind === "gdt") return b & 0x1000 ? `${b & 0x800 ? "code" : "data"} ${ring}` : `system ${ring}`;
    return `${{ 14: "intr.", 15: "trap", 5: "task" }[(b >>> 8) & 15] || "?"} ${ring}`;
  };
  const look = (n) => { model.set("at", n); model.save_changes(); };
  // Entries that look alike in all three tables are one row: 32 to 127 of an IDT, for example.
  const alike = (x, y) => [1, 2].every((k) => empty(x[k]) && empty(y[k])) && short(x[3]) === short(y[3]) && x[4] === y[4];
  const groups = [];
  for (const row of rows) {
    const last = groups[groups.length - 1];
    if (last && alike(last[last.length - 1], row) && names[row[0]] === names[last[0][0]]) last.push(row); else groups.push([row]);
  }
  const body = h("tbody", {}, groups.map((group) => {
    const [n, wrote, kept, used, why] = group[0], many = group.length > 1;
    const changed = [false, !same(wrote, kept), !same(kept, used)];
    const cell = (words, k) => h("td", { class: changed[k] && !many ? "new" : "" }, (changed[k] && !many ? "≠ " : "") + short(words));
    return h("tr", { "data-entry": n, onclick: () => look(n) },
      h("td", {}, h("button.entry", { type: "button", onclick: (e) => { e.stopPropagation(); look(n); } }, many ? `${n}–${group[group.length - 1][0]}` : n), " ", names[n] && h("span.soft", {}, names[n] + (why ? ": " : "")),
        why && h("span", { class: why.includes("Host") ? "w0" : why === "directly" ? "w2" : "soft" }, why)), cell(wrote, 0), cell(kept, 1), cell(used, 2));
  }));
  const detail = h("div.box.detail", { "aria-live": "polite" });

  function draw() {
    const at = model.get("at"), row = rows[at], group = groups.find((g) => g.some(([n]) => n === at));
    body.querySelectorAll("tr").forEach((tr) => tr.setAttribute("aria-selected", String(+tr.dataset.entry === group[0][0])));
    const tr = body.querySelector('[aria-selected="true"]');
    if (tr.offsetTop < region.scrollTop + 30 || tr.offsetTop + tr.offsetHeight > region.scrollTop + region.clientHeight) region.scrollTop = tr.offsetTop - region.clientHeight / 2;
    const line = (title, words, before) => h("div", {}, h("dt", {}, title), h("dd", {}, h("code", { class: before && !same(words, before) ? "new" : "" }, pair(words)),
      h("div", {}, empty(words) ? "nothing" : say(...words))));
    detail.replaceChildren(h("h4", {}, `Entry ${at}${names[at] ? ": " + names[at] : ""}`),
      h("dl.cols", {}, line("the Guest wrote", row[1]), line("the Host keeps", row[2], row[1]), line("the processor reads", row[3], row[2])), row[4] && h("p", {}, row[4] + "."));
  }

  const head = ["entry", "Guest", "Host", "CPU"];
  const region = h("div.scroll.tables", { tabindex: 0, role: "region", "aria-label": "the three tables" },
    h("table", {}, h("thead", {}, h("tr", {}, head.map((t) => h("th", { scope: "col" }, t)))), body));
  frame(model, el, h("style", {}, `
    .tables { position: relative; max-height: 24rem; margin-bottom: .7rem; } .tables table { width: 100%; } thead th { position: sticky; top: 0; background: var(--card); } tr[data-entry] { cursor: pointer; }
    tr[aria-selected="true"] td { box-shadow: inset 0 2px var(--ink), inset 0 -2px var(--ink); } .entry { padding: 0 .4rem; min-height: 1.5rem; } td { font-size: 12.5px; } td:not(:first-child) { white-space: nowrap; }
    dl.cols { margin: 0; gap: 0 .8rem; } dt, dd { display: block; } dt { font-weight: 600; color: var(--soft); margin-top: .4rem; } dd { margin: 0; }`),
    region, detail,
    h("p.soft", {}, "Kind and ring of each. ≠ differs from the column before. Press an entry for its words."));
  model.on("change:at", draw);
  draw();
}

export default { render };
