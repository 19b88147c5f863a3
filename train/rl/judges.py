"""Independent judges of an alignment: what it writes and reads, beside the reward that it is trained on.

A reward can rise while the result gets worse: the model learns what the reward's reader accepts. Judges
measure with other readers and held-out texts, keep the model with the best figures, and stop a run that only
pleases its reward.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from ...eval.metrics.ocr import INSTALL, Reader, readers
from ...eval.report.alignment import REPORT, alignment_page
from ...fusion_lm.cpu.packed_weights import for_generation
from ...fusion_lm.model import FusionLM
from ...storage.files import write_text
from ...tokenizers.documents import DocumentTokenizer
from ..callbacks.divergence import trouble
from .held_out import Figures, HeldOut, Part, held_out, line, parts

BEST = "best"
"""Folder in a run's folder with the model that the judges liked best."""
TASKS = {"write": "writing/", "read": "reading/"}
"""Kind of prompts -> the figures that judge it."""


@dataclass(frozen=True)
class Judgement:
    """A measurement; plain values, stored in the checkpoints."""

    step: int
    """Steps before it; 0: the model that the run started from."""
    score: float | None
    """Mean exact match of what is trained, see ``score_of``; None if nothing was judged."""
    reward: float | None
    """The mean reward at that time, if known."""


class Judges(Callback):
    """Measures a model on held-out texts as its alignment proceeds, see ``held_out.parts``.

    The figures are logged as ``judge/NAME``, the mean of what is trained (``score_of``) as ``judge/score``.
    RUN/best is the model with the highest score, RUN/model the last one. RUN/report.html is written last.
    """

    def __init__(
        self,
        every: int = 50,
        words: int = 150,
        strings: int = 100,
        read: int = 200,
        names: int = 100,
        draws: int = 64,
        bits: bool = True,
        engines: list[str] | None = None,
        patience: int = 4,
        drop: float = 0.05,
        seed: int = 0,
    ) -> None:
        """
        Args:
            every: Steps between two measurements; 0 measures only before the first step and at the end.
            words: Held-out words to write; 0 writes none.
            strings: Random strings to write.
            read: Images of held-out words and random strings, in held-out fonts, to read.
            names: Pictures of known things to name.
            draws: Known things to draw, at temperature 0.4.
            bits: Whether to measure the bits per byte of text and per pixel of images in held-out documents.
            engines: OCR engines that read what the model writes (rapidocr, tesseract); None: all installed.
            patience: Measurements in a row below the best score, while the reward is above that of the best,
                before training stops; 0 never stops it.
            drop: How far below the best score these measurements are, at least; 0.05 is 5 percentage points.
            seed: Random seed of the texts and pictures, which are the same at every measurement.
        """
        super().__init__()
        counts = {"every": every, "words": words, "strings": strings, "read": read, "names": names}
        for name, value in (counts | {"draws": draws, "patience": patience}).items():
            if value < 0:
                raise ValueError(f"judges.{name} is {value}, expected 0 (off) or a positive number")
        if not 0 <= drop <= 1:
            raise ValueError(f"judges.drop is {drop}, expected 0 to 1, such as 0.05 for 5 percentage points")
        self.every, self.engines, self.patience, self.drop = every, engines, patience, drop
        self.words, self.strings, self.read, self.names, self.draws = words, strings, read, names, draws
        self.bits, self.seed = bits, seed
        self.history: list[Judgement] = []
        """All measurements, in order."""
        self._readers: Sequence[Reader] = ()
        self._parts: dict[str, Part] = {}

    # what is measured

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            ValueError: An engine is unknown, or not installed.
        """
        if stage != "fit":
            return
        self.history = []  # of this training; a checkpoint's is loaded after it
        self._readers = readers(self.engines) if self.words + self.strings else ()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not _rehearsal(trainer):
            if self.engines is None and self.words + self.strings and not self._readers:
                print(f"judges: writing is not judged: {INSTALL}")
            try:
                counts = self.words, self.strings, self.read, self.names, self.draws
                held = held_out(*counts, self.bits, self.seed)
            except ImportError as error:
                print(f"judges: nothing is judged: {error}")
                held = HeldOut()
            self._parts = parts(held, self._readers)
        self._stop_if_only_the_reward_rises(trainer)  # a run that was stopped, and is resumed

    # when

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 0:  # later than on_train_start, where the log begins
            self._measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        last = step >= trainer.max_steps > 0  # measured before its checkpoint is written
        if step and (last or (self.every and step % self.every == 0)):
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._measure(trainer, pl_module)
        best = best_of(self.history)
        if best is not None and best.step != trainer.global_step and trainer.is_global_zero:
            print(
                f"judges: {BEST} is the model of step {best.step} (score {best.score:.1%}), model that of "
                f"step {trainer.global_step}"
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero or _rehearsal(trainer):
            return
        for logger in trainer.loggers:
            logger.save()  # the last row
        run = Path(trainer.default_root_dir)
        write_text(run / REPORT, alignment_page(run))

    # one measurement

    def _measure(self, trainer: Any, training: Any) -> None:
        """Measure, log and print, unless this step was measured; all ranks call it."""
        step = trainer.global_step
        if _rehearsal(trainer) or (self.history and self.history[-1].step == step):
            return
        with training.averaged():
            net = training.whole_net()
            figures = {} if net is None else self._figures(net, training.tokenizer)
            figures, reward = trainer.strategy.broadcast((figures, getattr(training, "recent_reward", None)))
            score = None if trouble(trainer) else score_of(figures, trained_kinds(trainer))
            best = best_of(self.history)
            self.history.append(Judgement(step, score, None if reward is None else float(reward)))
            if best_of(self.history) is not best:
                training.save_folder(Path(trainer.default_root_dir) / BEST)
        if figures:
            logged = figures if score is None else {**figures, "score": score}
            for logger in trainer.loggers:  # Lightning counts logged steps from 0
                logger.log_metrics({f"judge/{name}": value for name, value in logged.items()}, step - 1)
            if trainer.is_global_zero:
                told = "" if reward is None else f", reward {reward:.3f}"
                print(f"step {step}: {line(figures)}{told}")
        self._stop_if_only_the_reward_rises(trainer)

    def _figures(self, net: FusionLM, tokenizer: DocumentTokenizer) -> Figures:
        """The figures of all parts. A part that the model cannot do is left out from now on, with a line."""
        figures: Figures = {}
        # leaves the training's random numbers and modes alone
        with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(net):
            on_cpu = net.embedding.weight.device.type == "cpu"
            fast = for_generation(net, "auto") if on_cpu and self._parts.keys() - {"bits"} else net
            for name, part in list(self._parts.items()):
                try:
                    figures |= part(net if name == "bits" else fast, tokenizer)
                except ValueError as error:
                    print(f"judges: {name} is not judged: {error}")
                    del self._parts[name]
        return figures

    def _stop_if_only_the_reward_rises(self, trainer: Any) -> None:
        if trainer.global_step >= trainer.max_steps > 0:
            return
        if reason := why_stop(self.history, self.patience, self.drop):
            trainer.should_stop = True
            if trainer.is_global_zero:
                print(f"judges: stopped at step {trainer.global_step}: {reason}")

    # checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {"history": [asdict(one) for one in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [Judgement(**one) for one in state_dict["history"]]


def trained_kinds(trainer: Any) -> set[str]:
    """The kinds of prompts that the data module of a training has (its ``kinds``); all if it does not say."""
    return set(getattr(trainer.datamodule, "kinds", None) or TASKS)


def score_of(figures: Mapping[str, float], kinds: set[str]) -> float | None:
    """The mean of the exact matches that judge ``kinds`` of prompts: of words and random strings, written (by
    each engine) and read. None if there are none."""
    prefixes = tuple(prefix for kind, prefix in TASKS.items() if kind in kinds)
    found = [value for name, value in figures.items() if name.startswith(prefixes)]
    return sum(found) / len(found) if found else None


def best_of(history: Sequence[Judgement]) -> Judgement | None:
    """The measurement with the highest score, the first of equals; None without a score."""
    scored = [one for one in history if one.score is not None]
    return max(scored, key=lambda one: one.score or 0.0, default=None)


def why_stop(history: Sequence[Judgement], patience: int, drop: float) -> str:
    """Why a training should stop: the reward rose, but the judges' score stays low; "" if it should not.

    The reward of a measurement before the first step is unknown; the next one stands for it.

    Args:
        history: The measurements so far.
        patience: Measurements in a row that must lie more than ``drop`` below the best; 0: never stop.
        drop: A difference of scores.
    """
    best, last = best_of(history), list(history)[-patience:] if patience else []
    if best is None or best.score is None or not last or last[0].step <= best.step or len(last) < patience:
        return ""
    if not all(one.score is not None and one.score < best.score - drop for one in last):
        return ""
    before = next((one.reward for one in history if one.step >= best.step and one.reward is not None), None)
    now = last[-1].reward
    if before is None or now is None or now <= before:
        return ""
    return (
        f"the reward rose from {before:.3f} to {now:.3f} since step {best.step}, but the judges' score fell "
        f"from {best.score:.1%} to {last[-1].score:.1%} and was low in {patience} measurements in a row; the "
        f"model of step {best.step} is in {BEST}; to train on, resume with a larger judges.patience"
    )


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode; after it, every module is in the mode that it had."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _rehearsal(trainer: Any) -> bool:
    """Whether this is a ``fast_dev_run``, which writes nothing."""
    return bool(trainer.fast_dev_run)
