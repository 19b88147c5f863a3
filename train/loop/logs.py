"""``metrics.csv``: one row per step, continued where a stopped run ended."""

import csv
import io
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger

from ...storage.files import write_text
from .logged_training import LoggedTraining

FILE = "metrics.csv"


class CsvLog(Logger):
    """Appends to ``folder``/metrics.csv; Lightning's CSVLogger deletes or splits that of a resumed run."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / FILE
        self._columns: list[str] = []
        self.pending: dict[str, float] = {}
        """The current row, which is written when the next one begins."""
        self._opened = False

    @property
    def name(self) -> str:
        return ""  # the folder is the run's

    @property
    def version(self) -> str:
        return ""  # a run that resumes is the same run

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's config file has them."""

    @rank_zero_only
    def begin(self, step: int, row: dict[str, float] | None = None) -> None:
        """Keep only the rows before ``step``, where training starts or resumes.

        Args:
            step: The first step that is not kept.
            row: The pending row in the checkpoint, which replaces the file's.
        """
        end = row["step"] if row else step
        rows = [kept for kept in _rows(self.path) if float(kept["step"]) < end]
        self._columns = list(dict.fromkeys(name for kept in rows for name in kept)) or ["step"]
        self._opened, self.pending = True, dict(row or {})
        self._rewrite(rows)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add to the row of ``step``, which is written when the next row starts."""
        if not self._opened:  # validate does not call begin
            self.begin(2**62)
        if self.pending and self.pending["step"] != step:
            self.save()
        values = {name: float(value) for name, value in metrics.items() if math.isfinite(float(value))}
        self.pending |= {"step": 0 if step is None else step, **values}

    @rank_zero_only
    def save(self) -> None:
        """Write the current row."""
        if not self.pending:
            return
        row, self.pending = {name: _text(value) for name, value in self.pending.items()}, {}
        if new := [name for name in row if name not in self._columns]:
            self._columns += new
            self._rewrite([*_rows(self.path), row])
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the last row."""
        if self._opened:
            self.save()

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())


class Curves(Callback):
    """Logs the figures of the training, and continues the CSV log of a run that resumes.

    Lightning logs after it writes checkpoints, and the CSV log holds a row back until the next one begins:
    the row of that step is therefore stored in the checkpoint.
    """

    def __init__(self) -> None:
        self._log: CsvLog | None = None
        self._row: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._log = next((one for one in trainer.loggers if isinstance(one, CsvLog)), None)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._log is not None:  # drop the rows that will be written again
            self._log.begin(trainer.global_step, self._row)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(pl_module, LoggedTraining):
            pl_module.log_figures()

    def state_dict(self) -> dict[str, Any]:
        return {"row": {} if self._log is None else dict(self._log.pending)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._row = state_dict["row"]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return [{name: v for name, v in row.items() if name and v} for row in rows if row.get("step")]


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.7g}"
