"""The path of a GPU, on machines without one (``stand_in.py``).

Every tensor is on the device, the results are those of the CPU, and the host waits where ``WAITS`` says.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.nn.attention.flex_attention import create_mask

from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.fusion_lm import layers
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.generate import LOOK, generate_steps
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.fusion_lm.stream import stream
from earlyfusion.tests.stand_in import GPU, StandIn
from earlyfusion.tokenizers.image import ImageTokenizerConfig
from earlyfusion.train.callbacks.divergence import Divergence
from earlyfusion.train.image.adversary import AdversaryConfig
from earlyfusion.train.image.data import ImageData
from earlyfusion.train.image.module import ImageTokenizerTraining
from earlyfusion.train.image.settings import ImageTokenizerSettings
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.lm.telemetry import Telemetry
from earlyfusion.train.loop.trainer import DEFAULTS, for_fit, loggers, quiet

LM = FusionLMConfig(context_length=64, n_layers=2, width=32, n_heads=2, n_kv_heads=1, ffn_width=48)
IMAGE = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=16, codebook_dim=4)
STEPS, LOG, CHECK, MEASURE = 6, 3, 2, 4
"""Steps of a training, and how often it logs, checks the loss and measures telemetry."""

CLIP = "read train/loop/optim.py clip_or_skip"
LOSS = "read train/callbacks/divergence.py _look"
MEANS = "read train/loop/meters.py read"
NORM = "read train/loop/logged_training.py log_figures"
CODEBOOK = "read tokenizers/vqvae/quantizer.py forward"
USE = "read train/image/module.py read_figures"
USES = "read train/image/module.py <dictcomp>"
END = "read fusion_lm/generate.py generate_steps"
TOKENS = "read fusion_lm/stream.py read"
WAITS = {
    CLIP: "once a step: whether the gradient is finite, since the host drops the step otherwise",
    LOSS: "every 20 steps, and in the first 20: the loss, to stop a training that diverges",
    MEANS: "when figures or telemetry are logged: all means at once",
    NORM: "when figures are logged: the norm of the gradient",
    CODEBOOK: "twice a step, in vector-quantize-pytorch: is there a codebook, are codes dead",
    USE: "when figures are logged: whether codes were counted",
    USES: "when figures are logged: usage and perplexity of the codebook",
    END: "every 16 tokens: whether all rows have ended",
    TOKENS: "every 16 tokens of a stream: tokens, stops and log p",
}
"""Everything that waits for the GPU while steps are run; docs/cluster.md tells users."""


class Unchecked(CPUAccelerator):
    """Lightning's accelerator, which would refuse a device that is not the CPU."""

    def setup_device(self, device: torch.device) -> None:
        pass


@dataclass
class Watch(Callback):
    """Keeps the waits of each step of a training, and of each batch of its validation."""

    gpu: StandIn
    steps: list[Counter[str]] = field(default_factory=list)
    batches: list[Counter[str]] = field(default_factory=list)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert all(tensor.device == GPU for tensor in (batch.values() if isinstance(batch, dict) else batch))
        self._take(self.steps)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._take(self.steps)

    def on_validation_batch_start(self, *_: Any) -> None:
        self._take(self.batches)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._take(self.batches)

    def _take(self, into: list[Counter[str]]) -> None:
        into.append(counted(self.gpu))


def counted(gpu: StandIn) -> Counter[str]:
    """The waits since the last call."""
    found = Counter(f"{wait.kind} {wait.where}" for wait in gpu.waits)
    gpu.waits.clear()
    return found


def train(module: Any, data: Any, run: Path, *callbacks: Callback, gpu: bool) -> dict[str, float]:
    """Train as ``fit`` does; the last row of the curves."""
    where = SingleDeviceStrategy(torch.device("cuda:0") if gpu else "cpu", Unchecked())
    options = {
        "strategy": where, "precision": "32-true", "max_steps": STEPS, "default_root_dir": run,
        "logger": loggers(run, tensorboard=False), "callbacks": list(callbacks), "log_every_n_steps": LOG,
        "val_check_interval": STEPS, "enable_progress_bar": False,
    }  # fmt: skip
    with quiet():
        L.seed_everything(0, verbose=False)
        L.Trainer(**for_fit({**DEFAULTS, **options}, "training")).fit(module, data)
    rows = read_metrics(run)
    return {name: values[-1][1] for name, values in rows.items() if values}


def of_lm(prepared: Path, run: Path, gpu: bool, *callbacks: Callback) -> dict[str, float]:
    torch.manual_seed(0)
    module = FusionLMTraining(
        LMSettings(
            tokenizer=str(prepared),
            config=LM,
            lr=3e-3,
            max_steps=STEPS,
            warmup_steps=2,
            condition_dropout=0.2,
        )
    )
    module.net.attention_backend = "sdpa"  # the stand-in cannot compile
    callbacks = (*callbacks, Telemetry(MEASURE), Divergence(every=CHECK))
    return train(module, TokenData(str(prepared), batch_size=4), run, *callbacks, gpu=gpu)


def test_training_of_the_transformer(prepared: Path, tmp_path: Path) -> None:
    expected = of_lm(prepared, tmp_path / "cpu", False)
    with StandIn() as gpu:
        found = of_lm(prepared, tmp_path / "gpu", True, watch := Watch(gpu))
    del expected["train/tokens_per_second"], found["train/tokens_per_second"]
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    # Before the first step weights are moved; afterwards step n is number n.
    for n, waits in enumerate(watch.steps[1:], 1):
        expected_waits = Counter([CLIP])
        expected_waits += Counter([LOSS] * (n <= CHECK or n % CHECK == 0))
        expected_waits += Counter([MEANS] * (n % MEASURE == 0))
        expected_waits += Counter([MEANS, NORM] * (n % LOG == 0))
        assert waits == expected_waits, n
    assert watch.batches[2:] and not sum(map(Counter.total, watch.batches[2:]))  # the first one moves a table


def of_image(images: Path, run: Path, gpu: bool, *callbacks: Callback) -> dict[str, float]:
    torch.manual_seed(0)
    settings = ImageTokenizerSettings(
        config=IMAGE, lr=2e-3, max_steps=STEPS, warmup_steps=3, autoencoder_steps=2, kmeans_latents=256,
        text_weight=0.0,
        adversary=AdversaryConfig(weight=0.5, start=4, channels=8, layers=1),
    )  # fmt: skip
    data = ImageData(str(images), factor=8, batch_pixels=2048)
    return train(ImageTokenizerTraining(settings), data, run, *callbacks, gpu=gpu)


def test_training_of_the_image_tokenizer(image_folder: Path, tmp_path: Path) -> None:
    expected = of_image(image_folder, tmp_path / "cpu", False)
    with StandIn() as gpu:
        found = of_image(image_folder, tmp_path / "gpu", True, watch := Watch(gpu))
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-4)
    moves = "upload train/image/"
    for n, waits in enumerate(watch.steps[1:], 1):
        expected_waits = Counter([CODEBOOK] * 2 * (n > 2))
        if n % LOG == 0:
            expected_waits += Counter([MEANS, USE, NORM] + [USES] * 2 * (n > 2))
        once = Counter({wait: count for wait, count in waits.items() if wait.startswith(moves)})
        assert not once or n in (3, 5)  # k-means reads its images, and the discriminator is moved
        assert waits - once == expected_waits, n


@pytest.mark.parametrize(
    "options",
    [
        {"guidance": Guidance(3.0, 2.0)},
        {"sampling": {"text": Sampling(0.9, 50, 0.9, 0.01, 1.2), "image": Sampling(0.8, 20)}},
        {"sampling": Sampling(0), "max_blocks": 1},
    ],
    ids=["guided", "filtered", "greedy"],
)
def test_decoding(model_folder: Path, options: dict[str, Any]) -> None:
    lm, tokenizer = load_model(model_folder)
    vocab = tokenizer.vocab
    text = vocab["text"].ranges[0].token
    prompts = [torch.tensor([vocab.bos]), torch.tensor([vocab.bos, text + 5, text + 6])]
    options = {"max_new_tokens": 20, "then": "image", "shapes": {"image": (3, 4)}, **options}
    expected = list(generate_steps(lm, vocab, prompts, **options))
    with StandIn() as gpu:
        lm.to("cuda")
        for n, step in enumerate(generate_steps(lm, vocab, prompts, **options)):
            waits = counted(gpu)  # of the forward pass before this token
            assert n == 0 or waits == Counter([END] * (n == LOOK)), n
            assert step.tokens.tolist() == expected[n].tokens.tolist()
            assert step.stop.tolist() == expected[n].stop.tolist()
            gpu.waits.clear()
        assert n + 1 == len(expected) > LOOK


def test_a_stream_of_images(model_folder: Path) -> None:
    model = load_model(model_folder)
    options = {"max_new_tokens": 40, "then": "image", "shapes": {"image": (3, 4)}, "stop_after": "image"}
    expected = list(stream(model, [["A"]], **options))
    with StandIn() as gpu:
        model.lm.to("cuda")
        model.tokenizer.image.to("cuda")
        counted(gpu)
        found = list(stream(model, [["A"]], **options))
        waits = counted(gpu)
    assert [type(event) for event in found] == [type(event) for event in expected]
    assert found[-1].tokens == expected[-1].tokens  # type: ignore[union-attr]
    assert waits[TOKENS] == 3  # tokens, stops and log p, once for these 15 tokens


def test_the_image_tokenizer(image_tokenizer: Any) -> None:
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    codes = image_tokenizer.encode(images)
    pixels = image_tokenizer.decode(codes)
    network = load_copy(image_tokenizer)
    with StandIn() as gpu:
        network.to("cuda")
        given = images.to("cuda")
        counted(gpu)
        found = network.encode(given)
        assert not counted(gpu)
        shown = network.decode(found)
        assert counted(gpu) == Counter(["read tokenizers/image.py decode"])  # whether the codes exist
        assert found.tolist() == codes.tolist()
        torch.testing.assert_close(shown.cpu(), pixels, atol=1e-4, rtol=1e-4)


def load_copy(network: Any) -> Any:
    """The network again, since moving one changes it."""
    made = type(network)(network.config).eval()
    made.load_state_dict(network.state_dict())
    return made


def test_flex_attention_is_chosen_with_the_blocks_of_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = FusionLM(replace(LM, vocab_size=90, context_length=160))
    tokens, documents = torch.randint(90, (2, 160)), torch.randint(4, (2, 160)).sort().values
    with torch.no_grad():
        expected: Any = net(Inputs(tokens, documents), targets=tokens)

    def dense(q: Any, k: Any, v: Any, *, block_mask: Any, enable_gqa: bool) -> Any:
        """flex_attention's definition, which the stand-in can run: attention under the mask of the blocks."""
        assert block_mask.kv_indices.device == q.device
        B, H, T, S = block_mask.shape
        mask = create_mask(block_mask.mask_mod, B, H, T, S, device=q.device)  # type: ignore[arg-type]
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=enable_gqa)

    monkeypatch.setattr(layers, "_flex", lambda: dense)
    with StandIn() as gpu:
        net.to("cuda")
        tokens, documents = tokens.to("cuda"), documents.to("cuda")
        counted(gpu)
        found: Any = net(Inputs(tokens, documents), targets=tokens)
        assert not counted(gpu)
        torch.testing.assert_close(found.nll.cpu(), expected.nll, atol=1e-4, rtol=1e-4)


def test_every_reason_is_needed_and_told() -> None:
    page = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
    told = page.partition("### What waits for the GPU")[2].partition("\n## ")[0]
    assert [wait for wait in WAITS if f"`{wait.split()[1]}`" not in told] == []


def test_the_stand_in_behaves_like_a_gpu() -> None:
    with StandIn() as gpu:
        x = torch.arange(6, device="cuda").view(2, 3)
        assert x.device == GPU and not gpu.waits
        with pytest.raises(RuntimeError, match="one device"):
            x.add(torch.zeros(2, 3))
        for work, kind in (
            (lambda: bool((x > 0).any()), "read"),
            (lambda: x.cpu(), "read"),
            (lambda: x.nonzero(), "size"),
            (lambda: x[x > 2], "size"),
            (lambda: torch.tensor([1, 2], device="cuda"), "upload"),
            (lambda: torch.zeros(3).to("cuda"), "upload"),
        ):
            work()
            assert [wait.kind for wait in gpu.waits] == [kind]
            gpu.waits.clear()
        x[x > 4] = 0
        x.add_(1)
        torch.zeros(3).to("cuda", non_blocking=True)
        assert not gpu.waits and x.tolist() == [[1, 2, 3], [4, 5, 1]]
