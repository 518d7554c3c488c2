// Address spaces side by side on one scale, with a zoom. Regions are buttons: position and height are the address and the size.

const PAGE = 4096, ALL = 2 ** 32, SMALLEST = 4 * PAGE;
const size = (bytes) => (bytes >= 2 ** 30 ? `${+(bytes / 2 ** 30).toFixed(2)} GB` : bytes >= 2 ** 20 ? `${+(bytes / 2 ** 20).toFixed(2)} MB` : `${bytes / 1024} kB`);
const rights = (r) => (r & 2 ? "rw" : "r") + (r & 4 ? " u" : "");
const rightsInWords = (r) => `${r & 2 ? "can be read and written" : "can be read, not written"}, ${r & 4 ? "by ring 3, too" : "not by ring 3"}`;

function render({ model, el }) {
  const { worlds, marks, zooms } = model.get("data");
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const look = (low, bytes) => {                          // keep the window within the four gigabytes
    bytes = Math.max(SMALLEST, Math.min(ALL, bytes));
    set("window", [Math.max(0, Math.min(ALL - bytes, Math.round(low / PAGE) * PAGE)), bytes]);
  };
  const zoom = (factor) => {                              // around what is chosen, if it can be seen, or the middle
    const [low, bytes] = model.get("window"), r = chosen(), at = r && inside(r) ? (r[0] + r[1] / 2) * PAGE : low + bytes / 2;
    look(at - (at - low) * factor, bytes * factor);
  };
  const move = (part) => look(model.get("window")[0] + model.get("window")[1] * part, model.get("window")[1]);
  const chosen = () => { const [k, page] = model.get("chosen"); return k === undefined ? null : worlds[k].regions.find(([first]) => first === page); };
  const inside = ([first, n]) => { const [low, bytes] = model.get("window"); return first * PAGE < low + bytes && (first + n) * PAGE > low; };
  // the same frames elsewhere; a Guest's page number is not a frame of the machine, so such columns have no relatives
  const related = (k, r) => worlds.flatMap((world, j) => (world.frames !== "machine" || worlds[k].frames !== "machine" ? [] :
    world.regions.filter((q) => q !== r && q[2] < r[2] + r[1] && r[2] < q[2] + q[1]).map((q) => [j, q])));

  const strips = worlds.map((world) => h("div.strip", { role: "group", "aria-label": world.name }));
  const axis = h("div.strip.axis", { "aria-hidden": "true" }), details = h("div.box.details", { "aria-live": "polite" });
  const button = (label, what, act) => h("button", { type: "button", title: what, "aria-label": what, onclick: act }, label);
  const buttons = zooms.map(([name, low, bytes]) => h("button", { type: "button", onclick: () => look(low, bytes) }, name));
  const here = h("output", { "aria-live": "polite" });

  function place(node, low, bytes) {                      // where it stands in the window, in per cent from the bottom
    const [from, all] = model.get("window"), a = Math.max(low, from), b = Math.min(low + bytes, from + all);
    node.style.bottom = `${(100 * (a - from)) / all}%`;
    node.style.height = `max(3px, ${(100 * (b - a)) / all}%)`;
    return (b - a) / all;
  }

  function draw() {
    const [low, bytes] = model.get("window"), now = chosen(), k = model.get("chosen")[0], kin = now ? related(k, now) : [];
    here.textContent = `From ${hex(low)} to ${hex(low + bytes - 1)}: ${size(bytes)}.`;
    buttons.forEach((b, n) => b.setAttribute("aria-pressed", String(zooms[n][1] === low && zooms[n][2] === bytes)));
    axis.replaceChildren(...Array.from({ length: 9 }, (_, n) => h("span.tick.mono", { style: `bottom: ${12.5 * n}%` }, n < 8 ? hex(low + (bytes / 8) * n) : low + bytes === ALL ? "4 GB" : hex(low + bytes))));
    strips.forEach((strip, j) => {
      const nodes = worlds[j].regions.filter(inside).map((r) => {
        const [first, n, frame, may, who, what] = r, mine = j === k && r === now, same = kin.some(([i, q]) => i === j && q === r);
        const node = h("button.region", { type: "button", class: `w${who} g${who} ${may & 2 ? "" : "ro"} ${mine ? "mine" : same ? "same" : ""}`, "data-page": first,
          "aria-pressed": String(mine), "aria-label": `${worlds[j].name}, ${hex(first * PAGE)}, ${size(n * PAGE)}: ${what}, ${rights(may)}${same ? ", the same memory" : ""}`,
          title: `${hex(first * PAGE)}: ${what}`, onclick: () => set("chosen", [j, first]) });
        if (place(node, first * PAGE, n * PAGE) > 0.045) node.append(same ? "⇄ " : "", `${"0x" + frame.toString(16)} ${rights(may)}`);
        return node;
      });
      const lines = marks.filter(([at]) => at >= low && at < low + bytes).map(([at, name]) => { const line = h("span.mark", { class: at - low > 0.95 * bytes ? "high" : "" }, j === 0 ? name : ""); place(line, at, 0); return line; });
      const focus = el.shadowRoot?.activeElement?.dataset?.page, had = focus !== undefined && strip.contains(el.shadowRoot.activeElement);
      strip.replaceChildren(...lines, ...nodes);
      if (had) strip.querySelector(`[data-page="${focus}"]`)?.focus();
    });
    details.replaceChildren(...(now ? about(k, now, kin) : [h("p.soft", {}, "Press a region to see what it is, and where else the same memory is mapped.")]));
  }

  function about(k, r, kin) {
    const [first, n, frame, may, who, what] = r, unit = worlds[k].frames === "machine" ? "frame" : "Guest page";
    return [h("h4", { class: world(who) }, `${worlds[k].name}: ${what}`),
      h("p.mono", {}, `${hex(first * PAGE)} – ${hex((first + n) * PAGE - 1)}, ${size(n * PAGE)}`), h("p", {}, `${unit} 0x${frame.toString(16)}${n > 1 ? ` and the ${n - 1} behind it` : ""}; ${rightsInWords(may)}.`),
      kin.length ? h("p", {}, "⇄ The same memory: ", kin.map(([j, q], i) => [i ? "; " : "", h("button.link", { type: "button", onclick: () => set("chosen", [j, q[0]]) },
        `${worlds[j].name}, ${hex((q[0] + Math.max(0, r[2] - q[2])) * PAGE)}`), ` (${rights(q[3])})`]), ".") : h("p.soft", {}, worlds[k].frames === "machine" ? "Nowhere else on this map." : "A page number of the Guest's, which means nothing to the CPU."),
      button("zoom to it", "zoom to this region", () => look((first - n / 2) * PAGE, 2 * n * PAGE))];
  }

  const root = frame(model, el, h("style", {}, `
    .bar { flex-wrap: wrap; margin: .3rem 0; } .map { display: grid; grid-template-columns: 5.4rem repeat(${worlds.length}, minmax(0, 1fr)); gap: .2rem .5rem; margin: .5rem 0; }
    .strip { position: relative; height: 27rem; border: 1px solid var(--line); border-radius: 4px; overflow: hidden; background: var(--box); } .axis { border-color: transparent; background: none; overflow: visible; }
    .tick { position: absolute; right: 0; transform: translateY(50%); font-size: 11px; } .head { font-weight: 650; font-size: 12.5px; align-self: end; }
    .region { position: absolute; left: 0; right: 0; min-height: 0; padding: 0 .3rem; border: solid currentColor; border-width: 1px 0 1px 5px; border-radius: 0; font: 11.5px ui-monospace, "DejaVu Sans Mono", monospace; text-align: left; overflow: hidden; white-space: nowrap; }
    .region.w0 { color: var(--w0); background: var(--g0); } .region.w1 { color: var(--w1); background: var(--g1); } .region.w2 { color: var(--w2); background: var(--g2); } .region.w3 { color: var(--w3); background: var(--g3); }
    .region.ro { background-image: repeating-linear-gradient(45deg, transparent 0 5px, color-mix(in srgb, currentColor 18%, transparent) 5px 7px); }
    .region.mine { outline: 3px solid var(--ink); outline-offset: -3px; z-index: 2; } .region.same { outline: 3px dashed var(--ink); outline-offset: -3px; z-index: 1; } .region:focus-visible { z-index: 3; }
    .mark { position: absolute; left: 0; right: 0; border-bottom: 1px dashed var(--soft); font-size: 11px; color: var(--soft); pointer-events: none; z-index: 1; display: flex; align-items: flex-end; justify-content: flex-end; } .mark.high { align-items: flex-start; border-bottom: 0; border-top: 1px dashed var(--soft); }
    .link { border: 0; padding: 0; min-height: 0; background: none; text-decoration: underline; } .details { min-height: 8.5rem; } .key { display: inline-block; width: 1.6em; height: .8em; border: 1px solid var(--soft); position: static; }`),
    h("div.row.bar", {}, buttons), h("div.row.bar", {}, button("−", "zoom out", () => zoom(4)), button("+", "zoom in", () => zoom(1 / 4)), button("▲", "up", () => move(0.25)), button("▼", "down", () => move(-0.25)), here),
    h("div.map", {}, h("span", {}), worlds.map((w) => h("span.head", {}, w.name)), axis, strips), details,
    h("p.soft", {}, "rw: read and write. Hatched, r: read only. u: ring 3, too. Numbers are ", worlds.some((w) => w.frames !== "machine") ? "frames of the machine, in the Guest's own tables pages of the Guest. " : "frames of the machine. ", "What would be thinner than 3 pixels is drawn that thick."),
    legend([...new Set(worlds.flatMap((w) => w.regions.map((r) => r[4])))].sort()));
  const keys = { "+": () => zoom(1 / 4), "-": () => zoom(4), ArrowUp: () => move(0.25), ArrowDown: () => move(-0.25) };
  root.addEventListener("keydown", (e) => { if (keys[e.key] && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); keys[e.key](); } });
  for (const name of ["window", "chosen"]) model.on(`change:${name}`, draw);
  draw();
}

export default { render };
