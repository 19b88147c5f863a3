"""A run's headline figures, beside those of two trained models: for the page, the terminal and Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .page.html import Card, Mark
from .page.numbers import count, duration, figure, percent

Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
"""A training's name -> metric -> (step, value) pairs."""
KINDS: dict[str, str] = {"word": "words", "random": "random strings"}
FONTS: dict[str, str] = {"words": "training fonts", "words-new-fonts": "new fonts"}
"""Names of the kinds of texts, and of the held-out sets."""
REFERENCES: dict[str, dict[str, float]] = {
    "full demo": {
        "words": 0.658,
        "words-new-fonts": 0.468,
        "writing": 0.513,
        "survives": 0.758,
        "drawing": 0.672,
    },
    "packaged model": {"words": 0.775, "words-new-fonts": 0.55, "writing": 0.457, "drawing": 1.0},
}
"""What ``shares`` gives for recorded models: ``benchmarks/studies/demo/results.json`` and
``benchmarks/studies/packaged_model/evaluation.json``, with which a test compares them."""
CHECKS = ("quick", "tiny")
"""Budgets that only check that everything works."""


def is_check(results: Mapping[str, Any]) -> bool:
    """Whether the run was too short to learn anything, by its budget."""
    return results.get("budget") in CHECKS


def verdict(results: Mapping[str, Any]) -> list[str]:
    """What to say first about a run that is only a check: a title, and sentences."""
    if not is_check(results):
        return []
    stages = {stage["name"]: stage["seconds"] for stage in results.get("stages", [])}
    trained = duration(sum(stages.get(name, 0) for name in ("image tokenizer", "transformer")))
    full, packaged = (f"{100 * shares['words']:.0f}%" for shares in REFERENCES.values())
    return [
        "This run checks that everything works, and it does.",
        f"Its trainings are too short to learn to read or write ({trained} here): expect zeros below.",
        f"The full demo (`earlyfusion demo`, about 11 minutes on two CPU cores) reads {full} of held-out "
        f"words, the packaged model {packaged}: try it with `earlyfusion playground`.",
    ]


def shares(results: Mapping[str, Any]) -> dict[str, float]:
    """The figures of the cards by name, each 0..1; those of texts are exact matches of held-out words."""
    found = {name: _words(scores)["exact_match"] for name, scores in results.get("reading", {}).items()}
    if writing := results.get("writing"):
        found["writing"] = _words(writing)["exact_match"]
    if ocr := _ocr(results, "words"):
        found["survives"] = ocr["reconstruction"]["exact_match"]
    if drawing := results.get("drawing"):
        found["drawing"] = drawing["named"] / max(1, drawing["items"])
    return found


def headline(results: Mapping[str, Any]) -> list[Card]:
    """The figures at the top of the page and at the end of the command."""
    cards = []
    for name, scores in results.get("reading", {}).items():
        note = f"{_set(scores)}, {FONTS.get(name, name)}, read exactly; {_others(scores)}"
        label = "Reading" if name == "words" else f"Reading, {FONTS.get(name, name)}"
        cards.append(_card(results, name, label, note, _ceiling(results, name)))
    if scores := results.get("writing"):
        note = f"{_set(scores)}, written so that {scores['reader']} reads them; {_others(scores)}"
        cards.append(_card(results, "writing", "Writing", note, _ceiling(results, "words")))
    if ocr := _ocr(results, "words"):
        before = ocr["original"]["exact_match"]
        note = f"{_set(ocr)}, training fonts, that OCR still reads after the image tokenizer"
        mark = Mark("before tokenizer", before, "ceiling")
        cards.append(_card(results, "survives", "Text that survives", note, [mark]))
    if drawing := results.get("drawing"):
        note = "drawings from training names whose nearest training picture has that name"
        value = f"{drawing['named']} of {drawing['items']}"
        cards.append(_card(results, "drawing", "Drawing", note)._replace(value=value))
    return cards


def moved(curves: Curves, vocab_size: int = 0) -> list[Card]:
    """How far the trainings came: first and last values of their curves (see ``run.report``)."""
    found = []
    for part, metric, label, digits, note in (
        ("lm", "train/loss", "Loss of all tokens", 2, "nats per token, lower is better"),
        ("lm", "train/text", "Loss of text", 2, "nats per letter"),
        ("lm", "train/image", "Loss of images", 2, "nats per code"),
        ("image_tokenizer", "train/psnr", "PSNR of the image tokenizer", 1, "dB, higher is better"),
    ):
        if len(points := curves.get(part, {}).get(metric, ())) > 1:
            (_, first), (step, last) = points[0], points[-1]
            if metric == "train/loss" and vocab_size > 1:
                note += f"; guessing among all {vocab_size:,} tokens gives {math.log(vocab_size):.2f}"
            value = f"{first:.{digits}f} → {last:.{digits}f}"
            found.append(Card(value, label, f"{note}; first and last of {step + 1:,.0f} steps"))
    return found


def markdown(results: Mapping[str, Any]) -> str:
    """The run in Markdown, to paste into an issue or a log."""
    names = {
        "words": "reading, training fonts",
        "words-new-fonts": "reading, new fonts",
        "writing": "writing",
    }
    names |= {"survives": "text that survives the image tokenizer", "drawing": "drawings like their name"}
    lines = [f"## earlyfusion demo, budget {results.get('budget', '–')}, seed {results.get('seed', '–')}", ""]
    lines += [*verdict(results)[:2], ""] if is_check(results) else []
    lines += [f"| held out | this run | {' | '.join(REFERENCES)} |", "|---|---|---|---|"]
    for name, share in shares(results).items():
        others = (percent(known[name]) if name in known else "–" for known in REFERENCES.values())
        lines.append(f"| {names.get(name, name)} | **{percent(share)}** | {' | '.join(others)} |")
    lines += ["", "Exact matches of held-out words; drawings: training names.", ""]
    lines += [f"- {name}: {value}" for name, value in facts(results)]
    return "\n".join(lines) + "\n"


def facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How, where, when and with what the run was made."""
    machine, made = results.get("machine", {}), results.get("models", {})
    memory, parameters = results.get("peak_memory_bytes"), "{} parameters".format
    tokenizer = made.get("image_tokenizer_parameters")
    found = [
        ("command", results.get("command")),
        ("date", results.get("date")),
        ("commit", results.get("commit")),
        ("machine", ", ".join(str(machine[k]) for k in ("cpu", "cores", "system") if machine.get(k))),
        ("time", duration(results["seconds"]) if "seconds" in results else None),
        ("peak memory", f"{memory / 2**30:.1f} GiB" if memory else None),
        ("image tokenizer", f"{parameters(count(tokenizer))}, {codes(made)} codes" if tokenizer else None),
        ("text tokenizer", f"{made['text_pieces']} pieces" if "text_pieces" in made else None),
        (
            "transformer",
            f"{parameters(count(made['lm_parameters']))}, {made['vocab_size']:,} tokens"
            if "lm_parameters" in made
            else None,
        ),
        ("versions", ", ".join(f"{name} {v}" for name, v in results.get("versions", {}).items())),
        ("corpus", ", ".join(f"{n:,} {name}" for name, n in results.get("corpus", {}).items())),
    ]
    return [(name, str(value)) for name, value in found if value]


def codes(made: Mapping[str, Any]) -> str:
    """The number of codes: K, or "n × K" with n codes per position."""
    n, K = made.get("codes_per_position", 1), made["codebook_size"]
    return f"{K:,}" if n == 1 else f"{n} × {K:,}"


def by_kind(scores: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Kinds of texts and their scores, words first."""
    return sorted(
        scores.get("by_kind", {}).items(), key=lambda pair: (pair[0] not in KINDS, pair[0] != "word")
    )


def kind_name(kind: str) -> str:
    """The name of a kind of texts."""
    return KINDS.get(kind, kind)


def _card(
    results: Mapping[str, Any], name: str, label: str, note: str, ceilings: Sequence[Mark] = ()
) -> Card:
    """A card of ``shares``, beside the same figure of the references and its ceilings."""
    share = shares(results)[name]
    kinds = zip(REFERENCES.items(), ("reference", "other"))
    marks = [Mark(title, known[name], kind) for (title, known), kind in kinds if name in known]
    return Card(percent(share), label, note, share, (*marks, *ceilings))


def _words(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scores of words alone, where they are known."""
    return scores.get("by_kind", {}).get("word", scores)


def _ocr(results: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What the first reader reads of a held-out set before and after the image tokenizer, words alone."""
    readers = results.get("reconstruction", {}).get(name, {}).get("ocr_by_reader", {})
    return next((_words(scores) for scores in readers.values()), None)


def _ceiling(results: Mapping[str, Any], name: str) -> list[Mark]:
    """What OCR reads after the image tokenizer: the model sees no more than that."""
    ocr = _ocr(results, name)
    return [Mark("after tokenizer", ocr["reconstruction"]["exact_match"], "ceiling")] if ocr else []


def _set(scores: Mapping[str, Any]) -> str:
    """What was measured, such as "of 600 held-out words"."""
    what = "words" if "word" in scores.get("by_kind", {}) or "original" in scores else "texts"
    return f"of {_words(scores)['items']} held-out {what}"


def _others(scores: Mapping[str, Any]) -> str:
    """The words' error rate, and the exact matches of all other kinds."""
    others = [
        f"{kind_name(kind)} {percent(row['exact_match'])}" for kind, row in by_kind(scores) if kind != "word"
    ]
    return ", ".join([f"CER {figure(_words(scores)['cer'])}", *others])
