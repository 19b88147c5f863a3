"""Values with pictures in them, stored in a folder: JSON, and a PNG file for each picture."""

from pathlib import Path
from typing import Any

from PIL import Image

from ...storage.files import atomic_folder, read_json, write_json
from ...tokenizers.pixels import load_image

FILE = "gallery.json"
_KEY = "png"
"""A picture becomes {"png": file name}."""


def save_gallery(folder: str | Path, gallery: dict[str, Any]) -> None:
    """Write nested dictionaries and lists, which may contain PIL images, as ``folder``, all or nothing."""
    with atomic_folder(folder) as new:
        count = 0

        def stored(value: Any) -> Any:
            nonlocal count
            if isinstance(value, Image.Image):
                name = f"{count:04}.png"
                value.save(new / name)
                count += 1
                return {_KEY: name}
            if isinstance(value, dict):
                return {key: stored(item) for key, item in value.items()}
            return [stored(item) for item in value] if isinstance(value, list | tuple) else value

        write_json(new / FILE, stored(gallery))


def load_gallery(folder: str | Path) -> dict[str, Any]:
    """Read what ``save_gallery`` wrote.

    Raises:
        FileNotFoundError: The gallery or a picture does not exist.
        ValueError: It cannot be read.
    """
    folder = Path(folder)

    def restored(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {_KEY}:
                return load_image(folder / Path(str(value[_KEY])).name)
            return {key: restored(item) for key, item in value.items()}
        return [restored(item) for item in value] if isinstance(value, list) else value

    return restored(read_json(folder / FILE, "a gallery of pictures"))
