// The whole life of a Guest under one slider: a strip of all its events, and below it, on one screen, code, registers, stack, memory, page tables,
// descriptors and console as they are at the chosen one. Whatever was changed can be asked who did it.
// A moment is an event of a recording. Inside a stay that was filmed, or with a kernel behind the page, a moment is an instruction (`insn`).

const [REGISTER, MEMORY, SPGD, SPTE, GDT, IDT, CR3, SLOT, FRAME] = [0, 1, 2, 3, 4, 5, 6, 7, 8];

// Rows of the strip: events that belong together, and what they are called.
const ROWS = [["traps", ["trap", "reflect", "emulate"]], ["page faults", ["demand_page"]], ["hypercalls", ["hypercall", "ring hypercall"]],
  ["interrupts", ["interrupt"]], ["direct traps", ["direct trap"]], ["page tables", ["set_pte", "set_pmd", "new_pgdir", "new_pagetable", "flush"]],
  ["descriptors", ["gdt", "idt", "stack"]], ["DMA", ["bind_dma", "send_dma", "console", "typed"]]];
const MORE = [["world switches", ["leave"]], ["ring hypercalls", ["ring hypercall"]], ["console", ["console"]], ["end of life", ["kill"]]];
const LANES = [3, 2, 1, 0];                              // from the Guest's users down to the Host

// Columns come as base64 over deflate, byte plane by byte plane, and perhaps as differences: so they pack well.
async function column({ size, delta, packed }) {
  const raw = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer()), n = bytes.length / size;
  const out = new { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[size](n);
  for (let p = 0; p < size; p++) for (let i = 0, at = p * n; i < n; i++) out[i] |= bytes[at + i] << (8 * p);
  if (delta) for (let i = 1; i < n; i++) out[i] += out[i - 1];
  return out;
}

async function columns(packed) {
  const names = Object.keys(packed), all = await Promise.all(names.map((name) => column(packed[name])));
  return Object.fromEntries(names.map((name, i) => [name, all[i]]));
}

// The last place in a sorted list whose value is at most `x`; -1 if there is none.
function upto(list, x, value = (v) => v) {
  let low = 0, high = list.length;
  while (low < high) { const mid = (low + high) >> 1; if (value(list[mid]) <= x) low = mid + 1; else high = mid; }
  return low - 1;
}

// A recording that can be asked: how did this stand after that event, who changed it last, when is the next of a kind?
async function open_recording(data) {
  const [ev, ch] = await Promise.all([columns(data.events), columns(data.changes)]), n = ev.kind.length, m = ch.what.length;
  const owner = new Int32Array(m);                       // of each change: its event
  for (let e = 0; e < n; e++) owner.fill(e, ev.first[e], e + 1 < n ? ev.first[e + 1] : m);
  // Changes of one thing stand side by side: `start` says where those of thing `id` begin in `order`.
  const ids = new Map(), id = new Int32Array(m);
  for (let i = 0; i < m; i++) {
    const key = ch.what[i] * 4294967296 + ch.where[i];
    let k = ids.get(key);
    if (k === undefined) ids.set(key, (k = ids.size));
    id[i] = k;
  }
  const start = new Int32Array(ids.size + 1), order = new Int32Array(m);
  for (let i = 0; i < m; i++) start[id[i] + 1]++;
  for (let k = 0; k < ids.size; k++) start[k + 1] += start[k];
  const next = start.slice();
  for (let i = 0; i < m; i++) order[next[id[i]]++] = i;
  const thing = (what, where) => ids.get(what * 4294967296 + (where >>> 0));
  const changes = (what, where) => { const k = thing(what, where); return k === undefined ? [] : order.subarray(start[k], start[k + 1]); };
  const place = (k, e) => {                              // where in `order` the last change of a thing is, up to an event; before `start[k]` if there is none
    let low = start[k], high = start[k + 1];
    while (low < high) { const mid = (low + high) >> 1; if (owner[order[mid]] <= e) low = mid + 1; else high = mid; }
    return low - 1;
  };
  const last = (what, where, e) => { const k = thing(what, where), at = k === undefined ? -1 : place(k, e); return k === undefined || at < start[k] ? -1 : order[at]; };
  const value = (what, where, e) => {                    // undefined: nothing was ever written down about it
    const k = thing(what, where);
    if (k === undefined) return undefined;
    const at = place(k, e);
    return at < start[k] ? ch.old[order[start[k]]] : ch.new[order[at]];
  };
  const where_of = (what) => [...ids.keys()].filter((key) => Math.floor(key / 4294967296) === what).map((key) => key % 4294967296).sort((a, b) => a - b);
  const tops = where_of(SPGD), below = new Map();
  for (const where of where_of(SPTE)) {
    const key = ((where & 3) << 10) | (where >>> 22);
    if (!below.has(key)) below.set(key, []);
    below.get(key).push(where);
  }
  // A lower entry lives until it is cleared itself, or the page it stands in goes.
  const entry = (where, e) => {
    const i = last(SPTE, where, e);
    if (i < 0 || !(ch.new[i] & 1)) return 0;
    const k = thing(SPGD, (where & 0xffc00000) | (where & 3));
    if (k !== undefined) for (let at = place(k, e); at >= start[k] && order[at] > i; at--) if (!(ch.new[order[at]] & 1)) return 0;
    return ch.new[i];
  };
  const kinds = data.kinds, of_kind = new Map(kinds.map((name) => [name, []]));
  for (let e = 0; e < n; e++) of_kind.get(kinds[ev.kind[e]]).push(e);
  const group = (names) => (names.length === 1 ? of_kind.get(names[0]) : Int32Array.from(names.flatMap((name) => of_kind.get(name))).sort());
  const span = (e) => [ev.first[e], e + 1 < n ? ev.first[e + 1] : m];
  const texts = new Map(data.texts), said = data.texts.filter(([e]) => kinds[ev.kind[e]] === "console");
  // Does a table stand as it stood, or is it another one now? Equal stamps: equal contents, and equally fresh.
  const owners = (whats) => Int32Array.from(ch.what.keys()).filter((i) => whats.includes(ch.what[i])).map((i) => owner[i]);
  const stamper = (list) => (e) => { const i = upto(list, e); return `${i} ${i >= 0 && list[i] === e}`; };
  const stamps = { tables: stamper(owners([SPGD, SPTE, CR3, SLOT])), desc: stamper(owners([GDT, IDT])), console: stamper(said.map(([e]) => e)) };
  return { stamps, n, ev, ch, owner, span, changes, last, value, tops, below, entry, group, texts, said, kind: (e) => kinds[ev.kind[e]], where_of };
}

// The name of an address of code: the symbol at or before it, and how far behind.
function labeller(labels) {
  return (address) => {
    const i = upto(labels, address >>> 0, ([at]) => at);
    if (i < 0 || address - labels[i][0] > 0x4000) return "";
    return labels[i][1] + (address > labels[i][0] ? "+0x" + (address - labels[i][0]).toString(16) : "");
  };
}

const ORDER = "eax ebx ecx edx esi edi ebp esp ds es fs gs ss errcode cs eip eflags trapnum cr0 cr2 cr3 gdtr idtr tr".split(" ");
const WIDE = new Set(["cs", "eip", "eflags", "trapnum"]);
const short = (n) => (n > 9 ? "0x" + n.toString(16) : String(n));
const FLAGS = [[1, "CF"], [4, "PF"], [16, "AF"], [64, "ZF"], [128, "SF"], [256, "TF"], [512, "IF"], [1024, "DF"], [2048, "OF"], [65536, "RF"]];
const flags_of = (n) => FLAGS.filter(([bit]) => n & bit).map(([, name]) => name).join(" ");
const PAGE_FLAGS = [[2, "W"], [4, "U"], [32, "A"], [64, "D"]];
const page_flags = (n) => (n & 1 ? "P" + PAGE_FLAGS.filter(([bit]) => n & bit).map(([, name]) => name).join("") : "absent");

function descriptor(a, b) {                              // a GDT entry in words
  if (!a && !b) return "empty";
  const base = ((a >>> 16) | ((b & 0xff) << 16) | (b & 0xff000000)) >>> 0, ring = (b >> 13) & 3;
  let limit = (a & 0xffff) | (b & 0xf0000);
  if (b & 0x800000) limit = ((limit << 12) | 0xfff) >>> 0;
  const kind = b & 0x1000 ? (b & 0x800 ? "code" : "data") : "system";
  return `${b & 0x8000 ? "" : "absent "}${kind}, ring ${ring}, ${short(base)} to ${hex(base + limit)}`;
}

function gate_words(a, b, label) {                       // an IDT entry in words
  if (!(b & 0x8000)) return "absent";
  const handler = ((b & 0xffff0000) | (a & 0xffff)) >>> 0;
  return `${((b >> 8) & 15) === 15 ? "trap gate" : "interrupt gate"}, DPL ${(b >> 13) & 3}, ${label(handler) || hex(handler)}`;
}

async function render({ model, el }) {
  const data = model.get("data"), rec = await open_recording(data), label = labeller(data.labels), { ev, ch } = rec;
  const live = () => !model.alone && model.get("live");
  const at = () => Math.max(0, Math.min(rec.n - 1, model.get("at")));
  const insn = () => model.get("insn") || 0;
  const go = (e, i = 0) => {
    if (e !== at()) model.set("at", Math.max(0, Math.min(rec.n - 1, e)));
    if (i !== insn()) model.set("insn", i);
    model.save_changes();
  };

  // ---- events in words

  function details(e) {
    if (rec.texts.has(e)) return JSON.stringify(rec.texts.get(e));
    return (data.args[rec.kind(e)] || []).map((name, i) => {
      const v = ev["abcd"[i]][e];
      if (name === "source") return data.sources[v] || v;
      const named = /eip|handler/.test(name) && label(v);
      return `${name} ${short(v)}${named ? ` (${named})` : ""}`;
    }).join(", ");
  }
  const name_of = (e) => { const kind = rec.kind(e), name = data.names[kind]?.[ev.code[e]]; return name ? `${kind} ${name}` : kind; };
  const time_of = (e) => ((ev.time_high[e] * 4294967296 + ev.time_low[e]) / 1e6).toFixed(3) + " ms";
  const brief = (e) => `event ${e.toLocaleString("en")}, ${name_of(e)} (${WORLDS[ev.track[e]]}, switch ${ev.switch[e].toLocaleString("en")})`;

  // ---- the strip

  const GROUPS = [...ROWS, ...MORE].map(([title, names]) => ({ title, list: rec.group(names) }));
  const LANE = 12, TICK = 10, HEIGHT = LANES.length * LANE + 4 + ROWS.length * TICK + 10;
  const canvas = h("canvas.strip", { role: "img", "aria-label": "all events, each in the lane of the world it happened in and in the row of its kind; the slider below moves through them" });
  const cursor = h("div.cursor", {}), hold = h("div.hold", {}, canvas, cursor);
  const counts = ROWS.map(() => h("span.count", {}));
  const names = h("div.names", { "aria-hidden": "true" },
    LANES.map((w) => h("div.lane", { class: world(w) }, WORLDS[w])), h("div.gap", {}), ROWS.map(([title], i) => h("div.tick", {}, title, counts[i])));
  let from = 0, to = rec.n;                              // the events that the strip shows

  function zoom(factor) {
    const size = Math.min(rec.n, Math.max(20, Math.round((to - from) * factor))), e = at();
    const share = (Math.max(from, Math.min(to, e)) - from) / (to - from);
    from = Math.max(0, Math.min(rec.n - size, Math.round(e - share * size)));
    to = from + size;
    draw_strip();
  }

  function draw_strip() {
    const width = Math.max(60, hold.clientWidth), dpr = globalThis.devicePixelRatio || 1, css = getComputedStyle(hold);
    const ink = (name) => css.getPropertyValue(name).trim();
    canvas.width = width * dpr; canvas.height = HEIGHT * dpr;
    canvas.style.height = HEIGHT + "px";
    const g = canvas.getContext("2d"), size = to - from, per = size / (width * dpr), cols = Math.min(size, Math.floor(width * dpr)), w = (width * dpr) / cols;
    g.clearRect(0, 0, canvas.width, canvas.height);
    const top = (lane) => Math.round(lane * LANE * dpr), row_top = (r) => Math.round((LANES.length * LANE + 4 + r * TICK) * dpr);
    LANES.forEach((v, lane) => {                         // the ground of each lane, then where something happened, the fuller the more
      g.fillStyle = ink(`--g${v}`); g.globalAlpha = 1;
      g.fillRect(0, top(lane) + 1, canvas.width, LANE * dpr - 2);
    });
    const share = new Float32Array(cols * 4);
    for (let e = from; e < to; e++) share[Math.min(cols - 1, Math.floor((e - from) * cols / size)) * 4 + ev.track[e]]++;
    LANES.forEach((v, lane) => {
      g.fillStyle = ink(`--w${v}`);
      for (let c = 0; c < cols; c++) {
        const part = share[c * 4 + v] * cols / size;
        if (!part) continue;
        g.globalAlpha = Math.min(1, 0.35 + part);
        g.fillRect(c * w, top(lane) + 1, Math.max(1, w - (w > 4 * dpr ? dpr : 0)), LANE * dpr - 2);
      }
    });
    g.globalAlpha = 1;
    const chosen = +kind.value - 1;
    ROWS.forEach((_, r) => {
      const { list } = GROUPS[r], hit = new Uint8Array(cols);
      for (let i = upto(list, from - 1) + 1; i < list.length && list[i] < to; i++) hit[Math.floor((list[i] - from) * cols / size)] = 1;
      g.fillStyle = ink(r === chosen ? "--ink" : "--soft");
      for (let c = 0; c < cols; c++) if (hit[c]) g.fillRect(c * w, row_top(r) + 2 * dpr, Math.max(dpr, Math.min(w, 3 * dpr)), (TICK - 4) * dpr);
    });
    for (const e of GROUPS.at(-1).list) if (e >= from && e < to) {   // where life ends
      g.fillStyle = ink("--new");
      g.fillRect(Math.min(canvas.width - 2 * dpr, (e - from) / size * canvas.width), 0, 2 * dpr, row_top(ROWS.length));
    }
    g.fillStyle = ink("--line");                         // the whole life as a line, and the part of it that is shown
    g.fillRect(0, (HEIGHT - 5) * dpr, canvas.width, 2 * dpr);
    g.fillStyle = ink("--w2");
    g.fillRect(from / rec.n * canvas.width, (HEIGHT - 6) * dpr, Math.max(3 * dpr, size / rec.n * canvas.width), 4 * dpr);
    draw_cursor();
  }

  function draw_names() { names.querySelectorAll(".tick").forEach((node, r) => node.classList.toggle("chosen", r === +kind.value - 1)); }

  function draw_cursor() {
    cursor.style.left = `${(100 * (at() - from + 0.5)) / (to - from)}%`;
    cursor.hidden = at() < from || at() >= to;
  }
  const point = (e) => { const box = canvas.getBoundingClientRect(); go(from + Math.floor((e.clientX - box.left) / box.width * (to - from))); };
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); point(e); });
  canvas.addEventListener("pointermove", (e) => { if (e.buttons && canvas.hasPointerCapture(e.pointerId)) point(e); });
  canvas.addEventListener("wheel", (e) => { if (e.ctrlKey || e.shiftKey) { e.preventDefault(); zoom(e.deltaY + e.deltaX > 0 ? 1.4 : 1 / 1.4); } }, { passive: false });

  // ---- going about: by kind, by search, back to where one was

  const button = (text, what, act) => h("button", { type: "button", title: what, "aria-label": what, onclick: act }, text);
  const kind = h("select", { "aria-label": "kind of event", onchange: () => { draw_strip(); draw_names(); } },
    h("option", { value: 0 }, "any change"), GROUPS.map(({ title, list }, i) => h("option", { value: i + 1, disabled: !list.length }, `${title} (${list.length.toLocaleString("en")})`)));
  kind.value = GROUPS[2].list.length ? 3 : 0;
  const listed = () => (+kind.value ? GROUPS[kind.value - 1].list : null);
  function neighbour(list, sign) {
    if (!list) { let e = at() + sign; while (e > 0 && e < rec.n - 1 && rec.span(e)[0] === rec.span(e)[1]) e += sign; return e; }
    const i = upto(list, sign > 0 ? at() : at() - 1);
    return list[sign > 0 ? i + 1 : i];
  }
  const walk_to = (list, sign) => { const e = neighbour(list, sign); if (e !== undefined && e >= 0 && e < rec.n) go(e); };

  const box = h("input", { type: "search", size: 14, spellcheck: "false", placeholder: "0x804b000, SET_PTE, text", "aria-label": "search: an address, a hypercall, a register's value, or text",
    oninput: () => { found = null; }, onkeydown: (e) => { if (e.key === "Enter") { e.preventDefault(); seek(e.shiftKey ? -1 : 1); } } });
  let found = null;
  function matches(text) {
    const number = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : null, hit = new Uint8Array(rec.n), low = text.toLowerCase();
    if (number !== null) {
      for (let e = 0; e < rec.n; e++) if (ev.a[e] === number || ev.b[e] === number || ev.c[e] === number || ev.d[e] === number) hit[e] = 1;
      for (let i = 0; i < ch.what.length; i++) {
        const where = ch.what[i] === SPTE || ch.what[i] === SPGD ? (ch.where[i] & ~3) >>> 0 : ch.where[i];
        if (ch.new[i] === number || (ch.what[i] && where === number && number > 1023)) hit[rec.owner[i]] = 1;
      }
    } else {
      const named = new Map();                           // each name is looked at once, not once an event
      for (let e = 0; e < rec.n; e++) {
        const key = ev.kind[e] * 65536 + ev.code[e];
        if (!named.has(key)) named.set(key, name_of(e).toLowerCase().includes(low));
        if (named.get(key) || (rec.texts.has(e) && rec.texts.get(e).toLowerCase().includes(low))) hit[e] = 1;
      }
      const symbol = data.labels.findIndex(([, name]) => name.toLowerCase() === low);
      if (symbol >= 0) {
        const first = data.labels[symbol][0], end = data.labels[symbol + 1]?.[0] ?? first + 4096;
        const mine = rec.changes(REGISTER, data.registers.indexOf("eip"));
        for (const i of mine) if (ch.new[i] >= first && ch.new[i] < end) hit[rec.owner[i]] = 1;
      }
    }
    return Int32Array.from(hit.keys()).filter((e) => hit[e]);
  }
  function seek(sign) {
    const text = box.value.trim();
    if (!text) return;
    found ??= matches(text);
    const e = neighbour(found, sign);
    if (e === undefined) say(found.length ? `nothing ${sign > 0 ? "after" : "before"} this; ${found.length.toLocaleString("en")} in all` : `“${text}” is nowhere in this recording`);
    else { jump(e); say(`${(upto(found, e) + 1).toLocaleString("en")} of ${found.length.toLocaleString("en")} for “${text}”: ${brief(e)}`); }
  }

  const answer = h("output.answer", { "aria-live": "polite" });
  const say = (...words) => answer.replaceChildren(...words.flat());
  const trail = [], home = button("↩", "back to where you were", () => { const [e, i] = trail.pop(); home.disabled = !trail.length; go(e, i); say(`back at ${brief(e)}`); });
  home.disabled = true;
  function jump(e, i = 0) { trail.push([at(), insn()]); home.disabled = false; go(e, i); if (e < from || e >= to) centre(e); }
  function centre(e) { const size = to - from; from = Math.max(0, Math.min(rec.n - size, e - (size >> 1))); to = from + size; draw_strip(); }

  // Who changed this last? With a kernel behind the page, the answer is the very instruction; on a page, the event, or the instruction of a filmed stay.
  function ask(what, where, name) {
    if (live()) { say(`asking the machine who changed ${name} last …`); model.send({ ask: what === REGISTER ? "register" : "word", where, name, at: at(), insn: insn() }); return; }
    const film = filmed();
    if (film && insn()) {
      const k = last_in_film(film, insn(), what, what === REGISTER ? name : where);
      if (k >= 0) { jump(at(), k); say(`${name}: by instruction ${k} of this stay, ${line_of(film, film.frames[k - 1])}`); return; }
    }
    if (what === REGISTER && where < 0) { say(`${name}: the recording has the Guest's own registers only`); return; }
    let i = rec.last(what, where, at());
    const here = i >= 0 && rec.owner[i] === at() && !insn();
    if (here) i = rec.last(what, where, at() - 1);
    if (i < 0) { say(`${name}: ${here ? "changed here, and never before" : "as it was at the beginning"}`); return; }
    const e = rec.owner[i];
    jump(e);
    say(`${name}: ${hex(ch.old[i])} → ${hex(ch.new[i])}, ${what === MEMORY && rec.kind(e) === "leave" ? `by the Guest, in the stay before ${brief(e)}` : `by ${brief(e)}`}${here ? "; then once more where you were" : ""}`);
  }
  // When is this entry thrown away? Forward: the first event after which it is not there any more.
  function fate(where, name) {
    const events = new Set();
    for (const list of [rec.changes(SPTE, where), rec.changes(SPGD, ((where & 0xffc00000) | (where & 3)) >>> 0)])
      for (const i of list) if (rec.owner[i] > at()) events.add(rec.owner[i]);
    const born = rec.last(SPTE, where, at()), since = born < 0 ? "" : `entered by ${brief(rec.owner[born])}; `;
    for (const e of [...events].sort((a, b) => a - b))
      if (!rec.entry(where, e)) { jump(e); say(`${name}: ${since}thrown away here, by ${brief(e)}`); return; }
    say(`${name}: ${since}never thrown away in this recording`);
  }

  // ---- inside a stay: instruction by instruction

  const films = new Map(data.stays.map((stay) => [stay.switch, stay])), unfolded = new Map();
  const filmed = () => films.get(ev.switch[at()]);
  const enter_of = (e) => { const s = ev.switch[e]; let k = e; while (k > 0 && ev.switch[k - 1] === s) k--; while (k < rec.n - 1 && rec.kind(k) !== "enter" && ev.switch[k + 1] === s) k++; return k; };
  function states(film) {                                // all registers at each frame, added up once
    if (!unfolded.has(film)) {
      let now = {};
      unfolded.set(film, film.frames.map((frame) => (now = { ...now, ...frame.regs })));
    }
    return unfolded.get(film);
  }
  const line_of = (film, frame) => (frame?.insn === undefined ? "the Host has halted" : `${hex(film.code[frame.insn][0])} ${film.code[frame.insn][2]}`);
  function last_in_film(film, upto_frame, what, where) {
    for (let k = Math.min(upto_frame - 1, film.frames.length - 1); k > 0; k--) {
      const frame = film.frames[k];
      if (what === REGISTER ? where in frame.regs : (frame.writes || []).some((w) => w[3] - data.base === where)) return k;
    }
    return -1;
  }
  const stay_slider = h("input", { type: "range", min: 0, step: 1, "aria-label": "instruction of the stay", oninput: () => into(+stay_slider.value), onkeydown: (e) => e.stopPropagation() });
  const stay_words = h("output.soft", { "aria-live": "polite" });
  const stay_back = button("‹", "one instruction back", () => step(-1)), stay_on = button("›", "one instruction on", () => step(1));
  const nearest = button("a filmed stay", "to a stay that was filmed an instruction at a time", () => {
    const stays = [...films.keys()].sort((a, b) => a - b), next = stays.find((s) => s > ev.switch[at()]) ?? stays[0];
    for (let e = 0; e < rec.n; e++) if (ev.switch[e] === next && rec.kind(e) === "enter") { jump(e, 1); say(`the stay after switch ${next}, an instruction at a time`); break; }
  });
  const stay_bar = h("div.row.stay", {}, h("span.soft", {}, "instruction"), stay_back, stay_on, stay_slider, stay_words);
  function into(i) { const e = enter_of(at()); go(i ? e : at(), i); }
  function step(sign) {
    if (live()) { model.send({ step: sign, at: at(), insn: insn() }); return; }
    const film = filmed();
    if (film) into(Math.max(0, Math.min(film.frames.length - 1, insn() + sign)));
  }
  // What a moment inside a stay looks like, from the film or from the machine: registers, those before, lines, the world.
  function moment() {
    const now = model.get("now"), i = insn();
    if (live() && now?.at === at() && now.insn === i && (i || now.asked)) return now;
    const film = filmed();
    if (!film || !i || i >= film.frames.length) return null;
    const frame = film.frames[i], current = frame.insn === undefined ? -1 : film.code[frame.insn][0];
    const lines = film.code.map(([address, bytes, text]) => [address, bytes, text]).sort((a, b) => a[0] - b[0]);
    const middle = lines.findIndex(([address]) => address === current);
    return { world: frame.world, regs: states(film)[i], before: states(film)[i - 1], eip: current, lines: lines.slice(Math.max(0, middle - 6), middle + 9),
      writes: frame.writes || [], traps: frame.traps || [], of: film.frames.length - 1, words: stack_in_film(film, i) };
  }
  function stack_in_film(film, i) {                      // what lies on top of the stack: as written before this frame, or as it is before it is written
    const esp = states(film)[i].esp, past = new Map(), future = new Map();
    film.frames.forEach((frame, k) => (frame.writes || []).forEach(([, name, linear, pa, was, now]) => {
      if (linear === null) return;
      if (k <= i) past.set(linear, [now, pa, k === i, name]); else if (!future.has(linear) && !past.has(linear)) future.set(linear, [was, pa, false, name]);
    }));
    return Array.from({ length: 10 }, (_, n) => {
      const address = (esp + 4 * n) >>> 0, known = past.get(address) || future.get(address), pa = address - data.meta.page_offset;
      if (known) return [address, known[0], known[1] - data.base, known[2], known[3]];
      return [address, pa >= 0 && pa < data.meta.memory ? word_at(pa, at()) : undefined, pa, false];
    });
  }

  // ---- the panels

  const panel = (title, name) => { const body = h(`div.body.${name}`, { tabindex: 0, role: "region", "aria-label": title }), note = h("span.note.soft", {}); return { body, note, node: h(`div.box.panel.p-${name}`, {}, h("h4", {}, title, " ", note), body) }; };
  const panels = { code: panel("Code", "code"), regs: panel("Registers", "regs"), stack: panel("Stack", "stack"), memory: panel("Memory written here", "memory"),
    tables: panel("Page tables", "tables"), desc: panel("GDT and IDT", "desc"), console: panel("Console", "console") };
  const asker = (text, what, act, cls = "") => h("button.ask", { type: "button", title: what, "aria-label": `${text}: ${what}`, class: cls, onclick: act }, text);
  const mark = (yes) => (yes ? "new" : "");

  function listing_at(eip, e) {
    const seen = data.code?.around[eip];
    if (!seen) return [];
    return seen[Math.max(0, upto(seen, e, ([since]) => since))][1].map((i) => data.code.lines[i]);
  }
  function draw_code(now) {
    const direct = rec.kind(at()) === "direct trap", eip = now ? now.eip : direct ? ev.b[at()] : rec.value(REGISTER, data.registers.indexOf("eip"), at()) ?? 0;
    const lines = now ? now.lines : listing_at(eip, at()), w = now ? now.world : eip >= data.meta.page_offset ? 2 : 3;
    panels.code.note.replaceChildren(h("span", { class: world(w) }, `■ ${WORLDS[w]}`), " ", eip >= 0 ? label(eip) || hex(eip) : "");
    panels.code.body.replaceChildren(lines.length ? h("table.listing", {}, lines.map(([address, bytes, text, name]) => h("tr", { class: address === eip ? `now g${w}` : "", "aria-current": address === eip && "true" },
      h("td.sign", {}, address === eip ? "▶" : ""), h("td.mono.soft", { title: name || label(address) || null }, hex(address).slice(2)), h("td.mono.soft.bytes", {}, bytes), h("td.mono", {}, text))))
      : h("p.soft", {}, `at ${hex(eip)}${label(eip) ? `, ${label(eip)}` : ""}. This recording has no code of that place.`));
    const current = panels.code.body.querySelector(".now");
    if (current) panels.code.body.scrollTop = current.offsetTop - panels.code.body.clientHeight / 2 + 10;
  }
  function meaning(name, v) {
    if (name === "eflags") return flags_of(v);
    if (name === "cs") return `ring ${v & 3}`;
    if (name === "trapnum") return data.names.leave?.[v] || "";
    if (name === "eip") return label(v);
    return "";
  }
  function draw_regs(now) {
    const e = at(), names = ORDER.filter((name) => (now ? name in now.regs : data.registers.includes(name)));
    panels.regs.note.textContent = now ? "of the processor" : "as the Host keeps them";
    panels.regs.body.replaceChildren(...names.map((name) => {
      const r = data.registers.indexOf(name), v = now ? now.regs[name] : rec.value(REGISTER, r, e) ?? 0;
      const i = now ? -1 : rec.last(REGISTER, r, e), changed = now ? now.before && now.before[name] !== v : i >= 0 && rec.owner[i] === e;
      const was = changed ? `before: ${hex(now ? now.before[name] ?? 0 : ch.old[i])}; ` : "";
      return h("div.reg", { class: [WIDE.has(name) && "wide", mark(changed)].filter(Boolean).join(" "), "data-register": name }, h("span.name", {}, name), asker(hex(v), `${was}who changed ${name} last?`, () => ask(REGISTER, r, name), "mono"), h("span.sign", {}, changed ? "●" : ""), h("span.soft.mean", {}, meaning(name, v)));
    }));
  }
  function stack_words(e) {
    const direct = rec.kind(e) === "direct trap", esp = direct ? ev.d[e] : rec.value(REGISTER, data.registers.indexOf("esp"), e) ?? 0;
    if (esp >= data.meta.page_offset) {
      const pushed = new Map();
      if (direct) for (let i = rec.span(e)[0]; i < rec.span(e)[1]; i++) if (ch.what[i] === FRAME) pushed.set(ch.where[i], ch.new[i]);
      return Array.from({ length: 10 }, (_, n) => { const address = (esp + 4 * n) >>> 0, pa = address - data.meta.page_offset;
        return pushed.has(address) ? [address, pushed.get(address), pa, true] : [address, word_at(pa, e), pa, changed_here(MEMORY, pa, e)]; });
    }
    const i = upto(data.stacks, e, ([since]) => since), known = i >= 0 && data.stacks[i][1] >>> 12 === esp >>> 12 ? data.stacks[i][2] : null;
    if (known === null) return [];
    const page = known & ~0xfff;
    return Array.from({ length: 10 }, (_, n) => (esp & 0xfff) + 4 * n).filter((o) => o < 4096).map((o) => [((esp & ~0xfff) >>> 0) + o, word_at(page + o, e), page + o, changed_here(MEMORY, page + o, e)]);
  }
  const still = new Map(data.still);
  const word_at = (pa, e) => rec.value(MEMORY, pa, e) ?? (data.film ? still.get(pa) ?? 0 : undefined);   // a film knows the words that never change, too
  const changed_here = (what, where, e) => { const i = rec.last(what, where, e); return i >= 0 && rec.owner[i] === e; };
  function draw_stack(now) {
    const words = now ? now.words : stack_words(at());
    panels.stack.note.textContent = words.length ? "top first" : "";
    panels.stack.body.replaceChildren(words.length ? h("table", {}, words.map(([address, v, pa, changed, name]) => h("tr", { class: mark(changed) }, h("td.mono.soft", {}, hex(address).slice(2)),
      h("td.mono", {}, v === undefined ? h("span.soft", { title: "never written in this recording" }, "·") : asker(hex(v), `who wrote the word at ${hex(address)}?`, () => ask(MEMORY, pa, `the word at ${hex(address)}`))),
      h("td.sign", {}, changed ? "●" : ""), h("td.soft.mean", {}, v === undefined ? "" : /^[a-z]/.test(name || "") ? name : label(v))))) : h("p.soft", {}, "This recording does not know what lies there."));
  }
  const LIMIT = 60;
  function draw_memory(now) {
    const e = at(), [first, end] = rec.span(e), rows = [];
    if (now?.writes) for (const [place, name, linear, pa, was, is] of now.writes) rows.push([place === "Guest's memory" ? hex(pa - data.base) : `${place}: ${name}`, was, is, place === "Guest's memory" ? pa - data.base : -1]);
    else for (let i = first; i < end; i++) if (ch.what[i] === MEMORY || ch.what[i] === FRAME) rows.push([hex(ch.where[i]) + (ch.what[i] === FRAME ? " (frame)" : ""), ch.old[i], ch.new[i], ch.what[i] === MEMORY ? ch.where[i] : ch.where[i] - data.meta.page_offset]);
    panels.memory.note.textContent = rows.length ? `${rows.length.toLocaleString("en")} word${rows.length > 1 ? "s" : ""}${now ? "" : rec.kind(e) === "leave" ? ", by the Guest in its stay" : ", by " + WORLDS[ev.track[e]]}` : "";
    panels.memory.body.replaceChildren(rows.length ? h("table", {}, rows.slice(0, LIMIT).map(([name, was, is, pa]) => h("tr", {}, h("td.mono.soft", {}, name), h("td.mono", {}, hex(was).slice(2), " → ",
      pa >= 0 ? asker(hex(is).slice(2), `who wrote the word at ${hex(pa)} before?`, () => ask(MEMORY, pa, `the word at ${hex(pa)}`), "new") : h("span.new", {}, hex(is).slice(2)))))) : h("p.soft", {}, "nothing"),
      rows.length > LIMIT ? h("p.soft", {}, `and ${(rows.length - LIMIT).toLocaleString("en")} more`) : "");
  }
  function draw_tables() {
    const e = at(), current = rec.value(SLOT, 0, e) ?? 0, [first, end] = rec.span(e), changed = [], slots = [];
    for (let i = first; i < end; i++) if (ch.what[i] === SPGD || ch.what[i] === SPTE) changed.push(i);
    for (let slot = 0; slot < 4; slot++) {
      const cr3 = rec.value(CR3, slot, e) ?? 0, mine = rec.tops.filter((where) => (where & 3) === slot && (rec.value(SPGD, where, e) ?? 0) & 1);
      slots.push({ slot, cr3, mine, alive: (where) => (rec.below.get(((where & 3) << 10) | (where >>> 22)) || []).filter((w) => rec.entry(w, e)) });
    }
    const chip = (where) => { const v = rec.entry(where, e), address = (where & ~0xfff) >>> 0; return asker(`${hex(address)} ${page_flags(v)}`, `page ${short(v >>> 12)}; when is this entry thrown away?`, () => fate(where, hex(address)), changed_here(SPTE, where, e) ? "new" : ""); };
    panels.tables.note.textContent = `slot ${current} in use`;
    panels.tables.body.replaceChildren(
      changed.length ? h("p.changed", {}, "here: ", changed.slice(0, 8).map((i) => h("span.new", {}, `${ch.what[i] === SPGD ? "table of " : ""}${hex((ch.where[i] & ~0xfff) >>> 0)} in ${ch.where[i] & 3}: ${page_flags(ch.old[i])} → ${page_flags(ch.new[i])}`, " ")), changed.length > 8 ? `and ${changed.length - 8} more` : "") : "",
      ...slots.map(({ slot, cr3, mine, alive }) => {
        const rows = mine.map((where) => [where, alive(where)]), total = rows.reduce((sum, [, list]) => sum + list.length, 0), moved = changed_here(CR3, slot, e);
        return h("details", { open: slot === current, "data-slot": slot }, h("summary", { class: mark(moved || (slot === current && changed_here(SLOT, 0, e))) }, slot === current ? "● " : "○ ", h("b", {}, `slot ${slot}`),
          cr3 || mine.length ? h("span.mono", {}, ` cr3 ${short(cr3)}`) : h("span.soft", {}, " never used"), mine.length ? h("span.soft", {}, `, ${mine.length} tables, ${total} pages`) : ""),
        slot === current ? rows.map(([where, list]) => h("div.top", {}, h("span.mono", { class: mark(changed_here(SPGD, where, e)) }, hex((where & ~0xfff) >>> 0)), h("span.soft", {}, (where >>> 22) === 1023 ? " the Switcher's" : ` ${list.length} page${list.length === 1 ? "" : "s"}`),
          h("div.chips", {}, list.slice(0, 40).map(chip), list.length > 40 ? h("span.soft", {}, `and ${list.length - 40} more`) : ""))) : "");
      }));
  }
  const table_rows = { [GDT]: [...new Set(rec.where_of(GDT).map((w) => w >> 1))], [IDT]: [...new Set(rec.where_of(IDT).map((w) => w >> 1))] };
  function draw_desc() {
    const e = at(), row = (what, n) => {
      const a = rec.value(what, 2 * n, e) ?? 0, b = rec.value(what, 2 * n + 1, e) ?? 0, changed = changed_here(what, 2 * n, e) || changed_here(what, 2 * n + 1, e);
      if (!a && !b && !changed) return "";
      const recent = [2 * n, 2 * n + 1].sort((x, y) => rec.last(what, y, e) - rec.last(what, x, e))[0];
      return h("tr", { class: mark(changed) }, h("th", {}, what === GDT ? `GDT ${n}` : `IDT ${n}`), h("td.mono", {}, asker(`${hex(a).slice(2)} ${hex(b).slice(2)}`, `who changed this ${what === GDT ? "descriptor" : "gate"} last?`, () => ask(what, recent, what === GDT ? `GDT entry ${n}` : `gate ${n}`)), changed ? " ●" : ""),
        h("td.soft", {}, what === GDT ? descriptor(a, b) : gate_words(a, b, label)));
    };
    const loaded = table_rows[GDT].length + table_rows[IDT].length;
    panels.desc.note.textContent = loaded ? "as the Host keeps them" : "";
    panels.desc.body.replaceChildren(h("table", {}, table_rows[GDT].map((n) => row(GDT, n)), table_rows[IDT].map((n) => row(IDT, n))));
    const changed = panels.desc.body.querySelector(".new");
    if (changed) panels.desc.body.scrollTop = changed.offsetTop - 20;
  }
  function draw_console() {
    const said = rec.said.slice(0, upto(rec.said, at(), ([e]) => e) + 1);
    panels.console.body.replaceChildren(...said.map(([e, text]) => (e === at() ? h("span.new", {}, text) : text)));
    panels.console.body.scrollTop = panels.console.body.scrollHeight;
  }
  function draw_stay() {
    const film = filmed(), shown = !!film || live(), now = moment(), of = live() ? model.get("now")?.of : film && film.frames.length - 1;
    stay_bar.replaceChildren(h("span.soft", {}, "instruction"), ...(shown ? [stay_back, stay_on, stay_slider] : films.size ? [nearest] : []), stay_words);
    stay_bar.hidden = !shown && !films.size;
    stay_slider.disabled = !of;
    stay_slider.max = of || 0; stay_slider.value = insn();
    stay_words.textContent = now && insn() ? `${insn()}${of ? ` of ${of}` : ""}: ${WORLDS[now.world]}${(now.traps || []).map((t) => `, after trap ${t.vector}`).join("")}` : live() ? live_words() : film ? `${of} in this stay` : "";
  }
  const live_words = () => { const now = model.get("now"); return now?.at === at() ? `the machine stands at switch ${now.switch}` : "the machine is on its way"; };

  // ---- all together

  const say_moment = (e, of) => `${(e + 1).toLocaleString("en")} of ${of.toLocaleString("en")} · switch ${ev.switch[e].toLocaleString("en")} · ${time_of(e)} · ${WORLDS[ev.track[e]]}: ${name_of(e)}${details(e) ? `, ${details(e)}` : ""}`;
  const steps = stepper(model, rec.n, say_moment, { ms: 120, stride: Math.max(1, Math.round(rec.n / 1500)) });
  const tools = h("div.row.tools", {},
    h("span.row", {}, button("⇤", "the one before of this kind", () => walk_to(listed(), -1)), kind, button("⇥", "the next of this kind", () => walk_to(listed(), 1))),
    h("span.row", {}, box, button("↑", "search backwards", () => seek(-1)), button("↓", "search", () => seek(1))),
    h("span.row", {}, button("−", "show more of the life", () => zoom(2)), button("+", "show less of it, larger", () => zoom(0.5)), button("all", "show the whole life", () => { from = 0; to = rec.n; draw_strip(); }), home));

  function draw_state() {
    const now = moment(), began = performance.now();
    draw_cursor();
    ROWS.forEach((_, r) => { const { list } = GROUPS[r]; counts[r].textContent = `${(upto(list, at()) + 1).toLocaleString("en")} / ${list.length.toLocaleString("en")}`; });
    draw_code(now); draw_regs(now); draw_stack(now); draw_memory(now); draw_stay();
    for (const [name, draw] of [["tables", draw_tables], ["desc", draw_desc], ["console", draw_console]]) {
      const stamp = rec.stamps[name](at());
      if (panels[name].stamp !== stamp) { draw(); panels[name].stamp = stamp; }
    }
    root.dataset.ms = (performance.now() - began).toFixed(1);
  }
  const root = frame(model, el, h("style", {}, STYLE), h("div.whole", {}, h("div.lanes", {}, names, hold), steps, tools, h("div.row.below", {}, stay_bar, answer),
    h("div.panels", {}, panels.code.node, panels.regs.node, panels.stack.node, panels.memory.node, panels.tables.node, panels.desc.node, panels.console.node)));
  root.classList.add("timeline");
  // On a phone the slider stays in sight, at the lower edge; but not inside of something that scrolls by itself, as outputs of notebooks do.
  for (let node = el; node && node !== document.body; node = node.parentElement) if (/auto|scroll|hidden/.test(getComputedStyle(node).overflow)) root.classList.add("still");
  root.addEventListener("keydown", (e) => {
    if (e.composedPath()[0].matches?.("input:not([type=range]), select") || e.ctrlKey || e.metaKey || e.altKey) return;
    const keys = { "[": () => walk_to(listed(), -1), "]": () => walk_to(listed(), 1), ",": () => step(-1), ".": () => step(1), "+": () => zoom(0.5), "-": () => zoom(2), "/": () => box.focus() };
    if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
  });
  model.on("change:at", () => { if (at() < from || at() >= to) centre(at()); if (insn() && enter_of(at()) !== at()) model.set("insn", 0); draw_state(); });
  model.on("change:insn", draw_state);
  model.on("change:now", () => { if (live()) draw_state(); });
  model.on("msg:custom", (message) => {
    if (message.say) say(message.say);
    if (message.go) jump(...message.go);
  });
  new ResizeObserver(draw_strip).observe(hold);
  new MutationObserver(draw_strip).observe(root, { attributes: true, attributeFilter: ["class"] });
  draw_names();
  draw_strip();
  draw_state();
}

const STYLE = `
.timeline { container-type: inline-size; }
.lanes { display: flex; gap: .5rem; align-items: flex-start; user-select: none; }
.names { flex: none; width: 9.6rem; font-size: 11px; line-height: 10px; }
.names .lane { height: 12px; line-height: 12px; font-weight: 600; } .names .gap { height: 4px; }
.names .tick { height: 10px; display: flex; justify-content: space-between; color: var(--soft); white-space: nowrap; } .names .chosen { color: var(--ink); font-weight: 650; }
.count { font-variant-numeric: tabular-nums; font-weight: 400; }
.hold { flex: 1; position: relative; min-width: 0; }
.strip { width: 100%; display: block; cursor: crosshair; touch-action: pan-y; }
.cursor { position: absolute; top: -2px; bottom: 8px; width: 2px; margin-left: -1px; background: var(--ink); pointer-events: none; }
.timeline .stepper { margin: .1rem 0 .3rem; }
.timeline .stepper output { min-height: 1.5em; line-height: 1.45; font-variant-numeric: tabular-nums; color: var(--ink); }
.tools { flex-wrap: wrap; gap: .4rem .9rem; } .tools .row { gap: .3rem; min-width: 0; }
.tools select { max-width: 12.5rem; } .tools input { width: 14rem; max-width: 100%; min-width: 6rem; }
.below { min-height: 2.3rem; flex-wrap: wrap; gap: .2rem 1rem; margin: .2rem 0; }
.answer { flex: 1 1 18rem; color: var(--w2); font-size: 13px; }
.stay { flex: 0 1 auto; font-size: 13px; gap: .3rem; min-width: 0; } .stay button { padding: 0 .5rem; min-height: 1.7rem; } .stay input { width: 9rem; } .stay output { min-width: 8rem; }
.stay[hidden] { display: none; }
.panels { display: grid; gap: .5rem; grid-template-columns: repeat(12, minmax(0, 1fr)); }
.panel { display: flex; flex-direction: column; height: 15rem; padding: .3rem .55rem; contain: strict; }
.panel h4 { margin: 0 0 .15rem; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; } .panel .note { font-weight: 400; font-size: 12px; }
.panel .body { flex: 1; overflow: auto; min-height: 0; scrollbar-width: thin; position: relative; }
.panel .console { white-space: pre-wrap; font: 12px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }
.panel table { font-size: 12px; width: 100%; } .panel td, .panel th { border: 0; padding: 0 .3rem 0 0; white-space: nowrap; line-height: 1.4; } .panel th { font-weight: 500; }
.panel td:last-child { width: 100%; } .panel td.mono, .panel .mono { font-size: 12px; } .panel td.mean { white-space: normal; font-size: 11.5px; } .sign { width: .9em; color: var(--new); flex: none; }
.reg .sign { width: auto; } .regs { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); align-content: start; font-size: 12px; gap: 0 .8rem; line-height: 1.4; }
.reg { display: flex; gap: .25rem; min-width: 0; white-space: nowrap; } .reg.wide { grid-column: span 2; } .reg .name { width: 4.1em; flex: none; color: var(--soft); } .reg .mean { overflow: hidden; text-overflow: ellipsis; }
.reg.new { background: none; color: inherit; font-weight: inherit; } .reg.new .name, .reg.new .ask { color: var(--new); background: var(--new-ground); font-weight: 650; }
.p-code { grid-column: span 5; } .p-regs { grid-column: span 4; } .p-stack { grid-column: span 3; }
.p-tables { grid-column: span 6; height: 12rem; } .p-desc { grid-column: span 6; height: 12rem; } .p-memory { grid-column: span 4; height: 8rem; } .p-console { grid-column: span 8; height: 8rem; }
.p-memory { order: 1; } .p-console { order: 2; }
.listing .now td { font-weight: 650; } .listing .sign { color: var(--ink); }
button.ask { all: unset; cursor: pointer; border-bottom: 1px dotted var(--line); font: inherit; } button.ask:hover { background: var(--g2); } button.ask:focus-visible { outline: 2px solid var(--w2); }
button.ask.mono { font: 12px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; } button.ask.new { background: var(--new-ground); color: var(--new); }
.panel tr.new { background: none; color: inherit; } .panel tr.new th, .panel tr.new td:not(.mean) { background: var(--new-ground); color: var(--new); }
.chips { display: flex; flex-wrap: wrap; gap: 0 .7rem; padding-left: 1rem; font: 11.5px ui-monospace, "DejaVu Sans Mono", monospace; }
.top { margin: .1rem 0 .1rem .9rem; font-size: 12px; } summary { cursor: pointer; font-size: 12.5px; } .changed { font-size: 12px; margin: 0 0 .2rem; } .changed .new { display: inline-block; margin-right: .4rem; }
@container (max-width: 1080px) { .bytes { display: none; } }
@container (max-width: 900px) {
  .p-code { grid-column: span 7; } .p-stack { grid-column: span 5; order: -1; } .p-code { order: -2; } .p-regs, .p-memory { grid-column: span 6; } .p-memory { order: 0; } .p-regs, .p-memory { height: 16rem; } .p-desc td.soft { white-space: normal; } .p-console { grid-column: span 12; }
}
@container (max-width: 560px) {
  .names { width: 5.4rem; font-size: 10px; } .count { display: none; }
  .p-code, .p-tables, .p-desc, .p-regs, .p-stack, .p-memory, .p-console { grid-column: span 12; } .panel, .p-memory { height: 13rem; } .p-regs { height: 17rem; } .p-regs, .p-stack, .p-memory { order: 0; } .p-code { order: -1; }
  .timeline:not(.still) .whole { display: flex; flex-direction: column; } .p-desc td.soft { white-space: normal; }
  .timeline:not(.still) .stepper { order: 9; position: sticky; bottom: 0; z-index: 1; background: var(--card); border-top: 1px solid var(--line); padding: .3rem 0 0; margin: .5rem 0 0; }
  .timeline .stepper output { min-height: 2.9em; font-size: 12px; } .answer { min-height: 3em; }
}`;

export default { render };
