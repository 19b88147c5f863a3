"""Prompts from documents that ``earlyfusion prepare`` wrote."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...data.windows import Windows
from ...tokenizers.documents import TOKENIZER, DocumentTokenizer, split
from ...tokenizers.same_tokens import mean_the_same
from ...tokenizers.vocab import SharedVocab
from .prompt_order import place
from .samples import Kind, Prompt

CHUNK = 1024
"""Windows that are searched at once."""
LOOKED_AT = 100
"""Documents of other shapes that are looked at, to describe them."""


class Found(NamedTuple):
    """A document that is a text and its picture, or a picture and its text."""

    kind: Kind
    window: int
    """Number of its window."""
    start: int
    """Where it begins in the window."""
    middle: int
    """Where its second part begins."""
    answer: str
    """Its text, without white space at both ends."""


class DocumentPrompts:
    """The first parts of documents of two parts: of a text and its picture, or of a picture and its text."""

    def __init__(
        self,
        folder: str | Path,
        tokenizer: DocumentTokenizer,
        context: int,
        *,
        match: str | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            folder: Prepared folder; its training documents are used.
            tokenizer: The model's tokenizer.
            context: Tokens that the model can hold; longer documents are left out.
            match: Regular expression that the whole text must match.
            seed: Random seed.

        Raises:
            FileNotFoundError: The folder is missing.
            ValueError: It was prepared with another tokenizer, or no document is left.
        """
        self.windows, self.seed = Windows(Path(folder) / "train"), seed
        with torch.random.fork_rng(devices=[]):  # a network draws numbers before its weights are read
            theirs = DocumentTokenizer.load(Path(folder) / TOKENIZER)
        if not mean_the_same(theirs, tokenizer):
            raise ValueError(
                f"{folder} was prepared with another tokenizer than the model's: prepare it with the model's"
            )
        self.found: list[Found] = []
        pattern = None if match is None else re.compile(match)
        left_out: Counter[str] = Counter()
        others: list[str] = []
        for one, tokens in documents_of(self.windows, tokenizer):
            if isinstance(one, str):
                left_out["are neither a text and a picture nor a picture and a text"] += 1
                if len(others) < LOOKED_AT:
                    others.append(shape_of(tokens, tokenizer.vocab))
            elif len(tokens) > context:
                left_out[f"are longer than the model's context of {context}"] += 1
            elif pattern is not None and not pattern.fullmatch(one.answer):
                left_out[f"do not match {match!r}"] += 1
            else:
                self.found.append(one)
        counts = Counter(one.kind for one in self.found)
        reasons = [f"{count:,} {why}" for why, count in left_out.items()]
        if others:
            shapes = ", ".join(f"[{shape}]" for shape, _ in Counter(others).most_common(3))
            reasons.append(f"such as {shapes}")
        rest = f"; left out: {'; '.join(reasons)}" if reasons else ""
        self.remark = (
            f"{folder}: {counts['write']:,} texts to write, {counts['read']:,} pictures to read{rest}"
        )
        if not self.found:
            raise ValueError(f"no prompts: {self.remark}")

    def prompts(self, numbers: Sequence[int]) -> list[Prompt]:
        chosen = [self.found[place(number, len(self.found), self.seed)] for number in numbers]
        rows = self.windows.load(np.array([one.window for one in chosen], int))["tokens"]
        return [
            Prompt(row[one.start : one.middle].clone(), one.kind, one.answer)
            for one, row in zip(chosen, rows)
        ]


def documents_of(windows: Windows, tokenizer: DocumentTokenizer) -> Iterator[tuple[Found | str, Tensor]]:
    """The documents of all windows, each with its tokens (T,); "other" for those of other shapes."""
    vocab, layout = tokenizer.vocab, tokenizer.vocab.layout("image")
    for first in range(0, windows.length, CHUNK):
        batch = windows.load(np.arange(first, min(first + CHUNK, windows.length)))
        rows, T = batch["tokens"].shape
        tokens = batch["tokens"].flatten()
        number = (batch["documents"] + torch.arange(rows)[:, None] * (T + 1)).flatten()
        starts = np.flatnonzero(np.diff(number.numpy(), prepend=-1))
        stops = np.append(starts[1:], len(tokens))
        text = vocab.is_text(tokens)
        ids = torch.full_like(tokens, -1)
        ids[text] = vocab.tokens_to_ids("text", tokens[text])
        flat, is_text = tokens.numpy(), text.numpy()
        frame = vocab.is_begin(tokens).numpy() | (flat == vocab.bos) | (flat == vocab.eos)
        if vocab.sep is not None:
            frame |= flat == vocab.sep
        frames = np.add.reduceat(frame, starts, dtype=np.int64)  # 3 of one block in one whole document
        whole = (stops - starts > 3) & (flat[starts] == vocab.bos) & (flat[stops - 1] == vocab.eos)
        begins, ends = (np.flatnonzero(flat == token) for token in (layout.begin, layout.end))
        for start, stop, good in zip(starts.tolist(), stops.tolist(), (whole & (frames == 3)).tolist()):
            if flat[start] == vocab.pad:
                continue
            found: Found | str = "other"
            if good:
                window, offset = divmod(start, T)
                if is_text[start + 1] and flat[stop - 2] == layout.end:
                    middle = int(begins[np.searchsorted(begins, start)])
                    answer = tokenizer.text.decode(ids[start + 1 : middle].tolist()).strip()
                    found = Found("write", first + window, offset, offset + middle - start, answer)
                elif flat[start + 1] == layout.begin and is_text[stop - 2]:
                    middle = int(ends[np.searchsorted(ends, start)]) + 1
                    answer = tokenizer.text.decode(ids[middle : stop - 1].tolist()).strip()
                    found = Found("read", first + window, offset, offset + middle - start, answer)
                if isinstance(found, Found) and not found.answer:
                    found = "other"
            yield found, tokens[start:stop]


def shape_of(tokens: Tensor, vocab: SharedVocab) -> str:
    """The parts of a document, for a message: "text, image, text"."""
    try:
        return ", ".join(part.kind for part in split(tokens, vocab)) or "nothing"
    except ValueError:
        return "a piece of a longer document"
