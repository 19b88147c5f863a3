"""Generation under the grammar of documents: pure functions over logits, and one loop.

A document is text until ``begin_image``, then (where sizes vary) its rows and columns, then exactly h * w * n
codes, slot after slot at each position, then ``end_image``, and on. Every row of a batch carries its own
state, so one row may be in text while its neighbour is inside an image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..tokenizers.vocab import SharedVocab
from .model import FusionLM

TEXT, ROWS, COLUMNS, END, DONE, CODES = range(6)
"""Where a row stands: what its next token may be. CODES is last: its masks go on, one for each slot."""

Next = Literal["text", "image", "any"]
Stop = Literal["eos", "length", "context", "image"]


@dataclass(frozen=True)
class Sampling:
    """How one modality's tokens are drawn."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches p (Holtzman et al., arXiv:1904.09751)."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")


class Generated(NamedTuple):
    """One row's result."""

    tokens: Tensor
    """Prompt and continuation (T,) int64."""
    prompt_length: int
    """Tokens of the prompt."""
    stop: Stop
    """Why it ended: end of document, max_new_tokens, the context, or the image that was asked for."""


@dataclass
class GrammarState:
    """Per-row state of the grammar, each field (B,) int64."""

    mode: Tensor
    rows: Tensor
    """Rows of the image that is being written."""
    remaining: Tensor
    """Codes that are still to come in it, of all slots."""
    images: Tensor
    """Images finished so far."""


def start_state(batch: int, device: torch.device) -> GrammarState:
    """Every row in text, before its first token."""
    zero = torch.zeros(batch, dtype=torch.int64, device=device)
    return GrammarState(mode=zero + TEXT, rows=zero, remaining=zero, images=zero)


def advance(state: GrammarState, tokens: Tensor, vocab: SharedVocab) -> GrammarState:
    """The state after ``tokens`` (B,); rows that are done stay done."""
    mode, rows, remaining, slots = state.mode, state.rows, state.remaining, vocab.codes_per_position
    new_mode, new_rows, new_remaining = mode.clone(), rows.clone(), remaining.clone()
    begins = (mode == TEXT) & (tokens == vocab.begin_image)
    if vocab.grid is not None:
        number = tokens - vocab.grid.start + 1
        new_mode[begins] = ROWS
        new_mode[mode == ROWS] = COLUMNS
        new_rows = torch.where(mode == ROWS, number, rows)
        sized = mode == COLUMNS
        new_remaining = torch.where(sized, rows * number * slots, remaining)
    else:
        assert vocab.fixed_grid is not None
        sized = begins
        new_remaining[sized] = vocab.fixed_grid[0] * vocab.fixed_grid[1] * slots
    new_mode[sized] = CODES
    new_remaining = torch.where(mode == CODES, remaining - 1, new_remaining)
    new_mode[(mode == CODES) & (new_remaining == 0)] = END
    ends = mode == END
    new_mode[ends] = TEXT
    new_mode[(mode == TEXT) & (tokens == vocab.eos)] = DONE
    return GrammarState(new_mode, new_rows, new_remaining, state.images + ends)


class Grammar:
    """Masks of what may come next, made once for a vocabulary."""

    def __init__(self, vocab: SharedVocab, device: torch.device, grid: tuple[int, int] | None = None):
        """``grid`` fixes the rows and columns of every image; otherwise the model chooses.

        :raises ValueError: ``grid`` has no grid tokens, or differs from the vocabulary's fixed grid.
        """
        self.vocab = vocab
        self.slots = vocab.codes_per_position
        masks = torch.zeros(CODES + self.slots, vocab.size, dtype=torch.bool, device=device)
        masks[TEXT] = vocab.mask("text").to(device)
        masks[TEXT, [vocab.eos, vocab.begin_image]] = True
        for slot in range(self.slots):
            masks[CODES + slot] = vocab.mask("image", slot).to(device)
        masks[END, vocab.end_image] = True
        masks[DONE, vocab.pad] = True
        if vocab.grid is None:
            if grid not in (None, vocab.fixed_grid):
                raise ValueError(f"this vocabulary's images have the grid {vocab.fixed_grid}, got {grid}")
        elif grid is None:
            masks[ROWS] = masks[COLUMNS] = vocab.mask("grid").to(device)
        else:
            if not all(1 <= n <= vocab.grid.count for n in grid):
                raise ValueError(f"grid must lie in 1..{vocab.grid.count} rows and columns, got {grid}")
            masks[ROWS, vocab.grid.start + grid[0] - 1] = True
            masks[COLUMNS, vocab.grid.start + grid[1] - 1] = True
        self.masks = masks
        self.number = torch.zeros(vocab.size, dtype=torch.int64, device=device)  # what a grid token says
        if vocab.grid is not None:
            start, count = vocab.grid
            self.number[start : start + count] = torch.arange(1, count + 1, device=device)
        least = grid or vocab.fixed_grid or (1, 1)
        self.least_image = (2 if vocab.grid is None else 4) + least[0] * least[1] * self.slots
        self.least_columns = least[1]

    def mask_of(self, state: GrammarState) -> Tensor:
        """Which of ``masks`` holds in each row, (B,) int64: that of its mode, inside an image of its slot."""
        if self.slots == 1:
            return state.mode
        # `remaining` falls from a multiple of n to 1, so the slot needs no state of its own.
        return torch.where(state.mode == CODES, CODES + -state.remaining % self.slots, state.mode)

    def first_token(self, then: Next) -> Tensor:
        """What may begin the forced next modality, (V,) bool."""
        mask = torch.zeros_like(self.masks[TEXT])
        if then == "image":
            mask[self.vocab.begin_image] = True
        else:
            mask |= self.masks[TEXT]
            mask[[self.vocab.eos, self.vocab.begin_image]] = False
        return mask

    def allowed(self, state: GrammarState, room: Tensor, may_begin: Tensor) -> Tensor:
        """What may come next, (B, V) bool: the grammar, and no image that would not fit into ``room``.

        :param room: (B,) tokens that may still be written.
        :param may_begin: (B,) whether a new image may begin.
        """
        allowed = self.masks[self.mask_of(state)]
        allowed[:, self.vocab.begin_image] &= may_begin & (room >= self.least_image)
        # All codes, end_image and this token itself must fit, and for rows the column token too.
        rows_fit = self.number * (self.least_columns * self.slots) + 3 <= room[:, None]
        columns_fit = (state.rows * self.slots)[:, None] * self.number + 2 <= room[:, None]
        allowed &= (state.mode != ROWS)[:, None] | rows_fit
        return allowed & ((state.mode != COLUMNS)[:, None] | columns_fit)


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Temperature, top-k and top-p, in this order, on logits (B, V); what is dropped becomes -inf."""
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(1, best, 0.0)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probability = ordered.softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability  # mass of the more likely tokens
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= sampling.top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token a row from logits (B, V), by the Gumbel-max trick; -inf is never drawn."""
    uniform = torch.rand(logits.shape, generator=generator, device=generator.device).to(logits.device)
    return (logits - (-uniform.clamp(min=1e-20).log()).log()).argmax(dim=-1)


@torch.inference_mode()
def generate(
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
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Continue each of ``prompts``, in one batch.

    Prompts may differ in length and in modality: the batch advances position by position, and a row that is
    still inside its prompt takes the prompt's token instead of a drawn one, so no row is ever padded.

    :param prompts: token sequences (T,), each at least one token and short enough for the context.
    :param max_new_tokens: tokens a row may add; an image that would not fit is not begun.
    :param text: sampling of text; ``image``: sampling of codes and grids.
    :param then: force the first new token to begin an image, or to be text.
    :param max_images: images a row may begin in its continuation; None does not limit.
    :param stop_after_image: a row ends with the first image it finishes.
    :param grid: rows and columns of every new image; None leaves them to the model.
    :param seed: the same seed, prompts and batch give the same result.
    :param progress: called with (step, steps).
    :raises ValueError: a prompt is empty, longer than the context, or no beginning of a document, or what is
        asked cannot follow it: there is no room, or ``max_images`` is 0 where an image is forced.
    """
    device = model.embedding.weight.device
    context = model.config.context_length
    if vocab.size != model.config.vocab_size:
        raise ValueError(f"the vocabulary has {vocab.size} tokens, the model {model.config.vocab_size}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must be a number of 64 bits, got {seed}")
    if not prompts:
        return []
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    if int(lengths.min()) < 1:
        raise ValueError("a prompt needs at least one token (begin of document): got an empty one")
    if int(lengths.max()) >= context:
        raise ValueError(
            f"the prompt has {int(lengths.max())} tokens and the model's context holds {context}: shorten it"
        )
    limit = (lengths + max_new_tokens).clamp(max=context)  # (B,) the length a row may reach
    first, total = int(lengths.min()), int(limit.max())
    tokens = torch.full((len(prompts), total), vocab.pad, dtype=torch.int64, device=device)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    grammar = Grammar(vocab, device, grid)
    if then == "image" and max_images is not None and max_images < 1:
        raise ValueError(f"an image is to come next, but max_images is {max_images}: allow at least 1")
    _check_prompts(tokens, lengths, limit, grammar, then)

    state = start_state(len(prompts), device)
    for t in range(first):
        state = advance(state, tokens[:, t], vocab)
    begun = torch.zeros_like(lengths)  # images begun in the continuation
    by_image = torch.zeros_like(lengths, dtype=torch.bool)  # rows that stopped after their image
    generator = torch.Generator("cpu").manual_seed(seed)
    was_training = model.training
    model.eval()
    cache = model.new_cache(len(prompts), total)
    logits = model(tokens[:, :first], cache=cache)[:, -1]  # (B, V)
    for t in range(first, total):
        new = t >= lengths
        state.mode = torch.where(new & (t >= limit), DONE, state.mode)
        may_begin = begun < max_images if max_images is not None else torch.ones_like(new)
        allowed = grammar.allowed(state, limit - t, may_begin)
        if then != "any":
            at_start = (t == lengths) & (state.mode == TEXT)
            allowed &= grammar.first_token(then) | ~at_start[:, None]
        masked = logits.float().masked_fill(~allowed, -torch.inf)
        in_image = ((state.mode == CODES) | (state.mode == ROWS) | (state.mode == COLUMNS))[:, None]
        masked = torch.where(in_image, filter_logits(masked, image), filter_logits(masked, text))
        chosen = torch.where(new, draw(masked, generator), tokens[:, t])
        tokens[:, t] = chosen
        begun += new & (chosen == vocab.begin_image)
        finished = new & (state.mode == END)
        state = advance(state, chosen, vocab)
        if stop_after_image:
            by_image |= finished
            state.mode = torch.where(finished, DONE, state.mode)
        if progress is not None:
            progress(t - first + 1, total - first)
        if t + 1 == total or bool((state.mode == DONE).all()):
            break
        logits = model(tokens[:, t : t + 1], cache=cache)[:, -1]
    model.train(was_training)
    rows = zip(tokens, lengths.tolist(), limit.tolist(), by_image.tolist(), strict=True)
    return [_result(row[:stop], length, vocab, context, image_stop) for row, length, stop, image_stop in rows]


def _check_prompts(tokens: Tensor, lengths: Tensor, limit: Tensor, grammar: Grammar, then: Next) -> None:
    """Refuse prompts that begin no document, or that nothing legal fits behind, before any work is done."""
    vocab = grammar.vocab
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
    room = limit - lengths
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


def _result(tokens: Tensor, length: int, vocab: SharedVocab, context: int, by_image: bool) -> Generated:
    """Cut the padding behind a row's last token and name the reason it stopped."""
    written = (tokens[length:] != vocab.pad).sum()
    tokens = tokens[: length + int(written)]
    if by_image:
        stop: Stop = "image"
    elif tokens[-1] == vocab.eos:
        stop = "eos"
    else:
        stop = "context" if len(tokens) == context else "length"
    return Generated(tokens.cpu(), length, stop)
