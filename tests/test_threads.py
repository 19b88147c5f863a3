"""The threads of torch: how many, and how they wait."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from earlyfusion import _threads

WAITING = {"GOMP_SPINCOUNT": str(_threads.SPINS), "KMP_BLOCKTIME": str(_threads.BLOCK_MILLISECONDS)}
NAMES = {*WAITING, "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}


def variables(environment: dict[str, str], cpus: int = 4, quota: float | None = None) -> dict[str, str]:
    """The variables after ``set_variables``."""
    _threads.set_variables(environment, cpus, quota)
    return environment


def imported(before: str = "", **environment: str) -> dict[str, str]:
    """The variables of OpenMP in a new process that imported the package."""
    code = f"import json, os, sys\n{before}\nimport earlyfusion\nprint(json.dumps(dict(os.environ)))"
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    return {name: value for name, value in json.loads(done.stdout).items() if name in NAMES}


def test_the_package_chooses_before_torch_is_there_and_only_then():
    assert imported(OMP_NUM_THREADS="1") == {**WAITING, "OMP_NUM_THREADS": "1"}
    there = "sys.modules['torch'] = sys"  # as after `import torch`, which takes seconds
    assert imported(there) == {}


def test_what_the_user_set_stays():
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        rest = {} if name == "OMP_WAIT_POLICY" else WAITING
        assert variables({name: "x"}) == {**rest, name: "x"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        assert variables({name: "3"}, quota=1.0) == {**WAITING, name: "3"}


@pytest.mark.parametrize(
    ("quota", "threads"), [(None, None), (0.2, "1"), (1.0, "1"), (2.5, "3"), (4.0, None), (9.0, None)]
)
def test_a_quota_below_the_cpus_limits_the_threads(quota, threads):
    assert variables({}, 4, quota).get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),  # the one above
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),  # a container
        ("0::/../x", {"cpu.max": "300000 100000"}, 3.0),
        ("0::/a", {"a/cpu.max": "max 100000"}, None),
        ("3:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "20000"}, 2.5),
        # a container that sees the name its group has outside
        (
            "3:cpu,cpuacct:/docker/x",
            {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("4:cpuset:/\n0::/a", {"unified/a/cpu.max": "100000 100000"}, 1.0),  # both versions at once
        ("nonsense", {"cpu.max": "nonsense"}, None),
        ("0::/", {"cpu.max": "0 0"}, None),
    ],
)
def test_the_quota_is_the_lowest_of_the_control_groups(tmp_path: Path, groups, files, quota):
    (tmp_path / "self").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert _threads.quota(str(tmp_path / "self"), str(tmp_path / "cgroup")) == quota


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path):
    assert _threads.quota(str(tmp_path / "self"), str(tmp_path / "cgroup")) is None
