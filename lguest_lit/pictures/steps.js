// Tables that change a step at a time. A row is known by its first cell, so that what is new, changed or gone can be marked.

function render({ model, el }) {
  const { scenes } = model.get("data");
  const steps = () => scenes[model.get("scene")].steps, set = (name, value) => { model.set(name, value); model.save_changes(); };
  const body = h("div.tables", {});
  const choice = scenes.map(({ name }, n) => h("button", { type: "button", onclick: () => { set("at", 0); set("scene", n); } }, name));

  function rows(now, before) {                            // before is null in the first step: nothing is new then
    const old = new Map((before?.rows || []).map((row) => [row[0], row])), kept = new Set(now.rows.map(([name]) => name));
    const there = now.rows.map((row) => {
      const was = old.get(row[0]);
      return h("tr", {}, row.map((cell, i) => h("td", { class: `${i ? "mono" : ""} ${before && cell !== was?.[i] ? "new" : ""}`, title: was && cell !== was[i] ? `it was ${was[i]}` : "" },
        before && !was && i === 0 ? "+ " : "", rich(cell))));
    });
    const gone = (before?.rows || []).filter(([name]) => !kept.has(name)).map((row) => h("tr.soft", {}, row.map((cell, i) => h("td", { class: i ? "mono" : "" }, i ? "" : "− ", h("s", {}, rich(cell))))));
    return [...there, ...gone];
  }

  function draw() {
    const at = Math.min(model.get("at"), steps().length - 1), now = steps()[at], before = at > 0 ? steps()[at - 1] : null;
    choice.forEach((b, n) => b.setAttribute("aria-pressed", String(n === model.get("scene"))));
    body.replaceChildren(...now.tables.map((table) => h("div.box", {}, h("h4", {}, table.title), h("div.scroll", {}, h("table", {},
      h("thead", {}, h("tr", {}, table.head.map((text) => h("th", {}, text)))), h("tbody", {}, rows(table, before && (before.tables.find((t) => t.title === table.title) || { rows: [] }))))))));
  }

  frame(model, el, h("style", {}, ".choice { flex-wrap: wrap; } .tables { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); align-items: start; } .stepper output { color: var(--ink); min-height: 2.8em; }"),
    scenes.length > 1 ? h("div.row.choice", {}, choice) : "",
    stepper(model, () => steps().length, (n, of) => `${n + 1} of ${of}: ${steps()[Math.min(n, of - 1)].says}`, { on: ["scene"], ms: 1200 }), body,
    h("p.soft", {}, "Red and bold: changed in this step. +: new. −: gone."));
  for (const name of ["at", "scene"]) model.on(`change:${name}`, draw);
  draw();
}

export default { render };
