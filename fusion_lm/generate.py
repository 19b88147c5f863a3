"""Generation: the transformer continues documents, one token per row and step.

``generate_steps`` is the loop; ``generate`` runs it to the end and keeps the best of several continuations.
Around the loop, ``prompts`` checks options and prompts, ``grammar`` says which tokens are allowed next,
``sampling`` draws one of them, and ``guidance`` adds copies of the rows for classifier-free guidance.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..tokenizers.layout import DONE, FREE
from ..tokenizers.vocab import SharedVocab
from .choices import BEST_BY, BestBy
from .grammar import ANY, Grammar, GrammarState, grammar_of
from .guidance import Branches
from .inputs import Inputs
from .model import FusionLM
from .prompts import Options, check_room, dictated, read_prompts, tokens_of
from .sampling import WHOLE, Sampling, check_number, draw, filter_logits, likeliest, penalize, uniforms
from .scores import both_ways, check_standalone

RUNNING, EOS, TURN, SEGMENT, CONTEXT, LENGTH, NOT_FINITE = range(7)
"""Values of ``Step.stop``: the row continues, or why it ended."""
STOPS = ("", "eos", "turn", "segment", "context", "length", "not finite")
"""Their names. eos: the document ended; turn: the turn of a conversation ended; segment: the block of
``stop_after`` is complete (``stop_name`` replaces the word by the modality); context: the model's context is
full; length: ``max_new_tokens`` are written; not finite: the model's logits are NaN or infinite, so that no
token can be drawn, and the row ends with the token before."""
HALF = 8
"""On a CPU, a batch of at least this many rows is cut down to those that continue whenever half of it has
ended."""
LOOK = 16
"""Check for completion every N steps; each check synchronizes with the GPU."""


class Generated(NamedTuple):
    """One row's result."""

    tokens: Tensor
    """Prompt and continuation (T,) int64."""
    prompt_length: int
    """Tokens of the prompt."""
    stop: str
    """Why it ended: eos, turn, the modality of ``stop_after``, context, length, or not finite (see
    ``STOPS``)."""
    log_likelihood: float
    """Mean log p of the new tokens in nats, under the model's distribution over the tokens that the grammar
    allows, before temperature, filters and guidance; -inf if the row ended as not finite."""


class Step(NamedTuple):
    """The result of one step, a value per row (B,)."""

    tokens: Tensor
    """The new tokens, int64; padding for rows that ended earlier."""
    log_p: Tensor
    """Their log p, as in ``Generated.log_likelihood``."""
    stop: Tensor
    """int64, an index of ``STOPS``: why the row ended with this token; 0 if it continues or ended earlier.
    With ``NOT_FINITE`` the token is padding and does not belong to the row."""
    state: GrammarState
    """Where the rows were in their documents before this token."""
    room: Tensor
    """Tokens that each row could still write, this one included, int64."""
    may_begin: Tensor | None
    """Whether a block could begin, bool; None: always."""
    drawn_log_p: Tensor | None
    """log p of the new tokens under the distribution that they were drawn from, after temperature, filters
    and guidance; None without ``Options.with_drawn_log_p``."""


@torch.inference_mode()
def generate_steps(
    model: FusionLM, vocab: SharedVocab, prompts: Sequence[Any], **options: Any
) -> Iterator[Step]:
    """Continue each of ``prompts``, in one batch: yield a ``Step`` per new token, until all rows have ended.

    Prompts may differ in length and in modality. A row depends on its prompt and its seed, not on the other
    rows, up to rounding, which varies with the size of the batch. On a GPU, only the check every ``LOOK``
    steps waits for the device.

    Args:
        model: The transformer.
        vocab: Its vocabulary.
        prompts: Tokens (T,), or ``Encoded``, each shorter than the context.
        options: Fields of ``prompts.Options``; ``max_new_tokens`` is required.

    Yields:
        The new token of every row.

    Raises:
        ValueError: A prompt is not the beginning of a document, an option is invalid, or what must come next
            does not fit.
    """
    # 1. Check everything before the network runs.
    wanted = Options(**options)
    context, device, B = model.config.context_length, model.embedding.weight.device, len(prompts)
    if vocab.size != model.config.vocab_size:
        raise ValueError(
            f"the vocabulary has {vocab.size} tokens, the model {model.config.vocab_size}: use the "
            "vocabulary that the model was trained with"
        )
    wanted.check(vocab)
    seeds, prompts = wanted.seeds(B), [tokens_of(prompt) for prompt in prompts]
    cursors = read_prompts(vocab, prompts, context)
    grammar = grammar_of(vocab, device, wanted.shapes)
    branches = Branches(wanted.guidance, wanted.negative, prompts, cursors, vocab)
    state = grammar.state(cursors)
    length = torch.tensor([len(prompt) for prompt in prompts], device=device)
    limit = (length + wanted.max_new_tokens).clamp(max=context)  # the longest that each row may become
    steps = int((limit - length).max())
    tokens = branches.to(device)
    begun = torch.zeros_like(length)  # blocks begun in the continuation
    room, may_begin = branches.room(limit - length, context), _may_begin(wanted, begun)
    allowed = grammar.allowed(state, room, may_begin)
    if wanted.then != ANY:  # rows whose prompt ends inside a block finish that block first
        allowed &= grammar.first_token(wanted.then) | (state.mode != FREE)[:, None]
    check_room(grammar, state, room, length, allowed, wanted.then)

    # 2. Read the prompts in one forward pass, then draw one token per row and step.
    picker = _Picker(wanted, grammar, prompts, device)
    uniform = uniforms(seeds, steps).to(device)
    given = None if wanted.given is None else dictated(wanted.given, B, steps).to(device)
    ends = _Ends(wanted, grammar, limit, context)
    place = torch.arange(B, device=device)  # the prompt of each row that is left
    was_training = model.training
    model.eval()
    try:
        longest = max(int(limit.max()), tokens.shape[1] + steps) if branches.guided else int(limit.max())
        cache = model.new_cache(len(tokens), min(context, longest))
        logits = _logits(model(Inputs(tokens), cache=cache, at=branches.position - 1))
        for step in range(steps):
            if step:
                room = branches.room(limit - length, context)
                may_begin = _may_begin(wanted, begun)
                allowed = grammar.allowed(state, room, may_begin)
            masked = logits[: len(place)].masked_fill(~allowed, -torch.inf)
            guided = masked
            if branches.guided:
                guided = wanted.guidance.combine(logits).masked_fill(~allowed, -torch.inf)
            chosen, filtered = picker.pick(masked, guided, state, uniform[:, step])
            broken = chosen < 0
            chosen = torch.where(broken, vocab.pad, chosen)
            if given is not None:
                forced = (given[:, step] >= 0) & (state.mode != DONE) & ~broken
                chosen = torch.where(forced, given[:, step], chosen)
            log_p = masked.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]
            log_p = log_p.masked_fill(broken, -torch.inf)
            drawn = None
            if wanted.with_drawn_log_p:  # a greedy choice is certain
                drawn = torch.zeros_like(log_p)
                if filtered is not None:
                    drawn = filtered.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]

            before, running = state, state.mode != DONE
            state = grammar.advance(before, chosen)
            length = length + running
            if wanted.max_blocks is not None:
                begun = begun + ((before.mode == FREE) & (state.mode > DONE))
            picker.remember(chosen, running)
            stop = torch.where(broken & running, NOT_FINITE, ends.why(before, state, chosen, running, length))
            state.mode = torch.where(stop > RUNNING, DONE, state.mode)
            made = Step(chosen, log_p, stop, before, room, may_begin, drawn)
            yield made if len(place) == B else _spread(made, place, B, vocab.pad)
            if step + 1 == steps:
                break
            if (device.type == "cpu" or step % LOOK == LOOK - 1) and bool((state.mode == DONE).all()):
                break
            cache.seek(branches.position)
            left = _left(state) if device.type == "cpu" else None
            if left is not None:  # the others have ended
                cache.keep(branches.keep(left))
                before, state = before.rows(left), state.rows(left)
                limit, length, begun, running, chosen, place, uniform = (
                    values[left] for values in (limit, length, begun, running, chosen, place, uniform)
                )
                given = None if given is None else given[left]
                picker.keep(left)
                ends.keep(left)
            logits = _logits(model(Inputs(branches.repeat(chosen)[:, None]), cache=cache))
            branches.advance(before, state, running, grammar)
    finally:
        model.train(was_training)


def generate(
    model: FusionLM,
    vocab: SharedVocab,
    prompts: Sequence[Any],
    *,
    best_of: int = 1,
    best_by: BestBy = "forward",
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Generated]:
    """Continue each of ``prompts`` to its end, in one batch.

    Args:
        model: The transformer.
        vocab: Its vocabulary.
        prompts: Tokens (T,), or ``Encoded``.
        best_of: Continue each prompt N times, and keep the best. Prompt k uses the seeds ``seed + k * N`` to
            ``seed + k * N + N - 1``.
        best_by: The score of a continuation: "forward" is ``log_likelihood``; "both" is
            ``scores.both_ways``, for models trained on such documents in both orders.
        progress: Called with (step, steps).
        options: Fields of ``prompts.Options``; ``max_new_tokens`` is required.

    Returns:
        One result per prompt.

    Raises:
        ValueError: As ``generate_steps``, and with ``best_by="both"`` as ``scores.check_standalone``.
    """
    check_number("best_of", best_of, 1, WHOLE, whole=True)
    if best_by not in BEST_BY:
        raise ValueError(f"best_by is {best_by!r}, expected one of {', '.join(BEST_BY)}")
    prompts = [tokens_of(prompt) for prompt in prompts]
    if best_by == "both":
        if best_of == 1:
            raise ValueError('best_by="both" chooses among continuations: best_of must be at least 2, got 1')
        for prompt in prompts:
            check_standalone(prompt, vocab)
    Options(**options)  # checked before they are used below
    prompts = [prompt for prompt in prompts for _ in range(best_of)]
    if not prompts:
        return []
    written: list[Step] = []
    context = model.config.context_length
    steps = max(min(options["max_new_tokens"], context - len(prompt)) for prompt in prompts)
    for step in generate_steps(model, vocab, prompts, **options):
        written.append(step)
        if progress is not None:
            progress(len(written), steps)
    columns = zip(*((step.tokens, step.log_p, step.stop) for step in written))
    tokens, log_p, stops = (torch.stack(column, dim=1).cpu() for column in columns)  # (B, steps)
    results = []
    for prompt, new, log, stop in zip(prompts, tokens, log_p, stops, strict=True):
        last = int(stop.ne(RUNNING).int().argmax())  # the first stop; every row has one
        broken = int(stop[last]) == NOT_FINITE
        whole = torch.cat([prompt, new[: last if broken else last + 1]])
        likelihood = float(log[: last + 1].mean())  # -inf if it is broken
        why = stop_name(int(stop[last]), options.get("stop_after"))
        results.append(Generated(whole, len(prompt), why, likelihood))
    groups = (results[start : start + best_of] for start in range(0, len(results), best_of))

    def score(result: Generated) -> float:
        if best_by == "both" and result.log_likelihood > -torch.inf:
            return both_ways(model, vocab, result.tokens, result.prompt_length)
        return result.log_likelihood

    return [group[0] if best_of == 1 else max(group, key=score) for group in groups]


def stop_name(stop: int, stop_after: str | None) -> str:
    """The name of a value of ``Step.stop``: an entry of ``STOPS``, or the modality of ``stop_after``."""
    return stop_after if stop == SEGMENT and stop_after is not None else STOPS[stop]


class _Picker:
    """Draws the next token of each row, with the sampling settings of the row's current modality."""

    def __init__(
        self, options: Options, grammar: Grammar, prompts: Sequence[Tensor], device: torch.device
    ) -> None:
        vocab = grammar.vocab
        self.modality = grammar.modality
        self.text, others = options.sampling_of("text"), [m.name for m in vocab.framed]
        self.others: dict[Sampling, list[int]] = {}
        """Settings -> indices in ``vocab.names`` of the other modalities that have them."""
        for name in others:
            self.others.setdefault(options.sampling_of(name), []).append(vocab.names.index(name))
        self.greedy = self.text.temperature == 0 and all(s.temperature == 0 for s in self.others)
        self.seen: Tensor | None = None
        """Text tokens in each row so far, (B, V) bool; None without a repetition penalty."""
        if self.text.repetition_penalty != 1:
            self.is_text = vocab.is_text(torch.arange(vocab.size)).to(device)
            self.seen = torch.zeros(len(prompts), vocab.size, dtype=torch.bool)
            for row, prompt in enumerate(prompts):
                self.seen[row, prompt] = True
            self.seen = self.seen.to(device) & self.is_text

    def pick(
        self, logits: Tensor, guided: Tensor, state: GrammarState, uniform: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Draw one token per row.

        Args:
            logits: (B, V), used for rows in text.
            guided: (B, V) with guidance, used for rows in a block.
            state: Where the rows are.
            uniform: (B,) random numbers in [0, 1).

        Returns:
            Tokens (B,) int64, -1 for rows whose logits are not finite; and the logits (B, V) that they were
            drawn from, None if all choices are greedy.
        """
        text = logits if self.seen is None else penalize(logits, self.seen, self.text.repetition_penalty)
        if self.greedy:
            if guided is not text:
                text = torch.where((state.mode > DONE)[:, None], guided, text)
            return likeliest(text), None
        filtered, modality = filter_logits(text, self.text), self.modality[state.mode]
        if guided is text and list(self.others) == [self.text]:
            return draw(filtered, uniform), filtered
        for sampling, places in self.others.items():
            rows = modality == places[0]
            for place in places[1:]:
                rows = rows | (modality == place)
            filtered = torch.where(rows[:, None], filter_logits(guided, sampling), filtered)
        return draw(filtered, uniform), filtered

    def keep(self, rows: Tensor) -> None:
        """Continue with some rows only."""
        if self.seen is not None:
            self.seen = self.seen[rows]

    def remember(self, chosen: Tensor, running: Tensor) -> None:
        """Add text tokens that running rows wrote, (B,), to ``seen``."""
        if self.seen is not None:
            fresh = (self.is_text[chosen] & running)[:, None] | self.seen.gather(1, chosen[:, None])
            self.seen.scatter_(1, chosen[:, None], fresh)


class _Ends:
    """Decides which rows end with their new token, and why."""

    def __init__(self, options: Options, grammar: Grammar, limit: Tensor, context: int) -> None:
        self.limit, self.sep = limit, grammar.vocab.sep
        self.at_limit = torch.where(limit == context, CONTEXT, LENGTH)
        self.last: Tensor | None = None
        """(M,) bool: the mode in which a token ends a block of ``stop_after``."""
        if options.stop_after is not None:
            self.last = grammar.is_end & (grammar.modality == grammar.vocab.names.index(options.stop_after))

    def keep(self, rows: Tensor) -> None:
        """Continue with some rows only."""
        self.limit, self.at_limit = self.limit[rows], self.at_limit[rows]

    def why(
        self, before: GrammarState, after: GrammarState, chosen: Tensor, running: Tensor, length: Tensor
    ) -> Tensor:
        """``Step.stop`` (B,) for the tokens ``chosen`` that led from state ``before`` to ``after``."""
        stop = torch.where(length >= self.limit, self.at_limit, RUNNING)
        if self.sep is not None:
            stop = torch.where(chosen == self.sep, TURN, stop)
        if self.last is not None:
            stop = torch.where(self.last[before.mode], SEGMENT, stop)
        return torch.where(after.mode == DONE, EOS, stop) * running


def _left(state: GrammarState) -> Tensor | None:
    """The rows that continue, if at least half of a large batch has ended; else None."""
    left = (state.mode != DONE).nonzero()[:, 0]
    return left if len(state.mode) >= max(HALF, 2 * len(left)) else None


def _spread(step: Step, place: Tensor, rows: int, pad: int) -> Step:
    """A step of the rows that are left as one of all ``rows``; ``place`` are their numbers."""

    def whole(values: Tensor, ended: float) -> Tensor:
        return values.new_full((rows,), ended).index_put((place,), values)

    state = GrammarState(
        whole(step.state.mode, DONE), whole(step.state.remaining, 0), whole(step.state.turns, 0)
    )
    return Step(
        whole(step.tokens, pad),
        whole(step.log_p, 0.0),
        whole(step.stop, RUNNING),
        state,
        whole(step.room, 0),
        None if step.may_begin is None else whole(step.may_begin, True),
        None if step.drawn_log_p is None else whole(step.drawn_log_p, 0.0),
    )


def _may_begin(options: Options, begun: Tensor) -> Tensor | None:
    return None if options.max_blocks is None else begun < options.max_blocks


def _logits(logits: Any) -> Tensor:
    """(B, 1, V) -> (B, V), at least float32."""
    return logits[:, -1].to(torch.promote_types(logits.dtype, torch.float32))
