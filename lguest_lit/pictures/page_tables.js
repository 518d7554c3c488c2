// Guest and shadow page tables, moment by moment. An address is walked through both: through the Guest's as demand_page
// does it [H:330], through the shadow as the CPU does; the same bits as in Python, and a test holds the two together.

const P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PSE = 0x80, GLOBAL = 0x100, FLAGS = 0xfff, NONE = new Uint32Array(1024);
const SWITCHER = 1023, BAD_PTE = 0x88, BAD_PGD = 0xf98;
const LETTERS = [["p", P, "present"], ["w", W, "writable"], ["u", U, "user"], ["a", A, "accessed"], ["d", D, "dirty"]];
const RARE = [["t", 8, "write-through"], ["c", 0x10, "cache disabled"], ["s", PSE, "large page"], ["g", GLOBAL, "global"]];

const letters = (e) => LETTERS.map(([c, bit]) => (e & bit ? c : "·")).join("") + RARE.map(([c, bit]) => (e & bit ? c : "")).join("");
const inWords = (e) => [...LETTERS, ...RARE].filter(([, bit]) => e & bit).map(([, , word]) => word).join(", ") || "not present";
const short = (n) => "0x" + (n >>> 0).toString(16);
const top = (vaddr) => vaddr >>> 22, low = (vaddr) => (vaddr >>> 12) & 0x3ff;

function expand(runs) {                                   // a table again, of 1024 words
  if (!runs) return NONE;
  const words = new Uint32Array(1024);
  for (const [first, n, entry] of runs) for (let i = 0; i < n; i++) words[first + i] = entry + i * 4096;
  return words;
}

// One slot at one moment: four tables, asked for by index. A table that nobody can read is null.
function view(frame, k) {
  const slot = frame.slots[k];
  if (!slot) return null;
  const [cr3, pgdir] = slot, read = (from, at) => (from[at] ? expand(from[at]) : null);
  const gtop = read(frame.guest, cr3), stop = expand(frame.shadow[pgdir]);
  return { cr3, pgdir, gtop, stop,
    gbelow: (i) => (gtop && gtop[i] & P ? read(frame.guest, (gtop[i] & ~FLAGS) >>> 0) : null),
    sbelow: (i) => (stop[i] & P ? read(frame.shadow, stop[i] >>> 12) : null) };
}

// What demand_page would do for this access: each check, and the end of it.
function asked(film, v, vaddr, access) {
  const need = P | (access & (W | U)), i = top(vaddr), checks = [];
  const check = (ok, words) => { checks.push([ok, words]); return ok; };
  const end = (verdict, words, more = {}) => ({ checks, verdict, words, ...more });
  const bad = (at) => end("killed", `the Guest dies: “bad read address ${short(at)}”`);
  const wanted = film.asks_top ? need : P, wish = letters(need).replaceAll("·", "");
  if (!v.gtop) return bad(v.cr3 + 4 * i);
  const gpgd = v.gtop[i];
  if (!check((gpgd & wanted) === wanted, `top-level entry has ${wish}`)) return end("passed on", "the fault is the Guest's own", { gpgd });
  if (!check(i < SWITCHER, "not the Switcher's 4 MB")) return end("killed", "the Guest dies: “attempt to access switcher pages”", { gpgd });
  if ((v.stop[i] & wanted) !== wanted && !check(!(gpgd & BAD_PGD) && gpgd >>> 12 < film.limit, "no forbidden flag in it, page within memory"))
    return end("killed", "the Guest dies: “bad page directory entry”", { gpgd });
  const below = v.gbelow(i);
  if (!below) return { ...bad((gpgd & ~FLAGS) + 4 * low(vaddr)), gpgd };
  const gpte = below[low(vaddr)];
  if (!check((gpte & need) === need, `bottom entry has ${wish}`)) return end("passed on", "the fault is the Guest's own", { gpgd, gpte });
  if (!check(!(gpte & BAD_PTE) && gpte >>> 12 < film.limit, "no forbidden flag in it, page within memory"))
    return end("killed", "the Guest dies: “bad page table entry”", { gpgd, gpte });
  const used = gpte | A | (access & W ? D : 0), flags = used & D ? used : used & ~W;
  return end("mended", `demand_page enters page ${short(gpte >>> 12)} with ${letters(flags & ~GLOBAL)}`, { gpgd, gpte });
}

// What the CPU does with the shadow, CR0.WP being set: a physical address, or the error code of a page fault.
function walked(v, vaddr, access) {
  const spgd = v.stop[top(vaddr)], below = v.sbelow(top(vaddr));
  if (!below) return { spgd, error: access };
  const spte = below[low(vaddr)], both = spgd & spte;
  if (!(spte & P)) return { spgd, spte, error: access };
  if ((access & W && !(both & W)) || (access & U && !(both & U))) return { spgd, spte, error: access | 1 };
  return { spgd, spte, pa: ((spte & ~FLAGS) | (vaddr & FLAGS)) >>> 0 };
}

// The shadow's entry beside the Guest's: a sign and a word, so that colour is never needed.
function compared(film, i, g, sh, bottom) {
  if (i === SWITCHER && sh) return ["§", "Switcher's"];
  if (!sh) return g ? ["…", g & P ? "not yet" : "none"] : ["", ""];
  if (!g) return ["!", "only here"];
  if (bottom && sh >>> 12 !== film.base + (g >>> 12)) return sh >>> 12 === film.zero ? ["0", "page of zeros"] : ["!", "other page"];
  const less = g & ~sh & ~GLOBAL & FLAGS, more = sh & ~g & FLAGS;
  if (!less && !more) return ["=", g & GLOBAL ? "without g" : "same"];
  return ["≠", [less && `without ${letters(less).replaceAll("·", "")}`, more && `with ${letters(more).replaceAll("·", "")}`].filter(Boolean).join(", ")];
}

// Whoever holds a reference to a Guest's page: its Launcher, and each shadow entry that names it.
function holders(film, frame, pfn) {
  const found = [];
  frame.slots.forEach((slot, k) => {
    if (!slot) return;
    for (const [first, n, entry] of frame.shadow[slot[1]]) for (let i = first; i < first + n; i++) {
      if (i === SWITCHER || !(entry & P)) continue;
      for (const [j, m, start] of frame.shadow[(entry >>> 12) + i - first] || []) {
        const at = pfn - (start >>> 12);
        if (start & P && at >= 0 && at < m) found.push(`slot ${k}: ${short(i * 2 ** 22 + (j + at) * 4096)}`);
      }
    }
  });
  return found;
}

function render({ model, el }) {
  const film = model.get("data"), { frames, says, about, parts, places, tables, watch, ours } = film;
  const has = (part) => parts.includes(part), set = (name, value) => { model.set(name, value); model.save_changes(); };
  const named = (cr3) => (tables[cr3] ? `${tables[cr3]} ` : "") + short(cr3);
  const now = () => frames[model.get("at")], before = () => frames[Math.max(model.get("at") - 1, 0)];
  const slot = () => (model.get("slot") < 0 || !now().slots[model.get("slot")] ? now().current : model.get("slot"));
  const pick = (vaddr) => h("button.mono.link", { type: "button", title: `walk ${hex(vaddr)}`, onclick: () => set("vaddr", vaddr) }, hex(vaddr));
  const cell = (entry, was, text) => h("td.mono", { class: entry !== was ? "new" : "", title: entry === was ? inWords(entry) : `changed; it was ${was ? `${short(was >>> 12)} ${letters(was)}` : "nothing"}` }, text);
  const page = (e, n = 1) => (!e ? "—" : e & P ? `${short(e >>> 12)}${n > 1 ? `–${short((e >>> 12) + n - 1)}` : ""} ${letters(e)}` : `note ${short(e)}`);
  const frame_name = (pfn) => (pfn >= film.base && pfn < film.base + film.pages ? `the Guest's page ${short(pfn - film.base)}` : pfn === film.zero ? "the page of zeros" : ours[pfn] || "");

  // the parts; each is a box and a function that fills it

  function slots(box) {
    const f = now(), b = before(), count = (frame, k, kernel) => {
      const v = view(frame, k);
      let n = 0;
      for (let i = 0; i < SWITCHER; i++) if (v.stop[i] & P && i * 2 ** 22 >= film.offset === kernel) for (const e of v.sbelow(i)) n += e & P;
      return n;
    };
    box.replaceChildren(h("h4.w0", {}, "The Host's four slots"), h("div.slots", {}, f.slots.map((it, k) => {
      const old = b.slots[k], moved = it && String(it[0]) !== String(old?.[0]), pages = (kernel) => {
        const n = count(f, k, kernel), was = old ? count(b, k, kernel) : 0;
        return h("span", { class: n !== was ? "new" : "" }, `${n} ${kernel ? "kernel" : "user"} page${n === 1 ? "" : "s"}${n !== was && old ? `, were ${was}` : ""}`);
      };
      return h("button.slot", { type: "button", "aria-pressed": String(k === slot()), disabled: !it, onclick: () => set("slot", k) },
        h("b", {}, it && k === f.current ? `▶ slot ${k}, in use` : `slot ${k}`),
        it ? [h("span.mono", { class: moved ? "new" : "" }, named(it[0])), moved && h("span.new", {}, old ? `${named(old[0])} had to leave` : "was blank"), pages(false), pages(true)]
          : h("span.soft", { class: old ? "new" : "" }, old ? "given back" : "has no page"));
    })), model.get("slot") < 0 ? "" : h("button", { type: "button", onclick: () => set("slot", -1) }, "follow the one in use"));
  }

  const entry_box = h("input.mono", { type: "text", size: 11, spellcheck: "false", "aria-label": "address, hexadecimal", onchange: () => {
    const n = Number.parseInt(entry_box.value, 16);
    if (!Number.isNaN(n)) set("vaddr", n >>> 0);
    entry_box.value = hex(model.get("vaddr"));
  } });
  const kind = h("select", { "aria-label": "access", onchange: () => set("access", +kind.value) },
    [[0, "the kernel reads"], [2, "the kernel writes to"], [4, "a program reads"], [6, "a program writes to"]].map(([n, words]) => h("option", { value: n }, words)));
  const jump = h("button", { type: "button", onclick: () => set("vaddr", about[model.get("at")]) });
  const ask = h("div.row.ask", {}, has("walk") && kind, h("label", {}, has("walk") ? "" : "address ", entry_box),
    places.map(([at, name]) => h("button", { type: "button", title: hex(at), onclick: () => set("vaddr", at) }, name)), jump);

  function split(box) {
    const vaddr = model.get("vaddr"), bits = (vaddr >>> 0).toString(2).padStart(32, "0");
    const piece = (from, n, value, words) => h("div.piece", { style: `flex: ${n} 1 0` }, h("span.mono.bits", {}, bits.slice(from, from + n)),
      h("b.mono", {}, `${short(value)} = ${value}`), h("span.soft", {}, words));
    box.replaceChildren(h("div.split", { role: "group", "aria-label": `${hex(vaddr)} in three parts` },
      piece(0, 10, top(vaddr), "entry of the top level"), piece(10, 10, low(vaddr), "entry of the PTE page"), piece(20, 12, vaddr & FLAGS, "byte of the page")));
  }

  const no_tables = () => h("p.soft", {}, "There are no tables any more.");

  function walk(box) {
    const vaddr = model.get("vaddr"), access = model.get("access"), v = view(now(), slot());
    if (!v) return box.replaceChildren(no_tables());
    const g = asked(film, v, vaddr, access), c = walked(v, vaddr, access);
    const line = (where, entry, what) => h("tr", {}, h("td.mono", {}, where), entry === undefined ? h("td.soft", { colspan: 2 }, "not looked at")
      : [h("td.mono", { title: inWords(entry) }, short(entry)), h("td.mono", { title: inWords(entry) }, letters(entry))], h("td.mono", {}, entry & P ? what(entry >>> 12) : ""));
    const table = (whose, ...rows) => h("div.scroll", { tabindex: 0, role: "region", "aria-label": whose }, h("table.walk", {}, h("tbody", {}, rows)));
    const gbelow = g.gpgd & P ? `${short(g.gpgd & ~FLAGS)} + 4·${low(vaddr)}` : `entry ${low(vaddr)}`;
    box.replaceChildren(
      h("div.box", {}, h("h4.w2", {}, "Through the Guest's tables"), table("the Guest's entries",
        line(`${short(v.cr3)} + 4·${top(vaddr)}`, g.gpgd, (n) => `PTE page ${short(n)}`), line(gbelow, g.gpte, (n) => `page ${short(n)}`)),
        h("ul.checks", {}, g.checks.map(([ok, words]) => h("li", { class: ok ? "" : "new" }, `${ok ? "✓" : "✗"} ${words}`))),
        h("p.verdict", { "data-verdict": g.verdict }, c.pa === undefined ? g.words : `if it came to that: ${g.words}`)),
      h("div.box", {}, h("h4.w0", {}, "Through the shadow"), table("the shadow's entries",
        line(`frame ${short(v.pgdir)}, entry ${top(vaddr)}`, c.spgd, (n) => `frame ${short(n)}`),
        line(c.spgd & P ? `frame ${short(c.spgd >>> 12)}, entry ${low(vaddr)}` : `entry ${low(vaddr)}`, c.spte, (n) => `frame ${short(n)}`)),
        c.spte & P ? h("p.soft", {}, frame_name(c.spte >>> 12)) : "",
        h("p.verdict", { "data-verdict": c.pa === undefined ? "fault" : "passes" }, c.pa === undefined
          ? `✗ page fault, error code ${c.error}: the Host is asked` : `✓ the CPU goes to ${hex(c.pa)}, and nobody hears of it`)));
  }

  // The rows of a level: neighbours that look alike on both sides, now and before, are one row.
  function rows(index, g, sh, g0, s0, bottom) {
    const out = [], joined = (t, i, n) => (t[i - 1] ? bottom && t[i] === t[i - 1] + 4096 : !t[i]);
    for (let i = 0, last = null; i < 1024; i++) {
      if (!g[i] && !sh[i] && !g0[i] && !s0[i]) { last = null; continue; }
      const same = last && (g[i] === g0[i]) === last.gsame && (sh[i] === s0[i]) === last.ssame && [g, sh, g0, s0].every((t) => joined(t, i));
      if (same) last.n++; else out.push((last = { i, n: 1, gsame: g[i] === g0[i], ssame: sh[i] === s0[i] }));
    }
    return out.map(({ i, n }) => {
      const vaddr = bottom ? (index * 2 ** 22 + i * 4096) >>> 0 : (i * 2 ** 22) >>> 0, here = bottom ? i <= low(model.get("vaddr")) && low(model.get("vaddr")) < i + n : i === top(model.get("vaddr"));
      const [sign, word] = compared(film, bottom ? index : i, g[i], sh[i], bottom);
      return h("tr", { class: here ? "here" : "" }, h("td", {}, n > 1 ? h("span.mono", {}, `${i}–${i + n - 1}`) : h("span.mono", {}, i), " ", pick(vaddr)),
        cell(g[i], g0[i], page(g[i], n)), h("td", { title: word }, h("b.mono", {}, sign), " ", word), cell(sh[i], s0[i], page(sh[i], n)));
    });
  }

  function levels(box) {
    const k = slot(), v = view(now(), k);
    if (!v) return box.replaceChildren(no_tables());
    const v0 = view(before(), k) || { gtop: NONE, stop: NONE, gbelow: () => NONE, sbelow: () => NONE }, i = top(model.get("vaddr"));
    const moved = v.cr3 !== v0.cr3;                      // another table altogether: the Guest has changed nothing in it
    const g = v.gtop || NONE, gb = v.gbelow(i) || NONE, sb = v.sbelow(i) || NONE;
    const table = (caption, body) => h("div.scroll.tall", { tabindex: 0, role: "region", "aria-label": caption }, h("table", {}, h("thead", {}, h("tr", {},
      ["entry", "Guest: page, flags", "shadow is", "shadow: frame, flags"].map((t, n) => h("th", { class: ["", "w2", "", "w0"][n] }, t)))), h("tbody", {}, body)));
    const low_rows = rows(i, gb, sb, moved ? gb : v0.gbelow(i) || NONE, v0.sbelow(i) || NONE, true);
    box.replaceChildren(h("h4", {}, `Slot ${k}: the Guest's ${named(v.cr3)}, the shadow's frame ${short(v.pgdir)}`),
      v.gtop ? "" : h("p.new", {}, "The Guest's table is not in its memory."),
      table("top level", rows(0, g, v.stop, moved ? g : v0.gtop || NONE, v0.stop, false)),
      h("h4", {}, `Below entry ${i}`), low_rows.length ? table("PTE page", low_rows) : h("p.soft", {}, "Nothing, on either side."));
  }

  function across(box) {
    const f = now(), b = before();
    const at = (frame, k, vaddr) => { const v = view(frame, k); return v ? v.sbelow(top(vaddr))?.[low(vaddr)] : undefined; };
    const text = (frame, k, vaddr) => { const e = at(frame, k, vaddr); return !frame.slots[k] ? "" : e === undefined ? "no PTE page" : !e ? "empty" : `${short((e >>> 12) - film.base)} ${letters(e)}`; };
    box.replaceChildren(h("h4.w0", {}, "The same address in all shadows, as Guest pages"), h("div.scroll", {}, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "address"),
      f.slots.map((it, k) => h("th", {}, k === f.current ? "▶ " : "", it ? h("button.link", { type: "button", title: `look at slot ${k}`, onclick: () => set("slot", k) }, `slot ${k}`) : `slot ${k}`, h("br", {}), it ? named(it[0]) : "has no page")))),
      h("tbody", {}, places.map(([vaddr, name]) => h("tr", {}, h("td", {}, name, " ", pick(vaddr)),
        f.slots.map((_, k) => h("td.mono", { class: text(f, k, vaddr) !== text(b, k, vaddr) ? "new" : "" }, text(f, k, vaddr)))))))));
  }

  function held(box) {
    const f = now(), b = before(), v = view(f, slot()), vaddr = model.get("vaddr");
    const gpte = v?.gbelow(top(vaddr))?.[low(vaddr)] || 0, gpns = [...new Set([...watch, ...(gpte & P && gpte >>> 12 < film.pages ? [gpte >>> 12] : [])])];
    const count = (frame, pfn) => frame.refs[pfn] ?? 1;
    const ptes = (frame) => Object.keys(frame.shadow).filter((pfn) => !ours[pfn]);
    box.replaceChildren(h("h4", {}, "Who holds what"), ...gpns.map((gpn) => {
      const pfn = film.base + gpn, mine = holders(film, f, pfn), old = holders(film, b, pfn), n = count(f, pfn), was = count(b, pfn);
      return h("div.held", {}, h("span", {}, `Guest page ${short(gpn)} (frame ${short(pfn)}): `, h("b", { class: n === was ? "" : "new", "data-refs": gpn }, n === was ? n : `${was} → ${n}`), n === 1 ? " reference" : " references"),
        h("span.chips", {}, n > mine.length ? h("span.chip", {}, "● the Launcher") : "", n <= mine.length && was > old.length ? h("s.chip.soft", {}, "○ the Launcher") : "", mine.map((who) => h("span.chip.w0", { class: old.includes(who) ? "" : "new" }, `◆ ${who}`)),
          old.filter((who) => !mine.includes(who)).map((who) => h("s.chip.soft", {}, `◇ ${who}`))));
    }), h("div.held", {}, h("span", {}, "The shadows' own frames, one reference each: ", h("b", { class: ptes(f).length === ptes(b).length ? "" : "new", "data-frames": true }, ptes(f).length)),
      h("span.chips", {}, ptes(f).map((pfn) => h("span.chip", { class: pfn in b.shadow ? "" : "new" }, `${short(+pfn)}: ${f.refs[pfn]}`)),
        ptes(b).filter((pfn) => !(pfn in f.shadow)).map((pfn) => h("s.chip.soft", {}, `${short(+pfn)} is free`)))),
    h("p.soft", {}, `Frames in use on the whole machine: ${f.in_use === b.in_use ? f.in_use : `${b.in_use} → ${f.in_use}`}.`));
  }

  const made = { slots: [slots, "div"], split: [split, "div"], walk: [walk, "div.cols"], tables: [levels, "div"], places: [across, "div"], holders: [held, "div"] };
  const boxes = parts.map((part) => { const [draw, tag] = made[part]; return [draw, h(`${tag}.part`, { "data-part": part })]; });

  function draw() {
    const at = about[model.get("at")];
    if (el.shadowRoot?.activeElement !== entry_box) entry_box.value = hex(model.get("vaddr"));    // not while somebody types
    kind.value = model.get("access");
    jump.hidden = at == null || at === model.get("vaddr");
    jump.textContent = at == null ? "" : `this turn's ${short(at)}`;
    for (const [fill_box, box] of boxes) {
      const scrolled = [...box.querySelectorAll(".tall")].map((d) => d.scrollTop), focus = [...box.querySelectorAll("button")].indexOf(el.shadowRoot?.activeElement);
      fill_box(box);
      box.querySelectorAll(".tall").forEach((d, n) => { d.scrollTop = scrolled[n] || 0; });
      if (focus >= 0) box.querySelectorAll("button")[focus]?.focus();      // what was pressed is still in hand
    }
  }

  const needs_address = ["split", "walk", "tables", "holders"].some(has);
  frame(model, el, h("style", {}, `
    .ask { flex-wrap: wrap; margin: .4rem 0; } .part { margin: .7rem 0; } td { white-space: nowrap; }
    .slots { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 9rem), 1fr)); }
    .slot { display: grid; text-align: left; align-content: start; font-size: 12.5px; line-height: 1.4; gap: .1rem; }
    .slot[aria-pressed="true"] { background: var(--g0); color: var(--ink); border: 2px solid var(--w0); }
    .split { display: flex; gap: 3px; max-width: 44rem; } .piece { display: grid; justify-items: center; align-content: start; gap: .1rem; min-width: 0; text-align: center; font-size: 12.5px; }
    .bits { background: var(--g1); border-radius: 4px; width: 100%; letter-spacing: .15em; padding: .2rem 0; overflow-wrap: anywhere; } .piece:nth-child(2) .bits { background: var(--g2); } .piece:nth-child(3) .bits { background: var(--g3); }
    .checks { list-style: none; padding: 0; margin: .4rem 0; } .verdict { font-weight: 650; } .walk td { white-space: normal; border: 0; padding: .1rem .5rem .1rem 0; }
    .tall { max-height: 17rem; } .here td { background: var(--g1); } .here td.new { background: var(--new-ground); } thead th { position: sticky; top: 0; background: var(--box); }
    .link { border: 0; padding: 0; min-height: 0; background: none; text-decoration: underline; }
    .held { margin: .5rem 0; } .chips { display: flex; flex-wrap: wrap; gap: .3rem; margin-top: .2rem; } .chip { border: 1px solid var(--line); border-radius: 1em; padding: 0 .6em; background: var(--box); font-size: 12.5px; } .chip.new { background: var(--new-ground); }
    @media (max-width: 480px) { td { white-space: normal; } td, th { padding: .15rem .25rem; } }`),
    frames.length > 1 ? stepper(model, frames.length, (n, of) => `${n} of ${of - 1}: ${says[n]}`, { ms: 1200 }) : "",
    ...boxes.flatMap(([, box]) => (needs_address && box.dataset.part === parts.find((p) => p !== "slots" && p !== "places") ? [ask, box] : [box])),
    h("p.soft", {}, has("walk") || has("tables") || has("places") ? "Flags: p present, w writable, u user, a accessed, d dirty. " : "", frames.length > 1 ? "Red and bold: changed in this turn." : ""),
    parts.length > 1 || !has("split") ? legend([0, 2]) : "");
  for (const name of ["at", "vaddr", "slot", "access"]) model.on(`change:${name}`, draw);
  draw();
}

export default { render };
