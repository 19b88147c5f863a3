"""The page: Gradio's controls around the functions of ``api``."""

import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from gradio import processing_utils
from gradio.events import api as serve_api
from gradio.state_holder import SessionState
from gradio.themes import Default
from starlette.middleware import Middleware

from ..eval.metrics.ocr import INSTALL
from ..eval.report import html
from ..eval.report.codebook_map import codebook_map
from ..eval.report.html_style import DARK, LIGHT, PARTS
from ..fusion_lm.folder import Model
from ..tokenizers.image import ImageTokenizer
from . import api, pages
from .compose import SAMPLES, Written
from .examples import prompts, scans
from .limits import Gate, Refused

HERE = Path(__file__).parent
EVERY = 0.08
"""Seconds between two looks at what is being written."""
AT_ONCE, WAITING = 2, 16
"""Requests that are computed at the same time, and that wait for it; others are told to come again."""
TICKET, STOPPED = 32, 1000
"""Characters of an answer's ticket, and how many tickets of stopped answers are remembered."""
LIVE = 4.0
"""Seconds between two looks at a run."""


def build(
    model: Model, about: Mapping[str, str], tokenizers: Mapping[str, ImageTokenizer], runs: Path
) -> gr.Blocks:
    """The page of ``model``, with what to tell ``about`` it; ``tokenizers`` (by name) can be compared, and
    the trainings in the folder ``runs`` watched."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # some of Gradio asks this, some the argument below
    every = dict(tokenizers)
    working: dict[str, Any] = {"concurrency_limit": AT_ONCE, "concurrency_id": "model"}
    with gr.Blocks(title="earlyfusion playground", analytics_enabled=False, fill_width=True) as page:
        _html(pages.head("earlyfusion playground", about))
        state = gr.State([], time_to_live=3600)
        with gr.Tabs():
            with gr.Tab("Compose", id="compose") as first:
                _compose(model, state, working)
            with gr.Tab("Inspect", id="inspect") as second:
                _inspect(model, state, working)
            with gr.Tab("Reconstruct", id="reconstruct") as third:
                _reconstruct(every, working)
            with gr.Tab("Runs", id="runs") as tab:
                _runs(runs, tab, [first, second, third])
        _for_programs(model, every, runs, working)
    return page.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)


def serve(make: Callable[[], gr.Blocks], host: str, port: int, block: bool = True) -> str:
    """Serve the page that ``make`` builds until Ctrl+C, or go on without ``block``; returns its address.

    Gradio's folder of temporary files goes when the process ends; nothing of a visitor's is written into it.

    :raises OSError: the port is taken, or the host none of this machine.
    """
    check_port(host, port)
    folder = tempfile.mkdtemp(prefix="earlyfusion-playground-")
    os.environ["GRADIO_TEMP_DIR"] = folder
    loopback = host in ("127.0.0.1", "localhost", "::1")
    names = frozenset({"127.0.0.1", "localhost", "[::1]"}) if loopback else None
    _close_gradio()
    try:
        page = make()
        _, address, _ = page.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=["api"],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            state_session_capacity=1000,
            show_error=True,
            theme=Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            head=_head(),
            app_kwargs={"middleware": [Middleware(Gate, hosts=names)]},
        )
        if block:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C, which ends it in order
            print(f"earlyfusion playground at {address}  (Ctrl+C ends it)", flush=True)
            page.block_thread()
        return address
    finally:
        if block:
            shutil.rmtree(folder, ignore_errors=True)


def _close_gradio() -> None:
    """Two things that Gradio does with what visitors send, whatever the components are, and that nothing here
    needs: it fetches the address in anything that looks like one of its files, and keeps all values of a page
    for as long as it remembers the page."""

    async def fetch(url: str, cache_dir: str) -> str:
        raise Refused(f"addresses are not opened: {url[:80]}")

    processing_utils.async_ssrf_protected_download = fetch
    SessionState._update_value_in_config = lambda self, key, value: None


def check_port(host: str, port: int) -> None:
    """Raises OSError, in words, where nothing can be served there."""
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise OSError(
            f"nothing can be served at {host}, port {port} ({error.strerror}): give another --host or --port"
        ) from None


def _head() -> str:
    """The page's own style and script; colours follow Gradio's light and dark."""
    own = (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    scoped = f".ef {{ {LIGHT} {PARTS} }} .dark .ef {{ {DARK} }} {own}"
    return f"<style>{scoped}</style><script>{script}</script>"


def _html(value: str, **options: Any) -> gr.HTML:
    return gr.HTML(value, padding=True, apply_default_css=False, **options)


def _editor(name: str, hint: str, examples: list[tuple[str, list[dict[str, str]]]], single: bool) -> gr.HTML:
    """The prompt's box, or the one for a single picture, with its buttons."""
    kind, many = ("drop", "") if single else ("prompt", "multiple")
    role = 'role="group"' if single else 'role="textbox" aria-multiline="true" contenteditable="true"'
    buttons = "".join(
        f'<button type="button" data-example="{html.escape(json.dumps(segments))}">'
        f"{_label(label, segments)}</button>"
        for label, segments in examples
    )
    clear = "" if single else '<button type="button" data-clear>Clear</button>'
    inner = html.escape(hint) if single else ""
    return _html(
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
    """The example's words, and its pictures in small."""
    pictures = [s["image"] for s in segments if "image" in s]
    return " ".join([*(f'<img src="{uri}" alt="">' for uri in pictures), html.escape(label)])


def _compose(model: Model, state: gr.State, working: dict[str, Any]) -> None:
    hint = "Text and pictures in any order: type, paste, drop or add pictures, drag them to another place"
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            _editor("compose-prompt", hint, prompts(), single=False)
            given, ticket = gr.JSON([], visible=False), gr.Textbox("", visible=False)
            with gr.Row():
                then = gr.Radio(
                    [("whatever comes", "any"), ("text", "text"), ("a picture", "image")],
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
                    label="The prompt is a turn of a conversation: answer it",
                    visible=model.tokenizer.vocab.sep is not None,
                    elem_id="answers",
                )
                gr.Markdown("**Text**")
                with gr.Row():
                    text = _sampling("text")
                    penalty = gr.Slider(
                        1, 2, 1, step=0.05, label="Repetition penalty (1: off)", min_width=140
                    )
                gr.Markdown("**Pictures**")
                with gr.Row():
                    image = _sampling("picture")
                    guidance = gr.Slider(
                        1, 8, 1, step=0.5, label="Classifier-free guidance (1: off)", min_width=140
                    )
                with gr.Row():
                    context = model.lm.config.context_length
                    most = gr.Slider(
                        0, context, 0, step=1, label="New tokens at most (0: all)", min_width=140
                    )
                    positions = gr.Slider(
                        0,
                        context,
                        0,
                        step=1,
                        label="Codes of a prompt's picture at most (0: auto)",
                        min_width=140,
                    )
                    seed = gr.Number(0, precision=0, label="Seed", min_width=140)
        with gr.Column(scale=4, min_width=320):
            answer = _html(pages.message("The answer comes here."), elem_id="answer")

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
            there = pages.written(shown, True, picture) if shown else ""
            yield there + pages.message(str(error), "refused"), gr.skip()
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
        gr.Slider(0, 2, 0.7, step=0.05, label=f"Temperature of {name} (0: likeliest)", min_width=140),
        gr.Slider(0, 500, 0, step=1, label="Top-k (0: off)", min_width=140),
        gr.Slider(0.05, 1, 1, step=0.01, label="Top-p (1: off)", min_width=140),
        gr.Slider(0, 1, 0, step=0.01, label="Min-p (0: off)", min_width=140),
    ]


def _inspect(model: Model, state: gr.State, working: dict[str, Any]) -> None:
    first = pages.message("Compose something first: its tokens come here.")
    which = gr.Radio(["Sample 1"], value="Sample 1", label="Document", elem_id="which", visible=False)
    shown = _html(first, elem_id="inspected")
    with gr.Accordion("The codebook", open=False):
        load = gr.Button("Draw the map of the codebook", elem_id="draw-codebook")
        book = _html("", elem_id="codebook")

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


def _reconstruct(tokenizers: dict[str, ImageTokenizer], working: dict[str, Any]) -> None:
    hint = "Paste or drop a picture or a scan here, or add one"
    _editor("reconstruct-picture", hint, scans(), single=True)
    given = gr.JSON([], visible=False)
    names = gr.CheckboxGroup(
        list(tokenizers), value=list(tokenizers)[:2], label="Image tokenizers", visible=len(tokenizers) > 1
    )
    go = gr.Button("Reconstruct", variant="primary", elem_id="reconstruct")
    result = _html("", elem_id="compared")

    def run(segments: Any, chosen: list[str]) -> str:
        from ..eval.tasks.comparison import page_reader  # as in api.reconstruct

        try:
            pictures = [s["image"] for s in segments or [] if isinstance(s, dict) and "image" in s]
            if not pictures:
                raise Refused("there is no picture: add one, or take an example")
            note = "" if page_reader() else f"Nothing is read in the pictures: {INSTALL}"
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


def _runs(root: Path, tab: gr.Tab, others: list[gr.Tab]) -> None:
    names = gr.Dropdown([], label=f"Runs in {root}", elem_id="run")
    shown = _html(pages.message("Choose a run."), elem_id="curves")
    timer = gr.Timer(LIVE, active=False)

    def listed(name: str | None) -> Any:
        found = api.runs(root)
        chosen = name if name in found else found[0] if found else None
        return gr.Dropdown(found, value=chosen), gr.Timer(LIVE, active=True)

    def draw(name: str | None) -> str:
        if not name:
            return pages.message(f"No training has written its curves in {root} yet.")
        try:
            return pages.run(name, api.curves(root, name))
        except (OSError, ValueError) as error:
            return pages.message(str(error), "refused")

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    tab.select(listed, names, [names, timer], **quiet).then(draw, names, shown, **quiet)
    for other in others:
        other.select(lambda: gr.Timer(LIVE, active=False), None, timer, **quiet)
    names.input(draw, names, shown, **quiet)
    timer.tick(draw, names, shown, **quiet)


def _for_programs(
    model: Model, tokenizers: dict[str, ImageTokenizer], root: Path, working: dict[str, Any]
) -> None:
    """The same functions for Gradio's client: /compose, /inspect, /reconstruct, /runs, /curves."""

    def told(error: Exception) -> gr.Error:
        return gr.Error(str(error), print_exception=False)

    def compose(segments: list, settings: dict | None = None) -> list:
        try:
            *_, documents = api.composed(model, segments, api.ask_of(**api.known(settings or {})))
        except (ValueError, TypeError) as error:
            raise told(error) from None
        return [api.as_document(sample) for sample in documents]

    def inspect(tokens: list) -> list:
        try:
            described, _ = api.inspect(model, torch.tensor(tokens, dtype=torch.int64))
        except (ValueError, TypeError) as error:
            raise told(error) from None
        return [token._asdict() for token in described]

    def reconstruct(picture: str, names: list | None = None) -> list:
        try:
            chosen = list(tokenizers)[:1] if names is None else names
            return [api.as_comparison(one) for one in api.reconstruct(tokenizers, chosen, picture)]
        except (ValueError, TypeError) as error:
            raise told(error) from None

    def curves(run: str) -> dict:
        try:
            return api.curves(root, run)
        except (ValueError, TypeError) as error:
            raise told(error) from None

    def runs() -> list:
        return api.runs(root)

    for function in (compose, inspect, reconstruct):
        serve_api(function, api_name=function.__name__, **working)
    serve_api(curves, api_name="curves")
    serve_api(runs, api_name="runs")
