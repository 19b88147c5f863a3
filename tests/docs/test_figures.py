"""Figures: benchmarks/*.json have those of the tables, and docs/results.md those of all other pages."""

import csv
import json
import re
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from pages import GUIDES, PAGES, README, RESULTS, ROOT, links, prose

HOMES = {
    "docs/results.md",
    "pretrained/openmoji-words/README.md",
    *(
        page
        for path, _ in links(RESULTS.partition("\n## Studies\n")[2].partition("\n## ")[0])
        if (page := (ROOT / "docs" / path).resolve().relative_to(ROOT).as_posix()) in PAGES
    ),
}
"""Pages where figures have their conditions: docs/results.md, the card, and the studies that it lists."""
UNITS = {
    "%": "%",
    "times": "times",
    "dB": "dB",
    "GB": "GB",
    "hours": "hours",
    "minutes": "minutes",
    "min": "minutes",
    "seconds": "seconds",
    "s": "seconds",
}
EXCEPTIONS = {
    ("README.md", "60 seconds"),  # the name of a section
}


class Figure(NamedTuple):
    """A number with its unit; "" in cells of tables, whose heads have the unit."""

    value: str
    unit: str


def figures(markdown: str) -> Iterator[Figure]:
    """The measurements in the text and the tables of a page."""
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)", " ", prose(markdown)).replace("*", "")
    text = " ".join(text.split())
    number, unit = r"(\d[\d,]*(?:\.\d+)?)", rf"({'|'.join(UNITS)})(?![\w-])"
    both = r"(\d+) min (\d+) s\b"
    yield from (Figure(f"{int(m) + int(s) / 60:.3f}", "minutes") for m, s in re.findall(both, text))
    text = re.sub(both, "", text)
    for match in re.finditer(rf"{number}(?:(?:,| and| to| or|) {number})* {unit}", text):
        yield from (Figure(value.replace(",", ""), UNITS[match[3]]) for value in re.findall(number, match[0]))
    for value in re.findall(rf"\| {number}(?= \|)", text):
        yield Figure(value.replace(",", ""), "")


def has(stated: set[Figure], figure: Figure) -> bool:
    """Whether a figure is one of ``stated``, or one of them rounded."""
    digits = len(figure.value.partition(".")[2])
    return any(
        round(float(one.value) + 1e-9, digits) == float(figure.value)
        for one in stated
        if one.unit == figure.unit or (not one.unit and "." in one.value)
    )


@pytest.mark.parametrize("page", [page for page in GUIDES if page not in HOMES])
def test_every_figure_has_its_conditions(page: str) -> None:
    stated = {figure for home in HOMES for figure in figures(PAGES[home])}
    found = [figure for figure in figures(PAGES[page]) if figure.unit]
    missing = [" ".join(figure) for figure in found if not has(stated, figure)]
    assert [figure for figure in missing if (page, figure) not in EXCEPTIONS] == []


def test_figures_are_found() -> None:
    page = "It took 10 min 41 s, 1.2 to 2.1 times `9 %`.\n\n| a | 4.08 | 7 % |\n\n```\n3 %\n```\n"
    found = set(figures(page))
    assert {one.value for one in found} == {"10.683", "1.2", "2.1", "7", "4.08"}
    assert has(found, Figure("11", "minutes")) and has(found, Figure("4.1", "times"))
    assert not has(found, Figure("12", "minutes")) and not has(found, Figure("9", "%"))


def stored(path: str) -> Any:
    return json.loads((ROOT / "benchmarks" / path).read_text(encoding="utf-8"))


DEMO, PACKAGED = stored("studies/demo/results.json"), stored("studies/packaged_model/evaluation.json")
SEEDS = stored("studies/packaged_model/seeds.json")["rows"]


def over_seeds(part: str, kind: str, reader: str = "exact_match") -> str:
    """Mean of a measurement with several seeds, with the least and the most of them."""
    found = [100 * row["scores"][kind][reader] for row in SEEDS if row["part"] == part]
    mean, least, most = (f"{value:.0f}" for value in (statistics.mean(found), min(found), max(found)))
    return f"{mean} %" if least == most else f"{mean} % ({least} to {most})"


def exact(figures: dict[str, Any]) -> str:
    return f"{100 * figures['exact_match']:.0f} %"


def exact_and_cer(figures: dict[str, Any]) -> str:
    return f"{exact(figures)} | {figures['cer']:.2f}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def both(of: Any, found: dict[str, Any]) -> list[str]:
    """The cells of words and of random strings."""
    return [of(found["by_kind"][kind]) for kind in ("word", "random")]


def of_type(which: str, of: Any) -> list[str]:
    """The same of words in type, before ("original") and after the demo's image tokenizer."""
    found = DEMO["reconstruction"]["words"]["ocr_by_reader"]["rapidocr"]["by_kind"]
    return [of(found[kind][which]) for kind in ("word", "random")]


def test_the_readme_has_the_figures_of_the_json() -> None:
    reads, writes, best = PACKAGED["reading"], PACKAGED["writing"], PACKAGED["best"]
    both_kinds = f"{exact(writes['ceiling']['rapidocr']['reconstruction'])} of both"
    rows = [
        (
            "reads, training fonts",
            *both(exact, DEMO["reading"]["words"]),
            *both(exact, reads["training fonts"]),
        ),
        (
            "reads, held-out fonts",
            *both(exact, DEMO["reading"]["words-new-fonts"]),
            *both(exact, reads["held-out fonts"]),
        ),
        ("the same, in three views", "–", "–", *both(exact, PACKAGED["views"]["held-out fonts"])),
        ("writes, greedily", *both(exact, DEMO["writing"]), *both(exact, writes)),
        ("writes, guided, the best of eight", "–", "–", *both(exact, best)),
        ("ceiling: type after the image tokenizer", *of_type("reconstruction", exact), both_kinds, "–"),
    ]
    assert [row(*cells) for cells in rows if row(*cells) not in README] == []


def test_the_results_have_the_figures_of_the_json() -> None:
    reading = DEMO["reading"]
    demo = [
        row("**reading**, training fonts", *both(exact_and_cer, reading["words"])),
        row("**reading**, held-out fonts", *both(exact_and_cer, reading["words-new-fonts"])),
        row("**writing**, read by rapidocr", *both(exact_and_cer, DEMO["writing"])),
        row("ceiling: the words in type, read by rapidocr", *of_type("original", exact_and_cer)),
        row("ceiling: the same after the image tokenizer", *of_type("reconstruction", exact_and_cer)),
    ]
    packaged = [
        row("**reading**, training fonts", *both(exact_and_cer, PACKAGED["reading"]["training fonts"])),
        row("the same in three views", *both(exact_and_cer, PACKAGED["views"]["training fonts"])),
        row("**reading**, held-out fonts", *both(exact_and_cer, PACKAGED["reading"]["held-out fonts"])),
        row("the same in three views", *both(exact_and_cer, PACKAGED["views"]["held-out fonts"])),
    ]
    for words, found in (("greedily", "writing"), ("guided, the best of eight", "best")):
        readers = PACKAGED[found]["by_reader"]
        packaged += [
            row(f"**writing**, {words}, read by rapidocr", *both(exact_and_cer, readers["rapidocr"])),
            row("the same, read by Tesseract", *both(exact_and_cer, readers["tesseract"])),
        ]
    assert [line for line in [*demo, *packaged] if line not in RESULTS] == []
    card = PAGES["pretrained/openmoji-words/README.md"].replace("fonts, greedily |", "fonts |")
    assert [line for line in packaged if line not in card] == []
    told = " ".join(RESULTS.split())
    assert f"{DEMO['drawing']['named']} are closest to the picture of that name" in told
    assert f"took {DEMO['peak_memory_bytes'] / 1e9:.1f} GB of memory at most" in told


def test_the_results_have_the_spread_over_seeds() -> None:
    for words, part in (
        ("reading, training fonts", "reading, training fonts"),
        ("reading, held-out fonts", "reading, held-out fonts"),
        ("the same in three views (250 texts)", "reading in three views, held-out fonts"),
        ("writing, greedily, read by rapidocr", "writing, greedily"),
        ("writing, guided, the best of eight (250 texts), read by rapidocr", "writing, best of eight"),
    ):
        assert row(words, *(over_seeds(part, kind) for kind in ("word", "random"))) in RESULTS
        if part.startswith("writing"):
            second = (over_seeds(part, kind, "tesseract") for kind in ("word", "random"))
            assert row("the same, read by Tesseract", *second) in RESULTS
    named, nearest = (over_seeds("naming", "known things", of) for of in ("exact_match", "nearest"))
    card = PAGES["pretrained/openmoji-words/README.md"]
    for page in (README, RESULTS, card):
        told = " ".join(page.split()).replace("**", "")
        mean, spread = named[:-1].split(" (")
        assert re.search(
            rf"names {mean} of (them|its 246 things|the 246 known things) \({spread} in five", told
        )
    assert f"training picture gives {nearest}" in " ".join(RESULTS.split())


def test_the_results_have_the_speeds_of_the_json() -> None:
    """The table of `make bench`, and what README says of it."""
    found, ratios, expected = stored("speed/bench.json"), {}, []
    for one in found["results"]:
        name = one["name"]
        if "beside" in name:  # busy.json has a table of its own
            continue
        speeds = (f"{one[f'{side}_best'][0]:.3g}" for side in ("ours", "theirs"))
        expected.append(row(f"{name}, {one['unit']}", *speeds, f"{one['ratio']:.2f}"))
        ratios[name] = one["ratio"]
    assert [line for line in expected if line not in RESULTS] == []
    assert f"commit {found['commit']}" in RESULTS
    one, eight = (ratios[f"decoding, {rows}"] for rows in ("1 row", "8 rows"))
    full = ratios["training, full windows"]
    packed = ratios["training, documents, theirs sorted by length"]
    told = " ".join(README.split())
    assert f"Decoding on a CPU is {one:.1f} (one row) to {eight:.1f} times (eight)" in told
    assert f"training on full windows {full:.2f} times" in told and f"{packed:.2f} times as fast" in told


def test_the_results_have_the_steps_of_a_busy_machine_and_of_attention() -> None:
    busy = {(one["policy"], one["others"]): one for one in stored("speed/busy.json")["results"]}
    expected = []
    for policy, words in (
        ("package", "5,000 spins, as the package sets"),
        ("libgomp", "libgomp's own 300,000 spins"),
        ("passive", "none, `OMP_WAIT_POLICY=PASSIVE`"),
    ):
        alone, *beside = (busy[policy, others] for others in range(3))
        seconds = (f"{statistics.median(one['seconds']):.2f} ({one['ratio']:.1f} times)" for one in beside)
        expected.append(row(words, f"{statistics.median(alone['seconds']):.2f}", *seconds))
    for one in stored("speed/attention.json")["results"]:
        rows, heads, _, tokens, width = one["shape"]
        cells = (f"{1e3 * statistics.median(one[side]):.1f}" for side in ("flash", "products"))
        documents = "all tokens" if one["document"] is None else str(one["document"])
        name = f"{rows}, {heads}, {tokens:,}, {width}"
        expected.append(row(name, documents, *cells, f"{one['ratio']:.2f}"))
    assert [line for line in expected if line not in RESULTS] == []


def test_the_studies_have_the_figures_of_their_files() -> None:
    with (ROOT / "benchmarks/studies/tokenizer/summary.csv").open(encoding="utf-8", newline="") as file:
        cells = {row["name"]: row for row in csv.DictReader(file)}
    ours, plain = cells["ours, 4 px a code @ 0.3125"], cells["plain, 4 px a code @ 0.3125"]
    assert ours["bits_per_pixel"] == plain["bits_per_pixel"] == "0.3125"  # equal bits
    scores = [
        [float(cell[f"{reader}_t_acc_mean"]) for cell in (ours, plain)]
        for reader in ("rapidocr", "tesseract")
    ]
    (a, b), (c, d) = scores
    study = " ".join(PAGES["benchmarks/studies/tokenizer/README.md"].split())
    assert (
        f"{a:.3f} against {b:.3f} and {c:.3f} against {d:.3f}, **{a / b:.2f} and {c / d:.2f} times**" in study
    )
    found = stored("studies/generation/results.json")["infilling"]
    control = [
        found[f"{part}, likeliest of 8"]["nearest, the region of another"]
        for part in ("middle", "right half")
    ]
    page = " ".join(PAGES["benchmarks/studies/generation/README.md"].split())
    for share, words in zip(
        control, ("are nearest to their own thing with another's middle", "with another's right half")
    ):
        assert f"{100 * share:.0f} % {words}" in page


def test_the_demos_page_has_the_figures_of_its_seeds() -> None:
    runs, page = stored("studies/demo/seeds.json")["rows"], PAGES["benchmarks/studies/demo/README.md"]
    assert row("exact: words, random strings", *(f"seed {run['seed']}" for run in runs)) in page
    for part in (
        "reading, training fonts",
        "reading, held-out fonts",
        "writing",
        "after the image tokenizer",
    ):
        cells = [f"{100 * run[part]['word']:.0f} %, {100 * run[part]['random']:.0f} %" for run in runs]
        assert row(part, *cells) in page, part
    drawn = [f"{100 * run['drawing']:.0f} %" for run in runs]
    assert row("drawings nearest to their name's picture", *drawn) in page


def test_the_results_have_the_figures_of_alignment() -> None:
    models = stored("studies/alignment/results.json")["models"]
    parts = (
        ("**writing**, greedily, read by rapidocr", "writing, greedy", "rapidocr"),
        ("the same, read by Tesseract", "writing, greedy", "tesseract"),
        ("writing at temperature 1, read by rapidocr", "writing, one of temperature 1", "rapidocr"),
        (
            "writing, guided, the best of eight, read by rapidocr",
            "writing, guided, best of eight",
            "rapidocr",
        ),
        ("**reading**, training fonts", "reading, training fonts", None),
        ("**reading**, held-out fonts", "reading, held-out fonts", None),
    )
    for label, part, reader in parts:
        found = [models[name][part] for name in ("packaged", "seed-0")]
        found = [one if reader is None else one[reader] for one in found]
        cells = [exact(one[kind]) for kind in ("word", "random") for one in found]
        for page in ("docs/results.md", "benchmarks/studies/alignment/README.md"):
            assert row(label, *cells) in PAGES[page], (page, label)
    named = [f"{100 * models[name]['naming']['known things']:.0f} %" for name in ("packaged", "seed-0")]
    assert (
        row("naming known things (246)", *named, "", "").replace("|  |  |", "| | |")
        in PAGES["benchmarks/studies/alignment/README.md"]
    )


def test_the_results_have_the_other_figures_of_the_json() -> None:
    told = " ".join(RESULTS.split())
    minutes, seconds = divmod(round(DEMO["seconds"]), 60)
    memory = f"{DEMO['peak_memory_bytes'] / 1e9:.1f} GB of memory"
    page, chameleon = stored("speed/playground.json"), stored("speed/chameleon_import.json")
    first, pieces = page["seconds_to_first_output"], page["seconds_from_button_to_first_piece"].values()
    least, most = min(one["least"] for one in pieces), max(one["most"] for one in pieces)
    resident = page["resident_mib"]["after_each_tenth"]
    for words in (
        f"{minutes} min {seconds} s",
        memory,
        f"{first['median']:.1f} s after the command was started ({first['least']:.1f} to {first['most']:.1f}",
        f"{least:.2f} to {most:.2f} s after the button",
        f"{resident[4]:,.0f} MiB after 100 requests of programs and {resident[9]:,.0f} after 200",
        f"{chameleon['parameters with the image tokenizer, counted by transformers']:,} parameters",
        f"{chameleon['bytes of the source'] / 1e9:.1f} GB of zeros",
        f"{chameleon['peak memory, bytes'] / 1e9:.1f} GB of memory",
        f"{chameleon['seconds'] + 1e-9:.0f} seconds",
    ):
        assert words in told, words
    assert f"({DEMO['seconds'] / 60:.0f} on a slow virtual machine) and {memory}" in README
