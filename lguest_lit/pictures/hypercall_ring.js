// The ring of hypercalls: the Guest fills its places in order, the Host empties them in order, from where it stopped.

const SIZE = 64, MID = 180, OUT = 152, IN = 118;
const point = (n, r) => [MID + r * Math.sin((2 * Math.PI * n) / SIZE), MID - r * Math.cos((2 * Math.PI * n) / SIZE)].map((v) => v.toFixed(1)).join(" ");
const sector = (n) => `M${point(n + 0.06, OUT)}A${OUT} ${OUT} 0 0 1 ${point(n + 0.94, OUT)}L${point(n + 0.94, IN)}A${IN} ${IN} 0 0 0 ${point(n + 0.06, IN)}z`;
const BY = (who) => WORLDS[who] || "Launcher";

function render({ model, el }) {
  const moments = model.get("data").moments.map(([who, what, waiting, slot, cursor, trap, direct, dma]) =>
    ({ who, what, waiting: BigInt("0x" + waiting), slot, cursor, trap, direct, dma }));
  const waits = (m, n) => ((m.waiting >> BigInt(n)) & 1n) === 1n;

  function next(n) {                                       // the next moment that is about this place, or the first
    const at = model.get("at"), later = moments.findIndex((m, i) => i > at && m.slot === n);
    const to = later < 0 ? moments.findIndex((m) => m.slot === n) : later;
    if (to >= 0) { model.set("at", to); model.save_changes(); }
  }

  const places = Array.from({ length: SIZE }, (_, n) => s("path.place", { d: sector(n), "data-slot": n, onclick: () => next(n) }, s("title", {})));
  const dots = places.map((_, n) => s("circle", { r: 3.5, cx: point(n + 0.5, (IN + OUT) / 2).split(" ")[0], cy: point(n + 0.5, (IN + OUT) / 2).split(" ")[1] }));
  const numbers = [0, 8, 16, 24, 32, 40, 48, 56].map((n) => { const [x, y] = point(n + 0.5, OUT + 14).split(" "); return s("text.small", { x, y: +y + 4, "text-anchor": "middle" }, String(n)); });
  const cursor = s("path.cursor.w0", { d: `M${MID} ${MID - IN + 4}l-7 13h14z` });
  const inside = ["many", "trap", "direct", "dma"].map((name, i) => s("text", { x: MID, y: MID - 42 + i * 26, "text-anchor": "middle", "data-says": name }));
  const svg = s("svg", { viewBox: `0 0 ${2 * MID} ${2 * MID}`, role: "img", "aria-label": "the ring" }, places, dots, numbers, cursor, inside,
    s("text.small.w0", { x: MID, y: MID + 66, "text-anchor": "middle" }, "▲ where the Host goes on"));
  const [many, trap, direct, dma] = inside;
  const log = h("ol.log", {});
  const pick = h("select", { "aria-label": "go to the next moment of a place", onchange: () => { if (pick.value) next(+pick.value); pick.value = ""; } },
    h("option", { value: "" }, "next moment of place …"), [...new Set(moments.map((m) => m.slot).filter((n) => n != null))].sort((a, b) => a - b).map((n) => h("option", { value: n }, String(n))));

  function draw() {
    const at = model.get("at"), m = moments[at], before = moments[Math.max(0, at - 1)];
    places.forEach((place, n) => {
      const now = waits(m, n), was = waits(before, n);
      place.setAttribute("class", `place${now ? " waits" : ""}${m.slot === n ? " here" : ""}${now !== was ? " changed" : ""}`);
      place.firstChild.textContent = `place ${n}: ${now ? "waits" : "free"}${n === m.cursor ? "; here the Host goes on" : ""}`;
      dots[n].style.display = now ? "" : "none";
    });
    cursor.setAttribute("transform", `rotate(${((m.cursor + 0.5) * 360) / SIZE} ${MID} ${MID})`);
    const count = places.filter((_, n) => waits(m, n)).length;
    many.textContent = `${count} waiting`;
    trap.textContent = `trap number ${m.trap}`;
    trap.setAttribute("class", m.trap !== before.trap ? "changed" : "");
    direct.textContent = m.direct ? `direct: ${m.direct}` : "no direct call";
    dma.textContent = m.dma ? "a message is pending" : "no message";
    [direct, dma].forEach((t) => t.setAttribute("class", /^no /.test(t.textContent) ? "small faint" : "small"));
    svg.setAttribute("aria-label", `the ring: ${count} places wait; the Host goes on at ${m.cursor}; trap number ${m.trap}; ${direct.textContent}; ${dma.textContent}`);
    log.start = Math.max(0, at - 5) + 1;
    log.replaceChildren(...moments.slice(Math.max(0, at - 5), at + 1).map((x, i, all) =>
      h("li", { class: i === all.length - 1 ? "now" : "" }, h("b", { class: world(x.who) }, `${BY(x.who)}: `), x.what)));
  }

  frame(model, el, h("style", {}, `
    svg { width: 100%; max-width: 27rem; margin: 0 auto; } svg text { fill: var(--ink); } .small { font-size: 11px; } .faint { fill: var(--soft); } svg text.w0 { fill: var(--w0); }
    .place { fill: var(--box); stroke: var(--line); stroke-width: 1; cursor: pointer; } .place.waits { fill: var(--g2); stroke: var(--w2); }
    .place.changed { stroke: var(--new); stroke-width: 2.5; } .place.here { stroke-width: 3.5; }
    circle { fill: var(--w2); pointer-events: none; } .cursor { fill: currentColor; } text.changed { fill: var(--new); font-weight: 700; }
    .log { margin: .2rem 0; padding-left: 2.2rem; min-height: 15em; color: var(--soft); } .log .now { color: var(--ink); font-weight: 650; } .row { flex-wrap: wrap; }`),
    stepper(model, moments.length, (n) => `${n + 1} of ${moments.length}. ${moments[n].what}.`, { ms: 250 }),
    h("div.cols", {}, svg, h("div.box", {}, h("h4", {}, "What has happened"), log, h("p.row", {}, pick),
      h("p.soft", {}, "● waits; a thick red edge: changed since the moment before."), legend([0, 2]))));
  model.on("change:at", draw);
  draw();
}

export default { render };
