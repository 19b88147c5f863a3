"""The figures of ``tasks.reconstruction`` for a terminal of 80 columns."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from .page.numbers import figure


def table(result: dict[str, Any]) -> Table:
    """Pixels and codes, then each reader's scores, and what was not measured."""
    out = Table.grid()
    out.title, out.title_justify = f"Reconstruction of {result['images']} images", "left"
    K, n = result["codebook_size"], result["codes_per_position"]
    figures = Table.grid(padding=(0, 3))
    figures.add_row(
        f"PSNR {_show(result['psnr'], 2)} dB",
        f"SSIM {_show(result['ssim'])}",
        f"L1 {_show(result['l1'], 4)}",
        f"MSE {_show(result['mse'], 5)}",
    )
    figures.add_row(
        f"codes used {result['codebook_usage']:.1%} of {K if n == 1 else f'{n} x {K}'}",
        f"perplexity {result['perplexity']:.1f}",
        f"{result['bits_per_pixel']:.3f} bits/pixel",
        f"{result['tokens_per_image']:.1f} tokens/image",
    )
    if result["lpips"] is not None or result["rfid"] is not None:
        figures.add_row(f"LPIPS {_show(result['lpips'])}", f"rFID {_show(result['rfid'], 2)}")
    out.add_row(figures)
    if result.get("ceilings"):
        out.add_row(_ceilings_table(result))
    for reader, scores in result.get("ocr_by_reader", {}).items():
        ceilings = {
            name: row["ocr_by_reader"][reader]
            for name, row in result.get("ceilings", {}).items()
            if reader in row.get("ocr_by_reader", {})
        }
        out.add_row(_reader_table(reader, scores, ceilings))
    if (found := result.get("ocr_of_original")) is not None:
        out.add_row(_agreement_table(result, found))
    for name, reason in result["not_measured"].items():
        out.add_row(f"{_NAMES.get(name, name)} not measured: {escape(reason)}")
    if skipped := result.get("skipped"):
        out.add_row(f"{len(skipped)} images skipped: they cannot be read, see above")
    return out


_NAMES = {"lpips": "LPIPS", "rfid": "rFID"}


def _ceilings_table(result: dict[str, Any]) -> Table:
    """The reconstruction beside what other codecs make of the same bits."""
    names = ("psnr", "ssim", "l1", "lpips", "rfid")
    names = [name for name in names if result[name] is not None]
    titles = {"psnr": "PSNR dB", "ssim": "SSIM", "l1": "L1", **_NAMES}
    rows = Table("equal bits", "bits/pixel", *(titles[name] for name in names), box=SIMPLE_HEAD)
    rows.pad_edge, rows.collapse_padding = False, True
    for column in rows.columns[1:]:
        column.justify = "right"
    digits = {"psnr": 2, "rfid": 2, "l1": 4}
    for name, row in {"reconstruction": result, **result["ceilings"]}.items():
        cells = (_show(row[metric], digits.get(metric, 3)) for metric in names)
        rows.add_row(name, _show(row["bits_per_pixel"]), *cells)
    flat = {name: row["without"] for name, row in result["ceilings"].items() if row["without"]}
    if flat:
        rows.caption = "one color, as nothing fits: " + ", ".join(f"{name} {n}" for name, n in flat.items())
        rows.caption_justify = "left"
    return rows


def _reader_table(reader: str, scores: dict[str, Any], ceilings: dict[str, dict[str, Any]]) -> Table:
    names = ("texts", "counted", "T-ACC", "T-NED", "exact", "CER")
    text = Table(f"{reader} {scores['version']}", *names, box=SIMPLE_HEAD)
    text.pad_edge, text.collapse_padding = False, True
    text.columns[0].no_wrap = True
    for column in text.columns[1:]:
        column.justify = "right"
    text.add_row("all, mean of bins", *_cells(scores))
    for name, row in ceilings.items():
        text.add_row(f"  as {name}", *_cells(row))
    text.add_row("all, without bins", str(scores["items"]), *_cells(scores["without_bins"])[1:])
    for row in scores["bins"]:
        text.add_row(f"  size {row['bin']}", *_cells(row))
    for row in scores["by_glyph_height"]["bins"]:
        text.add_row(f"  glyphs {row['bin']} px", *_cells(row))
    for kind, row in scores["by_kind"].items():
        text.add_row(f"  {escape(kind)}", *_cells(row))
    text.caption = (
        "size: width of a character / longer side of the image\n"
        "glyphs: height of a text's box, or of its ink; as ...: of equal bits\n"
        "T-ACC, T-NED: of the counted texts, those read right before\n"
        "exact, CER: of all texts, before and after"
    )
    if scores["empty_bins"]:
        text.caption = f"empty: {', '.join(scores['empty_bins'])}\n{text.caption}"
    text.caption_justify = "left"
    return text


def _agreement_table(result: dict[str, Any], found: dict[str, Any]) -> Table:
    """Images without a transcript: each reader's reading beside its own reading of the original."""
    title = f"{found['images']} images without a transcript"
    rows = Table(title, "lines", "NED", "same", "CER", box=SIMPLE_HEAD)
    rows.pad_edge, rows.collapse_padding = False, True
    for column in rows.columns[1:]:
        column.justify = "right"

    def add(name: str, row: dict[str, Any]) -> None:
        rows.add_row(name, str(row["lines"]), *(_show(row[key]) for key in ("ned", "exact_match", "cer")))

    notes = [
        f"reference: {found['reference']}",
        f"{found['lines']} lines found by {found['finder']}; NED: mean of 1 - edit distance / longer length",
    ]
    for reader, scores in found["by_reader"].items():
        add(f"{reader} {scores['version']}", scores)
        for name, row in result.get("ceilings", {}).items():
            if "ocr_of_original" in row:
                add(f"  as {name}", row["ocr_of_original"]["by_reader"][reader])
        for row in scores["by_height"]["bins"]:
            add(f"  lines {row['bin']} px high", row)
        if scores["unread"]:
            notes.append(f"{reader} reads nothing in {scores['unread']} lines of the originals: left out")
    if names := found["without_lines"]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        notes.append(f"no text found on {len(names)} images: {escape(', '.join(names[:3]))}{more}")
    rows.caption, rows.caption_justify = "\n".join(notes), "left"
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    before, after = row["original"], row["reconstruction"]
    return [
        str(row.get("items", "")),
        str(row["counted"]),
        *(_show(after[name]) for name in ("t_acc", "t_ned")),
        *(f"{_show(before[name])}, {_show(after[name])}" for name in ("exact_match", "cer")),
    ]


def _show(value: float | None, digits: int = 3) -> str:
    return figure(value, digits, none="-")
