"""``earlyfusion configs``: the config files that come with the package; ``--config NAME`` takes them, too."""

import textwrap
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..storage.nearest import did_you_mean, similar_path
from .terminal import add_command

FOLDER = Path(__file__).parents[1] / "train" / "configs"


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "configs",
        "list the config files of trainings and of prepare, or print one",
        """\
List the config files that come with the package, or print one, to copy and change it. The
option --config of trainings and of prepare takes their names, unless a file has that name.""",
        """\
  earlyfusion configs
  earlyfusion configs lm_small > my_lm.yaml
  earlyfusion lm fit --config lm_small --data.path=runs/tokens""",
        run,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of a config file (default: list all)")


def run(args: Namespace) -> None:
    if args.name is not None:
        print(_packaged(args.name).read_text(encoding="utf-8"), end="")
        return
    for path in sorted(FOLDER.glob("*.yaml")):
        print(f"{path.stem:<30}{_summary(path)}")


def resolved(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command with the paths of the configs that ``--config`` names.

    Raises:
        FileNotFoundError: There is neither a file nor a packaged config of that name.
    """
    found = list(arguments)
    for i, word in enumerate(found):
        option, equal, value = word.partition("=")
        if option == "--config" and equal:
            found[i] = f"--config={_path(value)}"
        elif word == "--config" and i + 1 < len(found):
            found[i + 1] = str(_path(found[i + 1]))
    return found


def _path(name: str) -> Path:
    return Path(name) if Path(name).exists() else _packaged(name)


def _packaged(name: str) -> Path:
    """The config file ``name``, with or without its suffix, of the package."""
    known = {path.name: path for path in FOLDER.glob("*.yaml")}
    if (path := known.get(name) or known.get(f"{name}.yaml")) is not None:
        return path
    names = [one if Path(name).suffix else Path(one).stem for one in known]
    hint = did_you_mean(name, [*names, *map(str, Path(name).parent.glob("*.yaml"))]) or similar_path(name)
    raise FileNotFoundError(
        f"config {name} not found: {hint}`earlyfusion configs` lists those of the package"
    )


def _summary(path: Path) -> str:
    """The first sentence of the comment that the file begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#   "):
            break
        lines.append(line.removeprefix("# "))
    text = " ".join(lines).split(": ")[0].split(". ")[0].rstrip(":.")
    return textwrap.shorten(text, 78, placeholder=" ...")
