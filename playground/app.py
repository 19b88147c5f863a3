"""Builds the page: its tabs, and the same functions for programs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import api as serve_api

from ..fusion_lm.folder import Model
from ..tokenizers.image import ImageTokenizer
from . import api, pages, tabs

AT_ONCE, WAITING = 2, 16
"""Requests computed at the same time, and requests that may wait; visitors beyond them must retry."""


def build(
    model: Model, about: Mapping[str, str], tokenizers: Mapping[str, ImageTokenizer], runs: Path
) -> gr.Blocks:
    """Build the page.

    Args:
        model: What to play with.
        about: Facts about it, by name.
        tokenizers: Image tokenizers to compare, by name.
        runs: Folder of trainings to watch.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # parts of Gradio read this, parts the argument below
    every = dict(tokenizers)
    working: dict[str, Any] = {"concurrency_limit": AT_ONCE, "concurrency_id": "model"}
    with gr.Blocks(title="earlyfusion playground", analytics_enabled=False, fill_width=True) as page:
        tabs.html_block(pages.head("earlyfusion playground", about))
        state = gr.State([], time_to_live=3600)
        with gr.Tabs():
            with gr.Tab("Compose", id="compose") as first:
                tabs.compose(model, state, working)
            with gr.Tab("Inspect", id="inspect") as second:
                tabs.inspect(model, state, working)
            with gr.Tab("Reconstruct", id="reconstruct") as third:
                tabs.reconstruct(every, working)
            with gr.Tab("Runs", id="runs") as tab:
                tabs.runs(runs, tab, [first, second, third])
        _for_programs(model, every, runs, working)
    return page.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)


def _for_programs(
    model: Model, tokenizers: dict[str, ImageTokenizer], root: Path, working: dict[str, Any]
) -> None:
    """Serve the same functions to Gradio's client: /compose, /inspect, /reconstruct, /runs, /curves."""

    def line(error: Exception) -> gr.Error:
        return gr.Error(str(error)[:500], print_exception=False)

    def compose(segments: list, settings: dict | None = None) -> list:
        try:
            *_, documents = api.composed(model, segments, api.ask_of(**api.known(settings or {})))
        except (ValueError, TypeError) as error:
            raise line(error) from None
        return [api.as_document(sample) for sample in documents]

    def inspect(tokens: list) -> list:
        try:
            described, _ = api.inspect(model, api.read_tokens(model, tokens))
        except (ValueError, TypeError) as error:
            raise line(error) from None
        return [token._asdict() for token in described]

    def reconstruct(picture: str, names: list | None = None) -> list:
        try:
            chosen = list(tokenizers)[:1] if names is None else names
            return [api.as_comparison(one) for one in api.reconstruct(tokenizers, chosen, picture)]
        except (ValueError, TypeError) as error:
            raise line(error) from None

    def curves(run: str) -> dict:
        try:
            return api.curves(root, run)
        except (ValueError, TypeError) as error:
            raise line(error) from None

    def runs() -> list:
        return api.runs(root)

    for function in (compose, inspect, reconstruct):
        serve_api(function, api_name=function.__name__, **working)
    serve_api(curves, api_name="curves")
    serve_api(runs, api_name="runs")
