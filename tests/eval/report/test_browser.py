"""A page of ``eval.report.html`` in a real browser: Debian's chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from earlyfusion.eval.report.page import html
from earlyfusion.eval.report.page.charts import Series, line_chart
from earlyfusion.eval.report.page.html import Card, Mark, Part, TokenCell

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no chromium (Debian: apt install chromium, else name one in CHROMIUM)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def file(photo, tmp_path) -> str:
    cells = [TokenCell("image", "5", block=0, place=(row, column)) for row in (0, 1) for column in (0, 1, 2)]
    points = [(step, 5 - step / 50) for step in range(100)]
    chart = line_chart([Series("loss", points)], title="Loss", log_y=True)
    marks = [Mark("full demo", 0.66), Mark("ceiling", 0.99, "ceiling")]
    body = (
        html.cards([Card("50%", "Reading", "of 600 words", 0.5, marks)] * 5),
        html.section("Curves", chart, id="curves"),
        html.section("Tokens", html.document([Part(photo)]), html.token_strip(cells, [photo]), id="tokens"),
        html.section("Next", html.command("earlyfusion playground " + "a/long/folder/" * 9), id="next"),
    )
    path = tmp_path / "page.html"
    path.write_text(html.page("t", *body, contents=html.contents([("curves", "Curves"), ("next", "Next")])))
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_a_page_fits_loads_nothing_and_runs_without_errors(browser, file, width: int, scheme: str):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or told.append(request.url))
    page.goto(file)
    assert page.evaluate("document.documentElement.scrollWidth") <= width and not told
    contents, main = (page.locator(name).bounding_box() for name in (".contents", "main"))
    assert (contents["x"] + contents["width"] <= main["x"]) == (width == 1400)  # beside, or above
    page.close()


def test_curves_show_the_values_under_the_pointer_and_the_arrow_keys(browser, file):
    page = browser.new_page()
    page.goto(file)
    svg, value, step = (page.locator(f".chart {part}") for part in ("svg", ".legend small", ".at"))
    box = svg.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 50)
    assert (value.inner_text(), step.inner_text()) == ("3.02", "step 99")
    page.mouse.move(box["x"] + 2, box["y"] + 50)
    assert (value.inner_text(), step.inner_text()) == ("5", "step 0")
    page.mouse.move(0, 0)
    assert (value.inner_text(), step.inner_text()) == ("3.02", "")
    svg.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert step.inner_text() == "step 2"
    page.close()


def test_commands_are_copied_tokens_show_their_place_and_links_unfold(browser, file):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(file)
    page.get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("earlyfusion playground a/long")
    page.locator(".tokens i").nth(4).hover()
    spot, picture = (page.locator(part).bounding_box() for part in (".spot", ".drawn img"))
    assert spot["x"] - picture["x"] == pytest.approx(picture["width"] / 3, abs=4)
    assert spot["y"] - picture["y"] == pytest.approx(picture["height"] / 2, abs=4)
    page.evaluate("document.querySelector('#curves details').open = false")
    page.locator(".contents a").first.click()
    page.wait_for_function("document.querySelector('#curves details').open")
    context.close()


def test_everything_is_there_without_a_script(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file)
    assert page.locator("polyline").is_visible() and page.locator(".tokens i").count() == 6
    assert page.locator("button").count() == 0
    page.locator("#curves summary").click()
    assert not page.locator("polyline").is_visible()
    context.close()
