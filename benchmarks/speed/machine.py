"""Machine, load and commit of a measurement, the file it is written to, and a script's command line."""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from earlyfusion.storage.files import write_json

ROOT = Path(__file__).parents[2]


def described_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of the script, without reflowing it."""
    title, _, text = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        description=title, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


FORCE = "EARLYFUSION_OVERWRITE"
"""Environment variable: "1" lets ``write_figures`` overwrite what was measured under other conditions."""
BUSY = 1.0
"""Processes beside the measurement, by the load average of a minute, from which a machine counts as busy."""
LOAD_AT_START = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
"""Load average of the last minute when the script started: what others do."""


def write_figures(path: str | Path, figures: dict[str, Any], timed: bool = True) -> None:
    """Write figures with their machine, load average, threads and commit.

    Figures of an idle machine stay if these are from a busy one, or from another machine: set
    ``EARLYFUSION_OVERWRITE=1`` to overwrite them anyway, and change the pages that state them.

    Args:
        path: The JSON file.
        figures: What was measured.
        timed: Whether the load matters; false for counts and qualities, which may be overwritten.

    Raises:
        ValueError: The file has figures of an idle machine, or of another one.
    """
    path, now = Path(path), {**facts(), **figures}
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if timed and os.environ.get(FORCE) != "1":
        if now["load"] >= BUSY and old and old.get("load", 0.0) < BUSY:
            raise ValueError(
                f"{path} has figures of an idle machine, and this one had a load of {now['load']:.1f} when "
                f"the script started: wait until it is below {BUSY:g}, write to another file, or set "
                f"{FORCE}=1"
            )
        if old.get("cpus", now["cpus"]) != now["cpus"]:
            raise ValueError(
                f"{path} has figures of {old['cpus']} CPUs, and this machine has {now['cpus']}: write to "
                f"another file, or set {FORCE}=1"
            )
    write_json(path, now)


def facts() -> dict[str, Any]:
    """Machine, load, versions and commit."""
    return {
        "machine": processor(),
        "cpus": os.cpu_count(),
        "load": round(LOAD_AT_START, 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "commit": commit(),
    }


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The checkout's commit, with "and changes" if it is not clean; "unknown" outside a checkout."""
    head = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{head}{' and changes' if changed else ''}" if head else "unknown"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
