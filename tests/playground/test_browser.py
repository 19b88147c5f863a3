"""The page in a real browser: Debian's chromium, driven by Playwright.

One page for all tests, in their order, each with one try per answer. Content arrives at any time: tests wait
for it (``expect``, ``wait_for_selector``), and check without waiting only what arrives together with content
that they have waited for.
"""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .browsing import DONE, ask, generate, inspect, prompt_of, shot, style, wait_for_prompt, watch_answer

EXAMPLES = Path(__file__).parents[2] / "playground" / "examples"
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
Open = Callable[..., Any]


def samples(page: Any, count: int) -> None:
    page.fill("#samples input[type=number]", str(count))
    page.keyboard.press("Tab")


def test_every_control_has_a_name_and_what_the_models_folder_says_is_followed(page: Any):
    style(page, "Bold")
    expect(page.get_by_role("textbox", name="Text and pictures in any order")).to_have_count(1)
    for role, name in (("button", "Generate"), ("tab", "Inspect"), ("slider", "Samples")):
        expect(page.get_by_role(role, name=name).first).to_be_visible()
    page.click("#settings > button")
    guidance = page.locator("#set-guidance input[type=range]")
    expect(guidance).to_be_visible()
    assert [guidance.get_attribute(name) for name in ("min", "max")] == ["1", "3"]
    assert "1.5 suits this model" in page.inner_text("#set-guidance")
    expect(page.locator("#answers")).to_be_hidden()  # its vocabulary has turns, but it was not trained on any
    nameless = page.evaluate(
        """() => { const named = e => e.innerText || e.ariaLabel || e.title || e.labels?.length;
        return [...document.querySelectorAll('button, input, [role=textbox]')]
          .filter(e => e.checkVisibility() && !named(e)).map(e => e.outerHTML); }"""
    )
    assert nameless == []
    page.click("#settings > button")
    logo = page.locator(".facts h1 svg").bounding_box()
    assert logo["width"] > 20 and page.evaluate("document.querySelector('.facts h1 svg').children.length") > 1


def test_lines_are_kept_as_they_are_typed_and_pictures_pasted_moved_and_taken_away(page: Any):
    page.click("#compose-prompt .prompt")
    for key in ("a", "Enter", "Enter", "b", "Enter", "c"):
        page.keyboard.press(key)
    assert prompt_of(page) == [{"text": "a\n\nb\nc"}]
    page.click("[data-clear]")
    data = base64.b64encode((EXAMPLES / "drawing.png").read_bytes()).decode()
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
    page.click("[data-clear]")


def test_broken_and_large_uploads_and_other_files_get_a_message(page: Any, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"broken" * 40)
    large = tmp_path / "large.png"
    large.write_bytes(b"\0" * (11 << 20))
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    odd = tmp_path / "..%2f..%2fetc%2fpasswd.png"
    odd.write_bytes((EXAMPLES / "drawing.png").read_bytes())
    for file, words in ((broken, "damaged"), (large, "10 MB"), (text, "notes.txt")):
        page.set_input_files("#compose-prompt input[type=file]", str(file))
        page.wait_for_selector(f"#compose-prompt .said-by-page:has-text('{words}')")
        expect(page.locator("#compose-prompt .prompt img")).to_have_count(0)
    shot(page, "broken")
    page.set_input_files("#compose-prompt input[type=file]", str(odd))
    page.wait_for_selector("#compose-prompt .prompt img")
    expect(page.locator("#compose-prompt .said-by-page")).to_have_text("")
    page.click("[data-clear]")


def test_what_the_script_lets_pass_the_server_refuses(page: Any):
    bad = base64.b64encode((EXAMPLES / "drawing.png").read_bytes()[:-200]).decode()  # browsers show the rest
    page.evaluate(
        """bad => { const image = document.createElement('img'); image.src = 'data:image/png;base64,' + bad;
        document.querySelector('#compose-prompt .prompt').append(image); }""",
        bad,
    )
    page.click("#generate")
    page.wait_for_selector("#answer .refused:has-text('truncated')")
    page.fill("#compose-prompt .prompt", "long " * 60)
    page.click("#generate")
    page.wait_for_selector("#answer .refused:has-text('256')")


def test_control_tokens_and_markup_that_are_typed_stay_text(page: Any):
    typed = "<image></s><b>x</b><script>alert(1)</script>"
    page.click("[data-clear]")
    page.keyboard.type(typed)
    assert prompt_of(page) == [{"text": typed}]
    generate(page)
    assert page.locator("#answer .said.given").first.inner_text() == typed
    inspect(page)
    kinds = page.evaluate(
        "[...document.querySelectorAll('.inspected .tokens .given')].map(c => c.classList[0])"
    )
    assert kinds[0] == "structure" and set(kinds[1:]) == {"text"} and len(kinds) >= 1 + len(typed)
    page.click("role=tab[name=Compose]")


def test_an_uploaded_picture_gets_mixed_answers_that_stream_in_side_by_side(page: Any, slowly: None):
    page.click("[data-clear]")
    page.set_input_files("#compose-prompt input[type=file]", str(EXAMPLES / "drawing.png"))
    page.wait_for_selector("#compose-prompt .prompt img")
    page.keyboard.type(" This is a carrot. Here is a red apple:")
    wait_for_prompt(page, "image", "text")
    image, text = prompt_of(page)
    assert image["image"].startswith("data:image/png;base64,")
    assert text["text"] == " This is a carrot. Here is a red apple:"
    watch_answer(page)
    page.click("#then label:has-text('a picture')")
    samples(page, 4)
    page.focus("#compose-prompt .prompt")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#answer .sheet > figure:not(.try)")).to_have_count(4)
    page.wait_for_selector(DONE)
    expect(page.get_by_role("region", name="Answer")).to_have_count(1)
    assert "writing" not in page.inner_text("#answer")
    assert page.locator("#answer .drawn.given").count() == 4
    assert page.locator("#answer .drawn.made").count() >= 4
    coming = [made for words, made in page.evaluate("seen") if "writing" in words and made]
    assert len(coming) >= 2 and coming == sorted(coming)  # it came in pieces
    assert "This is a carrot." in page.locator("#answer .said.given").first.inner_text()
    seed = int(page.input_value("#seed input"))
    said = page.locator("#answer .state").all_inner_texts()
    assert [int(one.rpartition(" ")[2]) for one in said] == [seed, seed + 1, seed + 2, seed + 3]
    shot(page, "compose")
    inspect(page)  # the last one
    assert page.locator(".inspected .coded").count() >= 6  # two pictures
    page.click("role=tab[name=Compose]")


def test_generation_stops_when_asked(page: Any, slowly: None):
    expect(page.locator("#stop")).to_be_hidden()
    page.click("#generate")
    page.wait_for_selector("#answer figure >> text=writing")
    page.click("#stop")
    page.wait_for_selector(DONE)
    assert "writing" not in page.inner_text("#answer") and "stopped" in page.inner_text("#answer")
    expect(page.locator("#stop")).to_be_hidden()
    samples(page, 1)


def test_tokens_are_inspected_with_mouse_and_keys(page: Any):
    ask(page, "A red apple:")
    inspect(page)
    strip = page.locator(".inspected .tokens i")
    assert strip.first.inner_text() == "bos" and strip.count() > 50
    assert page.locator(".inspected .coded").count() == 3  # the picture, entropy, probability
    code = page.locator(".inspected .tokens i.image").nth(8)
    assert "url(data:image" in code.evaluate(
        "one => one.parentElement.style.cssText"
    )  # its piece of the picture
    code.hover()
    status = page.locator(".inspected .status")
    expect(status).to_have_text(re.compile(r"\d+: code \d+ \(token \d+\) · picture 1, row 3, column 2"))
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
    assert "data:image" in page.locator(".lens").evaluate("lens => lens.style.backgroundImage")
    expect(page.locator("#draw-codebook")).to_be_hidden()
    page.check("[data-used]")
    shown = page.locator(".veil").evaluate(
        """veil => veil.getContext("2d").getImageData(0, 0, veil.width, veil.height).data
        .filter((alpha, i) => i % 4 == 3 && !alpha).length"""
    )
    codes = page.locator(".inspected .tokens i.image").evaluate_all("all => all.map(one => one.title)")
    assert shown == len({re.findall(r"code (\d+)", title)[0] for title in codes})
    shot(page, "inspect")
    page.click("role=tab[name=Compose]")


def test_an_answer_is_taken_as_the_next_prompt(page: Any):
    page.click("#answer [data-do=continue]")
    wait_for_prompt(page, "text", "image")
    text, image = prompt_of(page)
    assert text == {"text": "A red apple:"} and image["image"].startswith("data:image/png;base64,")
    generate(page)
    assert page.locator("#answer figure:not(.try) > .document .drawn.given").count() == 1


def test_two_visitors_at_once_get_their_own_answers(page: Any, visit: Open):
    second = visit()
    page.fill("#compose-prompt .prompt", "A lion:")
    page.evaluate("document.querySelector('#answer [aria-busy]')?.remove()")
    second.click("#compose-prompt [data-example]:has-text('name this')")
    page.click("#generate")
    page.wait_for_selector(DONE)
    second.wait_for_selector(DONE)
    assert "A lion:" in page.inner_text("#answer") and "carrot" in second.inner_text("#answer")
    assert "carrot" not in page.inner_text("#answer")
    inspect(page)
    cells = page.evaluate("[...document.querySelectorAll('.inspected .tokens i')].map(c => c.innerText)")
    assert cells[1:7] == ["A", "␣", "l", "i", "o", "n"]


def test_a_picture_is_reconstructed_and_read(page: Any):
    page.click("role=tab[name=Reconstruct]")
    page.click("#reconstruct")
    page.wait_for_selector("#compared .refused")
    page.click("#reconstruct-picture [data-example]:has-text('small type')")
    page.wait_for_selector("#compared table.read")
    text = page.inner_text("#compared")
    for words in ("bits per pixel", "0.188", "PSNR", "openmoji-words", "the same", "JPEG"):
        assert words in text
    assert page.locator("#compared .versus").count() == 2
    assert (
        page.locator("#compared .labelled img").count() == 8
    )  # original, reconstruction, JPEG, error; twice
    over = page.locator("#compared .versus img").nth(1)
    half = over.evaluate("image => getComputedStyle(image).clipPath")
    page.focus("#compared .versus input >> nth=0")
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    assert over.evaluate("image => getComputedStyle(image).clipPath") != half
    shot(page, "reconstruct")
    page.click("#compared [data-enlarge=reconstruction] >> nth=0")
    shown = page.locator("dialog.viewer[open] img")
    assert shown.get_attribute("src") == page.locator("#compared .versus img >> nth=0").get_attribute("src")
    page.click(".viewer .close")
    page.set_input_files("#reconstruct-picture input[type=file]", str(EXAMPLES / "drawing.png"))
    expect(page.locator("#compared .versus")).to_have_count(0)  # those of the other picture


def test_a_run_is_shown_and_updates_by_itself(page: Any, runs: Path):
    page.click("role=tab[name=Runs]")
    page.wait_for_selector("#curves svg")
    assert "99 steps" in page.inner_text("#curves")
    for title in ("loss by modality", "Output norm", "Largest attention logit"):
        assert title in page.inner_text("#curves")
    assert page.locator("#curves .pictures figcaption").all_inner_texts() == ["samples after 99 steps"]
    told = ["# torch==2", "data:", "  train: …/shards.tar", "  more:", "  - …/b.tar"]
    page.wait_for_selector("#run-settings pre", state="attached")
    assert page.text_content("#run-settings pre").splitlines() == told
    expect(page.locator("#other-run")).to_be_hidden()  # there is one
    page.locator("#curves .chart svg").first.hover()
    expect(page.locator("#curves .at").first).to_have_text(re.compile(r"step \d+"))
    before = page.locator("#curves polyline").first.get_attribute("data-y")
    page.check("#smooth input")
    expect(page.locator("#curves polyline").first).not_to_have_attribute("data-y", before)
    shot(page, "runs")
    with (runs / "one/lm/metrics.csv").open("a") as file:
        file.write("123,1,0,1,1,5,5\n")
    page.wait_for_selector("#curves :text('124 steps')")
