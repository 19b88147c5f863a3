"""Response times of the playground, and whether its memory stays constant.

    .venv/bin/python benchmarks/speed/playground.py --out benchmarks/speed/playground.json

Starts `earlyfusion playground` in a separate process, opens it in Debian's chromium, and measures:

- the time from the start of the command until the browser shows the first piece of a result (the page is
  opened as soon as its address is printed, an example is clicked, Generate is pressed), for several starts;
- the time from pressing the button until the first word or row is shown, and until the result is complete,
  for several prompts, several times each, alternately;
- the resident memory of the process over 200 API requests: compose, inspect and reconstruct alternately.
"""

import argparse
import importlib
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from machine import commit, processor, write_figures
from playwright.sync_api import Page, sync_playwright

from earlyfusion.playground.examples import prompts, scans

FIRST, WHOLE = "#answer .made", '#answer [aria-busy="false"]'
EXAMPLES = ("A red apple:", "what is this?", "read this", "a word in type")


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum, in seconds."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


@contextmanager
def started() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command; yields its process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("earlyfusion")), "playground", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if " at http" in line:
                yield process, f"http://127.0.0.1:{port}/"
                break
        else:
            raise RuntimeError(f"the playground ended with exit code {process.wait()}")
    finally:
        process.terminate()
        process.wait()


def press(page: Page, example: str) -> tuple[float, float]:
    """Seconds from pressing the button to the first piece, and to the complete result."""
    page.click("[data-clear]")
    page.evaluate("document.querySelector('#answer .ef').replaceChildren()")
    page.click(f"#compose-prompt button:has-text('{example}')")
    # The page itself takes both times: a check from outside takes longer than a word.
    page.evaluate(
        """([first, whole]) => { window.moments = {};
        const look = () => { const now = performance.now();
          if (document.querySelector(first)) moments.first ??= now;
          if (document.querySelector(whole)) { moments.whole ??= now; return; }
          requestAnimationFrame(look); };
        document.querySelector('#generate').addEventListener(
          'click', () => { moments.pressed = performance.now(); look(); }, {once: true, capture: true}); }""",
        [FIRST, WHOLE],
    )
    page.click("#generate")
    page.wait_for_function("() => moments.whole")
    moments = page.evaluate("moments")
    pressed, whole = moments["pressed"], moments["whole"]
    return (moments.get("first", whole) - pressed) / 1000, (whole - pressed) / 1000


def resident(process: subprocess.Popen[str]) -> float:
    """MiB of the process."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def requests(process: subprocess.Popen[str], address: str, count: int) -> list[float]:
    """MiB after each tenth of ``count`` requests."""
    client: Any = importlib.import_module("gradio_client").Client(address, verbose=False)
    examples, pictures = [segments for _, segments in prompts()], [s[0]["image"] for _, s in scans()]
    rng = random.Random(0)
    document: list[int] = []
    memory = []
    for number in range(count):
        kind = number % 3
        if kind == 0:
            settings = {"samples": rng.randrange(1, 5), "seed": number}
            document = client.predict(rng.choice(examples), settings, api_name="/compose")[0]["tokens"]
        elif kind == 1:
            client.predict(document, api_name="/inspect")
        else:
            client.predict(rng.choice(pictures), None, api_name="/reconstruct")
        if (number + 1) % (count // 10) == 0:
            memory.append(resident(process))
            print(number + 1, memory[-1], flush=True)
    return memory


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--starts", type=int, default=5, help="starts of the command (default: 5)")
    parser.add_argument("--presses", type=int, default=10, help="runs of each example (default: 10)")
    parser.add_argument("--requests", type=int, default=200, help="API requests (default: 200)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "machine": f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
        "commit": commit(),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        starts, first, whole = [], {e: [] for e in EXAMPLES}, {e: [] for e in EXAMPLES}
        for start in range(args.starts):
            began = time.perf_counter()
            with started() as (process, address):
                page = browser.new_page()
                page.goto(address)
                page.wait_for_selector("#compose-prompt .prompt[data-ready]")
                page.click(f"#compose-prompt button:has-text('{EXAMPLES[0]}')")
                page.click("#generate")
                page.wait_for_selector(FIRST)
                starts.append(time.perf_counter() - began)
                print(f"start {start}: {starts[-1]:.1f} s", flush=True)
                page.wait_for_selector(WHOLE)
                if start + 1 < args.starts:
                    continue
                for _ in range(args.presses):
                    for example in EXAMPLES:
                        seconds = press(page, example)
                        first[example].append(seconds[0])
                        whole[example].append(seconds[1])
                page.close()
                result["seconds_to_first_output"] = spread(starts)
                result["seconds_from_button_to_first_piece"] = {e: spread(v) for e, v in first.items()}
                result["seconds_from_button_to_whole_answer"] = {e: spread(v) for e, v in whole.items()}
                result["resident_mib"] = {"before": resident(process)}
                result["resident_mib"]["after_each_tenth"] = requests(process, address, args.requests)
        browser.close()
    print(json.dumps(result, indent=2))
    if args.out:
        write_figures(args.out, result)


if __name__ == "__main__":
    main()
