"""Photographed print with a transcript, from a common package.

scikit-image's wheel contains ``page.png``, a photograph of a curved, unevenly lit page of its documentation
(BSD license). The texts and boxes below were transcribed by eye.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from ...tokenizers.pixels import load_image
from .typeset import Page, TextRegion


class Scan(NamedTuple):
    """A picture in a package, and its transcript."""

    package: str
    file: str
    size: tuple[int, int]
    """(width, height), to detect a picture that the boxes do not fit."""
    scale: int
    """The boxes are in pixels of the picture enlarged by this factor."""
    lines: tuple[tuple[str, tuple[tuple[int, int, int, int], ...]], ...]
    """Each line, and left, top, right, bottom of each of its words."""


SCANS = (
    Scan(
        "skimage",
        "data/page.png",
        (384, 191),
        4,
        (
            ("Region-based segmentation", ((24, 46, 572, 138), (602, 54, 1170, 138))),
            (
                "Let us first determine markers of the coins and the",
                (
                    (22, 198, 98, 246),
                    (132, 204, 190, 248),
                    (222, 198, 330, 250),
                    (360, 202, 636, 252),
                    (668, 206, 888, 254),
                    (922, 206, 974, 254),
                    (1008, 208, 1100, 254),
                    (1132, 208, 1268, 256),
                    (1300, 203, 1392, 252),
                    (1426, 199, 1507, 248),
                ),
            ),
            (
                "background. These markers are pixels that we can label",
                (
                    (20, 268, 332, 326),
                    (356, 274, 512, 324),
                    (534, 278, 750, 327),
                    (774, 284, 860, 328),
                    (882, 278, 1036, 334),
                    (1058, 278, 1170, 328),
                    (1190, 288, 1266, 326),
                    (1284, 280, 1371, 322),
                    (1392, 268, 1506, 318),
                ),
            ),
            (
                "unambiguously as either object or background. Here,",
                (
                    (22, 342, 408, 402),
                    (440, 350, 500, 396),
                    (532, 346, 692, 396),
                    (724, 348, 892, 410),
                    (926, 356, 984, 398),
                    (1016, 346, 1342, 410),
                    (1376, 342, 1507, 391),
                ),
            ),
            (
                "the markers are found at the two extreme parts of the",
                (
                    (22, 402, 103, 450),
                    (124, 408, 332, 462),
                    (356, 420, 440, 466),
                    (462, 414, 612, 468),
                    (640, 422, 694, 470),
                    (720, 420, 810, 470),
                    (832, 424, 934, 472),
                    (956, 426, 1182, 472),
                    (1204, 414, 1340, 480),
                    (1360, 410, 1410, 464),
                    (1427, 404, 1508, 458),
                ),
            ),
            (
                "histogram of grey values:",
                ((22, 468, 272, 532), (290, 482, 344, 532), (358, 490, 476, 546), (494, 492, 684, 542)),
            ),
            (
                ">>> markers = np.zeros_like(coins)",
                ((74, 678, 150, 710), (166, 688, 348, 731), (370, 704, 402, 726), (424, 702, 962, 760)),
            ),
        ),
    ),
)


def scan_pages() -> list[Page]:
    """The pictures, with a box for each word; ``Page.font`` is the file name.

    Raises:
        ImportError: Scikit-image is missing (extra ``scans``).
        ValueError: The picture in this version of scikit-image is not the transcribed one.
    """
    pages = []
    for scan in SCANS:
        spec = importlib.util.find_spec(scan.package)
        if spec is None or spec.origin is None:
            raise ImportError(
                "the scans come with scikit-image, which is not installed: pip install 'earlyfusion[scans]'"
            )
        image = load_image(Path(spec.origin).parent / scan.file)
        if image.size != scan.size:
            raise ValueError(
                f"{scan.file} of {scan.package} has {image.size} pixels, the transcript is of {scan.size}"
            )
        boxes = []
        for line, places in scan.lines:
            for text, place in zip(line.split(), places, strict=True):
                boxes.append(TextRegion(text, *(edge / scan.scale for edge in place)))
        pages.append(Page(image, tuple(boxes), Path(scan.file).name))
    return pages
