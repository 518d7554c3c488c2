// A world switch, instruction by instruction: the listing, and what each line does to registers, stacks, tables and pages.

const SIDES = { cr3: "CR3", gdtr: "GDTR", idtr: "IDTR", tss: "TR (its TSS)" };
const say = (n) => (n == null ? "·" : "0x" + (n >>> 0).toString(16));

// Everything as it is at a frame, added up from the start, and what is new in this very frame.
function replay(data, at) {
  const pages = Object.fromEntries(Object.entries(data.start).map(([place, { words }]) => [place, words.slice()]));
  const regs = {}, stack = {}, fresh = { regs: new Set(), words: new Set() };
  data.frames.slice(0, at + 1).forEach((frame, k) => {
    Object.assign(regs, frame.regs);
    for (const [place, offset, value] of frame.writes) {
      if (place === "Host's stack") stack[offset] = value;
      else if (pages[place]) pages[place][(offset - data.start[place].offset) >> 2] = value;
      if (k === at) fresh.words.add(`${place} ${offset}`);
    }
    if (k === at && k && "eip" in regs && data.frames[k - 1].regs.eip != null) Object.keys(frame.regs).forEach((name) => fresh.regs.add(name));
  });
  return { pages, regs, stack, fresh };
}

function render({ model, el }) {
  const data = model.get("data"), has = (part) => data.parts.includes(part), count = data.frames.length;
  const before = data.frames.findIndex((frame) => "eip" in frame.regs);              // so many frames are the Host's, in Python
  const text = h("p.what", { "aria-live": "polite" });

  // the listing
  const rows = data.code.map(([at, bytes, words, label, w], i) => [
    label && h("tr.label", {}, h("td", { colspan: 4, class: world(w) }, `${label}:`)),
    h("tr", { "data-line": i, class: `g${w}` }, h("td.now", {}), h("td.mono.soft.address", {}, hex(at).slice(2)), h("td.mono", {}, words), h("td.mono.bytes.soft", {}, bytes))]);
  const code = h("div.code", { tabindex: 0, role: "region", "aria-label": "the instructions" }, h("table", {}, h("tbody", {}, rows.flat().filter(Boolean))));
  function show_line(line) {
    for (const row of code.querySelectorAll("[data-line]")) {
      const here = +row.dataset.line === line;
      row.classList.toggle("here", here);
      row.firstChild.textContent = here ? "▶" : "";
      if (here) { row.setAttribute("aria-current", "step"); code.scrollTop = row.offsetTop - code.clientHeight / 2; } else row.removeAttribute("aria-current");
    }
  }

  const tables = h("div", {}), registers = h("div", {}), host_stack = h("div", {}), register_page = h("div", {}), state_page = h("div", {});
  const table = (name, head, body) => h("div.scroll", {}, h("table.words", { "aria-label": name }, head && h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
  const field = (name, is_new, esp) => h("td.field", { class: is_new ? "new" : "" }, name, is_new ? " ●" : "", esp ? h("b", {}, " ◀ ESP") : "");
  const place = (at) => h("td.mono.soft.place", {}, hex(at));

  function show_tables({ regs }) {
    const lit = (i, name) => regs[name] === data.sides[name][i];
    tables.replaceChildren(h("h4", {}, "Two worlds", h("span.soft", {}, regs.cs == null ? "" : ` · CPL ${regs.cs & 3}`)),
      table("what belongs to which world", [h("th", {}, ""), h("th.w0", {}, "Host"), h("th.w2", {}, "Guest")], Object.keys(SIDES).map((name) => h("tr", {}, h("th", {}, SIDES[name]),
        [0, 1].map((i) => h("td.mono", { class: lit(i, name) ? `lit g${2 * i}` : "" }, say(data.sides[name][i]), lit(i, name) ? [" ◀", h("span.long", {}, " now")] : ""))))));
  }

  function show_registers({ regs, fresh }) {
    registers.replaceChildren(h("h4", {}, "Registers"), h("div.regs", { role: "list" }, data.registers.map((name) =>
      h("div", { role: "listitem", class: fresh.regs.has(name) ? "new" : "" }, h("span.soft", {}, name + " "), h("span.mono", {}, say(regs[name])), fresh.regs.has(name) ? " ●" : ""))));
  }

  function show_host_stack({ regs, stack, fresh }) {
    host_stack.replaceChildren(h("h4.w0", {}, "The Host's stack"), table("the Host's stack", null, data.stack.map(([at, name]) => {
      const is_new = fresh.words.has(`Host's stack ${at}`);
      return h("tr", { class: is_new ? "new" : "" }, place(at), field(name, is_new, regs.esp === at), h("td.mono", {}, say(stack[at])));
    })));
  }

  // One address, two pages: the lit column is the one that the processor sees there.
  function show_register_page({ regs, pages, fresh }) {
    const guest = regs.cr3 != null && regs.cr3 === data.sides.cr3[1], seen = regs.cr3 == null ? -1 : guest ? 1 : 0, base = data.pages + data.start["register page"].offset;
    const head = ["scratch page", "register page"].map((name, i) => h("th", { class: `${world(i ? 2 : 0)} ${seen === i ? "lit" : ""}` }, `${i ? "Guest's" : "Host's"} ${name}`, seen === i ? " ◀ seen" : ""));
    register_page.replaceChildren(h("h4", {}, `At ${hex(data.pages)}: struct lguest_regs`), table("the register page", [h("th.place", {}, "address"), h("th", {}, "field"), ...head],
      data.regs.map((name, i) => {
        const at = data.start["register page"].offset + 4 * i, news = ["scratch page", "register page"].map((page) => fresh.words.has(`${page} ${at}`));
        return h("tr", {}, place(base + 4 * i), field(name, news[0] || news[1], regs.esp === base + 4 * i), ["scratch page", "register page"].map((page, k) =>
          h("td.mono", { class: news[k] ? "new" : seen === k ? `lit g${2 * k}` : "" }, say(pages[page][i]))));
      }).reverse()));
  }

  // The name of a word of the state page.
  function state_name(offset) {
    if (offset >= data.gdt) return `guest_gdt[${(offset - data.gdt) >> 3}].${"ab"[(offset >> 2) & 1 ^ (data.gdt >> 2) & 1]}`;
    if (offset >= data.idt) return `guest_idt[${(offset - data.idt) >> 3}].${"ab"[(offset >> 2) & 1 ^ (data.idt >> 2) & 1]}`;
    return data.fields.filter(([at, size]) => at < offset + 4 && at + size > offset).map(([, , name]) => name).join(", ") || `word ${say(offset)}`;
  }

  const pointed = h("output", { "aria-live": "polite" }, "Press a square to read it.");
  const map = h("div.map", { role: "img", onclick: (e) => {
    const i = e.target.dataset?.word;
    if (i != null) pointed.textContent = `${hex(data.pages + 0x1000 + 4 * i)}: ${state_name(4 * i)} = ${say(replay(data, model.get("at")).pages["state page"][i])}`;
  } }, data.start["state page"].words.map((_, i) => h("i", { "data-word": i, class: 4 * i >= data.gdt ? "gdt" : 4 * i >= data.idt ? "idt" : "rest" })));

  function show_state_page({ pages, fresh }) {
    const words = pages["state page"], is_new = (at, size) => [...Array(size)].some((_, i) => fresh.words.has(`state page ${(at + i) & ~3}`));
    const value = (at, size) => { let v = 0; for (let i = 0; i < size; i++) v += ((words[(at + i) >> 2] >>> (8 * ((at + i) & 3))) & 255) * 2 ** (8 * i); return v; };
    const filled = words.filter(Boolean).length, news = [...fresh.words].filter((name) => name.startsWith("state page")).length;
    [...map.children].forEach((square, i) => { square.classList.toggle("filled", words[i] !== 0); square.classList.toggle("fresh", fresh.words.has(`state page ${4 * i}`)); });
    map.setAttribute("aria-label", `the state page as a map: ${filled} of ${words.length} words are not zero, ${news} new`);
    state_page.replaceChildren(h("h4", {}, `At ${hex(data.pages + 0x1000)}: struct lguest_ro_state`), table("the state page", null, data.fields.map(([at, size, name]) => {
      const fresh_field = is_new(at, size);
      return h("tr", { class: fresh_field ? "new" : "" }, place(data.pages + 0x1000 + at), field(name, fresh_field, false), h("td.mono", {}, say(value(at, size))));
    })), h("p.soft", {}, "All of it, a square a word: the fields above, then ", h("b", {}, "256 gates"), ", then ", h("b", {}, "32 descriptors"), `. ${filled} words are filled, ${news} new.`), map, pointed);
  }

  function draw() {
    const at = Math.min(model.get("at"), count - 1), frame = data.frames[at], now = replay(data, at), line = data.code[frame.insn];
    text.replaceChildren(h("strong", { class: world(frame.world) }, WORLDS[frame.world] + ": "), ...rich(frame.text), ...(line ? [" Next: ", h("code", {}, line[2]), h("span.soft", {}, ` (${line[1]})`)] : []));
    if (has("listing")) show_line(frame.insn);
    if (has("tables")) show_tables(now);
    if (has("registers")) show_registers(now);
    if (has("host stack")) show_host_stack(now);
    if (has("register page")) show_register_page(now);
    if (has("state page")) show_state_page(now);
  }

  const moment = (n, of) => (n < before || before < 0 ? `step ${n + 1} of ${of}, before the processor starts` : `step ${n + 1} of ${of}, ${WORLDS[data.frames[n].world]}`);
  const left = has("listing") ? h("div.box", {}, h("h4", {}, "Instructions"), code) : "";
  const right = ["tables", "registers", "host stack"].some(has) ? h("div.box", {}, tables, registers, host_stack) : "";
  frame(model, el, h("style", {}, `
    .what { min-height: 3em; } .cols { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); margin-bottom: .8rem; } .box { container-type: inline-size; } .box h4:first-child { margin-top: .1rem; }
    .code { max-height: 30rem; overflow: auto; position: relative; } .code table { border-collapse: collapse; width: 100%; } .code td { border: 0; padding: 0 .35rem; white-space: nowrap; }
    .code .label td { font-weight: 650; padding-top: .35rem; } .code .now { width: 1.2em; padding: 0 .1rem; } .code .here td { background: var(--ink); color: var(--card); }
    .code .bytes { font-size: 11.5px; } .code .here td { color: var(--card); }
    .words td, .words th { padding: .05rem .35rem; } .words { width: 100%; } .lit { font-weight: 700; } .words td.mono { white-space: nowrap; } .words .field { white-space: nowrap; min-width: 7.6em; }
    .regs { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.2rem, 1fr)); gap: .1rem .5rem; }
    .map { display: grid; grid-template-columns: repeat(auto-fill, 9px); gap: 1px; margin: .3rem 0; cursor: pointer; }
    .map i { height: 9px; border: 1px solid var(--line); } .map .filled.rest { background: var(--w0); } .map .filled.idt { background: var(--w1); } .map .filled.gdt { background: var(--w2); }
    .map .fresh { outline: 2px solid var(--new); background: var(--new); }
    @container (max-width: 26rem) { .code td.address, .place, .long { display: none; } .code td.mono, .regs, .words td.mono { font-size: 11.5px; } .bytes.bytes { font-size: 10.5px; } .regs { grid-template-columns: repeat(auto-fill, minmax(7.6rem, 1fr)); } }
    @media (max-width: 480px) { .bytes { display: none; } }`),
    legend([...new Set(data.frames.map((f) => f.world))].sort()), stepper(model, count, moment), text,
    h("div.cols", {}, left, right), h("div.cols", {}, has("register page") ? h("div.box", {}, register_page) : "", has("state page") ? h("div.box", {}, state_page) : ""));
  model.on("change:at", draw);
  draw();
}

export default { render };
