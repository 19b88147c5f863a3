"""The figures of the tasks for a terminal of 80 columns."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from .numbers import figure

BITS = {"bits_per_byte": "bits per byte of text", "bits_per_pixel": "bits per pixel"}


def reading_table(result: dict[str, Any]) -> Table:
    """The result of ``evaluate_reading``."""
    views = f" in {result['views']} views" if result["views"] > 1 else ""
    out = _table(f"Reading {result['items']} images{views}", "", "texts", "exact match", "CER")
    for name, row in _score_rows(result):
        out.add_row(escape(name), str(row["items"]), _show(row["exact_match"]), _show(row["cer"]))
    if result["skipped"]:
        out.caption = f"{len(result['skipped'])} skipped: {escape(result['skipped'][0])}"
    return out


def writing_table(result: dict[str, Any]) -> Table:
    """The result of ``evaluate_writing``."""
    sampling, title = result["sampling"], f"Writing {result['items']} words"
    if sampling["guidance"] != 1:
        title += f", guidance {sampling['guidance']:g}"
    if sampling["best_of"] > 1:
        title += f", best of {sampling['best_of']}"
    out = _table(title, "", "words", "exact match", "CER")
    for reader, scores in result["by_reader"].items():
        out.add_section()
        out.add_row(f"read by {reader} {scores['version']}")
        for name, row in _score_rows(scores):
            out.add_row(escape(name), str(row["items"]), _show(row["exact_match"]), _show(row["cer"]))
        for side, row in result.get("ceiling", {}).get(reader, {}).items():
            name = {"original": "words in type", "reconstruction": "after the image tokenizer"}[side]
            out.add_row(f"  ceiling: {name}", "", _show(row["exact_match"]), _show(row["cer"]))
    if result["unfinished"]:
        out.caption = f"{result['unfinished']} without a finished picture, counted as read as nothing"
    return out


def naming_table(result: dict[str, Any]) -> Table:
    """The result of ``evaluate_naming``."""
    names = ("", "pictures", "exact", "token F1", "nearest: exact", "token F1")
    out = _table(f"Naming {result['items']} pictures", *names)
    for name, row in (("all", result), *result["by_kind"].items()):
        figures = [_show(side[key]) for side in (row, row["nearest"]) for key in ("exact_match", "token_f1")]
        out.add_row(escape(name), str(row["items"]), *figures)
    return out


def drawing_table(result: dict[str, Any]) -> Table:
    """The figures of ``evaluate_drawing``."""
    names = ("", "nearest is the thing's picture", "one of five")
    out = _table(f"Drawing {result['items']} things", *names)
    for name, row in (("drawn", result), ("ceiling: after the image tokenizer", result["ceiling"])):
        out.add_row(name, _show(row["nearest"]), _show(row["nearest_5"]))
    out.add_row("chance", _show(result["chance"]), _show(5 * result["chance"]))
    return out


def lm_tables(figures: dict[str, Any]) -> list[Table]:
    """The figures of ``evaluate_lm``."""
    out = [_bits_table(figures["bits"])]
    for kind in ("reading", "views"):
        for fonts, result in figures[kind].items():
            table = reading_table(result)
            table.title = f"{table.title}, {fonts}"
            out.append(table)
    out += [writing_table(figures[kind]) for kind in ("writing", "best") if kind in figures]
    return [
        *out,
        naming_table(figures["naming"]),
        drawing_table(figures["drawing"]),
        _form_table(figures["form"]),
    ]


def _bits_table(bits: dict[str, Any]) -> Table:
    found = dict.fromkeys(name for row in bits.values() for name in row if name.startswith("bits_per_"))
    titles = {name: BITS.get(name, name.replace("_", " ")) for name in (*BITS, *found)}
    out = _table("Bits", "documents of", "", *titles.values())
    for kind, row in bits.items():
        out.add_row(kind, str(row["documents"]), *(_show(row.get(name), 4) for name in titles))
    return out


def _form_table(form: dict[str, Any]) -> Table:
    out = _table("Sampled from nothing", "", "sequences", "well-formed", "ended by themselves")
    for name, row in (("under the grammar", form["grammar"]), ("without it", form["free"])):
        out.add_row(name, str(row["items"]), _show(row["well_formed"], 4), _show(row["complete"], 4))
    return out


def _score_rows(scores: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The result of ``row_scores`` as lines: all, each kind, each length."""
    return [
        ("all", scores),
        *((f"  {kind}", row) for kind, row in scores["by_kind"].items()),
        *((f"  {length} characters", row) for length, row in scores["by_length"].items()),
    ]


def _table(title: str, first: str, *others: str) -> Table:
    """An empty table: names in the first column, figures in the others."""
    out = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    out.add_column(first)
    for name in others:
        out.add_column(name, justify="right")
    return out


def _show(value: float | None, digits: int = 3) -> str:
    return figure(value, digits, none="-")
