// Asking, and the session of a visitor, which only the browser keeps: prompt, settings, answers, and two answers
// pinned side by side.
Object.assign(window.earlyfusion, (() => {
  const KEY = "earlyfusion", MOST = 24, NARROW = 700;
  const { segments, fill } = window.earlyfusion;
  const kept = { prompt: null, settings: null, answers: [], pinned: [], last: 0 };
  try {
    Object.assign(kept, JSON.parse(sessionStorage.getItem(KEY)));
  } catch {
    // a storage that is closed or broken: start from scratch
  }
  let facts = { names: [], presets: {}, start: {}, draw: {}, things: {} };
  let root = null, wanted = null, ticket = "";
  let example = null; // the last one, until something else is asked: its prompt, and the settings before and after
  const box = () => document.querySelector("#compose-prompt .prompt");
  const reply = () => document.querySelector("#answer");

  function keep() {
    for (;;)
      try {
        return sessionStorage.setItem(KEY, JSON.stringify(kept));
      } catch {
        if (!kept.answers.length) return;
        kept.answers.shift(); // full: the oldest goes
      }
  }
  addEventListener("pagehide", () => {
    if (box()) kept.prompt = segments(box());
    keep();
  });

  // An element that Gradio may still be loading.
  async function when(selector) {
    for (let wait = 0; wait < 200 && !document.querySelector(selector); wait++) await new Promise((done) => setTimeout(done, 50));
    return document.querySelector(selector);
  }

  // Send a request, null: what the prompt says; settings: an example's, which replace all others.
  async function go(request, settings) {
    for (let wait = 0; wait < 200 && reply().querySelector('[aria-busy="true"]'); wait++) {
      if (!wait) document.querySelector("#stop").click();
      await new Promise((done) => setTimeout(done, 100));
    }
    wanted = { request, settings: settings && { ...facts.start, ...settings } };
    document.querySelector("#generate").click();
  }
  document.addEventListener("click", (event) => {
    if (event.isTrusted && event.target.closest && event.target.closest("#generate")) wanted = null;
  }, true);

  const merged = (values, over) => values.map((value, i) => (over && facts.names[i] in over ? over[facts.names[i]] : value));

  // The settings of the next answer, which the page then shows.
  function settle(fresh, values) {
    const over = { ...(wanted && wanted.settings) };
    const prompt = JSON.stringify(segments(box()));
    // Without the settings of the last example, but with what the visitor has set since.
    const own = example ? values.map((value, i) => (value === example.after[i] ? example.before[i] : value)) : values;
    if (wanted && wanted.settings) example = { prompt, before: [...own] };
    else if (example && prompt === example.prompt) values.forEach((value, i) => { if (value !== example.after[i]) example.before[i] = value; });
    else if (example && !(wanted && wanted.request) && prompt !== example.prompt) {
      values = own;
      example = null;
    }
    if (fresh && !(wanted && wanted.settings && "seed" in wanted.settings)) over.seed = Math.floor(1e6 * Math.random());
    kept.settings = merged(values, over);
    if (example && prompt === example.prompt) example.after = kept.settings;
    return kept.settings;
  }

  // The arguments of the next answer; its random ticket is what the Stop button sends.
  function begin(rest) {
    const request = (wanted && wanted.request) || { do: "compose", segments: segments(box()) };
    wanted = null;
    ticket = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const top = reply().getBoundingClientRect().top;
    if (innerWidth < NARROW || top < 0 || top > innerHeight * 0.7) reply().scrollIntoView({ block: "start" });
    return [request, ticket, ...rest.slice(2)];
  }

  const preset = (name, values) => merged(values, facts.presets[name]);
  const remembered = (values) => (kept.settings && kept.settings.length === values.length ? kept.settings : values);

  // Keep finished answers.
  new MutationObserver(() => {
    const region = document.querySelector('#answer [aria-busy="false"]:not([data-kept])');
    if (!region) return;
    region.dataset.kept = "yes";
    for (const figure of region.querySelectorAll("figure[data-tokens]")) {
      figure.dataset.id = ++kept.last;
      kept.answers.push({ id: kept.last, html: figure.outerHTML });
    }
    kept.answers.splice(0, kept.answers.length - MOST);
    keep();
    render();
  }).observe(document, { childList: true, subtree: true });

  const saidBy = (figure, between = "") => [...figure.querySelectorAll(":scope > .document .said")].map((one) => one.textContent).join(between);

  // Past answers, newest first, and those that are pinned.
  function render() {
    if (!root) return;
    const made = (html) => document.createRange().createContextualFragment(html).firstChild;
    const known = new Map(kept.answers.map((answer) => [answer.id, answer]));
    kept.pinned = kept.pinned.filter((id) => known.has(id));
    const pins = document.createElement("div");
    pins.className = "pins";
    pins.append(...kept.pinned.map((id) => made(known.get(id).html)));
    const past = document.createElement("div");
    past.className = "past";
    for (const { id, html } of [...kept.answers].reverse()) {
      const figure = made(html), button = document.createElement("button");
      const pictures = figure.querySelectorAll(":scope > .document .drawn img");
      const says = saidBy(figure, " … ");
      button.type = "button";
      button.dataset.past = id;
      button.ariaPressed = kept.pinned.includes(id);
      button.title = `${says || "a picture"}: pin or unpin`;
      if (pictures.length) button.append(Object.assign(document.createElement("img"), { src: pictures[pictures.length - 1].src, alt: "" }));
      button.append(Object.assign(document.createElement("span"), { textContent: says.slice(0, 40) || "a picture" }));
      past.append(button);
    }
    const title = made("<h2>This session</h2>");
    const told = made('<p class="note">Kept in this browser tab only. Click an answer to pin it; two stand side by side. <button type="button" data-forget>Forget all</button></p>');
    root.replaceChildren(title, pins, told, past);
    root.hidden = !kept.answers.length;
  }

  function pin(id) {
    kept.pinned = kept.pinned.includes(id) ? kept.pinned.filter((one) => one !== id) : [...kept.pinned, id].slice(-2);
    keep();
    render();
  }

  function session(element, given) {
    facts = given;
    root = element.querySelector(".session");
    if (kept.answers.length && !kept.pinned.length) kept.pinned = [kept.answers[kept.answers.length - 1].id];
    render();
  }

  async function copy(button, text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1200);
  }

  const DO = {
    inspect: (figure) => window.earlyfusion.look(figure),
    pin: (figure) => pin(+figure.dataset.id),
    text: (figure, button) => copy(button, saidBy(figure)),
    continue(figure) {
      const parts = [...figure.querySelectorAll(":scope > .document :is(.said, .drawn img)")];
      fill(box(), parts.map((part) => (part.nodeName === "IMG" ? { image: part.src } : { text: part.textContent })));
      box().focus();
    },
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("button");
    if (!button) return;
    const { do: verb, copy: text, past, thing, forget } = button.dataset;
    if (verb) DO[verb](button.closest("figure"), button);
    else if (text) copy(button, text);
    else if (past) pin(+past);
    else if (thing) {
      fill(box(), [{ text: facts.things[thing] }]);
      go(null, facts.draw);
    } else if (forget !== undefined) {
      Object.assign(kept, { answers: [], pinned: [] });
      keep();
      render();
    }
  });
  document.addEventListener("input", (event) => {
    if (!event.target.matches || !event.target.matches("[data-find]")) return;
    const sought = event.target.value.trim().toLowerCase();
    for (const cell of document.querySelectorAll(".things button")) cell.hidden = !cell.dataset.thing.toLowerCase().includes(sought);
  });

  return { kept, when, go, settle, begin, preset, remembered, session, ticket: () => ticket, factor: () => facts.factor };
})());
