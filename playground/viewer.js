// A picture of an answer, enlarged: to download, and to paint over the part that is drawn again.
Object.assign(window.earlyfusion, (() => {
  const WIDE = 480, SCALES = [1, 4, 8], MOST = 8192; // px of a side
  let viewer = null, image = null, painting = null;

  function made() {
    const dialog = document.createElement("dialog");
    dialog.className = "ef viewer";
    dialog.setAttribute("aria-label", "Picture");
    dialog.innerHTML = `<div class="canvas"><img class="px" alt=""><div class="cells" role="group" aria-label="Paint the part to redraw"></div></div>
      <p class="note">Paint over a part to have it redrawn; the rest stays.</p>
      <div class="bar-of-tools"><button type="button" class="redraw" disabled>Redraw the painted part</button><span>Download</span>${SCALES.map(
        (scale) => `<a data-scale="${scale}" href="#">×${scale}</a>`).join("")}<button type="button" class="close">Close</button></div>`;
    document.body.append(dialog);
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.querySelector(".redraw").addEventListener("click", redraw);
    const cells = dialog.querySelector(".cells");
    const cellAt = (event) => {
      const found = document.elementFromPoint(event.clientX, event.clientY);
      return found && found.parentElement === cells ? found : null;
    };
    const paint = (cell) => {
      if (!cell || painting === null) return;
      cell.ariaPressed = painting;
      dialog.querySelector(".redraw").disabled = !cells.querySelector('[aria-pressed="true"]');
    };
    cells.addEventListener("pointerdown", (event) => {
      const cell = cellAt(event);
      if (!cell) return;
      painting = cell.ariaPressed !== "true";
      paint(cell);
    });
    cells.addEventListener("pointermove", (event) => paint(cellAt(event)));
    addEventListener("pointerup", () => { painting = null; });
    cells.addEventListener("click", (event) => {
      if (event.detail) return; // the pointer has painted already; this is for keys
      painting = event.target.ariaPressed !== "true";
      paint(event.target);
      painting = null;
    });
    cells.addEventListener("keydown", (event) => {
      const columns = +cells.dataset.columns;
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
      const all = [...cells.children], next = step && all[all.indexOf(event.target) + step];
      if (!next) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    return dialog;
  }

  function open(picture) {
    viewer ??= made();
    image = picture;
    const { naturalWidth: width, naturalHeight: height } = picture;
    const side = Math.max(width, height);
    const scale = Math.min(Math.max(WIDE, 2 * side) / side, (innerWidth - 64) / width, Math.max(WIDE, innerHeight - 220) / height);
    const shown = viewer.querySelector("img");
    shown.src = picture.src;
    shown.alt = picture.alt;
    shown.width = Math.round(width * scale);
    shown.height = Math.round(height * scale);
    for (const link of viewer.querySelectorAll("[data-scale]")) {
      link.hidden = side * +link.dataset.scale > MOST;
      if (link.hidden) continue;
      const canvas = document.createElement("canvas");
      canvas.width = width * +link.dataset.scale;
      canvas.height = height * +link.dataset.scale;
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(picture, 0, 0, canvas.width, canvas.height);
      link.href = canvas.toDataURL("image/png");
      link.download = `earlyfusion-${canvas.width}x${canvas.height}.png`;
    }
    const factor = window.earlyfusion.factor(), cells = viewer.querySelector(".cells");
    const rows = Math.round(height / factor), columns = Math.round(width / factor);
    const known = picture.closest("figure[data-tokens]") && !picture.closest(".try");
    cells.dataset.columns = columns;
    cells.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
    cells.replaceChildren(
      ...Array.from({ length: known ? rows * columns : 0 }, (_, i) => {
        const cell = document.createElement("button");
        cell.type = "button";
        cell.ariaPressed = false;
        cell.ariaLabel = `row ${Math.floor(i / columns) + 1}, column ${(i % columns) + 1}`;
        cell.tabIndex = i ? -1 : 0;
        return cell;
      }),
    );
    viewer.classList.toggle("fixed", !known);
    viewer.querySelector(".redraw").disabled = true;
    viewer.showModal();
  }

  function redraw() {
    const figure = image.closest("figure[data-tokens]"), cells = viewer.querySelector(".cells");
    const block = [...figure.querySelectorAll(":scope > .document .drawn")].indexOf(image.closest(".drawn"));
    const marks = [...cells.children].map((cell) => +(cell.ariaPressed === "true")), columns = +cells.dataset.columns;
    const mask = Array.from({ length: marks.length / columns }, (_, row) => marks.slice(row * columns, (row + 1) * columns));
    viewer.close();
    window.earlyfusion.go({ do: "redraw", tokens: JSON.parse(figure.dataset.tokens), block, mask });
  }

  const pictureOf = (event) => event.target.closest && event.target.closest("#answer .drawn img, .session .drawn img");
  document.addEventListener("click", (event) => {
    if (pictureOf(event)) open(event.target);
    const one = event.target.dataset && event.target.dataset.enlarge; // the original, or its reconstruction
    if (one) open(event.target.closest(".labelled").querySelector(`.versus img[alt="${one}"]`));
  });
  document.addEventListener("keydown", (event) => {
    if (!pictureOf(event) || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    open(event.target);
  });

  return {};
})());
