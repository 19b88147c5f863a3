"""The judges: OCR engines that read a word or a line in an image.

They need the extras ``ocr`` and ``tesseract``. Neither fetches anything: RapidOCR's models lie in its wheel,
Tesseract's English data come with the system's packages.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from ...tokenizers.progress import Progress, silent

INSTALL = "no OCR engine is installed, which reads the text in the images: pip install 'earlyfusion[ocr]'"

OnRead = Callable[[int], None] | None
"""Called with the number of images read so far."""


class Reader(Protocol):
    """An OCR engine for images that show one word or one line."""

    name: str
    version: str

    def read(self, images: Sequence[Image.Image], on_read: OnRead = None) -> list[str]:
        """What stands in each image, without white space at either end; "" where nothing is found.

        Neither is asked about an image of one color (see `is_blank`), in which Tesseract reads "OO".

        An image's reading does not depend on the other images.
        """
        ...


class RapidReader:
    """RapidOCR's recogniser (PaddleOCR's model, run by onnxruntime); a detector is not used.

    A strip less than 32 px high is enlarged by a whole number, and each gets a border of 4 px: on word
    images 16 px high that read best among the borders of 0 to 16 px and the enlargements tried.
    """

    name = "rapidocr"

    def __init__(self, threads: int | None = None) -> None:
        """`threads` images are read at a time (default: one per CPU of this process, at most 8).

        Raises ImportError, naming the extra, when it is not installed, and FileNotFoundError when its model
        is not in its folder.
        """
        try:
            import onnxruntime  # noqa: F401  rapidocr imports it late, with a message of its own
            import rapidocr
        except ImportError as error:
            raise ImportError(f"rapidocr cannot be used ({error}): pip install 'earlyfusion[ocr]'") from None
        folder = Path(str(rapidocr.__file__)).parent / "models"
        models = {part: sorted(folder.glob(f"*{part.lower()}*.onnx")) for part in ("Rec", "Det")}
        for part, files in models.items():
            if not files:  # rapidocr would fetch it from the network
                raise FileNotFoundError(
                    f"{folder} has no *{part.lower()}*.onnx: install rapidocr again, its wheel holds one"
                )
        self.version = version("rapidocr")
        self.threads = threads or min(8, _cpus())
        # One thread per image: these images are too small for an operation to keep several busy.
        engine = {
            "Global.log_level": "critical",
            **{f"{part}.model_path": str(files[0]) for part, files in models.items()},
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        self._engine = rapidocr.RapidOCR(params=engine)
        self._new_engine = partial(rapidocr.RapidOCR, params=engine)
        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)

    def read(self, images: Sequence[Image.Image], on_read: OnRead = None) -> list[str]:
        """See `Reader.read`."""
        with ThreadPoolExecutor(self.threads) as pool:
            return _collect(pool.map(partial(_read_unless_blank, self._read), images), on_read)

    @cached_property
    def _finder(self) -> Any:
        """The engine that detects. One of its own: an engine remembers what it was last asked to do, and
        several threads may read and find at once."""
        return self._new_engine()

    def find(self, page: Image.Image) -> list[tuple[int, int, int, int]]:
        """Where the detector finds a line: (left, top, right, bottom) in px, from top to bottom.

        It enlarges a page's shorter side, so that strips are seen on a white page of at most 8 to 1.
        """
        width, height = page.size
        room = Image.new("RGB", (max(width, -(-height // 8)), max(height, -(-width // 8))), "white")
        room.paste(page)
        bgr = np.ascontiguousarray(np.asarray(room)[:, :, ::-1])
        found = getattr(self._finder(bgr, use_det=True, use_cls=False, use_rec=False), "boxes", None)
        boxes = []
        for corners in np.asarray([] if found is None else found):  # (4, 2), a quadrangle
            (left, top), (right, bottom) = corners.min(0), corners.max(0)
            box = max(0, int(left)), max(0, int(top)), min(width, int(np.ceil(right)))
            if box[0] < box[2] and box[1] < (low := min(height, int(np.ceil(bottom)))):
                boxes.append((*box, low))
        return sorted(boxes, key=lambda box: (box[1], box[0]))

    def _read(self, image: Image.Image) -> str:
        prepared = prepare(image, least_height=32, border=4)
        bgr = np.ascontiguousarray(np.asarray(prepared)[:, :, ::-1])
        texts = getattr(self._engine(bgr, use_det=False, use_cls=False, use_rec=True), "txts", None)
        return "".join(texts or ()).strip()


class TesseractReader:
    """Tesseract through tesserocr, as one text line (psm 7): an independent and stricter judge.

    Border of 10 px, enlarged by a whole number below 20 px of height. The English data are those of the
    system (see `tessdata`); tesserocr's wheel brings the engine itself.
    """

    name = "tesseract"

    def __init__(self, threads: int | None = None) -> None:
        """`threads` images are read at a time (default: one per CPU of this process, at most 8).

        Raises ImportError, naming the extra, without tesserocr, and FileNotFoundError without English data.
        """
        try:
            import tesserocr  # pyright: ignore[reportMissingImports]  an extra of its own
        except ImportError as error:
            raise ImportError(
                f"tesserocr cannot be used ({error}): pip install 'earlyfusion[tesseract]'"
            ) from None
        folder = tessdata()
        if folder is None:
            raise FileNotFoundError(
                f"{ENGLISH} of Tesseract is not found (Debian: apt install tesseract-ocr-eng; macOS: brew "
                "install tesseract; else name its folder in the environment variable TESSDATA_PREFIX)"
            )
        self.version = str(tesserocr.tesseract_version()).split("\n")[0].removeprefix("tesseract").strip()
        self.threads = threads or min(8, _cpus())
        self._mode = tesserocr.PSM.SINGLE_LINE
        self._open = partial(tesserocr.PyTessBaseAPI, path=f"{folder}{os.sep}", lang="eng", psm=self._mode)
        self._engines: list[Any] = []  # those that no thread uses now: an engine reads one image at a time

    def read(self, images: Sequence[Image.Image], on_read: OnRead = None) -> list[str]:
        """See `Reader.read`."""
        with ThreadPoolExecutor(self.threads) as pool:
            return _collect(pool.map(partial(_read_unless_blank, self._read), images), on_read)

    def _read(self, image: Image.Image) -> str:
        try:
            engine = self._engines.pop()
        except IndexError:
            engine = self._open()
            engine.SetVariable("debug_file", os.devnull)  # it writes warnings of its own to stderr
        try:
            engine.SetImage(prepare(image, least_height=20, border=10))
            text = engine.GetUTF8Text()
            engine.ClearAdaptiveClassifier()  # what it learned of this image is nothing to the next
        finally:
            engine.Clear()
            self._engines.append(engine)
        return text.strip()


def is_blank(image: Image.Image) -> bool:
    """Whether no channel of the image spans more than 7 of its 255 levels: there is nothing to read."""
    extrema = image.convert("RGB").getextrema()
    return all(high - low < 8 for low, high in extrema)  # type: ignore[misc]  # a pair for each channel


def _read_unless_blank(read: Callable[[Image.Image], str], image: Image.Image) -> str:
    return "" if is_blank(image) else read(image)


ENGLISH = "eng.traineddata"
"""Tesseract's English data."""


def tessdata() -> Path | None:
    """The folder of Tesseract's English data: TESSDATA_PREFIX, or where systems put it; None without any."""
    named = os.environ.get("TESSDATA_PREFIX")
    folders = [Path(named), Path(named) / "tessdata"] if named else []
    for prefix in (Path(sys.prefix), Path("/usr"), Path("/usr/local"), Path("/opt/homebrew")):
        # Debian has a folder for each version of the format; the newest first.
        folders += sorted((prefix / "share" / "tesseract-ocr").glob("*/tessdata"), reverse=True)
        folders += [prefix / "share" / "tessdata", prefix / "share" / "tesseract" / "tessdata"]
    return next((folder for folder in folders if (folder / ENGLISH).is_file()), None)


READERS: dict[str, type[RapidReader] | type[TesseractReader]] = {
    "rapidocr": RapidReader,
    "tesseract": TesseractReader,
}


def readers(names: Sequence[str] | None = None) -> list[Reader]:
    """The readers of these names; with None those that are installed, which may be none.

    Raises ValueError for an unknown name, and for a named reader that is not installed.
    """
    if names is None:
        return [READERS[name]() for name in READERS if _is_installed(name)]
    found: list[Reader] = []
    for name in names:
        if name not in READERS:
            raise ValueError(f"OCR engine {name!r} is unknown, expected one of {', '.join(READERS)}")
        try:
            found.append(READERS[name]())
        except (ImportError, FileNotFoundError) as error:
            raise ValueError(f"OCR engine {name!r} is not ready: {error}") from None
    return found


def read_with(
    reader: Reader, images: Sequence[Image.Image], what: str, progress: Progress = silent
) -> list[str]:
    """`reader.read(images)`, with "NAME: WHAT" on the progress bar."""
    return reader.read(images, lambda done: progress(f"{reader.name}: {what}", done, len(images)))


def prepare(image: Image.Image, *, least_height: int, border: int) -> Image.Image:
    """The image in RGB and in a border, enlarged by a whole number to at least `least_height` px.

    The border has the median color of the outermost pixels: with a white one around light type on dark,
    Tesseract reads half as many.
    """
    image = image.convert("RGB")
    pixels = np.asarray(image)  # (H, W, 3)
    edge = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    scale = -(-least_height // image.height)
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    return ImageOps.expand(image, border, tuple(int(value) for value in edge))


def missing() -> dict[str, str]:
    """Why each reader that is not installed is not, by its name."""
    reasons = {
        "rapidocr": "rapidocr is not installed: pip install 'earlyfusion[ocr]'",
        "tesseract": "tesserocr or Tesseract's English data are not installed: "
        "pip install 'earlyfusion[tesseract]' (Debian: and apt install tesseract-ocr-eng)",
    }
    return {name: reason for name, reason in reasons.items() if not _is_installed(name)}


def _is_installed(name: str) -> bool:
    if name == "tesseract":
        return find_spec("tesserocr") is not None and tessdata() is not None
    return find_spec("rapidocr") is not None and find_spec("onnxruntime") is not None


def _cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _collect(results: Iterator[str], on_read: OnRead) -> list[str]:
    texts = []
    for text in results:
        texts.append(text)
        if on_read is not None:
            on_read(len(texts))
    return texts
