"""What the playground accepts: sizes, kinds of pictures, and which of the server's addresses are open.

Pictures come as data URIs inside of requests, never as files: nothing that a visitor sends is written to the
disk, and no name or path that they send is opened.
"""

import base64
import binascii
import io
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from PIL import Image

from ..tokenizers.pixels import load_image

PICTURE_BYTES = 10 * 2**20
"""Of a picture as it is sent."""
PIXELS = 24 * 10**6
"""Of all pictures of a request together: a small file may hold many."""
REQUEST_BYTES = 20 * 2**20
"""Of a whole request: base64 takes a third more than the pictures in it."""
SEGMENTS = 64
TEXT = 20_000
"""Characters of all texts of a prompt."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What Pillow may read: formats that every browser shows."""

CONTENT_SECURITY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""The page may load and reach this server alone."""
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
    "/gradio_api/run/predict",  # the Stop button, which waits for nobody: Gradio refuses the others there
    "/gradio_api/cancel",
    "/gradio_api/reset",
    "/gradio_api/theme.css",
)
"""Beginnings of the addresses that are answered; Gradio's others (uploads, files, proxies) are not needed."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Refused(ValueError):
    """What a visitor sent cannot be used; the message is for them."""


def read_segments(value: Any) -> list[str | Image.Image]:
    """A prompt, [{"text": "..."} or {"image": "data:image/png;base64,..."}, ...]; empty texts are left out.

    :raises Refused: it is none, or too large, or a picture cannot be read.
    """
    if not isinstance(value, list) or len(value) > SEGMENTS:
        raise Refused(f"a prompt is a list of at most {SEGMENTS} segments")
    segments: list[str | Image.Image] = []
    room = PIXELS
    for segment in value:
        text = segment.get("text") if isinstance(segment, dict) and len(segment) == 1 else None
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise Refused("a text holds half of a character (a lone surrogate): type it again") from None
            if text:
                segments.append(text)
        elif isinstance(segment, dict) and set(segment) == {"image"}:
            image = read_picture(segment["image"], room)
            room -= image.width * image.height
            segments.append(image)
        else:
            raise Refused('a segment is {"text": "..."} or {"image": "data:image/png;base64,..."}')
    if (length := sum(len(segment) for segment in segments if isinstance(segment, str))) > TEXT:
        raise Refused(f"the text has {length:,} characters: at most {TEXT:,} are taken")
    return segments


def read_picture(value: Any, room: int = PIXELS) -> Image.Image:
    """A picture in a data URI, of at most ``room`` pixels, as upright RGB.

    :raises Refused: it is none, too large in bytes or in pixels, of another format, or broken.
    """
    head, _, data = value.partition(",") if isinstance(value, str) else ("", "", "")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise Refused("a picture comes as data:image/...;base64,...: files and addresses are not opened")
    if len(data) > PICTURE_BYTES * 4 // 3 + 4:
        raise Refused(f"the picture is larger than {PICTURE_BYTES >> 20} MB: make it smaller")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=FORMATS)
    except binascii.Error:
        raise Refused("the picture cannot be read: its base64 is broken") from None
    except Image.DecompressionBombError:
        raise Refused(f"the picture has too many pixels: at most {PIXELS:,} are taken") from None
    except Exception:  # Pillow's readers raise whatever their parsing stumbles over
        raise Refused(f"the picture cannot be read: it is none of {', '.join(FORMATS)}, or broken") from None
    if math.prod(image.size) > room:  # from its head alone: nothing was unpacked yet
        raise Refused(
            f"a picture has {image.width:,} x {image.height:,} pixels: at most {PIXELS:,} are taken in all"
        )
    try:
        return load_image(image)
    except ValueError as error:
        raise Refused(str(error)) from None


class Gate:
    """ASGI middleware: small requests to open addresses pass, and answers say what a page may load."""

    def __init__(self, app: Any, hosts: frozenset[str] | None = None) -> None:
        """``hosts`` are the names that the server may be called by; None: all. (A page elsewhere can let its
        own name lead to this machine, and would then be answered.)"""
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"]
        if self.hosts is not None and _name(headers.get("host", "")) not in self.hosts:
            return await _answer(send, 421, "this server is not called so")
        if path != "/" and not path.startswith(OPEN):
            return await _answer(send, 404, "there is nothing here")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > REQUEST_BYTES:
            return await _answer(send, 413, f"a request has at most {REQUEST_BYTES >> 20} MB")
        taken = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > REQUEST_BYTES:  # sent in pieces, without a length
                return {"type": "http.disconnect"}
            return message

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", CONTENT_SECURITY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, counted, with_headers)


def _name(host: str) -> str:
    """A host without its port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
