"""Pictures of reconstructions, during training and with ``predict``."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from ...eval.report.page.canvas import picture_sheet
from ...tokenizers.pixels import to_pil
from ..callbacks.pictures import Drawing, save_sheet
from ..callbacks.predictions import PredictionFiles
from .ema import averaged
from .module import ImageTokenizerTraining


class Reconstructions(Drawing):
    """Writes RUN/reconstructions/step-N.png: validation images above their reconstructions."""

    def __init__(self, every: int = 1000, count: int = 24, seed: int = 0) -> None:
        """
        Args:
            every: Steps between two sheets; 0 writes only one at the end.
            count: Number of images on a sheet.
            seed: Random seed that selects the images, the same for every sheet.
        """
        super().__init__(every)
        self.count, self.seed = count, seed
        self._images: list[Tensor] | None = None

    @torch.no_grad()
    def draw(self, trainer: L.Trainer, training: L.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(training, ImageTokenizerTraining):
            return
        if self._images is None:
            data: Any = getattr(trainer, "datamodule", None)
            self._images = data.examples(self.count, self.seed) if hasattr(data, "examples") else []
        if not self._images:
            return
        net = training.net
        net.eval()
        cells = []
        with averaged(trainer, training):
            for image in self._images:
                again = net(image[None].to(training.device), quantize=training.codebook_ready).images[0]
                cells.append([to_pil(image), to_pil(again.cpu())])
        net.train()
        save_sheet(trainer, "reconstructions", picture_sheet(cells))


class ReconstructionFiles(PredictionFiles):
    """Writes RUN/predictions: the reconstructions as PNG files, and codes.jsonl with a line per image."""

    file = "codes.jsonl"

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_predict_start(trainer, pl_module)
        self._count = 0

    def lines(self, prediction: Any) -> list[dict[str, Any]]:
        lines = []
        for image, codes in zip(prediction["reconstructions"], prediction["codes"]):
            name = f"{self._count:06d}.png"
            to_pil(image.cpu()).save(self.folder / name)
            lines.append({"image": name, "codes": codes.tolist()})
            self._count += 1
        return lines
