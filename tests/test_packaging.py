"""The tree, the wheel and the pins: what a checkout cannot show about an installation."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from earlyfusion.data.render.fonts import held_out_fonts, train_fonts

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
ROOT_FILES = (Path("__init__.py"), Path("_moved.py"), Path("_threads.py"), Path("py.typed"))
NOT_PACKAGES = ("tests", "benchmarks", "docs", "examples")
ORDER = (
    {"storage"},
    {"tokenizers"},
    {"encoders"},
    {"fusion_lm", "data"},
    {"eval"},
    {"train"},
    {"playground"},
    {"cli"},
)
"""Each folder may import those before it, and none beside or behind it."""
LEVEL = {folder: level for level, folders in enumerate(ORDER) for folder in folders}


def code() -> list[Path]:
    """The Python files of the package's folders, from the root."""
    files = [p.relative_to(ROOT) for folder in LEVEL for p in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    return sorted(files)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module from the root) of each import of a file, those in functions and for types too.

    Relative ones are resolved; an absolute one is as it is written.
    """
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.ImportFrom):
            above = path.parts[: len(path.parts) - node.level]
            for alias in node.names:
                yield node.lineno, ".".join(("earlyfusion", *above, *filter(None, (node.module, alias.name))))


def arrows() -> dict[tuple[str, str], list[str]]:
    """(folder, folder that it imports) -> the lines that do."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in code():
        for line, module in imports(path):
            top, _, rest = module.partition(".")
            if top == "earlyfusion":
                found.setdefault((path.parts[0], rest.partition(".")[0]), []).append(f"{path}:{line}")
    return found


def requirements(extra: str) -> list[Requirement]:
    """What pyproject.toml asks for; "" is the core."""
    project = PROJECT["project"]
    return [
        Requirement(r)
        for r in (project["optional-dependencies"][extra] if extra else project["dependencies"])
    ]


def pins() -> dict[str, Requirement]:
    """constraints.txt by name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): r for r in found}


# the tree


def test_every_folder_with_code_is_a_package_and_no_other():
    folders = {Path(".")}
    for top in ROOT.iterdir():
        if top.is_dir() and not top.name.startswith(".") and top.name not in NOT_PACKAGES:
            folders |= {p.parent.relative_to(ROOT) for p in top.rglob("*.py") if "build" not in p.parts}
    folders.add(Path("train/configs"))  # data alone
    assert sorted(PACKAGES) == sorted(".".join(("earlyfusion", *folder.parts)) for folder in folders)


def test_only_the_root_is_marked_as_a_package():
    assert [p for p in code() if p.name == "__init__.py"] == []  # or ./tokenizers would hide Hugging Face's
    assert sorted(p.name for p in ROOT.glob("*.py")) == ["__init__.py", "_moved.py", "_threads.py"]
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_imports_go_one_way():
    edges = arrows()
    assert ("train", "tokenizers") in edges and ("cli", "train") in edges
    wrong = {
        f"{source} -> {target}": lines
        for (source, target), lines in edges.items()
        if source != target and not LEVEL.get(target, len(ORDER)) < LEVEL[source]
    }
    assert wrong == {}


def test_the_page_does_without_the_trainings():
    assert ("playground", "train") not in arrows()


def test_imports_inside_the_package_are_relative():
    for path in code():
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) earlyfusion\b", text, re.MULTILINE), path


def test_the_core_does_without_lightning():
    for path in code():
        if path.parts[0] in ("storage", "tokenizers", "encoders", "fusion_lm"):
            assert not [module for _, module in imports(path) if "lightning" in module], path


# the extras


def test_a_missing_extra_skips_a_test_but_not_in_continuous_integration(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        pytest.importorskip("earlyfusion.nowhere")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(ImportError):
        pytest.importorskip("earlyfusion.nowhere")
    assert pytest.importorskip("json") is json


# the pins


@pytest.mark.parametrize("extra", ["", "ocr", "demo", "docs", "dev"])
def test_what_the_commands_install_is_pinned(extra):
    found = pins()
    for requirement in requirements(extra):
        if requirement.name != "earlyfusion":
            (pin,) = found[canonicalize_name(requirement.name)].specifier
            assert pin.operator == "==" and requirement.specifier.contains(pin.version), requirement
            assert "+" not in pin.version, f"{requirement.name}: a local version is not on every index"


def test_what_these_need_in_turn_is_pinned_too():
    found, seen = pins(), set()
    extras = ("", "ocr", "demo", "docs", "dev")
    todo = [r for extra in extras for r in requirements(extra) if r.name != "earlyfusion"]
    while todo:
        requirement = todo.pop()
        if (key := (requirement.name, frozenset(requirement.extras))) in seen:
            continue
        seen.add(key)
        assert canonicalize_name(requirement.name) in found, f"constraints.txt lacks {requirement.name}"
        for line in importlib.metadata.requires(requirement.name) or []:
            needed = Requirement(line)
            environments = [{"extra": extra} for extra in requirement.extras or {""}]
            if needed.marker is None or any(needed.marker.evaluate(e) for e in environments):
                todo.append(needed)
    assert len(seen) > 50


def test_the_demo_installs_the_fonts_it_uses():
    names = {canonicalize_name(r.name) for r in requirements("demo")}
    for font in (*train_fonts(), *held_out_fonts()):
        package = Path(font.path).parts[Path(font.path).parts.index("site-packages") + 1]
        assert canonicalize_name(package) in names, font


# the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: setuptools leaves files in the source tree, and packs old ones."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "*.egg-info", "tests")
    source = shutil.copytree(ROOT, folder / "source", ignore=left_out)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "would be ignored" not in done.stdout + done.stderr  # setuptools, of folders that hold data
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory) -> Path:
    """A folder that the wheel, without its dependencies, is installed into."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, str(folder), str(wheel)], check=True)
    return folder


def run_there(site: Path, code: str, cwd: Path) -> str:
    """The output of `code` far from the checkout, the wheel's own installation before all others."""
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    expected = {f"earlyfusion/{path.as_posix()}" for path in (*code(), *ROOT_FILES)}
    configs = [*(ROOT / "train/configs").glob("*.yaml"), *(ROOT / "train/demo/configs").glob("*/*.yaml")]
    expected |= {f"earlyfusion/{p.relative_to(ROOT).as_posix()}" for p in configs}
    data = [
        *(ROOT / "pretrained").rglob("*"),
        *(ROOT / "playground").rglob("*.*"),
        *(ROOT / "data").rglob("*.txt"),
    ]
    expected |= {
        f"earlyfusion/{p.relative_to(ROOT).as_posix()}"
        for p in data
        if p.is_file() and p.suffix not in (".py", ".pyc")
    }
    info = next(name for name in names if name.endswith(".dist-info/RECORD")).partition("/")[0]
    assert {n for n in names if not n.startswith(info)} == expected
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE", f"{info}/entry_points.txt"} <= names
    assert re.search(r"^License-Expression: Apache-2\.0$", metadata, re.MULTILINE)


def test_the_wheel_works_from_elsewhere(site, tmp_path):
    output = run_there(
        site,
        """
import json, importlib.resources, yaml
import earlyfusion
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.tokenizers.documents import DocumentTokenizer
from earlyfusion.eval.tasks import reading
from earlyfusion.cli.main import main
folder = importlib.resources.files("earlyfusion.train.configs")
configs = [f for f in folder.iterdir() if f.name.endswith(".yaml")]
loaded = [yaml.safe_load(f.read_text(encoding="utf-8")) for f in configs]
modules = [earlyfusion, *(sys.modules[c.__module__] for c in (FusionLM, DocumentTokenizer, main)), reading]
print(json.dumps({"files": [m.__file__ for m in modules], "configs": loaded}, default=str))
""",
        tmp_path,
    )
    result = json.loads(output)
    assert all(Path(file).is_relative_to(site) for file in result["files"])
    assert len(result["configs"]) == len(list((ROOT / "train/configs").glob("*.yaml"))) > 0
    assert all(isinstance(config, dict) and config for config in result["configs"])


def test_the_wheel_brings_a_model(site, tmp_path):
    output = run_there(
        site,
        """
from earlyfusion.storage.hub import PRETRAINED
from earlyfusion.cli.main import main
code = main(["sample", "A red apple:", "--preview"])
assert not {"torch._dynamo", "lightning", "datasets"} & set(sys.modules)  # which take longer than sampling
print(PRETRAINED, code)
""",
        tmp_path,
    )
    assert output.split()[-2:] == [str(site / "earlyfusion" / "pretrained" / "openmoji-words"), "0"]
    assert list((tmp_path / "runs/samples/001").glob("*.png"))


def test_the_wheel_leaves_hugging_faces_tokenizers_alone(site, tmp_path):
    pytest.importorskip("tokenizers")
    assert sorted(p.name for p in site.iterdir() if "dist-info" not in p.name and p.name != "bin") == [
        "earlyfusion"
    ]
    output = run_there(site, "import tokenizers; print(tokenizers.__file__, tokenizers.Tokenizer)", tmp_path)
    assert "site-packages" in output and str(site) not in output
    there = subprocess.run(
        [sys.executable, "-c", "import tokenizers; print(tokenizers.Tokenizer)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert there.returncode == 0, there.stderr  # from inside a checkout too


def test_the_command_is_installed(site):
    (info,) = site.glob("earlyfusion-*.dist-info")
    points = importlib.metadata.Distribution.at(info).entry_points
    assert [(p.name, p.value) for p in points] == [("earlyfusion", "earlyfusion.cli.main:main")]
    done = subprocess.run([site / "bin" / "earlyfusion", "--version"], capture_output=True, text=True)
    assert done.stdout == f"earlyfusion {PROJECT['project']['version']}\n"


# the Makefile


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_passes_its_variables_on():
    command = [
        "make",
        "-n",
        "demo",
        "BUDGET=quick",
        "OUT=runs/x y",
        "SEED=3",
        "VENV=none",
        "TORCH_INDEX=https://x.org",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'none/bin/earlyfusion demo --out "runs/x y" --seed "3" --budget "quick"' in done.stdout
    assert '--index-url "https://x.org" torch' in done.stdout
    assert "-c constraints.txt -e '.[demo]'" in done.stdout
