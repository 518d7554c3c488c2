// What all pictures share: colours that always mean the same thing, small builders, a stepper, and the frame around it all.
// A picture's own module follows this text and calls these functions; Picture puts the two together.

const WORLDS = ["Host", "Switcher", "Guest kernel", "Guest user"];
const world = (n) => `w${n}`;                       // the class that carries a world's colour
const hex = (n, digits = 8) => "0x" + (n >>> 0).toString(16).padStart(digits, "0");

// Build an element: h("td.mono", { title: "…", onclick: f }, "text", otherElement, [more]).
function h(tag, attrs, ...children) {
  const [name, ...classes] = tag.split(".");
  return fill(document.createElement(name || "div"), classes, attrs, children);
}

function s(tag, attrs, ...children) {               // the same for SVG
  const [name, ...classes] = tag.split(".");
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), classes, attrs, children);
}

// Text with `code` in it.
const rich = (text) => text.split("`").map((piece, i) => (i % 2 ? h("code", {}, piece) : piece));

function fill(node, classes, attrs, children) {
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attrs || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.setAttribute("class", [...classes, value].filter(Boolean).join(" "));
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity).filter((c) => c != null && c !== false));
  return node;
}

// Is the ground under an element dark? Sites, notebooks and browsers each say so in their own way; the colour says it in all.
function dark(element) {
  for (let at = element; at; at = at.parentElement || at.getRootNode().host) {
    const rgba = getComputedStyle(at).backgroundColor.match(/[\d.]+/g)?.map(Number) || [];
    if (rgba.length >= 3 && rgba[3] !== 0) return 0.3 * rgba[0] + 0.59 * rgba[1] + 0.11 * rgba[2] < 128;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

// The frame of a picture: a shadow root with our styles in it, a title, and light or dark as the page is.
function frame(model, el, ...children) {
  const shadow = el.shadowRoot || el.attachShadow({ mode: "open" });
  const root = h("section.picture", { "aria-label": model.get("label") },
    h("h3", {}, model.get("title")), ...children);
  el.setAttribute("data-lm-suppress-shortcuts", "");      // in JupyterLab a key that is pressed in here is for us: "c" copies no cell,
  root.addEventListener("keydown", (e) => {               // and Enter, which it takes for itself all the same, ends what is typed
    if (e.key === "Enter" && e.target.matches("input:not([type=range])")) e.target.dispatchEvent(new Event("change"));
  });
  const tint = () => root.classList.toggle("dark", dark(el));
  shadow.replaceChildren(h("style", {}, CSS), root);
  tint();
  const media = matchMedia("(prefers-color-scheme: dark)"), look = new MutationObserver(() => setTimeout(tint, 50));
  media.addEventListener("change", () => setTimeout(tint, 50));
  for (const node of [document.documentElement, document.body])
    look.observe(node, { attributes: true, attributeFilter: ["class", "style", "data-scheme", "data-bs-theme", "data-jp-theme-light"] });
  return root;
}

// The two colours of a world, and its name, as a legend that is never left out: colour alone says nothing to some.
const legend = (which = [0, 1, 2, 3]) =>
  h("p.legend", {}, which.map((n) => h("span", { class: world(n) }, WORLDS[n])));

// A slider with buttons, for a picture that has `count` moments; the moment is the model's `at`.
// `say` puts a moment into words: for the line below the slider, and for those who cannot see it.
// Keys, while the focus is anywhere in the picture: arrows, Home, End, space to play.
// `count` may be a function, for a picture that shows now this, now that; `on` names the traits that it depends on. To play is to take `stride` moments
// every `ms`.
function stepper(model, count, say = (n, of) => `${n + 1} of ${of}`, { marks = [], ms = 700, stride = 1, on: others = [] } = {}) {
  const last = () => (typeof count === "function" ? count() : count) - 1;
  const go = (n) => { model.set("at", Math.max(0, Math.min(last(), n))); model.save_changes(); };
  const slider = h("input", { type: "range", min: 0, max: last(), step: 1, "aria-label": "moment", oninput: () => go(+slider.value) });
  const button = (label, what, act) => h("button", { type: "button", title: what, "aria-label": what, onclick: act }, label);
  const back = button("◀", "step back", () => go(model.get("at") - 1));
  const on = button("▶", "step forward", () => go(model.get("at") + 1));
  const play = button("play", "play", () => (timer ? pause() : start()));
  const words = h("output", { "aria-live": "polite" });
  let timer = null;
  function start() {
    if (model.get("at") >= last()) go(0);
    play.textContent = "pause"; play.setAttribute("aria-label", "pause");
    timer = setInterval(() => (model.get("at") < last() ? go(model.get("at") + stride) : pause()), ms);
  }
  function pause() { clearInterval(timer); timer = null; play.textContent = "play"; play.setAttribute("aria-label", "play"); }
  function show() {
    const at = model.get("at");
    slider.max = last();
    slider.value = at;
    slider.setAttribute("aria-valuetext", say(at, last() + 1));
    words.textContent = say(at, last() + 1);
    back.disabled = at <= 0; on.disabled = at >= last();
  }
  for (const name of ["at", ...others]) model.on(`change:${name}`, show);
  const box = h("div.stepper", {}, h("div.row", {}, back, play, on, slider), words);
  const keys = { ArrowLeft: () => go(model.get("at") - 1), ArrowRight: () => go(model.get("at") + 1), Home: () => go(0), End: () => go(last()), " ": () => play.click() };
  setTimeout(() => box.closest(".picture")?.addEventListener("keydown", (e) => {
    const typing = e.composedPath()[0].matches?.("input:not([type=range]), select, textarea, button");
    if (keys[e.key] && !e.ctrlKey && !e.metaKey && !e.altKey && !(typing && (e.key === " " || /text|search|number/.test(e.composedPath()[0].type) || e.composedPath()[0].matches("select, textarea")))) {
      e.preventDefault(); keys[e.key]();
    }
  }));
  show();
  return box;
}

// The Guest's console beside a picture. `show(text)` says what stands on it now; what has come since the last time is marked.
function console_panel(title = "The Guest's console") {
  const pre = h("pre.console", { tabindex: 0, role: "log", "aria-label": title });
  const box = h("div.box", {}, h("h4", {}, title), pre);
  let before = "";
  box.show = (text) => {
    const old = text.startsWith(before) ? before : text;
    pre.replaceChildren(old, old.length < text.length ? h("span.new", {}, text.slice(old.length)) : "");
    pre.scrollTop = pre.scrollHeight;
    before = text;
  };
  return box;
}

// A segment descriptor's two words in a sentence.
function say_segment(a, b) {
  if (!(b & 0x8000)) return "not present";
  const ring = (b >>> 13) & 3, type = (b >>> 8) & 15;
  const base = ((a >>> 16) | ((b & 0xff) << 16) | (b & 0xff000000)) >>> 0, raw = (a & 0xffff) | (b & 0xf0000);
  const limit = b & 0x800000 ? raw * 4096 + 4095 : raw, where = `${hex(base)} to ${hex(base + limit)}`;
  if (!(b & 0x1000)) return `system: ${{ 2: "an LDT", 5: "a task gate", 9: "a task state", 11: "a task state, in use", 12: "a call gate" }[type] || `type ${type}`}, ring ${ring}, ${where}`;
  const kind = type & 8 ? `code${type & 4 ? ", conforming" : ""}${type & 2 ? "" : ", not readable"}` : `data${type & 4 ? ", grows downwards" : ""}${type & 2 ? "" : ", read-only"}`;
  return `${kind}, ring ${ring}, ${where}${b & 0x400000 ? "" : ", 16-bit"}${type & 1 ? "" : ", not accessed yet"}`;
}

// And a gate's.
function say_gate(a, b) {
  if (!(b & 0x8000)) return "no handler";
  const kind = { 5: "task gate", 6: "16-bit interrupt gate", 7: "16-bit trap gate", 14: "interrupt gate", 15: "trap gate" }[(b >>> 8) & 15] || "no gate";
  return `${kind} to ${hex(a >>> 16, 1)}:${hex(((a & 0xffff) | (b & 0xffff0000)) >>> 0)}, int from ring ${(b >>> 13) & 3 ? `${(b >>> 13) & 3} and inwards` : "0 only"}`;
}
