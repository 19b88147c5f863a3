"""The sections of a run's report, each a pure function of a part of what ``run.report`` takes; "" if it "
"is empty."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from .curves import image_tokenizer_charts, lm_charts, telemetry_charts
from .figures import FONTS, Curves, by_kind, codes, facts, is_check, kind_name, markdown, moved
from .glossary import how_to_read
from .page import html
from .page.charts import charts_grid
from .page.html import Part, TokenCell
from .page.numbers import figure, percent

Section = tuple[str, str, str]
"""Id, title and content."""
SHOWN, LISTED = 10, 24
"""Readings and writings that the report shows, the first ones, and how many with those that are folded."""
NEARLY = 0.02
"""Tables whose exact matches are all below this are folded."""
SETS = {
    "words": "words, training fonts",
    "words-new-fonts": "words, new fonts, all sizes",
    "pictures": "pictures of held-out things",
}


def note(text: str) -> str:
    """A paragraph in plain English."""
    return f'<p class="note">{html.escape(text)}</p>'


def part(one: Mapping[str, Any]) -> Part:
    """A part of a document of the gallery."""
    return Part(one["text"] if "text" in one else one["image"], bool(one.get("prompt")))


def progress(sheets: Mapping[str, Sequence[tuple[int, Any]]]) -> str:
    """What the networks made during their trainings: sheets by step."""
    told = {
        "samples": "What the transformer draws from the same names, as its training proceeds.",
        "reconstructions": "Validation images above what the image tokenizer makes of them, as its "
        "training proceeds.",
    }
    body = []
    for name, some in sheets.items():
        if len(some) > 1:
            width = min(480, max(sheet.width for _, sheet in some) + 20)
            some = some if width < 480 else (some[0], some[-1])  # wide ones: the first and the last
            figures = [
                html.figure(html.picture(sheet, 1), f"after <b>{step:,}</b> steps") for step, sheet in some
            ]
            body.append(note(told[name]) + html.sheet(figures, width))
    return "".join(body)


def drawings(some: Sequence[Mapping[str, Any]]) -> str:
    """Pictures drawn from names, each beside the nearest training picture."""
    if not some:
        return ""
    figures = []
    for one in some:
        images = [("drawn", one["picture"]), (f"nearest: {one['nearest_name']}", one["nearest"])]
        right = one["picture"] is not None and one["nearest_name"] == one["name"]
        pictures = html.beside([(name, image) for name, image in images if image is not None], scale=2)
        figures.append(html.figure(pictures, f"<b>{html.escape(one['prompt'])}</b>", right=right))
    told = (
        f"The first {len(some)} samples of the seed: nobody picked them. The names are training names, so "
        "the model has learned these drawings; beside each is the nearest training picture (smallest mean "
        "squared difference of the pixels). A dashed frame marks a drawing that is nearest to something "
        "else."
    )
    return note(told) + html.sheet(figures, 232)


def documents(some: Sequence[Mapping[str, Any]], tokens: Sequence[Sequence[Any]]) -> str:
    """Documents of text and pictures, and the first one's tokens."""
    if not some:
        return ""
    told = (
        "Text and pictures as the model wrote them, in one stream. Plain text and dashed frames are the "
        "prompt, blue is the model's; some documents have no prompt."
    )
    shown = [html.document([part(p) for p in one["parts"]]) for one in some]
    strip = ""
    if tokens:
        cells = [TokenCell(*token) for token in tokens]
        pictures = [p["image"] for p in some[0]["parts"] if "image" in p]
        told_tokens = (
            "The first document as the transformer sees it: one row of tokens. Gray is structure (such as "
            "the height and width of a picture), blue is text, and each code of a picture shows the piece "
            "of the picture that it stands for. Point at a token to see what it is and where it goes."
        )
        again = shown[0] if any(cell.place for cell in cells) else ""
        strip = (
            f"<h3>What the transformer sees</h3>{note(told_tokens)}{again}{html.token_strip(cells, pictures)}"
        )
    more = html.details(f"{len(shown) - 4} more documents", *shown[4:])
    return note(told) + "".join(shown[:4]) + more + f"<div>{strip}</div>"


def words(gallery: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Readings and writings of held-out words, and one table of both."""
    readings, writings = gallery.get("readings", []), gallery.get("writings", [])
    body = []
    if writings:
        reader = results.get("writing", {}).get("reader", "OCR")
        body.append(
            "<h3>Writing</h3>" + note(f"Text → the image that the model wrote → what {reader} reads in it.")
        )
        body.append(_listed([(one["picture"], one["text"], one["read"]) for one in writings]))
    if readings:
        body.append("<h3>Reading</h3>" + note("Image → its text → what the model read."))
        body.append(_listed([(one["image"], one["text"], one["read"]) for one in readings]))
    table = _words_table(results)
    if not body and not table:
        return ""
    return "".join(body) + table + how_to_read(("Exact", "CER", "Held out", "Ceiling"))


def _folded(figures: Sequence[str], shown: int, width: int) -> str:
    """The first figures, and the others folded."""
    rest = figures[shown:]
    more = html.details(f"{len(rest)} more", html.sheet(rest, width)) if rest else ""
    return html.sheet(figures[:shown], width) + more


def _listed(some: Sequence[tuple[Any, str, str]]) -> str:
    """Images of words, with the text and what was read: the first ones, and more of them folded."""
    figures = []
    for image, text, read in some[:LISTED]:
        picture = "<i>not finished</i>" if image is None else html.picture(image, alt=f"image of {text!r}")
        caption = f"{html.escape(text)} → {html.mark(read, read == text)}"
        figures.append(html.figure(picture, caption, right=read == text))
    right = sum(read == text for _, text, read in some[:LISTED])
    told = note(f"The first {len(figures)} held-out texts, not selected; {right} are right.")
    return told + _folded(figures, SHOWN if right else SHOWN // 2, 176)


def _words_table(results: Mapping[str, Any]) -> str:
    """All figures of reading and writing, side by side; folded if nearly all exact matches are 0."""
    columns = {f"reading, {FONTS.get(name, name)}": row for name, row in results.get("reading", {}).items()}
    if writing := results.get("writing"):
        columns[f"writing, read by {writing['reader']}"] = writing
    if not columns:
        return ""
    lines: dict[str, list[Mapping[str, Any]]] = {"all": list(columns.values())}
    for scores in columns.values():
        for name, row in _parts(scores):
            lines.setdefault(name, []).append(row)
    rows = []
    for name, cells in lines.items():
        cells = cells if len(cells) == len(columns) else []  # sets differ: say nothing
        if cells:
            rows.append((name, str(cells[0]["items"]), *(c for row in cells for c in _scores(row))))
    ceiling = (writing or {}).get("ceiling", {}).get((writing or {}).get("reader"), {})
    for side, name in (("original", "real type"), ("reconstruction", "real type after the tokenizer")):
        if row := ceiling.get(side):
            rows.append((f"ceiling: {name}", "", *("–",) * (2 * len(columns) - 2), *_scores(row)))
    header = ("", "texts", *("exact", "CER") * len(columns))
    groups = (("", 2), *((name, 2) for name in columns))
    table = html.table(header, rows, "Held-out words and random strings", groups)
    if all(row["exact_match"] < NEARLY for row in columns.values()):
        return html.details(f"All exact matches are below {NEARLY:.0%}: show the table", table)
    return table


def _parts(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each kind, then each length."""
    lengths = scores.get("by_length", {}).items()
    return [
        *((kind_name(kind), row) for kind, row in by_kind(scores)),
        *((f"{length} letters", row) for length, row in lengths),
    ]


def _scores(row: Mapping[str, Any]) -> tuple[str, str]:
    return percent(row["exact_match"]), figure(row["cer"])


def image_tokenizer(groups: Mapping[str, Sequence[Mapping[str, Any]]], scores: Mapping[str, Any]) -> str:
    """Reconstructions, and the figures of pixels, codes and OCR."""
    if not groups and not scores:
        return ""
    read = any("text" in item for group in groups.values() for item in group)
    body = [
        note(
            "An image becomes a grid of codes and an image again: first the original, then the "
            f"reconstruction{', and what OCR reads in it' if read else ''}. The model never sees what is "
            "lost here."
        )
    ]
    for title, items in groups.items():
        wide = max(one["original"].width for one in items)
        stacked = any("text" in one for one in items)
        scale = 3 if stacked and wide <= 96 else 2
        figures = [_pair(one, scale, stacked) for one in items]
        cell = wide * scale + 20 if stacked else 2 * wide * scale + 30
        body += [f"<h3>{html.escape(title)}</h3>", _folded(figures, 6 if stacked else SHOWN, cell)]
    if scores:
        body.append(_codes_table(scores))
    ocr = [
        _ocr_table(scores[name], title)
        for name, title in (("words", "training fonts"), ("words-new-fonts", "new fonts"))
        if "ocr_by_reader" in scores.get(name, {})
    ]
    body.append(html.details("What OCR reads, by size of type", *ocr))
    terms = ("PSNR", "SSIM", "T-ACC", "T-NED", "CER", "Codes used", "Perplexity", "Bits per pixel")
    return "".join(body) + how_to_read(terms)


def _pair(one: Mapping[str, Any], scale: int, stacked: bool) -> str:
    images = html.beside([("", one["original"]), ("", one["reconstruction"])], scale, stacked=stacked)
    caption, right = html.escape(one.get("caption", "")), None
    if one.get("read") is not None:
        right = one["read"] == one["text"]
        caption = f"{html.mark(one['read'], right)} <small>{caption}</small>"
    return html.figure(images, caption, right=right)


def _codes_table(scores: Mapping[str, Any]) -> str:
    rows = []
    for name, one in scores.items():
        tokens, bits = one["tokens_per_image"], one["bits_per_pixel"]
        rows.append(
            (
                SETS.get(name, name),
                str(one["images"]),
                figure(one["psnr"], 2),
                figure(one["ssim"]),
                figure(one["l1"], 4),
                f"{one['codebook_usage']:.0%} of {codes(one)}",
                figure(one["perplexity"], 0),
                figure(tokens, 1),
                figure(tokens * math.log2(one["codebook_size"]), 0),
                figure(bits),
            )
        )
    header = ("", "images", "PSNR dB", "SSIM", "L1", "codes used", "perplexity")
    header += ("tokens / image", "bits / image", "bits / pixel")
    return html.table(header, rows, "Pixels and codes of held-out images")


def _ocr_table(scores: Mapping[str, Any], title: str) -> str:
    tables = []
    for reader, one in scores["ocr_by_reader"].items():
        rows = [("all", *_ocr_cells(one))]
        for row in one["by_text_size"]["bins"]:
            name = row["bin"].strip("[)").replace(", ", " to ")
            rows.append((f"type of {name} px", *_ocr_cells(row)))
        rows += [(kind_name(kind), *_ocr_cells(row)) for kind, row in by_kind(one)]
        header = ("", "texts", "before", "after", "before", "after", "T-ACC", "T-NED")
        caption = f"What {reader} {one['version']} reads, {title}, before and after the image tokenizer"
        groups = (("", 2), ("exact", 2), ("CER", 2), ("of texts read before", 2))
        tables.append(html.table(header, rows, caption, groups))
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


def learning(
    curves: Curves, results: Mapping[str, Any], sheets: Mapping[str, Sequence[tuple[int, Any]]]
) -> str:
    """The trainings: how far they came, curves, and why validation curves differ."""
    lm, image = curves.get("lm", {}), curves.get("image_tokenizer", {})
    main = charts_grid([*lm_charts(lm), *image_tokenizer_charts(image)[:2]])
    rest = [chart for chart in (*image_tokenizer_charts(image)[2:], *telemetry_charts(lm)) if chart]
    if "<svg" not in main and not rest:
        return ""
    far = html.cards(moved(curves, results.get("models", {}).get("vocab_size", 0))) + progress(sheets)
    told = note("Point at a chart, or use the arrow keys, to see the values at a step. Dashed: validation.")
    more = html.details("More curves", charts_grid(rest)) if rest else ""
    terms = ("Loss", "Perplexity", "PSNR", "Codes used", "Leakage")
    far = "" if is_check(results) else far  # the page began with it
    return far + told + main + _mixture(results) + more + how_to_read(terms)


def _mixture(results: Mapping[str, Any]) -> str:
    """Why validation curves lie elsewhere than training curves."""
    share = results.get("one_word_share", {})

    def compared(what: str) -> str:
        if f"train {what}" not in share:
            return ""
        train, validation = (f"{share[f'{part} {what}']:.0%}" for part in ("train", "validation"))
        return f" ({train} of training's {what} are single words in type, {validation} of validation's)"

    points = (
        "A training point is the mean over the steps since the point before, with the weights of those "
        "steps. A validation point is the mean over the whole validation set, with the weights of one step.",
        f"Validation holds out words, not pictures, and is another mixture{compared('documents')}. Its other "
        "documents draw and name the very pictures of the training, which the model has seen many times. "
        "Their codes and names are easy to predict, so validation losses lie below training losses. Compare "
        "a curve with the same curve of another run.",
        "The PSNR of training is that of the mean squared error of all images. The PSNR of validation is "
        "the mean of each image's PSNR, which is never lower on the same images. The images differ, too"
        f"{compared('images')}.",
    )
    items = "".join(f"<li>{html.escape(point)}</li>" for point in points)
    return f'<div class="aside"><b>Why training and validation curves differ</b><ul>{items}</ul></div>'


def next_steps(results: Mapping[str, Any]) -> str:
    """Commands to try."""
    if not results:
        return ""
    folder = results.get("folder", "runs/demo")
    steps = [
        (
            "Open the model in the browser: complete prompts, inspect tokens, reconstruct pictures.",
            "playground {}",
        ),
        ("Draw a picture from its name.", 'sample --model {} --then image "A red apple:"'),
        (
            "Measure it in three views of each word, which reads better.",
            "eval reading {} --views 3 --out reading.json",
        ),
    ]
    if is_check(results):
        steps.append(("Train the full demo: about 11 minutes on two CPU cores.", "demo --out runs/full"))
    model = shlex.quote(f"{folder}/model")
    commands = (html.command(f"earlyfusion {words.format(model)}", told) for told, words in steps)
    own = (
        '<p class="note">Train on your own pictures and texts: <code>docs/own-data.md</code> in the '
        "repository has the five commands. <code>earlyfusion --help</code> lists all others.</p>"
    )
    return "".join(commands) + own


def this_run(results: Mapping[str, Any]) -> str:
    """How the run was made, the seconds of its stages, and a summary to copy."""
    if not results:
        return ""
    body = [html.pairs(facts(results))]
    stages = results.get("stages", [])
    total = sum(stage["seconds"] for stage in stages)
    if total:
        rows = "".join(
            f"<tr><td>{html.escape(s['name'])}</td><td>{s['seconds']:,.0f}</td>"
            f'<td><span class="share" style="width:{12 * s["seconds"] / total:.2f}rem"></span></td></tr>'
            for s in stages
        )
        rows += f"<tr><td>total</td><td>{total:,.0f}</td><td></td></tr>"
        body.append(
            '<div class="scroll" tabindex="0"><table class="stages"><caption>Seconds of each stage</caption>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    told = note("To paste into an issue or a log; the same text is in summary.md beside this page.")
    summary = f'<code class="copy">{html.escape(markdown(results))}</code>'
    body.append(f'<h3>Summary in Markdown</h3>{told}<pre class="markdown" tabindex="0">{summary}</pre>')
    return "".join(body)
