"""The playground as people start it, with the model that comes with the package."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from earlyfusion.fusion_lm.folder import Model, load_model
from earlyfusion.tokenizers.hub import PRETRAINED

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
