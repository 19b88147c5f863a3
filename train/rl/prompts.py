"""The data of an alignment: prompts for each step, the same ones whenever a run resumes."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lightning as L

from ...tokenizers.documents import DocumentTokenizer
from ..loop.ranks import ranks
from .document_prompts import DocumentPrompts
from .prompt_order import Source
from .samples import Kind, Prompt
from .word_prompts import WordPrompts

PASS = 1000
"""Rollouts in what Lightning takes for an epoch."""


class Batch(NamedTuple):
    """The prompts of one rollout, and which part of which of its steps they are used for."""

    rollout: int
    """Number of the rollout: 0, 1, ..."""
    inner: int
    """Number of the optimizer step on this rollout: 0, 1, ..."""
    part: int
    """Number of the batch in the optimizer step, 0 to ``parts`` - 1."""
    parts: int
    """Batches per optimizer step (``accumulate_grad_batches``), all with the same prompts."""
    prompts: list[Prompt]
    """This rank's prompts of the rollout."""


class PromptData(L.LightningDataModule):
    """Prompts to align a model on."""

    def __init__(
        self,
        words: str | None = None,
        path: str | None = None,
        match: str | None = None,
        random_share: float = 0.4,
        read_share: float = 0.0,
        prompts: int = 16,
        seed: int = 0,
    ) -> None:
        """
        Args:
            words: Words to write: demo, the training words of the demo, or a text file with one word or line
                per line.
            path: Prepared folder, instead of words. Of its documents of a text and a picture, in this order,
                the text is to be written; of those of a picture and a text, the picture is to be read.
            match: Regular expression that the whole text of a document of path must match, such as
                "[a-z]{3,8}" for single words.
            random_share: Fraction of random strings among the demo's words.
            read_share: Fraction of words to read instead of write, as pictures in the demo's training fonts.
            prompts: Prompts per step, of all devices together.
            seed: Random seed of the order, the random strings and the type.

        Raises:
            ValueError: An option is out of range, or does not work with the others.
        """
        super().__init__()
        if (words is None) == (path is None):
            both = "both" if words is not None else "neither"
            raise ValueError(f"expected either data.words or data.path, not {both}: words: demo is a start")
        for name, share in (("random_share", random_share), ("read_share", read_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}, expected 0 to 1")
        if path is not None and read_share:
            raise ValueError(
                f"read_share is {read_share}, but works with data.words only: the documents in data.path are "
                "what they are"
            )
        if match is not None:
            if path is None:
                raise ValueError("match works with data.path only: leave it out")
            try:
                re.compile(match)
            except re.error as error:
                raise ValueError(f"match is {match!r}, not a regular expression: {error}") from None
        if prompts < 1:
            raise ValueError(f"prompts must be positive, got {prompts}")
        if seed < 0:
            raise ValueError(f"seed is {seed}, expected 0 or more")
        self.words, self.path, self.match = words, path, match
        self.random_share, self.read_share = random_share, read_share
        self.count, self.seed = prompts, seed
        self.source: Source | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the words or the documents, for the tokenizer and the context of the model in training.

        Raises:
            FileNotFoundError: The file or folder is missing.
            ValueError: It cannot be read, was made for another tokenizer, or leaves no prompt.
        """
        if self.source is None:
            module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
            remark = self.open(module.tokenizer, module.net.config.context_length)
            if remark and self.trainer.is_global_zero:  # type: ignore[union-attr]
                print(remark)

    def open(self, tokenizer: DocumentTokenizer, context: int) -> str:
        """Read the words or the documents.

        Returns:
            A line on what was found and left out; empty if there is nothing to say.
        """
        if self.words is not None:
            source: Any = WordPrompts(
                self.words,
                tokenizer,
                context,
                random_share=self.random_share,
                read_share=self.read_share,
                seed=self.seed,
            )
        else:
            assert self.path is not None
            source = DocumentPrompts(self.path, tokenizer, context, match=self.match, seed=self.seed)
        self.source = source
        return source.remark

    @property
    def kinds(self) -> set[Kind]:
        """The kinds of prompts that there may be."""
        if self.words is None or 0 < self.read_share < 1:
            return {"write", "read"}
        return {"read" if self.read_share else "write"}

    def prompts_of(self, rollout: int) -> list[Prompt]:
        """This rank's prompts of a rollout."""
        assert self.source is not None, "setup() was not called"
        mine = ranks(self)
        each = self.count // mine["world_size"]
        first = rollout * self.count + mine["rank"] * each
        return self.source.prompts(range(first, first + each))

    def train_dataloader(self) -> "Rollouts":
        """
        Raises:
            ValueError: The prompts cannot be shared equally among the ranks.
        """
        trainer: Any = self.trainer
        world_size = ranks(self)["world_size"]
        if self.count % world_size:
            raise ValueError(
                f"prompts is {self.count}, expected a multiple of {world_size}, the number of devices"
            )
        inner_steps = getattr(trainer.lightning_module.settings, "inner_steps", 1)
        return Rollouts(self.prompts_of, trainer.accumulate_grad_batches, inner_steps)

    def transfer_batch_to_device(self, batch: Batch, device: Any, dataloader_idx: int) -> Batch:
        """Prompts stay on the CPU."""
        return batch


class Rollouts:
    """The batches of rollout 0, 1, ...: each ``inner_steps`` times, in ``parts`` parts.

    Lightning stores ``state_dict()`` in its checkpoints, as that of ``data.loader.Batches``. It counts
    optimizer steps, so a run may resume with another number of parts.
    """

    def __init__(
        self, prompts_of: Callable[[int], list[Prompt]], parts: int = 1, inner_steps: int = 1
    ) -> None:
        self.prompts_of, self.parts, self.inner_steps = prompts_of, parts, inner_steps
        self.position = 0
        """Batches so far."""
        self._rollout: int | None = None
        self._prompts: list[Prompt] = []

    def __len__(self) -> int:
        """Batches per pass. With a length, Lightning requests no batch ahead of time, which the state would
        count."""
        return PASS * self.inner_steps * self.parts

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so an iterator that Lightning makes and drops changes nothing.
        left = len(self) - self.position % len(self)
        for number in range(self.position, self.position + left):
            batch = self._batch(number)
            self.position = number + 1
            yield batch

    def _batch(self, number: int) -> Batch:
        step, part = divmod(number, self.parts)
        rollout, inner = divmod(step, self.inner_steps)
        if rollout != self._rollout:
            self._rollout, self._prompts = rollout, self.prompts_of(rollout)
        return Batch(rollout, inner, part, self.parts, self._prompts)

    def state_dict(self) -> dict[str, int]:
        """Optimizer steps so far, and parts of the next one."""
        step, part = divmod(self.position, self.parts)
        return {"step": step, "part": part}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume where ``state`` was taken."""
        part = state["part"] if state["part"] < self.parts else 0
        self.position = state["step"] * self.parts + part
