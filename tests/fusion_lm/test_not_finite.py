"""A row whose logits are NaN or infinite ends with its own reason; the other rows do not change."""

import copy
import math
from typing import Any

import pytest
import torch

from earlyfusion.eval.report.samples import stop_in_words
from earlyfusion.eval.tasks.well_formed import evaluate_form, is_document
from earlyfusion.fusion_lm.folder import Model, load_model
from earlyfusion.fusion_lm.generate import NOT_FINITE, generate, generate_steps
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.infill import infill
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.fusion_lm.stream import Finished, SegmentDone, TextDelta, best, sample, stream

from .test_generate import GRIDS, Scripted, tokens_of
from .test_infill import BOX, PICTURE

NAN, INF = float("nan"), float("inf")
GREEDY = Sampling(0)
SAMPLINGS = [
    Sampling(),
    GREEDY,
    {"text": GREEDY},
    {"image": GREEDY},
    Sampling(0.001),
    Sampling(1.0, 5, 0.9, 0.1),
    Sampling(repetition_penalty=1.5),
]


def spoiled(value: float, at: int, where: slice = slice(None)):
    """A rule whose logits become ``value`` once the row has ``at`` tokens, if it began with text token 10."""

    def rule(seen: torch.Tensor) -> torch.Tensor:
        logits = torch.randn(GRIDS.size, generator=torch.Generator().manual_seed(int(seen.sum())))
        if len(seen) >= at and int(seen[1]) == 10:
            logits[where] = value
        return logits

    return rule


PROMPTS = [torch.tensor([0, 10, 9]), torch.tensor([0, 9, 10, 11]), torch.tensor([0, 11])]


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(2.0), Guidance(2.0, 1.5)], ids=str)
def test_the_row_ends_and_the_others_do_not_change(value: float, sampling, guidance: Guidance) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "sampling": sampling, "seed": 1}
    model = Scripted(GRIDS, 40, spoiled(value, 6))
    together = generate(model, GRIDS, PROMPTS, guidance=guidance, **options)
    broken = together[0]
    assert broken.stop == "not finite" and broken.log_likelihood == -INF
    assert len(broken.tokens) <= 6 and is_document(broken.tokens, GRIDS)
    for row, one in enumerate(together[1:], start=1):
        assert one.stop != "not finite" and math.isfinite(one.log_likelihood)
        if guidance.branches == 1:
            alone = generate(model, GRIDS, [PROMPTS[row]], **(options | {"seed": 1 + row}))[0]  # type: ignore[arg-type]
            assert torch.equal(alone.tokens, one.tokens) and alone.stop == one.stop


def test_what_the_grammar_forbids_may_be_infinite() -> None:
    """Only tokens that may come next count; a forbidden one, or a likely -inf, stops nothing."""
    for value in (NAN, INF, -INF):
        rule = spoiled(value, 0, slice(0, 1))  # bos, which never comes again
        results = generate(Scripted(GRIDS, 40, rule), GRIDS, PROMPTS, max_new_tokens=12)
        assert all(result.stop != "not finite" and math.isfinite(result.log_likelihood) for result in results)
    rule = spoiled(-INF, 0, slice(9, 12))  # some texts
    results = generate(Scripted(GRIDS, 40, rule), GRIDS, PROMPTS, max_new_tokens=12)
    assert results[0].stop != "not finite"
    assert not set(results[0].tokens[3:].tolist()) & {9, 10, 11}


@pytest.mark.parametrize("number", range(12))
def test_a_damaged_weight(build, number: int) -> None:
    model: FusionLM = build(vocab_size=GRIDS.size)
    parameters = list(model.parameters())
    with torch.no_grad():
        parameters[number % len(parameters)][10 if number == 0 else 0] = NAN
    [result, *_] = generate(model, GRIDS, PROMPTS, max_new_tokens=20)
    # Attention over the prompt may hide a NaN of queries and keys for a step.
    assert result.stop == "not finite" and is_document(result.tokens, GRIDS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_overflow(build, dtype: torch.dtype) -> None:
    model: FusionLM = build(vocab_size=GRIDS.size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3e3 if dtype == torch.float16 else 1e18)
    results = generate(model.to(dtype), GRIDS, PROMPTS, max_new_tokens=20)
    assert {result.stop for result in results} == {"not finite"}
    assert all(is_document(result.tokens, GRIDS) for result in results)


def test_positions_that_are_not_numbers(build) -> None:
    model: FusionLM = build(vocab_size=GRIDS.size)
    object.__setattr__(model.config, "rope_theta", 0.0)
    model = FusionLM(model.config).eval()
    for result in generate(model, GRIDS, PROMPTS, max_new_tokens=20):
        assert is_document(result.tokens, GRIDS)


def test_best_of_takes_a_sound_candidate() -> None:
    calls = {"left": 2}

    def rule(seen: torch.Tensor) -> torch.Tensor:
        calls["left"] -= 1
        logits = torch.zeros(GRIDS.size)
        return logits * NAN if calls["left"] >= 0 else logits  # the first two of three candidates

    [result] = generate(Scripted(GRIDS, 40, rule), GRIDS, PROMPTS[:1], max_new_tokens=4, best_of=3)
    assert result.stop != "not finite" and math.isfinite(result.log_likelihood)
    dead = Scripted(GRIDS, 40, lambda seen: torch.full((GRIDS.size,), NAN))
    for by in ("forward", "both"):
        [result] = generate(dead, GRIDS, [tokens_of(GRIDS, 2)], max_new_tokens=4, best_of=3, best_by=by)
        assert result.stop == "not finite"


def test_given_tokens_end_too() -> None:
    model = Scripted(GRIDS, 40, lambda seen: torch.full((GRIDS.size,), NAN))
    [step] = generate_steps(model, GRIDS, PROMPTS[:1], max_new_tokens=3, given=[torch.tensor([9, 9, 9])])
    assert step.stop.tolist() == [NOT_FINITE] and step.tokens.tolist() == [GRIDS.pad]


@pytest.fixture
def broken(model_folder) -> Model:
    """A model that breaks on the letter b."""
    model = load_model(model_folder)
    lm = copy.deepcopy(model.lm)
    [token] = model.tokenizer.encode(["b"], bos=False, eos=False).tokens[-1:].tolist()
    with torch.no_grad():
        lm.embedding.weight[token] = NAN
    return model._replace(lm=lm)


def test_streams_samples_and_drawings(broken: Model) -> None:
    prompts = [["a"], ["ab"]]
    options = {"max_new_tokens": 30, "seed": 5, "sampling": Sampling(0.8)}
    events = list(stream(broken, prompts, **options))
    ends = {event.row: event for event in events if isinstance(event, Finished)}
    assert ends[1].stop == "not finite" and ends[1].tokens == ()
    assert not any(event.row == 1 and isinstance(event, TextDelta | SegmentDone) for event in events)
    assert sample(broken, prompts, **options)[1] == []
    assert best(broken, [["ab"]], 2, **options) == [([], "not finite")]
    assert "not finite" in stop_in_words("not finite")
    with pytest.raises(ValueError, match="logits are not finite"):
        infill(broken, ["ab", PICTURE], BOX, candidates=2)


def test_the_scores_of_form_stay_true(build) -> None:
    model: FusionLM = build(vocab_size=GRIDS.size)
    with torch.no_grad():
        model.embedding.weight[11] = NAN
    found = evaluate_form(model, GRIDS, sequences=20, without=20, batch_size=10)
    assert found["grammar"]["well_formed"] == 1.0
