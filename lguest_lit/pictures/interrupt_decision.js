// May this interrupt go in now? The questions of maybe_do_interrupt, in their order, over circumstances that the reader can change.

const SHOWN = 8;                                           // as many of the 32 interrupts can be turned here
const lowest = (mask) => Math.log2(mask & -mask);
const list = (mask) => { const all = []; for (let n = 0; n < 32; n++) if ((mask >>> n) & 1) all.push(n); return all.join(", ") || "none"; };

// What the Host decides: the number of the question that stops it (or null), the interrupt that goes in (or null), and what is left behind.
function decide({ known, pending, blocked, enabled, window, halted, handlers, if_flag }) {
  const stay = (stop) => ({ stop, irq: null, pending, enabled, halted });
  if (!pending) return stay(0);
  if (!known) return stay(1);
  const ready = (pending & ~blocked) >>> 0;
  if (!ready) return stay(2);
  if (window) return stay(3);
  if (halted) { enabled = 0x200; halted = false; }         // woken, whatever the flag says
  else if (!(if_flag ? enabled & 0x200 : enabled)) return stay(4);
  const irq = lowest(ready | 0);
  if (!((handlers >>> irq) & 1)) return stay(5);
  return { stop: null, irq, pending: (pending & ~(1 << irq)) >>> 0, enabled: 0, halted };   // 0: an interrupt gate switches the flag off
}

const QUESTIONS = [
  ["Is anything pending?", (c) => list(c.pending), "There is no mail."],
  ["Has the Guest introduced itself?", (c) => (c.known ? "yes, lguest_data is known" : "no"), "There is nowhere to look for its wishes."],
  ["Is one left that is not blocked?", (c) => list((c.pending & ~c.blocked) >>> 0), "The Guest has masked all that is pending."],
  ["Is EIP outside the window?", (c) => (c.window ? "no, inside" : "yes"), "The Guest asked not to be interrupted here."],
  ["Is it halted, or is its flag on?", (c) => (c.halted ? "halted: it will be woken" : `not halted; irq_enabled is ${hex(c.enabled, 1)}`), "The Guest has its interrupts off."],
  ["Has the lowest of them a handler?", (c) => { const ready = (c.pending & ~c.blocked) >>> 0, n = ready ? lowest(ready | 0) : null;
    return n === null ? "" : `number ${n}: ${(c.handlers >>> n) & 1 ? "yes" : "no"}`; }, "Nobody would answer; it stays pending, and so does all behind it."],
];

function render({ model, el }) {
  const { situations } = model.get("data"), names = Object.keys(situations);
  const now = () => model.get("circumstances");
  const set = (change) => { model.set("circumstances", { ...now(), ...change }); model.save_changes(); };
  const bits = (key, words) => h("tr", {}, h("th", { scope: "row" }, words), Array.from({ length: SHOWN }, (_, n) =>
    h("td", {}, h("button", { type: "button", "data-bit": `${key}-${n}`, onclick: () => set({ [key]: (now()[key] ^ (1 << n)) >>> 0 }) }))));
  const flag = (key, words) => h("label", {}, h("input", { type: "checkbox", "data-flag": key, onchange: (e) => set({ [key]: e.target.checked }) }), " ", words);
  const table = h("table.irqs", {}, h("thead", {}, h("tr", {}, h("th", {}, "interrupt"), Array.from({ length: SHOWN }, (_, n) => h("th", { scope: "col" }, String(n))))),
    h("tbody", {}, bits("pending", "pending"), bits("blocked", "blocked"), bits("handlers", "handler")));
  const enabled = h("select", { "aria-label": "irq_enabled", onchange: () => set({ enabled: +enabled.value }) },
    [[0, "0: off"], [2, "0x2: a frame's flags, off"], [0x200, "0x200: on"]].map(([v, t]) => h("option", { value: v }, t)));
  const which = h("select", { "aria-label": "a real Guest's circumstances", onchange: () => set(situations[which.value]) },
    h("option", { value: "", hidden: true }, "turned by hand"), names.map((name) => h("option", { value: name }, name)));
  const rows = QUESTIONS.map(([question]) => h("li", {}, h("b", {}, question), " ", h("span.value", {}), h("div.verdict", {})));
  const outcome = h("output.outcome", { "aria-live": "polite" });

  function draw() {
    const c = now(), d = decide(c);
    which.value = names.find((name) => Object.entries(situations[name]).every(([key, value]) => c[key] === value)) || "";
    table.querySelectorAll("button").forEach((b) => {
      const [key, n] = b.dataset.bit.split("-"), on = (c[key] >>> +n) & 1;
      b.textContent = on ? "●" : "·";
      b.setAttribute("aria-pressed", String(on === 1));
      b.setAttribute("aria-label", `interrupt ${n}: ${key === "handlers" ? "has a handler" : key}${on ? "" : ": no"}`);
    });
    enabled.value = [0, 2, 0x200].includes(c.enabled) ? c.enabled : "";
    el.shadowRoot?.querySelectorAll("[data-flag]").forEach((box) => { box.checked = !!c[box.dataset.flag]; });
    rows.forEach((row, i) => {
      const asked = d.stop === null || i <= d.stop;
      row.className = i === d.stop ? "stops" : asked ? "passes" : "unasked";
      row.querySelector(".value").textContent = asked ? QUESTIONS[i][1](c) : "";
      row.querySelector(".verdict").textContent = i === d.stop ? `✗ stops here. ${QUESTIONS[i][2]}` : asked ? "✓ go on" : "not asked";
    });
    const woken = c.halted && !d.halted ? " It is awake now." : c.halted ? " It sleeps on." : "";
    outcome.textContent = d.irq === null ? `Nothing goes in; pending: ${list(d.pending)}.${woken}`
      : `Interrupt ${d.irq} goes in, to vector ${32 + d.irq}; still pending: ${list(d.pending)}. irq_enabled is 0 now: it came through an interrupt gate.${woken}`;
    outcome.className = `outcome ${d.irq === null ? "" : "in"}`;
  }

  frame(model, el, h("style", {}, `
    .irqs { width: 100%; table-layout: fixed; } .irqs td, .irqs th { padding: 1px; text-align: center; vertical-align: middle; border: 0; } .irqs th:first-child { width: 4.1rem; text-align: left; font-size: 12px; }
    .irqs button { padding: 0; width: 100%; min-width: 0; min-height: 1.9rem; } .flags { display: grid; gap: .35rem; margin: .5rem 0; } input[type="checkbox"] { width: 1.1rem; height: 1.1rem; vertical-align: -2px; }
    ol { margin: 0; padding-left: 1.5rem; } li { padding: .25rem .4rem; border-left: 5px solid transparent; } .value { color: var(--soft); } .verdict { font-size: 12.5px; }
    .passes { border-color: var(--w3); } .stops { border-color: var(--new); background: var(--new-ground); } .stops .verdict { color: var(--new); font-weight: 650; } .unasked { color: var(--soft); } .unasked b { font-weight: 400; }
    .outcome { display: block; margin-top: .5rem; padding: .5rem .7rem; border: 2px solid var(--line); border-radius: 8px; font-weight: 600; min-height: 4.5em; } .outcome.in { border-color: var(--w2); background: var(--g2); }
    select { max-width: 100%; }`),
    h("div.cols", {},
      h("div.box", {}, h("h4", {}, "What the Host finds"), names.length > 1 && h("p", {}, which), table, h("div.flags", {}, h("label", {}, "irq_enabled ", enabled),
        flag("halted", "halted"), flag("window", "EIP is in the window"), flag("known", "the Guest has said LGUEST_INIT"), flag("if_flag", "look at bit 9 only (2007: at the whole word)"))),
      h("div", {}, h("ol", {}, rows), outcome)));
  model.on("change:circumstances", draw);
  draw();
}

export default { render, decide };
