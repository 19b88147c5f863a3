"""Continuous features and given positions."""
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

from typing import Any

import pytest
import torch
from torch import Tensor

from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.fusion_lm.positions import document_starts, positions_of, rope_tables

TOKENS = torch.randint(50, (3, 14), generator=torch.Generator().manual_seed(0))
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 9, [4] * 14, [0, 1, 2] + [3] * 11])
PLACES = torch.zeros(3, 14, dtype=torch.bool)
PLACES[0, 2:5] = PLACES[1, 0] = PLACES[2, [3, 7, 13]] = True


def logits_of(model, inputs: Inputs | Tensor, **kwargs) -> Tensor:
    with torch.no_grad():
        return model(inputs, **kwargs)


# features


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["rows", "packed"])
def test_the_embeddings_themselves_are_features(build, documents: Tensor | None) -> None:
    """In a replaced place, only the feature matters, not the token."""
    model = build()
    features = model.embedding.weight[TOKENS[PLACES]]
    elsewhere = TOKENS.masked_fill(PLACES, 7)
    found = logits_of(model, Inputs(elsewhere, documents, features=features, places=PLACES))
    assert torch.equal(found, logits_of(model, Inputs(TOKENS, documents)))
    assert not torch.equal(found, logits_of(model, Inputs(elsewhere, documents)))


def test_gradients_reach_the_features(build) -> None:
    model = build().train()
    features = torch.randn(int(PLACES.sum()), 32, requires_grad=True)
    inputs = Inputs(TOKENS, DOCUMENTS, features=features, places=PLACES)
    model(inputs, targets=TOKENS.roll(-1, 1)).cross_entropy.backward()
    assert features.grad is not None and (features.grad.abs().sum(1) > 0).all()
    # The same gradient as that of a table that is looked up in their place.
    only = [token for token in range(50) if not (TOKENS[~PLACES] == token).any()][: len(features)]
    assert len(only) == len(features)
    other = build().train()
    with torch.no_grad():
        other.embedding.weight[only] = features
    looked_up = TOKENS.masked_scatter(PLACES, torch.tensor(only))
    other(Inputs(looked_up, DOCUMENTS), targets=TOKENS.roll(-1, 1)).cross_entropy.backward()
    torch.testing.assert_close(features.grad, other.embedding.weight.grad[only])


def test_features_in_half_precision(build) -> None:
    features = torch.randn(int(PLACES.sum()), 32, dtype=torch.bfloat16)
    found = logits_of(build(), Inputs(TOKENS, features=features, places=PLACES))
    assert found.dtype == torch.float32


def test_a_prompt_with_features_is_continued(build) -> None:
    model = build().double()
    features = torch.randn(int(PLACES.sum()), 32, dtype=torch.float64)
    whole = logits_of(model, Inputs(TOKENS, features=features, places=PLACES))
    cache = model.new_cache(3, 14)
    # Features are in row-major order, so those of the prompt are chosen by place.
    prompt = PLACES.nonzero()[:, 1] < 10
    parts = [
        logits_of(model, Inputs(TOKENS[:, s], features=features[kept], places=PLACES[:, s]), cache=cache)
        for s, kept in ((slice(0, 10), prompt), (slice(10, 14), ~prompt))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-12, rtol=0)


# positions


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["rows", "packed"])
def test_default_positions_may_be_given(build, documents: Tensor | None) -> None:
    model = build()
    inputs = Inputs(TOKENS, documents)
    positions = positions_of(inputs).expand(1, 3, 14)
    assert torch.equal(logits_of(model, inputs._replace(positions=positions)), logits_of(model, inputs))
    starts = {(0, 0): 0, (0, 5): 5 if documents is None else 0, (2, 3): 3 if documents is None else 0}
    assert {place: int(positions[0][place]) for place in starts} == starts


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["rows", "packed"])
def test_only_differences_of_positions_matter(build, documents: Tensor | None) -> None:
    model = build().double()
    inputs = Inputs(TOKENS, documents)
    positions = positions_of(inputs).expand(1, 3, 14)
    expected = logits_of(model, inputs)
    shifted = logits_of(model, inputs._replace(positions=positions + 9))
    torch.testing.assert_close(shifted, expected, atol=1e-5, rtol=1e-5)  # float32 angles
    stretched = logits_of(model, inputs._replace(positions=3 * positions))
    assert (stretched - expected).abs().max() > 0.1


@pytest.mark.parametrize("scale", [1, 3])
def test_slots_of_a_cache_are_not_positions(build, scale: int) -> None:
    """A continuation uses given positions; by default they are its slots."""
    model = build().double()
    positions = (scale * torch.arange(14)).expand(1, 3, 14)
    whole = logits_of(model, Inputs(TOKENS, positions=positions))
    cache, parts = model.new_cache(3, 14), []
    for piece in (slice(0, 6), slice(6, 7), slice(7, 14)):
        given = positions[:, :, piece] if scale != 1 else None
        parts.append(logits_of(model, Inputs(TOKENS[:, piece], positions=given), cache=cache))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-12, rtol=0)
    assert cache.lengths.tolist() == [14] * 3


def test_a_row_is_rewound(build) -> None:
    model = build().double()
    cache = model.new_cache(3, 20)
    logits_of(model, TOKENS, cache=cache)
    lengths = torch.tensor([9, 13, 2])
    cache.seek(lengths)
    found = logits_of(model, torch.full((3, 1), 5), cache=cache)
    for row, length in enumerate(lengths.tolist()):
        alone = torch.cat([TOKENS[row, :length], torch.tensor([5])])
        torch.testing.assert_close(found[row, 0], logits_of(model, alone[None])[0, -1], atol=1e-12, rtol=0)


# errors

FEATURES = torch.zeros(int(PLACES.sum()), 32)
POSITIONS = torch.zeros(1, 3, 14, dtype=torch.int64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": TOKENS[0]}, r"tokens.*\(B, T\).*\(14,\)"),
        ({"documents": DOCUMENTS[:2]}, r"documents.*\(3, 14\).*\(2, 14\)"),
        ({"positions": POSITIONS[0]}, r"positions.*\(axes, 3, 14\).*\(3, 14\)"),
        ({"positions": POSITIONS[:, :, :9]}, r"positions.*\(axes, 3, 14\).*\(1, 3, 9\)"),
        ({"positions": POSITIONS.float()}, r"positions.*int64.*float32"),
        ({"positions": POSITIONS.expand(3, 3, 14)}, r"positions.*1.*3"),
        ({"features": FEATURES}, "places"),
        ({"places": PLACES}, "features"),
        ({"features": FEATURES[:, :30], "places": PLACES}, r"features.*\(N, 32\).*30"),
        ({"features": FEATURES, "places": PLACES[:, :9]}, r"places.*\(3, 14\).*\(3, 9\)"),
        ({"features": FEATURES, "places": PLACES.long()}, r"places.*bool.*int64"),
        ({"features": FEATURES[1:], "places": PLACES}, r"places: 7 .* 6 features"),
    ],
)
def test_what_does_not_fit_is_named(build, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logits_of(build(), Inputs(**{"tokens": TOKENS, **fields}))


def test_tables_have_one_axis() -> None:
    cos, sin = rope_tables(POSITIONS + 1, 8, 10_000.0)
    assert cos.shape == sin.shape == (3, 1, 14, 8) and cos.dtype == torch.float32


def test_documents_may_have_any_numbers() -> None:
    documents = torch.tensor([[3, 3, 1, 1, 2], [-1, -1, -1, 5, 0]])
    assert document_starts(documents).tolist() == [[0, 0, 2, 2, 4], [0, 0, 0, 3, 4]]
