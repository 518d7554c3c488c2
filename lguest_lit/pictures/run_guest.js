// The loop of run_guest, turn by turn: the way that a turn took is lit, and every box counts how often somebody came by.

const RUN_X = 22, RUN_W = 182, SIDE_X = 226, SIDE_W = 120, RAIL = 356, PITCH = 35, TALL = 26;
// name, words, row, column (0 main, 1 aside), world
const STEPS = [
  ["hypercalls", "do_hypercalls", 0, 0, 0],
  ["dma", "a DMA pending?", 1, 0, 0], ["launcher", "out: DMA", 1, 1],
  ["signal", "a signal?", 2, 0, 0], ["eintr", "out: EINTR", 2, 1],
  ["break", "a break?", 3, 0, 0], ["eagain", "out: EAGAIN", 3, 1],
  ["interrupts", "maybe_do_interrupt", 4, 0, 0], ["inject", "one goes in", 4, 1, 0],
  ["halted", "halted?", 5, 0, 0], ["sleep", "sleep", 5, 1, 0],
  ["run", "run_guest_once", 6, 0, 1],
  ["wish", "31: a hypercall", 8.9, 0, 2],
  ["fault", "14: page fault", 9.9, 0, 2], ["mended", "demand_page", 9.9, 1, 0],
  ["protection", "13: protection fault", 10.9, 0, 2], ["emulated", "emulate_insn", 10.9, 1, 0],
  ["fpu", "7: FPU", 11.9, 0, 2], ["absorbed", "absorbed", 11.9, 1, 0],
  ["irq", "32–255: for the Host", 12.9, 0, 0], ["handled", "served", 12.9, 1, 0],
  ["trap", "another trap", 13.9, 0, 2],
  ["deliver", "deliver_trap", 15.1, 0, 0], ["handler", "its handler", 15.1, 1, 2],
  ["kill", "kill_guest", 16.1, 0, 0], ["enoent", "out: ENOENT", 16.1, 1],
];
const AT = Object.fromEntries(STEPS.map(([name, , row, column]) => {
  const x = column ? SIDE_X : RUN_X, w = column ? SIDE_W : RUN_W, y = 30 + row * PITCH, tall = name === "run" ? 78 : TALL;
  return [name, { x, w, y, tall, mid: y + TALL / 2, right: x + w }];
}));
const DOWN = ["hypercalls", "dma", "signal", "break", "interrupts", "halted", "run"];
const ASIDE = [["dma", "launcher"], ["signal", "eintr"], ["break", "eagain"], ["interrupts", "inject"], ["halted", "sleep"], ["fault", "mended"],
  ["protection", "emulated"], ["fpu", "absorbed"], ["irq", "handled"], ["deliver", "handler"], ["kill", "enoent"]];
const BACK = ["wish", "fault", "protection", "fpu", "irq", "trap"];           // why it is back
const ROUND = ["sleep", "wish", "mended", "emulated", "absorbed", "handled", "handler"];   // from here to the top again
const PASSED_ON = ["fault", "protection", "fpu", "trap"];                     // to the Guest's own kernel
const DEADLY = ["hypercalls", "interrupts", "fault", "protection"];           // where a Guest can also be killed

function edges() {                                                          // "from>to": the line between them
  const lines = {}, half = RUN_X + RUN_W / 2, gap = RUN_X + RUN_W + 11;
  DOWN.slice(1).forEach((to, i) => { lines[`${DOWN[i]}>${to}`] = `M${half} ${AT[DOWN[i]].y + TALL}V${AT[to].y}`; });
  ASIDE.forEach(([from, to]) => { lines[`${from}>${to}`] = `M${AT[from].right} ${AT[from].mid}H${AT[to].x}`; });
  BACK.forEach((to) => { lines[`run>${to}`] = `M${RUN_X - 6} ${AT.run.y + AT.run.tall}V${AT[to].mid}H${RUN_X}`; });
  ROUND.forEach((from) => { lines[`${from}>top`] = `M${AT[from].right} ${AT[from].mid}H${RAIL}V${AT.hypercalls.mid}H${AT.hypercalls.right}`; });
  PASSED_ON.forEach((from) => { lines[`${from}>deliver`] = `M${AT[from].right} ${AT[from].mid}H${gap}V${AT.deliver.mid - 6}H${AT.deliver.right}`; });
  lines["deliver>kill"] = `M${half} ${AT.deliver.y + TALL}V${AT.kill.y}`;
  DEADLY.forEach((from) => { lines[`${from}>kill`] = `M${RUN_X} ${AT[from].mid}H6V${AT.kill.mid}H${RUN_X}`; });
  return lines;
}

// Which lines a way uses: each step to the next. An interrupt that goes in is a step aside, from which one comes back.
function used(path) {
  const main = path.filter((name) => name !== "inject"), lines = new Set(main.slice(1).map((to, i) => `${main[i]}>${to}`));
  if (path.includes("inject")) lines.add("interrupts>inject");
  const end = path[path.length - 1];
  if (ROUND.includes(end)) lines.add(`${end}>top`);
  return lines;
}

function render({ model, el }) {
  const { turns, paths, console: text } = model.get("data");
  const way = (n) => paths[turns[n][0]];
  const sums = [Object.fromEntries(STEPS.map(([name]) => [name, 0]))];        // sums[n]: after n turns
  turns.forEach((_, n) => { const next = { ...sums[n] }; way(n).forEach((name) => next[name]++); sums.push(next); });
  const total = sums[turns.length];

  function next(name) {                                                     // the next turn that comes by here, or the first
    const at = model.get("at"), later = turns.findIndex((_, n) => n > at && way(n).includes(name));
    const to = later < 0 ? turns.findIndex((_, n) => way(n).includes(name)) : later;
    if (to >= 0) { model.set("at", to); model.save_changes(); }
  }

  const lines = Object.entries(edges()).map(([name, d]) => s("path.line", { d, "data-line": name }));
  const boxes = STEPS.map(([name, words, , , who]) => {
    const { x, y, w, tall } = AT[name], band = (n, k) => s(`rect.band.g${k}`, { x: x + 8, y: y + 24 + n * 17, width: w - 16, height: 15, rx: 3 });
    const bands = name !== "run" ? [] : [1, 2, 1].flatMap((k, n) => [band(n, k), s(`text.small.w${k}`, { x: x + 14, y: y + 35.5 + n * 17 }, k === 1 ? "Switcher" : "Guest")]);
    return s("g.step", { "data-step": name, role: "button", tabindex: 0, "aria-disabled": total[name] ? null : "true", onclick: () => next(name),
      onkeydown: (e) => { if (e.key === "Enter") { e.preventDefault(); next(name); } } },
      s("title", {}, `${words}: go to the next turn that comes by here`),
      s(who === undefined ? "rect.leave" : `rect.w${who}`, { x, y, width: w, height: tall, rx: who === undefined ? 13 : 5 }), bands,
      s("text", { x: x + 8, y: y + 17 }, words), s("text.count", { x: x + w - 7, y: y + 17, "text-anchor": "end" }));
  });
  const tall = AT.kill.y + TALL + 8;
  const svg = s("svg", { viewBox: `0 0 364 ${tall}`, role: "group", "aria-label": "the steps of run_guest" },
    s("defs", {}, s("marker", { id: "tip", markerUnits: "userSpaceOnUse", markerWidth: 8, markerHeight: 8, refX: 7, refY: 4, orient: "auto" }, s("path", { d: "M0 0L8 4L0 8z", fill: "currentColor" }))),
    s("text.small", { x: RUN_X, y: 20 }, "read() of /dev/lguest: round and round, until it returns"),
    s("text.small", { x: RUN_X + 4, y: AT.wish.y - 7 }, "Why is it back?"), lines, boxes);
  const words = h("ul.says", {}), heading = h("h4", {});
  const panel = console_panel();

  function draw() {
    const at = model.get("at"), path = way(at), lit = used(path);
    for (const line of lines) line.classList.toggle("on", lit.has(line.dataset.line));
    for (const box of boxes) {
      const name = box.dataset.step, n = sums[at + 1][name], here = path.includes(name);
      box.classList.toggle("on", here);
      box.querySelector(".count").textContent = n || "";
      box.setAttribute("aria-label", `${STEPS.find(([k]) => k === name)[1]}: ${n} so far${here ? ", and in this turn" : ""}`);
    }
    heading.textContent = `Turn ${at + 1}`;
    words.replaceChildren(...turns[at][1].map((line) => h("li", {}, line)));
    panel.show(text.slice(0, turns[at][2]));
  }

  frame(model, el, h("style", {}, `
    svg { width: 100%; max-width: 30rem; margin: 0 auto; }
    .line { fill: none; stroke: var(--line); stroke-width: 1.2; } .line.on { stroke: var(--ink); stroke-width: 3; marker-end: url(#tip); }
    .step rect { fill: var(--box); stroke: var(--line); stroke-width: 1.2; } .step rect.band { stroke: none; } .step rect.band.g1 { fill: var(--g1); } .step rect.band.g2 { fill: var(--g2); }
    .step { cursor: pointer; } .step[aria-disabled] { cursor: default; opacity: .6; }
    .step.on > rect:first-of-type { stroke: currentColor; stroke-width: 3; } .step.on text { font-weight: 700; }
    .step.on > rect.w0 { fill: var(--g0); stroke: var(--w0); } .step.on > rect.w1 { fill: var(--g1); stroke: var(--w1); } .step.on > rect.w2 { fill: var(--g2); stroke: var(--w2); }
    .step .count { font-size: 11px; } .small { font-size: 11px; } svg text { fill: var(--ink); } svg text.w1 { fill: var(--w1); } svg text.w2 { fill: var(--w2); }
    .step:focus-visible { outline: none; } .step:focus-visible rect:first-of-type { stroke: var(--w2); stroke-dasharray: 4 2; stroke-width: 3; }
    .says { margin: .2rem 0; padding-left: 1.2rem; min-height: 9em; } .side { display: grid; gap: .8rem; min-width: 0; }`),
    stepper(model, turns.length, (n) => `Turn ${n + 1} of ${turns.length}: ${turns[n][1][turns[n][1].length - 1]}`, { ms: 500 }),
    h("div.cols", {}, svg, h("div.side", {}, h("div.box", {}, heading, words), panel, h("p.soft", {}, "Numbers: how often so far. Press a box for the next turn that comes by there."), legend([0, 1, 2]))));
  model.on("change:at", draw);
  draw();
}

export default { render };
