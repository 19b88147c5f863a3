"""Rows of each shape -> the segments of documents; nothing of a row vanishes."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from earlyfusion.data.reading.cells import RawImage, Unusable
from earlyfusion.data.reading.rows import documents_of
from earlyfusion.data.reading.shapes import plan_of


def read(
    row: dict[str, Any], notes: list[str] | None = None, seed: int = 0, **options: Any
) -> list[list[str]]:
    """The documents of a row, with names in place of images."""
    plan = plan_of(list(row), [row], "x")
    noted: list[str] = [] if notes is None else notes
    options = {"order": "image_first", **options}
    rng = np.random.default_rng(seed)
    documents = documents_of(plan.row(row), plan.shape, rng, None, note=noted.append, **options)
    return [
        [Path(s.path or "").name if isinstance(s, RawImage) else str(s) for s in segments]
        for segments in documents
    ]


def test_mmc4():
    row = {
        "text_list": ["One.", "Two.", "Three."],
        "image_info": [
            {"image_name": "a.jpg", "matched_text_index": 1},
            {"image_name": "b.jpg", "matched_text_index": 2},
            {"image_name": "c.jpg", "matched_text_index": 1},
        ],
    }
    first = ["One.", "a.jpg", "c.jpg", " Two.", "b.jpg", " Three."]
    last = ["One.", " Two.", "a.jpg", "c.jpg", " Three.", "b.jpg"]
    assert read(row) == [first]
    assert read(row, order="text_first") == [last]
    assert read(row, order="both") == [first, last]
    coins = [read(row, order="coin", seed=seed) for seed in range(40)]
    assert 5 < coins.count([first]) < 35 and coins.count([first]) + coins.count([last]) == 40
    for place in ({"image_name": "a.jpg", "matched_text_index": 3}, {"matched_text_index": 0}):
        with pytest.raises(Unusable, match="image_info"):
            read({**row, "image_info": [place]})


def test_several_captions_of_an_image():
    for row in ({"image": "a.png", "text": ["x", None, "y"]}, {"images": ["a.png"], "text": ["x", "y"]}):
        assert read(row) == [["a.png", "x"], ["a.png", "y"]]
    row = {"image": "a.png", "texts": ["x", "y"]}
    assert read(row, order="both") == [["a.png", "x"], ["x", "a.png"], ["a.png", "y"], ["y", "a.png"]]
    notes: list[str] = []
    drawn = Counter(read(row, notes, seed, captions="draw")[0][1] for seed in range(40))
    assert min(drawn["x"], drawn["y"]) > 5 and len(notes) == 40
    with pytest.raises(Unusable, match="several images with several texts"):
        read({"image": ["a.png", "b.png"], "text": ["x", "y"]})
    assert read({"image": ["a.png", "b.png"], "text": "x"}) == [["a.png", "b.png", "x"]]


def test_halves_of_pairs_are_dropped_or_kept_and_counted():
    rows = [
        ({"image": "a.png", "text": value}, "pair without a text", ["a.png"])
        for value in (None, "", [], [None])
    ] + [({"image": value, "text": "x"}, "pair without an image", ["x"]) for value in (None, "", [], [None])]
    for row, reason, kept in rows:
        with pytest.raises(Unusable) as caught:
            read(row)
        assert caught.value.reason == reason
        notes: list[str] = []
        assert read(row, notes, incomplete_pairs="keep") == [kept] and notes == [reason]
        assert read({"image": None, "text": None}) == []


def test_placeholders_of_pairs_and_parallel_lists():
    assert read({"text": "A <image> b <image>\n", "images": ["a", "b"]}) == [["A ", "a", " b ", "b", "\n"]]
    assert read({"text": "<image>\n<image>\nA\n<image>", "images": ["a", "b", "c"]}) == [["a", "b", "A", "c"]]
    assert read({"texts": ["<image>\nA", "B <image>"], "images": ["a", "b"]}) == [["a", "A", "B ", "b"]]
    assert read({"texts": ["A", "B"], "images": ["a", "b"]}) == [["a", "A", "b", "B"]]
    assert read({"texts": ["A <image>", None], "images": [None, "b"]}) == [["A <image>", "b"]]  # OBELICS
    assert read({"texts": ["A"], "images": "a"}) == [["a", "A"]]
    for row in ({"text": "<image>", "images": ["a", "b"]}, {"texts": ["<image><image>"], "images": ["a"]}):
        with pytest.raises(Unusable, match="placeholders and images do not match"):
            read(row)
    assert read({"text": "a typed <image>"}) == [["a typed <image>"]]


def random_row(rng: random.Random) -> dict[str, Any]:
    """A row of some shape, whose texts and images have names of their own, with odd values here and there."""
    number = iter(range(100))

    def picture() -> Any:
        name = f"p{next(number)}.png"
        return rng.choice([name, {"path": name, "bytes": None}, {"url": name}, None, ""])

    def words() -> Any:
        text = f"t{next(number)}."
        return rng.choice(
            [text, f"<image>\n{text}", f"{text} <image> {text}", text, None, "", next(number) + 0.5]
        )

    def some(make: Any) -> Any:
        return rng.choice([make(), [make() for _ in range(rng.randrange(4))]])

    def part() -> Any:
        image = {"type": rng.choice(["image", "image_url"]), rng.choice(["image", "image_url"]): picture()}
        return rng.choice([{"type": "text", "text": words()}, image, {"type": "image"}, {"type": "audio"}])

    def messages() -> Any:
        roles = rng.choice(
            [["user", "assistant"] * 2, ["system", "user", "assistant", "user"], ["user", "tool"]]
        )
        return [
            {"role": role, "content": rng.choice([words(), [part() for _ in range(3)]])} for role in roles
        ]

    info = [
        {"image_name": picture(), "matched_text_index": rng.randrange(3)} for _ in range(rng.randrange(3))
    ]
    return rng.choice(
        [
            {"messages": messages(), "image": some(picture)},
            {"prompt": words(), "completion": words(), "images": some(picture), "input": words()},
            {"text_list": [words() for _ in range(3)], "image_info": info},
            {"images": some(picture), "texts": some(words)},
            {"image": some(picture), "text": some(words)},
            {"text": some(words)},
            {"images": some(picture)},
        ]
    )


def leaves(value: Any) -> list[str]:
    """The texts and the names of images in a row, with the placeholders cut out."""
    if isinstance(value, dict):
        value = [part for name, part in value.items() if name not in ("role", "type", "matched_text_index")]
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [] if value is None else str(value).replace("<image>", " ").split()


def test_what_a_row_holds_is_in_its_documents_or_it_is_refused_or_noted():
    rng = random.Random(0)
    outcomes: Counter[str] = Counter()
    for number in range(3000):
        row = random_row(rng)
        notes: list[str] = []
        options = {
            "order": rng.choice(["image_first", "text_first", "both", "coin"]),
            "captions": rng.choice(["each", "draw"]),
            "incomplete_pairs": rng.choice(["drop", "keep"]),
        }
        try:
            documents = read(row, notes, number, **options)
        except Unusable as error:
            outcomes[error.reason] += 1
            continue
        outcomes["documents"] += 1
        found = Counter(leaf for document in documents for segment in document for leaf in leaves(segment))
        missing = Counter(leaves(row)) - found
        assert not found.keys() - set(leaves(row)) - {"Mark.END_OF_TURN"}, (row, documents)
        by_design = [note for note in notes if "drawn" in note or "after" in note]
        assert bool(missing) == bool(by_design), (row, documents, notes)
    assert outcomes["documents"] > 1000 and len(outcomes) > 10
