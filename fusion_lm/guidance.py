"""Classifier-free guidance of blocks (images, ...): strengthens conditioning on the prompt.

Ho and Salimans, arXiv:2207.12598. The batch holds every row two or three times: the row itself, and copies
that see less of its prefix. The logits of all are combined, and all continue with the same token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..tokenizers.layout import DONE, Cursor
from ..tokenizers.vocab import SharedVocab
from .grammar import Grammar, GrammarState
from .sampling import check_number


@dataclass(frozen=True)
class Guidance:
    """How strongly blocks follow their prefix, the condition.

    Let u, i and f be the logits given nothing, the earlier blocks only, and the full prefix. They are
    combined to u + text * (f - u), or with ``image`` to u + image * (i - u) + text * (f - i)
    (InstructPix2Pix, arXiv:2211.09800, equation 3; Chameleon does the same). The model must be trained to
    write blocks without their condition, too (``condition_dropout``). Each of u, i and f costs a row.

    Raises:
        ValueError: A scale is not in 0 to 100.
    """

    text: float = 1.0
    """Guidance scale for the prompt; 1 disables guidance."""
    image: float | None = None
    """Guidance scale for the earlier blocks; None: ``text`` applies to them, too."""

    def __post_init__(self) -> None:
        for name in ("text", "image"):
            value = getattr(self, name)
            if name == "text" or value is not None:
                check_number(f"guidance {name}", value, 0, 100)

    @property
    def branches(self) -> int:
        """How many of f, u and i are needed: 1 to 3."""
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
    """The rows of the batch: all prompts, then with guidance their copies, branch after branch.

    The first branch (f) is the prompts. The second (u) sees only ``negative`` and the current block. The
    third (i) sees all blocks, without text.
    """

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
            guidance: The number of branches, and how they are combined.
            negative: Tokens (T,) that the second branch sees instead of the prompt; None: only bos.
            prompts: Tokens (T,) of each row.
            cursors: A cursor at the end of each prompt.
            vocab: The vocabulary.

        Raises:
            ValueError: ``negative`` does not begin with bos, or has a block in it.
        """
        self.guidance, self.size, self.pad = guidance, len(prompts), vocab.pad
        negative = torch.tensor([vocab.bos]) if negative is None else negative.cpu()
        rows = [*prompts]
        if guidance.branches > 1:
            if len(negative) < 1 or int(negative[0]) != vocab.bos or bool(vocab.is_begin(negative).any()):
                raise ValueError(
                    "negative must be the beginning of a document without images: encode only text, with "
                    "eos=False"
                )
            # If a prompt ends inside a block, the copy has the same part of that block.
            rows += [
                torch.cat([negative, prompt[len(prompt) if cursor.inside is None else cursor.start :]])
                for prompt, cursor in zip(prompts, cursors)
            ]
        if guidance.branches > 2:
            rows += [_without_text(prompt, cursor) for prompt, cursor in zip(prompts, cursors)]
        self.rows, self.count = rows, guidance.branches
        """The prompt of each row, branch after branch, and the number of branches."""
        self.home = len(negative)
        """The length that the second branch is cut back to after every block."""
        self.position = torch.tensor([len(row) for row in rows])
        """(branches * B,) The cache slot of each row's next token."""

    @property
    def guided(self) -> bool:
        """Whether there are copies."""
        return self.count > 1

    def to(self, device: torch.device) -> Tensor:
        """Move the positions to ``device``; returns the rows' tokens (branches * B, T), padded."""
        self.position = self.position.to(device)
        return pad_sequence(self.rows, batch_first=True, padding_value=self.pad).to(device)

    def room(self, room: Tensor, context: int) -> Tensor:
        """Limit ``room`` (B,), the tokens that rows may still write, to what fits the second branch."""
        if not self.guided:
            return room
        return torch.minimum(room, context - self.position[self.size : 2 * self.size])

    def keep(self, rows: Tensor) -> Tensor:
        """Continue with some prompts only; returns their rows in all branches."""
        every = (rows + torch.arange(self.count, device=rows.device)[:, None] * self.size).flatten()
        self.position, self.size = self.position[every], len(rows)
        return every

    def repeat(self, tokens: Tensor) -> Tensor:
        """Tokens (B,) -> the same for all branches, (branches * B,)."""
        return tokens.repeat(self.count) if self.guided else tokens

    def advance(self, before: GrammarState, after: GrammarState, running: Tensor, grammar: Grammar) -> None:
        """Advance ``position`` past one token.

        Copies skip text: their position stays, so that the next token overwrites it in the cache.

        Args:
            before: The state before the token.
            after: The state after it.
            running: (B,) bool, the rows that wrote it.
            grammar: The grammar.
        """
        if not self.guided:
            self.position = self.position + running
            return
        of_block = ((before.mode > DONE) | (after.mode > DONE)) & running
        moves = [running] + [of_block] * (self.count - 1)
        self.position = self.position + torch.cat(moves)
        self.position[self.size : 2 * self.size][grammar.is_end[before.mode]] = self.home


def _without_text(prompt: Tensor, cursor: Cursor) -> Tensor:
    """The first token of a prompt and its blocks, complete or not."""
    pieces = [prompt[:1], *(prompt[span.start : span.stop] for span in cursor.spans)]
    if cursor.inside is not None:
        pieces.append(prompt[cursor.start :])
    return torch.cat(pieces)
