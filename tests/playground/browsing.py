"""Helpers of the tests in a browser, and how it is started: Debian's chromium, driven by Playwright."""

import os
import shutil
from pathlib import Path
from typing import Any

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
NO_CHROMIUM = "no chromium (Debian: apt install chromium, else name one in CHROMIUM)"
SHOTS = os.environ.get("SCREENSHOTS")
"""A folder for screenshots of the page."""
PATIENCE = 60_000
"""Timeout in milliseconds, generous for busy machines."""
DONE = '#answer [aria-busy="false"]'
CONTROLS = (
    "#compose-prompt .prompt[data-ready]",
    "#generate",
    "#then input",
    "#samples input[type=range]",
    "#answer .ef",
)
"""Gradio loads each kind of control separately, in any order."""


def opened(browser: Any, address: str, troubles: list[str], **options: Any) -> Any:
    """The page in a window of its own; errors, and requests to other machines, go to ``troubles``."""
    page = browser.new_context(**({"viewport": {"width": 1400, "height": 1000}} | options)).new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
    page.on("response", lambda answer: troubles.append(answer.url) if answer.status >= 400 else None)

    def left(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            troubles.append(request.url)

    page.on("request", left)
    page.goto(address)
    for control in CONTROLS:
        page.wait_for_selector(control)
    return page


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def generate(page: Any) -> None:
    page.evaluate("document.querySelector('#answer [aria-busy]')?.remove()")  # the answer before
    page.click("#generate")
    page.wait_for_selector(DONE)


def ask(page: Any, text: str) -> None:
    """Type a prompt, and wait for its answer."""
    page.fill("#compose-prompt .prompt", text)
    generate(page)


def press(page: Any, example: str) -> None:
    """Press an example's button, and wait for its answer."""
    page.evaluate("document.querySelector('#answer [aria-busy]')?.remove()")
    page.click(f"#compose-prompt [data-example]:has-text('{example}')")
    page.wait_for_selector(DONE)


def style(page: Any, name: str) -> None:
    page.click(f"#preset label:has-text('{name}')")


def inspect(page: Any) -> None:
    page.evaluate("document.querySelector('.inspected')?.remove()")  # the document before
    page.locator("#answer [data-do=inspect]").last.click()
    page.wait_for_selector(".inspected .tokens[data-keys]")


def watch_answer(page: Any) -> None:
    """Record the answer at every change."""
    page.evaluate(
        """() => { window.seen = [];
        const look = () => { const a = document.querySelector('#answer');
          window.seen.push([a.innerText, a.querySelectorAll('.made').length]); };
        new MutationObserver(look).observe(document.querySelector('#answer'), {childList: true, subtree: true,
          characterData: true}); }"""
    )


PROMPT = "earlyfusion.segments(document.querySelector('#compose-prompt .prompt'))"


def prompt_of(page: Any) -> list[dict[str, str]]:
    return page.evaluate(PROMPT)


def wait_for_prompt(page: Any, *kinds: str) -> None:
    """Wait until the prompt holds segments of these kinds in this order."""
    page.wait_for_function(
        f"kinds => {PROMPT}.map(s => Object.keys(s)[0]).join() === kinds", arg=",".join(kinds)
    )
