"""Images of text with known texts and boxes, for training and evaluation.

    page = typeset("receipt", random.Random(0), fonts=train_faces(), lexicon=train_lexicon())
    page.image, [(region.text, region[1:5]) for region in page.boxes]

Everything is drawn from one ``random.Random``, so a seed determines the picture. A box bounds the ink of its
text.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from . import paper
from .fonts import Font, load_face
from .lexicon import Lexicon

STRIPS = ("word", "random", "line")
"""Kinds with one text in one box: a word, a random string, several words in a row."""
PAGES = ("page", "receipt", "table")
"""Kinds with a box for each word: paragraphs in columns, names and prices, cells between rules."""
STYLES = ("colour", "inverted", "rotated")
"""One of the above that fits the size: in color on a texture, light on dark, or rotated up to 5 degrees."""
KINDS = STRIPS + PAGES + STYLES

MAX_ANGLE = 5.0
"""Degrees; less on long strips, where the rotation would leave too little room for the type."""
_HIGHEST = "bdfhkl|({[$/ABQ6"
_LOWEST = "gjpqy|(),;Q$/"
_TRIES = 60


class TextRegion(NamedTuple):
    """A text and its box, in pixels from the top left corner of the image."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float | None = None
    """Type size in px per em; None if unknown."""


class Page(NamedTuple):
    """A rendered image, with its texts and their boxes."""

    image: Image.Image
    """RGB."""
    boxes: tuple[TextRegion, ...]
    font: str = ""
    """The name of the face."""

    @property
    def text(self) -> str:
        """The texts of all boxes, in reading order."""
        return " ".join(box.text for box in self.boxes)


def typeset(
    kind: str,
    rng: random.Random,
    *,
    fonts: Sequence[Font],
    lexicon: Lexicon,
    size: tuple[int, int] | None = None,
    type_sizes: tuple[int, int] = (12, 32),
    multiple: int = 16,
) -> Page:
    """Render an image of the given kind, in one face.

    Args:
        kind: One of ``KINDS``.
        size: (H, W) in pixels, multiples of ``multiple``; None fits the type.
        type_sizes: Minimum and maximum type size, px per em (of DejaVu Sans; other faces get its x-height).
            Type that does not fit into ``size`` shrinks, but not below the minimum.

    Raises:
        ValueError: The kind is unknown, or the size is not a multiple or too small for the smallest type.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    smallest, largest = type_sizes
    if not 4 <= smallest <= largest:
        raise ValueError(
            f"type_sizes is {smallest}-{largest}, expected two sizes of at least 4 px, the smaller one first"
        )
    if size is not None and (min(size) < 1 or any(side % multiple for side in size)):
        raise ValueError(f"size is {size[0]}x{size[1]}, expected multiples of {multiple} (height x width)")
    em, font = rng.randint(smallest, largest), rng.choice(fonts)
    layout = _layout_for(rng, size, smallest) if kind in STYLES else kind
    angle = 0.0
    if kind == "rotated":
        angle = rng.uniform(-1, 1) * _steepest(size)
    if layout in STRIPS:
        sheet = _strip(layout, rng, font, lexicon, size, (smallest, em), multiple, angle)
    else:
        if size is None:
            em = min(em, 24)
            columns = {"page": 30, "receipt": 18, "table": 26}[layout]
            size = _rounded(24 * em, multiple), _rounded(columns * em, multiple)
        em = max(smallest, min(em, size[0] // 6, size[1] // 8))
        sheet = _Sheet(size, font, em, angle)
        {"page": _paragraphs, "receipt": _receipt, "table": _table}[layout](sheet, rng, lexicon)
    if not sheet.boxes:
        height, width = sheet.size
        raise ValueError(f"size is {height}x{width}, too small for a {layout} with type of {smallest} px")
    ink, boxes = sheet.turned(angle)
    if kind == "colour":
        image = paper.colored(ink, rng)
    else:
        image = paper.inverted(ink, rng) if kind == "inverted" else paper.plain(ink)
    return Page(image, boxes, font.family)


class _Sheet:
    """A mask of ink to write on, and the boxes written so far."""

    def __init__(self, size: tuple[int, int], font: Font, em: float, angle: float = 0.0) -> None:
        """``angle``: the later rotation in degrees; margins keep the ink inside."""
        self.size, self.font, self.em = size, font, em
        height, width = size
        sine = abs(math.sin(math.radians(angle)))
        self.top = 1 + math.ceil(width / 2 * sine)
        self.left = 1 + math.ceil(height / 2 * sine)
        self.bottom, self.right = height - self.top, width - self.left
        self.ink = Image.new("L", (width, height))
        self.draw = ImageDraw.Draw(self.ink)
        self.boxes: list[TextRegion] = []
        self.face = load_face(font.path, em)
        self.rise, self.fall = extent(self.face)

    def put(self, text: str, x: int, baseline: int, face: ImageFont.FreeTypeFont | None = None) -> None:
        """Write ``text`` on the baseline, starting at ``x``."""
        face = face or self.face
        self.draw.text((x, baseline), text, fill=255, font=face, anchor="ls")
        left, top, right, bottom = face.getbbox(text, anchor="ls")
        size = round(self.em * face.size / self.face.size, 1)
        left, top = math.floor(x + left), math.floor(baseline + top)
        around = left, top, math.ceil(x + right), math.ceil(baseline + bottom)
        inked = self.ink.crop(around).getbbox()  # Pillow's own box extends to the start of the next letter
        if inked is not None:
            box = left + inked[0], top + inked[1], left + inked[2], top + inked[3]
            self.boxes.append(TextRegion(text, *box, size))

    def put_words(self, words: str, x: int, baseline: int) -> int:
        """Write words one by one, each with its own box; returns the x where the last one ends."""
        space = self.face.getlength(" ")
        end = float(x)
        for word in words.split():
            self.put(word, round(end), baseline)
            end = round(end) + self.face.getlength(word) + space
        return math.ceil(end - space)

    def width(self, text: str) -> int:
        """Pixels from the start of ``text`` to the earliest start of the next text."""
        return math.ceil(max(self.face.getlength(text), self.face.getbbox(text, anchor="ls")[2]))

    def rule(self, x0: int, y0: int, x1: int, y1: int) -> None:
        """Draw a line, which is not text."""
        self.draw.line((x0, y0, x1, y1), fill=255, width=1)

    def turned(self, angle: float) -> tuple[Image.Image, tuple[TextRegion, ...]]:
        """Ink and boxes, rotated by ``angle`` degrees counter-clockwise about the center."""
        if not angle:
            return self.ink, tuple(self.boxes)
        ink = self.ink.rotate(angle, Image.Resampling.BICUBIC)
        height, width = self.size
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        boxes = []
        for box in self.boxes:
            corners = [(x - width / 2, y - height / 2) for x in (box[1], box[3]) for y in (box[2], box[4])]
            xs = [dx * cos + dy * sin + width / 2 for dx, dy in corners]
            ys = [dy * cos - dx * sin + height / 2 for dx, dy in corners]
            # One more pixel, since interpolation spreads the ink.
            left, top = max(0, math.floor(min(xs)) - 1), max(0, math.floor(min(ys)) - 1)
            right, bottom = min(width, math.ceil(max(xs)) + 1), min(height, math.ceil(max(ys)) + 1)
            boxes.append(TextRegion(box.text, left, top, right, bottom, box.size))
        return ink, tuple(boxes)


def extent(face: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Pixels that ordinary type extends above and below its baseline."""
    rise = -face.getbbox(_HIGHEST, anchor="ls")[1]
    return math.ceil(rise), math.ceil(face.getbbox(_LOWEST, anchor="ls")[3])


def _strip(
    layout: str,
    rng: random.Random,
    font: Font,
    lexicon: Lexicon,
    size: tuple[int, int] | None,
    ems: tuple[int, int],
    multiple: int,
    angle: float,
) -> _Sheet:
    """One text at a random place of a strip, in type of at most ``ems[1]``.

    Texts that are too wide are replaced before the type shrinks. The sheet has no box if nothing fits.
    """
    smallest, em = ems
    wanted = em * rng.uniform(6, 20)  # width of a line if the strip has no fixed size
    while True:
        face = load_face(font.path, em)
        sheet = _Sheet(size, font, em, angle) if size else None
        for _ in range(_TRIES):
            width = (sheet.right - sheet.left) * rng.uniform(0.6, 1) if sheet else wanted
            text = _strip_text(layout, lexicon, rng, face, width)
            if not text:
                continue
            left, top, right, bottom = face.getbbox(text, anchor="ls")
            on = sheet or _Sheet(_strip_size(face, text, em, angle, multiple), font, em, angle)
            spare_x = on.right - on.left - math.ceil(right - left)
            spare_y = on.bottom - on.top - math.ceil(bottom - top)
            if spare_x >= 0 and spare_y >= 0:
                x = on.left + rng.randint(0, spare_x) - math.floor(left)
                on.put(text, x, on.top + rng.randint(0, spare_y) - math.floor(top))
                return on
        if em <= smallest:
            return sheet or _Sheet((multiple, multiple), font, em)
        em = max(smallest, em - 2)


def _strip_text(
    layout: str, lexicon: Lexicon, rng: random.Random, face: ImageFont.FreeTypeFont, width: float
) -> str:
    if layout == "line":
        return _running(lexicon, rng, face, width)
    return lexicon.word(rng) if layout == "word" else lexicon.string(rng)


def _strip_size(
    face: ImageFont.FreeTypeFont, text: str, em: int, angle: float, multiple: int
) -> tuple[int, int]:
    """(H, W) that hold ``text`` with margins, rotated by ``angle``."""
    left, _, right, _ = face.getbbox(text, anchor="ls")
    width, height = math.ceil(right - left) + em, sum(extent(face)) + em // 2
    sine = abs(math.sin(math.radians(angle)))
    width = _rounded(width + height * sine, multiple)
    return _rounded(height + width * sine + 2, multiple), width


def _running(lexicon: Lexicon, rng: random.Random, face: ImageFont.FreeTypeFont, width: float) -> str:
    """As many words of running text as fit into ``width``; empty if the first word does not fit."""
    text = ""
    for word in lexicon.running(rng):
        longer = f"{text} {word}" if text else word
        left, _, right, _ = face.getbbox(longer, anchor="ls")
        if right - left > width:
            return text
        text = longer
    raise AssertionError("running text has no end")


def _paragraphs(sheet: _Sheet, rng: random.Random, lexicon: Lexicon) -> None:
    """One to three columns of running text, sometimes under a heading."""
    em = sheet.em
    margin = round(em * rng.uniform(0.3, 1))
    left, right = sheet.left + margin, sheet.right - margin
    top, bottom = sheet.top + margin, sheet.bottom - margin
    if rng.random() < 0.4 and bottom - top > 10 * em:
        large = load_face(sheet.font.path, em * 1.5)
        text = _running(lexicon, rng, large, right - left).split()
        rise, fall = extent(large)
        end = float(left)
        for word in text:
            sheet.put(word, round(end), top + rise, large)
            end += large.getlength(word + " ")
        top += rise + fall + round(em / 2)
    columns = rng.randint(1, max(1, min(3, (right - left) // round(14 * em))))
    gutter = round(1.5 * em)
    width = (right - left - gutter * (columns - 1)) // columns
    leading = round((sheet.rise + sheet.fall) * rng.uniform(1.05, 1.4))
    words = lexicon.running(rng)
    space = sheet.face.getlength(" ")
    for column in range(columns):
        start = left + column * (width + gutter)
        x, y = start, top + sheet.rise
        while y + sheet.fall <= bottom:
            word = next(words)
            needed = sheet.width(word)
            if needed > width:
                continue
            if x + needed > start + width:
                x, y = start, y + leading
                if y + sheet.fall > bottom:
                    break
            sheet.put(word, round(x), y)
            x = round(x) + needed + space
            if word[-1] in ".?!" and rng.random() < 0.25:  # a new paragraph
                x, y = start + rng.choice((0, round(em))), y + leading + rng.choice((0, leading // 2))


_HEAD, _FOOT = ("RECEIPT", "INVOICE", "ORDER", "BILL"), ("TOTAL", "SUM", "CASH", "TAX", "BALANCE")


def _receipt(sheet: _Sheet, rng: random.Random, lexicon: Lexicon) -> None:
    """A centered head, names with prices on the right, sums below a rule."""
    margin = round(sheet.em * rng.uniform(0.3, 1))
    left, right = sheet.left + margin, sheet.right - margin
    leading = round((sheet.rise + sheet.fall) * rng.uniform(1.05, 1.3))
    lines = (sheet.bottom - sheet.top) // leading
    y = sheet.top + sheet.rise

    def row(name: str, price: str) -> None:
        start = right - sheet.width(price)
        if start - sheet.em > left:
            sheet.put_words(_shortened(sheet, name, start - round(sheet.em / 2) - left), left, y)
        if start >= left:
            sheet.put(price, start, y)

    for line in range(lines):
        if line < 2 and lines > 6:
            text = _allowed(lexicon, rng, _HEAD) if line == 0 else lexicon.date(rng)
            text = f"{text} {lexicon.string(rng)}" if rng.random() < 0.5 else text
            text = _shortened(sheet, text, right - left)
            sheet.put_words(text, left + (right - left - sheet.width(text)) // 2, y)
        elif line >= lines - 2:
            if line == lines - 2:
                ruled = y - sheet.rise - max(1, (leading - sheet.rise - sheet.fall) // 2)
                sheet.rule(left, ruled, right, ruled)
            row(_allowed(lexicon, rng, _FOOT), lexicon.price(rng))
        else:
            row(_name(lexicon, rng, rng.randint(1, 3)), lexicon.price(rng))
        y += leading


def _table(sheet: _Sheet, rng: random.Random, lexicon: Lexicon) -> None:
    """Cells between rules: names on the left, numbers and codes aligned on the right."""
    padding = max(2, round(sheet.em / 3))
    columns = rng.randint(2, max(2, min(5, (sheet.right - sheet.left) // round(6 * sheet.em))))
    height = sheet.rise + sheet.fall + 2 * padding
    rows = (sheet.bottom - sheet.top - 1) // height
    xs = [sheet.left]
    rest = sheet.right - 1 - sheet.left
    first = round(rest * (1.5 / (columns + 0.5)))
    xs += [sheet.left + first + round((rest - first) * i / (columns - 1)) for i in range(columns)]
    vertical = rng.random() < 0.5
    kinds = [rng.choice((lexicon.number, lexicon.price, lexicon.string, lexicon.date)) for _ in xs]
    for i in range(rows + 1):
        y = sheet.top + i * height
        if i in (0, 1, rows) or vertical:
            sheet.rule(xs[0], y, xs[-1], y)
        if i == rows:
            break
        for j in range(columns):
            room = xs[j + 1] - xs[j] - 2 * padding
            text = _name(lexicon, rng, rng.randint(1, 2)) if i == 0 or j == 0 else kinds[j](rng)
            text = _shortened(sheet, text, room)
            x = xs[j] + padding + (0 if j == 0 else room - sheet.width(text))
            sheet.put_words(text, x, y + padding + sheet.rise)
    if vertical:
        for x in xs:
            sheet.rule(x, sheet.top, x, sheet.top + rows * height)


def _name(lexicon: Lexicon, rng: random.Random, count: int) -> str:
    """A name of ``count`` words, for goods or columns."""
    style: Callable[[str], str] = rng.choice((str.upper, str.capitalize, str.lower))
    codes = [rng.random() < lexicon.random_share / 2 for _ in range(count)]
    return " ".join(lexicon.string(rng) if code else style(rng.choice(lexicon.words)) for code in codes)


def _allowed(lexicon: Lexicon, rng: random.Random, texts: Sequence[str]) -> str:
    return rng.choice([text for text in texts if lexicon.allows(text)] or [lexicon.word(rng).upper()])


def _shortened(sheet: _Sheet, text: str, width: int) -> str:
    """``text`` without its last words, so that it fits ``width``; possibly empty."""
    while text and sheet.width(text) > width:
        text = text.rpartition(" ")[0]
    return text


def _layout_for(rng: random.Random, size: tuple[int, int] | None, smallest: int) -> str:
    """The layout for a style: a page if there is room for several lines, otherwise one text."""
    if size is not None and size[0] >= 5 * smallest and size[1] >= 8 * smallest:
        return rng.choice(PAGES)
    long = size is None or size[1] >= 20 * smallest
    return rng.choice(STRIPS if long else STRIPS[:2])


def _steepest(size: tuple[int, int] | None) -> float:
    """Maximum rotation in degrees: it costs at most a quarter of the height."""
    if size is None:
        return MAX_ANGLE
    return min(MAX_ANGLE, math.degrees(math.asin(min(1, size[0] / (4 * size[1])))))


def _rounded(length: float, multiple: int) -> int:
    return max(1, math.ceil(length / multiple)) * multiple
