"""The section of generation."""

import json
from typing import Any

import golden_adapter as ef
import golden_material as material
import numpy as np
from golden_parts import COOL, GREEDY, Parts, digest, picture


def generation() -> Parts:
    """Continuations, their likelihoods, the events of streams, and the pictures in them."""
    parts: Parts = {"generation": {}, "likelihoods": {}, "streams": {}, "pictures": {}}
    packaged = ef.load_model()
    for name, prompts, options in packaged_cases(packaged.tokenizer):
        _continue(parts, f"packaged/{name}", packaged, prompts, options)
    for mode in ("auto", "float32", "float16", "bfloat16", "int8"):
        model = ef.load_model(weights=mode)
        options = {"max_new_tokens": 50, "seed": 5, "text": COOL, "image": COOL}
        _continue(parts, f"packaged/weights {mode}", model, [["garden"], ["A red apple:"]], options)
    _infill(parts, "packaged", packaged, [["A red apple:", picture(3)], ["house", picture(4, (64, 16))]])
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
    images: list[list[Any]] = [[picture(1)], [picture(2, (64, 16))]]
    mixed: list[list[Any]] = [["A house: ", picture(3)], [picture(4, (32, 64)), "is a"]]
    every = [*texts, *images, *mixed]
    negative = ef.encode(tokenizer, ["A green pear:"], eos=False)
    turn = ef.END_OF_TURN
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
                ["What is this?", picture(5), turn],
                ["Draw a house.", turn],
                ["a", turn, "b", turn, "c", turn],
            ],
            {**room, "seed": 22, "text": COOL, "image": COOL},
        ),
    ]


def stream_cases() -> list[tuple[str, list[list[Any]], dict[str, Any]]]:
    """Name, prompts and options."""
    prompts: list[list[Any]] = [["A red apple:"], [picture(1)], ["A house: ", picture(3)], ["naïve 猫"]]
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
    """Continuations, drawings and events of a tiny random model."""
    vocab = model.tokenizer.vocab
    prompts: list[list[Any]] = [
        [],
        ["A red"],
        [picture(6, (24, 16))],
        [picture(7, (24, 16)), "x", picture(8, (8, 8))],
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
    if vocab.sep is not None:
        turn = ef.END_OF_TURN
        talk: list[list[Any]] = [
            ["A red", turn],
            [picture(9, (24, 16)), "what?", turn, "cat", turn, "and?", turn],
        ]
        cases += [
            ("conversation", talk, {**room, "seed": 7}),
            ("conversation, then text", talk, {**room, "seed": 8, "then": "text", "text": COOL}),
        ]
    for case, of, options in cases:
        _continue(parts, f"{name}/{case}", model, of, options)
    _infill(parts, name, model, [["A", picture(10, (24, 16))]])
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
    events: list[list[Any]] = []
    for kind, fields in ef.stream(model, prompts, **{**options, **more}):
        for field in ("preview", "image"):
            if field in fields:
                picture = fields.pop(field)
                fields["size"] = list(picture.size)
                if field == "image":
                    parts["pictures"][f"{name}/{len(events)}"] = np.asarray(picture)
                else:
                    fields["pixels"] = digest(picture.tobytes())
        events.append([kind, json.loads(json.dumps(fields))])
    parts["streams"][name] = events
    if "stopped" not in options and "previews" not in options:
        written = ef.sample(model, prompts, **options)
        parts["streams"][f"{name}/sample"] = [[_described(segment) for segment in row] for row in written]


def _described(segment: Any) -> Any:
    return segment if isinstance(segment, str) else [list(segment.size), digest(segment.tobytes())]
