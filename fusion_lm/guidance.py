"""Classifier-free guidance of blocks (images, ...): away from what the model writes without a condition.

The batch then holds every row twice or three times (arXiv:2207.12598). The copies see less of what came
before, and take the tokens of their row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..tokenizers.layout import DONE, Cursor
from ..tokenizers.vocab import SharedVocab
from .grammar import Grammar, GrammarState


@dataclass(frozen=True)
class Guidance:
    """How strongly blocks follow their condition.

    With u, i and f the logits after nothing, after the earlier blocks alone, and after everything:
    u + text * (f - u), or with ``image`` u + image * (i - u) + text * (f - i) (InstructPix2Pix,
    arXiv:2211.09800, equation 3; Chameleon's). The model must have learned blocks without their condition
    (``condition_dropout``). A row of n branches costs n rows.
    """

    text: float = 1.0
    """Guidance scale for the prompt; 1 disables guidance."""
    image: float | None = None
    """Guidance scale for the earlier blocks; None: they are no condition of their own."""

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


class Branches:
    """The rows of the batch: the prompts, and with guidance what their copies see, branch after branch."""

    def __init__(
        self,
        guidance: Guidance,
        negative: Tensor | None,
        prompts: Sequence[Tensor],
        cursors: Sequence[Cursor],
        vocab: SharedVocab,
    ) -> None:
        """
        Args:
            guidance: How many branches, and how they are combined.
            negative: Tokens (T,) of a document's beginning that takes the place of the condition; None: bos.
            prompts: Tokens (T,) of each row.
            cursors: At the end of each.
            vocab: The vocabulary.

        Raises:
            ValueError: ``negative`` does not begin a document, or has a block in it.
        """
        self.guidance, self.size, self.pad = guidance, len(prompts), vocab.pad
        negative = torch.tensor([vocab.bos]) if negative is None else negative.cpu()
        rows = [*prompts]
        if guidance.branches > 1:
            if len(negative) < 1 or int(negative[0]) != vocab.bos or bool(vocab.is_begin(negative).any()):
                raise ValueError("negative must be the beginning of a document, without an image")
            # A prompt that stops inside a block: the copy continues that block.
            rows += [
                torch.cat([negative, prompt[len(prompt) if cursor.inside is None else cursor.start :]])
                for prompt, cursor in zip(prompts, cursors)
            ]
        if guidance.branches > 2:
            rows += [_without_text(prompt, cursor) for prompt, cursor in zip(prompts, cursors)]
        self.rows = rows
        self.home = len(negative)
        """Where the second branch returns to with the end of every block."""
        self.position = torch.tensor([len(row) for row in rows])
        """(branches * B,) where the next token goes."""

    @property
    def guided(self) -> bool:
        """Whether there are copies."""
        return len(self.rows) > self.size

    def to(self, device: torch.device) -> Tensor:
        """Move there; returns the rows' tokens (branches * B, T), padded."""
        self.position = self.position.to(device)
        return pad_sequence(self.rows, batch_first=True, padding_value=self.pad).to(device)

    def room(self, room: Tensor, context: int) -> Tensor:
        """(B,) of the rows, so that a block fits after what the second branch has seen, too."""
        if not self.guided:
            return room
        return torch.minimum(room, context - self.position[self.size : 2 * self.size])

    def repeat(self, tokens: Tensor) -> Tensor:
        """Tokens (B,) for all branches."""
        return tokens.repeat(len(self.rows) // self.size) if self.guided else tokens

    def advance(self, before: GrammarState, after: GrammarState, going: Tensor, grammar: Grammar) -> None:
        """Move on by the token that led from one state to the next; (B,) ``going`` says which rows wrote it.

        Branches that see less stay where they are while their row writes text: the cache is written over.
        """
        if not self.guided:
            self.position = self.position + going
            return
        of_block = ((before.mode > DONE) | (after.mode > DONE)) & going
        moves = [going] + [of_block] * (len(self.rows) // self.size - 1)
        self.position = self.position + torch.cat(moves)
        self.position[self.size : 2 * self.size][grammar.is_end[before.mode]] = self.home


def _without_text(prompt: Tensor, cursor: Cursor) -> Tensor:
    """A prompt's beginning and its blocks."""
    pieces = [prompt[:1], *(prompt[span.start : span.stop] for span in cursor.spans)]
    if cursor.inside is not None:
        pieces.append(prompt[cursor.start :])
    return torch.cat(pieces)
