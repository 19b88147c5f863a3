"""Writes the results of ``predict`` to RUN/predictions."""

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter


class PredictionFiles(BasePredictionWriter):
    """Writes JSON lines batch by batch; ``lines`` may write more files to ``folder``."""

    file = "predictions.jsonl"

    def __init__(self) -> None:
        super().__init__("batch")
        self.folder = Path()
        """RUN/predictions."""

    @abstractmethod
    def lines(self, prediction: Any) -> list[dict[str, Any]]:
        """The JSON lines for one batch that ``predict_step`` returned."""

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.folder = Path(trainer.default_root_dir) / "predictions"
        (self.folder / self.file).unlink(missing_ok=True)

    def write_on_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, prediction: Any, *args: Any
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / self.file).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in self.lines(prediction))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        print(f"predictions written to {self.folder}")
