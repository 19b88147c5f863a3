"""Sampled documents as files: sample.json for programs, PNGs, and index.html for people."""

import io
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...storage.files import atomic_folder, write_bytes, write_json, write_text
from .page import html
from .page.html import Part

STOPS = {
    "eos": "the model ended the document",
    "turn": "the model ended its turn",
    "length": "maximum number of new tokens",
    "context": "the context is full",
    "interrupted": "you interrupted it",
    "stopped": "stopped",
    "not finite": "the model's logits are not finite (NaN or infinite): no token can be drawn",
}
"""Why a document ended. Any other reason is the modality of the block that was asked for."""


@dataclass(frozen=True)
class Sample:
    """One document."""

    parts: list[Part]
    stop: str
    """Why it ended, see ``stop_in_words``."""


def write_samples(folder: str | Path, samples: Sequence[Sample], settings: dict[str, Any]) -> None:
    """Write ``folder``/sample.json, its images as PNG, and index.html, all or nothing.

    sample.json holds "segments", each {"type": "text", "text", "prompt"} or {"type": "image", "file",
    "prompt"} (other modalities have no content yet), "stop", and ``settings``. With several samples,
    "samples" is the list of all, each with its segments and stop, and those at the top are the first's.
    """
    with atomic_folder(folder) as new:
        records = []
        for number, sample in enumerate(samples, start=1):
            prefix = f"sample-{number}-" if len(samples) > 1 else ""
            records.append({"segments": _write_parts(new, sample.parts, prefix), "stop": sample.stop})
        several = {"samples": records} if len(records) > 1 else {}
        write_json(new / "sample.json", {**records[0], **several, **settings})
        write_text(new / "index.html", page(records, samples, settings))


def page(records: Sequence[dict[str, Any]], samples: Sequence[Sample], settings: dict[str, Any]) -> str:
    """An HTML page of the samples, whose images are the files that ``records`` name."""
    figures = []
    for number, (record, sample) in enumerate(zip(records, samples), start=1):
        files = iter([one["file"] for one in record["segments"] if one["type"] == "image"])
        parts = [
            part._replace(content=printable(part.content)) if isinstance(part.content, str) else part
            for part in sample.parts
        ]
        body = html.document(parts, scale=0, uri=lambda _, files=files: next(files))
        title = f"<b>Sample {number}</b>: " if len(records) > 1 else ""
        figures.append(html.figure(body, f"{title}{html.escape(stop_in_words(sample.stop))}"))
    lead = (
        "Plain text and dashed frames are the prompt, blue is what the model wrote. The pictures lie beside "
        "this page as PNG files, and sample.json has everything for programs."
    )
    return html.page(
        "earlyfusion: samples",
        f"<h1>{'Samples' if len(records) > 1 else 'A sample'}</h1>",
        f'<p class="lead">{lead}</p>',
        html.sheet(figures, 340) if len(figures) > 1 else "".join(figures),
        html.details("Settings", html.pairs(_flat(settings))),
    )


def stop_in_words(stop: str) -> str:
    """Why a document ended (``Generated.stop``), in words."""
    return STOPS.get(stop, f"the {stop} is finished")


def printable(text: str) -> str:
    """Replace control characters by U+FFFD: a terminal would obey them, and a page could not hold them."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def _write_parts(folder: Path, parts: Iterable[Part], prefix: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    images = 0
    for part in parts:
        if isinstance(part.content, str):
            records.append({"type": "text", "text": part.content, "prompt": part.prompt})
            continue
        if not isinstance(part.content, Image.Image):
            records.append({"type": type(part.content).__name__, "prompt": part.prompt})
            continue
        images += 1
        name = f"{prefix}image-{images}.png"
        png = io.BytesIO()
        part.content.save(png, "PNG")
        write_bytes(folder / name, png.getvalue())
        records.append({"type": "image", "file": name, "prompt": part.prompt})
    return records


def _flat(settings: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield key, ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in value.items())
        elif value is not None:
            yield key.replace("_", " "), {True: "yes", False: "no"}.get(value, str(value))
