// A picture on a page without a kernel: a model that remembers and tells, as the real one does, and talks to nobody.

async function unpack(packed) {
  if (typeof packed !== "string") return packed;
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

async function mount(picture, key, packed) {
  const el = document.querySelector(`.lguest-picture[data-key="${key}"]:not([data-mounted])`);
  if (!el) return;
  el.dataset.mounted = "";
  const state = await unpack(packed), listeners = {};
  const tell = (event, ...args) => (listeners[event] || []).forEach((f) => f(...args));
  const model = {
    alone: true,
    get: (name) => state[name],
    set(name, value) { if (Object.is(state[name], value)) return; state[name] = value; tell(`change:${name}`); },
    on(events, f) { for (const event of events.split(" ")) (listeners[event] ||= []).push(f); },
    off() {}, send() {}, save_changes() {},
  };
  el.replaceChildren();
  await picture.render({ model, el });
}
