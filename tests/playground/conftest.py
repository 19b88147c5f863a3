"""The playground as people start it, with the model that comes with the package."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from earlyfusion.fusion_lm.folder import Model, load_model
from earlyfusion.storage.hub import PRETRAINED

from .browsing import CHROMIUM, CONTROLS, NO_CHROMIUM, PATIENCE

EXAMPLES = Path(__file__).parents[2] / "playground" / "examples"


@pytest.fixture(scope="session")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the curves of one training; a second training beside it must not be shown."""
    root = tmp_path_factory.mktemp("trainings")
    lines = ["step,train/loss,train/z,train/text,train/image,telemetry/output_norm,telemetry/attention_logit"]
    lines += [
        f"{step},{5 - step / 50},0,{4 - step / 60},{6 - step / 70},{step},{step / 9}" for step in range(99)
    ]
    for folder in ("runs/one/lm", "private"):
        (root / folder).mkdir(parents=True)
        (root / folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return root / "runs"


@pytest.fixture(scope="session")
def address(model: Model, runs: Path) -> Iterator[str]:
    """Where the page is served."""
    pytest.importorskip("gradio")
    from earlyfusion.playground.app import build
    from earlyfusion.playground.server import serve
    from earlyfusion.playground.showcase import showcase_of

    tokenizers = {"openmoji-words": model.tokenizer.image, "the same": model.tokenizer.image}
    pages = []

    def make() -> Any:
        pages.append(build(model, {"model": "openmoji-words"}, tokenizers, runs, showcase_of(PRETRAINED)))
        return pages[0]

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield serve(make, "127.0.0.1", port, block=False)
    pages[0].close()
    shutil.rmtree(os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip(NO_CHROMIUM)
    sync_api.expect.set_options(timeout=PATIENCE)
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page as a new visitor; afterwards checks for errors and for requests to other machines."""
    contexts, troubles = [], []

    def opened(**options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)

        def left(request: Any) -> None:
            if not request.url.startswith((address, "data:", "blob:")):
                troubles.append(request.url)

        page.on("request", left)
        page.goto(address)
        for control in CONTROLS:
            page.wait_for_selector(control)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slows answers down, so that a busy browser sees every stage."""
    from earlyfusion.playground import api

    acted = api.acted

    def slow(*arguments: Any) -> Iterator[Any]:
        for shown in acted(*arguments):
            time.sleep(0.02)
            yield shown

    monkeypatch.setattr(api, "acted", slow)
