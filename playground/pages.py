"""HTML of the playground beyond answers, in the style of the demo's report (``eval.report.page.html``)."""

import json
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..eval.report.codebook_map import CodebookMap
from ..eval.report.curves import Run, beside, charts_of, smoothed
from ..eval.report.heat_map import heat_map, legend
from ..eval.report.page import html
from ..eval.report.page.charts import charts_grid
from ..eval.report.showcase import COLUMNS, THUMBNAIL
from ..eval.report.tokens import Token, grids, share, strip_cells
from .edits import Candidate
from .showcase import Showcase

HERE = Path(__file__).parent
SIDE = 200
"""Longer side of an enlarged picture in px, about."""


def wrapped(*parts: str, kind: str = "") -> str:
    """A block of the page; the style applies inside the class ``ef``."""
    return f'<div class="ef {kind}">{"".join(parts)}</div>'


def inspected(tokens: Sequence[Token], pictures: Sequence[Image.Image], prompt_length: int) -> str:
    """The token strip of a document, and its pictures with maps of entropy and probability per code."""
    cells = strip_cells(tokens, prompt_length)
    figures = []
    entropies = grids(tokens, "entropy")
    surprises = [-np.log(np.clip(grid, 1e-9, 1)) for grid in grids(tokens, "p")]
    most = max((float(np.nanmax(grid)) for grid in surprises if not np.isnan(grid).all()), default=1.0) or 1.0
    high = max((float(x.entropy) for x in tokens if x.kind == "image" and x.entropy is not None), default=1.0)
    blocks = dict.fromkeys(token.block for token in tokens if token.kind == "image")
    for number, (block, picture) in enumerate(zip(blocks, pictures)):
        h, w = entropies[number].shape
        maps = [
            ("decoded from codes", picture),
            (f"entropy, 0 to {high:.2g} nats", heat_map(picture, entropies[number], 0, high)),
            (f"surprise (−log p), 0 to {most:.2g} nats", heat_map(picture, surprises[number], 0, most)),
        ]
        scale = max(1, SIDE // max(picture.size))
        shown = "".join(
            f'<span class="labelled"><span class="coded" data-block="{block}" data-rows="{h}" '
            f'data-columns="{w}">{html.picture(image, scale, alt=f"picture {number + 1}: {name}")}'
            f'<i class="spot"></i></span><small>{html.escape(name)}</small></span>'
            for name, image in maps
        )
        caption = f"<b>Picture {number + 1}</b>: {h} x {w} codes, {picture.width} x {picture.height} px"
        figures.append(html.figure(f'<span class="maps">{shown}</span>', caption))
    bar = html.picture(legend(), 1, alt="colors from low to high")
    key = (
        '<p class="note"><i class="key structure"></i> structure <i class="key text"></i> text '
        '<i class="key image"></i> image codes; prompt tokens are paler. The bar under a token shows its '
        "probability. Hover over a token or use the arrow keys for details; click it or press Enter to see "
        "what else the model could have written.</p>"
    )
    colors = (
        f'<p class="note">Map colors, from low to high: <span class="bar">{bar}</span></p>' if figures else ""
    )
    status = '<p class="status" role="status" aria-live="polite">&nbsp;</p>'
    strip = html.token_strip(cells, pictures if [*blocks] == [*range(len(blocks))] else ()).replace(
        '<div class="tokens"', '<div class="tokens" role="group" aria-label="Tokens of the document"', 1
    )
    shown = f'<div class="pictures">{"".join(figures)}</div>'
    total = [t for t in tokens[prompt_length:] if t.entropy is not None and t.p is not None]
    facts = f"{len(tokens)} tokens, {prompt_length} from the prompt"
    if total:
        facts += f"; mean entropy of the new ones: {sum(t.entropy or 0 for t in total) / len(total):.2f} nats"
    return wrapped(f"<p>{html.escape(facts)}.</p>", key, status, strip, colors, shown, kind="inspected")


def codebook(found: CodebookMap, slots: int = 1) -> str:
    """The codebook (of the first slot) as a map; a script shows the number of the code under the mouse."""
    scale = max(1, 768 // found.picture.width)
    codes = html.escape(json.dumps(found.codes.tolist(), separators=(",", ":")))
    side = len(found.codes)
    number = int((found.codes >= 0).sum())
    which = f" of the first of {slots} slots" if slots > 1 else ""
    drawn = html.picture(found.picture, scale, alt="codebook")
    return wrapped(
        f"<p>All {number:,} codes{which}, each decoded among copies of itself; similar codes are neighbors. "
        "A frame marks the code of the selected token.</p>",
        '<div class="bar-of-tools"><label><input type="checkbox" data-used> Only the codes of the inspected '
        'document</label><i class="lens"></i>'
        '<span class="status" role="status" aria-live="polite">Hover over a code to enlarge it.</span></div>',
        f'<div class="book coded" data-rows="{side}" data-columns="{side}" '
        f'data-codes="{codes}" role="img" aria-label="Map of the codebook">{drawn}'
        '<canvas class="veil" hidden></canvas><i class="spot"></i></div>',
        kind="codebook",
    )


def run(
    name: str,
    curves: Run,
    sheets: Sequence[tuple[str, Image.Image]] = (),
    other: tuple[str, Run] | None = None,
    smooth: bool = False,
) -> str:
    """The curves of a run so far, and the pictures that it drew last, each with a title.

    Args:
        name: The run.
        curves: What it logged.
        sheets: Its pictures.
        other: Another run, whose curves are drawn, too.
        smooth: Draw means of neighboring steps.
    """
    if not curves:
        return wrapped(f"<p>{html.escape(name)} has not logged anything yet.</p>")
    step = max(points[-1][0] for points in curves.values() if points)
    facts = [f"{step + 1:,.0f} steps so far"]  # the first is 0
    if speed := curves.get("train/tokens_per_second"):
        facts.append(f"{speed[-1][1]:,.0f} tokens/s")
    if other is not None:
        facts.append(f"paler: {other[0]}")
        curves = beside(curves, other[1])
    if smooth:
        curves = {name: smoothed(points) for name, points in curves.items()}
    drawn = "".join(html.figure(html.picture(sheet, 1, title), html.escape(title)) for title, sheet in sheets)
    return wrapped(
        f"<p><b>{html.escape(name)}</b>: {html.escape(', '.join(facts))}</p>",
        charts_grid(charts_of(curves)),
        f'<div class="pictures">{drawn}</div>' if drawn else "",
        kind="run",
    )


def settings(text: str) -> str:
    """The settings of a run."""
    return (
        wrapped(html.details("Settings of the run", f'<pre tabindex="0">{html.escape(text)}</pre>'))
        if text
        else ""
    )


def message(text: str, kind: str = "note") -> str:
    """A line for the visitor."""
    role = "alert" if kind == "refused" else "status"
    return wrapped(f'<p class="{kind}" role="{role}">{html.escape(text)}</p>')


def head(title: str, about: str, facts: Mapping[str, str]) -> str:
    """The title, what the model is, and facts (names and values), of which the first two are in sight."""
    shown = [f"{html.escape(name)} <b>{html.escape(value)}</b>" for name, value in facts.items()]
    logo = (HERE / "logo.svg").read_text(encoding="utf-8")
    more = html.details("details", f"<p>{' · '.join(shown[2:])}</p>") if shown[2:] else ""
    said = f'<p class="about">{html.escape(about)}</p>' if about else ""
    return wrapped(
        f'<h1>{logo} {html.escape(title)}</h1>{said}<div class="line">{" · ".join(shown[:2])} {more}</div>',
        kind="facts",
    )


def programs(functions: Sequence[Callable[..., Any]], settings: Sequence[str]) -> str:
    """How programs call the page's functions; a script fills in its address."""
    code = (
        "from gradio_client import Client\n\n"
        'page = Client("<span data-origin>http://127.0.0.1:7860</span>")\n'
        'segments = [{"text": "A red apple:"}]  # or {"image": a data URI}\n'
        '[document] = page.predict(segments, {"then": "image", "seed": 1}, api_name="/compose")'
    )
    rows = "".join(
        f"<dt><code>/{html.escape(one.__name__)}{html.escape(str(signature(one)))}</code></dt>"
        f"<dd>{html.escape((one.__doc__ or '').strip())}</dd>"
        for one in functions
    )
    return wrapped(
        html.details(
            "Use from a program",
            f'<pre tabindex="0">{code}</pre><button type="button" data-copy="">Copy</button><dl>{rows}</dl>'
            f"<p>Settings: {html.escape(', '.join(settings))}.</p>",
        ),
        kind="programs",
    )


def gallery(show: Showcase) -> str:
    """Everything that the model can draw, as thumbnails or names to click."""
    rows = -(-len(show.things) // COLUMNS)
    cells = []
    for number, (name, prompt) in enumerate(show.things.items()):
        place = f"{-(number % COLUMNS) * THUMBNAIL}px {-(number // COLUMNS) * THUMBNAIL}px"
        drawn = f'<i style="background-position:{place}"></i>' if show.thumbnails else ""
        cells.append(
            f'<button type="button" data-thing="{html.escape(name)}" data-prompt="{html.escape(prompt)}" '
            f'title="{html.escape(name)}">{drawn}<span>{html.escape(name)}</span></button>'
        )
    size = f"{COLUMNS * THUMBNAIL}px {rows * THUMBNAIL}px"
    style = f' style="--sheet:url({show.thumbnails});--size:{size}"' if show.thumbnails else ""
    return wrapped(
        f'<label class="find">It knows these {len(cells)} things: click one to draw it. '
        f'<input type="search" data-find placeholder="find"></label>'
        f'<div class="things"{style} tabindex="0" role="group" aria-label="Things it knows">',
        *cells,
        "</div>",
        kind="gallery",
    )


def rivals(found: Sequence[Candidate], place: int) -> str:
    """The likeliest tokens at a place, each with a button that continues the document from there."""
    cells = []
    for one in found:
        says = one.says if one.picture is not None else one.says.replace(" ", "␣")
        name = html.escape(says or "nothing")
        drawn = f"<b>{name}</b>"
        if one.picture is not None:
            drawn = f"{html.picture(one.picture, 5, alt=one.says)}<small>{name}</small>"
        state = "chosen" if one.chosen else ""
        button = ""
        if one.legal and not one.chosen:
            button = (
                f'<button type="button" data-fork="{place},{one.token}" '
                f'aria-label="Fork from here with {name}">Fork</button>'
            )
        cells.append(
            f'<span class="rival {state}">{drawn}<small>{share(one.p)}</small>{button or state}</span>'
        )
    return wrapped(
        f"<p>Token {place}: the likeliest candidates. <b>Fork</b> continues the document with another.</p>"
        f'<div class="rivals">{"".join(cells)}</div>',
        kind="candidates",
    )
