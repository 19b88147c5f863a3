"""Samples of texts and images during the transformer's training."""

import json
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor

from ...eval.report.page.canvas import enlarged, line, picture_sheet
from ...fusion_lm.generate import generate
from ...fusion_lm.model import FusionLM
from ...fusion_lm.prompts import ANY
from ...fusion_lm.sampling import Sampling
from ...storage.files import write_text
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.pixels import to_pil
from ..callbacks.pictures import Drawing, save_sheet, step_file
from .module import FusionLMTraining

TOP_P = 0.95
"""Nucleus sampling of text and images."""


class Samples(Drawing):
    """Writes RUN/samples/step-N.png and .jsonl: documents sampled during training."""

    def __init__(
        self,
        every: int = 1000,
        count: int = 4,
        prompts: list[str] | None = None,
        then: str = "image",
        max_new_tokens: int = 512,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            every: Steps between two sheets; 0 writes only one at the end.
            count: Number of documents without a prompt.
            prompts: Texts to continue.
            then: First modality after a prompt; any lets the model decide.
            max_new_tokens: Maximum new tokens per document; the context may end it earlier.
            temperature: Sampling temperature of text and images.
            seed: Random seed, the same for every sheet.
        """
        super().__init__(every)
        self.count, self.prompts = count, list(prompts or [])
        self.then = then
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.sampling = Sampling(temperature=temperature, top_p=TOP_P)
        self._tokenizer: DocumentTokenizer | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            ValueError: ``then`` is not a modality of the vocabulary.
        """
        if isinstance(pl_module, FusionLMTraining):
            allowed = (ANY, *(modality.name for modality in pl_module.vocab.modalities))
            if self.then not in allowed:
                raise ValueError(f"samples.then is {self.then!r}, expected one of {', '.join(allowed)}")

    def draw(self, trainer: L.Trainer, training: L.LightningModule) -> None:
        if not isinstance(training, FusionLMTraining):
            return
        net = training.whole_net()
        if net is None:
            return
        with torch.random.fork_rng(devices=[]):  # leaves the training's random numbers alone
            documents = self._documents(training, net)
        lines = [
            json.dumps([s if isinstance(s, str) else None for s in d], ensure_ascii=False) for d in documents
        ]
        sheet = picture_sheet([[document_picture(d)] for d in documents], width=1, enlarge=1)
        save_sheet(trainer, "samples", sheet)
        write_text(step_file(trainer, "samples", ".jsonl"), "".join(line + "\n" for line in lines))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", "\n\n".join(lines), trainer.global_step)

    def _documents(self, training: FusionLMTraining, net: FusionLM) -> list[list[str | Tensor]]:
        if self._tokenizer is None:
            self._tokenizer = DocumentTokenizer.load(training.tokenizer_folder)
        vocab, context = training.vocab, training.config.context_length
        options: dict[str, Any] = {
            "max_new_tokens": min(self.max_new_tokens, context - 1),
            "sampling": self.sampling,
            "seed": self.seed,
        }
        results = []
        if self.count:
            free = [torch.tensor([vocab.bos])] * self.count
            results += generate(net, vocab, free, **options)
        prompts = [self._tokenizer.encode([text], eos=False).tokens for text in self.prompts]
        if fitting := [p for p in prompts if len(p) < context - 8]:
            try:
                results += generate(net, vocab, fitting, then=self.then, **options)
            except ValueError:  # no room for ``then`` after one of the prompts
                results += generate(net, vocab, fitting, **options)
        return [self._tokenizer.decode(result.tokens, partial="drop") for result in results]


def document_picture(segments: Sequence[str | Tensor], width: int = 900) -> Image.Image:
    """A document as a picture: its texts in type and its images (3, H, W), enlarged twice, in order."""
    parts: list[Image.Image] = []
    for segment in segments:
        if isinstance(segment, Tensor):
            parts.append(enlarged(to_pil(segment), 2))
        else:
            text = "".join(c if c.isprintable() else " " for c in segment)[:200]
            parts.append(line([(text, "black")], 14))
    return picture_sheet([[part] for part in parts or [line([("", "black")], 14)]], width=width, enlarge=1)
