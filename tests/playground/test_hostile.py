"""Requests of strangers to every endpoint: one line back, quickly, and nothing about the server."""

import json
import os
import random
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from earlyfusion.fusion_lm.folder import Model
from earlyfusion.playground.api import curves, read_tokens
from earlyfusion.playground.limits import DEPTH, DIGITS, ITEMS, Refused, why_too_much
from earlyfusion.playground.settings import ask_of

from ..security.damage import damage_bytes, damage_json
from .test_api import status, uri

NESTED: Any = []
for _ in range(20):
    NESTED = [NESTED]
FILE = {"path": "pyproject.toml", "meta": {"_type": "gradio.FileData"}}
VALUES: list[Any] = [
    None,
    True,
    -1,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 5000,
    "a/" * 2500,
    "../" * 50 + "etc/passwd",
    "\0",
    "one/lm\0.csv",
    "\ud800",
    "%s %n {0.__class__}",
    "pyproject.toml",
    [],
    NESTED,
    [None],
    [[1]],
    [1, "2"],
    [1.5],
    [True],
    [10**30],
    [float("nan")],
    ["x" * 5000],
    [1] * 5000,
    {},
    {"text": 1},
    [{"text": "a"}] * 500,
    [{"text": ["a"]}],
    [{"image": None}],
    [{"image": "data:image/png;base64,"}],
    [{"image": "data:image/png;base64,\0"}],
    FILE,
    [FILE],
    [{"image": FILE}],
    {"then": FILE},
]
SETTINGS = (
    "then answer samples temperature top_k top_p min_p repetition_penalty image_temperature image_top_k "
    "image_top_p image_min_p guidance negative best_of best_by max_new_tokens max_positions seed"
).split()
ODD = [
    None,
    "1",
    [],
    {},
    float("nan"),
    float("inf"),
    -float("inf"),
    1e308,
    1e-41,
    10**30,
    -(10**30),
    1.5,
    True,
]


def answer_of(address: str, name: str, data: list[Any]) -> bytes:
    """What the endpoint says at the end."""
    request = {"data": json.dumps({"data": data}).encode(), "headers": {"Content-Type": "application/json"}}
    code, _, body = status(address, f"/gradio_api/call/{name}", method="POST", **request)
    if code != 200:
        return body
    event = json.loads(body)["event_id"]
    with urllib.request.urlopen(f"{address}gradio_api/call/{name}/{event}", timeout=60) as answer:
        return answer.read()


def assert_says_nothing(body: bytes, runs: Path) -> None:
    text = body.decode()
    places = {os.getcwd(), str(Path.home()), str(runs), str(runs.parent), os.environ["GRADIO_TEMP_DIR"]}
    places |= {str(Path(torch.__file__).parents[1]), str(Path(__file__).parents[3])}
    for place in places - {"/"}:
        assert place not in text, (place, text[:500])
    assert "Traceback" not in text and "root:" not in text and not re.search(r"\.py\b.*line \d", text)


@pytest.mark.parametrize("name", ["compose", "read", "redraw", "inspect", "reconstruct", "curves"])
def test_any_value_to_any_endpoint(address: str, runs: Path, name: str) -> None:
    for value in VALUES:
        for more in ([], [value]) if name in ("compose", "reconstruct") else ([],):
            data = [value, *more]
            if name == "redraw":
                data = [[1], value, value] if value in ([1] * 5000, []) else [value, 0, [[1]]]
            start = time.process_time()  # not on the clock: other programs may stop this one
            said = answer_of(address, name, data)
            assert time.process_time() - start < 20, (name, str(value)[:80])
            assert_says_nothing(said, runs)
            empty_prompt = name == "compose" and value == []
            assert b"event: error" in said or b'"detail"' in said or empty_prompt, (data, said[:300])


def test_damaged_requests(address: str, runs: Path) -> None:
    """``make fuzz`` sends new ones for minutes; ``FUZZ=page:SEED`` repeats one."""
    fuzz, one = float(os.environ.get("FUZZ_SECONDS", 0)), os.environ.get("FUZZ", "")
    sound: dict[str, list[Any]] = {
        "compose": [[{"text": "A"}, {"image": uri("word.png")}], {"then": "any", "max_new_tokens": 3}],
        "inspect": [[0, 9, 10, 11, 1]],
        "reconstruct": [["the same"], uri("word.png")],
        "curves": ["one/lm"],
    }
    seed = int(one.partition(":")[2]) if one.startswith("page:") else int(time.time()) if fuzz else 0
    first, end = seed, time.monotonic() + fuzz
    while seed == first or not one and (time.monotonic() < end if fuzz else seed < 16):
        rng = random.Random(f"page {seed}")
        name = rng.choice(list(sound))
        body = json.dumps({"data": damage_json(sound[name], rng)}).encode()
        if rng.random() < 0.3:
            body = damage_bytes(body, rng)
        start = time.process_time()
        headers = {"Content-Type": "application/json"}
        code, _, said = status(address, f"/gradio_api/call/{name}", method="POST", data=body, headers=headers)
        if code == 200:
            event = json.loads(said)["event_id"]
            with urllib.request.urlopen(f"{address}gradio_api/call/{name}/{event}", timeout=100) as answer:
                said = answer.read()
        assert 200 <= code < 600 and time.process_time() - start < 20, f"FUZZ=page:{seed}"
        try:
            assert_says_nothing(said, runs)
        except AssertionError as error:
            raise AssertionError(f"FUZZ=page:{seed}") from error
        seed += 1
    print(f"page: seeds {first} to {seed - 1}")


def test_any_setting_of_a_prompt(address: str, runs: Path) -> None:
    for name in SETTINGS:
        for value in ODD:
            try:
                ask_of(**{name: value})
            except Refused as error:
                line = str(error)
            else:
                right = {"then": ["1"], "answer": [True], "guidance": [1.5, 1e-41]}
                right |= {"negative": [], "best_by": []}
                right |= dict.fromkeys(("min_p", "image_min_p"), [1e-41])
                assert value in right.get(name, [1.5]), (name, value)
                continue
            assert line.startswith((name, "guidance")) and len(line.splitlines()) == 1 and len(line) < 200
            if value in ("1", 1e308, -(10**30)):
                said = answer_of(address, "compose", [[{"text": "a"}], {name: value}])
                assert b"event: error" in said and name.removeprefix("image_").encode() in said
                assert_says_nothing(said, runs)


def test_what_is_open_does_not_name_the_server(address: str, runs: Path) -> None:
    for path in (
        "/",
        "/config",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/startup-events",
    ):
        code, _, body = status(address, path)
        assert code in (200, 404, 405)
        assert_says_nothing(body, runs)
    for body in (b"{", b"[]", b"\xff", b'{"data": 1}', b'{"data": [1], "fn_index": "x"}', b"null", b""):
        for path in ("/gradio_api/queue/join", "/gradio_api/call/compose", "/gradio_api/run/predict"):
            headers = {"Content-Type": "application/json"}
            code, _, said = status(address, path, method="POST", data=body, headers=headers)
            assert 200 <= code < 600
            assert_says_nothing(said, runs)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"data": [[' + b"1," * 6_000_000 + b"1]]}", "values"),
        (b'{"data": [[' + b'"",' * 3_000_000 + b"1]]}", "values"),
        (b'{"data": ' + b"[" * 10_000_000 + b"]" * 9_000_000 + b"}", "inside each other"),
        (b'{"data": [' + b"1" * 10_000_000 + b"]}", "a number"),
    ],
    ids=["numbers", "texts", "lists", "a number"],
)
def test_a_large_request_is_refused_before_it_is_read(address: str, body: bytes, words: str) -> None:
    start = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    code, _, said = status(address, "/gradio_api/call/inspect", method="POST", data=body, headers=headers)
    assert code == 413 and words in said.decode()
    assert time.perf_counter() - start < 5


def test_what_a_request_has_too_much_of() -> None:
    inside = json.dumps({"data": ['[[{,,,\\"' * 10_000, "1" * 9999, "\\", '"']}).encode()
    for body in (
        b"",
        b"\xff\0",
        inside,
        json.dumps(list(range(ITEMS))).encode(),
        b"[" * DEPTH + b"1" * DIGITS,
    ):
        assert why_too_much(body) is None, body[:80]
    for body in (b"," * (ITEMS + 1), b"[" * (DEPTH + 1), b"-" + b"1" * DIGITS, b'"a", ' + b"{" * (DEPTH + 1)):
        assert why_too_much(body) is not None


def test_tokens_and_runs(model: Model, runs: Path) -> None:
    context = model.lm.config.context_length
    assert read_tokens(model, [1] * context).tolist() == [1] * context
    for value in ([], [1] * (context + 1), "1", None, [True], [1.0], ["1"], [-1], [4432], [2**70]):
        with pytest.raises(Refused, match="token"):
            read_tokens(model, value)
    for name in (
        "x" * 5000,
        "a/" * 2500,
        "\0",
        "..",
        "../private",
        "/etc",
        1,
        None,
        ["one/lm"],
        "one/lm/../../..",
    ):
        with pytest.raises(Refused) as raised:
            curves(runs, name)  # type: ignore[arg-type]
        assert str(runs) not in str(raised.value) and len(str(raised.value)) < 100
