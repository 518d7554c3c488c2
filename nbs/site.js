// What a page of the site does besides being read: it keeps your place and your notes, in this browser and nowhere else,
// and shows a term's meaning where the term stands. Everything works without storage, only not for long.
(() => {
  "use strict";
  const here = document.currentScript.dataset.page;
  const root = new URL("../".repeat(here.split("/").length - 1) || ".", location.href).pathname;
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => Array.from(from.querySelectorAll(selector));
  const main = $("main.content");

  // An element with attributes and children: strings are text, and no string is ever taken for HTML.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    element.append(...children);
    return element;
  };

  // --- what is kept -------------------------------------------------------------------------------------------------
  const KEY = "lguest_lit";
  let memory = "{}", kept = true;                       // for as long as the page is open, if there is no storage
  const load = () => {
    if (kept) try { memory = localStorage.getItem(KEY) || "{}"; } catch { kept = false; }
    let all;
    try { all = JSON.parse(memory); } catch { all = {}; }             // not ours, or damaged
    const part = (name) => (all && typeof all[name] === "object" && all[name]) || {};
    return { read: part("read"), notes: part("notes") };
  };
  const save = (all) => {
    memory = JSON.stringify(all);
    try { localStorage.setItem(KEY, memory); kept = true; } catch { kept = false; }
  };

  // --- which chapters have been read ----------------------------------------------------------------------------------
  const pageOf = (link) => decodeURI(new URL(link.href).pathname).slice(root.length);
  const isChapter = (page) => /^nbs\/[1-7]_/.test(page);
  const chapters = $$("#quarto-sidebar a.sidebar-link[href]").filter((link) => isChapter(pageOf(link)));
  const bars = [];

  const showProgress = () => {
    const { read } = load();
    chapters.concat(here === "nbs/index.html" ? $$("a[href]", main).filter((a) => a.origin === location.origin && !a.hash) : [])
      .forEach((link) => {
        const done = read[pageOf(link)] === 1;
        link.classList.toggle("read", done);
        if (done) link.setAttribute("aria-description", "read"); else link.removeAttribute("aria-description");
      });
    const done = chapters.filter((link) => read[pageOf(link)] === 1).length;
    const next = chapters.find((link) => read[pageOf(link)] !== 1);
    bars.forEach((bar) => {
      Object.assign($("progress", bar), { max: chapters.length, value: done });
      $(".count", bar).textContent = `${done} of ${chapters.length} chapters read`;
      const go = $(".next", bar);
      if (!go) return;
      go.hidden = !next;
      if (next) $("a", go).replaceChildren(next.textContent.trim());
      if (next) $("a", go).href = next.href;
    });
  };
  const setRead = (value) => {
    const all = load();
    all.read[here] = value;
    save(all);
    showProgress();
  };

  const bar = (...more) => {
    const box = make("div", { class: "journey" }, make("progress", { "aria-label": "Chapters read" }), make("span", { class: "count" }), ...more);
    bars.push(box);
    return box;
  };
  if (chapters.length) {
    const sidebar = $("#quarto-sidebar .sidebar-menu-container");
    if (sidebar) sidebar.before(bar());
    if (here === "nbs/index.html") {
      const forget = make("button", { type: "button", class: "btn btn-sm" }, "Forget what I have read and written");
      forget.addEventListener("click", () => {
        if (!confirm("Forget which chapters you have read, and all your notes?")) return;
        save({ read: {}, notes: {} });
        showProgress();
      });
      const next = make("p", { class: "next" }, "Next: ", make("a", { href: "#" }));
      const text = $("blockquote", main) || $("#title-block-header");
      text.after(bar(next, make("p", {}, "What you have read and what you write into the pages stays in this browser."), forget));
    }
    if (isChapter(here)) {
      const box = make("input", { type: "checkbox" });
      const row = make("p", { class: "chapter-read" }, make("label", {}, box, " I have read this chapter"));
      const end = $(".page-navigation", main);
      if (end) end.before(row); else main.append(row);
      const known = load().read[here];
      box.checked = known === 1;
      box.addEventListener("change", () => setRead(box.checked ? 1 : 0));
      // Whoever looks at the end of a chapter for a while has read it, unless they have said that they have not.
      let timer;
      if (known === undefined && window.IntersectionObserver) new IntersectionObserver(([entry], observer) => {
        clearTimeout(timer);
        if (entry.isIntersecting) timer = setTimeout(() => {
          observer.disconnect();
          if (load().read[here] === undefined) { box.checked = true; setRead(1); }
        }, 2000);
      }).observe(row);
    }
    showProgress();
  }

  $$(".cell > details > summary", main || document).filter((s) => s.textContent.trim() === "Solution").forEach((s) => s.closest(".cell").classList.add("solution"));

  // --- predictions and answers ----------------------------------------------------------------------------------------
  const counts = {};
  const addNote = (after, label) => {
    const section = after.closest("section[id]");
    const place = `${here}#${section ? section.id : ""}`;
    counts[place] = (counts[place] || 0) + 1;
    const key = `${place}.${counts[place]}`, id = `note-${$$(".note").length + 1}`;
    const text = make("textarea", { id, rows: "2", "aria-describedby": `${id}-kept` });
    const status = make("small", { id: `${id}-kept`, role: "status" });
    text.value = load().notes[key] || "";
    text.addEventListener("input", () => {
      const all = load();
      if (text.value) all.notes[key] = text.value; else delete all.notes[key];
      save(all);
      status.textContent = kept ? "kept in this browser" : "this browser keeps nothing: gone when you leave the page";
    });
    after.after(make("div", { class: "note" }, make("label", { for: id }, label), text, status));
  };
  if (main) {
    $$("p > strong:first-child", main).forEach((strong) => {
      if (strong.previousSibling || strong.closest(".cell") || !/^(Before you|Ask yourself)/.test(strong.textContent)) return;
      addNote(strong.closest("blockquote") || strong.parentElement, "Your prediction");
    });
    $$("h3", main).filter((heading) => /^Exercise \d/.test(heading.textContent)).forEach((heading) => {
      let last = heading;
      while (last.nextElementSibling && last.nextElementSibling.matches("p, ul, ol, div.sourceCode, .code-copy-outer-scaffold, .defined-here, .sd-table")) last = last.nextElementSibling;
      addNote(last, "Your answer");
    });
  }

  // --- terms ------------------------------------------------------------------------------------------------------------
  if (window.bootstrap && bootstrap.Tooltip) {
    const tips = new bootstrap.Tooltip(document.body, { selector: "a.term", trigger: "hover focus", delay: { show: 250, hide: 50 } });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") $$("a.term").forEach((a) => bootstrap.Tooltip.getInstance(a)?.hide()); });
    window.addEventListener("pagehide", () => tips.hide());
  }

  // --- the renderer's furniture, for those who do not see it or have no mouse -----------------------------------------------
  Object.entries({ ".navbar": "Site", "#quarto-sidebar": "Chapters", ".quarto-secondary-nav": "This page", ".page-navigation": "Previous and next", "#TOC": "On this page",
    ".quarto-page-breadcrumbs": "Where this page is", "#quarto-margin-sidebar": "Beside the text" })
    .forEach(([selector, label]) => $$(selector).forEach((box, n) => box.setAttribute("aria-label", n ? `${label} (${n + 1})` : label)));
  $("#quarto-margin-sidebar")?.setAttribute("role", "complementary");
  $$("i.bi").forEach((icon) => { icon.removeAttribute("role"); icon.setAttribute("aria-hidden", "true"); });
  $$(".quarto-color-scheme-toggle").forEach((toggle) => toggle.setAttribute("aria-label", "Light or dark"));
  $$("[data-bs-toggle='collapse']:not(button)").forEach((fold) => {
    fold.setAttribute("role", "button");
    if (fold.matches(".sidebar-item-toggle")) fold.setAttribute("aria-label", `Fold ${fold.previousElementSibling.textContent.trim()}`);
    else if (fold.matches(".sidebar-link")) { fold.removeAttribute("role"); fold.removeAttribute("aria-expanded"); return; }   // the arrow beside it does the same
    fold.tabIndex = 0;
    fold.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); fold.click(); } });
  });

  // --- what scrolls can be scrolled with the keyboard ---------------------------------------------------------------------
  const reach = () => $$("pre, .cell-output, .sd-table", main).forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0; else box.removeAttribute("tabindex");
  });
  if (main) { reach(); window.addEventListener("resize", reach); }
})();
