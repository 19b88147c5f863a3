"""The tab where prompts are composed: Gradio's controls around the functions of ``api`` and ``edits``."""

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from ..eval.report.page import html
from ..fusion_lm.choices import BEST_BY
from ..fusion_lm.folder import Model
from . import answers, api, pages
from .compose import SAMPLES, TRIES, Written
from .limits import TEXT
from .settings import ask_of, defaults, reading
from .showcase import Example, Showcase

EVERY = 0.08
"""Minimum seconds between two updates of a sample."""
TICKET, STOPPED = 32, 1000
"""Length of an answer's ticket, and how many tickets of stopped answers are remembered."""
THEN = {"any": "model decides", "image": "a picture"}
"""Labels for what can come next; other modalities use their names."""
BEST = {"forward": "the likeliest", "both": "fits its prompt best, both ways"}
ABOVE = {"likeliest": "Likeliest", "balanced": "Balanced", "bold": "Bold"}
WAITING = {"read": "Reading the picture …", "redraw": "Redrawing the region …"}


def html_block(value: str, **options: Any) -> gr.HTML:
    """HTML without Gradio's default style."""
    return gr.HTML(value, padding=True, apply_default_css=False, **options)


def editor(name: str, hint: str, examples: Sequence[Example], single: bool, note: str = "") -> gr.HTML:
    """The box for a prompt, or for a single picture, with its buttons."""
    kind, many = ("drop", "") if single else ("prompt", "multiple")
    role = 'role="group"' if single else 'role="textbox" aria-multiline="true" contenteditable="true"'
    buttons = "".join(
        f'<button type="button" data-example="{html.escape(json.dumps(one.prompt))}" '
        f'data-settings="{html.escape(json.dumps(one.settings))}">{_label(one)}</button>'
        for one in examples
    )
    more = "" if single else '<button type="button" data-clear>Clear</button>'
    read = "" if single else '<button type="button" data-read>Read it</button>'
    inner = html.escape(hint) if single else ""
    said = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return html_block(
        "",
        html_template=(
            f'<div class="ef {name}"><div class="{kind}" {role} aria-label="{html.escape(hint)}" '
            f'data-hint="{html.escape(hint)}" tabindex="0" spellcheck="false">{inner}</div>'
            '<p class="said-by-page" role="alert"></p><div class="bar-of-tools"><label>Add picture'
            f'<input type="file" accept="image/png,image/jpeg,image/webp,image/gif,image/bmp" {many}></label>'
            f"{read}{more}</div>{said}"
            '<div class="bar-of-tools examples" role="toolbar" aria-label="Examples"><span>Examples:</span>'
            f"{buttons}</div></div>"
        ),
        js_on_load=f"window.earlyfusion.{'single' if single else 'prompt'}(element)",
        elem_id=name,
    )


def _label(example: Example) -> str:
    """An example's label, with thumbnails of its pictures."""
    pictures = [s["image"] for s in example.prompt if "image" in s]
    return " ".join([*(f'<img src="{uri}" alt="">' for uri in pictures), html.escape(example.label)])


def controls(model: Model, show: Showcase) -> dict[str, Any]:
    """The settings, by their names in ``settings.ask_of``, in its order."""
    context = model.lm.config.context_length
    start = begun(show)
    made: dict[str, Any] = {}

    def slider(name: str, low: float, high: float, step: float, label: str) -> None:
        made[name] = gr.Slider(low, high, start[name], step=step, label=label, elem_id=f"set-{name}")

    turns = model.tokenizer.vocab.sep is not None if show.turns is None else show.turns
    made["answer"] = gr.Checkbox(
        False, label="Answer the prompt as a turn of a conversation", visible=turns, elem_id="answers"
    )
    with gr.Row(elem_classes="settings-row"):
        for title, prefix in (("Text", ""), ("Pictures", "image_")):
            with gr.Column(min_width=220):
                gr.Markdown(f"**{title}**")
                slider(
                    f"{prefix}temperature", 0, 2, 0.05, f"{title[:7].rstrip('s')} temperature (0 = likeliest)"
                )
                slider(f"{prefix}top_k", 0, 500, 1, "Top-k (0 = off)")
                slider(f"{prefix}top_p", 0.05, 1, 0.01, "Top-p (1 = off)")
                slider(f"{prefix}min_p", 0, 1, 0.01, "Min-p (0 = off)")
                if not prefix:
                    slider("repetition_penalty", 1, 2, 0.05, "Repetition penalty (1 = off)")
        with gr.Column(min_width=220):
            gr.Markdown("**Guidance and tries**")
            suits = f"; {show.guidance:g} suits this model" if show.guidance != 1 else ""
            slider("guidance", 1, show.most_guidance, 0.1, f"Guidance of pictures (1 = off{suits})")
            made["negative"] = gr.Textbox(
                "", label="Negative prompt (needs guidance)", max_length=TEXT, elem_id="set-negative"
            )
            slider("best_of", 1, TRIES, 1, "Tries for each answer; the best is shown")
            made["best_by"] = gr.Radio(
                [(BEST[name], name) for name in BEST_BY],
                value=start["best_by"],
                label="The best is",
                visible=show.both,
                elem_id="set-best_by",
            )
        with gr.Column(min_width=220):
            gr.Markdown("**Length and pictures in the prompt**")
            slider("max_new_tokens", 0, context, 1, "Max new tokens (0 = fill the context)")
            slider("max_positions", 0, context, 1, "Max codes per prompt picture (0 = auto)")
            made["fit"] = gr.Checkbox(
                bool(show.fits), label="Fit pictures to what it knows", visible=bool(show.fits), elem_id="fit"
            )
    return made


def begun(show: Showcase) -> dict[str, Any]:
    """The settings that the page begins with."""
    return {**defaults(), **show.presets.get(show.preset, {})}


def compose(page: gr.Blocks, model: Model, name: str, show: Showcase, working: dict[str, Any]) -> None:
    """Build the tab; ``name`` is the model's, as for ``recipes.as_command``."""
    hint = "Text and pictures in any order: type, paste or drop; drag a picture to move it"
    note = f"It is best at {show.good_at}." if show.good_at else ""
    names = ["any", *model.tokenizer.vocab.names[1:]]  # the first is structure
    with gr.Row(elem_id="compose-row"):
        with gr.Column(scale=3, min_width=320, elem_id="ask"):
            editor("compose-prompt", hint, show.examples, single=False, note=note)
            request, ticket = gr.JSON({}, visible=False), gr.Textbox("", visible=False)
            with gr.Row():
                then = gr.Radio(
                    [(THEN.get(one, one), one) for one in names],
                    value="any",
                    label="What comes next",
                    elem_id="then",
                )
                preset = gr.Radio(
                    [(ABOVE.get(one, one), one) for one in show.presets],
                    value=show.preset,
                    label="Style",
                    elem_id="preset",
                )
            with gr.Row():
                start = gr.Button("Generate (Ctrl+Enter)", variant="primary", elem_id="generate")
                stop = gr.Button("Stop", elem_id="stop")
            with gr.Row():
                samples = gr.Slider(1, SAMPLES, 1, step=1, label="Samples", elem_id="samples", min_width=140)
                seed = gr.Number(0, precision=0, label="Seed", min_width=100, elem_id="seed")
                fresh = gr.Checkbox(True, label="New seed each time", elem_id="fresh", min_width=140)
            with gr.Accordion("More settings", open=False, elem_id="settings"):
                made = controls(model, show)
        with gr.Column(scale=4, min_width=320, elem_id="reply"):
            answer = html_block(pages.message("Your result appears here."), elem_id="answer")
            html_block(
                "",
                html_template='<div class="ef session" hidden></div>',
                js_on_load=f"window.earlyfusion.session(element, {json.dumps(_facts(model, show))})",
                elem_id="session",
            )
    if show.things:
        html_block(pages.gallery(show), elem_id="gallery")

    made |= {"then": then, "samples": samples, "seed": seed}
    settings = {one: made[one] for one in [*defaults(), "fit"]}
    stopped: deque[str] = deque(maxlen=STOPPED)

    def run(request: Any, ticket: str, *values: Any) -> Iterator[str]:
        shown: list[Written] = []
        picture, last = answers.kept_pictures(), 0.0
        more: dict[str, Any] = {}
        try:
            *asked, fit = values
            ask = ask_of(*asked)
            kind, word = api.kind_of(request), api.hint_of(request, show)
            yield answers.busy(WAITING.get(kind, "Starting …"))
            more = {"model": name, "hint": word}
            if kind in ("compose", "read"):
                more["ask"] = reading(ask) if kind == "read" else ask
            for shown in api.acted(model, request, ask, show, bool(fit), lambda: ticket in stopped):
                if time.perf_counter() - last >= EVERY:
                    yield answers.written(shown, False, picture, hint=word)
                    last = time.perf_counter()
        except ValueError as error:
            so_far = answers.written(shown, True, picture, **more) if shown else ""
            yield so_far + pages.message(str(error), "refused")
            return
        yield answers.written(shown, True, picture, **more)

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # First the page takes over an example's settings and a new seed, in the browser; then it asks.
    ready = start.click(
        None,
        [fresh, *settings.values()],
        list(settings.values()),
        js="(fresh, ...values) => window.earlyfusion.settle(fresh, values)",
        **quiet,
    )
    ready.then(
        run,
        [request, ticket, *settings.values()],
        answer,
        js="(...rest) => window.earlyfusion.begin(rest)",
        **quiet,
        **working,
    )
    preset.input(
        None,
        [preset, *settings.values()],
        list(settings.values()),
        js="(name, ...values) => window.earlyfusion.preset(name, values)",
        **quiet,
    )
    page.load(
        None,
        list(settings.values()),
        list(settings.values()),
        js="(...values) => window.earlyfusion.remembered(values)",
        **quiet,
    )
    stop.click(
        lambda ticket: stopped.append(str(ticket)[:TICKET]),
        ticket,
        None,
        js="() => window.earlyfusion.ticket()",
        queue=False,
        api_visibility="private",
    )


def _facts(model: Model, show: Showcase) -> dict[str, Any]:
    """What the script needs to know."""
    start = begun(show)
    del start["seed"]
    return {
        "names": [*defaults(), "fit"],
        "presets": show.presets,
        "start": start,
        "draw": show.draw,
        "things": show.things,
        "factor": model.tokenizer.image.factor,
    }
