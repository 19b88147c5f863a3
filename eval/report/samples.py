"""Sampled documents as files: sample.json for programs, PNGs, and index.html for people."""

import io
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ...tokenizers.files import atomic_folder, write_bytes, write_json, write_text


@dataclass(frozen=True)
class TextSegment:
    """A stretch of text."""

    text: str
    prompt: bool = False
    """Given, not written by the model."""


@dataclass(frozen=True)
class ImageSegment:
    """An image."""

    image: Image.Image
    prompt: bool = False


Segment = TextSegment | ImageSegment


@dataclass(frozen=True)
class Sample:
    """One document."""

    segments: list[Segment]
    stop: str
    """Why it ended, as `generate` says, "eos", "turn", "length", "context", "image", or "interrupted"."""


def write_samples(folder: str | Path, samples: Sequence[Sample], settings: dict[str, Any]) -> None:
    """Write `folder`/sample.json, its images as PNG, and index.html, all or nothing.

    sample.json holds "segments", each {"type": "text", "text", "prompt"} or {"type": "image", "file",
    "prompt"}, "stop", and `settings`. With several samples, "samples" is the list of all, each with its
    segments and stop, and those at the top are the first's.
    """
    with atomic_folder(folder) as new:
        records = []
        for number, sample in enumerate(samples, start=1):
            prefix = f"sample-{number}-" if len(samples) > 1 else ""
            records.append({"segments": _write_segments(new, sample.segments, prefix), "stop": sample.stop})
        several = {"samples": records} if len(records) > 1 else {}
        write_json(new / "sample.json", {**records[0], **several, **settings})
        write_text(new / "index.html", page(records, samples, settings))


def page(records: Sequence[dict[str, Any]], samples: Sequence[Sample], settings: dict[str, Any]) -> str:
    """An HTML page of the samples, whose images are files beside it."""
    articles = []
    for number, (record, sample) in enumerate(zip(records, samples), start=1):
        title = f"<h2>{number}</h2>\n" if len(records) > 1 else ""
        body = "".join(_html(r, s) for r, s in zip(record["segments"], sample.segments))
        articles.append(
            f"<article>\n{title}{body}\n<p class=stop>ended: {escape(STOPS[record['stop']])}</p></article>"
        )
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in _flat(settings))
    return PAGE.format(articles="\n".join(articles), settings=rows)


def printable(text: str) -> str:
    """`text` with U+FFFD for control characters, which a terminal would obey and a page could not hold."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def _write_segments(folder: Path, segments: Iterable[Segment], prefix: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    images = 0
    for segment in segments:
        if isinstance(segment, TextSegment):
            records.append({"type": "text", "text": segment.text, "prompt": segment.prompt})
            continue
        images += 1
        name = f"{prefix}image-{images}.png"
        png = io.BytesIO()
        segment.image.save(png, "PNG")
        write_bytes(folder / name, png.getvalue())
        records.append({"type": "image", "file": name, "prompt": segment.prompt})
    return records


def _html(record: dict[str, Any], segment: Segment) -> str:
    """One segment: text as it is, an image enlarged by a whole number to about 256 px."""
    side = "prompt" if segment.prompt else "model"
    if isinstance(segment, TextSegment):
        return f'<span class="text {side}">{escape(printable(segment.text))}</span>'
    width, height = segment.image.size
    scale = max(1, 256 // max(width, height))
    return (
        f'<img class={side} src="{escape(record["file"])}" width={width * scale} height={height * scale} '
        f'alt="image, {width} x {height} pixels" title="{width} x {height} pixels, {side}">'
    )


def _flat(settings: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield key, ", ".join(f"{k} {v}" for k, v in value.items())
        elif value is not None:
            yield key, value


STOPS = {
    "eos": "the model ended the document",
    "turn": "the model ended its turn",
    "length": "as many tokens as were asked for",
    "context": "the context is full",
    "image": "the image that was asked for",
    "interrupted": "you interrupted it",
}

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>earlyfusion: samples</title>
<style>
  :root {{ color-scheme: light dark; --line: #8884; --model: #3b82f622; }}
  body {{ font: 1.05rem/1.7 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 1rem; }}
  article {{ border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; margin: 1.2rem 0; }}
  h2 {{ margin: 0 0 .4rem; font-size: 1rem; opacity: .6; }}
  .text {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
  .text.model {{ background: var(--model); border-radius: .25rem; }}
  img {{ image-rendering: pixelated; vertical-align: middle; margin: .5rem; max-width: 100%; height: auto;
         border: 2px solid var(--line); }}
  img.model {{ border-color: #3b82f6; }}
  .stop, dl, footer {{ font-size: .85rem; opacity: .7; }}
  .stop {{ margin: .8rem 0 0; }}
  dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; }}
  dd {{ margin: 0; }}
</style>
<h1>Samples</h1>
<p>Plain: the prompt. <span class="text model">Blue: written by the model.</span></p>
{articles}
<dl>{settings}</dl>
</html>
"""
