"""Where models come from: the packaged ones, by name, and folders on the Hugging Face Hub (``owner/name``).

A local folder takes precedence over both.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from .nearest import did_you_mean, similar_path
from .results import MADE

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "openmoji-words"
"""The model folder in the package; its README.md describes it."""
PACKAGED = {path.name: path for path in PRETRAINED.parent.iterdir() if path.is_dir()}
"""Name -> folder of everything in the package that was trained."""

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def local_folder(name: str | Path, files: Sequence[str] | None = None) -> Path:
    """The local folder ``name``, a folder of the package, or the downloaded model of the Hugging Face Hub.

    ``HF_HUB_OFFLINE=1`` only uses the cache; ``HF_TOKEN`` gives access to gated models.

    Args:
        name: A path, a key of ``PACKAGED``, or ``owner/name``. A path that does not exist and is not of that
            form is returned unchanged.
        files: Patterns of the files to download; None: all.

    Raises:
        FileNotFoundError: It is not a local folder, and the download failed.
    """
    folder = packaged(name)
    if folder.exists() or not _NAME.fullmatch(str(name)):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=None if files is None else list(files)))
    except Exception as error:  # network, Hub and cache raise errors of many kinds
        raise FileNotFoundError(
            f"{name} not found: {similar_path(folder)}it is not a local folder, and the Hugging Face Hub "
            f"replied: {_line(error)}"
        ) from None


def packaged(name: str | Path) -> Path:
    """The folder ``name``; if there is none, the folder of that name in the package."""
    folder = Path(name)
    return folder if folder.exists() else PACKAGED.get(str(name), folder)


def nearest(folder: str | Path) -> str:
    """``did you mean ...? `` for a folder that is missing: a packaged one, or another path."""
    return did_you_mean(folder, PACKAGED) or similar_path(folder)


def push(folder: str | Path, name: str) -> str:
    """Upload ``folder`` as the model ``name``; a new repository is private. Needs ``HF_TOKEN`` or a login.

    Returns:
        The model's address.

    Raises:
        ValueError: The name is invalid, or the Hub refuses.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"invalid name on the Hugging Face Hub: {name!r}, expected owner/name")
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(name, private=True, exist_ok=True)
        return str(HfApi().upload_folder(repo_id=name, folder_path=folder, ignore_patterns=MADE))
    except Exception as error:
        raise ValueError(f"{folder} could not be uploaded as {name}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
