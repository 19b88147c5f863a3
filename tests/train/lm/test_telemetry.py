"""Telemetry as a callback: a training that does not feel it, on one process and on two."""

import copy
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.fusion_lm.loss import LossTerms
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.lm.targets import targets_of
from earlyfusion.train.lm.telemetry import Telemetry, WeightsBefore, gradient_cosines, observe, row_norms
from earlyfusion.train.loop.fit import fit
from earlyfusion.train.loop.logs import CsvLog

CONFIG = FusionLMConfig(
    context_length=64, n_layers=2, width=32, n_heads=4, n_kv_heads=2, ffn_width=48, dropout=0.1
)
STEPS, EVERY = 6, 3
PAIR = ("text", "image")


class Watch(Callback):
    """Remembers losses, gradient norms, and weights and batch before every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.weights: list[dict[str, Tensor]] = []
        self.batches: list[dict[str, Tensor]] = []
        self.end: dict[str, Any] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.weights.append(copy.deepcopy(pl_module.net.state_dict()))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        self.losses.append(float(outputs["loss"]))
        if len(self.norms) < trainer.global_step:
            self.norms.append(float(pl_module.grad_norm))
            self.batches.append(batch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.end = {
            "weights": copy.deepcopy(pl_module.net.state_dict()),
            "optimizer": copy.deepcopy(trainer.optimizers[0].state_dict()["state"]),
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(legacy=True)[1].tolist(),  # type: ignore[index]
            "python": random.getstate(),
            "modes": [module.training for module in pl_module.net.modules()],
            "hooks": sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in pl_module.net.modules()),
        }


def training(prepared: Path, config: FusionLMConfig = CONFIG, **changes: Any) -> FusionLMTraining:
    torch.manual_seed(0)
    settings = {"lr": 3e-3, "max_steps": STEPS, "warmup_steps": 1}
    return FusionLMTraining(LMSettings(tokenizer=str(prepared), config=config, **{**settings, **changes}))


def train(prepared: Path, run: Path, callback: Telemetry | None, **options: Any) -> Watch:
    """A training with ``callback`` and every other one in the same order."""
    watch = Watch()
    config = options.pop("config", CONFIG)
    compiler = options.pop("compiler", None)
    module = training(
        prepared, config, activation_checkpointing=options.pop("activation_checkpointing", False)
    )
    if compiler:
        module.net.compile(backend=compiler)
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        default_root_dir=run,
        logger=CsvLog(run),
        callbacks=[watch, *([callback] if callback else [])],
        gradient_clip_val=1.0,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=2,
        **options,
    )
    trainer.fit(module, TokenData(str(prepared), batch_size=4))
    return watch


def bare_trainer(figures: dict[str, float]) -> Any:
    """What the callback needs of a Trainer; the latest figures stand in ``figures``."""
    log = SimpleNamespace(log_metrics=lambda values, step: figures.update(values))
    return SimpleNamespace(
        strategy=SingleDeviceStrategy(), precision_plugin=Precision(), global_step=0, loggers=[log]
    )


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({"gradient_cosine": True}, {"activation_checkpointing": True, "accumulate_grad_batches": 2}),
        ({"gradient_cosine": True}, {"precision": "bf16-mixed"}),
    ],
    ids=["plain", "cosine, checkpointing, accumulation", "bf16"],
)
def test_a_training_does_not_feel_it(prepared: Path, tmp_path: Path, settings: dict, options: dict):
    without = train(prepared, tmp_path / "without", None, **options)
    watched = train(prepared, tmp_path / "with", Telemetry(every=1, **settings), **options)
    assert without.losses == watched.losses
    assert without.norms == watched.norms
    assert equal(without.end, watched.end)
    assert all(watched.end["modes"]) and not watched.end["hooks"]
    curves = read_metrics(tmp_path / "with")
    figures = {name: curve for name, curve in curves.items() if name.startswith("telemetry/")}
    assert not any(name.startswith("telemetry/") for name in read_metrics(tmp_path / "without"))
    for name in ("loss", "output_norm", "attention_logit", "gradient_norm", "update_ratio/qkv"):
        assert [step for step, _ in figures[f"telemetry/{name}"]] == list(range(STEPS))
    assert ("telemetry/gradient_cosine" in figures) == ("gradient_cosine" in settings)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_logged(prepared: Path, tmp_path: Path, vocab, accumulate: int):
    watch = train(
        prepared,
        tmp_path,
        Telemetry(every=EVERY, rows=2, gradient_cosine=True),
        accumulate_grad_batches=accumulate,
    )
    assert len(watch.weights) == STEPS and len(watch.losses) == STEPS * accumulate
    curves = read_metrics(tmp_path)
    logged = {n.removeprefix("telemetry/"): c for n, c in curves.items() if n.startswith("telemetry/")}
    assert {tuple(step for step, _ in curve) for curve in logged.values()} == {(EVERY - 1, STEPS - 1)}
    net = FusionLM(replace(CONFIG, vocab_size=vocab.size))
    for number, step in enumerate((EVERY - 1, STEPS - 1)):
        net.load_state_dict(watch.weights[step])
        tokens, documents = (watch.batches[step][name][:2] for name in ("tokens", "documents"))
        seen = observe(net, tokens, documents, vocab)
        terms, used = seen.terms, tokens != vocab.pad
        assert terms.entropy is not None and terms.in_modality is not None
        expected = {
            "loss": terms.cross_entropy.detach(),
            "log_z": terms.log_z,
            "output_norm": seen.output_norms[used].mean(),
            "attention_logit": seen.attention_logits.max(),
            "attention_logit/layer_00": seen.attention_logits[0],
            "attention_logit/layer_01": seen.attention_logits[1],
            "gradient_norm": watch.norms[step],
            "gradient_cosine": gradient_cosines(net, terms, PAIR)[PAIR].detach(),
        }
        for i, name in enumerate(vocab.names):
            here = used & (vocab.modality(tokens) == i)
            expected |= {
                f"loss/{name}": terms.by_modality[i],
                f"entropy/{name}": terms.entropy[i],
                f"in_modality/{name}": terms.in_modality[i],
                f"leakage/{name}": terms.by_modality[i] - terms.in_modality[i],
                f"output_norm/{name}": seen.output_norms[here].mean(),
                f"row_norm/{name}": row_norms(net.lm_head.weight, vocab.table())[i],
            }
        before = WeightsBefore(net)
        after = watch.weights[step + 1] if step + 1 < STEPS else watch.end["weights"]
        net.load_state_dict(after)
        expected |= {f"update_ratio/{n}": (a / b).sqrt() for n, (a, b) in before.moved(net).items()}
        assert set(expected) == set(logged)
        for name, value in expected.items():
            assert logged[name][number][1] == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
            assert logged[name][number][1] != 0 or "leakage" in name


def test_the_figures_of_a_run_that_goes_on(prepared: Path, tmp_path: Path):
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 4:
                raise KeyboardInterrupt

    def run(folder: Path, *callbacks: Callback) -> None:
        fit(
            training(prepared),
            TokenData(str(prepared), batch_size=4),
            folder,
            callbacks=[Telemetry(every=1), *callbacks],
            checkpoint_steps=3,
            log_every=2,
            progress=False,
            tensorboard=False,
        )

    run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Stop())
    run(tmp_path / "stopped")
    straight, stopped = (read_metrics(tmp_path / name) for name in ("straight", "stopped"))
    for name, curve in straight.items():
        if name.startswith("telemetry/"):
            assert curve == stopped[name]
    assert [step for step, _ in stopped["telemetry/loss"]] == list(range(STEPS))


def test_a_modality_that_is_missing_has_no_figures(vocab, prepared: Path):
    module = training(prepared)
    ids = torch.arange(vocab["text"].ranges[0].token, vocab["text"].ranges[0].token + 20)
    tokens = torch.cat([ids, torch.full((9,), vocab.pad)])[None]
    batch = {"tokens": tokens, "documents": (tokens == vocab.pad).long()}
    figures: dict[str, float] = {}
    trainer = bare_trainer(figures)
    callback = Telemetry(every=1, gradient_cosine=True)
    callback.on_train_batch_start(trainer, module, batch, 0)
    callback.on_before_optimizer_step(trainer, module, None)
    callback.on_train_batch_end(trainer, module, None, batch, 0)
    assert "telemetry/loss/text" in figures
    net: Any = module.net
    norm = observe(net, **batch, vocab=vocab).output_norms[0, :20].mean()
    for name in ("telemetry/output_norm", "telemetry/output_norm/text"):  # padding is in neither
        assert figures[name] == pytest.approx(float(norm), rel=1e-5)
    for figure in ("loss", "entropy", "in_modality", "leakage", "output_norm"):
        assert f"telemetry/{figure}/image" not in figures
        assert f"telemetry/{figure}/structure" not in figures
    assert "telemetry/gradient_cosine" not in figures
    assert figures["telemetry/update_ratio/out"] == 0.0


def test_a_compiled_network_is_not_compiled_again(prepared: Path, tmp_path: Path):
    config = replace(CONFIG, n_layers=1)
    seen: dict[str, tuple[Watch, int]] = {}
    for name, callback in (("without", None), ("with", Telemetry(every=2, gradient_cosine=True))):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        # Traced and guarded as ever, without the code that takes minutes to make.
        watch = train(prepared, tmp_path / name, callback, config=config, compiler="eager")
        seen[name] = watch, torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    assert seen["without"][1] == seen["with"][1] > 0
    assert seen["without"][0].losses == seen["with"][0].losses
    assert equal(seen["without"][0].end, seen["with"][0].end)
    train(prepared, tmp_path / "eager", Telemetry(every=2, gradient_cosine=True), config=config)
    logged = read_metrics(tmp_path / "with")
    for name, curve in read_metrics(tmp_path / "eager").items():
        if name.startswith("telemetry/"):
            assert [v for _, v in logged[name]] == pytest.approx([v for _, v in curve], rel=1e-4, abs=1e-5)


RANK = """
import os
from types import SimpleNamespace

import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.fsdp import fully_shard

from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.lm.targets import targets_of
from earlyfusion.train.loop.optim import clip
from earlyfusion.train.lm.telemetry import Telemetry

torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
saved = torch.load(folder / "data.pt", weights_only=True)
vocab = SharedVocab.load(folder)
mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
tokens, documents = (saved[name].chunk(2)[rank] for name in ("tokens", "documents"))
batch = {"tokens": tokens, "documents": documents}
targets = targets_of(tokens, documents, vocab)
figures, losses = {}, {True: [], False: []}
trainer = SimpleNamespace(
    strategy=DDPStrategy(),
    precision_plugin=Precision(),
    global_step=0,
    loggers=[SimpleNamespace(log_metrics=lambda values, step: figures.update(values))],
)
for on in (True, False):
    net = FusionLM(FusionLMConfig(**saved["config"]))
    net.load_state_dict(saved["weights"])
    for block in net.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    module = SimpleNamespace(net=net, vocab=vocab, grad_norm=None)
    telemetry = Telemetry(every=int(on))
    for step in range(3):
        loss = net(Inputs(tokens, documents), targets=targets, modalities=vocab.table()).cross_entropy
        losses[on].append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        telemetry.on_train_batch_start(trainer, module, batch, step)
        telemetry.on_before_optimizer_step(trainer, module, optimizer)
        module.grad_norm = clip(net.parameters(), None)
        optimizer.step()
        telemetry.on_train_batch_end(trainer, module, None, batch, step)
torch.save({"figures": figures, "losses": losses}, folder / f"{rank}.pt")
torch.distributed.barrier()
os._exit(0)  # the threads of gloo may abort a process that ends in order
"""


def test_ranks_with_sharded_weights_have_the_figures_of_one_process(
    network, windows, tmp_path: Path, vocab, start
):
    net = network(vocab, dropout=0.0)
    config = {name: getattr(net.config, name) for name in net.config.__dataclass_fields__}
    tokens, documents = windows(vocab, rows=4)
    tokens[2:, 20:] = vocab.pad  # the ranks have different numbers of tokens
    data = {"config": config, "weights": net.state_dict(), "tokens": tokens, "documents": documents}
    vocab.save(tmp_path)
    torch.save(data, tmp_path / "data.pt")
    processes = [start(RANK, rank=rank, folder=tmp_path) for rank in (0, 1)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0]["figures"] == ranks[1]["figures"]
    for rank in ranks:  # the weights of each step reach the next forward
        assert rank["losses"][True] == rank["losses"][False]
    figures: dict[str, float] = {}
    trainer = bare_trainer(figures)
    module: Any = SimpleNamespace(net=net, vocab=vocab, grad_norm=None)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    callback = Telemetry(every=1)
    targets = targets_of(tokens, documents, vocab)
    for _ in range(3):
        optimizer.zero_grad()
        for half in (slice(0, 2), slice(2, 4)):
            terms = net(
                Inputs(tokens[half], documents[half]),
                targets=targets[half],
                modalities=vocab.table(),
            )
            assert isinstance(terms, LossTerms)
            (terms.cross_entropy / 2).backward()
        callback.on_train_batch_start(trainer, module, {"tokens": tokens, "documents": documents}, 0)
        callback.on_before_optimizer_step(trainer, module, optimizer)
        module.grad_norm = torch.nn.utils.get_total_norm(
            [p.grad for p in net.parameters() if p.grad is not None]
        )
        optimizer.step()
        callback.on_train_batch_end(trainer, module, None, None, 0)
    assert figures.keys() == ranks[0]["figures"].keys()
    for name, value in figures.items():
        assert ranks[0]["figures"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": -1}, "every.*-1"),
        ({"rows": 0}, "rows.*0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        Telemetry(**settings)  # type: ignore[arg-type]


def test_it_can_be_off(prepared: Path, tmp_path: Path):
    train(prepared, tmp_path, Telemetry(every=0))
    assert not any(name.startswith("telemetry/") for name in read_metrics(tmp_path))
