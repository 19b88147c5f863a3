"""Builds the page: its tabs, and the same functions for programs."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import api as serve_api

from ..fusion_lm.folder import Model
from ..tokenizers.image import ImageTokenizer
from . import api, compose_tab, pages, tabs
from .settings import ask_of, defaults, known
from .showcase import Showcase

AT_ONCE, WAITING = 2, 16
"""Requests computed at the same time, and requests that may wait; visitors beyond them must retry."""


def build(
    model: Model,
    about: Mapping[str, str],
    tokenizers: Mapping[str, ImageTokenizer],
    runs: Path,
    show: Showcase | None = None,
    name: str = "",
) -> gr.Blocks:
    """Build the page.

    Args:
        model: What to play with.
        about: Facts about it, by name.
        tokenizers: Image tokenizers to compare, by name.
        runs: Folder of trainings to watch.
        show: What the model's folder says about it.
        name: The model, as for ``earlyfusion sample --model``; "" is the packaged one.

    Raises:
        ValueError: Settings of ``show`` are out of range.
    """
    show = show or Showcase()
    for settings in (show.draw, *show.presets.values(), *(one.settings for one in show.examples)):
        ask_of(**known(settings))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # parts of Gradio read this, parts the argument below
    every = dict(tokenizers)
    working: dict[str, Any] = {"concurrency_limit": AT_ONCE, "concurrency_id": "model"}
    with gr.Blocks(title="earlyfusion playground", analytics_enabled=False, fill_width=True) as page:
        compose_tab.html_block(pages.head("earlyfusion playground", show.about, about))
        with gr.Tabs():
            with gr.Tab("Compose", id="compose") as first:
                compose_tab.compose(page, model, name, show, working)
            with gr.Tab("Inspect", id="inspect") as second:
                tabs.inspect(model, working)
            with gr.Tab("Reconstruct", id="reconstruct") as third:
                tabs.reconstruct(every, working)
            with gr.Tab("Runs", id="runs") as tab:
                tabs.runs(runs, tab, [first, second, third])
        functions = _for_programs(model, every, runs, show, working)
        compose_tab.html_block(
            "",
            html_template=pages.programs(functions, list(defaults())),
            js_on_load="window.earlyfusion.programs(element)",
            elem_id="programs",
        )
    return page.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)


def _for_programs(
    model: Model,
    tokenizers: dict[str, ImageTokenizer],
    root: Path,
    show: Showcase,
    working: dict[str, Any],
) -> list[Callable[..., Any]]:
    """Serve the same functions to Gradio's client, each under its name; returns them."""

    def line(error: Exception) -> gr.Error:
        return gr.Error(str(error)[:500], print_exception=False)

    def act(request: dict, settings: dict | None) -> list:
        try:
            *_, documents = api.acted(model, request, ask_of(**known(settings or {})), show)
        except (ValueError, TypeError) as error:
            raise line(error) from None
        return [api.as_document(sample) for sample in documents]

    def compose(segments: list, settings: dict | None = None) -> list:
        """Continue a prompt of texts and pictures; settings are those of the page, by name."""
        return act({"do": "compose", "segments": segments}, settings)

    def read(picture: str, settings: dict | None = None) -> list:
        """Read what a picture says or shows, in several views."""
        return act({"do": "read", "segments": [{"image": picture}]}, settings)

    def redraw(tokens: list, block: int, mask: list, settings: dict | None = None) -> list:
        """Redraw the part of a document's picture (0 is the first) that a mask of zeros and ones marks."""
        return act({"do": "redraw", "tokens": tokens, "block": block, "mask": mask}, settings)

    def inspect(tokens: list) -> list:
        """What each token of a document is, and its probability."""
        try:
            described, _ = api.inspect(model, api.read_tokens(model, tokens))
        except (ValueError, TypeError) as error:
            raise line(error) from None
        return [token._asdict() for token in described]

    def reconstruct(picture: str, names: list | None = None) -> list:
        """Reconstruct a picture with image tokenizers."""
        try:
            chosen = list(tokenizers)[:1] if names is None else names
            return [api.as_comparison(one) for one in api.reconstruct(tokenizers, chosen, picture)]
        except (ValueError, TypeError) as error:
            raise line(error) from None

    def curves(run: str) -> dict:
        """The curves of a training run."""
        try:
            return api.curves(root, run)
        except (ValueError, TypeError) as error:
            raise line(error) from None

    def runs() -> list:
        """The training runs, newest first."""
        return api.runs(root)

    for function in (compose, read, redraw, inspect, reconstruct):
        serve_api(function, api_name=function.__name__, **working)
    serve_api(curves, api_name="curves")
    serve_api(runs, api_name="runs")
    return [compose, read, redraw, inspect, reconstruct, curves, runs]
