import pytest
import torch

from earlyfusion.fusion_lm.sampling import Sampling, draw, filter_logits, likeliest

GREEDY = Sampling(temperature=0)
NAN, INF = float("nan"), float("inf")


def brute_force(logits: list[float], sampling: Sampling) -> dict[int, float]:
    """Probability of each token that is kept."""
    scaled = {i: logit / sampling.temperature for i, logit in enumerate(logits) if logit != -torch.inf}
    ranked = sorted(scaled, key=lambda i: -scaled[i])
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    weights = torch.tensor([scaled[i] for i in ranked], dtype=torch.float64).softmax(0).tolist()
    kept, mass = [], 0.0
    for token, weight in zip(ranked, weights):
        kept.append(token)
        mass += weight
        if mass >= sampling.top_p:
            break
    kept = [token for token, weight in zip(kept, weights) if weight >= sampling.min_p * weights[0]]
    total = sum(weights[: len(kept)])
    return {token: weight / total for token, weight in zip(kept, weights)}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(0.5),
        Sampling(3.0),
        Sampling(top_k=1),
        Sampling(top_k=4),
        Sampling(top_k=100),
        Sampling(top_p=0.01),
        Sampling(top_p=0.5),
        Sampling(top_p=0.93),
        Sampling(0.7, 5, 0.8),
        Sampling(1.5, 3, 0.95),
        Sampling(min_p=0.2),
        Sampling(0.8, 6, 0.9, 0.1),
    ],
    ids=str,
)
def test_filtered_logits_are_those_of_brute_force(sampling: Sampling) -> None:
    logits = 2 * torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    logits[10:, ::3] = -torch.inf  # what the grammar forbids
    probabilities = filter_logits(logits, sampling).softmax(-1)
    for row, given in zip(logits.tolist(), probabilities, strict=True):
        expected = torch.zeros(12)
        for token, probability in brute_force(row, sampling).items():
            expected[token] = probability
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


def test_temperature_0_keeps_the_most_likely_alone() -> None:
    logits = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    for sampling in (GREEDY, Sampling(0, 3, 0.5)):
        kept = filter_logits(logits, sampling) > -torch.inf
        assert torch.equal(kept, torch.nn.functional.one_hot(logits.argmax(-1), 12).bool())


def test_draws_have_the_probabilities_of_the_softmax() -> None:
    logits = torch.tensor([2.0, -torch.inf, 0.5, 0.0, -3.0, -torch.inf])
    generator = torch.Generator().manual_seed(0)
    drawn = draw(logits.expand(20_000, 6), torch.rand(20_000, generator=generator))
    shares = drawn.bincount(minlength=6) / 20_000
    torch.testing.assert_close(shares, logits.softmax(0), atol=0.015, rtol=0)
    assert shares[1] == shares[5] == 0
    for forced in range(3):  # by numbers at both ends
        only = torch.full((2, 3), -torch.inf).index_fill(1, torch.tensor([forced]), -1e30)
        assert draw(only, torch.tensor([0.0, 1 - 2**-24])).tolist() == [forced, forced]


@pytest.mark.parametrize(
    ("name", "values", "range"),
    [
        ("temperature", [-0.1, NAN, INF, 1e-41, 1e4, "1", None, True], "0 or 0.001 to 1000"),
        ("top_k", [-1, 2.0, INF, 2**31, 10**100], "0 to 2147483647"),
        ("top_p", [0.0, 1.1, NAN, 1e-41, 1e-300, [1]], "0.000001 to 1"),
        ("min_p", [-0.1, 1.5, NAN], "0 to 1"),
        ("repetition_penalty", [0.0, 1e-41, INF, NAN, 1e38, -1], "0.01 to 100"),
    ],
)
def test_bad_sampling_is_named(name: str, values: list, range: str) -> None:
    for value in values:
        with pytest.raises(ValueError) as raised:
            Sampling(**{name: value})
        message = str(raised.value)
        assert message.startswith(f"{name} is ") and message.endswith(range) and len(message) < 120
        assert value == 10**100 or repr(value) in message


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), GREEDY, Sampling(0.001), Sampling(1000, 2), Sampling(top_p=1e-6), Sampling(min_p=1.0)],
    ids=str,
)
def test_a_row_without_a_distribution_is_not_drawn(sampling: Sampling) -> None:
    logits = torch.tensor(
        [
            [1.0, 2.0, -torch.inf, 0.0],
            [1.0, torch.nan, 0.0, 0.0],
            [1.0, torch.inf, 0.0, -torch.inf],
            [-torch.inf] * 4,
            [-torch.inf, 3e38, -torch.inf, -3e38],
        ]
    )
    for uniform in (0.0, 1 - 2**-24):
        drawn = draw(filter_logits(logits, sampling), torch.full((5,), uniform)).tolist()
        assert drawn[0] in (0, 1, 3) and drawn[1:4] == [-1] * 3
        # 3e38 / 0.001 overflows
        assert drawn[4] == (-1 if sampling.temperature == 0.001 else 1)
    assert likeliest(logits).tolist() == [1, -1, -1, -1, 1]
