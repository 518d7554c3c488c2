// One trap in steps, or two side by side: what the processor looks at, and each word that it, the Switcher and the Host push.

const word = (n) => (n == null ? "" : "0x" + n.toString(16));

// The phases of a trap's steps, as buttons; pressing one goes to its first step.
function way(trap, go) {
  const list = h("ol.way", { "aria-label": "the way of the trap" });
  trap.steps.forEach((step, i) => {
    if (i && trap.steps[i - 1].phase === step.phase) return;
    list.append(h("li", {}, h("button", { type: "button", "data-from": i, class: `${world(step.world)} g${step.world}`, onclick: () => go(i) }, step.phase)));
  });
  return list;
}

function show_way(list, at, steps) {
  const here = [...list.querySelectorAll("button")].filter((b) => +b.dataset.from <= at).pop();
  for (const b of list.querySelectorAll("button")) {
    b.classList.toggle("ahead", +b.dataset.from > at);
    if (b === here) b.setAttribute("aria-current", "step"); else b.removeAttribute("aria-current");
  }
}

function details({ head, rows }) {
  const titled = head.some(Boolean) && h("thead", {}, h("tr", {}, head.map((t) => h("th", { class: t }, t))));
  return rows.length ? h("div.scroll", {}, h("table.detail", {}, titled, h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => h(i ? "td" : "th", { class: head[i] === "bits" ? "bits" : "" }, rich(cell)))))))) : "";
}

// A stack as it is at a step: a row a word, the highest address first, as one draws a stack.
function stack(stack, at) {
  const esp = stack.esp.filter(([step]) => step <= at).pop()?.[1];
  return h("div", {}, h("h4", { class: world(stack.world) }, stack.title),
    h("table.words", { "aria-label": stack.title }, h("tbody", {}, stack.rows.map((row) => {
      const known = row.history.filter(([step]) => step <= at), [step, value] = known.at(-1) || [];
      const fresh = step === at, before = known.at(-2)?.[1];
      return h("tr", { class: fresh ? "new" : "" }, h("td.esp", {}, row.at === esp ? "ESP ▸" : ""), h("td.mono.soft", {}, hex(row.at)), h("td", {}, row.name, fresh ? " ●" : ""),
        h("td.mono", {}, known.length ? word(value) : "·", fresh && before != null ? h("small", {}, ` was ${word(before)}`) : ""));
    }))));
}

function column(trap, go) {
  const list = way(trap, go), text = h("p.what", { "aria-live": "polite" }), detail = h("div", {}), stacks = h("div.stacks", {});
  const box = h("div.box", {}, h("h4", {}, trap.name, trap.way && h("span.soft", {}, ` · ${trap.way}`)), list, h("div.body", {}, h("div", {}, text, detail), stacks));
  function draw(at) {
    const n = Math.min(at, trap.steps.length - 1), step = trap.steps[n];
    show_way(list, n);
    text.replaceChildren(h("strong", { class: world(step.world) }, step.who + ": "), ...rich(step.text), at > n ? ` (That was ${at - n} ${at - n > 1 ? "steps" : "step"} ago.)` : "");
    detail.replaceChildren(details(step));
    stacks.replaceChildren(...trap.stacks.filter((s, i) => !i || s.esp[0][0] <= n).reverse().map((s) => stack(s, at)));   // the one that fills now comes first
  }
  return { box, draw };
}

// The vectors as a grid of buttons: one that has been caught in the act can be looked at.
function choice(data, choose) {
  if (!data.grid.length) return data.traps.map((trap, i) => h("button", { type: "button", "data-which": i, onclick: () => choose(i) }, trap.name));
  return data.grid.map((cell) => h("button.cell", { type: "button", "data-vector": cell.vector, title: cell.name, disabled: cell.trap == null, "data-which": cell.trap ?? "", class: `${world(cell.world)} g${cell.world}`,
    "aria-label": `${cell.vector}, ${cell.name}: ${cell.how}${cell.error ? ", with an error code" : ""}`, onclick: () => choose(cell.trap) },
    h("b", {}, cell.vector), cell.error ? h("sup", {}, "e") : "", h("small", {}, cell.name), h("small.soft", {}, cell.how)));
}

function render({ model, el }) {
  const data = model.get("data"), beside = data.beside, shown = () => (beside ? data.traps : [data.traps[model.get("which")]]);
  const go = (n) => { model.set("at", n); model.save_changes(); };
  const length = () => Math.max(...shown().map((trap) => trap.steps.length));
  const choose = (i) => { model.set("at", 0); model.set("which", i); model.save_changes(); };
  const chooser = beside || data.traps.length < 2 ? "" : h("div", { class: data.grid.length ? "grid" : "row choose", role: "group", "aria-label": "which trap" }, choice(data, choose));
  const place = h("div.cols", { class: beside ? "beside" : "" });
  let columns = [];

  function pick() {
    columns = shown().map((trap) => column(trap, go));
    place.replaceChildren(...columns.map((c) => c.box));
    if (chooser) chooser.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.which === String(model.get("which")))));
    draw();
  }
  const draw = () => columns.forEach((c) => c.draw(model.get("at")));
  const say = (n, of) => `step ${n + 1} of ${of}: ${shown().map((trap) => trap.steps[n]?.phase || "done").join(" | ")}`;
  const costs = data.costs.length > 0 && h("div.scroll", {}, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}), data.traps.map((t) => h("th", {}, t.name)))),
    h("tbody", {}, data.costs.map(([what, ...values]) => h("tr", {}, h("th", {}, rich(what)), values.map((v) => h("td", {}, v)))))));
  frame(model, el, h("style", {}, `
    .way { display: flex; flex-wrap: wrap; gap: .2rem; list-style: none; padding: 0; margin: .3rem 0; }
    .way button { min-height: 1.7rem; padding: 0 .45rem; font-size: 12px; border-color: currentColor; }
    .way .ahead { opacity: .7; border-style: dashed; }
    .way [aria-current] { font-weight: 700; box-shadow: inset 0 -3px currentColor; }
    .what { min-height: 3em; } .detail td, .detail th { font-size: 12.5px; }
    .cols { margin: .4rem 0; } .cols.beside { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); } .way + .body { margin-top: .5rem; }
    .box { container-type: inline-size; } .body { display: grid; gap: 0 .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); align-items: start; } .stacks { display: contents; }
    .words { width: 100%; max-width: 26rem; } .words td { padding: .05rem .35rem; } .words .esp { width: 2.9em; white-space: nowrap; padding: 0 .15rem; font-size: 11.5px; font-weight: 700; border-width: 0; }
    .words small { display: block; font-size: 10px; } .words .new { background: none; } .words .new td:not(.esp) { background: var(--new-ground); } .words .new .esp { color: var(--ink); }
    @container (max-width: 25rem) { .bits { display: none; } .words .mono { font-size: 11.5px; } }
    .choose { flex-wrap: wrap; } .body h4 { margin-top: .3rem; }
    .grid { display: grid; gap: 3px; grid-template-columns: repeat(auto-fill, minmax(6.3rem, 1fr)); margin-bottom: .6rem; }
    .cell { padding: .15rem .3rem; line-height: 1.15; text-align: left; } .cell small { display: block; font-size: 10.5px; color: var(--ink); } .cell small.soft { color: var(--soft); }
    .cell:disabled { opacity: 1; border-style: dashed; } .cell[aria-pressed="true"], .cell[aria-pressed="true"] small { background: var(--ink); color: var(--card); }`),
    data.worlds.length ? legend(data.worlds) : "", chooser, data.grid.length ? h("p.soft", {}, "e: with an error code. Dashed: not caught in the act here.") : "",
    stepper(model, length, say, { on: ["which"] }), place, costs || "");
  model.on("change:which", pick);
  model.on("change:at", draw);
  pick();
}

export default { render };
