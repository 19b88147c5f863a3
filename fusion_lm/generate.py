"""Generation: the transformer continues documents under their grammar, a token a row and step.

Read top to bottom: what can be asked, the loop (``decode``), and ``generate``, which runs it to its end. Each
row of a batch is at its own place of its own document: one may be in text while its neighbour is inside an
image and a third has ended.

Images can be guided (classifier-free guidance, arXiv:2207.12598): the batch then holds every row twice, or
three times, and the copies see less of what came before. They share the step of their row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..tokenizers.vocab import SharedVocab
from .choices import BEST_BY, BestBy
from .grammar import CODES, COLUMNS, DONE, END, ROWS, TEXT, Grammar, GrammarState, Next, advance, start_state
from .model import FusionLM
from .sampling import Sampling, draw, filter_logits, penalise, uniforms
from .scores import both_ways, stands_alone

Stop = Literal["eos", "turn", "length", "context", "image"]
LOOK = 16
"""Steps between two looks at whether all rows have ended, where looking means to wait for the device."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of images: away from what the model draws without their condition.

    With u, i and f the logits after nothing, after the images before this one alone, and after everything:
    u + text * (f - u), or with ``image`` u + image * (i - u) + text * (f - i) (InstructPix2Pix,
    arXiv:2211.09800, equation 3; Chameleon's). It asks for a model that saw images without what belongs to
    them (condition dropout). A row of one branch costs as much as a row without guidance.
    """

    text: float = 1.0
    """Weight of what came before; 1 guides nothing."""
    image: float | None = None
    """Weight of the images that came before; None: they are no condition apart."""

    def __post_init__(self) -> None:
        for name in ("text", "image"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"guidance {name} must be 0 or more, got {value}")

    @property
    def branches(self) -> int:
        """Rows of the batch for each row: 1 to 3."""
        if self.image is not None:
            return 3
        return 2 if self.text != 1 else 1

    def combine(self, logits: Tensor) -> Tensor:
        """Logits (branches * B, V), in the order f, u, i -> (B, V)."""
        if self.branches == 2:
            full, without = logits.chunk(2)
            return without + self.text * (full - without)
        full, without, images = logits.chunk(3)
        assert self.image is not None
        return without + self.image * (images - without) + self.text * (full - images)


class Generated(NamedTuple):
    """One row's result."""

    tokens: Tensor
    """Prompt and continuation (T,) int64."""
    prompt_length: int
    """Tokens of the prompt."""
    stop: Stop
    """Why it ended: end of the document, or of the model's turn in a conversation, max_new_tokens, the
    context, or the image that was asked for."""
    log_likelihood: float
    """Of the continuation under the model, without sampling and guidance: mean of log p of its tokens, among
    those that the grammar allows, nats."""


class Step(NamedTuple):
    """What one step wrote."""

    tokens: Tensor
    """(B,) int64; padding where a row had ended."""
    log_p: Tensor
    """(B,) log p of them, as in ``Generated.log_likelihood``."""


@torch.inference_mode()
def decode(
    model: FusionLM,
    vocab: SharedVocab,
    prompts: Sequence[Tensor],
    *,
    max_new_tokens: int,
    text: Sampling = Sampling(),
    image: Sampling = Sampling(),
    then: Next = "any",
    max_images: int | None = None,
    stop_after_image: bool = False,
    grid: tuple[int, int] | None = None,
    seed: int | Sequence[int] = 0,
    guidance: Guidance = Guidance(),
    negative: Tensor | None = None,
    given: Sequence[Tensor] | None = None,
) -> Iterator[Step]:
    """Continue each of ``prompts``, in one batch: a :class:`Step` for each new token, until all rows ended.

    Prompts may differ in length and in modality. What a row becomes depends on its prompt and its seed, not
    on its neighbours, but for the rounding of products of other shapes. Nothing here waits for the device,
    but for a look every ``LOOK`` steps at whether there is something left to do.

    :param prompts: token sequences (T,), each at least one token and short enough for the context.
    :param max_new_tokens: tokens a row may add; an image that would not fit is not begun.
    :param text: sampling of text and of what comes next; ``image``: sampling of codes and grids.
    :param then: force the first new token to begin an image, or to be text.
    :param max_images: images a row may begin in its continuation; None does not limit.
    :param stop_after_image: a row ends with the first image it finishes.
    :param grid: rows and columns of every new image; None leaves them to the model.
    :param seed: of each row; one number n stands for n, n + 1, ...
    :param guidance: of images.
    :param negative: tokens (T,) of a document's beginning that images are led away from; None: of nothing.
    :param given: tokens (T,) for each row that it writes whatever it would draw, and -1 where it is to draw;
        they must be legal where they stand.
    :raises ValueError: a prompt is empty, longer than the context, or no beginning of a document, or what is
        asked cannot follow it: there is no room, or ``max_images`` is 0 where an image is forced.
    """
    seeds = _check(model, vocab, prompts, max_new_tokens, then, max_images, seed)
    prompts = [prompt.cpu() for prompt in prompts]
    device, context, B = model.embedding.weight.device, model.config.context_length, len(prompts)
    grammar = Grammar(vocab, device, grid)
    length = torch.tensor([len(p) for p in prompts])
    limit = (length + max_new_tokens).clamp(max=context)  # the length a row may reach
    if negative is None:
        negative = torch.tensor([vocab.bos])
    rows = [*prompts]
    if guidance.branches > 1:
        if len(negative) < 1 or int(negative[0]) != vocab.bos or bool((negative == vocab.begin_image).any()):
            raise ValueError("negative must be the beginning of a document, without an image")
        rows += [torch.cat([negative.cpu(), _unfinished_image(p, vocab)]) for p in prompts]
    if guidance.branches > 2:
        rows += [_without_text(p, vocab) for p in prompts]
    room = limit - length
    if len(rows) > B:
        room = torch.minimum(room, context - torch.tensor([len(row) for row in rows[B : 2 * B]]))
    state = _read_prompts(prompts, length, room, Grammar(vocab, torch.device("cpu"), grid), then)
    state = GrammarState(*(field.to(device) for field in vars(state).values()))
    steps = int((limit - length).max())
    numbers = uniforms(seeds, steps).to(device)
    dictated = None if given is None else _dictated(given, B, steps).to(device)
    length, limit, home = length.to(device), limit.to(device), len(negative)
    begun = torch.zeros_like(length)  # images begun in the continuation
    seen = _seen(prompts, vocab, device) if text.repetition_penalty != 1 else None
    is_text = vocab.mask("text").to(device)
    greedy = text.temperature == image.temperature == 0
    was_training = model.training
    model.eval()
    try:
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=vocab.pad).to(device)
        position = torch.tensor([len(row) for row in rows], device=device)  # (n * B,) of the next token
        longest = max(int(limit.max()), max(len(row) for row in rows) + (steps if len(rows) > B else 0))
        cache = model.new_cache(len(rows), min(context, longest))
        logits = _logits(model(tokens, cache=cache, at=position - 1))
        for step in range(steps):
            mode, room = state.mode, limit - length
            if len(rows) > B:  # an image must fit behind what leads away from it, too
                room = torch.minimum(room, context - position[B : 2 * B])
            may_begin = begun < max_images if max_images is not None else torch.ones_like(mode == DONE)
            allowed = grammar.allowed(state, room, may_begin)
            if step == 0 and then != "any":
                allowed &= grammar.first_token(then) | (mode != TEXT)[:, None]
            masked = logits[:B].masked_fill(~allowed, -torch.inf)
            in_image = ((mode == CODES) | (mode == ROWS) | (mode == COLUMNS))[:, None]
            for_image = masked
            if len(rows) > B:
                for_image = guidance.combine(logits).masked_fill(~allowed, -torch.inf)
            for_text = masked if seen is None else penalise(masked, seen, text.repetition_penalty)
            if greedy:
                filtered = for_text if for_image is for_text else torch.where(in_image, for_image, for_text)
            elif for_image is for_text and image == text:
                filtered = filter_logits(masked, text)
            else:
                filtered = torch.where(
                    in_image, filter_logits(for_image, image), filter_logits(for_text, text)
                )
            chosen = filtered.argmax(dim=-1) if greedy else draw(filtered, numbers[:, step])
            if dictated is not None:
                there = (dictated[:, step] >= 0) & (mode != DONE)
                chosen = torch.where(there, dictated[:, step], chosen)
            log_p = masked.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]

            state = advance(state, chosen, vocab)
            going = mode != DONE
            length = length + going
            begun = begun + (going & (chosen == vocab.begin_image))
            if seen is not None:
                seen.scatter_(
                    1, chosen[:, None], (is_text[chosen] & going)[:, None] | seen.gather(1, chosen[:, None])
                )
            ended = going & (length >= limit)
            if vocab.sep is not None:
                ended |= (mode == TEXT) & (chosen == vocab.sep)
            if stop_after_image:
                ended |= mode == END
            state.mode = torch.where(ended, DONE, state.mode)
            yield Step(chosen, log_p)
            if step + 1 == steps:
                break
            if (device.type == "cpu" or step % LOOK == LOOK - 1) and bool((state.mode == DONE).all()):
                break
            cache.go_on(position)
            logits = _logits(model(chosen.repeat(len(rows) // B)[:, None], cache=cache))
            of_image = (in_image[:, 0] | (chosen == vocab.begin_image) | (mode == END)) & going
            # Branches that see less stay where they are while their row writes text: what they were given is
            # written over. The second goes back to its beginning with every image.
            moves = [going] + [of_image] * (len(rows) // B - 1)
            position = position + torch.cat(moves)
            if len(rows) > B:
                without = position[B : 2 * B]
                without[mode == END] = home
    finally:
        model.train(was_training)


def generate(
    model: FusionLM,
    vocab: SharedVocab,
    prompts: Sequence[Tensor],
    *,
    best_of: int = 1,
    best_by: BestBy = "forward",
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Generated]:
    """Continue each of ``prompts`` to its end, in one batch.

    :param best_of: continue each so many times, and keep the best continuation. Prompt k's have the seeds
        ``seed`` + k * best_of and those that follow.
    :param best_by: what is best: forward, the greatest ``log_likelihood``; both, the greatest
        :func:`scores.both_ways`, for models that saw such documents in both orders.
    :param progress: called with (step, steps).
    :param options: those of :func:`decode`; ``max_new_tokens`` must be given.
    :raises ValueError: as ``decode`` does, and with ``best_by`` both as ``scores.stands_alone`` does.
    """
    if best_of < 1:
        raise ValueError(f"best_of must be at least 1, got {best_of}")
    if best_by not in BEST_BY:
        raise ValueError(f"best_by is {best_by!r}, expected one of {', '.join(BEST_BY)}")
    if best_by == "both":
        if best_of == 1:
            raise ValueError("best_by chooses among several continuations: best_of must be at least 2, got 1")
        for prompt in prompts:
            stands_alone(prompt, vocab)
    prompts = [prompt for prompt in prompts for _ in range(best_of)]
    if not prompts:
        return []
    written: list[Step] = []
    context = model.config.context_length
    steps = max(min(options["max_new_tokens"], context - len(prompt)) for prompt in prompts)
    for step in decode(model, vocab, prompts, **options):
        written.append(step)
        if progress is not None:
            progress(len(written), steps)
    tokens = torch.stack([step.tokens for step in written], dim=1).cpu()  # (B, steps)
    log_p = torch.stack([step.log_p for step in written], dim=1).cpu()
    stop_after_image = options.get("stop_after_image", False)
    results = [
        result_of(prompt.cpu(), row, log, vocab, context, stop_after_image)
        for prompt, row, log in zip(prompts, tokens, log_p, strict=True)
    ]
    groups = (results[start : start + best_of] for start in range(0, len(results), best_of))

    def worth(result: Generated) -> float:
        if best_by == "both":
            return both_ways(model, vocab, result.tokens, result.prompt_length)
        return result.log_likelihood

    return [group[0] if best_of == 1 else max(group, key=worth) for group in groups]


def result_of(
    prompt: Tensor, new: Tensor, log_p: Tensor, vocab: SharedVocab, context: int, stop_after_image: bool
) -> Generated:
    """What a row became: ``new`` and its ``log_p`` (steps,), padding behind its end."""
    count = int((new != vocab.pad).sum())
    tokens = torch.cat([prompt, new[:count]])
    stop = stop_of(int(tokens[-1]), len(tokens), vocab, context, stop_after_image)
    return Generated(tokens, len(prompt), stop, float(log_p[:count].mean()))


def stop_of(last: int, length: int, vocab: SharedVocab, context: int, stop_after_image: bool) -> Stop:
    """Why a row of ``length`` tokens ended with the token ``last``."""
    if stop_after_image and last == vocab.end_image:
        return "image"
    if last == vocab.eos:
        return "eos"
    if last == vocab.sep:
        return "turn"
    return "context" if length == context else "length"


def _logits(logits: Any) -> Tensor:
    """(B, 1, V) -> (B, V), at least float32."""
    return logits[:, -1].to(torch.promote_types(logits.dtype, torch.float32))


def _check(
    model: FusionLM,
    vocab: SharedVocab,
    prompts: Sequence[Tensor],
    max_new_tokens: int,
    then: Next,
    max_images: int | None,
    seed: int | Sequence[int],
) -> list[int]:
    """The seeds of the rows.

    :raises ValueError: an argument makes no sense.
    """
    context = model.config.context_length
    if vocab.size != model.config.vocab_size:
        raise ValueError(f"the vocabulary has {vocab.size} tokens, the model {model.config.vocab_size}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    seeds = [seed + row for row in range(len(prompts))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(prompts):
        raise ValueError(f"there are {len(seeds)} seeds for {len(prompts)} prompts")
    for one in seeds:
        if not -(2**63) <= one < 2**64:
            raise ValueError(f"seed must be a number of 64 bits, got {one}")
    shortest, longest = (some(len(p) for p in prompts) for some in (min, max))
    if shortest < 1:
        raise ValueError("a prompt needs at least one token (begin of document): got an empty one")
    if longest >= context:
        raise ValueError(
            f"the prompt has {longest} tokens and the model's context holds {context}: shorten it"
        )
    if then == "image" and max_images is not None and max_images < 1:
        raise ValueError(f"an image is to come next, but max_images is {max_images}: allow at least 1")
    return seeds


def _read_prompts(
    prompts: Sequence[Tensor], lengths: Tensor, room: Tensor, grammar: Grammar, then: Next
) -> GrammarState:
    """The state behind the prompts; all of it on the CPU.

    :raises ValueError: one begins no document, or nothing legal fits behind it.
    """
    vocab = grammar.vocab
    tokens = torch.nn.utils.rnn.pad_sequence([*prompts], batch_first=True, padding_value=vocab.pad)
    vocab.modality(tokens)  # refuses tokens outside 0..V-1
    legal = Grammar(vocab, tokens.device)  # the images of a prompt may have any grid
    state = start_state(len(tokens), tokens.device)
    for t in range(int(lengths.max())):
        here, inside = tokens[:, t], t < lengths
        wrong = inside & ~legal.masks[legal.mask_of(state), here]
        if t == 0:
            wrong &= here != vocab.bos
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"a prompt is no beginning of a document: token {int(here[row])} cannot stand at position {t}"
            )
        after = advance(state, here, vocab)
        fields = {f: torch.where(inside, getattr(after, f), getattr(state, f)) for f in vars(state)}
        state = GrammarState(**fields)
    if bool((state.mode == DONE).any()):
        raise ValueError("a prompt ends with the end of its document: encode it with eos=False")
    allowed = grammar.allowed(state, room, torch.ones_like(room, dtype=torch.bool))
    if then != "any":
        allowed &= grammar.first_token(then) | (state.mode != TEXT)[:, None]
    fits = allowed.any(dim=1) & ~((state.mode == CODES) & (state.remaining + 1 > room))
    if not bool(fits.all()):
        row = int((~fits).nonzero()[0])
        what = "an image" if then == "image" or int(state.mode[row]) != TEXT else "text"
        raise ValueError(
            f"{int(room[row])} new tokens after a prompt of {int(lengths[row])} are no room for {what}: "
            "shorten the prompt or allow more new tokens"
        )
    return state


def _dictated(given: Sequence[Tensor], rows: int, steps: int) -> Tensor:
    """What is given of each step, (B, steps), -1 where nothing is.

    :raises ValueError: there is not one for each row.
    """
    if len(given) != rows:
        raise ValueError(f"tokens are given for {len(given)} rows, and there are {rows}")
    dictated = torch.full((rows, steps), -1, dtype=torch.int64)
    for row, tokens in enumerate(given):
        dictated[row, : len(tokens)] = tokens[:steps]
    return dictated


def _inside(tokens: Tensor, vocab: SharedVocab) -> Tensor:
    """Which tokens (T,) of a document belong to an image, bool."""
    end = tokens == vocab.end_image
    return ((tokens == vocab.begin_image).cumsum(0) - end.cumsum(0) > 0) | end


def _unfinished_image(tokens: Tensor, vocab: SharedVocab) -> Tensor:
    """The end of a prompt that stops inside an image, from its begin_image on; empty for others."""
    inside = _inside(tokens, vocab)
    if not bool(inside[-1]) or int(tokens[-1]) == vocab.end_image:
        return tokens[:0]
    return tokens[int((tokens == vocab.begin_image).nonzero()[-1]) :]


def _without_text(tokens: Tensor, vocab: SharedVocab) -> Tensor:
    """A prompt's beginning and its images."""
    keep = _inside(tokens, vocab)
    keep[0] = True
    return tokens[keep]


def _seen(prompts: Sequence[Tensor], vocab: SharedVocab, device: torch.device) -> Tensor:
    """The text that each prompt holds, (B, V) bool."""
    seen = torch.zeros(len(prompts), vocab.size, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, prompt] = True
    return (seen & vocab.mask("text")).to(device)
