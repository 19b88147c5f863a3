"""The sections of the golden record: each does something with a tree and says what came of it.

A section gets an empty folder, which is the working directory too, and returns its parts: name -> values. A
value is a NumPy array, or whatever JSON holds. Paths are relative everywhere, so that two records agree.
"""

import contextlib
import csv
import hashlib
import io
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import golden_adapter as ef
import golden_material as material
import numpy as np
import torch
from PIL import Image

Part = dict[str, Any]
Parts = dict[str, Part]
STEPS = 30
"""Of each training."""
GREEDY = {"temperature": 0.0}
COOL = {"temperature": 0.6}


# 1. what the models write


def generation(work: Path) -> Parts:
    """Continuations, their likelihoods, the events of streams, and the pictures in them."""
    parts: Parts = {"generation": {}, "likelihoods": {}, "streams": {}, "pictures": {}}
    packaged = ef.load_model()
    for name, prompts, options in packaged_cases(packaged.tokenizer):
        _continue(parts, f"packaged/{name}", packaged, prompts, options)
    for mode in ("auto", "float32", "float16", "bfloat16", "int8"):
        model = ef.load_model(weights=mode)
        options = {"max_new_tokens": 50, "seed": 5, "text": COOL, "image": COOL}
        _continue(parts, f"packaged/weights {mode}", model, [["garden"], ["A red apple:"]], options)
    _infill(parts, "packaged", packaged, [["A red apple:", _picture(3)], ["house", _picture(4, (64, 16))]])
    for name, prompts, options in stream_cases():
        _stream(parts, f"packaged/{name}", packaged, prompts, options)
    for shape in material.SHAPES:
        _tiny(parts, shape, material.model_of(shape))
    other = {"qk_norm": "rms", "norm_placement": "reordered", "logit_soft_cap": 5.0, "tie_embeddings": True}
    _tiny(
        parts,
        "grid, rows, 1 codes/other network",
        material.model_of("grid, rows, 1 codes", n_kv_heads=2, **other),
    )
    none = material.model_of("grid, columns, 2 codes", qk_norm="none", rope_theta=500.0)
    _tiny(parts, "grid, columns, 2 codes/no norm", none)
    return parts


def packaged_cases(tokenizer: Any) -> list[tuple[str, list[list[Any]], dict[str, Any]]]:
    """Name, prompts and options."""
    texts: list[list[Any]] = [["A red apple:"], ["garden"], ["riddle"], []]
    images: list[list[Any]] = [[_picture(1)], [_picture(2, (64, 16))]]
    mixed: list[list[Any]] = [["A house: ", _picture(3)], [_picture(4, (32, 64)), "is a"]]
    every = [*texts, *images, *mixed]
    negative = ef.encode(tokenizer, ["A green pear:"], eos=False)
    turn = ef.end_of_turn()
    room = {"max_new_tokens": 90}
    return [
        ("greedy", every, {**room, "text": GREEDY, "image": GREEDY}),
        ("plain", every, {**room, "seed": 1}),
        (
            "temperatures",
            every,
            {**room, "seed": 2, "text": {"temperature": 0.7}, "image": {"temperature": 0.4}},
        ),
        ("top k", texts, {**room, "seed": 3, "text": {"top_k": 5}, "image": {"top_k": 20}}),
        ("top p", texts, {**room, "seed": 4, "text": {"top_p": 0.8}, "image": {"top_p": 0.5}}),
        ("min p", texts, {**room, "seed": 5, "text": {"min_p": 0.1}, "image": {"min_p": 0.05}}),
        ("repetition", every, {**room, "seed": 6, "text": {"repetition_penalty": 1.5}, "image": COOL}),
        (
            "all at once",
            every,
            {
                **room,
                "seed": [7, 70, 700, 7000, 2**63, 0, 1, 2],
                "text": {
                    "temperature": 0.9,
                    "top_k": 40,
                    "top_p": 0.95,
                    "min_p": 0.01,
                    "repetition_penalty": 1.1,
                },
                "image": {"temperature": 0.8, "top_k": 200, "top_p": 0.9, "min_p": 0.02},
            },
        ),
        ("greedy text, sampled image", texts, {**room, "seed": 8, "text": GREEDY, "image": COOL}),
        ("then image", every, {**room, "seed": 9, "image": COOL, "then": "image", "stop_after_image": True}),
        ("then text", every, {**room, "seed": 10, "text": COOL, "then": "text"}),
        ("no image", texts, {**room, "seed": 11, "max_images": 0}),
        ("one image", texts, {"max_new_tokens": 200, "seed": 12, "image": COOL, "max_images": 1}),
        ("a grid", texts, {**room, "seed": 13, "image": COOL, "then": "image", "grid": (4, 3)}),
        ("short", every, {"max_new_tokens": 5, "seed": 14}),
        ("to the end of the context", [["x" * 150], ["garden"]], {"max_new_tokens": 256, "seed": 15}),
        ("guided", texts, {**room, "seed": 16, "image": COOL, "then": "image", "guidance": {"text": 2.0}}),
        ("guided greedily", every, {**room, "text": GREEDY, "image": GREEDY, "guidance": {"text": 1.5}}),
        (
            "guided by images",
            every,
            {**room, "seed": 17, "image": COOL, "then": "image", "guidance": {"text": 2.0, "image": 1.3}},
        ),
        (
            "guided away",
            texts,
            {
                **room,
                "seed": 18,
                "image": COOL,
                "then": "image",
                "stop_after_image": True,
                "guidance": {"text": 3.0},
                "negative": negative,
            },
        ),
        ("best of four", mixed, {**room, "seed": 19, "text": COOL, "image": COOL, "best_of": 4}),
        (
            "best of four, both ways",
            [["garden"], ["A red apple:"]],
            {**room, "seed": 20, "image": COOL, "then": "image", "best_of": 4, "best_by": "both"},
        ),
        (
            "best of four, guided",
            [["riddle"]],
            {**room, "seed": 21, "then": "image", "best_of": 4, "guidance": {"text": 2.0}},
        ),
        (
            "conversation",
            [
                ["What is this?", _picture(5), turn],
                ["Draw a house.", turn],
                ["a", turn, "b", turn, "c", turn],
            ],
            {**room, "seed": 22, "text": COOL, "image": COOL},
        ),
    ]


def stream_cases() -> list[tuple[str, list[list[Any]], dict[str, Any]]]:
    """Name, prompts and options."""
    prompts: list[list[Any]] = [["A red apple:"], [_picture(1)], ["A house: ", _picture(3)], ["naïve 猫"]]
    return [
        ("any", prompts, {"max_new_tokens": 90, "seed": 30, "image": COOL}),
        ("no previews", prompts, {"max_new_tokens": 60, "seed": 31, "then": "image", "previews": False}),
        (
            "an image",
            prompts,
            {"seed": 32, "then": "image", "stop_after_image": True, "guidance": {"text": 1.5}},
        ),
        ("stopped", prompts, {"seed": 33, "then": "image", "stopped": 9}),
        ("whole context", prompts[:1], {"seed": 34}),
    ]


def _tiny(parts: Parts, name: str, model: Any) -> None:
    """What a tiny random model writes."""
    vocab = model.tokenizer.vocab
    prompts: list[list[Any]] = [
        [],
        ["A red"],
        [_picture(6, (24, 16))],
        [_picture(7, (24, 16)), "x", _picture(8, (8, 8))],
    ]
    room = {"max_new_tokens": 40}
    guided = {"guidance": {"text": 2.0, "image": 1.4}, "then": "image"}
    cases: list[tuple[str, list[list[Any]], dict[str, Any]]] = [
        ("greedy", prompts, {**room, "text": GREEDY, "image": GREEDY}),
        ("sampled", prompts, {"max_new_tokens": 90, "seed": 1}),
        ("penalised", prompts, {**room, "seed": 2, "text": {"repetition_penalty": 3.0, "top_k": 50}}),
        ("guided", prompts, {**room, "seed": 3, **guided}),
        ("guided by texts", prompts, {**room, "seed": 4, "guidance": {"text": 0.5}, "then": "image"}),
        ("best", prompts[1:2], {**room, "seed": 5, "best_of": 4, "then": "image", "stop_after_image": True}),
        ("best both", prompts[1:2], {**room, "seed": 6, "best_of": 4, "best_by": "both", "then": "text"}),
    ]
    if ef.role(vocab, "sep") is not None:
        turn = ef.end_of_turn()
        talk: list[list[Any]] = [
            ["A red", turn],
            [_picture(9, (24, 16)), "what?", turn, "cat", turn, "and?", turn],
        ]
        cases += [
            ("conversation", talk, {**room, "seed": 7}),
            ("conversation, then text", talk, {**room, "seed": 8, "then": "text", "text": COOL}),
        ]
    for case, of, options in cases:
        _continue(parts, f"{name}/{case}", model, of, options)
    _infill(parts, name, model, [["A", _picture(10, (24, 16))]])
    _stream(parts, f"{name}/stream", model, prompts, {"max_new_tokens": 70, "seed": 9})
    _stream(
        parts, f"{name}/stream image", model, prompts, {"seed": 10, "then": "image", "stop_after_image": True}
    )


def _continue(parts: Parts, name: str, model: Any, prompts: list[list[Any]], options: dict[str, Any]) -> None:
    vocab = model.tokenizer.vocab
    encoded = [ef.encode(model.tokenizer, prompt, eos=False) for prompt in prompts]
    results = ef.generate(model.lm, vocab, encoded, **options)
    likelihoods = []
    for row, result in enumerate(results):
        likelihoods.append(result.pop("log_likelihood"))
        parts["generation"][f"{name}/{row}"] = result
    parts["likelihoods"][name] = np.array(likelihoods)


def _infill(parts: Parts, name: str, model: Any, documents: list[list[Any]]) -> None:
    boxes = ((0, 0.5, 1, 1), (0.3, 0.2, 0.7, 0.6), (0, 0, 1, 1))
    for number, segments in enumerate(documents):
        for box in boxes:
            case = f"{name}/infill {number} {box}"
            options = {"candidates": 4, "seed": 40, "image": {"temperature": 0.9, "top_k": 100}}
            drawn = ef.infill(model, segments, box, **options)
            parts["generation"][case] = [one.codes.tolist() for one in drawn]
            parts["likelihoods"][case] = np.array([one.log_likelihood for one in drawn])
            parts["pictures"][case] = np.stack([np.asarray(one.image) for one in drawn])
    guided = {"candidates": 2, "seed": 41, "guidance": {"text": 1.7}}
    drawn = ef.infill(model, documents[0], boxes[0], **guided)
    parts["generation"][f"{name}/infill guided"] = [one.codes.tolist() for one in drawn]


def _stream(parts: Parts, name: str, model: Any, prompts: list[list[Any]], options: dict[str, Any]) -> None:
    more = {}
    if "stopped" in options:
        asked = iter([False] * options["stopped"] + [True])
        more["stopped"] = lambda: next(asked)
    told: list[list[Any]] = []
    for kind, fields in ef.stream(model, prompts, **{**options, **more}):
        for field in ("preview", "image"):
            if field in fields:
                picture = fields.pop(field)
                fields["size"] = list(picture.size)
                if field == "image":
                    parts["pictures"][f"{name}/{len(told)}"] = np.asarray(picture)
                else:
                    fields["pixels"] = _digest(picture.tobytes())
        told.append([kind, json.loads(json.dumps(fields))])
    parts["streams"][name] = told
    if "stopped" not in options and "previews" not in options:
        written = ef.sample(model, prompts, **options)
        parts["streams"][f"{name}/sample"] = [[_told(segment) for segment in row] for row in written]


def _told(segment: Any) -> Any:
    return segment if isinstance(segment, str) else [list(segment.size), _digest(segment.tobytes())]


def _picture(number: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    return material.drawing(number, size, "RGB")


# 2. documents and tokens


def documents(work: Path) -> Parts:
    """Token ids of 500 documents, what they become again, and how likely models find some of them."""
    parts: Parts = {"tokens": {}, "layouts": {}, "scores": {}, "losses": {}, "decoded": {}}
    packaged = ef.load_model()
    _documents(parts, "packaged", packaged, range(60), policies=("resize", "pad"), max_side=96)
    for place, shape in enumerate(material.SHAPES):
        model = material.model_of(shape, context_length=512)
        parts["layouts"][shape] = layout(model.tokenizer.vocab)
        first = 100 * (place + 1)
        _documents(parts, shape, model, range(first, first + 40), policies=("resize", "pad"), max_side=None)
        _given(parts, shape, model.tokenizer.vocab, range(first, first + 15))
    parts["layouts"]["packaged"] = layout(packaged.tokenizer.vocab)
    return parts


def _documents(
    parts: Parts, name: str, model: Any, numbers: range, policies: Sequence[str], max_side: int | None
) -> None:
    tokenizer, vocab = model.tokenizer, model.tokenizer.vocab
    talks = ef.role(vocab, "sep") is not None
    encoded = []
    for number in numbers:
        segments = material.document(number, conversation=talks and number % 2 == 0)
        options = {"policy": policies[number % len(policies)], "max_side": max_side}
        tokens = ef.encode(tokenizer, segments, **options)
        encoded.append(tokens)
        parts["tokens"][f"{name}/{number}"] = tokens.tolist()
        back = tokenizer.decode(tokens)
        parts["tokens"][f"{name}/{number}/back"] = [
            segment if isinstance(segment, str) else list(segment.shape) for segment in back
        ]
        if number % 20 == 0:
            for place, segment in enumerate(back):
                if not isinstance(segment, str):
                    parts["decoded"][f"{name}/{number}/{place}"] = segment.numpy()
    longest = model.lm.config.context_length
    fitting = [tokens for tokens in encoded if len(tokens) <= longest]
    for number, tokens in enumerate(fitting[:12]):
        found = ef.token_scores(model.lm, tokens)
        parts["scores"][f"{name}/{number}/log p"] = found.log_p.numpy()
        parts["scores"][f"{name}/{number}/entropy"] = found.entropy.numpy()
        if number < 4 and len(tokens) > 12:
            parts["scores"][f"{name}/{number}/both ways"] = np.array(_both_ways(model, tokens))
    _losses(parts["losses"], name, model, fitting[:14])


def _both_ways(model: Any, tokens: Any) -> float:
    """Of the document cut behind its first part."""
    vocab = model.tokenizer.vocab
    kind, values = ef.split(tokens, vocab)[0]
    first = ef.interleave([(kind, values)], vocab, eos=False)
    return ef.both_ways(model.lm, vocab, tokens, len(first))


def _losses(part: Part, name: str, model: Any, encoded: list[Any]) -> None:
    """Logits and losses of documents that are packed into windows, three in each."""
    vocab, width = model.tokenizer.vocab, model.lm.config.context_length
    rows: list[list[Any]] = [[]]
    for tokens in encoded:
        if sum(map(len, rows[-1])) + len(tokens) > width or len(rows[-1]) == 3:
            rows.append([])
        rows[-1].append(tokens)
    pad: Any = ef.role(vocab, "pad")
    tokens = torch.full((len(rows), width), pad)
    numbers = torch.full((len(rows), width), 9)
    for row, some in enumerate(rows):
        end = 0
        for number, document in enumerate(some):
            tokens[row, end : end + len(document)] = document
            numbers[row, end : end + len(document)] = number
            end += len(document)
    with torch.no_grad():
        part[f"{name}/logits"] = ef.logits(model.lm, tokens, numbers)[0, ::7].numpy()
        part[f"{name}/logits alone"] = ef.logits(model.lm, encoded[0][None])[0, ::7].numpy()
        for case, learned in (("all", None), ("learned", (tokens % 3 > 0).long())):
            for field, value in ef.loss_terms(model.lm, vocab, tokens, numbers, learned).items():
                part[f"{name}/{case}/{field}"] = value.numpy()


def _given(parts: Parts, name: str, vocab: Any, numbers: range) -> None:
    """Documents of codes that are given, there and back."""
    for number in numbers:
        described = given_parts(name, number)
        tokens = ef.interleave(described, vocab)
        again = ef.split(tokens, vocab)
        parts["tokens"][f"{name}/given {number}"] = tokens.tolist()
        parts["tokens"][f"{name}/given {number}/back"] = [[kind, values.tolist()] for kind, values in again]


def given_parts(shape: str, number: int) -> list[tuple[str, Any]]:
    """Parts of a document, of text ids and codes that depend on nothing but the number."""
    fields, rng = material.SHAPES[shape], np.random.default_rng(number)
    n = fields["codes_per_position"]
    found: list[tuple[str, Any]] = []
    for place in range(1 + number % 4):
        if fields["separator"] and place == 2:
            found.append(("turn", torch.empty(0, dtype=torch.int64)))
        if rng.random() < 0.5:
            size = fields.get("fixed_grid") or tuple(rng.integers(1, 9, 2).tolist())
            codes = rng.integers(material.CODES[n], size=(*size, n) if n > 1 else size)
            found.append(("image", torch.from_numpy(codes)))
        else:
            found.append(("text", torch.from_numpy(rng.integers(3, 300, rng.integers(1, 9)))))
    return found


def layout(vocab: Any) -> dict[str, Any]:
    """What each token is: roles, runs of modalities, and the tokens of all text ids and codes."""
    facts, tokens = ef.image_facts(vocab), torch.arange(vocab.size)
    n = facts["codes_per_position"]
    kinds = ef.modality(vocab, tokens).tolist()
    runs: list[list[int]] = []
    for token, kind in enumerate(kinds):
        if not runs or runs[-1][1] != kind:
            runs.append([token, kind])
    text = tokens[vocab.is_text(tokens)]
    codes = torch.arange(facts["codebook_size"])
    every = codes if n == 1 else codes[:, None].expand(-1, n)
    roles = ("bos", "eos", "pad", "begin_image", "end_image", "sep")
    return {
        "size": vocab.size,
        "roles": {name: ef.role(vocab, name) for name in roles},
        "runs": runs,
        "text ids": _runs(ef.text_ids(vocab, text).tolist()),
        "codes": [_runs(column) for column in ef.code_tokens(vocab, every).reshape(len(codes), n).T.tolist()],
        "slots": _runs(ef.slots(vocab, tokens).tolist(), step=0),
        "grid": _runs(ef.numbers_of_grids(vocab)),
        "fixed_grid": facts["fixed_grid"] and list(facts["fixed_grid"]),
        "scan": facts["scan"],
        "codes_per_position": n,
        "codebook_size": facts["codebook_size"],
    }


def _runs(values: list[int], step: int = 1) -> list[list[int]]:
    """[first value, how many] of each run whose values rise by ``step``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][0] + step * runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return runs


# 3. prepared folders


def shards(work: Path) -> Parts:
    """What ``prepare`` makes of small data sets of every shape."""
    parts: Parts = {
        "shards": {},
        "prepared": {},
        "prepare words": {},
        "prepared files": {},
        "prepare keys": {},
    }
    write_tokenizers()
    Path("packaged").symlink_to(ef.packaged_model())  # keys hold the names of folders
    for name, settings in prepare_cases().items():
        _prepare(parts, name, settings)
    return parts


def write_tokenizers() -> None:
    """text, image, and images2 with two codes a position; a small model, model, that has conversations."""
    material.text_tokenizer().save("text")
    material.image_tokenizer().save("image")
    material.image_tokenizer(2).save("image2")
    model = material.model_of("grid, columns, 1 codes")
    ef.save_model("model", model.lm, model.tokenizer)


def prepare_cases() -> dict[str, dict[str, Any]]:
    """Write the data, and say how they are prepared."""
    own = {"text_tokenizer": "text", "image_tokenizer": "image", "max_grid": 16}
    pairs, tiles = write_pairs(Path("pairs")), write_pages(Path("pages"))
    texts, talks = write_texts(Path("texts.jsonl")), write_talks(Path("talks"))
    parallel, placed = write_parallel(Path("parallel")), write_placed(Path("placed"))
    streamed = write_parquet(Path("parquet"))
    material.same_times(Path())
    small = {"context_length": 64, "validation_share": 0.2, "shard_rows": 8}
    return {
        "pairs, both": {**own, **small, "documents": pairs, "order": "both"},
        "pairs, coin": {**own, **small, "documents": pairs, "order": "coin", "seed": 3, "scan": "columns"},
        "pairs, columns": {**own, **small, "documents": f"{pairs}/rows.jsonl", "id_column": "id"}
        | {"columns": {"image": "picture", "text": "words"}, "order": "image_first", "policy": "pad"},
        "pairs, two codes": {**own, **small, "documents": pairs, "order": "text_first"}
        | {"image_tokenizer": "image2", "max_side": 24},
        "pairs, fixed grid": {**own, **small, "documents": pairs, "order": "both", "fixed_grid": (2, 3)}
        | {"max_grid": 64},
        "texts, split": {**own, **small, "documents": texts, "validation_share": 0.1, "context_length": 48},
        "texts, dropped": {
            **own,
            **small,
            "documents": texts,
            "long_documents": "drop",
            "context_length": 32,
        },
        "texts, validation": {
            **own,
            **small,
            "documents": texts,
            "validation": texts,
            "validation_share": 0.0,
        },
        "talks": {**small, "documents": talks, "model": "model"},
        "talks, balanced": {
            **small,
            "documents": talks,
            "model": "model",
            "balance_answers": True,
            "seed": 1,
        },
        "talks, cut": {**small, "documents": talks, "model": "model", "context_length": 40},
        "talks, dropped": {**small, "documents": talks, "model": "model", "context_length": 40}
        | {"long_documents": "drop"},
        "talks, fixed grid": {**own, **small, "documents": talks, "fixed_grid": (2, 2), "max_grid": 64}
        | {"separator": True},
        "long, split": {**own, **small, "documents": parallel, "context_length": 32},
        "long, dropped": {
            **own,
            **small,
            "documents": parallel,
            "context_length": 32,
            "long_documents": "drop",
        },
        "long, one shard": {**own, "documents": parallel, "context_length": 256, "validation_share": 0.0},
        "placed, both": {**own, **small, "documents": placed, "order": "both"},
        "placed, coin": {**own, **small, "documents": placed, "order": "coin", "scan": "columns", "seed": 9},
        "tiles": {
            **own,
            **small,
            "documents": tiles,
            "large_images": "tile",
            "max_side": 40,
            "context_length": 128,
        },
        "tiles, scaled": {**own, **small, "documents": tiles, "max_positions": 20, "context_length": 128},
        "tiles, padded": {
            **own,
            **small,
            "documents": tiles,
            "max_positions": 9,
            "max_side": None,
            "policy": "pad",
        },
        "streamed": {**own, **small, "documents": streamed, "streaming": True, "order": "both"},
        "packaged model": {**small, "documents": pairs, "model": "packaged", "order": "both"}
        | {"context_length": 256},
    }


def _prepare(parts: Parts, name: str, settings: dict[str, Any]) -> None:
    out = Path(f"prepared-{name.replace(', ', '-').replace(' ', '-')}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        record = ef.prepare({"out": str(out), **settings})
    lines = [line for line in printed.getvalue().splitlines() if "rows/s" not in line]
    record = json.loads((out / "prepare.json").read_text())
    key = record.pop("key")
    record["config"] = {k: _plain(v) for k, v in record["config"].items()}
    told = [str(w.message) for w in warned if "rejected" in str(w.message)]
    lines_of = (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    rejected = [json.loads(line) for line in lines_of]
    reasons = {}
    for part in ("train", "validation"):
        if part in record:
            reasons[part] = record[part].pop("left_out")
            record[part]["left_out"] = sum(reasons[part].values())
    rows = [[entry["part"], entry.get("row", entry.get("file"))] for entry in rejected]
    parts["prepared"][name] = _plain({"record": record, "rejected": rows})
    words = {"reasons": reasons, "rejected": rejected, "printed": lines, "warned": told}
    parts["prepare words"][name] = _plain(words)
    parts["prepare keys"][name] = key
    for part in ("train", "validation"):
        if (out / part).is_dir():
            for column, values in ef.windows(out / part).items():
                parts["shards"][f"{name}/{part}/{column}"] = values.numpy()
    parts["prepared files"][name] = files_of(
        out, {key: "KEY", str(Path.cwd()): "WORK"}, without=("prepare.json",)
    )
    before = (out / "prepare.json").stat().st_mtime_ns
    with contextlib.redirect_stdout(printed):  # a second time nothing is done
        ef.prepare({"out": str(out), **settings})
    parts["prepared"][f"{name}/again"] = (out / "prepare.json").stat().st_mtime_ns == before
    parts["prepare words"][f"{name}/again"] = printed.getvalue().splitlines()[-1]


def _plain(value: Any) -> Any:
    """Values without this tree's and this run's paths."""
    text = json.dumps(value)
    for path, name in ((str(ef.package_folder()), "TREE"), (str(Path.cwd()), "WORK")):
        text = text.replace(json.dumps(path)[1:-1], name)
    return json.loads(text)


def write_pairs(folder: Path) -> str:
    """Pictures and captions, as an imagefolder and as lines; some of them broken, missing or outside."""
    rows: list[Any] = []
    for number in range(30):
        name = f"picture-{number:02d}.png"
        material.write_png(folder / name, material.drawing(number))
        rows.append({"file_name": name, "text": material.text(number + 1)})
    material.write_lines(folder / "metadata.jsonl", rows)
    material.write_png(folder.parent / "outside.png", material.drawing(1))
    (folder / "broken.bin").write_bytes((folder / "picture-00.png").read_bytes()[:60])
    other: list[Any] = [
        {"id": str(n), "picture": row["file_name"], "words": row["text"], "more": n}
        for n, row in enumerate(rows)
    ]
    for place, (picture, words) in enumerate(
        (
            ("broken.bin", "broken"),
            ("none.png", "missing"),
            ("../outside.png", "outside"),
            (None, ""),
            (None, "alone"),
        )
    ):
        other.insert(3 * place, {"id": f"x{place}", "picture": picture, "words": words, "more": 0})
    other.append({"id": "3", "picture": "picture-01.png", "words": "again", "more": 0})
    other.insert(8, '{"id": "broken')
    other.insert(9, "[1]")
    material.write_lines(folder / "rows.jsonl", other)
    return str(folder)


def write_texts(path: Path) -> str:
    """Texts of all lengths; one with a lone surrogate, and empty ones."""
    rows: list[Any] = [{"text": " ".join(material.text(n + k) for k in range(n % 9))} for n in range(40)]
    rows += [{"text": "a \ud800 b"}, {"text": ""}, {"text": "w" * 400}]
    material.write_lines(path, rows)
    return str(path)


def write_talks(folder: Path) -> str:
    """Conversations with images in their parts and beside them, and some that are none."""
    rows: list[Any] = []
    for number in range(18):
        material.write_png(folder / f"{number}.png", material.drawing(number, mode="RGB"))
        shown = {"type": "image", "text": None, "image": f"{number}.png"}
        waiting = {"type": "image", "text": None, "image": None}
        said = [{"type": "text", "text": material.text(number + 1), "image": None}]
        asked = [{"type": "text", "text": material.text(number + 20), "image": None}]
        turns = [("user", [*asked, *([shown] if number % 3 == 0 else [])])]
        turns.append(
            ("assistant", [waiting] if number % 3 == 1 else [*said, *([shown] if number % 5 == 0 else [])])
        )
        if number % 4 == 0:
            turns = [("system", asked), *turns, ("user", said), ("assistant", asked), ("user", asked)]
        if number == 7:
            turns = turns[1:]
        if number == 11:
            turns = turns[:1]
        if number == 13:
            turns.append(("critic", said))
        rows.append(
            {
                "messages": [{"role": role, "content": content} for role, content in turns],
                "images": [f"{number}.png"] if number % 3 == 1 else [],
            }
        )
    material.write_lines(folder / "talks.jsonl", rows)
    return str(folder / "talks.jsonl")


def write_parallel(folder: Path) -> str:
    """Interleaved documents, some of them long, with images that no window of 32 tokens holds."""
    rows = []
    for number in range(24):
        images, texts = [], []
        for place in range(1 + number % 6):
            own = 50 * number + place
            if own % 3:
                images.append(None)
                texts.append(material.text(own))
            else:
                size = (64, 48) if own % 4 == 0 else (16, 16)
                material.write_png(folder / f"{own}.png", material.drawing(own, size, "RGB"))
                images.append(f"{own}.png")
                texts.append(None)
        rows.append({"images": images, "texts": texts})
    rows.append({"images": [None], "texts": []})
    rows.append({"images": [], "texts": ["only this"]})
    material.write_lines(folder / "rows.jsonl", rows)
    return str(folder / "rows.jsonl")


def write_placed(folder: Path) -> str:
    """Texts whose images belong to their sentences, as MMC4 has them."""
    rows = []
    for number in range(12):
        count = 1 + number % 3
        places = []
        for place in range(number % 4):
            own = 30 * number + place
            material.write_png(folder / f"{own}.png", material.drawing(own, (16, 16), "RGB"))
            places.append({"image_name": f"{own}.png", "matched_text_index": min(place, count - 1)})
        if number == 10:
            places = [{"image_name": "300.png", "matched_text_index": 9}]
        rows.append(
            {"text_list": [material.text(5 * number + k) for k in range(count)], "image_info": places}
        )
    material.write_lines(folder / "rows.jsonl", rows)
    return str(folder / "rows.jsonl")


def write_pages(folder: Path) -> str:
    """Large images with a line of text."""
    rows = []
    for number in range(8):
        material.write_png(folder / f"{number}.png", material.drawing(number, (90 + 10 * number, 60), "RGB"))
        rows.append({"file_name": f"{number}.png", "text": material.text(number + 1)})
    material.write_lines(folder / "metadata.jsonl", rows)
    return str(folder)


def write_parquet(folder: Path) -> str:
    """Pictures and captions inside of parquet files."""
    import datasets

    folder.mkdir()
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    for shard in range(3):
        numbers = range(10 * shard, 10 * shard + 10)
        rows = {
            "image": [material.drawing(n, mode="RGB") for n in numbers],
            "text": [material.text(n + 1) for n in numbers],
        }
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / f"{shard}.parquet")
    return str(folder)


# 4. trainings


def trainings(work: Path) -> Parts:
    """Curves and last weights of short trainings through the command line."""
    parts: Parts = {"curves": {}, "weights": {}, "training files": {}, "checkpoints": {}}
    write_tokenizers()
    pairs = write_pairs(Path("pairs"))
    talks = write_talks(Path("talks"))
    images = _write_images(Path("images"))
    own = {"text_tokenizer": "text", "image_tokenizer": "image", "max_grid": 16, "validation_share": 0.2}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        ef.prepare({**own, "documents": pairs, "out": "tokens", "context_length": 64, "order": "both"})
        ef.prepare({**own, "documents": pairs, "out": "old", "context_length": 64, "order": "coin"})
        packaged = {"model": str(ef.packaged_model()), "context_length": 256, "validation_share": 0.2}
        ef.prepare({**packaged, "documents": talks, "out": "talk-tokens"})
    for name, arguments in training_cases(images).items():
        _train(parts, name, arguments)
    return parts


def training_cases(images: str) -> dict[str, list[str]]:
    """Arguments of the command."""
    common = [
        f"--trainer.max_steps={STEPS}",
        "--trainer.log_every_n_steps=1",
        "--trainer.val_check_interval=15",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.precision=32-true",
        "--trainer.enable_progress_bar=false",
        "--checkpoints.steps=15",
    ]
    lm = ["lm", "fit", "--config", str(ef.config_file("lm_debug.yaml")), *common, "--data.path=tokens"]
    lm += ["--samples.every=15", "--telemetry.every=10"]
    debug = str(ef.config_file("image_tokenizer_debug.yaml"))
    image = ["image-tokenizer", "fit", "--config", debug, *common, f"--data.train={images}"]
    tuned = str(ef.config_file("lm_fine_tune.yaml"))
    tune = ["lm", "fit", "--config", tuned, *common, "--data.path=talk-tokens", "--data.batch_size=2"]
    tune += [f"--model.init_from={ef.packaged_model()}", "--model.warmup_steps=5", "--telemetry.every=0"]
    weights = ef.modality_weights({"structure": 1.0, "text": 2.0, "image": 0.5})
    return {
        "lm_debug": lm,
        "lm, the whole recipe": [
            *lm,
            "--data.mixture={old: 0.3}",
            "--model.muon_lr=0.02",
            "--model.condition_dropout=0.3",
            "--model.schedule=cosine",
            "--model.config.dropout=0.1",
            "--model.config.qk_norm=rms",
            "--model.config.norm_placement=reordered",
            "--model.config.tie_embeddings=true",
            "--model.config.logit_soft_cap=30",
            "--model.activation_checkpointing=true",
            "--telemetry.gradient_cosine=true",
            weights,
        ],
        "image_tokenizer_debug": image,
        "image tokenizer, the whole recipe": [
            *image,
            "--model.config.groups=2",
            "--model.config.codebook_dim=8",
            "--model.chroma_weight=1",
            "--model.edge_weight=1",
            "--model.ema_decay=0.9",
            "--model.adversary.weight=0.5",
            "--model.adversary.start=10",
            "--model.adversary.warmup=5",
            "--model.adversary.channels=8",
        ],
        "lora": [*tune, "--model.trained_part=lora"],
        "image rows": [*tune, "--model.trained_part=image_rows", "--trainer.max_steps=8"],
    }


def _train(parts: Parts, name: str, arguments: list[str]) -> None:
    run = Path(f"run-{name.replace(', ', '-').replace(' ', '-')}")
    command(*arguments, f"--trainer.default_root_dir={run}")
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for column in rows[0]:
        if "per_second" not in column:
            values = [float(row[column]) if row[column] else np.nan for row in rows]
            parts["curves"][f"{name}/{column}"] = np.array(values)
    for tensor, values in tensors_of(run / "model" / "model.safetensors").items():
        parts["weights"][f"{name}/{tensor}"] = values
    drawn = {".png", ".html", ".json", ".jsonl"}
    parts["training files"][name] = {
        file: digest if file.startswith("model/") or Path(file).suffix in drawn else "there"
        for file, digest in files_of(run).items()
        if "events" not in file
    }
    stored = torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)
    _checkpoint(name, stored, parts["checkpoints"])


def _checkpoint(name: str, value: Any, into: Part) -> None:
    """All that a checkpoint holds, by name: digests of tensors, and plain values."""
    if isinstance(value, dict):
        for key, one in value.items():
            _checkpoint(f"{name}/{key}", one, into)
    elif isinstance(value, torch.Tensor):
        content = _digest(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        into[_plain(name)] = [str(value.dtype), list(value.shape), content]
    elif isinstance(value, list | tuple) and len(value) <= 100:
        into[f"{_plain(name)}/length"] = len(value)
        for number, one in enumerate(value):
            _checkpoint(f"{name}/{number}", one, into)
    else:
        into[_plain(name)] = (
            _digest(repr(value).encode()) if isinstance(value, list | tuple) else _plain(value)
        )


def _write_images(folder: Path) -> str:
    """48 pictures of three sizes, most of them with the box of a text."""
    import datasets

    rows: dict[str, list[Any]] = {"image": [], "objects": []}
    for number in range(48):
        picture = material.drawing(number, ((16, 16), (24, 16), (40, 16))[number % 3], "RGB")
        box = [[2.0, 2.0, 12.0, 11.0]] if number % 4 else []
        rows["image"].append(picture)
        rows["objects"].append({"bbox": box, "text": ["w"] * len(box)})
    objects = {"bbox": datasets.List(datasets.List(datasets.Value("float32")))}
    features = datasets.Features(
        image=datasets.Image(), objects={**objects, "text": datasets.List(datasets.Value("string"))}
    )
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(folder))
    return str(folder)


def command(*arguments: str) -> str:
    """Run the command `earlyfusion` in a process of its own; returns what it printed."""
    script = Path(__file__).with_name("record.py")
    run = subprocess.run(
        [sys.executable, str(script), "--command", *arguments], capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(
            f"earlyfusion {' '.join(arguments)} gave {run.returncode}:\n{run.stdout}\n{run.stderr}"
        )
    return run.stdout


# 5. Chameleon


def chameleon(work: Path) -> Parts:
    """Random models in the layouts of transformers and of Meta become ours, and ours becomes theirs."""
    names = ("chameleon", "chameleon words", "chameleon logits", "chameleon weights", "chameleon files")
    parts: Parts = {name: {} for name in names}
    printed = parts["chameleon words"]
    write_chameleon(Path("hf"))
    printed["import"] = run_main("import", "chameleon", "hf", "--out", "imported")
    _imported(parts, "imported", Path("imported"))
    write_vqgan(Path("imported"), Path("vqgan.ckpt"))
    printed["import, with a decoder"] = run_main(
        "import", "chameleon", "hf", "--out", "whole", "--vqgan", "vqgan.ckpt", "--preprocessing", "hf"
    )
    _imported(parts, "whole", Path("whole"))
    write_meta(Path("meta"), ef.load_model("imported").lm.config.vocab_size)
    (Path("meta") / "tokenizer" / "vqgan.ckpt").write_bytes(Path("vqgan.ckpt").read_bytes())
    printed["import of Meta's"] = run_main("import", "chameleon", "meta", "--out", "imported-meta")
    _imported(parts, "imported-meta", Path("imported-meta"))
    save_chameleon_shape(Path("own"))
    for name, folder in (("exported", "own"), ("exported again", "whole")):
        printed[name] = run_main("export", "chameleon", folder, "--out", name)
        for file in sorted(Path(name).glob("*.safetensors")):
            for tensor, values in tensors_of(file).items():
                parts["chameleon weights"][f"{name}/{file.name}/{tensor}"] = values
        parts["chameleon files"][name] = files_of(Path(name))
    printed["import of what was exported"] = run_main("import", "chameleon", "exported", "--out", "back")
    _imported(parts, "back", Path("back"))
    printed["info"] = run_main("info", "back")
    return parts


def _imported(parts: Parts, name: str, folder: Path) -> None:
    model = ef.load_model(folder)
    side = 32 if ef.image_facts(model.tokenizer.vocab)["fixed_grid"] == (8, 8) else 512
    prompts: list[list[Any]] = [["A red apple."], ["the cat sees"], ["naïve 猫 🙂 <s>"]]
    if side == 32:
        prompts += [["A", material.drawing(n, (32 + n, 32), "RGB"), " and"] for n in range(4)]
    with torch.no_grad():
        for number, prompt in enumerate(prompts):
            tokens = ef.encode(model.tokenizer, prompt, eos=False)
            parts["chameleon"][f"{name}/tokens {number}"] = tokens.tolist()
            parts["chameleon logits"][f"{name}/{number}"] = (
                ef.logits(model.lm, tokens[None])[0].float().numpy()
            )
    parts["chameleon"][f"{name}/layout"] = layout(model.tokenizer.vocab)
    options = {"max_new_tokens": 20, "max_images": 0, "seed": 1}
    encoded = [ef.encode(model.tokenizer, prompt, eos=False) for prompt in prompts]
    for number, row in enumerate(ef.generate(model.lm, model.tokenizer.vocab, encoded, **options)):
        parts["chameleon logits"][f"{name}/log-likelihood {number}"] = np.array(row.pop("log_likelihood"))
        parts["chameleon"][f"{name}/written {number}"] = row
    for file in ("model.safetensors", "tokenizer/image/model.safetensors"):
        for tensor, values in tensors_of(folder / file).items():
            parts["chameleon weights"][f"{name}/{file}/{tensor}"] = values
    parts["chameleon files"][name] = files_of(folder)


CODES, SIDE = 8, 32


def bpe() -> dict[str, Any]:
    """A byte-level BPE whose vocabulary holds Chameleon's special tokens, codes and spare tokens too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", *map(ef.chameleon_code_name, range(CODES))]
    special += ["<eoss>", "<racm3:break>", "<reserved08706>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator([*material.SENTENCES, *material.ODD] * 5, trainer)
    return json.loads(learner.to_str())


def write_chameleon(folder: Path) -> None:
    """A random model of transformers, in several shards."""
    import transformers

    text = bpe()
    ids = {**text["model"]["vocab"]}
    vq = {"embed_dim": 4, "num_embeddings": CODES, "base_channels": 32, "latent_channels": 4}
    torch.manual_seed(0)
    model: Any = transformers.ChameleonForConditionalGeneration(
        transformers.ChameleonConfig(
            vocab_size=len(ids),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=160,
            swin_norm=True,
            vocabulary_map=ids,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            vq_config={**vq, "resolution": SIDE, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1},
        )  # fmt: skip
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "vqmodel" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size="60KB")
    (folder / "tokenizer.json").write_text(json.dumps(text))


def write_vqgan(model: Path, path: Path) -> None:
    """A checkpoint of the model's image tokenizer with a decoder, as taming writes one."""
    mine = ef.ImageTokenizer().load(model / "tokenizer" / "image")
    torch.manual_seed(1)
    whole = ef.ImageTokenizer()(ef.ImageConfig()(**{**vars(mine.config), "decoder": True}))
    material.fill(whole)
    whole.load_state_dict(mine.state_dict(), strict=False)
    state = {n: t for n, t in whole.state_dict().items() if not n.startswith("quantizer.")}
    torch.save({"state_dict": {**state, "quantize.embedding.weight": whole.codebook}}, path)


def write_meta(folder: Path, size: int) -> None:
    """A random checkpoint in Meta's layout, of two shards in bfloat16."""
    target, S = folder / "models" / "7b", 2
    target.mkdir(parents=True)
    V, C, H, Hkv, D, F, layers = size + size % 2, 32, 4, 2, 8, 88, 2
    params = {
        "dim": C,
        "n_layers": layers,
        "n_heads": H,
        "n_kv_heads": Hkv,
        "multiple_of": 8,
        "norm_eps": 1e-5,
    }
    params |= {"rope_theta": 10000.0, "swin_norm": True}
    (target / "params.json").write_text(json.dumps({"model": params, "model_parallel_size": S}))
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (V, C // S),
        "output.weight": (V // S, C),
        "norm.weight": (C,),
    }
    for n in range(layers):
        attention, ffn = f"layers.{n}.attention.", f"layers.{n}.feed_forward."
        shapes |= {f"layers.{n}.attention_norm.weight": (C,), f"layers.{n}.ffn_norm.weight": (C,)}
        shapes |= {f"{attention}wq.weight": (H * D // S, C), f"{attention}wk.weight": (Hkv * D // S, C)}
        shapes |= {f"{attention}wv.weight": (Hkv * D // S, C), f"{attention}wo.weight": (C, H * D // S)}
        shapes |= {
            f"{ffn}w1.weight": (F // S, C),
            f"{ffn}w2.weight": (C, F // S),
            f"{ffn}w3.weight": (F // S, C),
        }
        for x in "qk":
            shapes |= {f"{attention}{x}_normalization.{kind}": (D,) for kind in ("weight", "bias")}
    generator = torch.Generator().manual_seed(7)
    shared = {
        name: 1 + 0.2 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
        if name == "norm.weight" or name.endswith("_norm.weight")
    }
    for number in range(S):
        own = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        tensors = {name: tensor.bfloat16() for name, tensor in {**own, **shared}.items()}
        torch.save(tensors, target / f"consolidated.{number:02}.pth")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "text_tokenizer.json").write_text(json.dumps(bpe()))


def save_chameleon_shape(folder: Path) -> None:
    """A model of ours that fits Chameleon's format."""
    config = ef.ImageConfig()(
        architecture="vqgan",
        stem=1,
        channels=(32, 32, 64),
        res_blocks=1,
        norm="group",
        z_channels=8,
        quantizer="vq",
        codebook_size=16,
        codebook_dim=8,
    )
    torch.manual_seed(3)
    images = ef.ImageTokenizer()(config).eval()
    latents = images.latents(torch.rand(4, 3, SIDE, SIDE) * 2 - 1).detach()
    ef.initialise_codebook(images, latents.movedim(1, -1).flatten(0, 2))
    text = material.text_tokenizer()
    vocab = ef.build_vocab(text, 16, max_grid=None, fixed_grid=(8, 8))
    lm = material.network_of(vocab, context_length=160, n_kv_heads=2)
    ef.save_model(folder, lm, ef.document_tokenizer(text, images, vocab))


def run_main(*arguments: str) -> list[str]:
    """Run the command here; the lines that it prints, without this run's paths."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = ef.main(arguments)
    if code:
        raise RuntimeError(f"earlyfusion {' '.join(arguments)} gave {code}")
    return _plain(printed.getvalue().splitlines())


# 6. other commands


def commands(work: Path) -> Parts:
    """What the smaller commands write."""
    parts: Parts = {"commands": {}, "command files": {}}
    printed, files = parts["commands"], parts["command files"]
    material.write_png(Path("picture.png"), _picture(3))
    material.write_lines(Path("texts.jsonl"), [{"text": sentence} for sentence in material.SENTENCES * 9])
    drawn = [
        "sample",
        "--out",
        "drawn",
        "--n",
        "2",
        "--then",
        "image",
        "--image-temperature",
        "0.4",
        "A red apple:",
    ]
    read = ["sample", "--out", "read", "--then", "text", "--temperature", "0", "picture.png"]
    anew = ["sample", "--out", "anew", "--infill", "0,0.5,1,1", "--best-of", "3", "A house:", "picture.png"]
    best = [
        "sample",
        "--out",
        "best",
        "--then",
        "image",
        "--guidance",
        "2",
        "--best-of",
        "2",
        "--best-by",
        "both",
    ]
    fit = ["text-tokenizer", "fit", "--input", "texts.jsonl", "--vocab-size", "300", "--out", "text"]
    cases = {"drawn": drawn, "read": read, "anew": anew, "best": [*best, "riddle"], "text": fit}
    for name, arguments in cases.items():
        printed[name] = run_main(*arguments)
        files[name] = files_of(Path(name), {str(ef.package_folder()): "TREE"})
    printed["info"] = run_main("info", str(ef.packaged_model()))
    printed["info of a tokenizer"] = run_main("info", str(ef.packaged_model() / "tokenizer" / "image"))
    Path("pictures").mkdir()
    for number in range(4):
        material.write_png(Path("pictures") / f"{number}.png", _picture(number, (64, 48)))
    model = str(ef.packaged_model())
    codes = ["image-tokenizer", "encode", "pictures", "--model", model, "--out", "codes"]
    back = ["image-tokenizer", "decode", "codes", "--model", model, "--out", "decoded"]
    for name, arguments in (("codes", codes), ("decoded", back)):
        printed[name] = run_main(*arguments)
        files[name] = files_of(Path(name), {str(ef.package_folder()): "TREE"})
    return parts


# files


def files_of(
    folder: Path, renamed: Mapping[str, str] | None = None, without: Sequence[str] = ()
) -> dict[str, str]:
    """Every file below a folder, with a digest of its content, in which ``renamed`` has other names."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in without:
            content = path.read_bytes()
            for old, new in (renamed or {}).items():
                content = content.replace(old.encode(), new.encode())
            found[path.relative_to(folder).as_posix()] = _digest(content)
    return found


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file; bfloat16 as the integers of its bits."""
    from safetensors.torch import load_file

    found = load_file(path)
    return {
        name: (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
        for name, tensor in sorted(found.items())
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


SECTIONS: dict[str, Callable[[Path], Parts]] = {
    "generation": generation,
    "documents": documents,
    "shards": shards,
    "trainings": trainings,
    "chameleon": chameleon,
    "commands": commands,
}
