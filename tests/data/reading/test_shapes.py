"""Which columns are read, and that none that looks like content is passed over."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.data.reading.cells import RawImage, Unusable
from earlyfusion.data.reading.rows import documents_of
from earlyfusion.data.reading.shapes import plan_of, unused
from earlyfusion.tokenizers.documents import Mark

PNG = b"\x89PNG\r\n\x1a\n"
TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
DOCS = Path(__file__).parents[3] / "docs/own-data.md"


def planned(*rows: dict[str, Any], **options: Any) -> Any:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return plan_of(columns, rows, "x.jsonl", **options)


@pytest.mark.parametrize(
    ("row", "shape", "columns"),
    [
        ({"image": "a.png", "text": "t", "id": 1}, "pairs", {"image": "image", "text": "text"}),
        ({"img": "a.png", "caption": "t"}, "pairs", {"image": "img", "text": "caption"}),
        ({"TEXT": "t", "URL": "http://a"}, "texts", {"text": "TEXT"}),
        ({"images": ["a.png"], "text": "t"}, "pairs", {"image": "images", "text": "text"}),
        ({"image": "a.png", "texts": ["t"]}, "pairs", {"image": "image", "text": "texts"}),
        ({"images": [], "texts": []}, "parallel", {"images": "images", "texts": "texts"}),
        ({"images": []}, "images", {"image": "images"}),
        (
            {"text_list": [], "image_info": []},
            "placed",
            {"text_list": "text_list", "image_info": "image_info"},
        ),
        (
            {"conversations": TALK, "image": "a"},
            "conversations",
            {"messages": "conversations", "image": "image"},
        ),
        ({"question": "q", "answer": 7}, "conversations", {"prompt": "question", "completion": "answer"}),
        (
            {
                "key": "1",
                "url": "http://a",
                "caption": "c d e f",
                "jpg": PNG,
                "exif": "{a b c d}",
                "sha256": "0",
            },
            "pairs",
            {"image": ("jpg",), "text": "caption"},
        ),
        ({"image": "a.png", "file_name": "a.png", "text": "t"}, "pairs", {"image": "image", "text": "text"}),
        ({"text": "t", "source": "web", "meta": {"tags": ["a"]}, "n_words": 3}, "texts", {"text": "text"}),
        ({"image": PNG, "objects": {"bbox": [], "text": ["a b c d"]}}, "images", {"image": "image"}),
    ],
)
def test_columns_with_known_names(row: dict[str, Any], shape: str, columns: dict[str, Any]):
    plan = planned(row)
    assert (plan.shape, plan.columns) == (shape, columns)


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"text": "t", "caption": "t"}, ["caption", "[text]"]),
        ({"image": "a.png", "images": ["a.png"], "text": "t"}, ["images", "[image]"]),
        ({"image": "a.png", "text": "t", "alt_text": "x", "audio": b"x"}, ["alt_text", "audio"]),
        ({"text": "t", "messages": TALK}, ["text"]),
        ({"text": "t", "note": "a long note of words"}, ["note"]),
        ({"text": "t", "Zusammenfassung": "我喜欢在公园里散步和看书"}, ["Zusammenfassung"]),
        ({"text": "t", "scan": PNG}, ["scan"]),
        ({"text": "t", "scan": {"bytes": PNG, "path": None}}, ["scan"]),
        ({"text": "t", "scan": list(PNG)}, ["scan"]),
        ({"text": "t", "scan": "data:image/png;base64,AA"}, ["scan"]),
        ({"text": "t", "file_name": "a.PNG"}, ["file_name"]),
        ({"text": "t", "clip": "a.mp3"}, ["clip"]),
        ({"text": "t", "image_url": "http://a"}, ["image_url"]),
        ({"text": "t", "turns": TALK}, ["turns"]),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "text": "t"}, ["prompt", "chosen", "rejected"]),
        ({"text": "t", "meta": {"story": "many words are in here"}}, ["meta"]),
        ({"jpg": PNG, "txt": "t", "json": {"caption": "another", "url": "http://a"}}, ["json.caption"]),
        ({"image": "a.png", "answers": ["yes"]}, ["answers"]),
    ],
)
def test_columns_of_content_are_read_or_named_or_ignored(row: dict[str, Any], names: list[str]):
    with pytest.raises(ValueError, match="^x.jsonl: .*columns.*ignore|^x.jsonl: .*ignore") as caught:
        planned(row)
    message = str(caught.value)
    assert all(name in message for name in names) and "\n" not in message
    left_out = re.search(r"leave (?:it|them) out \(ignore: \[(.*)\]\)", message)
    assert left_out
    planned(row, ignore=left_out[1].split(", "))  # the remedy settles it


def test_a_name_given_in_columns_wins():
    row = {"image": "a.png", "text": "t", "alt_text": "u"}
    plan = planned(row, named={"text": "alt_text"}, ignore=["text"])
    assert plan.row(row) == {"image": "a.png", "text": "u"}
    with pytest.raises(ValueError, match=r"columns: \{text: text\}.*ignore: \[text\]"):
        planned(row, named={"text": "alt_text"})
    with pytest.raises(ValueError, match="'foo'.*text.*image, text"):
        planned(row, named={"text": "foo"})
    with pytest.raises(ValueError, match="no shape has"):
        planned({"text_list": [], "label": 1}, named={"text_list": "text_list"})
    dotted = {"img.png": PNG, "cap.en": "t"}
    plan = planned(dotted, named={"image": "img.png", "text": "cap.en"})
    assert plan.row(dotted) == {"image": PNG, "text": "t"}
    nested = {"image": PNG, "meta": {"de": {"x": 1}, "caption": "t"}}
    assert planned(nested, named={"text": "meta.caption"}).row(nested)["text"] == "t"
    assert planned({"text": "a", "title": "b"}, used=["title"]).read == ("text",)


def test_nothing_to_read_is_told_with_what_may_be_meant():
    with pytest.raises(ValueError, match="x.jsonl.*number.*`columns`"):
        planned({"number": 1})
    with pytest.raises(ValueError, match="columns: {image: image_path}"):
        planned({"image_path": "a.png", "label": "cat"})


@pytest.mark.parametrize("named", [{}, {"image": "jpg", "text": "txt"}])
def test_endings_of_pictures_are_one_column(named: dict[str, str]):
    rows = [{"jpg": b"a", "txt": "1"}, {"PNG": b"b", "txt": "2"}, {"webp": b"c", "jpg": b"d", "txt": "3"}]
    plan = planned(*rows, named=named)
    assert [plan.row(row)["image"] for row in rows] == [b"a", b"b", [b"d", b"c"]]
    assert plan.row({"txt": "4"})["image"] is None
    assert unused(["jpg", "PNG", "webp", "txt", "__key__", "notes"], plan, ["notes"]) == ["__key__"]


@pytest.mark.parametrize("write", [lambda value: value, json.dumps, lambda value: json.dumps(value).encode()])
@pytest.mark.parametrize("named", [{}, {"image": "jpg", "text": "json"}])
def test_fields_of_a_sidecar_are_columns(write: Any, named: dict[str, str]):
    rows = [
        {"__key__": str(n), "jpg": b"a", "json": write({"caption": f"box {n}", "status": "ok"})}
        for n in (0, 1)
    ]
    plan = planned(*rows, named=named)
    assert [plan.row(row)["text"] for row in rows] == ["box 0", "box 1"]
    assert unused(["__key__", "jpg", "json"], plan) == ["__key__"]
    twice = [{**row, "txt": f"box {n}"} for n, row in enumerate(rows)]
    assert planned(*twice).columns["text"] == "txt"
    talks = [{"jpg": b"a", "json": write({"id": 1, "image": "1.jpg", "conversations": TALK})}]
    assert planned(*talks).columns == {"messages": "json.conversations", "image": ("jpg",)}


def examples() -> list[Any]:
    """Options, row and expected lines of each example in the docs."""
    found = []
    for block in re.findall(r"```text\n(.*?)```", DOCS.read_text().partition("## Shapes")[2], re.DOTALL):
        for entry in re.findall(
            r"((?:^\w.*\n)*)^(\{.*)\n((?:^(?![{]|\w+: [\[{]).*\n)+)", block, re.MULTILINE
        ):
            options, row, result = entry
            results = re.split(r"^→ ", result, flags=re.MULTILINE)[1:]
            found.append(
                (yaml.safe_load(options) or {}, json.loads(row), [r.removesuffix("\n") for r in results])
            )
    return found


@pytest.mark.parametrize(("options", "row", "expected"), examples())
def test_examples_of_the_docs(
    options: dict[str, Any], row: dict[str, Any], expected: list[str], tmp_path: Path
):
    ignore, named = options.get("ignore", ()), options.get("columns", {})
    try:
        plan = planned(row, named=named, ignore=ignore)
        rng = np.random.default_rng(0)
        documents = documents_of(plan.row(row), plan.shape, rng, tmp_path, order="image_first")
    except Unusable as error:
        assert expected == [f"refused: {error.reason}"]
    except ValueError as error:
        assert expected[0].removeprefix("refused: ") in str(error) and "refused" in expected[0]
    else:
        assert ["".join(map(written, document)) for document in documents] == expected


def written(segment: Any) -> str:
    if isinstance(segment, RawImage):
        return f"[{Path(segment.path or '').name}]"
    return "[turn]" if isinstance(segment, Mark) else segment


def test_the_docs_have_examples():
    assert len(examples()) > 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ignore": "title"}, r"ignore.*\[title\]"),
        ({"ignore": ["title"], "columns": {"text": "title"}}, "'title'.*columns.*ignore"),
        ({"class_names": True, "columns": {"text": "title"}}, "class_names.*columns"),
        ({"columns": {"pictures": "x"}}, "'pictures'.*image, text"),
        ({"captions": "all"}, "captions.*each, draw"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        PrepareConfig("x", "y", model="z", **settings)
