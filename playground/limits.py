"""What the playground accepts: sizes, picture formats, and open paths of the server.

Pictures are data URIs inside requests, never files: nothing that a visitor sends is written to disk, and no
name or path that they send is opened.
"""

import base64
import binascii
import io
import math
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..tokenizers.pixels import load_image

PICTURE_BYTES = 10 * 2**20
"""Limit of one picture in bytes, before base64."""
PIXELS = 24 * 10**6
"""Limit of all pictures in a request together: a small file can hold many pixels."""
REQUEST_BYTES = 20 * 2**20
"""Limit of a whole request: base64 adds a third to the pictures."""
ITEMS, DEPTH, DIGITS = 50_000, 32, 64
"""Limits of a request's JSON: values in all lists and objects together, lists and objects inside each other,
and characters of a number. They are checked before the JSON is read: Gradio walks through all of it."""
SEGMENTS = 64
TEXT = 20_000
"""Limit of all texts in a prompt together, in characters."""
MASK_SIDE = 128
"""Limit of the rows and columns of a mask."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Formats that Pillow may read; every browser shows them."""

CONTENT_SECURITY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""The page may load from and connect to this server only."""
OPEN = (
    "/assets/",
    "/static/",
    "/svelte/",
    "/config",
    "/theme.css",
    "/favicon.ico",
    "/manifest.json",
    "/robots.txt",
    "/gradio_api/info",
    "/gradio_api/openapi.json",
    "/gradio_api/app_id",
    "/gradio_api/startup-events",
    "/gradio_api/heartbeat/",
    "/gradio_api/queue/",
    "/gradio_api/call/",
    "/gradio_api/run/predict",  # the Stop button, which skips the queue; Gradio refuses other functions
    "/gradio_api/cancel",
    "/gradio_api/reset",
    "/gradio_api/theme.css",
)
"""Prefixes of the paths that are served; the page does not need Gradio's others (uploads, files, proxies)."""

_PART = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]|,|[-+.\w]+', re.DOTALL)
"""A string, a bracket, a comma or a number of JSON."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Refused(ValueError):
    """An invalid request; the message is for the visitor."""


def read_segments(value: Any) -> list[str | Image.Image]:
    """Read a prompt, [{"text": "..."} or {"image": "data:image/png;base64,..."}, ...]; drop empty texts.

    Raises:
        Refused: It is invalid or too large, or a picture cannot be read.
    """
    if not isinstance(value, list) or len(value) > SEGMENTS:
        raise Refused(f"invalid prompt: expected a list of at most {SEGMENTS} segments")
    segments: list[str | Image.Image] = []
    room = PIXELS
    for segment in value:
        text = segment.get("text") if isinstance(segment, dict) and len(segment) == 1 else None
        if isinstance(text, str):
            if read_text(text):
                segments.append(text)
        elif isinstance(segment, dict) and set(segment) == {"image"}:
            image = read_picture(segment["image"], room)
            room -= image.width * image.height
            segments.append(image)
        else:
            raise Refused(
                'invalid segment: expected {"text": "..."} or {"image": "data:image/png;base64,..."}'
            )
    if (length := sum(len(segment) for segment in segments if isinstance(segment, str))) > TEXT:
        raise Refused(f"the text has {length:,} characters, more than {TEXT:,}: shorten it")
    return segments


def read_text(value: Any) -> str:
    """Check a text.

    Raises:
        Refused: It is not a text, too long, or broken.
    """
    if not isinstance(value, str) or len(value) > TEXT:
        raise Refused(f"expected a text of at most {TEXT:,} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused("a text contains half a character (a lone surrogate): type it again") from None
    return value


def read_mask(value: Any) -> Tensor:
    """Read the region of a picture to redraw: rows of 0 and 1, all of the same length.

    Raises:
        Refused: It is anything else, too large, or empty.
    """
    rows = value if isinstance(value, list) and 0 < len(value) <= MASK_SIDE else []
    width = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    fits = 0 < width <= MASK_SIDE and all(isinstance(row, list) and len(row) == width for row in rows)
    if not fits or not all(type(cell) is int and cell in (0, 1) for row in rows for cell in row):
        raise Refused(f"invalid mask: expected 1 to {MASK_SIDE} rows of 1 to {MASK_SIDE} zeros and ones")
    if not any(map(any, rows)):
        raise Refused("the mask is empty: paint over the part to redraw")
    return torch.tensor(rows, dtype=torch.bool)


def read_picture(value: Any, room: int = PIXELS) -> Image.Image:
    """Read a picture in a data URI, of at most ``room`` pixels, as upright RGB.

    Raises:
        Refused: It is not a data URI, too large in bytes or pixels, of another format, or broken.
    """
    head, _, data = value.partition(",") if isinstance(value, str) else ("", "", "")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise Refused("expected a picture as data:image/...;base64,... (file names and URLs are not opened)")
    if len(data) > PICTURE_BYTES * 4 // 3 + 4:
        raise Refused(f"the picture is larger than {PICTURE_BYTES >> 20} MB: make it smaller")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=FORMATS)
    except binascii.Error:
        raise Refused("the picture cannot be read: invalid base64") from None
    except Image.DecompressionBombError:
        raise Refused(f"the picture has more than {PIXELS:,} pixels: make it smaller") from None
    except Exception:  # Pillow's readers raise all kinds of errors
        raise Refused(f"the picture cannot be read: it is damaged, or not {', '.join(FORMATS)}") from None
    if math.prod(image.size) > room:  # known from the header, before anything is decoded
        raise Refused(
            f"a picture of {image.width:,} x {image.height:,} pixels is too large: all pictures of a prompt "
            f"together may have {PIXELS:,}"
        )
    try:
        return load_image(image)
    except ValueError as error:
        raise Refused(str(error)) from None


def why_too_much(body: bytes) -> str | None:
    """What a request's JSON has too much of, or None. It need not be valid JSON."""
    items = depth = 0
    for match in _PART.finditer(body):
        first = match[0][:1]
        if first in b"[{":
            depth += 1
        elif first in b"]}":
            depth -= 1
        elif first == b",":
            items += 1
        elif first != b'"' and match.end() - match.start() > DIGITS:
            return f"a number of more than {DIGITS} characters"
        if depth > DEPTH:
            return f"more than {DEPTH} lists and objects inside each other"
        if items > ITEMS:
            return f"more than {ITEMS:,} values"
    return None


class Gate:
    """ASGI middleware: lets small requests to open paths through, and restricts what the page may load."""

    def __init__(self, app: Any, hosts: frozenset[str] | None = None) -> None:
        """
        Args:
            app: The application.
            hosts: Host names that requests may use; None: any. This stops a foreign page that points its own
                name to this machine.
        """
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"]
        if self.hosts is not None and _name(headers.get("host", "")) not in self.hosts:
            return await _answer(send, 421, "unknown host name")
        if path != "/" and not path.startswith(OPEN):
            return await _answer(send, 404, "not found")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > REQUEST_BYTES:
            return await _answer(send, 413, f"requests are limited to {REQUEST_BYTES >> 20} MB")
        unread: list[MutableMapping[str, Any]] = []
        if scope["method"] == "POST":
            body = bytearray()
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > REQUEST_BYTES:  # sent in pieces, without a length
                    return await _answer(send, 413, f"requests are limited to {REQUEST_BYTES >> 20} MB")
            if why := why_too_much(bytes(body)):
                return await _answer(send, 413, f"the request has {why}: send less")
            unread.append({"type": "http.request", "body": bytes(body), "more_body": False})

        async def read() -> MutableMapping[str, Any]:
            return unread.pop() if unread else await receive()

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", CONTENT_SECURITY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, read, with_headers)


def _name(host: str) -> str:
    """A host name without its port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
