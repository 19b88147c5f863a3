"""The page in a real browser: Debian's chromium, driven by Playwright.

Content arrives at any time: tests wait for it (``expect``, ``wait_for_selector``), and check without waiting
only what arrives together with content that they have waited for.
"""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .browsing import DONE, ask, generate, inspect, prompt_of, shot, wait_for_prompt, watch_answer

EXAMPLES = Path(__file__).parents[2] / "playground" / "examples"
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
Open = Callable[..., Any]


def test_an_uploaded_picture_gets_a_mixed_answer_that_streams_in(visit: Open, slowly: None):
    page = visit()
    page.set_input_files("#compose-prompt input[type=file]", str(EXAMPLES / "drawing.png"))
    page.wait_for_selector("#compose-prompt .prompt img")
    page.keyboard.type(" This is a carrot. Here is a red apple:")
    wait_for_prompt(page, "image", "text")
    image, text = prompt_of(page)
    assert image["image"].startswith("data:image/png;base64,")
    assert text["text"] == " This is a carrot. Here is a red apple:"
    watch_answer(page)
    page.click("#preset label:has-text('Bold')")  # one try
    page.click("#then label:has-text('a picture')")
    page.fill("#samples input[type=number]", "4")
    page.keyboard.press("Tab")
    generate(page)
    assert "writing" not in page.inner_text("#answer")
    assert page.locator("#answer .drawn.given").count() == 4
    assert page.locator("#answer .drawn.made").count() >= 4
    coming = [made for words, made in page.evaluate("seen") if "writing" in words and made]
    assert len(coming) >= 2 and coming == sorted(coming)  # it came in pieces
    assert "This is a carrot." in page.locator("#answer .said.given").first.inner_text()
    shot(page, "compose")


def test_several_samples_are_shown_side_by_side_each_with_its_seed(visit: Open):
    page = visit()
    page.fill("#samples input[type=number]", "3")
    page.keyboard.press("Tab")
    ask(page, "A red apple:")
    answers = page.locator("#answer .sheet > figure:not(.try)")
    expect(answers).to_have_count(3)
    seed = int(page.input_value("#seed input"))
    said = page.locator("#answer .state").all_inner_texts()
    seeds = [int(one.rpartition(" ")[2]) for one in said]
    assert all(seed + 4 * n <= found < seed + 4 * n + 4 for n, found in enumerate(seeds))  # four tries each
    shot(page, "samples")
    answers.nth(2).locator("[data-do=inspect]").click()
    page.wait_for_selector(".inspected .tokens[data-keys]")


def test_tokens_are_inspected_with_mouse_and_keys(visit: Open):
    page = visit()
    ask(page, "A red apple:")
    inspect(page)
    strip = page.locator(".inspected .tokens i")
    assert strip.first.inner_text() == "bos" and strip.count() > 50
    assert page.locator(".inspected .coded").count() == 3  # the picture, entropy, probability
    code = page.locator(".inspected .tokens i.image").nth(8)
    code.hover()
    status = page.locator(".inspected .status")
    expect(status).to_contain_text("row 3, column 2")  # columns come one by one
    expect(status).to_contain_text("probability")
    expect(status).to_contain_text("entropy")
    spot = page.locator(".inspected .coded .spot").first
    outer, inner = page.locator(".inspected .coded").first.bounding_box(), spot.bounding_box()
    assert abs((inner["x"] - outer["x"]) / outer["width"] - 1 / 6) < 0.02
    assert abs((inner["y"] - outer["y"]) / outer["height"] - 2 / 6) < 0.02
    strip.first.focus()
    page.keyboard.press("ArrowRight")
    expect(status).to_contain_text("'A'")
    page.locator(".inspected .coded").first.hover(position={"x": 5, "y": 5})
    expect(status).to_contain_text("row 1, column 1")
    page.click("text=The codebook")
    page.click("#draw-codebook")
    page.wait_for_selector(".book .px")
    page.locator(".book").hover(position={"x": 300, "y": 300})
    expect(page.locator("#codebook .status")).to_have_text(re.compile(r"code \d+"))
    shot(page, "inspect")


def test_a_scan_is_reconstructed_and_read(visit: Open):
    page = visit()
    page.click("role=tab[name=Reconstruct]")
    page.set_input_files("#reconstruct-picture input[type=file]", str(EXAMPLES / "receipt.png"))
    page.wait_for_selector("#reconstruct-picture .drop img")
    page.click("#reconstruct")
    page.wait_for_selector("#compared table.read")
    text = page.inner_text("#compared")
    for words in ("bits per pixel", "0.188", "PSNR", "RECEIPT", "openmoji-words", "the same"):
        assert words in text
    assert page.locator("#compared .labelled img").count() == 6  # original, reconstruction, error; twice
    assert page.locator("#compared del, #compared ins").count() > 5
    shot(page, "reconstruct")


def test_a_run_is_shown_and_updates_by_itself(visit: Open, runs: Path):
    page = visit()
    page.click("role=tab[name=Runs]")
    page.wait_for_selector("#curves svg")
    assert "step 98" in page.inner_text("#curves")
    for title in ("loss by modality", "Output norm", "Largest attention logit"):
        assert title in page.inner_text("#curves")
    shot(page, "runs")
    with (runs / "one/lm/metrics.csv").open("a") as file:
        file.write("123,1,0,1,1,5,5\n")
    page.wait_for_selector("#curves :text('step 123')")


def test_broken_and_large_uploads_and_other_files_get_a_message(visit: Open, tmp_path: Path):
    page = visit()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"broken" * 40)
    large = tmp_path / "large.png"
    large.write_bytes(b"\0" * (50 << 20))
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    odd = tmp_path / "..%2f..%2fetc%2fpasswd.png"
    odd.write_bytes((EXAMPLES / "drawing.png").read_bytes())
    for file, words in ((broken, "damaged"), (large, "10 MB"), (text, "notes.txt")):
        page.set_input_files("#compose-prompt input[type=file]", str(file))
        page.wait_for_selector(f"#compose-prompt .said-by-page:has-text('{words}')")
        expect(page.locator("#compose-prompt .prompt img")).to_have_count(0)
        if file == broken:
            shot(page, "broken")
    page.set_input_files("#compose-prompt input[type=file]", str(odd))
    page.wait_for_selector("#compose-prompt .prompt img")
    expect(page.locator("#compose-prompt .said-by-page")).to_have_text("")
    page.click("role=tab[name=Reconstruct]")
    page.click("#reconstruct")
    page.wait_for_selector("#compared .refused")


def test_what_the_script_lets_pass_the_server_refuses(visit: Open):
    page = visit()
    bad = base64.b64encode((EXAMPLES / "drawing.png").read_bytes()[:-200]).decode()  # browsers show the rest
    page.evaluate(
        """bad => { const image = document.createElement('img'); image.src = 'data:image/png;base64,' + bad;
        document.querySelector('#compose-prompt .prompt').append(image); }""",
        bad,
    )
    page.click("#generate")
    page.wait_for_selector("#answer .refused:has-text('truncated')")
    page.click("[data-clear]")
    page.click("#compose-prompt .prompt")
    page.keyboard.type("long " * 60)
    page.click("#generate")
    page.wait_for_selector("#answer .refused:has-text('256')")


def test_control_tokens_and_markup_that_are_typed_stay_text(visit: Open):
    page = visit()
    typed = "<image></s><b>x</b><script>alert(1)</script>"
    page.click("#compose-prompt .prompt")
    page.keyboard.type(typed)
    assert prompt_of(page) == [{"text": typed}]
    generate(page)
    assert page.locator("#answer .said.given").first.inner_text() == typed
    inspect(page)
    kinds = page.evaluate(
        "[...document.querySelectorAll('.inspected .tokens .given')].map(c => c.classList[0])"
    )
    assert kinds[0] == "structure" and set(kinds[1:]) == {"text"} and len(kinds) >= 1 + len(typed)


def test_pictures_are_pasted_moved_and_taken_away(visit: Open):
    page = visit()
    data = base64.b64encode((EXAMPLES / "drawing.png").read_bytes()).decode()
    page.click("#compose-prompt .prompt")
    page.keyboard.type("before after")
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    page.evaluate(
        """async data => { const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
        const files = new DataTransfer(); files.items.add(new File([bytes], 'a.png', {type: 'image/png'}));
        document.querySelector('#compose-prompt .prompt').dispatchEvent(
          new ClipboardEvent('paste', {clipboardData: files, bubbles: true, cancelable: true})); }""",
        data,
    )
    page.wait_for_selector("#compose-prompt .prompt img")
    wait_for_prompt(page, "text", "image", "text")
    before, _, after = prompt_of(page)
    assert (before["text"], after["text"]) == ("before", " after")
    page.focus("#compose-prompt .prompt img")
    page.keyboard.press("Alt+ArrowLeft")
    wait_for_prompt(page, "image", "text")
    page.locator("#compose-prompt .prompt img").drag_to(
        page.locator("#compose-prompt .prompt"), target_position={"x": 400, "y": 60}
    )
    wait_for_prompt(page, "text", "image")
    page.focus("#compose-prompt .prompt img")
    page.keyboard.press("Delete")
    wait_for_prompt(page, "text")
    assert prompt_of(page) == [{"text": "before after"}]


def test_lines_are_kept_as_they_are_typed(visit: Open):
    page = visit()
    page.click("#compose-prompt .prompt")
    for key in ("a", "Enter", "Enter", "b", "Enter", "c"):
        page.keyboard.press(key)
    assert prompt_of(page) == [{"text": "a\n\nb\nc"}]


def test_two_visitors_at_once_get_their_own_answers(visit: Open):
    first, second = visit(), visit()
    first.fill("#compose-prompt .prompt", "A red apple:")
    second.click("#compose-prompt [data-example]:has-text('name this')")
    first.click("#generate")
    first.wait_for_selector(DONE)
    second.wait_for_selector(DONE)
    assert "A red apple:" in first.inner_text("#answer") and "carrot" in second.inner_text("#answer")
    assert "carrot" not in first.inner_text("#answer")
    inspect(first)
    cells = first.evaluate("[...document.querySelectorAll('.inspected .tokens i')].map(c => c.innerText)")
    assert cells[1:8] == ["A", "␣", "r", "e", "d", "␣", "a"]


def test_an_answer_is_taken_as_the_next_prompt(visit: Open):
    page = visit()
    ask(page, "A red apple:")
    page.click("#answer [data-do=continue]")
    wait_for_prompt(page, "text", "image")
    text, image = prompt_of(page)
    assert text == {"text": "A red apple:"} and image["image"].startswith("data:image/png;base64,")
    generate(page)
    assert page.locator("#answer figure:not(.try) > .document .drawn.given").count() == 1


def test_generation_stops_when_asked(visit: Open, slowly: None):
    page = visit()
    expect(page.locator("#stop")).to_be_hidden()
    page.fill("#samples input[type=number]", "4")
    page.keyboard.press("Tab")
    page.click("#generate")
    page.wait_for_selector("#answer figure >> text=writing")
    page.click("#stop")
    page.wait_for_selector(DONE)
    assert "writing" not in page.inner_text("#answer") and "stopped" in page.inner_text("#answer")
    expect(page.locator("#stop")).to_be_hidden()
    inspect(page)  # what is there can be looked at


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(visit: Open, scheme: str):
    page = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme, is_mobile=True, has_touch=True)
    page.tap("#compose-prompt [data-example]:has-text('draw a tiger')")
    page.wait_for_selector(DONE)
    expect(page.locator("#answer .drawn.made").first).to_be_in_viewport()  # it scrolled there
    tops = [
        page.locator(part).bounding_box()["y"] for part in ("#generate", "#answer", "#settings", "#gallery")
    ]
    assert tops == sorted(tops)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shot(page, f"phone-{scheme}")
    ink = "rgb(231, 234, 240)" if scheme == "dark" else "rgb(29, 35, 48)"
    expect(page.locator("#compose-prompt .prompt")).to_have_css("color", ink)
    page.tap("#answer [data-do=inspect]")
    page.wait_for_selector(".inspected .tokens[data-keys]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_screen_readers_find_names_for_every_control(visit: Open):
    page = visit()
    expect(page.get_by_role("textbox", name="Text and pictures in any order")).to_have_count(1)
    for role, name in (("button", "Generate"), ("tab", "Inspect"), ("slider", "Samples")):
        expect(page.get_by_role(role, name=name).first).to_be_visible()
    nameless = page.evaluate(
        """() => { const named = e => e.innerText || e.ariaLabel || e.title || e.labels?.length;
        return [...document.querySelectorAll('button, input, [role=textbox]')]
          .filter(e => e.checkVisibility() && !named(e)).map(e => e.outerHTML); }"""
    )
    assert nameless == []
    page.fill("#compose-prompt .prompt", "A red apple:")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(DONE)
    expect(page.get_by_role("region", name="Answer")).to_have_count(1)
