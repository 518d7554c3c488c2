// Pictures on a page without a kernel: a model that remembers and tells, as the real one does, and talks to nobody.

async function unpack(packed) {
  if (typeof packed !== "string") return packed;
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

async function mount(picture, el) {
  el.dataset.mounted = "";
  const state = await unpack(JSON.parse(el.querySelector("script").textContent)), listeners = {};
  const tell = (event, ...args) => (listeners[event] || []).forEach((f) => f(...args));
  const model = {
    alone: true,
    get: (name) => state[name],
    set(name, value) { if (Object.is(state[name], value)) return; state[name] = value; tell(`change:${name}`); },
    on(events, f) { for (const event of events.split(" ")) (listeners[event] ||= []).push(f); },
    off() {}, send() {}, save_changes() {},
  };
  await picture.render({ model, el });
  el.replaceChildren();                                    // the still, which stays if there is no picture
}

// All pictures of this name on the page; `module` is asked for what draws them if there are any.
function draw(name, module) {
  const places = document.querySelectorAll(`.lguest-picture[data-picture="${name}"]:not([data-mounted])`);
  if (!places.length) return;
  const picture = module();
  for (const el of places) mount(picture, el);
}
