"""OCR engines that read a word or a line in an image; they judge what tokenizers and models draw.

They need the extras ``ocr`` and ``tesseract``. Nothing is downloaded: RapidOCR's wheel contains its models,
and the operating system's packages contain Tesseract's English data.
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

INSTALL = "no OCR engine is installed: pip install 'earlyfusion[ocr]'"

OnRead = Callable[[int], None] | None
"""Called with the number of images read so far."""


class Reader(Protocol):
    """An OCR engine for images of one word or one line."""

    name: str
    version: str

    def read(self, images: Sequence[Image.Image], on_read: OnRead = None) -> list[str]:
        """The text in each image, stripped of white space at both ends; "" if nothing is found.

        Images of one color (see ``is_blank``) are not read: Tesseract would read "OO" there. An image's
        reading does not depend on the other images.
        """
        ...


Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in px."""


class LineFinder(Protocol):
    """An OCR engine that finds the lines of text on a page."""

    name: str

    def find(self, page: Image.Image) -> list[Box]:
        """The lines, from top to bottom; empty if there are none."""
        ...


class RapidReader:
    """RapidOCR's recognizer (PaddleOCR's model, run by onnxruntime); its detector is only used by ``find``.

    Strips less than 32 px high are enlarged by a whole number, and each gets a border of 4 px. Among borders
    of 0 to 16 px and several enlargements, this reads word images 16 px high best.
    """

    name = "rapidocr"

    def __init__(self, threads: int | None = None) -> None:
        """
        Args:
            threads: Images read at a time. Default: one per CPU of this process, at most 8.

        Raises:
            ImportError: rapidocr is not installed; the message names the extra.
            FileNotFoundError: The folder of rapidocr lacks the models.
        """
        try:
            import onnxruntime  # noqa: F401  rapidocr imports it late and reports its absence differently
            import rapidocr
        except ImportError as error:
            raise ImportError(f"cannot use rapidocr ({error}): pip install 'earlyfusion[ocr]'") from None
        folder = Path(str(rapidocr.__file__)).parent / "models"
        models = {part: sorted(folder.glob(f"*{part.lower()}*.onnx")) for part in ("Rec", "Det")}
        for part, files in models.items():
            if not files:  # rapidocr would download it
                raise FileNotFoundError(
                    f"{folder} has no *{part.lower()}*.onnx: reinstall rapidocr, its wheel contains one"
                )
        self.version = version("rapidocr")
        self.threads = threads or min(8, _cpus())
        # One thread per image: operations on such small images cannot keep several threads busy.
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
        with ThreadPoolExecutor(self.threads) as pool:
            return _collect(pool.map(partial(_read_unless_blank, self._read), images), on_read)

    @cached_property
    def _finder(self) -> Any:
        """A separate engine that detects: an engine remembers its last request, and several threads may read
        and find at once."""
        return self._new_engine()

    def find(self, page: Image.Image) -> list[Box]:
        """The lines that the detector finds, from top to bottom.

        The detector enlarges the shorter side to 736 px, so strips are padded with white to at most 2 to 1:
        a line as large as that takes seconds, and falls apart into words.
        """
        width, height = page.size
        room = Image.new("RGB", (max(width, -(-height // 2)), max(height, -(-width // 2))), "white")
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
    """Tesseract through tesserocr, reading one line of text (psm 7): an independent and stricter judge.

    Images get a border of 10 px and are enlarged by a whole number if less than 20 px high. tesserocr's wheel
    contains the engine; the English data come from the system (see ``tessdata``).
    """

    name = "tesseract"

    def __init__(self, threads: int | None = None) -> None:
        """
        Args:
            threads: Images read at a time. Default: one per CPU of this process, at most 8.

        Raises:
            ImportError: tesserocr is not installed; the message names the extra.
            FileNotFoundError: Tesseract's English data are missing.
        """
        try:
            import tesserocr  # pyright: ignore[reportMissingImports]  in the extra tesseract
        except ImportError as error:
            raise ImportError(
                f"cannot use tesserocr ({error}): pip install 'earlyfusion[tesseract]'"
            ) from None
        folder = tessdata()
        if folder is None:
            raise FileNotFoundError(
                f"Tesseract's {ENGLISH} not found (Debian: apt install tesseract-ocr-eng; macOS: brew "
                "install tesseract; otherwise set the environment variable TESSDATA_PREFIX to its folder)"
            )
        self.version = str(tesserocr.tesseract_version()).split("\n")[0].removeprefix("tesseract").strip()
        self.threads = threads or min(8, _cpus())
        self._mode = tesserocr.PSM.SINGLE_LINE
        self._open = partial(tesserocr.PyTessBaseAPI, path=f"{folder}{os.sep}", lang="eng", psm=self._mode)
        self._layout = tesserocr.PSM.AUTO
        self._line = tesserocr.RIL.TEXTLINE
        self._engines: list[Any] = []  # idle engines; each reads one image at a time

    def read(self, images: Sequence[Image.Image], on_read: OnRead = None) -> list[str]:
        with ThreadPoolExecutor(self.threads) as pool:
            return _collect(pool.map(partial(_read_unless_blank, self._read), images), on_read)

    def find(self, page: Image.Image) -> list[Box]:
        """The lines of Tesseract's layout analysis, from top to bottom."""
        if is_blank(page):
            return []
        engine = self._open(psm=self._layout)
        try:
            engine.SetVariable("debug_file", os.devnull)
            engine.SetImage(page.convert("RGB"))
            places = [place for _, place, *_ in engine.GetComponentImages(self._line, True)]
        finally:
            engine.End()
        boxes = [(p["x"], p["y"], p["x"] + p["w"], p["y"] + p["h"]) for p in places]
        return sorted(boxes, key=lambda box: (box[1], box[0]))

    def _read(self, image: Image.Image) -> str:
        try:
            engine = self._engines.pop()
        except IndexError:
            engine = self._open()
            engine.SetVariable("debug_file", os.devnull)  # keeps its warnings off stderr
        try:
            engine.SetImage(prepare(image, least_height=20, border=10))
            text = engine.GetUTF8Text()
            engine.ClearAdaptiveClassifier()  # the next image is independent
        finally:
            engine.Clear()
            self._engines.append(engine)
        return text.strip()


def is_blank(image: Image.Image) -> bool:
    """Whether every channel of the image spans at most 7 of 255 levels, too little to read anything."""
    extrema = image.convert("RGB").getextrema()
    return all(high - low < 8 for low, high in extrema)  # type: ignore[misc]  # a pair for each channel


def _read_unless_blank(read: Callable[[Image.Image], str], image: Image.Image) -> str:
    return "" if is_blank(image) else read(image)


ENGLISH = "eng.traineddata"
"""File name of Tesseract's English data."""


def tessdata() -> Path | None:
    """The folder of Tesseract's English data: TESSDATA_PREFIX or the system's; None if not found."""
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


def readers(names: Sequence[str] | None = None) -> list[RapidReader | TesseractReader]:
    """OCR engines.

    Args:
        names: Keys of ``READERS``. Default: all installed engines, possibly none.

    Raises:
        ValueError: A name is unknown, or the engine is not installed.
    """
    if names is None:
        return [READERS[name]() for name in READERS if _is_installed(name)]
    found: list[RapidReader | TesseractReader] = []
    for name in names:
        if name not in READERS:
            raise ValueError(f"unknown OCR engine {name!r}, expected one of {', '.join(READERS)}")
        try:
            found.append(READERS[name]())
        except (ImportError, FileNotFoundError) as error:
            raise ValueError(f"OCR engine {name!r} is not ready: {error}") from None
    return found


def read_with(
    reader: Reader, images: Sequence[Image.Image], what: str, progress: Progress = silent
) -> list[str]:
    """``reader.read(images)``, with "NAME: WHAT" on the progress bar."""
    return reader.read(images, lambda done: progress(f"{reader.name}: {what}", done, len(images)))


def prepare(image: Image.Image, *, least_height: int, border: int) -> Image.Image:
    """An image in RGB with a border, enlarged by a whole number to at least ``least_height`` px.

    The border has the median color of the outermost pixels. With a white border around light type on dark,
    Tesseract reads only half as many texts.
    """
    image = image.convert("RGB")
    pixels = np.asarray(image)  # (H, W, 3)
    edge = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    scale = -(-least_height // image.height)
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    return ImageOps.expand(image, border, tuple(int(value) for value in edge))


def missing() -> dict[str, str]:
    """How to install each missing reader, by name."""
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
    """Number of CPUs that this process may use."""
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
