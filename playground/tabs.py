"""The tabs of the page: Gradio's controls around the functions of ``api``."""

import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from ..eval.metrics.ocr import INSTALL
from ..eval.report.codebook_map import codebook_map
from ..eval.report.page import html
from ..fusion_lm.folder import Model
from ..tokenizers.image import ImageTokenizer
from . import api, pages
from .compose import SAMPLES, Written
from .examples import prompts, scans
from .limits import Refused

EVERY = 0.08
"""Minimum seconds between two updates of a sample."""
TICKET, STOPPED = 32, 1000
"""Length of an answer's ticket, and how many tickets of stopped answers are remembered."""
LIVE = 4.0
"""Seconds between two updates of a run."""
THEN = {"any": "let the model decide", "image": "a picture"}
"""Labels for what can come next; other modalities use their names."""


def html_block(value: str, **options: Any) -> gr.HTML:
    """HTML without Gradio's default style."""
    return gr.HTML(value, padding=True, apply_default_css=False, **options)


def _editor(name: str, hint: str, examples: list[tuple[str, list[dict[str, str]]]], single: bool) -> gr.HTML:
    """The box for a prompt, or for a single picture, with its buttons."""
    kind, many = ("drop", "") if single else ("prompt", "multiple")
    role = 'role="group"' if single else 'role="textbox" aria-multiline="true" contenteditable="true"'
    buttons = "".join(
        f'<button type="button" data-example="{html.escape(json.dumps(segments))}">'
        f"{_label(label, segments)}</button>"
        for label, segments in examples
    )
    clear = "" if single else '<button type="button" data-clear>Clear</button>'
    inner = html.escape(hint) if single else ""
    return html_block(
        "",
        html_template=(
            f'<div class="ef {name}"><div class="{kind}" {role} aria-label="{html.escape(hint)}" '
            f'data-hint="{html.escape(hint)}" tabindex="0" spellcheck="false">{inner}</div>'
            '<p class="said-by-page" role="alert"></p><div class="bar-of-tools"><label>Add picture'
            f'<input type="file" accept="image/png,image/jpeg,image/webp,image/gif,image/bmp" {many}></label>'
            f"{clear}{buttons}</div></div>"
        ),
        js_on_load=f"window.earlyfusion.{'single' if single else 'prompt'}(element)",
        elem_id=name,
    )


def _label(label: str, segments: list[dict[str, str]]) -> str:
    """An example's label, with thumbnails of its pictures."""
    pictures = [s["image"] for s in segments if "image" in s]
    return " ".join([*(f'<img src="{uri}" alt="">' for uri in pictures), html.escape(label)])


def compose(model: Model, state: gr.State, working: dict[str, Any]) -> None:
    hint = "Text and pictures in any order: type, paste or drop; drag a picture to move it"
    names = ["any", *model.tokenizer.vocab.names[1:]]  # the first is structure
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            _editor("compose-prompt", hint, prompts(), single=False)
            given, ticket = gr.JSON([], visible=False), gr.Textbox("", visible=False)
            with gr.Row():
                then = gr.Radio(
                    [(THEN.get(name, name), name) for name in names],
                    value="any",
                    label="What comes next",
                    elem_id="then",
                )
                samples = gr.Slider(1, SAMPLES, 1, step=1, label="Samples", elem_id="samples")
            with gr.Row():
                start = gr.Button("Generate", variant="primary", elem_id="generate")
                stop = gr.Button("Stop", elem_id="stop")
            with gr.Accordion("Sampling and guidance", open=False):
                answers = gr.Checkbox(
                    False,
                    label="Answer the prompt as a turn of a conversation",
                    visible=model.tokenizer.vocab.sep is not None,
                    elem_id="answers",
                )
                gr.Markdown("**Text**")
                with gr.Row():
                    text = _sampling("Text")
                    penalty = gr.Slider(
                        1, 2, 1, step=0.05, label="Repetition penalty (1 = off)", min_width=140
                    )
                gr.Markdown("**Pictures**")
                with gr.Row():
                    image = _sampling("Picture")
                    guidance = gr.Slider(
                        1, 8, 1, step=0.5, label="Classifier-free guidance (1 = off)", min_width=140
                    )
                with gr.Row():
                    context = model.lm.config.context_length
                    most = gr.Slider(
                        0, context, 0, step=1, label="Max new tokens (0 = fill the context)", min_width=140
                    )
                    positions = gr.Slider(
                        0,
                        context,
                        0,
                        step=1,
                        label="Max codes per prompt picture (0 = auto)",
                        min_width=140,
                    )
                    seed = gr.Number(0, precision=0, label="Seed", min_width=140)
        with gr.Column(scale=4, min_width=320):
            answer = html_block(pages.message("The answer appears here."), elem_id="answer")

    stopped: deque[str] = deque(maxlen=STOPPED)

    def run(segments: Any, ticket: str, *settings: Any) -> Iterator[tuple[str, Any]]:
        shown: list[Written] = []
        picture = pages.kept_pictures()
        last = 0.0
        try:
            for shown in api.composed(model, segments, api.ask_of(*settings), lambda: ticket in stopped):
                if time.perf_counter() - last >= EVERY:
                    yield pages.written(shown, False, picture), gr.skip()
                    last = time.perf_counter()
        except ValueError as error:
            so_far = pages.written(shown, True, picture) if shown else ""
            yield so_far + pages.message(str(error), "refused"), gr.skip()
            return
        kept = [
            {"tokens": s.tokens.tolist(), "given": s.prompt_length} for s in shown if s.tokens is not None
        ]
        yield pages.written(shown, True, picture), kept

    settings = [then, answers, samples, *text, penalty, *image, guidance, most, positions, seed]
    start.click(
        run,
        [given, ticket, *settings],
        [answer, state],
        js="(...rest) => window.earlyfusion.begin(rest)",
        api_visibility="private",
        show_progress="hidden",
        **working,
    )
    stop.click(
        lambda ticket: stopped.append(str(ticket)[:TICKET]),
        ticket,
        None,
        js="() => window.earlyfusion.ticket()",
        queue=False,
        api_visibility="private",
    )


def _sampling(name: str) -> list[gr.Slider]:
    return [
        gr.Slider(0, 2, 0.7, step=0.05, label=f"{name} temperature (0 = greedy)", min_width=140),
        gr.Slider(0, 500, 0, step=1, label="Top-k (0 = off)", min_width=140),
        gr.Slider(0.05, 1, 1, step=0.01, label="Top-p (1 = off)", min_width=140),
        gr.Slider(0, 1, 0, step=0.01, label="Min-p (0 = off)", min_width=140),
    ]


def inspect(model: Model, state: gr.State, working: dict[str, Any]) -> None:
    first = pages.message("Generate an answer first; its tokens appear here.")
    which = gr.Radio(["Sample 1"], value="Sample 1", label="Document", elem_id="which", visible=False)
    shown = html_block(first, elem_id="inspected")
    with gr.Accordion("The codebook", open=False):
        load = gr.Button("Show the codebook as a map", elem_id="draw-codebook")
        book = html_block("", elem_id="codebook")

    def names(samples: list[dict[str, Any]]) -> Any:
        choices = [f"Sample {i}" for i in range(1, len(samples) + 1)] or ["Sample 1"]
        return gr.Radio(choices, value=choices[0], visible=len(choices) > 1)

    def look(samples: list[dict[str, Any]], name: str) -> str:
        number = int(name.rpartition(" ")[2]) - 1
        if not 0 <= number < len(samples):
            return first
        tokens, given = torch.tensor(samples[number]["tokens"]), samples[number]["given"]
        try:
            return pages.inspected(*api.inspect(model, tokens), given)
        except ValueError as error:
            return pages.message(str(error), "refused")

    drawn: dict[str, str] = {}

    def codebook() -> str:
        if not drawn:
            try:
                slots = model.tokenizer.vocab["image"].slots
                drawn["map"] = pages.codebook(codebook_map(model.tokenizer.image), slots)
            except ValueError as error:
                return pages.message(str(error), "refused")
        return drawn["map"]

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    state.change(names, state, which, **quiet).then(look, [state, which], shown, **quiet, **working)
    which.input(look, [state, which], shown, **quiet, **working)
    load.click(codebook, None, book, api_visibility="private", **working)


def reconstruct(tokenizers: dict[str, ImageTokenizer], working: dict[str, Any]) -> None:
    hint = "Paste or drop a picture or scan here"
    _editor("reconstruct-picture", hint, scans(), single=True)
    given = gr.JSON([], visible=False)
    names = gr.CheckboxGroup(
        list(tokenizers), value=list(tokenizers)[:2], label="Image tokenizers", visible=len(tokenizers) > 1
    )
    go = gr.Button("Reconstruct", variant="primary", elem_id="reconstruct")
    result = html_block("", elem_id="compared")

    def run(segments: Any, chosen: list[str]) -> str:
        from ..eval.tasks.comparison import page_reader  # slow import, as in api.reconstruct

        try:
            pictures = [s["image"] for s in segments or [] if isinstance(s, dict) and "image" in s]
            if not pictures:
                raise Refused("no picture yet: add one or choose an example")
            note = "" if page_reader() else f"Text in the picture is not compared: {INSTALL}"
            return pages.compared(api.reconstruct(tokenizers, chosen, pictures[0]), note)
        except ValueError as error:
            return pages.message(str(error), "refused")

    go.click(
        run,
        [given, names],
        result,
        js="(...rest) => window.earlyfusion.give('#reconstruct-picture .drop', rest)",
        api_visibility="private",
        **working,
    )


def runs(root: Path, tab: gr.Tab, others: list[gr.Tab]) -> None:
    names = gr.Dropdown([], label="Training run", elem_id="run")
    shown = html_block(pages.message("Choose a training run."), elem_id="curves")
    timer = gr.Timer(LIVE, active=False)

    def listed(name: str | None) -> Any:
        found = api.runs(root)
        chosen = name if name in found else found[0] if found else None
        return gr.Dropdown(found, value=chosen), gr.Timer(LIVE, active=True)

    def draw(name: str | None) -> str:
        if not name:
            return pages.message("No training run has logged anything yet.")
        try:
            return pages.run(name, api.curves(root, name))
        except ValueError as error:
            return pages.message(str(error), "refused")

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    tab.select(listed, names, [names, timer], **quiet).then(draw, names, shown, **quiet)
    for other in others:
        other.select(lambda: gr.Timer(LIVE, active=False), None, timer, **quiet)
    names.input(draw, names, shown, **quiet)
    timer.tick(draw, names, shown, **quiet)
