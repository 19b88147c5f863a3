// The boxes that Gradio lacks: the prompt (text and pictures in any order), and the picture to reconstruct.
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
    row(root.querySelector(".examples"));
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
        window.earlyfusion.go(null);
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
      button.addEventListener("click", () => {
        fill(box, JSON.parse(button.dataset.example));
        say(root, "");
        window.earlyfusion.go(null, JSON.parse(button.dataset.settings));
      });
    root.querySelector("[data-read]").addEventListener("click", () => window.earlyfusion.go({ do: "read", segments: segments(box) }));
    fill(box, window.earlyfusion.kept.prompt || []);
  }

  function single(root) {
    const box = root.querySelector(".drop");
    if (box.dataset.ready) return;
    box.dataset.ready = "yes";
    row(root.querySelector(".examples"));
    const take = async (files) => {
      if (!files.length) return;
      const image = await picture(root, files[0]);
      if (image) show(image);
    };
    const show = (image) => {
      box.replaceChildren(image);
      document.querySelector("#compared .ef")?.remove(); // of the picture before
    };
    box.addEventListener("paste", (event) => { event.preventDefault(); take([...event.clipboardData.files]); });
    box.addEventListener("dragover", (event) => { event.preventDefault(); box.classList.add("over"); });
    box.addEventListener("dragleave", () => box.classList.remove("over"));
    box.addEventListener("drop", (event) => { event.preventDefault(); box.classList.remove("over"); take([...event.dataTransfer.files]); });
    const input = root.querySelector("input[type=file]");
    input.addEventListener("change", async () => { await take([...input.files]); input.value = ""; });
    for (const button of root.querySelectorAll("[data-example]"))
      button.addEventListener("click", () => {
        fill(box, JSON.parse(button.dataset.example));
        show(box.firstChild);
        say(root, "");
        document.querySelector("#reconstruct").click();
      });
  }

  // A row of buttons is one stop for the Tab key; arrow keys go along it.
  function row(bar) {
    const buttons = [...bar.querySelectorAll("button")];
    buttons.forEach((button, i) => { button.tabIndex = i ? -1 : 0; });
    bar.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = step && buttons[buttons.indexOf(event.target) + step];
      if (!next) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }

  // How programs reach this page.
  function programs(root) {
    root.querySelector("[data-origin]").textContent = location.origin;
    root.querySelector("[data-copy]").dataset.copy = root.querySelector("pre").textContent;
  }

  // The line between a picture and its reconstruction.
  document.addEventListener("input", (event) => {
    const versus = event.target.closest && event.target.closest(".versus");
    if (versus) versus.style.setProperty("--at", `${event.target.value}%`);
  });

  // Gradio's arguments, the first replaced by the visitor's segments.
  const give = (selector, rest) => [segments(document.querySelector(selector)), ...rest.slice(1)];

  return { prompt, single, programs, give, segments, fill };
})();
