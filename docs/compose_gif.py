"""Makes the README's moving picture of the playground: two examples, run in a browser.

.venv/bin/python docs/compose_gif.py --out docs/playground.gif
"""

import argparse
import io
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.playground.app import build
from earlyfusion.playground.server import serve
from earlyfusion.playground.showcase import showcase_of
from earlyfusion.storage.hub import PRETRAINED

SIZE: Any = {"width": 1180, "height": 640}
WIDTH, COLORS = 760, 192
EVERY, STILL, MOST = 120, 1800, 14
"""Milliseconds of a frame while something is written and of a finished answer, and frames of an answer."""
CLICKS = ("[data-example]:has-text('draw a tiger')", "[data-example]:has-text('then an apple')")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="GIF file to write")
    args = parser.parse_args()
    model = load_model(weights="auto")
    about = {"model": "openmoji-words", "parameters": "4.4 million"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = serve(
        lambda: build(model, about, {}, Path("runs"), showcase_of(PRETRAINED)), "127.0.0.1", port, block=False
    )
    frames: list[tuple[Image.Image, int]] = []
    with sync_playwright() as playwright:
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        page.wait_for_selector("#gallery .things")
        page.wait_for_selector("#then input")
        page.wait_for_timeout(1000)
        frames.append((taken(page), STILL // 2))
        for click in CLICKS:
            page.evaluate("document.querySelector('#answer .ef')?.remove()")
            page.click(f"#compose-prompt {click}")
            for _ in range(MOST):
                frames.append((taken(page), EVERY))
                if page.locator('#answer [aria-busy="false"]').count():
                    break
            page.wait_for_selector('#answer [aria-busy="false"]')
            page.wait_for_timeout(300)
            frames.append((taken(page), STILL))
        browser.close()
    still = [frame for frame, time in frames if time >= STILL // 2]
    together = Image.new("RGB", (WIDTH, sum(frame.height for frame in still)))
    for number, frame in enumerate(still):
        together.paste(frame, (0, number * frame.height))
    palette = together.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    pictures = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame, _ in frames]
    times = [time for _, time in frames]
    pictures[0].save(
        args.out, save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True
    )
    print(f"{args.out}: {len(frames)} frames, {args.out.stat().st_size / 1e6:.2f} MB")
    os._exit(0)  # the server's threads


def taken(page: Any) -> Image.Image:
    frame = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return frame.resize((WIDTH, round(frame.height * WIDTH / frame.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
