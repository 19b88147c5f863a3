"""The start of generation: options and prompts are checked before the network runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..tokenizers.documents import Encoded
from ..tokenizers.layout import DONE, FREE, Cursor
from ..tokenizers.vocab import SharedVocab
from .grammar import ANY, Grammar, GrammarState
from .guidance import Guidance
from .sampling import WHOLE, Sampling, check_number


@dataclass(frozen=True)
class Options:
    """Options of generation. A row is one prompt and its continuation.

    Raises:
        ValueError: A value is never valid, whatever the vocabulary.
    """

    max_new_tokens: int
    """Most new tokens of a row. A block begins only if all of it fits."""
    sampling: Sampling | Mapping[str, Sampling] = Sampling()
    """For all modalities, or for each by name, e.g. ``{"text": Sampling(0)}``; names left out get the
    default. The text settings also decide whether a block begins or the document ends."""
    then: str = ANY
    """The modality that the continuation begins with; "any": the model decides."""
    max_blocks: int | None = None
    """Most blocks (images, ...) that a row may begin; None: no limit."""
    stop_after: str | None = None
    """End a row after its first complete block of this modality; None: do not."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape of every new block by modality, in positions, e.g. ``{"image": (4, 16)}``; the model chooses the
    shapes of modalities left out."""
    seed: int | Sequence[int] = 0
    """Random seed of each row; one number n means n, n + 1, ..."""
    guidance: Guidance = Guidance()
    """Classifier-free guidance of blocks."""
    negative: Tensor | None = None
    """Negative prompt of guidance: text tokens (T,) after ``bos``. None: only ``bos``."""
    given: Sequence[Tensor] | None = None
    """For each row, tokens (T,) that it must write; -1 where it draws. None: it draws all."""
    with_drawn_log_p: bool = False
    """Fill ``Step.drawn_log_p``, which alignment checks its own log p against."""

    def __post_init__(self) -> None:
        check_number("max_new_tokens", self.max_new_tokens, 1, WHOLE, whole=True)
        if self.max_blocks is not None:
            check_number("max_blocks", self.max_blocks, 0, WHOLE, whole=True)
        if self.max_blocks is not None and self.max_blocks < 1 and self.then not in (ANY, "text"):
            raise ValueError(
                f"max_blocks is {self.max_blocks}, but the continuation begins with a block "
                f"(then={self.then!r}): allow at least 1"
            )

    def sampling_of(self, name: str) -> Sampling:
        """The settings of modality ``name``."""
        if isinstance(self.sampling, Sampling):
            return self.sampling
        return self.sampling.get(name, Sampling())

    def seeds(self, rows: int) -> list[int]:
        """The seed of each of ``rows`` rows.

        Raises:
            ValueError: Their number is wrong, or one has more than 64 bits.
        """
        given: Any = self.seed
        one = not hasattr(given, "__len__")
        for seed in [given] if one else given:
            check_number("seed", seed, -(2**63), 2**64 - 1, "-2**63..2**64-1", whole=True)
        seeds: list[int] = [given + row for row in range(rows)] if one else list(given)
        if len(seeds) != rows:
            raise ValueError(f"got {len(seeds)} seeds for {rows} prompts: give one for each, or one number")
        if one and rows:
            check_number("seed", seeds[-1], -(2**63), 2**64 - 1, "-2**63..2**64-1", whole=True)
        return seeds

    def check(self, vocab: SharedVocab) -> None:
        """Check the names of modalities.

        Raises:
            ValueError: The vocabulary does not have one, or ``stop_after`` names text.
        """
        names = set() if isinstance(self.sampling, Sampling) else set(self.sampling)
        for name in sorted({*names, *self.shapes}) + [n for n in (self.then, self.stop_after) if n != ANY]:
            if name is not None:
                vocab[name]
        if self.stop_after is not None and vocab[self.stop_after].layout is None:
            framed = ", ".join(modality.name for modality in vocab.framed)
            raise ValueError(f"stop_after is {self.stop_after!r}, expected a modality with blocks: {framed}")


def tokens_of(prompt: Any) -> Tensor:
    """The tokens (T,) of an encoded prompt, on the CPU."""
    return (prompt.tokens if isinstance(prompt, Encoded) else prompt).cpu()


def read_prompts(vocab: SharedVocab, prompts: Sequence[Tensor], context: int) -> list[Cursor]:
    """Check each prompt token by token.

    Args:
        vocab: The vocabulary.
        prompts: Tokens (T,) of each row.
        context: Tokens that the model can hold.

    Returns:
        A cursor for each row, at the end of its prompt.

    Raises:
        ValueError: A prompt is empty, fills the context, is not the beginning of a document, or is complete.
    """
    cursors: list[Cursor] = []
    known: dict[bytes, Cursor] = {}
    for prompt in prompts:
        if not len(prompt):
            raise ValueError(f"the prompt is empty, expected at least the begin of a document, {vocab.bos}")
        if len(prompt) >= context:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, but the context is {context}: shorten it to at most "
                f"{context - 1}"
            )
        key = prompt.numpy().tobytes()  # several rows may continue the same prompt
        if key not in known:
            try:
                cursor = Cursor(vocab)
                if int(prompt[0]) != vocab.bos:
                    raise ValueError(f"token {int(prompt[0])} is not allowed at position 0")
                cursor.take_all(prompt)
            except ValueError as error:
                raise ValueError(f"invalid prompt: {error}") from None
            if cursor.mode == DONE:
                raise ValueError("the prompt includes the end of its document: encode it with eos=False")
            known[key] = cursor
        cursors.append(known[key])
    return cursors


def check_room(
    grammar: Grammar, state: GrammarState, room: Tensor, lengths: Tensor, allowed: Tensor, then: str
) -> None:
    """Check that every row can continue: a first token is allowed, and the block it is in fits.

    Args:
        grammar: The grammar.
        state: Its state at the ends of the prompts.
        room: (B,) most new tokens of each row.
        lengths: (B,) tokens of the prompts.
        allowed: (B, V) which first tokens are allowed.
        then: As in ``Options``.

    Raises:
        ValueError: A row cannot continue.
    """
    fits = allowed.any(dim=1) & grammar.fits(state, room)
    if bool(fits.all()):
        return
    row = int((~fits).nonzero()[0])
    mode = int(state.mode[row])
    what = grammar.modes[mode].name if mode != FREE else "text" if then == ANY else then
    raise ValueError(
        f"no room for {what}: {int(lengths[row])} prompt tokens leave {int(room[row])}; shorten the prompt "
        "or allow more new tokens"
    )


def dictated(given: Sequence[Tensor], rows: int, steps: int) -> Tensor:
    """``Options.given`` as a table (B, steps) int64; -1 where a row draws.

    Raises:
        ValueError: There is not one sequence for each row.
    """
    if len(given) != rows:
        raise ValueError(f"tokens are given for {len(given)} rows, expected {rows}, one for each prompt")
    table = torch.full((rows, steps), -1, dtype=torch.int64)
    for row, tokens in enumerate(given):
        table[row, : len(tokens)] = tokens[:steps]
    return table
