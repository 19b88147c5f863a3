"""Agreement of two texts: edit distance, CER, exact match, and TokBench's T-ACC and T-NED.

Everything counts characters (Unicode code points) and is case-sensitive. Plain Python: no torch, no numpy.
TokBench: Wu et al., arXiv:2505.18142.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

Bin = tuple[float, float]
"""A half-open range: low <= value < high."""

TOKBENCH_BINS: tuple[Bin, ...] = ((0.02, 0.03), (0.03, 0.04), (0.04, 1.0))
"""Width of a character over the longer side of its image; boxes outside all bins are dropped."""

PIXEL_EDGES = (0, 8, 10, 12, 13, 14, 15, 16, 20, 24, 32, 48)
PIXEL_BINS: tuple[Bin, ...] = tuple(zip(PIXEL_EDGES, (*PIXEL_EDGES[1:], math.inf)))
"""Size of the type in pixels."""

HEIGHT_EDGES = (0, 6, 8, 10, 12, 16, 20, 24, 32, 48)
HEIGHT_BINS: tuple[Bin, ...] = tuple(zip(HEIGHT_EDGES, (*HEIGHT_EDGES[1:], math.inf)))
"""Height of the glyphs in pixels, from the lowest to the highest inked pixel."""


class TextBox(NamedTuple):
    """A text in an image and its readings, before the tokenizer and after."""

    text: str
    original: str
    """The reading of the original."""
    reconstruction: str
    """The reading of the reconstruction."""
    relative_size: float
    """Width of the text / number of characters / longer side of the image."""
    pixels: float
    """Size of the type in pixels."""
    kind: str | None = None
    """A name to group by, such as "word" or "random"."""
    glyph_height: float = math.nan
    """Height of the ink in pixels; NaN if not measured."""


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions that turn ``a`` into ``b``."""
    if len(a) < len(b):
        a, b = b, a
    row = list(range(len(b) + 1))  # row[j]: distance of a[:i] and b[:j]
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float | None:
    """Character error rate: all edits / all reference characters; None without reference characters.

    It exceeds 1 if the hypotheses are much longer than the references.

    Raises:
        ValueError: The lists differ in length.
    """
    characters = sum(map(len, references))
    edits = sum(edit_distance(*pair) for pair in _pairs(references, hypotheses))
    return edits / characters if characters else None


def exact_match(references: Sequence[str], hypotheses: Sequence[str]) -> float | None:
    """Fraction of hypotheses that equal their reference, 0..1; None for empty lists. Raises as ``cer``."""
    return mean(float(a == b) for a, b in _pairs(references, hypotheses))


def text_scores(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float | None]:
    """{"exact_match", "cer"} of the two lists."""
    return {"exact_match": exact_match(references, hypotheses), "cer": cer(references, hypotheses)}


def row_scores(rows: Sequence[Mapping[str, Any]], read: str) -> dict[str, Any]:
    """{"items", "exact_match", "cer", "by_kind", "by_length"} of rows with "text", "kind" and a reading.

    Args:
        read: Key of the reading.
    """

    def scores(some: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"items": len(some), **text_scores([row["text"] for row in some], [row[read] for row in some])}

    kinds, lengths = grouped(rows, lambda row: row["kind"]), grouped(rows, lambda row: len(row["text"]))
    return {
        **scores(rows),
        "by_kind": {kind: scores(some) for kind, some in kinds.items()},
        "by_length": {str(length): scores(some) for length, some in lengths.items()},
    }


def t_ned(reference: str, hypothesis: str) -> float:
    """TokBench's T-NED of one box: 1 - edit distance / length of the longer text; 1 if both are empty."""
    longer = max(len(reference), len(hypothesis))
    return 1 - edit_distance(reference, hypothesis) / longer if longer else 1.0


def tokbench(boxes: Sequence[TextBox]) -> dict[str, Any]:
    """TokBench's scores of the reconstructions.

    T-ACC is the fraction of texts read exactly, T-NED the mean of ``t_ned``; both are unweighted means over
    the bins of relative size. Only boxes that the reader reads correctly in the original count, and boxes
    outside all bins are dropped. Returns the result of ``binned_scores``.
    """
    return binned_scores(boxes, lambda box: box.relative_size, TOKBENCH_BINS)


def by_pixels(boxes: Sequence[TextBox]) -> dict[str, Any]:
    """The same scores by the size of the type in pixels."""
    return binned_scores(boxes, lambda box: box.pixels, PIXEL_BINS)


def by_glyph_height(boxes: Sequence[TextBox]) -> dict[str, Any]:
    """The same scores by the height of the glyphs in pixels; boxes without one are dropped."""
    return binned_scores(boxes, lambda box: box.glyph_height, HEIGHT_BINS)


def read_scores(boxes: Sequence[TextBox]) -> dict[str, Any]:
    """The scores of one reader, before and after.

    - "original", "reconstruction": {"t_acc", "t_ned"}: TokBench's, means of its bins; {"cer", "exact_match"}:
      over all texts. T-ACC and T-NED are None if no text in any bin is read correctly in the original.
    - "items": all texts, "counted": those in T-ACC and T-NED, "dropped": those outside TokBench's bins,
      "empty_bins": bins left out of the means, "bins": the scores in each.
    - "without_bins": the scores over the texts of every size, T-ACC and T-NED too.
    - "by_text_size", "by_glyph_height": the same bins, names and means by the size of the type and by the
      height of the glyphs in px.
    - "by_kind": the scores of each kind, without bins.
    """
    overall, binned = side_by_side(boxes), tokbench(boxes)
    binned_mean = {name: binned.pop(name) for name in ("t_acc", "t_ned")}
    # Only texts that are read correctly in the original count: its own T-ACC and T-NED are 1.
    original_mean = {name: None if value is None else 1.0 for name, value in binned_mean.items()}
    return {
        "items": len(boxes),
        "original": {**overall["original"], **original_mean},
        "reconstruction": {**overall["reconstruction"], **binned_mean},
        **binned,
        "without_bins": overall,
        "by_text_size": {"unit": "px per em where it is known, else px of ink height", **by_pixels(boxes)},
        "by_glyph_height": {
            "unit": "px of the text's box, without one of its ink",
            **by_glyph_height(boxes),
        },
        "by_kind": {
            kind: {"items": len(some), **side_by_side(some)}
            for kind, some in grouped(boxes, lambda box: box.kind).items()
        },
    }


def agreement(boxes: Sequence[TextBox]) -> dict[str, Any]:
    """How far the reading of the reconstruction agrees with that of the original, which needs no transcript.

    OmniDoc-TokenBench's rule: NED is the mean over lines of ``t_ned``, with the same engine's reading of the
    original as the reference. Lines without such a reading are left out.

    Returns:
        {"lines": with a reading of the original, "unread": lines without, "characters": in the readings,
        "ned", "exact_match", "cer", "by_height": {"unit", "bins": [{"bin", "lines", and the scores}]}};
        scores without a line are None.
    """
    read = [box for box in boxes if box.original]

    def scores(some: Sequence[TextBox]) -> dict[str, Any]:
        before, after = [box.original for box in some], [box.reconstruction for box in some]
        return {"lines": len(some), "ned": mean(map(t_ned, before, after)), **text_scores(before, after)}

    bins = ((bounds, [b for b in read if bounds[0] <= b.glyph_height < bounds[1]]) for bounds in HEIGHT_BINS)
    return {
        **scores(read),
        "unread": len(boxes) - len(read),
        "characters": sum(len(box.original) for box in read),
        "by_height": {
            "unit": "px of the line's box",
            "bins": [{"bin": bin_name(bounds), **scores(some)} for bounds, some in bins if some],
        },
    }


def binned_scores(
    boxes: Sequence[TextBox], size: Callable[[TextBox], float], bins: Sequence[Bin]
) -> dict[str, Any]:
    """Scores in each bin of ``size``, and their unweighted mean over the bins with a box that counts.

    {"t_acc", "t_ned", "counted": boxes in the mean, "dropped": boxes outside every bin,
    "empty_bins": [names of bins in which no box counts],
    "bins": [{"bin", "items", "counted", "original": {...}, "reconstruction": {...}} for bins with items]}.
    Scores without a box that counts are None.
    """
    rows, empty = [], []
    for low, high in bins:
        inside = [box for box in boxes if low <= size(box) < high]
        row = {"bin": bin_name((low, high)), "items": len(inside), **side_by_side(inside)}
        if inside:
            rows.append(row)
        if not row["counted"]:
            empty.append(row["bin"])
    return {
        **{
            name: mean(r["reconstruction"][name] for r in rows if r["counted"]) for name in ("t_acc", "t_ned")
        },
        "counted": sum(row["counted"] for row in rows),
        "dropped": len(boxes) - sum(row["items"] for row in rows),
        "empty_bins": empty,
        "bins": rows,
    }


def side_by_side(boxes: Sequence[TextBox]) -> dict[str, Any]:
    """{"counted", "original": scores, "reconstruction": scores} of some boxes, without bins.

    Exact match and CER cover all boxes. T-ACC and T-NED cover the boxes that the reader reads correctly in
    the original, whose own T-ACC and T-NED are 1 by definition.
    """
    counted = [box for box in boxes if box.original == box.text]

    def scores(read: Callable[[TextBox], str]) -> dict[str, float | None]:
        return {
            "t_acc": mean(float(read(box) == box.text) for box in counted),
            "t_ned": mean(t_ned(box.text, read(box)) for box in counted),
            **text_scores([box.text for box in boxes], [read(box) for box in boxes]),
        }

    return {
        "counted": len(counted),
        "original": scores(lambda box: box.original),
        "reconstruction": scores(lambda box: box.reconstruction),
    }


def bin_name(bounds: Bin) -> str:
    """For example "[0.02, 0.03)", or "48+" for a bin without an upper end."""
    low, high = bounds
    return f"{low:g}+" if math.isinf(high) else f"[{low:g}, {high:g})"


def grouped(values: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Values by ``key``, in ascending order of keys; values whose key is None are left out."""
    groups: dict[Any, list[T]] = {}
    for value in values:
        if (name := key(value)) is not None:
            groups.setdefault(name, []).append(value)
    return dict(sorted(groups.items()))


def mean(values: Iterable[float]) -> float | None:
    """Arithmetic mean; None without values."""
    values = list(values)
    return sum(values) / len(values) if values else None


def _pairs(references: Sequence[str], hypotheses: Sequence[str]) -> Iterable[tuple[str, str]]:
    if len(references) != len(hypotheses):
        raise ValueError(
            f"got {len(references)} references and {len(hypotheses)} hypotheses, expected equal numbers"
        )
    return zip(references, hypotheses)
