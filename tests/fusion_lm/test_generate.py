import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from earlyfusion.fusion_lm.generate import Generated, generate
from earlyfusion.fusion_lm.grammar import Grammar
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.tokenizers.documents import interleave, split
from earlyfusion.tokenizers.layout import Cursor, Layout, Numbers
from earlyfusion.tokenizers.modality import Modality, Range
from earlyfusion.tokenizers.vocab import SharedVocab

GREEDY = Sampling(temperature=0)
# bos 0, eos 1, pad 2, begin_image 3, end_image 4, then "1" to "4" at 5..8, text at 9..13, codes at 14..16
GRIDS = SharedVocab.build(text=(6, (0,)), codebook_size=3, max_grid=4)
FIXED = SharedVocab.build(text=(6, (0,)), codebook_size=3, fixed_grid=(2, 3), scan="columns")
# Codes first and in two ranges, text in two ranges, unused tokens: a layout that another project may have.
TEXTS = Modality("text", (Range(5, 1, 2), Range(12, 3, 3)))
CODES, LAYOUT = (Range(0, 0, 2), Range(7, 2, 2)), Layout(17, 2, Numbers(21, 3))
MIXED = SharedVocab(24, bos=20, eos=9, pad=11, modalities=(TEXTS, Modality("image", CODES, LAYOUT)))
PAIRS = replace(MIXED, modalities=(TEXTS, Modality("image", CODES, replace(LAYOUT, slots=2))))
TRIPLES = SharedVocab.build(
    text=(6, (0,)), codebook_size=2, fixed_grid=(1, 2), scan="columns", codes_per_position=3
)
VOCABULARIES = {"grids": GRIDS, "fixed": FIXED, "mixed": MIXED, "pairs": PAIRS, "triples": TRIPLES}
every_vocabulary = pytest.mark.parametrize("vocab", VOCABULARIES.values(), ids=VOCABULARIES.keys())


class Scripted(FusionLM):
    """A model whose logits (V,) are a function of the tokens so far."""

    def __init__(self, vocab: SharedVocab, context: int, rule: Callable[[Tensor], Tensor]) -> None:
        config = FusionLMConfig(
            vocab.size, context, n_layers=1, width=2, n_heads=1, n_kv_heads=1, ffn_width=1
        )
        super().__init__(config)
        self.rule = rule
        self.rows: list[Tensor] = []

    def new_cache(self, batch: int, length: int) -> Any:
        assert length <= self.config.context_length
        self.rows, self.filled = [torch.empty(0, dtype=torch.int64)] * batch, [0] * batch
        return self

    def seek(self, lengths: Tensor) -> None:
        self.filled = lengths.tolist()

    def keep(self, rows: Tensor) -> None:
        self.rows = [self.rows[row] for row in rows.tolist()]
        self.filled = [self.filled[row] for row in rows.tolist()]

    def forward(self, inputs: Any, *, at: Tensor | None = None, **kwargs: Any) -> Tensor:
        logits = []
        for i, row in enumerate(inputs.tokens):
            self.rows[i] = torch.cat([self.rows[i][: self.filled[i]], row])
            logits.append(self.rule(self.rows[i] if at is None else self.rows[i][: int(at[i]) + 1]))
        return torch.stack(logits)[:, None]


def wants(*tokens: int, size: int, by: float = 1e6) -> Callable[[Tensor], Tensor]:
    """A rule that prefers ``tokens``, the first of them most."""
    logits = torch.zeros(size)
    for rank, token in enumerate(reversed(tokens), start=1):
        logits[token] = by * rank
    return lambda seen: logits


def at_random(size: int, seed: int, scale: float = 5.0) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda seen: scale * torch.randn(size, generator=generator)


def tokens_of(vocab: SharedVocab, *parts: int | tuple[int, ...], eos: bool = False, cut: int = 0) -> Tensor:
    """A document: N is N text tokens, a pair an image of that grid; the last ``cut`` tokens are removed."""
    ids = torch.tensor([i for r in vocab["text"].ranges for i in range(r.id, r.id + r.count)])
    made: list[tuple[str, Tensor]] = []
    for part in parts:
        if isinstance(part, tuple):
            shape = (*part, n) if (n := vocab["image"].slots) > 1 else part
            made.append(
                ("image", torch.arange(part[0] * part[1] * n).view(shape) % vocab["image"].codebook_size)
            )
        else:
            made.append(("text", ids[torch.arange(part) % len(ids)]))
    tokens = interleave(made, vocab, eos=eos)
    return tokens[: len(tokens) - cut]


def only(results: list[Generated]) -> Generated:
    (result,) = results
    return result


def grids_of(tokens: Tensor, vocab: SharedVocab) -> list[tuple[int, ...]]:
    return [tuple(part.values.shape[:2]) for part in split(tokens, vocab) if part.kind == "image"]


# the grammar, compared with another one: a token is legal if the document can still be finished after it


def finishable(tokens: list[int], vocab: SharedVocab, limit: int) -> bool:
    """Whether a document of at most ``limit`` tokens, with complete images, begins with ``tokens``."""
    stream = torch.tensor(tokens)
    try:
        split(stream, vocab)
        return len(tokens) <= limit
    except ValueError:
        pass
    try:
        split(stream, vocab, partial="drop")
    except ValueError:
        return False
    start = max(i for i, token in enumerate(tokens) if token == vocab.layout("image").begin)
    n, layout = vocab["image"].slots, vocab.layout("image")
    if layout.numbers is None:
        rows, columns = layout.shape or (0, 0)
        return start + 2 + rows * columns * n <= limit
    numbers = [token - layout.numbers.start + 1 for token in tokens[start + 1 : start + 3]] + [1, 1]
    return start + 4 + numbers[0] * numbers[1] * n <= limit


def legal_tokens(tokens: list[int], vocab: SharedVocab, limit: int) -> set[int]:
    def legal(token: int) -> bool:
        if token in (vocab.bos, vocab.pad):
            return False
        if token == vocab.eos:  # `split` takes it in the middle of an image too
            try:
                split(torch.tensor(tokens), vocab)
            except ValueError:
                return False
        return finishable([*tokens, token], vocab, limit)

    return {token for token in range(vocab.size) if legal(token)}


@every_vocabulary
def test_what_may_come_next_is_what_can_be_finished(vocab: SharedVocab) -> None:
    grammar = Grammar(vocab, torch.device("cpu"))
    dice = random.Random(0)
    everything = set()
    for walk in range(6):
        limit = dice.randint(4, 12) if walk % 2 else dice.randint(12, 24)
        cursor = Cursor(vocab)
        cursor.take(vocab.bos)
        tokens, state = [vocab.bos], grammar.state([cursor])
        while len(tokens) < limit:
            allowed = grammar.allowed(state, torch.tensor([limit - len(tokens)]), torch.tensor([True]))
            expected = legal_tokens(tokens, vocab, limit)
            assert set(allowed[0].nonzero()[:, 0].tolist()) == expected
            assert expected
            everything |= expected
            likely = [token for token in expected if token == vocab.layout("image").begin and walk % 2]
            token = dice.choice(likely or sorted(expected))
            if token == vocab.eos:
                break
            tokens.append(token)
            state = grammar.advance(state, torch.tensor([token]))
            cursor.take(token)  # the same, token by token
            assert (cursor.mode, cursor.remaining) == (int(state.mode), int(state.remaining))
        images = len(grids_of(torch.tensor(tokens), vocab))  # nothing is cut short at the limit
        assert len(cursor.spans) == images
    with_roles = vocab.size - int((vocab.modality(torch.arange(vocab.size)) == 0).sum())
    numbers = vocab.layout("image").numbers
    number = numbers.count if numbers else 0
    assert len(everything) >= with_roles + 3 + min(number, 3)


# sampled documents, whatever the model prefers


@dataclass
class Case:
    """One call of ``generate`` with random arguments."""

    vocab: SharedVocab
    context: int
    prompts: list[Tensor]
    options: dict[str, Any]
    rule: Callable[[Tensor], Tensor]


def case(vocab: SharedVocab, seed: int) -> Case:
    dice, layout = random.Random(seed), vocab.layout("image")
    context = dice.randint(14, 40)
    prompts = []
    for _ in range(dice.randint(1, 3)):
        grid = vocab.layout("image").shape or (dice.randint(1, 2), dice.randint(1, 3 // vocab["image"].slots))
        parts = dice.choice([(), (2,), (grid,), (1, grid), (grid, 1), (grid,)])
        cut = dice.choice([0, 1, 2, 3, 5]) if parts[-1:] == (grid,) else 0
        prompts.append(tokens_of(vocab, *parts, cut=min(cut, 2 + grid[0] * grid[1]))[: context - 9])
    options = {
        "max_new_tokens": dice.choice([9, 14, 25, 100]),
        "then": dice.choice(["any", "text", "image"]),
        "max_blocks": dice.choice([None, None, 1, 2]),
        "stop_after": dice.choice([None, None, "image"]),
        "shapes": dice.choice([{}, {"image": layout.shape or (1, 2)}, {"image": layout.shape or (2, 1)}]),
        "seed": seed,
        "sampling": {
            "text": dice.choice([Sampling(), GREEDY, Sampling(0.7, 3, 0.9)]),
            "image": dice.choice([Sampling(), GREEDY, Sampling(2.0, 0, 0.5)]),
        },
    }
    grid_tokens = list(range(layout.numbers.start, sum(layout.numbers))) if layout.numbers else []
    begin, end = layout.begin, layout.end
    code, text = vocab["image"].ranges[0].token, vocab["text"].ranges[0].token
    favourites = [
        (begin, *reversed(grid_tokens)),  # as many and as large images as there can be
        (*reversed(grid_tokens), begin, code),
        (begin, *grid_tokens),
        (vocab.eos,),
        (vocab.pad, vocab.bos, end),
        (end, vocab.eos, begin),
        (code, begin),
        (text, vocab.bos),
    ]
    rule = dice.choice(
        [
            wants(*dice.choice(favourites), size=vocab.size),
            wants(*dice.choice(favourites), size=vocab.size, by=3),
            at_random(vocab.size, seed),
            at_random(vocab.size, seed, scale=1e4),
        ]
    )
    return Case(vocab, context, prompts, options, rule)


@every_vocabulary
def test_every_sampled_document_parses(vocab: SharedVocab) -> None:
    stops = set()
    for seed in range(40):
        made = case(vocab, seed)
        o = made.options
        results = generate(Scripted(vocab, made.context, made.rule), vocab, made.prompts, **o)
        assert len(results) == len(made.prompts)
        for prompt, result in zip(made.prompts, results):
            check(result, prompt, made)
            stops.add(result.stop)
    assert stops == {"eos", "length", "context", "image"}


def check(result: Generated, prompt: Tensor, made: Case) -> None:
    """Check all guarantees for one row."""
    vocab, o = made.vocab, made.options
    tokens, length = result.tokens, result.prompt_length
    new = tokens[length:]
    assert length == len(prompt) and torch.equal(tokens[:length], prompt) and tokens.dtype == torch.int64
    assert 1 <= len(new) <= o["max_new_tokens"] and len(tokens) <= made.context
    grids = grids_of(tokens, vocab)  # raises if this is not a document, or one is cut short
    assert not ((new == vocab.bos) | (new == vocab.pad)).any()
    assert not (new[:-1] == vocab.eos).any()

    layout = vocab.layout("image")
    begun = int((new == layout.begin).sum())
    inside = int((prompt == layout.begin).sum()) - int((prompt == layout.end).sum())
    if o["max_blocks"] is not None:
        assert begun <= o["max_blocks"]
    if o["shapes"] and begun:
        assert set(grids[-begun:]) == {o["shapes"]["image"]}
    if not inside and o["then"] == "image":
        assert new[0] == vocab.layout("image").begin
    if not inside and o["then"] == "text":
        assert bool(vocab.is_text(new[0]))
    finished = int((new == vocab.layout("image").end).sum())
    assert finished == begun + inside
    if o["stop_after"] and finished:
        assert finished == 1 and new[-1] == vocab.layout("image").end and result.stop == "image"
    else:
        reached = len(new) == o["max_new_tokens"], len(tokens) == made.context
        by_limit = "context" if reached[1] else "length"
        assert result.stop == ("eos" if tokens[-1] == vocab.eos else by_limit)
        assert result.stop == "eos" or any(reached)


@pytest.mark.parametrize(("room", "grid"), [(5, (1, 1)), (6, (2, 1)), (7, (3, 1)), (8, (4, 1)), (9, (4, 1)),
                                            (12, (4, 2)), (20, (4, 4)), (30, (4, 4))])  # fmt: skip
@pytest.mark.parametrize("by", ["context", "max_new_tokens"])
def test_the_largest_image_that_fits_is_begun(room: int, grid: tuple[int, int], by: str) -> None:
    """The grammar is not stricter than necessary: an image may end with the last token of the context."""
    prompt = tokens_of(GRIDS, 2)
    rule = wants(3, 8, 7, 6, 5, size=GRIDS.size)
    model = Scripted(GRIDS, len(prompt) + room if by == "context" else 100, rule)
    limit = room if by == "max_new_tokens" else 100
    result = only(generate(model, GRIDS, [prompt], max_new_tokens=limit))
    assert grids_of(result.tokens, GRIDS)[0] == grid
    with pytest.raises(ValueError, match="room for image: 3 prompt tokens leave 4;"):
        generate(model, GRIDS, [prompt], max_new_tokens=4, then="image")
    too_small = generate(model, GRIDS, [prompt], max_new_tokens=4)
    assert grids_of(only(too_small).tokens, GRIDS) == []


@every_vocabulary
def test_prompts_that_end_inside_an_image_are_finished(vocab: SharedVocab) -> None:
    grid = vocab.layout("image").shape or (2, 3)
    whole = tokens_of(vocab, 1, grid)
    image = 2 + grid[0] * grid[1] * vocab["image"].slots + (2 if vocab.layout("image").numbers else 0)
    for cut in range(1, image):
        prompt = whole[:-cut]
        result = only(generate(Scripted(vocab, 60, at_random(vocab.size, cut)), vocab, [prompt],
                               max_new_tokens=image + 16, stop_after="image"))  # fmt: skip
        assert result.stop == "image"
        given = grids_of(result.tokens, vocab)[0]
        known = image - cut - 1  # tokens of the image behind begin_image
        if vocab.layout("image").numbers is None or known >= 2:
            assert given == grid and len(result.tokens) == len(whole)
        elif known == 1:
            assert given[0] == grid[0]
    short = whole[:-4]
    with pytest.raises(ValueError, match="room for image: .* leave 3;"):
        generate(Scripted(vocab, 60, at_random(vocab.size, 0)), vocab, [short], max_new_tokens=3)


def test_a_fixed_grid_of_the_call_leaves_the_images_of_the_prompt_alone() -> None:
    prompt = tokens_of(GRIDS, (3, 2), 1)
    result = only(generate(Scripted(GRIDS, 60, at_random(GRIDS.size, 1)), GRIDS, [prompt], max_new_tokens=12,
                           then="image", shapes={"image": (1, 4)}))  # fmt: skip
    assert grids_of(result.tokens, GRIDS)[:2] == [(3, 2), (1, 4)]


def test_an_even_model_writes_everything() -> None:
    """The grammar allows everything that is legal: every token with a role occurs."""
    model = Scripted(GRIDS, 200, lambda seen: torch.zeros(GRIDS.size))
    results = generate(model, GRIDS, [tokens_of(GRIDS)] * 40, max_new_tokens=60)
    seen = set(torch.cat([r.tokens[r.prompt_length :] for r in results]).tolist())
    assert seen == set(range(GRIDS.size)) - {GRIDS.bos, GRIDS.pad}


# batches, seeds, cache: with a real transformer


@pytest.fixture
def model(build) -> FusionLM:
    return build(vocab_size=GRIDS.size, context_length=48, n_kv_heads=2).double()


PROMPTS = [
    tokens_of(GRIDS),
    tokens_of(GRIDS, 7),
    tokens_of(GRIDS, (2, 2), 1),
    tokens_of(GRIDS, 3, (3, 3), cut=5),
    tokens_of(GRIDS, (2, 2), cut=5),
    tokens_of(GRIDS, 1),
]


@pytest.mark.parametrize(
    "options", [{}, {"then": "image", "stop_after": "image"}, {"max_blocks": 0}], ids=str
)
def test_a_batch_gives_what_its_prompts_give_alone(model: FusionLM, options: dict) -> None:
    together = generate(model, GRIDS, PROMPTS, max_new_tokens=30, sampling=GREEDY, **options)
    for prompt, result in zip(PROMPTS, together):
        alone = only(generate(model, GRIDS, [prompt], max_new_tokens=30, sampling=GREEDY, seed=5, **options))
        assert alone.tokens.tolist() == result.tokens.tolist()
        assert (alone.prompt_length, alone.stop) == (result.prompt_length, result.stop)
    assert len({len(r.tokens) for r in together}) > 1


def test_greedy_is_the_most_likely_legal_token(model: FusionLM) -> None:
    """Token by token, without cache and with the other grammar."""
    for prompt in PROMPTS[:4]:
        tokens = prompt.tolist()
        while len(tokens) < 30 and tokens[-1] != GRIDS.eos:
            with torch.no_grad():
                logits = model(torch.tensor([tokens]))
            assert isinstance(logits, Tensor)
            legal = sorted(legal_tokens(tokens, GRIDS, 30))
            tokens.append(legal[int(logits[0, -1, legal].argmax())])
        result = only(generate(model, GRIDS, [prompt], max_new_tokens=30 - len(prompt), sampling=GREEDY))
        assert result.tokens.tolist() == tokens


def test_a_turn_ends_in_conversations_alone() -> None:
    vocab = SharedVocab.build(text=(6, (0,)), codebook_size=3, max_grid=4, separator=True)
    assert vocab.sep is not None
    model, text = Scripted(vocab, 20, wants(vocab.sep, size=vocab.size)), tokens_of(vocab, 2)
    talk = torch.cat([text, torch.tensor([vocab.sep]), text[1:]])
    for prompt, ends in ((text, False), (talk, True)):
        result = only(generate(model, vocab, [prompt], max_new_tokens=4, sampling=GREEDY))
        assert (vocab.sep in result.tokens[len(prompt) :]) == ends


def test_seeds_reproduce(model: FusionLM) -> None:
    def sampled(seed: int) -> list[list[int]]:
        torch.rand(seed + 1)  # the global generator has no part in it
        return [r.tokens.tolist() for r in generate(model, GRIDS, PROMPTS, max_new_tokens=20, seed=seed)]

    first = sampled(3)
    assert sampled(3) == first
    assert sampled(4) != first
    rows = [r.tokens.tolist() for r in generate(model, GRIDS, PROMPTS[:1] * 4, max_new_tokens=20)]
    assert len({tuple(row) for row in rows}) > 1  # the rows of a batch differ


def test_temperature_0_needs_no_seed(model: FusionLM) -> None:
    rows = [
        only(generate(model, GRIDS, PROMPTS[:1], max_new_tokens=20, sampling=GREEDY, seed=seed)).tokens
        for seed in range(3)
    ]
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])


def test_each_modality_has_its_own_sampling() -> None:
    size = GRIDS.size
    model = Scripted(GRIDS, 60, lambda seen: torch.linspace(0, 1, size))

    def sampled(seed: int, **options) -> list[int]:
        return only(
            generate(model, GRIDS, [tokens_of(GRIDS)], max_new_tokens=20, seed=seed, **options)
        ).tokens.tolist()

    one_image: dict[str, Any] = {
        "then": "image",
        "stop_after": "image",
        "sampling": {"image": GREEDY},
    }
    best = [3, 8, 8] + [16] * 16 + [4]  # 4 x 4 codes of the last kind
    assert all(sampled(seed, **one_image)[1:] == best for seed in range(4))
    one_image["sampling"] = Sampling()
    assert len({tuple(sampled(seed, **one_image)) for seed in range(4)}) == 4
    texts: dict[str, Any] = {"then": "text", "max_blocks": 0, "sampling": {"text": GREEDY}}
    assert all(sampled(seed, **texts)[1:] == [13] * 20 for seed in range(4))


def test_the_model_is_left_as_it_was(model: FusionLM) -> None:
    for training in (True, False):
        model.train(training)
        result = only(generate(model, GRIDS, PROMPTS[:1], max_new_tokens=3))
        assert model.training is training and all(m.training is training for m in model.modules())
        assert all(p.grad is None for p in model.parameters())
    assert generate(model, GRIDS, [], max_new_tokens=3) == []
    assert result.tokens.device.type == "cpu"


def test_progress_is_reported(model: FusionLM) -> None:
    steps: list[tuple[int, int]] = []
    generate(model, GRIDS, PROMPTS[:2], max_new_tokens=12, max_blocks=0, then="text",
             progress=lambda *step: steps.append(step))  # fmt: skip
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
    assert len({total for _, total in steps}) == 1 and steps[-1][0] <= steps[-1][1]


# mistakes


@pytest.mark.parametrize(
    ("vocab", "prompt", "options", "message"),
    [
        (GRIDS, [], {}, "prompt .* empty"),
        (GRIDS, [0, 9], {"seed": 2**64}, "seed .* 18446744073709551616"),
        (GRIDS, [0, 9], {"max_new_tokens": 0}, "max_new_tokens .* 0"),
        (GRIDS, [0, 9], {"stop_after": "text"}, "stop_after .*text"),
        (GRIDS, [0, 9], {"sampling": {"tones": GREEDY}}, "'tones'.* text, image"),
        (GRIDS, [0] + [9] * 19, {}, "prompt .* 20 tokens.* context .* 20"),
        (GRIDS, [0, 9, 1], {}, "prompt .* end .*eos=False"),
        (GRIDS, [0] + [9] * 16, {"then": "image"}, "image: 17 prompt tokens leave 3;"),
        (GRIDS, [0], {"then": "image", "shapes": {"image": (4, 4)}}, "image: 1 prompt tokens leave 19;"),
        (FIXED, [0] + [9] * 12, {"then": "image"}, "image: 13 prompt tokens leave 7;"),
        (GRIDS, [0], {"then": "image", "max_blocks": 0}, "max_blocks is 0.*image"),
        (GRIDS, [0], {"shapes": {"image": (5, 1)}}, "shapes of image: .*5 x 1.* 4 x 4"),
        (GRIDS, [0], {"shapes": {"image": (1, 0)}}, "shapes of image: .*1 x 0.* 4 x 4"),
        (FIXED, [0], {"shapes": {"image": (3, 2)}}, "shapes of image: .*3 x 2.* 2 x 3"),
        (GRIDS, [0, 17], {}, r"token 17 is outside 0\.\.16"),
        (GRIDS, [0, -1], {}, r"token -1 is outside 0\.\.16"),
        (GRIDS, [0, 9, 0], {}, "token 0 is not allowed at position 2"),
        (GRIDS, [0, 9, 2], {}, "token 2 is not allowed at position 2"),
        (GRIDS, [9, 14], {}, "token 9 is not allowed at position 0"),
        (GRIDS, [4], {}, "token 4 is not allowed at position 0"),
        (GRIDS, [0, 3, 9], {}, "token 9 is not allowed at position 2"),
        (GRIDS, [0, 3, 5, 5, 9], {}, "token 9 is not allowed at position 4"),
        (GRIDS, [0, 3, 5, 5, 14, 14], {}, "token 14 is not allowed at position 5"),
        (GRIDS, [0, 3, 5, 6, 14, 4], {}, "token 4 is not allowed at position 5"),
        (GRIDS, [0, 1, 9], {}, "token 9 is not allowed at position 2"),
        (FIXED, [0, 3, 3], {}, "token 3 is not allowed at position 2"),
    ],
)
def test_what_cannot_be_continued(vocab: SharedVocab, prompt: list[int], options: dict, message: str) -> None:
    model = Scripted(vocab, 20, lambda seen: torch.zeros(vocab.size))
    good = torch.tensor([0])
    prompts = [torch.tensor(prompt, dtype=torch.int64)]
    for batch in (prompts, [good, *prompts, good]):
        with pytest.raises(ValueError, match=message) as caught:
            generate(model, vocab, batch, **{"max_new_tokens": 100, **options})
        assert "\n" not in str(caught.value)
    assert not model.rows  # before any work is done


def test_another_vocabulary_is_refused(model: FusionLM) -> None:
    with pytest.raises(ValueError, match="the vocabulary has 24 tokens, the model 17"):
        generate(model, MIXED, [torch.tensor([20])], max_new_tokens=3)
