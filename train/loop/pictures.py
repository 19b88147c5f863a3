"""Callbacks to look at: reconstructions, samples, and what ``predict`` writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor

from ...eval.report.canvas import enlarged, line, picture_sheet
from ...fusion_lm.generate import generate
from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import Sampling
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.files import write_text
from ...tokenizers.pixels import to_pil
from ..image.ema import averaged
from ..image.module import ImageTokenizerTraining
from ..lm.module import FusionLMTraining


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


class Reconstructions(Callback):
    """RUN/reconstructions/step-N.png: validation images above what the image tokenizer makes of them."""

    def __init__(self, every: int = 1000, count: int = 24, seed: int = 0) -> None:
        """
        Args:
            every: Steps between two sheets; 0: only one at the end.
            count: Images on a sheet.
            seed: Which validation images: the same ones on every sheet.
        """
        self.every, self.count, self.seed = every, count, seed
        self._images: list[Tensor] | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A sheet every so many steps."""
        if _due(trainer, self.every):
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last sheet."""
        self._write(trainer, pl_module)

    @torch.no_grad()
    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, ImageTokenizerTraining):
            return
        if self._images is None:
            data: Any = getattr(trainer, "datamodule", None)
            self._images = data.examples(self.count, self.seed) if hasattr(data, "examples") else []
        if not self._images:
            return
        net = pl_module.net
        net.eval()
        cells = []
        with averaged(trainer, pl_module):
            for image in self._images:
                again = net(image[None].to(pl_module.device), quantize=pl_module.codebook_ready).images[0]
                cells.append([to_pil(image), to_pil(again.cpu())])
        net.train()
        _save(trainer, "reconstructions", picture_sheet(cells))


class Samples(Callback):
    """RUN/samples/step-N.png and .jsonl: what the transformer writes, texts and images, during training."""

    def __init__(
        self,
        every: int = 1000,
        count: int = 4,
        prompts: list[str] | None = None,
        then: Literal["text", "image", "any"] = "image",
        max_new_tokens: int = 512,
        temperature: float = 1.0,
        top_p: float = 0.95,
        seed: int = 0,
    ) -> None:
        """
        Args:
            every: Steps between two sheets; 0: only one at the end.
            count: Documents without a prompt.
            prompts: Texts to continue.
            then: What the continuation of a prompt begins with.
            max_new_tokens: Longest continuation, in tokens; the context may end it earlier.
            temperature: Of text and images.
            top_p: Of text and images.
            seed: Of the draws, the same on every sheet.
        """
        self.every, self.count, self.prompts = every, count, list(prompts or [])
        self.then = then
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.sampling = Sampling(temperature=temperature, top_p=top_p)
        self._tokenizer: DocumentTokenizer | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A sheet every so many steps."""
        if _due(trainer, self.every):
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last sheet."""
        self._write(trainer, pl_module)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(pl_module, FusionLMTraining):
            return
        net = pl_module.whole_net()
        if net is None:
            return
        with torch.random.fork_rng(devices=[]):  # the training's random numbers are not touched
            documents = self._draw(pl_module, net)
        step = trainer.global_step
        lines = [
            json.dumps([s if isinstance(s, str) else None for s in d], ensure_ascii=False) for d in documents
        ]
        sheet = picture_sheet([[document_picture(d)] for d in documents], width=1, enlarge=1)
        _save(trainer, "samples", sheet)
        write_text(_file(trainer, "samples", ".jsonl"), "".join(line + "\n" for line in lines))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", "\n\n".join(lines), step)

    def _draw(self, training: FusionLMTraining, net: FusionLM) -> list[list[str | Tensor]]:
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
            except ValueError:  # no room for what `then` asks behind one of the prompts
                results += generate(net, vocab, fitting, **options)
        return [self._tokenizer.decode(result.tokens, partial="drop") for result in results]


class Predictions(BasePredictionWriter):
    """What ``predict`` writes below RUN/predictions.

    Image tokenizer: the reconstructions as PNG files, codes.jsonl with a line per image. Transformer:
    losses.jsonl with a line per window, the mean loss and that of each token.
    """

    def __init__(self) -> None:
        super().__init__("batch")
        self._count = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._count = 0
        for name in ("codes.jsonl", "losses.jsonl"):
            (self._folder(trainer) / name).unlink(missing_ok=True)

    def write_on_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, prediction: Any, *args: Any
    ) -> None:
        """One batch."""
        folder = self._folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        if "codes" in prediction:
            lines = []
            for image, codes in zip(prediction["reconstructions"], prediction["codes"]):
                name = f"{self._count:06d}.png"
                to_pil(image.cpu()).save(folder / name)
                lines.append({"image": name, "codes": codes.tolist()})
                self._count += 1
            _append(folder / "codes.jsonl", lines)
            return
        lines = []
        for window, losses in zip(prediction["windows"].tolist(), prediction["losses"].cpu().numpy()):
            counted = losses[losses > 0]
            mean = float(counted.mean()) if len(counted) else None
            lines.append({"window": window, "loss": mean, "tokens": np.round(losses, 4).tolist()})
        _append(folder / "losses.jsonl", lines)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where."""
        print(f"predictions written to {self._folder(trainer)}")

    def _folder(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "predictions"


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _due(trainer: L.Trainer, every: int) -> bool:
    step = trainer.global_step
    return every > 0 and step % every == 0 and 0 < step < trainer.max_steps


def _file(trainer: L.Trainer, name: str, suffix: str) -> Path:
    return Path(trainer.default_root_dir) / name / f"step-{trainer.global_step:06d}{suffix}"


def _save(trainer: L.Trainer, name: str, picture: Image.Image) -> None:
    """As a file and into TensorBoard."""
    path = _file(trainer, name, ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(picture), trainer.global_step, dataformats="HWC")
