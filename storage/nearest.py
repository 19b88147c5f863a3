"""The known name or path that a mistyped one most resembles, for error messages."""

import difflib
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(name: str | Path, known: Iterable[str]) -> str:
    """``did you mean 'x'? `` with the most similar of ``known``; empty if none is similar."""
    similar = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {similar[0]!r}? " if similar else ""


def similar_path(path: str | Path) -> str:
    """``did you mean a/b? `` with the existing path that ``path`` most resembles; empty if there is none."""
    found = Path()
    for part in Path(path).parts:
        here = found / part
        if not here.exists():
            names = [one.name for one in found.iterdir()] if found.is_dir() else []
            similar = difflib.get_close_matches(part, [n for n in names if not n.startswith(".")], n=1)
            if not similar:
                return ""
            here = found / similar[0]
        found = here
    return f"did you mean {found}? "
