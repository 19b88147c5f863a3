// The tab Inspect: hovering over tokens and codes, the rivals of a token, and forks.
Object.assign(window.earlyfusion, (() => {
  // Hovering: a token of the strip, or a cell of the codebook's map.
  function frame(coded, row, column) {
    const spot = coded.querySelector(".spot");
    const rows = +coded.dataset.rows, columns = +coded.dataset.columns;
    spot.style.display = "block";
    spot.style.left = `${(100 * column) / columns}%`;
    spot.style.top = `${(100 * row) / rows}%`;
    spot.style.width = `${100 / columns}%`;
    spot.style.height = `${100 / rows}%`;
  }

  const codesOf = (book) => (book.codes ??= JSON.parse(book.dataset.codes));

  function show(cell) {
    const page = cell.closest(".inspected");
    for (const other of page.querySelectorAll(".tokens .here")) other.classList.remove("here");
    cell.classList.add("here");
    page.querySelector(".status").textContent = cell.title;
    for (const coded of page.querySelectorAll(".coded")) coded.querySelector(".spot").style.display = "none";
    if (cell.dataset.place) {
      const [row, column] = cell.dataset.place.split(",").map(Number);
      for (const coded of page.querySelectorAll(`.coded[data-block="${cell.dataset.block}"]`)) frame(coded, row, column);
    }
    const book = document.querySelector(".book");
    if (book && cell.classList.contains("image"))
      codesOf(book).forEach((line, row) => {
        const column = line.indexOf(codeOf(cell));
        if (column < 0 || codeOf(cell) < 0) return;
        frame(book, row, column);
        magnify(book, row, column);
      });
  }

  const codeOf = (cell) => +(/code (\d+)(?: of slot 1)? \(/.exec(cell.title) || [0, -1])[1]; // the map shows the first slot

  // The neighborhood of a code, enlarged.
  function magnify(book, row, column) {
    const lens = book.parentElement.querySelector(".lens"), side = +book.dataset.rows, cells = 3;
    const size = lens.clientWidth / cells;
    lens.style.backgroundImage = `url(${book.querySelector(".px").src})`;
    lens.style.backgroundSize = `${side * size}px`;
    lens.style.backgroundPosition = `${(1 - column) * size}px ${(1 - row) * size}px`;
    book.parentElement.querySelector(".status").textContent = `code ${codesOf(book)[row][column]}`;
  }

  // Cover the codes that the inspected document does not use.
  function veil(book, on) {
    const canvas = book.querySelector(".veil"), codes = codesOf(book);
    canvas.hidden = !on;
    if (!on) return;
    const used = new Set([...document.querySelectorAll(".inspected .tokens i.image")].map(codeOf));
    canvas.width = canvas.height = codes.length;
    const context = canvas.getContext("2d");
    context.fillStyle = "#8a90a0e6";
    codes.forEach((line, row) => line.forEach((code, column) => { if (!used.has(code)) context.fillRect(column, row, 1, 1); }));
  }
  document.addEventListener("change", (event) => {
    if (event.target.matches && event.target.matches("[data-used]")) veil(document.querySelector(".book"), event.target.checked);
  });

  // The document that is inspected, {tokens, given}, and the request that the server is sent.
  const inspected = { tokens: [] };
  async function ask(button, request) {
    window.earlyfusion.asked = request;
    (await window.earlyfusion.when(button)).click();
  }
  const tab = (name) => [...document.querySelectorAll("[role=tab]")].find((one) => one.innerText.trim() === name)?.click();
  function look(figure) {
    inspected.tokens = JSON.parse(figure.dataset.tokens);
    tab("Inspect");
    ask("#look", { tokens: inspected.tokens, given: +figure.dataset.given });
  }

  const tokenOf = (event) => event.target.closest && event.target.closest(".inspected .tokens i");
  for (const kind of ["mouseover", "focusin", "click"])
    document.addEventListener(kind, (event) => {
      const cell = tokenOf(event);
      if (cell) show(cell);
    });
  document.addEventListener("click", (event) => {
    const cell = tokenOf(event);
    if (cell && +cell.dataset.token) ask("#rivals-of", { tokens: inspected.tokens, place: +cell.dataset.token });
    const fork = event.target.closest && event.target.closest("[data-fork]");
    if (!fork) return;
    const [place, token] = fork.dataset.fork.split(",").map(Number);
    tab("Compose");
    window.earlyfusion.go({ do: "fork", tokens: inspected.tokens, place, token });
  });
  document.addEventListener("keydown", (event) => {
    const cell = tokenOf(event);
    if (cell && event.key === "Enter") return cell.click();
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    if (!cell || !step) return;
    event.preventDefault();
    const all = [...cell.parentElement.children];
    const next = all[Math.max(0, Math.min(all.length - 1, all.indexOf(cell) + step))];
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  // Hovering over an inspected picture selects its tokens; hovering over the map shows code numbers.
  document.addEventListener("mousemove", (event) => {
    const coded = event.target.closest && event.target.closest(".coded");
    if (!coded) return;
    const box = coded.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * +coded.dataset.rows);
    const column = Math.floor(((event.clientX - box.left) / box.width) * +coded.dataset.columns);
    if (coded.classList.contains("book")) {
      const code = (codesOf(coded)[row] || [])[column];
      if (!(code >= 0)) return;
      frame(coded, row, column);
      magnify(coded, row, column);
    } else {
      const cell = coded.closest(".inspected").querySelector(`[data-block="${coded.dataset.block}"][data-place="${row},${column}"]`);
      if (cell) show(cell);
    }
  });
  // The strip is one stop for the Tab key.
  new MutationObserver(() => {
    for (const strip of document.querySelectorAll(".inspected .tokens:not([data-keys])")) {
      strip.dataset.keys = "yes";
      const used = document.querySelector("[data-used]"); // by another document than before
      if (used && used.checked) veil(document.querySelector(".book"), true);
      [...strip.children].forEach((cell, i) => {
        cell.tabIndex = i ? -1 : 0;
        cell.setAttribute("role", "button");
        cell.setAttribute("aria-label", cell.title);
      });
    }
  }).observe(document, { childList: true, subtree: true });

  return { look };
})());
