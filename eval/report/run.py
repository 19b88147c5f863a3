"""The report of a run: one self-contained HTML page with figures, pictures and curves.

``report(results, gallery, curves)`` is a pure function of three plain values:

- ``results``: the figures, as in ``results.json`` (see ``earlyfusion.train.demo.run``);
- ``gallery``: nested lists and dictionaries with PIL images:
  "reconstructions": {title: [{"original", "reconstruction", "caption", "read", "text"}]},
  "readings": [{"image", "text", "read"}], "writings": [{"text", "picture", "read"}],
  "drawings": [{"prompt", "name", "picture", "nearest", "nearest_name"}],
  "documents": [{"parts": [{"text" or "image", "prompt"}], "stop"}], "tokens": [[modality, label]];
  an unfinished picture is None;
- ``curves``: {"image_tokenizer", "lm"} -> metric -> (step, value) pairs.

Missing parts are left out, so that a shorter run has a shorter report.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import html
from .charts import charts_grid
from .curves import image_tokenizer_charts, lm_charts
from .figures import FONTS, by_kind, headline, kind_name
from .html import Part
from .numbers import count, duration, figure, percent

Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
LISTED = 24
"""Number of readings and writings in the report, the first ones."""


def report(results: Mapping[str, Any], gallery: Mapping[str, Any], curves: Curves) -> str:
    """The page, see the module's docstring for the arguments."""
    made = results.get("models", {})
    lead = (
        "A VQ-VAE, a BPE tokenizer and one transformer "
        f"of {count(made.get('lm_parameters'))} parameters over "
        f"their shared vocabulary of {made.get('vocab_size', 0):,} tokens, all trained from scratch in "
        f"{duration(results.get('seconds'))} on {results.get('machine', {}).get('cpu', 'this machine')}."
    )
    parts = (
        _drawings(gallery.get("drawings", []), results.get("drawing", {})),
        _documents(gallery.get("documents", []), gallery.get("tokens", [])),
        _writings(gallery.get("writings", []), results.get("writing", {})),
        _readings(gallery.get("readings", []), results.get("reading", {})),
        _reconstructions(gallery.get("reconstructions", {}), results.get("reconstruction", {}), made),
        _learning(curves),
        _run(results),
    )
    return html.page(
        "earlyfusion: a run from scratch",
        "<h1>Pixels and words, one token stream</h1>",
        f'<p class="lead">{html.escape(lead)}</p>',
        html.cards(headline(results)),
        *(part for part in parts if part),
        _credits(),
    )


def _drawings(drawings: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> str:
    if not drawings:
        return ""
    figures = []
    for one in drawings:
        images = [("drawn", one["picture"]), (f"nearest: {one['nearest_name']}", one["nearest"])]
        right = one["picture"] is not None and one["nearest_name"] == one["name"]
        pictures = html.beside([(name, image) for name, image in images if image is not None], scale=2)
        figures.append(html.figure(pictures, f"<b>{html.escape(one['prompt'])}</b>", right=right))
    note = (
        f"The first {len(drawings)} samples of the seed, not selected. The names are training names, so the "
        "model has learned these drawings; beside each is the nearest training picture (smallest mean "
        "squared difference of the pixels). Held-out things are left out: the model never saw their names."
    )
    return html.section("Drawing", f'<p class="note">{note}</p>', html.sheet(figures, 232), id="drawing")


def _documents(documents: Sequence[Mapping[str, Any]], tokens: Sequence[Sequence[str]]) -> str:
    if not documents:
        return ""
    note = (
        "Text and pictures as the model wrote them, in one stream. Plain text and dashed frames are the "
        "prompt, blue is the model's; some documents have no prompt."
    )
    body = [html.document([_part(p) for p in one["parts"]]) for one in documents]
    strip = ""
    if tokens:
        strip = (
            "<h3>What the transformer sees</h3>"
            '<p class="note">The first document above as tokens: structure (gray), text (blue), image codes '
            "(orange).</p>" + html.token_strip(html.TokenCell(kind, label) for kind, label in tokens)
        )
    return html.section(
        "Text and pictures in one document", f'<p class="note">{note}</p>', *body, strip, id="documents"
    )


def _part(part: Mapping[str, Any]) -> Part:
    return Part(part["text"] if "text" in part else part["image"], bool(part.get("prompt")))


def _writings(writings: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> str:
    if not writings:
        return ""
    figures = []
    for one in writings[:LISTED]:
        picture = html.picture(one["picture"]) if one["picture"] is not None else "<i>no picture</i>"
        caption = f"{html.escape(one['text'])} → {html.mark(one['read'], one['read'] == one['text'])}"
        figures.append(html.figure(picture, caption, right=one["read"] == one["text"]))
    note = f"The first {len(figures)} held-out texts: the text, the image, and what OCR reads in it."
    table = ""
    if scores:
        rows = [(name, str(row["items"]), *_scores(row)) for name, row in _lines(scores)]
        for side, name in (
            ("original", "the words in type"),
            ("reconstruction", "after the image tokenizer"),
        ):
            if row := scores.get("ceiling", {}).get(scores["reader"], {}).get(side):
                rows.append((f"ceiling: {name}", "", *_scores(row)))
        table = html.table(("", "texts", "exact", "CER"), rows, f"read by {scores['reader']}")
    return html.section(
        "Writing held-out words", f'<p class="note">{note}</p>', html.sheet(figures, 176), table, id="writing"
    )


def _readings(readings: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> str:
    if not readings:
        return ""
    figures = [
        html.figure(
            html.picture(one["image"]),
            f"{html.escape(one['text'])} → {html.mark(one['read'], one['read'] == one['text'])}",
            right=one["read"] == one["text"],
        )
        for one in readings[:LISTED]
    ]
    note = f"The first {len(figures)} images of held-out texts: the truth, and what the model read."
    tables = [
        html.table(
            ("", "texts", "exact", "CER"),
            [(line, str(row["items"]), *_scores(row)) for line, row in _lines(one)],
            FONTS.get(name, name),
        )
        for name, one in scores.items()
    ]
    both = f'<div class="charts">{"".join(tables)}</div>'
    return html.section(
        "Reading held-out words", f'<p class="note">{note}</p>', html.sheet(figures, 176), both, id="reading"
    )


def _lines(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """All, then each kind, then each length."""
    return [
        ("all", scores),
        *((kind_name(kind), row) for kind, row in by_kind(scores)),
        *((f"{length} letters", row) for length, row in scores.get("by_length", {}).items()),
    ]


def _reconstructions(
    groups: Mapping[str, Sequence[Mapping[str, Any]]], scores: Mapping[str, Any], made: Mapping[str, Any]
) -> str:
    if not groups and not scores:
        return ""
    read = any("text" in item for group in groups.values() for item in group)
    body = [
        '<p class="note">An image becomes a grid of codes and an image again: first the original, then the '
        f"reconstruction{', and what OCR reads in it' if read else ''}. What is lost here, the model never "
        "sees.</p>"
    ]
    for title, items in groups.items():
        wide = max(one["original"].width for one in items)
        stacked = any("text" in one for one in items)
        scale = 3 if stacked and wide <= 96 else 2
        figures = [_pair(one, scale, stacked) for one in items]
        cell = wide * scale + 20 if stacked else 2 * wide * scale + 30
        body += [f"<h3>{html.escape(title)}</h3>", html.sheet(figures, cell)]
    if scores:
        body.append(_codes_table(scores))
    for name, title in (("words-new-fonts", "held-out fonts"), ("words", "training fonts")):
        if "ocr_by_reader" in scores.get(name, {}):
            body += [_ocr_table(scores[name], title)]
    return html.section("The image tokenizer", *body, id="tokenizer")


def _pair(one: Mapping[str, Any], scale: int, stacked: bool) -> str:
    images = html.beside([("", one["original"]), ("", one["reconstruction"])], scale, stacked=stacked)
    caption, right = html.escape(one.get("caption", "")), None
    if one.get("read") is not None:
        right = one["read"] == one["text"]
        caption = f"{html.mark(one['read'], right)} <small>{caption}</small>"
    return html.figure(images, caption, right=right)


_SETS = {
    "words": "words, training fonts",
    "words-new-fonts": "words, held-out fonts, all sizes",
    "pictures": "pictures of held-out things",
}


def _codes_table(scores: Mapping[str, Any]) -> str:
    rows = []
    for name, one in scores.items():
        tokens, bits = one["tokens_per_image"], one["bits_per_pixel"]
        rows.append(
            (
                _SETS.get(name, name),
                str(one["images"]),
                figure(one["psnr"], 2),
                figure(one["ssim"]),
                figure(one["l1"], 4),
                f"{one['codebook_usage']:.0%} of {_codes(one)}",
                figure(one["perplexity"], 0),
                figure(tokens, 1),
                figure(tokens * math.log2(one["codebook_size"]), 0),
                figure(bits),
            )
        )
    header = ("", "images", "PSNR dB", "SSIM", "L1", "codes used", "perplexity")
    header += ("tokens / image", "bits / image", "bits / pixel")
    return html.table(header, rows, "Pixels and codes")


def _ocr_table(scores: Mapping[str, Any], title: str) -> str:
    tables = []
    for reader, one in scores["ocr_by_reader"].items():
        rows = [("all", *_ocr_cells(one))]
        for row in one["by_text_size"]["bins"]:
            name = row["bin"].strip("[)").replace(", ", " to ")
            rows.append((f"type of {name} px", *_ocr_cells(row)))
        rows += [(kind_name(kind), *_ocr_cells(row)) for kind, row in by_kind(one)]
        header = ("", "texts", "exact before", "exact after", "CER before", "CER after", "T-ACC", "T-NED")
        caption = (
            f"What {reader} {one['version']} reads, {title}, before and after the tokenizer; T-ACC and T-NED "
            "are over the texts that it reads before"
        )
        tables.append(html.table(header, rows, caption))
    return "".join(tables)


def _ocr_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    before, after = row["original"], row["reconstruction"]
    return (
        str(row["items"]),
        percent(before["exact_match"]),
        percent(after["exact_match"]),
        figure(before["cer"]),
        figure(after["cer"]),
        figure(after["t_acc"]),
        figure(after["t_ned"]),
    )


def _learning(curves: Curves) -> str:
    charts = [*lm_charts(curves.get("lm", {})), *image_tokenizer_charts(curves.get("image_tokenizer", {}))]
    return html.section("Learning", charts_grid(charts), id="curves") if any(charts) else ""


def _run(results: Mapping[str, Any]) -> str:
    stages = [(s["name"], f"{s['seconds']:.0f}") for s in results.get("stages", [])]
    if "seconds" in results:
        stages.append(("total", f"{results['seconds']:.0f}"))
    machine, made = results.get("machine", {}), results.get("models", {})
    memory = results.get("peak_memory_bytes")
    facts = [
        ("command", results.get("command")),
        ("seed", results.get("seed")),
        ("budget", results.get("budget")),
        (
            "machine",
            ", ".join(str(v) for v in (machine.get("cpu"), machine.get("cores"), machine.get("system")) if v),
        ),
        ("peak memory", f"{memory / 2**30:.1f} GiB" if memory else None),
        ("image tokenizer", _image_tokenizer(made)),
        ("text tokenizer", f"{made['text_pieces']} pieces" if "text_pieces" in made else None),
        ("transformer", _maker(made, "lm_parameters", "vocab_size", "tokens")),
        ("versions", ", ".join(f"{name} {v}" for name, v in results.get("versions", {}).items())),
        ("corpus", ", ".join(f"{count:,} {name}" for name, count in results.get("corpus", {}).items())),
    ]
    body = [html.pairs([(name, str(value)) for name, value in facts if value not in (None, "")])]
    if stages:
        body.append(html.table(("stage", "seconds"), stages))
    return html.section("This run", *body, id="run")


def _codes(one: Mapping[str, Any]) -> str:
    """The number of codes: K, or "n × K" with n codes per position."""
    n, K = one.get("codes_per_position", 1), one["codebook_size"]
    return f"{K:,}" if n == 1 else f"{n} × {K:,}"


def _image_tokenizer(made: Mapping[str, Any]) -> str | None:
    if "image_tokenizer_parameters" not in made:
        return None
    return f"{count(made['image_tokenizer_parameters'])} parameters, {_codes(made)} codes"


def _maker(made: Mapping[str, Any], parameters: str, size: str, unit: str) -> str | None:
    if parameters not in made:
        return None
    return f"{count(made[parameters])} parameters, {made[size]:,} {unit}"


def _credits() -> str:
    license = '<a href="https://creativecommons.org/licenses/by-sa/4.0/">CC BY-SA 4.0</a>'
    return (
        '<footer>Pictures and their copies: <a href="https://openmoji.org">OpenMoji</a>, the open-source '
        f"emoji and icon project, {license}. Names: Unicode. Words: wordfreq. Held-out words, fonts and "
        "things, and the rule by which they are kept out of training: earlyfusion.data.render.split.</footer>"
    )


def _scores(row: Mapping[str, Any]) -> tuple[str, str]:
    return percent(row["exact_match"]), figure(row["cer"])
