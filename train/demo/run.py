"""Runs the demo: trains a model from scratch, and writes samples and a report.

Most of its eight stages (``stages``) are commands that a user can type too. A stopped demo resumes at its
current stage, trainings at their last checkpoint. The folder of a run:

    plan.json          seed, budget, hyper-parameters, versions: a folder belongs to one plan
    stages.json        finished stages and their times
    data/              images and documents, as data sets; held_out/: what is measured
    text-tokenizer/    text.model
    image-tokenizer/   checkpoint, curves, model/
    tokens/            packed windows of tokens
    lm/                checkpoint, curves, model/
    model/             the model folder that `earlyfusion sample` and `earlyfusion eval` take
    evaluation/        reconstruction-*.json, reading-*.json, writing-words.json, and pictures
    samples/           drawings and interleaved documents
    results.json       all figures
    samples.png        some pictures for a README
    summary.md         the figures in Markdown
    report.html        figures and pictures, in one file
"""

import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...eval.report.figures import REFERENCES, headline, verdict
from ...eval.report.page.numbers import duration, rough_duration
from ...storage.files import read_json, write_json
from ...storage.results import move_aside
from ...tokenizers.progress import part_of_more, suggest
from .budget import CONFIGS, plan
from .machine import facts, peak_memory, versions
from .stages import Command, Run, Stage, Work, stages

PLAN, STAGES = "plan.json", "stages.json"
CAUTION = 20.0
"""Seconds that are taken to go as planned, so that a short first stage does not decide about hours."""
SLOW = 1.25
"""A pace that is called slower than planned."""
Execute = Callable[[Command], Any]
"""Runs ``earlyfusion`` with these words; raises errors."""


@dataclass
class Record:
    """stages.json: stage -> {"done", "seconds", and the results of the stage}."""

    path: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage is finished and its outputs still exist."""
        there = all((self.path.parent / name).exists() for name in stage.outputs)
        return there and bool(self.stages.get(stage.name, {}).get("done"))

    def add(self, stage: Stage, seconds: float, **values: Any) -> None:
        """Add the seconds spent on a stage to those before an interruption."""
        spent = float(self.stages.get(stage.name, {}).get("seconds", 0))
        memory = peak_memory()
        self.stages[stage.name] = {
            "seconds": round(spent + seconds, 2),
            "peak_memory_bytes": memory,
            **values,
        }
        write_json(self.path, self.stages)

    def forget(self, stages: Sequence[Stage]) -> None:
        """Remove the outputs of stages, since an earlier stage has changed."""
        for stage in stages:
            self.stages.pop(stage.name, None)
            for name in stage.outputs:
                path = self.path.parent / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write_json(self.path, self.stages)


def run(folder: Path, seed: int, budget: str | Path, execute: Execute) -> None:
    """Run the demo in ``folder``, or resume it.

    Args:
        folder: Folder of the run.
        seed: Random seed.
        budget: Name of a folder in ``CONFIGS``, or another such folder.
        execute: Runs a command of ``earlyfusion``.

    Raises:
        ValueError: ``folder`` holds another demo, or something else.
        ImportError: The extra ``demo`` is missing.
        KeyboardInterrupt: The user stopped it; the same call resumes.
    """
    configs = CONFIGS / budget
    command = f"earlyfusion demo --out {shlex.quote(str(folder))} --seed {seed} --budget {budget}"
    _check_plan(folder, seed, configs)
    record = Record(folder / STAGES)
    if record.path.is_file():
        record.stages = read_json(record.path, "the record of a demo")
    this = Run(folder, seed, configs, facts(command), record.stages)
    todo, expected = stages(this), this.budget.seconds
    console = Console(stderr=True, highlight=False)
    for number, stage in enumerate(todo):
        title = f"\\[{number + 1}/{len(todo)}] {stage.name}"
        if record.is_done(stage):
            console.print(f"[dim]{title}: done before[/dim]")
            continue
        here, after, pace = outlook(todo, number, expected, record)
        slow = f" (slower than planned: {pace:.1f} times so far)" if pace >= SLOW else ""
        later = f", then {rough_duration(after)} more" if after else ""
        console.print(f"[bold]{title}[/bold]  about {rough_duration(here)}{later}{slow}")
        started = time.perf_counter()
        try:
            kept = [_step(step, this, execute, console, after) for step in stage.steps]
        except KeyboardInterrupt:
            record.add(stage, time.perf_counter() - started)
            console.print(f"stopped in [bold]{stage.name}[/bold]; to resume, run the same command again:")
            console.print(f"  {command}", soft_wrap=True, markup=False)
            raise
        values = {name: value for one in kept for name, value in one.items()}
        record.add(stage, time.perf_counter() - started, done=True, **values)
        record.forget(todo[number + 1 :])
    _summary(folder)


def set_aside(folder: Path) -> None:
    """Move the demo in ``folder`` aside, if there is one."""
    if (folder / PLAN).is_file():
        print(f"the earlier demo in {folder} is now {move_aside(folder)}")


def _step(
    step: Command | Work, this: Run, execute: Execute, console: Console, after: float
) -> dict[str, Any]:
    """Print and run one step; returns its entries for stages.json."""
    if callable(step):
        console.print(f"  # {step.__doc__}", style="dim", markup=False, soft_wrap=True)
        return step(this)
    console.print(f"  earlyfusion {shlex.join(step)}", style="dim", markup=False, soft_wrap=True)
    with part_of_more(after):
        execute(step)
    return {}


def _check_plan(folder: Path, seed: int, configs: Path) -> None:
    """Write plan.json, or check that it has the same plan."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file: give a folder")
    path = folder / PLAN
    now = _as_json({"seed": seed, "budget": plan(configs), "versions": versions()})
    if path.is_file():
        before = read_json(path, "a demo's plan")
        if difference := _difference(before, now):
            raise ValueError(
                f"{folder} holds a demo with {difference}: give another folder (--out), or --overwrite, "
                "which moves this one aside"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and not from a demo: give another folder (--out)")
    write_json(path, now)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _difference(before: Any, now: Any, name: str = "") -> str:
    """The first difference of two plans in words; empty if they are equal."""
    if isinstance(before, dict) and isinstance(now, dict):
        if name == "budget." and before.get("name") != now.get("name"):
            return f"budget {before.get('name')}, not {now.get('name')}"
        found = (_difference(before.get(k), now.get(k), f"{name}{k}.") for k in {**now, **before})
        return next((difference for difference in found if difference), "")
    return "" if before == now else f"{name.rstrip('.')} {before}, not {now}"


def outlook(
    todo: Sequence[Stage], number: int, expected: Mapping[str, float], record: Record
) -> tuple[float, float, float]:
    """The expected seconds of a stage and of all after it, from the plan and the pace of the stages so far.

    Args:
        todo: All stages.
        number: The stage that begins.
        expected: The plan: seconds of each stage.
        record: What the stages before it took, and an earlier part of this one.

    Returns:
        Seconds left in this stage, seconds after it, and the pace: how many times longer than planned.
    """
    done = [stage.name for stage in todo[:number] if stage.name in record.stages]
    took = sum(record.stages[name]["seconds"] for name in done)
    pace = (took + CAUTION) / (sum(expected.get(name, 0) for name in done) + CAUTION)
    here, *after = (pace * expected.get(stage.name, 0) for stage in todo[number:])
    spent = record.stages.get(todo[number].name, {}).get("seconds", 0)
    return max(0.0, here - spent), sum(after), pace


def _summary(folder: Path) -> None:
    """Print the figures as a table, and the paths."""
    results = read_json(folder / "results.json", "the figures of a demo")
    table = Table("held out", "this run", *REFERENCES, "", title_justify="left")
    for card in headline(results):
        known = {mark.name: f"{mark.share:.0%}" for mark in card.marks}
        table.add_row(
            card.label, f"[bold]{card.value}[/bold]", *(known.get(n, "") for n in REFERENCES), card.note
        )
    console = Console(highlight=False)
    for sentence in verdict(results):
        console.print(sentence, markup=False)
    console.print(table)
    memory = results["peak_memory_bytes"] / 2**30
    console.print(f"{duration(results['seconds'])}, peak memory {memory:.1f} GiB", soft_wrap=True)
    console.print(f"model:  {folder / 'model'}", soft_wrap=True)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    console.print(f"open {(folder / 'report.html').resolve().as_uri()}", soft_wrap=True, markup=False)
    suggest(f"earlyfusion playground {shlex.quote(str(folder / 'model'))}")
