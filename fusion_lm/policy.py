"""The policy of reinforcement learning: continuations that are drawn, and the log p of each drawn token.

``draw`` continues prompts by ``generate_steps``. ``log_probabilities`` computes, in one pass and with
gradients, under which probability each token was drawn: after the grammar's mask, temperature, filters and
guidance, as generation did.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..tokenizers.layout import FREE, Cursor
from ..tokenizers.vocab import SharedVocab
from .generate import NOT_FINITE, RUNNING, generate_steps, stop_name
from .grammar import ANY, Grammar, GrammarState, grammar_of
from .guidance import Guidance
from .inputs import Inputs
from .loss import CHUNK
from .model import FusionLM
from .prompts import Options, tokens_of
from .sampling import Sampling, filter_logits

LEAST_WINDOW = 256
"""Sequences are packed into windows at least this long, if the context allows it."""


class Draws(NamedTuple):
    """Documents whose ends were drawn; values of the N drawn tokens stand row after row."""

    documents: list[Tensor]
    """Prompt and continuation of each row, (T,) int64."""
    prompt_lengths: list[int]
    """Tokens of each row's prompt; the others were drawn."""
    stops: list[str]
    """Why each row ended, see ``Generated.stop``."""
    state: GrammarState
    """Where the row was before each token; fields (N,)."""
    room: Tensor
    """Tokens that the row could still write, (N,) int64."""
    may_begin: Tensor
    """Whether a block could begin, (N,) bool."""
    then: Tensor
    """Index in ``SharedVocab.names`` of the modality that the token had to begin; -1: any. (N,) int64."""
    log_p: Tensor
    """log p of each token under the distribution that it was drawn from, (N,) float32."""

    @property
    def counts(self) -> list[int]:
        """Drawn tokens of each row."""
        return [len(row) - length for row, length in zip(self.documents, self.prompt_lengths, strict=True)]

    def rows(self, chosen: Sequence[int]) -> Self:
        """Only some rows, in this order."""
        parts = torch.arange(len(self.room)).split(self.counts)
        index = torch.cat([parts[row] for row in chosen]) if len(chosen) else torch.arange(0)
        return type(self)(
            [self.documents[row] for row in chosen],
            [self.prompt_lengths[row] for row in chosen],
            [self.stops[row] for row in chosen],
            self.state.rows(index),
            self.room[index],
            self.may_begin[index],
            self.then[index],
            self.log_p[index],
        )

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """The rows of several draws, one after the other."""
        parts = list(parts)
        names = [field.name for field in fields(GrammarState)]
        return cls(
            [document for part in parts for document in part.documents],
            [length for part in parts for length in part.prompt_lengths],
            [stop for part in parts for stop in part.stops],
            GrammarState(*(torch.cat([getattr(part.state, name) for part in parts]) for name in names)),
            torch.cat([part.room for part in parts]),
            torch.cat([part.may_begin for part in parts]),
            torch.cat([part.then for part in parts]),
            torch.cat([part.log_p for part in parts]),
        )


def draw(model: FusionLM, vocab: SharedVocab, prompts: Sequence[Any], **options: Any) -> Draws:
    """Continue each of ``prompts`` in one batch, and keep what ``log_probabilities`` needs.

    Args:
        model: The transformer.
        vocab: Its vocabulary.
        prompts: Tokens (T,), or ``Encoded``.
        options: Fields of ``prompts.Options``; ``max_new_tokens`` is required.

    Raises:
        ValueError: As ``generate_steps``, or a setting that ``log_probabilities`` does not know
            (``check_policy``).
    """
    wanted = Options(**options)
    check_policy(wanted, vocab)
    prompts = [tokens_of(prompt) for prompt in prompts]
    steps = list(generate_steps(model, vocab, prompts, **{**options, "with_drawn_log_p": True}))

    def table(values: Sequence[Any]) -> Tensor:
        return torch.stack(list(values), dim=1).cpu()  # (B, steps)

    tokens, stop = table([step.tokens for step in steps]), table([step.stop for step in steps])
    names = [field.name for field in fields(GrammarState)]
    columns = [table([getattr(step.state, name) for step in steps]) for name in names]
    always = torch.ones_like(steps[0].stop, dtype=torch.bool)
    then = torch.full_like(tokens, -1)
    if wanted.then != ANY:  # rows whose prompt ends inside a block finish that block first
        then[columns[names.index("mode")][:, 0] == FREE, 0] = vocab.names.index(wanted.then)
    documents, stops, drawn = [], [], torch.zeros_like(tokens, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        last = int(stop[row].ne(RUNNING).int().argmax())
        why = int(stop[row, last])
        count = last if why == NOT_FINITE else last + 1
        drawn[row, :count] = True
        documents.append(torch.cat([prompt, tokens[row, :count]]))
        stops.append(stop_name(why, wanted.stop_after))
    return Draws(
        documents,
        [len(prompt) for prompt in prompts],
        stops,
        GrammarState(*(column[drawn] for column in columns)),
        table([step.room for step in steps])[drawn],
        table([always if step.may_begin is None else step.may_begin for step in steps])[drawn],
        then[drawn],
        table([step.drawn_log_p for step in steps])[drawn],
    )


def check_policy(options: Options, vocab: SharedVocab) -> None:
    """Check that ``log_probabilities`` knows all settings of ``options``.

    Raises:
        ValueError: There is a repetition penalty, or tokens are given.
    """
    for modality in vocab.modalities:
        penalty = options.sampling_of(modality.name).repetition_penalty
        if penalty != 1:
            raise ValueError(f"repetition_penalty is {penalty}, expected 1: alignment has no such policy")
    if options.given is not None:
        raise ValueError("given: tokens that are not drawn have no log p, expected None")


def log_probabilities(
    model: FusionLM, vocab: SharedVocab, draws: Draws, options: Options, chunk: int | None = None
) -> Tensor:
    """log p of each drawn token, as it was drawn.

    Args:
        model: The transformer; it should be in evaluation mode, as in generation.
        vocab: Its vocabulary.
        draws: What was drawn.
        options: The options of generation. Only sampling, guidance, ``negative`` and ``shapes`` are read.
        chunk: Most logits in memory at once; None: ``loss.CHUNK``.

    Returns:
        (N,) float32, differentiable.
    """
    device = model.embedding.weight.device
    grammar = grammar_of(vocab, device, options.shapes)
    sequences, where = _branches(draws, options, vocab)
    tokens, documents, starts = _packed(sequences, vocab.pad, model.config.context_length)
    hidden = model.hidden(Inputs(tokens.to(device), documents.to(device))).flatten(0, 1)  # (B * T, C)
    # The logits of a token are those after the token before it.
    index = (starts[where.sequence] + where.offset - 1).to(device)  # (branches, N)

    state = GrammarState(*(getattr(draws.state, field.name).to(device) for field in fields(GrammarState)))
    values = (draws.room, draws.may_begin, draws.then)
    moved = draws._replace(state=state, **dict(zip(draws._fields[4:7], (v.to(device) for v in values))))
    targets = torch.cat([row[n:] for row, n in zip(draws.documents, draws.prompt_lengths)]).to(device)
    modality = grammar.modality[state.mode]
    rows = max(1, (chunk or CHUNK.get(device.type, CHUNK["cuda"])) // vocab.size)
    found = hidden.new_zeros(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for one in vocab.modalities:
        mine = (modality == vocab.names.index(one.name)).nonzero()[:, 0]
        sampling = options.sampling_of(one.name)
        guidance = options.guidance if one.layout is not None and options.guidance.branches > 1 else None
        for part in mine.split(rows):
            places = index[: 1 if guidance is None else None, part].flatten()  # branch after branch
            allowed = _allowed(grammar, moved, part)
            arguments = (model, hidden[places], allowed, targets[part], sampling, guidance)
            several = len(mine) > rows and torch.is_grad_enabled()
            log_p = checkpoint(_log_p, *arguments, use_reentrant=False) if several else _log_p(*arguments)
            found = found.index_put((part,), log_p)
    return found


def _log_p(
    model: FusionLM,
    hidden: Tensor,
    allowed: Tensor,
    targets: Tensor,
    sampling: Sampling,
    guidance: Guidance | None,
) -> Tensor:
    """log p (N,) of ``targets`` (N,) after ``hidden`` (branches * N, C), among ``allowed`` tokens (N, V)."""
    logits = model.logits(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if guidance is not None:
        logits = guidance.combine(logits)
    logits = logits.masked_fill(~allowed, -torch.inf)
    if sampling.temperature == 0:  # certain
        return logits.new_zeros(len(targets))
    chosen = targets[:, None]
    filtered = filter_logits(logits, sampling)
    if filtered is not logits:  # rounding may drop a token at the border that was kept when it was drawn
        filtered = filtered.scatter(1, chosen, logits.gather(1, chosen) / sampling.temperature)
    return filtered.log_softmax(dim=-1).gather(1, chosen)[:, 0]


def _allowed(grammar: Grammar, draws: Draws, part: Tensor) -> Tensor:
    """Which tokens could be drawn where the tokens ``part`` (N,) were, (N, V) bool."""
    allowed = grammar.allowed(draws.state.rows(part), draws.room[part], draws.may_begin[part])
    then = draws.then[part]
    for number in then.unique().tolist():
        if number >= 0:
            first = grammar.first_token(grammar.vocab.names[number])
            allowed &= first | (then != number)[:, None]
    return allowed


class _Places(NamedTuple):
    """The sequence of each drawn token and its place there, by branch, (branches, N) int64."""

    sequence: Tensor
    offset: Tensor


def _branches(draws: Draws, options: Options, vocab: SharedVocab) -> tuple[list[Tensor], _Places]:
    """The sequences that the branches of guidance saw (see ``guidance.Branches``): each document; without its
    condition each block of it; and if images have a scale of their own, the document without text.

    A place in text is the same in every branch.
    """
    sequences = [document[:-1] for document in draws.documents]  # nothing follows the last token
    branches, negative = options.guidance.branches, options.negative
    negative = torch.tensor([vocab.bos]) if negative is None else negative.cpu()
    found: list[tuple[Tensor, Tensor]] = []
    for row, (document, length) in enumerate(zip(draws.documents, draws.prompt_lengths)):
        offset = torch.arange(len(document)).repeat(branches, 1)
        sequence = torch.full_like(offset, row)
        if branches > 1:
            cursor = Cursor(vocab)
            cursor.take_all(document)
            blocks = [(span.start, span.stop) for span in cursor.spans]
            if cursor.inside is not None:
                blocks.append((cursor.start, len(document)))
            pieces = [document[:1]]
            for start, stop in blocks:
                inner = slice(start + 1, stop)  # the token that begins a block is drawn as text
                sequence[1, inner] = len(sequences)
                offset[1, inner] += len(negative) - start
                sequences.append(torch.cat([negative, document[start:stop]]))
                if branches > 2:
                    offset[2, inner] += sum(map(len, pieces)) - start
                    pieces.append(document[start:stop])
            if branches > 2:
                for start, stop in blocks:
                    sequence[2, start + 1 : stop] = len(sequences)
                sequences.append(torch.cat(pieces))
        found.append((sequence[:, length:], offset[:, length:]))
    return sequences, _Places(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))


def _packed(sequences: Sequence[Tensor], pad: int, context: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pack sequences into windows, the longest first, each into the first window with room.

    Returns:
        Tokens and documents (B, T), and the index of each sequence's first token among all B * T.
    """
    lengths = [len(sequence) for sequence in sequences]
    T = max(max(lengths), min(context, LEAST_WINDOW, sum(lengths)))
    used: list[int] = []
    """Tokens in each window."""
    starts = torch.zeros(len(sequences), dtype=torch.int64)
    for number in sorted(range(len(sequences)), key=lambda i: -lengths[i]):
        window = next((w for w, length in enumerate(used) if length + lengths[number] <= T), len(used))
        if window == len(used):
            used.append(0)
        starts[number] = window * T + used[window]
        used[window] += lengths[number]
    tokens = torch.full((len(used) * T,), pad)
    documents = torch.full((len(used) * T,), len(sequences))  # padding
    for number, i in enumerate(starts.argsort().tolist()):
        here = slice(int(starts[i]), int(starts[i]) + lengths[i])
        tokens[here], documents[here] = sequences[i], number
    return tokens.view(-1, T), documents.view(-1, T), starts
