"""The first minute of a visitor, in a browser: everything that the page offers before anything is learned.

One page for all tests, in their order: each begins where a visitor could be.
"""

import base64
import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from earlyfusion.fusion_lm.folder import Model
from earlyfusion.playground import edits
from earlyfusion.playground.compose import Ask

from .browsing import CONTROLS, DONE, ask, generate, inspect, press, prompt_of, shot, style

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
LAST = "#answer figure:not(.try) > .document"
EXPECTED: dict[str, list[str]] = {
    "draw a tiger": ["A tiger."],
    "name this": ["'A carrot.'"],
    "read this": ["'social'"],
    "write “house” in type": ["house"],
    "a carrot, then an apple": ["A red apple."],
    "start from nothing": ["'A baby chick:'", ""],
}
"""What each example says: texts in quotes, and what the model reads in its pictures ("": anything)."""


CUT = """[...document.querySelectorAll('.ef img, .ef button')].filter(one => one.checkVisibility()
  && !one.closest('.scroll, .past, .things') && one.getBoundingClientRect().right > innerWidth)
  .map(one => one.outerHTML.slice(0, 200))"""
"""What is wider than the window."""


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def seed_of(page: Any) -> int:
    return int(re.findall(r"seed (\d+)", page.locator("#answer .state").first.inner_text())[0])


@pytest.mark.parametrize("example", EXPECTED)
def test_each_example_runs_on_a_click_and_is_right(page: Any, model: Model, example: str):
    begun = time.perf_counter()
    page.evaluate("document.querySelector('#answer .ef')?.remove()")
    page.click(f"#compose-prompt [data-example]:has-text('{example}')")
    page.wait_for_selector("#answer :is(.made, [aria-busy=false])")
    assert time.perf_counter() - begun < 10  # something to see
    page.wait_for_selector(DONE)
    said = []
    for made in page.locator(f"{LAST} .made").all():
        drawn = made.locator("img")
        if drawn.count():
            image = picture(drawn.get_attribute("src"))
            views = 1 if image.height == 48 else 3
            read = EXPECTED[example][len(said)] and edits.read_it(model, [image], Ask(), views).segments[0]
            said.append(read)
        else:
            said.append(repr(made.inner_text()))
    assert said == EXPECTED[example]
    shot(page, f"example-{example[:6]}")


def test_the_page_says_what_the_model_knows_and_shows_it(page: Any):
    labels = page.locator("#compose-prompt [data-example]").all_inner_texts()
    assert [label.strip() for label in labels] == list(EXPECTED)
    page.locator("#compose-prompt .prompt").focus()
    stops = []
    for _ in range(5):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.innerText || document.activeElement.type").strip())
    assert stops[:4] == ["file", "Read it", "Clear", labels[0].strip()] and stops[4] not in labels  # one stop
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#compose-prompt [data-example]").nth(1)).to_be_focused()
    assert "246" in page.inner_text(".about")
    expect(page.locator(".things button:visible")).to_have_count(246)
    page.fill("[data-find]", "cat")
    expect(page.locator(".things button:visible")).to_have_count(3)  # black cat, cat, cat face
    page.evaluate("document.querySelector('#answer .ef')?.remove()")
    page.click(".things button:has-text('cat face')")
    page.wait_for_selector(DONE)
    page.fill("[data-find]", "")
    assert prompt_of(page) == [{"text": "A cat face:"}]
    assert page.locator(f"{LAST} .drawn.made img").bounding_box()["width"] >= 230
    expect(page.locator("#answer")).to_be_in_viewport()


def test_an_unknown_name_gets_a_known_one_to_click(page: Any):
    ask(page, "A dog:")
    assert "dog" in page.inner_text("#answer .hint")
    page.evaluate("document.querySelector('#answer [aria-busy]')?.remove()")
    page.click("#answer .hint button:has-text('dog face')")
    page.wait_for_selector(DONE)
    assert prompt_of(page) == [{"text": "A dog face:"}]


def test_each_answer_is_a_new_one_unless_the_seed_is_kept(page: Any):
    style(page, "Bold")  # one try
    generate(page)
    first = seed_of(page)
    generate(page)
    assert seed_of(page) != first
    page.uncheck("#fresh input")
    generate(page)
    first = seed_of(page)
    drawn = page.locator(f"{LAST} img").first.get_attribute("src")
    generate(page)
    assert seed_of(page) == first and page.locator(f"{LAST} img").first.get_attribute("src") == drawn
    page.check("#fresh input")
    style(page, "Balanced")


def test_a_style_and_an_example_leave_the_settings_of_others(page: Any):
    def settings() -> list[str]:
        return [
            page.input_value(f"#set-{name} input[type=number]")
            for name in ("image_temperature", "guidance", "best_of")
        ]

    page.click("#settings > button")
    style(page, "Bold")
    expect(page.locator("#set-image_temperature input[type=number]")).to_have_value("0.9")
    bold = settings()
    press(page, "name this")
    expect(page.get_by_role("radio", name="text", exact=True)).to_be_checked()
    ask(page, "A lion:")  # another prompt: the example's settings go
    assert settings() == bold
    expect(page.get_by_role("radio", name="model decides")).to_be_checked()
    style(page, "Balanced")
    page.click("#settings > button")


def test_an_answer_is_copied_enlarged_stored_and_redrawn_in_part(page: Any):
    ask(page, "A tiger:")
    for button, words in (
        ("text", "A tiger:"),
        ("command", "earlyfusion sample"),
        ("Python", "load_model()"),
    ):
        page.click(f"#answer .tools button:has-text('Copy {'' if button == 'text' else 'as '}{button}')")
        page.wait_for_function(
            "words => navigator.clipboard.readText().then(text => text.includes(words))",
            arg=words,
        )
    before = page.locator(f"{LAST} .made img").first.get_attribute("src")
    page.click(f"{LAST} .made img")
    page.wait_for_selector("dialog.viewer[open]")
    stored = [picture(link.get_attribute("href")).size for link in page.locator("[data-scale]").all()]
    assert stored == [(48, 48), (192, 192), (384, 384)]
    cells = page.locator(".viewer .cells button")
    assert cells.count() == 36
    expect(page.locator(".viewer .redraw")).to_be_disabled()
    cells.nth(14).hover()
    page.mouse.down()
    cells.nth(15).hover()
    page.mouse.up()
    cells.nth(20).focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator('.viewer .cells [aria-pressed="true"]')).to_have_count(4)
    shot(page, "viewer")
    page.evaluate("document.querySelector('#answer [aria-busy]')?.remove()")
    page.click(".viewer .redraw")
    page.wait_for_selector(DONE)
    after = picture(page.locator(f"{LAST} .made img").first.get_attribute("src"))
    assert after.size == (48, 48) and page.locator(LAST).first.inner_text().strip() == "A tiger:"
    assert picture(before).crop((0, 0, 8, 8)).tobytes() == after.crop((0, 0, 8, 8)).tobytes()  # far from it


def test_a_token_has_rivals_and_the_document_forks_there(page: Any):
    inspect(page)
    page.locator(".inspected .tokens i.image").nth(9).click()
    page.wait_for_selector(".rival.chosen")
    assert page.locator(".rival img").count() >= 2
    shot(page, "rivals")
    page.evaluate("document.querySelector('#answer [aria-busy]')?.remove()")
    page.locator("[data-fork]").first.click()
    page.wait_for_selector(DONE)
    expect(page.locator("#answer")).to_be_visible()
    assert page.locator(f"{LAST} .made img").count() == 1


def test_an_uploaded_word_is_fitted_shown_and_read(page: Any, tmp_path: Path):
    image = Image.new("RGB", (320, 90), (214, 230, 245))
    ImageDraw.Draw(image).text((30, 12), "anchor", (60, 20, 60), ImageFont.truetype("DejaVuSans.ttf", 40))
    image.save(tmp_path / "anchor.png")
    page.click("#compose-prompt [data-clear]")
    page.set_input_files("#compose-prompt input[type=file]", str(tmp_path / "anchor.png"))
    page.wait_for_selector("#compose-prompt .prompt img")
    page.evaluate("document.querySelector('#answer [aria-busy]')?.remove()")
    page.click("[data-read]")
    page.wait_for_selector(DONE)
    assert page.inner_text(f"{LAST} .said.made") == "anchor"
    assert picture(page.locator(f"{LAST} .given img").get_attribute("src")).height in (16, 24)
    assert "best at" in page.inner_text("#compose-prompt .note")


def test_an_empty_answer_explains_itself(page: Any):
    style(page, "Likeliest")
    ask(page, "A tiger.")
    assert page.locator("#answer .made").count() == 0
    assert "What comes next" in page.inner_text("#answer .nothing")
    style(page, "Balanced")


def test_two_answers_are_pinned_and_a_reload_keeps_the_session(page: Any):
    past = page.locator("#session [data-past]")
    assert past.count() >= 4
    for number in (1, 2):
        if past.nth(number).get_attribute("aria-pressed") != "true":
            past.nth(number).click()
    expect(page.locator("#session .pins > figure")).to_have_count(2)
    boxes = [figure.bounding_box() for figure in page.locator("#session .pins > figure").all()]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    count, prompt = past.count(), prompt_of(page)
    page.reload()
    for control in CONTROLS:
        page.wait_for_selector(control)
    expect(page.locator("#session [data-past]")).to_have_count(count)
    expect(page.locator("#session .pins > figure")).to_have_count(2)
    assert prompt_of(page) == prompt
    page.locator("#session .pins [data-do=inspect]").first.click()  # an answer of before
    page.wait_for_selector(".inspected .tokens[data-keys]")
    page.click("role=tab[name=Compose]")
    page.click("[data-forget]")
    expect(page.locator("#session .session")).to_be_hidden()


def test_a_program_is_told_how_to_reach_the_page(page: Any, address: str):
    page.click("text=Use from a program")
    page.click("#programs [data-copy]")
    page.wait_for_function(
        "line => navigator.clipboard.readText().then(text => text.includes(line))",
        arg=f'page = Client("{address.rstrip("/")}")',
    )
    assert "/redraw(tokens: list" in page.inner_text("#programs dl")


def test_a_phone_shows_all_of_it(visit: Callable[..., Any]):
    page = visit(viewport={"width": 390, "height": 844}, color_scheme="dark", is_mobile=True, has_touch=True)
    page.tap("#compose-prompt [data-example]:has-text('read this')")
    page.wait_for_selector(DONE)
    expect(page.locator("#answer .said.made").first).to_be_in_viewport()  # it scrolled there
    parts = ("#generate", "#answer", "#settings", "#gallery")
    tops = [page.locator(part).bounding_box()["y"] for part in parts]
    assert tops == sorted(tops)
    for scheme, ink in (("dark", "rgb(231, 234, 240)"), ("light", "rgb(29, 35, 48)")):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
        expect(page.locator("#compose-prompt .prompt")).to_have_css("color", ink)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        shot(page, f"phone-{scheme}")
    expect(page.get_by_role("tab")).to_have_text(["Compose", "Inspect", "Reconstruct", "Runs"])
    page.tap("#answer [data-do=inspect]")
    page.wait_for_selector(".inspected .tokens[data-keys]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_no_fault_of_accessibility(page: Any):
    """At both widths, light and dark; and nothing scrolls sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def check(name: str, *views: tuple[int, str]) -> None:
        for width, scheme in views:
            page.set_viewport_size({"width": width, "height": 1000})
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
            shot(page, f"{name}-{width}-{scheme}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate(CUT) == []
            for fault in axe.run(page).response["violations"]:
                told = (name, width, scheme, fault["id"], [node["html"][:200] for node in fault["nodes"]])
                assert fault["impact"] not in ("serious", "critical"), told
        page.set_viewport_size({"width": 1400, "height": 1000})

    page.add_style_tag(content="* { transition: none !important }")  # or colors change while axe looks
    ask(page, "A dog:")
    check("compose", (1400, "light"), (390, "dark"))
    inspect(page)
    page.locator(".inspected .tokens i.image").first.click()
    page.wait_for_selector(".rival")
    check("inspect", (1400, "dark"), (390, "light"))
    page.click("role=tab[name=Reconstruct]")
    page.click("#reconstruct-picture [data-example]:has-text('a drawing')")
    page.wait_for_selector("#compared .versus")
    assert page.locator("#compared table.read").count() == 0  # nothing to read
    check("reconstruct", (390, "dark"))
    page.click("role=tab[name=Runs]")
    page.click("text=Settings of the run")
    check("runs", (390, "light"))
