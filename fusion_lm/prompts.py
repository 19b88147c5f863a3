"""What generation begins with: prompts that are read, and options that are checked, before any work."""

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
from .sampling import Sampling


@dataclass(frozen=True)
class Options:
    """What can be asked of generation. Raises ValueError for a value that is never valid."""

    max_new_tokens: int
    """Tokens that a row may add; a block that would not fit is not begun."""
    sampling: Sampling | Mapping[str, Sampling] = Sampling()
    """Of every modality, or of each by its name, e.g. ``{"text": Sampling(0)}``; names left out get the
    default. That of text also draws whether a block begins or the document ends."""
    then: str = ANY
    """The modality that the first new token begins; "any" leaves it to the model."""
    max_blocks: int | None = None
    """Blocks (images, ...) that a row may begin; None does not limit."""
    stop_after: str | None = None
    """A row ends with the first block of this modality that it finishes."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape of every new block by modality, e.g. ``{"image": (4, 16)}``; otherwise the model chooses."""
    seed: int | Sequence[int] = 0
    """Of each row; one number n means n, n + 1, ..."""
    guidance: Guidance = Guidance()
    """Of blocks."""
    negative: Tensor | None = None
    """Tokens (T,) of a document's beginning that blocks are led away from; None: the empty document."""
    given: Sequence[Tensor] | None = None
    """Tokens (T,) that each row must write; -1 where it draws."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.max_blocks is not None and self.max_blocks < 1 and self.then not in (ANY, "text"):
            raise ValueError(f"max_blocks is {self.max_blocks}, but then is {self.then!r}: allow at least 1")

    def sampling_of(self, name: str) -> Sampling:
        """That of one modality."""
        if isinstance(self.sampling, Sampling):
            return self.sampling
        return self.sampling.get(name, Sampling())

    def seeds(self, rows: int) -> list[int]:
        """One for each row."""
        seeds = [self.seed + row for row in range(rows)] if isinstance(self.seed, int) else list(self.seed)
        if len(seeds) != rows:
            raise ValueError(f"there are {len(seeds)} seeds for {rows} prompts")
        for one in seeds:
            if not -(2**63) <= one < 2**64:
                raise ValueError(f"seed must be a number of 64 bits, got {one}")
        return seeds

    def check(self, vocab: SharedVocab) -> None:
        """Refuse names of modalities that the vocabulary lacks. Raises ValueError."""
        names = set() if isinstance(self.sampling, Sampling) else set(self.sampling)
        for name in sorted({*names, *self.shapes}) + [n for n in (self.then, self.stop_after) if n != ANY]:
            if name is not None:
                vocab[name]
        if self.stop_after is not None and vocab[self.stop_after].layout is None:
            raise ValueError(f"stop_after is {self.stop_after!r}, which has no blocks that end")


def tokens_of(prompt: Any) -> Tensor:
    """The tokens (T,) of a prompt that is encoded already, on the CPU."""
    return (prompt.tokens if isinstance(prompt, Encoded) else prompt).cpu()


def read_prompts(vocab: SharedVocab, prompts: Sequence[Tensor], context: int) -> list[Cursor]:
    """Cursors at the ends of prompts, tokens (T,).

    Raises:
        ValueError: A prompt is empty, longer than the context, or does not begin a document.
    """
    cursors: list[Cursor] = []
    known: dict[bytes, Cursor] = {}
    for prompt in prompts:
        if not len(prompt):
            raise ValueError("a prompt needs at least one token (begin of document), got an empty one")
        if len(prompt) >= context:
            raise ValueError(f"the prompt has {len(prompt)} tokens, but the context is {context}: shorten it")
        key = prompt.numpy().tobytes()  # several rows may continue one prompt
        if key not in known:
            try:
                cursor = Cursor(vocab)
                if int(prompt[0]) != vocab.bos:
                    raise ValueError(f"token {int(prompt[0])} is not allowed at position 0")
                cursor.take_all(prompt)
            except ValueError as error:
                raise ValueError(f"invalid prompt: {error}") from None
            if cursor.mode == DONE:
                raise ValueError("a prompt ends with the end of its document: encode it with eos=False")
            known[key] = cursor
        cursors.append(known[key])
    return cursors


def check_room(
    grammar: Grammar, state: GrammarState, room: Tensor, lengths: Tensor, allowed: Tensor, then: str
) -> None:
    """Refuse what cannot follow the prompts.

    Args:
        grammar: The grammar.
        state: Where the rows are.
        room: (B,) tokens that each may add.
        lengths: (B,) tokens of the prompts.
        allowed: (B, V) what their first token may be.
        then: As in ``Options``.

    Raises:
        ValueError: Nothing that is allowed fits.
    """
    fits = allowed.any(dim=1) & grammar.fits(state, room)
    if bool(fits.all()):
        return
    row = int((~fits).nonzero()[0])
    mode = grammar.modes[int(state.mode[row])]
    what = mode.name if int(state.mode[row]) != FREE else "text" if then == ANY else then
    raise ValueError(
        f"no room for {what}: {int(lengths[row])} prompt tokens leave {int(room[row])}; shorten the prompt "
        "or allow more new tokens"
    )


def dictated(given: Sequence[Tensor], rows: int, steps: int) -> Tensor:
    """Tokens that are given for each step, (B, steps), -1 where none is.

    Raises:
        ValueError: There is not one sequence for each row.
    """
    if len(given) != rows:
        raise ValueError(f"tokens are given for {len(given)} rows, but there are {rows}")
    table = torch.full((rows, steps), -1, dtype=torch.int64)
    for row, tokens in enumerate(given):
        table[row, : len(tokens)] = tokens[:steps]
    return table
