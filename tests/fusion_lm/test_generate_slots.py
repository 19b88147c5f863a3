"""Generation with several codes per position: every code in its slot, row by row.

The grammar itself is checked in `test_generate.py`, on vocabularies with one code per position and with more.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from earlyfusion.fusion_lm.generate import generate, generate_steps
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.tokenizers.documents import interleave, split
from earlyfusion.tokenizers.vocab import SharedVocab

GREEDY = Sampling(temperature=0)
K = 5


def vocab_of(n: int, fixed: bool = False) -> SharedVocab:
    grid = {"fixed_grid": (2, 3)} if fixed else {"max_grid": 4}
    return SharedVocab.build(text=(6, (0,)), codebook_size=K, codes_per_position=n, scan="columns", **grid)  # type: ignore[arg-type]


def image(n: int, rows: int, columns: int, seed: int = 0) -> tuple[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return "image", torch.randint(K, (rows, columns, n) if n > 1 else (rows, columns), generator=generator)


def images_of(tokens: Tensor, vocab: SharedVocab) -> list[Tensor]:
    return [part.values for part in split(tokens, vocab) if part.kind == "image"]


def prompts_of(vocab: SharedVocab) -> list[Tensor]:
    """Text, and images cut short after every number of codes, so that the rows are in different slots."""
    n = vocab["image"].slots
    words = "text", torch.tensor([1, 2, 3])
    begun = interleave([words, image(n, 2, 3)], vocab, eos=False)
    return [
        interleave([words], vocab, eos=False),
        *(begun[: len(begun) - cut] for cut in range(1, 6 * n + 2)),
    ]


@pytest.mark.parametrize("fixed", [False, True], ids=["grids", "fixed grid"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_generated_images_can_be_decoded(build, n: int, fixed: bool) -> None:
    vocab = vocab_of(n, fixed)
    model = build(vocab_size=vocab.size, context_length=110)
    prompts = prompts_of(vocab)
    written = 2 if fixed else 4  # besides the codes
    calls: list[dict[str, Any]] = [{"then": "image"}, {"then": "any", "shapes": {"image": (2, 3)}}]
    for options in calls:
        results = generate(model, vocab, prompts, max_new_tokens=40, seed=n, **options)
        seen = 0
        for prompt, result in zip(prompts, results):
            images = images_of(result.tokens, vocab)  # raises if a code is in the wrong slot
            assert images or options["then"] == "any"
            assert all(codes.ndim == (2 if n == 1 else 3) and int(codes.max()) < K for codes in images)
            lengths = written * len(images) + sum(codes.numel() for codes in images)
            assert int((~vocab.is_text(result.tokens)).sum()) - lengths in (1, 2)  # bos, perhaps eos
            seen += int(vocab.is_("image", result.tokens[len(prompt) :]).sum())
        assert seen > 6 * n * (6 * n - 1) // 2  # at least what the prompts left open


@pytest.mark.parametrize("n", [2, 4])
def test_a_batch_gives_what_its_prompts_give_alone(build, n: int) -> None:
    vocab = vocab_of(n)
    model: FusionLM = build(vocab_size=vocab.size, context_length=80).double()
    prompts = prompts_of(vocab)[:: n + 1]  # another slot each
    together = generate(model, vocab, prompts, max_new_tokens=30, sampling=GREEDY)
    for prompt, result in zip(prompts, together):
        [alone] = generate(model, vocab, [prompt], max_new_tokens=30, sampling=GREEDY, seed=9)
        assert alone.tokens.tolist() == result.tokens.tolist() and alone.stop == result.stop


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_room_of_an_image_counts_every_slot(build, n: int) -> None:
    vocab = vocab_of(n)
    model = build(vocab_size=vocab.size, context_length=80)
    prompt = interleave([("text", torch.tensor([1]))], vocab, eos=False)
    exact = 4 + 2 * 3 * n
    options: dict[str, Any] = {"then": "image", "shapes": {"image": (2, 3)}, "stop_after": "image"}
    [made] = generate(model, vocab, [prompt], max_new_tokens=exact, **options)
    assert made.stop == "image" and len(made.tokens) == len(prompt) + exact
    assert images_of(made.tokens, vocab)[0].shape[:2] == (2, 3)
    with pytest.raises(ValueError, match=f"image: 2 prompt tokens leave {exact - 1};"):
        generate(model, vocab, [prompt], max_new_tokens=exact - 1, **options)
    cut = interleave([("text", torch.tensor([1])), image(n, 2, 3)], vocab, eos=False)[: -2 * n - 1]
    with pytest.raises(ValueError, match=f"image: {len(cut)} prompt tokens leave {2 * n};"):
        generate(model, vocab, [cut], max_new_tokens=2 * n)
    assert len(images_of(generate(model, vocab, [cut], max_new_tokens=2 * n + 1)[0].tokens, vocab)) == 1


def test_prompts_with_codes_in_other_slots_are_refused(build) -> None:
    vocab = vocab_of(2)
    model = build(vocab_size=vocab.size, context_length=80)
    good = interleave([image(2, 2, 2)], vocab, eos=False)
    bad = good.clone()
    bad[5] = bad[4]  # slot 0 twice
    with pytest.raises(ValueError, match=f"token {int(bad[5])} is not allowed at position 5"):
        generate(model, vocab, [good, bad], max_new_tokens=20)


@pytest.mark.parametrize(
    "guidance", [Guidance(), Guidance(1.5), Guidance(1.5, image=1.2)], ids=["f", "fu", "fui"]
)
def test_rows_that_have_ended_cost_nothing_and_change_nothing(
    build, guidance: Guidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab = vocab_of(2)
    model: FusionLM = build(vocab_size=vocab.size, context_length=80).double()
    prompts = prompts_of(vocab)
    sampling = {"text": Sampling(0.8, repetition_penalty=1.3), "image": Sampling(1.2, top_k=3)}
    options: dict[str, Any] = {"max_new_tokens": 40, "guidance": guidance, "sampling": sampling}
    options |= {"max_blocks": 1, "with_drawn_log_p": True}
    seeds, sizes = list(range(len(prompts))), []
    forward = FusionLM.forward

    def counted(self: FusionLM, inputs: Any, **more: Any) -> Any:
        sizes.append(len(inputs.tokens))
        return forward(self, inputs, **more)

    monkeypatch.setattr(FusionLM, "forward", counted)
    together = list(generate_steps(model, vocab, prompts, seed=seeds, **options))
    rows = len(prompts) * guidance.branches
    assert len(prompts) >= 12 and sizes[0] == rows and sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 1 and sizes[-1] <= rows // 2
    for row, prompt in enumerate(prompts):
        alone = list(generate_steps(model, vocab, [prompt], seed=[seeds[row]], **options))
        for one, all_rows in zip(alone, together):
            values = (*all_rows[:3], *all_rows[4:])
            assert all(len(value) == len(prompts) for value in values if value is not None)
            for name in ("tokens", "log_p", "stop", "room", "may_begin", "drawn_log_p"):
                torch.testing.assert_close(getattr(all_rows, name)[row], getattr(one, name)[0], msg=name)
            assert all_rows.state.mode[row] == one.state.mode[0]
        for step in together[len(alone) :]:
            assert int(step.tokens[row]) == vocab.pad and not int(step.stop[row])
