"""Serves the page: its address, style and script, and the parts of Gradio that are turned off."""

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from gradio import processing_utils
from gradio.state_holder import SessionState
from gradio.themes import Base, Default
from starlette.middleware import Middleware

from ..eval.report.page.html_script import CHARTS
from ..eval.report.page.html_style import DARK, LIGHT, PARTS
from .limits import Gate

HERE = Path(__file__).parent
SCRIPTS = ("page.js", "session.js", "viewer.js", "inspect.js")


def serve(make: Callable[[], gr.Blocks], host: str, port: int, block: bool = True) -> str:
    """Serve a page until Ctrl+C.

    Gradio's temporary folder is removed at the end; nothing that visitors send is written to it.

    Args:
        make: Builds the page.
        host: Name or address to listen on.
        port: Port to listen on.
        block: False returns at once and serves in the background.

    Returns:
        The address of the page.

    Raises:
        OSError: The port is in use, or the host is not an address of this machine.
    """
    check_port(host, port)
    folder = tempfile.mkdtemp(prefix="earlyfusion-playground-")
    os.environ["GRADIO_TEMP_DIR"] = folder
    loopback = host in ("127.0.0.1", "localhost", "::1")
    names = frozenset({"127.0.0.1", "localhost", "[::1]"}) if loopback else None
    _close_gradio()
    try:
        page = make()
        _, address, _ = page.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            state_session_capacity=1000,
            show_error=False,  # errors that are not for visitors may name paths of this machine
            theme=_theme(),
            head=_head(),
            favicon_path=str(HERE / "logo.svg"),
            app_kwargs={"middleware": [Middleware(Gate, hosts=names)]},
        )
        if block:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl+C, which shuts down cleanly
            print(f"earlyfusion playground at {address}  (press Ctrl+C to stop)", flush=True)
            page.block_thread()
        return address
    finally:
        if block:
            shutil.rmtree(folder, ignore_errors=True)


def _close_gradio() -> None:
    """Turn off what Gradio does with all input and this page does not need.

    It downloads the URL in anything that looks like one of its files, looks up the file of a path (and says
    where that would be on this machine), and keeps all values of a page for as long as it remembers the page.
    """

    async def fetch(url: str, cache_dir: str) -> str:
        raise gr.Error(f"URLs are not opened: {url[:80]}", print_exception=False)

    def check(path: object, check_in_upload_folder: bool) -> None:
        raise gr.Error("files are not opened", print_exception=False)

    processing_utils.async_ssrf_protected_download = fetch
    processing_utils._check_allowed = check
    SessionState._update_value_in_config = lambda self, key, value: None


def check_port(host: str, port: int) -> None:
    """Check that a server can listen there.

    Raises:
        OSError: It cannot, because the port is in use or the host is unknown.
    """
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise OSError(
            f"cannot serve at {host}, port {port} ({error.strerror}): choose another --host or --port"
        ) from None


def _theme() -> Base:
    """Gradio's own, with the page's blue, which is dark enough under white letters."""
    theme = Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    blue, hover = "*primary_600", "*primary_700"
    return theme.set(
        button_primary_background_fill=blue,
        button_primary_background_fill_dark=blue,
        button_primary_background_fill_hover=hover,
        button_primary_background_fill_hover_dark=hover,
    )


def _head() -> str:
    """The page's style and script; colors follow Gradio's light and dark themes."""
    own = (HERE / "page.css").read_text(encoding="utf-8")
    script = "".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script += f"(() => {{ {CHARTS} }})();"
    scoped = f".ef {{ {LIGHT} {PARTS} }} .dark .ef {{ {DARK} }} {own}"
    return f"<style>{scoped}</style><script>{script}</script>"
