"""The other tabs of the page: Gradio's controls around the functions of ``api``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ..eval.metrics.ocr import INSTALL
from ..eval.report.codebook_map import codebook_map
from ..fusion_lm.folder import Model
from ..tokenizers.image import ImageTokenizer
from . import api, comparisons, pages
from .compose_tab import editor, html_block
from .limits import Refused
from .showcase import scans

LIVE = 4.0
"""Seconds between two updates of a run."""


def inspect(model: Model, working: dict[str, Any]) -> None:
    first = "Press <b>Inspect</b> under an answer; its tokens appear here."
    given, token = gr.JSON({}, visible=False), gr.JSON({}, visible=False)
    shown = html_block(pages.wrapped(f'<p class="note">{first}</p>'), elem_id="inspected")
    others = html_block("", elem_id="rivals")
    with gr.Row(elem_classes="unseen"):
        look_at, rivals_of = (
            gr.Button("Inspect", elem_id="look"),
            gr.Button("Candidates", elem_id="rivals-of"),
        )
    with gr.Accordion("The codebook", open=False):
        load = gr.Button("Show the codebook as a map", elem_id="draw-codebook")
        book = html_block("", elem_id="codebook")

    def look(request: Any) -> tuple[str, str]:
        try:
            tokens, given = api.document_of(model, request)
            return pages.inspected(*api.inspect(model, tokens), given), ""
        except ValueError as error:
            return pages.message(str(error), "refused"), ""

    def candidates(request: Any) -> str:
        try:
            return pages.rivals(api.rivals(model, request), request["place"])
        except ValueError as error:
            return pages.message(str(error), "refused")

    drawn: dict[str, str] = {}

    def codebook() -> tuple[str, Any]:
        if not drawn:
            try:
                slots = model.tokenizer.vocab["image"].slots
                drawn["map"] = pages.codebook(codebook_map(model.tokenizer.image), slots)
            except ValueError as error:
                return pages.message(str(error), "refused"), gr.Button()
        return drawn["map"], gr.Button(visible=False)

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    asked = "() => [window.earlyfusion.asked]"
    look_at.click(look, given, [shown, others], js=asked, **quiet, **working)
    rivals_of.click(candidates, token, others, js=asked, **quiet, **working)
    load.click(codebook, None, [book, load], api_visibility="private", **working)


def reconstruct(tokenizers: dict[str, ImageTokenizer], working: dict[str, Any]) -> None:
    hint = "Paste or drop a picture or scan here"
    editor("reconstruct-picture", hint, scans(), single=True)
    given = gr.JSON([], visible=False)
    names = gr.CheckboxGroup(
        list(tokenizers), value=list(tokenizers)[:2], label="Image tokenizers", visible=len(tokenizers) > 1
    )
    go = gr.Button("Reconstruct", variant="primary", elem_id="reconstruct")
    result = html_block("", elem_id="compared")

    def run(segments: Any, chosen: list[str]) -> Iterator[str]:
        from ..eval.tasks.comparison import page_reader  # slow import, as in api.reconstruct

        try:
            pictures = [s["image"] for s in segments or [] if isinstance(s, dict) and "image" in s]
            if not pictures:
                raise Refused("no picture yet: add one or choose an example")
            yield pages.message("Reconstructing, and reading with OCR; a page of text takes half a minute …")
            note = "" if page_reader() else f"Text in the picture is not compared: {INSTALL}"
            yield comparisons.compared(api.reconstruct(tokenizers, chosen, pictures[0]), note)
        except ValueError as error:
            yield pages.message(str(error), "refused")

    go.click(
        run,
        [given, names],
        result,
        js="(...rest) => window.earlyfusion.give('#reconstruct-picture .drop', rest)",
        api_visibility="private",
        **working,
    )


def runs(root: Path, tab: gr.Tab, others: list[gr.Tab]) -> None:
    with gr.Row():
        names = gr.Dropdown([], label="Training run", elem_id="run", scale=3)
        other = gr.Dropdown(
            [("nothing", "")], value="", label="Compare with", elem_id="other-run", scale=3, visible=False
        )
        smooth = gr.Checkbox(False, label="Smooth the curves", elem_id="smooth", min_width=140)
    shown = html_block("", elem_id="curves")
    settings = html_block("", elem_id="run-settings")
    timer = gr.Timer(LIVE, active=False)

    def listed(name: str | None, compared: str | None) -> Any:
        found = api.runs(root)
        chosen = name if name in found else found[0] if found else None
        others = [("nothing", ""), *((one, one) for one in found)]
        compared = compared if compared in found else ""
        return (
            gr.Dropdown(found, value=chosen),
            gr.Dropdown(others, value=compared, visible=len(found) > 1),
            gr.Timer(LIVE, active=True),
        )

    def draw(name: str | None, compared: str | None, smoothly: Any) -> str:
        if not name:
            return pages.message("No training run has logged anything yet.")
        try:
            beside = (compared, api.curves(root, compared)) if compared and compared != name else None
            return pages.run(name, api.curves(root, name), api.sheets(root, name), beside, bool(smoothly))
        except ValueError as error:
            return pages.message(str(error), "refused")

    def told(name: str | None) -> str:
        try:
            return pages.settings(api.config(root, name)) if name else ""
        except ValueError:
            return ""

    asked = [names, other, smooth]
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    selected = tab.select(listed, [names, other], [names, other, timer], **quiet)
    selected.then(draw, asked, shown, **quiet).then(told, names, settings, **quiet)
    for one in others:
        one.select(lambda: gr.Timer(LIVE, active=False), None, timer, **quiet)
    names.input(draw, asked, shown, **quiet).then(told, names, settings, **quiet)
    for changed in (other.input, smooth.input, timer.tick):
        changed(draw, asked, shown, **quiet)
