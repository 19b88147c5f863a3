"""Where models come from: the one that is part of the package, and folders on the Hugging Face Hub.

A name there is ``owner/name``; it is not asked for where a folder of that name lies on the disk.
"""

import re
from collections.abc import Sequence
from pathlib import Path

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "openmoji-words"
"""The model folder that comes with the package; its README.md says what it can do."""

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def local_folder(name: str | Path, files: Sequence[str] | None = None) -> Path:
    """The folder ``name``; where there is none and it may be a name on the Hub, that one's, fetched.

    ``HF_HUB_OFFLINE=1`` takes what the cache holds, ``HF_TOKEN`` opens gated models.

    :param files: patterns of the files that are wanted; None: all.
    :raises FileNotFoundError: there is no such folder, and the Hub gives none.
    """
    folder = Path(name)
    if folder.exists() or not _NAME.fullmatch(str(name)):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=None if files is None else list(files)))
    except Exception as error:  # of the network, the Hub, the cache: each has its own
        raise FileNotFoundError(
            f"there is no folder {name}, and the Hugging Face Hub gives none of that name: {_line(error)}"
        ) from None


def push(folder: str | Path, name: str) -> str:
    """Upload ``folder`` as the model ``name``, private where it is new, and return its address.

    It needs HF_TOKEN, or a login before.

    :raises ValueError: the name is none, or the Hub refuses.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name on the Hugging Face Hub: expected owner/name")
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(name, private=True, exist_ok=True)
        return str(HfApi().upload_folder(repo_id=name, folder_path=folder))
    except Exception as error:
        raise ValueError(f"{folder} could not be uploaded as {name}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
