"""The section of documents, tokens, layouts, scores and losses."""

from collections.abc import Sequence
from typing import Any

import golden_adapter as ef
import golden_material as material
import numpy as np
import torch
from golden_parts import Part, Parts


def documents() -> Parts:
    """Token ids of 500 documents, their segments after decoding, and scores and losses of some of them."""
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
    talks = vocab.sep is not None
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
    """The score of a document that is cut after its first part."""
    vocab = model.tokenizer.vocab
    kind, values = ef.split(tokens, vocab)[0]
    first = ef.interleave([(kind, values)], vocab, eos=False)
    return ef.both_ways(model.lm, vocab, tokens, len(first))


def _losses(part: Part, name: str, model: Any, encoded: list[Any]) -> None:
    """Logits and losses of windows of up to three documents."""
    vocab, width = model.tokenizer.vocab, model.lm.config.context_length
    rows: list[list[Any]] = [[]]
    for tokens in encoded:
        if sum(map(len, rows[-1])) + len(tokens) > width or len(rows[-1]) == 3:
            rows.append([])
        rows[-1].append(tokens)
    tokens = torch.full((len(rows), width), vocab.pad)
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
    """Documents of given ids and codes to tokens, and back."""
    for number in numbers:
        described = given_parts(name, number)
        tokens = ef.interleave(described, vocab)
        again = ef.split(tokens, vocab)
        parts["tokens"][f"{name}/given {number}"] = tokens.tolist()
        parts["tokens"][f"{name}/given {number}/back"] = [[kind, values.tolist()] for kind, values in again]


def given_parts(shape: str, number: int) -> list[tuple[str, Any]]:
    """The parts of a document, whose text ids and codes depend only on its number."""
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
    """The meaning of each token: roles, runs of modalities, and the tokens of all text ids and codes."""
    facts, tokens = ef.image_facts(vocab), torch.arange(vocab.size)
    n = facts["codes_per_position"]
    kinds = vocab.modality(tokens).tolist()
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
        "roles": {name: vocab.roles.get(name) for name in roles},
        "runs": runs,
        "text ids": _runs(ef.text_ids(vocab, text).tolist()),
        "codes": [_runs(column) for column in ef.code_tokens(vocab, every).reshape(len(codes), n).T.tolist()],
        "slots": _runs(ef.slots(vocab, tokens).tolist(), step=0),
        "grid": _runs(ef.size_tokens(vocab)),
        "fixed_grid": facts["fixed_grid"] and list(facts["fixed_grid"]),
        "scan": facts["scan"],
        "codes_per_position": n,
        "codebook_size": facts["codebook_size"],
    }


def _runs(values: list[int], step: int = 1) -> list[list[int]]:
    """[first value, count] of each run whose values rise by ``step``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][0] + step * runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return runs
