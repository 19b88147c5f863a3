"""The playground as people start it, with the model that comes with the package."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from earlyfusion.fusion_lm.folder import Model, load_model
from earlyfusion.storage.hub import PRETRAINED

from .browsing import CHROMIUM, NO_CHROMIUM, PATIENCE, opened

EXAMPLES = Path(__file__).parents[2] / "playground" / "examples"


@pytest.fixture(scope="session")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the curves of one training; nothing of a second one beside it must be shown."""
    root = tmp_path_factory.mktemp("trainings")
    lines = ["step,train/loss,train/z,train/text,train/image,telemetry/output_norm,telemetry/attention_logit"]
    lines += [
        f"{step},{5 - step / 50},0,{4 - step / 60},{6 - step / 70},{step},{step / 9}" for step in range(99)
    ]
    for folder, kind in (("runs/one/lm", "samples"), ("private", "reconstructions")):
        (root / folder / kind).mkdir(parents=True)
        (root / folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        config = f"# torch==2\ndata:\n  train: {root}/shards.tar\n  more:\n  - 'C:\\my files\\b.tar'\n"
        (root / folder / "config.yaml").write_text(config)
    for step, color in ((50, "red"), (99, "blue")):
        Image.new("RGB", (40, 20), color).save(root / "runs/one/lm/samples" / f"step-{step:06}.png")
    Image.new("RGB", (40, 20)).save(root / "private/reconstructions" / "step-000001.png")
    (root / "runs/one/lm/reconstructions").symlink_to(root / "private/reconstructions")
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


@pytest.fixture(scope="module")
def page(browser: Any, address: str) -> Iterator[Any]:
    """One page for all tests of a file, in their order; at the end there were no errors."""
    troubles: list[str] = []
    page = opened(browser, address, troubles, permissions=["clipboard-read", "clipboard-write"])
    page.wait_for_selector("#gallery .things")
    yield page
    page.context.close()
    assert troubles == []


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page as another visitor."""
    pages, troubles = [], []

    def visit(**options: Any) -> Any:
        pages.append(opened(browser, address, troubles, **options))
        return pages[-1]

    yield visit
    for page in pages:
        page.context.close()
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
