// The controls that Gradio lacks: the prompt (text and pictures in any order), the picture to reconstruct, and
// hovering over tokens and codes.
window.earlyfusion = (() => {
  const BYTES = 10 * 2 ** 20; // limits.PICTURE_BYTES
  const KINDS = /^image\/(png|jpeg|webp|gif|bmp)$/;

  const say = (root, text) => { root.querySelector(".said-by-page").textContent = text; };

  // A file -> an <img> that can be decoded, or null and a message.
  async function picture(root, file) {
    const name = file.name || "the picture";
    if (!KINDS.test(file.type)) return say(root, `${name} is not a PNG, JPEG, WebP, GIF or BMP file`), null;
    if (file.size > BYTES) return say(root, `${name} is larger than ${BYTES >> 20} MB: make it smaller`), null;
    const image = document.createElement("img");
    image.src = await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = reject;
      reader.readAsDataURL(file);
    });
    try {
      await image.decode();
    } catch {
      return say(root, `${name} cannot be read: it is damaged, or not a picture`), null;
    }
    image.alt = `picture ${name}`;
    say(root, "");
    return image;
  }

  function insert(box, node, range) {
    if (!range || !box.contains(range.commonAncestorContainer)) {
      box.append(node);
    } else {
      range.collapse(false);
      range.insertNode(node);
    }
    const after = document.createRange();
    after.setStartAfter(node);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(after);
  }

  // The place of a drop: between two letters, or beside the nearest node.
  function at(box, x, y) {
    let range = null;
    if (document.caretRangeFromPoint) range = document.caretRangeFromPoint(x, y);
    else if (document.caretPositionFromPoint) {
      const place = document.caretPositionFromPoint(x, y);
      if (place) {
        range = document.createRange();
        range.setStart(place.offsetNode, place.offset);
      }
    }
    if (range && range.startContainer !== box && box.contains(range.startContainer)) return range;
    let best = null;
    for (const child of box.childNodes) {
      const around = document.createRange();
      around.selectNode(child);
      for (const rect of around.getClientRects()) {
        const far = Math.hypot(Math.max(rect.left - x, 0, x - rect.right), Math.max(rect.top - y, 0, y - rect.bottom));
        if (!best || far < best.far) best = { far, child, after: x > (rect.left + rect.right) / 2 };
      }
    }
    if (!best) return null;
    range = document.createRange();
    if (best.after) range.setStartAfter(best.child);
    else range.setStartBefore(best.child);
    return range;
  }

  const here = (box) => {
    const selection = getSelection();
    return selection.rangeCount && box.contains(selection.anchorNode) ? selection.getRangeAt(0) : null;
  };

  function ready(image) {
    image.tabIndex = 0;
    image.draggable = true;
    image.title = "Drag or press Alt and an arrow key to move; Delete removes it";
    return image;
  }

  // The box as segments, in order: [{text}, {image: data URI}].
  function segments(box) {
    const out = [];
    const text = (s) => {
      if (!s) return;
      const last = out[out.length - 1];
      if (last && "text" in last) last.text += s;
      else out.push({ text: s });
    };
    (function walk(node) {
      for (const child of node.childNodes) {
        if (child.nodeType === Node.TEXT_NODE) text(child.data.replace(/\u00a0/g, " "));
        else if (child.nodeName === "IMG") out.push({ image: child.src });
        else if (child.nodeName === "BR") {
          // An empty line is a block with only a BR, and browsers may add a BR at the end of the box.
          const filler = child === box.lastChild || (node !== box && node.childNodes.length === 1);
          if (!filler) text("\n");
        } else {
          if (/^(DIV|P)$/.test(child.nodeName) && child.previousSibling) text("\n");
          walk(child);
        }
      }
    })(box);
    return out.filter((segment) => segment.text !== "");
  }

  function fill(box, given) {
    box.replaceChildren(
      ...given.map((segment) => {
        if ("text" in segment) return document.createTextNode(segment.text);
        const image = ready(document.createElement("img"));
        image.src = segment.image;
        image.alt = "example picture";
        return image;
      }),
    );
  }

  function prompt(root) {
    const box = root.querySelector(".prompt");
    if (box.dataset.ready) return;
    box.dataset.ready = "yes";
    let dragged = null;
    const take = async (files, range) => {
      for (const file of files) {
        const image = await picture(root, file);
        if (image) {
          insert(box, ready(image), range);
          range = here(box);
        }
      }
    };
    box.addEventListener("paste", (event) => {
      event.preventDefault(); // drop the markup of other pages
      const files = [...event.clipboardData.files];
      if (files.length) take(files, here(box));
      else document.execCommand("insertText", false, event.clipboardData.getData("text/plain"));
    });
    box.addEventListener("dragstart", (event) => { dragged = event.target.nodeName === "IMG" ? event.target : null; });
    box.addEventListener("dragend", () => { dragged = null; });
    box.addEventListener("dragover", (event) => { event.preventDefault(); box.classList.add("over"); });
    box.addEventListener("dragleave", () => box.classList.remove("over"));
    box.addEventListener("drop", (event) => {
      event.preventDefault();
      box.classList.remove("over");
      const range = at(box, event.clientX, event.clientY);
      if (dragged) insert(box, dragged, range);
      else if (event.dataTransfer.files.length) take([...event.dataTransfer.files], range);
      else insert(box, document.createTextNode(event.dataTransfer.getData("text/plain")), range);
      dragged = null;
    });
    box.addEventListener("keydown", (event) => {
      const image = event.target.nodeName === "IMG" ? event.target : null;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        document.querySelector("#generate").click();
      } else if (image && (event.key === "Delete" || event.key === "Backspace")) {
        event.preventDefault();
        image.remove();
        box.focus();
      } else if (image && event.altKey && event.key === "ArrowLeft" && image.previousSibling) {
        event.preventDefault();
        image.previousSibling.before(image);
        image.focus();
      } else if (image && event.altKey && event.key === "ArrowRight" && image.nextSibling) {
        event.preventDefault();
        image.nextSibling.after(image);
        image.focus();
      }
    });
    let caret = null; // kept, since a file dialog takes the focus
    box.addEventListener("blur", () => { caret = here(box) && here(box).cloneRange(); });
    const input = root.querySelector("input[type=file]");
    input.addEventListener("change", async () => {
      const place = caret;
      box.focus();
      await take([...input.files], place); // the caret ends up after the last picture
      input.value = "";
    });
    root.querySelector("[data-clear]").addEventListener("click", () => { box.replaceChildren(); say(root, ""); box.focus(); });
    for (const button of root.querySelectorAll("[data-example]"))
      button.addEventListener("click", () => { fill(box, JSON.parse(button.dataset.example)); say(root, ""); });
  }

  function single(root) {
    const box = root.querySelector(".drop");
    if (box.dataset.ready) return;
    box.dataset.ready = "yes";
    const take = async (files) => {
      if (!files.length) return;
      const image = await picture(root, files[0]);
      if (image) box.replaceChildren(image);
    };
    box.addEventListener("paste", (event) => { event.preventDefault(); take([...event.clipboardData.files]); });
    box.addEventListener("dragover", (event) => { event.preventDefault(); box.classList.add("over"); });
    box.addEventListener("dragleave", () => box.classList.remove("over"));
    box.addEventListener("drop", (event) => { event.preventDefault(); box.classList.remove("over"); take([...event.dataTransfer.files]); });
    const input = root.querySelector("input[type=file]");
    input.addEventListener("change", async () => { await take([...input.files]); input.value = ""; });
    for (const button of root.querySelectorAll("[data-example]"))
      button.addEventListener("click", () => { fill(box, JSON.parse(button.dataset.example)); say(root, ""); });
  }

  // Gradio's arguments, the first replaced by the visitor's segments.
  const give = (selector, rest) => [segments(document.querySelector(selector)), ...rest.slice(1)];

  // Each answer has a random ticket, which the Stop button sends.
  let ticket = "";
  function begin(rest) {
    ticket = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return [...give("#compose-prompt .prompt", rest).slice(0, 1), ticket, ...rest.slice(2)];
  }

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
    const code = /code (\d+)(?: of slot 1)?,/.exec(cell.title); // the map shows the first slot
    if (book && code && cell.classList.contains("image"))
      codesOf(book).forEach((line, row) => {
        const column = line.indexOf(+code[1]);
        if (column >= 0) frame(book, row, column);
      });
  }

  const tokenOf = (event) => event.target.closest && event.target.closest(".inspected .tokens i");
  for (const kind of ["mouseover", "focusin", "click"])
    document.addEventListener(kind, (event) => {
      const cell = tokenOf(event);
      if (cell) show(cell);
    });
  document.addEventListener("keydown", (event) => {
    const cell = tokenOf(event);
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
      coded.parentElement.querySelector(".status").textContent = `code ${code}`;
    } else {
      const cell = coded.closest(".inspected").querySelector(`[data-block="${coded.dataset.block}"][data-place="${row},${column}"]`);
      if (cell) show(cell);
    }
  });
  // The strip is one stop for the Tab key.
  new MutationObserver(() => {
    for (const strip of document.querySelectorAll(".inspected .tokens:not([data-keys])")) {
      strip.dataset.keys = "yes";
      [...strip.children].forEach((cell, i) => {
        cell.tabIndex = i ? -1 : 0;
        cell.setAttribute("role", "img");
        cell.setAttribute("aria-label", cell.title);
      });
    }
  }).observe(document, { childList: true, subtree: true });

  // "Use as prompt": a finished sample fills the prompt box.
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("#answer [data-continue]");
    if (!button) return;
    const parts = [...button.closest("figure").querySelectorAll(".said, .drawn img")];
    const box = document.querySelector("#compose-prompt .prompt");
    fill(box, parts.map((part) => (part.nodeName === "IMG" ? { image: part.src } : { text: part.textContent })));
    box.focus();
  });

  return { prompt, single, give, begin, segments, ticket: () => ticket };
})();
