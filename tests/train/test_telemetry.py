"""Telemetry: every figure beside a few lines of plain torch, and a training that does not feel it."""

import copy
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from earlyfusion.fusion_lm.loss import MODALITIES, LossTerms
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.documents import interleave
from earlyfusion.tokenizers.vocab import IMAGE, TEXT, SharedVocab
from earlyfusion.train import telemetry
from earlyfusion.train.data import TokenData
from earlyfusion.train.fit import fit_lm
from earlyfusion.train.lm import FusionLMTraining, targets_of
from earlyfusion.train.logs import CsvLog, read_metrics
from earlyfusion.train.telemetry import (
    Telemetry,
    WeightsBefore,
    gradient_cosine,
    matrices,
    max_attention_logit,
    observe,
    row_norms,
)

CONFIG = FusionLMConfig(
    context_length=64, n_layers=2, width=32, n_heads=4, n_kv_heads=2, ffn_width=48, dropout=0.1
)
STEPS, EVERY = 6, 3
GROUPS = ("embedding", "lm_head", "qkv", "out", "gate_up", "down")


def network(vocab: SharedVocab, **changes: Any) -> FusionLM:
    """A tiny network whose gains and biases are not 1 and 0 either, in training mode."""
    torch.manual_seed(0)
    net = FusionLM(replace(CONFIG, vocab_size=vocab.size, **changes))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return net.train()


def windows(vocab: SharedVocab, rows: int = 3, length: int = 48) -> tuple[Tensor, Tensor]:
    """Tokens and documents (rows, length): texts and images of several lengths, and padding."""
    torch.manual_seed(1)
    ids = torch.cat([torch.arange(r.id, r.id + r.count) for r in vocab.text])
    tokens = torch.full((rows, length), vocab.pad)
    documents = torch.full((rows, length), 9)
    for row in range(rows):
        end = 0
        for number, (words, grid) in enumerate(((5, (2, 3)), (3 + row, (2, 2)))):
            text, codes = ids[torch.randint(len(ids), (words,))], torch.randint(vocab.codebook_size, grid)
            document = interleave([("text", text), ("image", codes)], vocab)
            tokens[row, end : end + len(document)] = document
            documents[row, end : end + len(document)] = number
            end += len(document)
        assert end < length
    return tokens, documents


def each_document(tokens: Tensor, documents: Tensor, vocab: SharedVocab) -> list[Tensor]:
    """The documents (T,), without the padding."""
    found = [t[d == n] for t, d in zip(tokens, documents) for n in d.unique()]
    return [document for document in found if document[0] != vocab.pad]


# the figures


@pytest.mark.parametrize("changes", [{}, {"norm_placement": "reordered", "qk_norm": "none"}])
def test_figures_are_those_of_the_documents_one_by_one(vocab, changes: dict[str, str]):
    net = network(vocab, **changes)
    tokens, documents = windows(vocab)
    with torch.no_grad():
        seen = observe(net, tokens, documents, vocab)
    assert seen.terms.entropy is not None and seen.terms.in_modality is not None
    vocab_modality = vocab.modality(torch.arange(vocab.size))
    net.eval()
    norms, largest = [], torch.full((2,), -torch.inf)
    sums: dict[str, list[list[float]]] = {n: [[], [], []] for n in ("nll", "entropy", "in_modality")}
    log_z = []
    with torch.no_grad():
        for document in each_document(tokens, documents, vocab):
            positions = net._positions(document[None], None, None)
            x = net.embedding(document[None])
            blocks: Any = net.blocks
            for layer, block in enumerate(blocks):
                inside = x if block.reordered else block.attention_norm(x)
                q, k, _ = block.attention.queries_keys_values(inside, positions)
                for head in range(4):
                    for i in range(len(document)):
                        for j in range(i + 1):
                            logit = q[0, head, i] @ k[0, head // 2, j] / 8**0.5
                            largest[layer] = max(largest[layer], logit)
                x = block(x, positions, None)
            norms += x[0].square().sum(-1).sqrt().tolist()
            logits = net.lm_head(net.norm(x))[0]
            for row, target in zip(logits, document[1:]):
                modality = int(vocab_modality[target])
                p = row.softmax(-1)
                sums["nll"][modality].append(float(-p[target].log()))
                sums["entropy"][modality].append(float(-(p * p.log()).sum()))
                own = p[vocab_modality == modality].sum()
                sums["in_modality"][modality].append(float(-(p[target] / own).log()))
                log_z.append(float(row.logsumexp(-1)))
    used = tokens != vocab.pad
    assert seen.output_norms[used].tolist() == pytest.approx(norms, rel=1e-4)
    torch.testing.assert_close(seen.attention_logits, largest, rtol=1e-4, atol=1e-5)
    assert largest[0] != largest[1]
    for name, values in (
        ("nll", seen.terms.by_modality),
        ("entropy", seen.terms.entropy),
        ("in_modality", seen.terms.in_modality),
    ):
        expected = [np.mean(sums[name][modality]) for modality in range(3)]
        assert values.tolist() == pytest.approx(expected, rel=1e-4)
    assert float(seen.terms.log_z) == pytest.approx(np.mean(log_z), rel=1e-4)


def test_the_largest_logit_is_one_that_attention_sees():
    q, k = torch.zeros(2, 4, 6, 8), torch.zeros(2, 2, 6, 8)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
    used = torch.ones(2, 6, dtype=torch.bool)
    used[1, 4:] = False
    q[..., 0] = k[0, 1, 1, 0] = 1.0  # head 2 and 3 of the first window look at token 1 ...
    k[0, 0, 5, 0] = 9.0  # ... and at the last one with themselves alone
    k[1, 0, 5, 0] = 99.0  # padding
    largest = max_attention_logit(q, k, documents, used)
    assert float(largest) == pytest.approx(9 / 8**0.5)
    k[0, 0, 5, 0] = 0.0
    q[0, :, :3] = 0.0  # those that see token 1: those behind the border do not
    assert float(max_attention_logit(q, k, documents, used)) == 0.0


def test_attention_logits_come_in_parts(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    q, k = torch.randn(3, 4, 37, 8), torch.randn(3, 2, 37, 8)
    documents = torch.arange(37).div(9, rounding_mode="floor").expand(3, 37)
    used = torch.ones(3, 37, dtype=torch.bool)
    whole = max_attention_logit(q, k, documents, used)
    for scores in (1, 4 * 37 * 5):
        monkeypatch.setitem(telemetry.SCORES, "cpu", scores)
        torch.testing.assert_close(max_attention_logit(q, k, documents, used), whole)


def test_a_row_has_the_norm_of_its_modality(vocab):
    weight = torch.randn(vocab.size, 8)
    modality = vocab.modality(torch.arange(vocab.size))
    norms = row_norms(weight, modality)
    for i in range(3):
        expected = [float(row.square().sum().sqrt()) for row, m in zip(weight, modality) if m == i]
        assert float(norms[i]) == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_cosine_is_that_of_the_two_gradients(vocab):
    net = network(vocab)
    tokens, documents = windows(vocab)
    blocks = list(net.blocks.parameters())
    found = gradient_cosine(net, observe(net, tokens, documents, vocab).terms)
    assert all(parameter.grad is None for parameter in net.parameters())
    net.eval()
    targets = targets_of(tokens, documents, vocab)
    gradients = []
    for modality in (TEXT, IMAGE):
        net.zero_grad()
        only = torch.where(targets.modality == modality, targets.tokens, -100)
        logits = net(tokens, documents=documents)
        F.cross_entropy(logits.flatten(0, 1), only.flatten()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in blocks if p.grad is not None]))
    expected = F.cosine_similarity(*gradients, dim=0)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert abs(float(found)) < 0.99


def test_flex_attention_is_looked_at_with_masks(vocab):
    net, (tokens, documents) = network(vocab), windows(vocab)
    expected = observe(net, tokens, documents, vocab)
    net.attention_backend = "flex"  # which has no backward pass on a CPU
    seen = observe(net, tokens, documents, vocab)
    assert torch.equal(seen.output_norms, expected.output_norms)
    assert torch.equal(gradient_cosine(net, seen.terms), gradient_cosine(net, expected.terms))
    assert net.attention_backend == "flex"


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_the_update_ratio_is_that_of_two_snapshots(vocab, tie_embeddings: bool):
    net = network(vocab, tie_embeddings=tie_embeddings)
    groups = [name for name in GROUPS if not (tie_embeddings and name == "lm_head")]
    assert list(matrices(net)) == groups
    before, old = WeightsBefore(net), copy.deepcopy(net)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1 if "out" in name else 0.01)
    moved = before.moved(net)
    assert list(moved) == groups
    for name, (step, size) in moved.items():
        a, b = (torch.cat([w.detach().flatten() for w in matrices(n)[name]]) for n in (old, net))
        assert float((step / size).sqrt()) == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-4)


def test_of_large_matrices_every_so_many_rows_are_kept(vocab, monkeypatch: pytest.MonkeyPatch):
    net = network(vocab)
    monkeypatch.setattr(telemetry, "SAMPLE", 32 * 32)  # qkv has 64 rows of 32, the embedding hundreds
    before = WeightsBefore(net)
    old = net.embedding.weight.detach().clone()
    assert before.rows["out"][0].shape == (32, 32)
    assert torch.equal(before.rows["qkv"][1], net.blocks[1].attention.qkv.weight[::3])  # type: ignore[union-attr]
    assert all(len(rows) * 32 <= 1024 for group in before.rows.values() for rows in group if len(rows) > 1)
    with torch.no_grad():
        net.embedding.weight.mul_(1.5)
    step, size = before.moved(net)["embedding"]
    assert float((step / size).sqrt()) == pytest.approx(0.5, rel=1e-5)
    assert not torch.equal(old, net.embedding.weight)


# the callback


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
    return FusionLMTraining(str(prepared), config, **{**settings, **changes})


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
    vocab_modality = vocab.modality(torch.arange(vocab.size))
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
            "gradient_cosine": gradient_cosine(net, terms).detach(),
        }
        for i, name in enumerate(MODALITIES):
            here = used & (vocab.modality(tokens) == i)
            expected |= {
                f"loss/{name}": terms.by_modality[i],
                f"entropy/{name}": terms.entropy[i],
                f"in_modality/{name}": terms.in_modality[i],
                f"leakage/{name}": terms.by_modality[i] - terms.in_modality[i],
                f"output_norm/{name}": seen.output_norms[here].mean(),
                f"row_norm/{name}": row_norms(net.lm_head.weight, vocab_modality)[i],
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
        fit_lm(
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
    ids = torch.arange(vocab.text[0].token, vocab.text[0].token + 20)
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
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.fsdp import fully_shard

from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.lm import targets_of
from earlyfusion.train.schedule import clip
from earlyfusion.train.telemetry import Telemetry

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
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
        loss = net(tokens, documents, targets.tokens, targets.modality).cross_entropy
        losses[on].append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        telemetry.on_train_batch_start(trainer, module, batch, step)
        telemetry.on_before_optimizer_step(trainer, module, optimizer)
        module.grad_norm = clip(net.parameters(), None)
        optimizer.step()
        telemetry.on_train_batch_end(trainer, module, None, batch, step)
torch.save({"figures": figures, "losses": losses}, folder / f"{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_ranks_with_sharded_weights_have_the_figures_of_one_process(tmp_path: Path, vocab):
    net = network(vocab, dropout=0.0)
    config = {name: getattr(net.config, name) for name in net.config.__dataclass_fields__}
    tokens, documents = windows(vocab, rows=4)
    tokens[2:, 20:] = vocab.pad  # the ranks have different numbers of tokens
    data = {"config": config, "weights": net.state_dict(), "tokens": tokens, "documents": documents}
    vocab.save(tmp_path)
    torch.save(data, tmp_path / "data.pt")
    processes = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait(120) for process in processes] == [0, 0]
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
                tokens[half],
                documents=documents[half],
                targets=targets.tokens[half],
                modality=targets.modality[half],
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
        ({"every": -1}, "every must not be negative, got -1"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        Telemetry(**settings)  # type: ignore[arg-type]


def test_it_can_be_off(prepared: Path, tmp_path: Path):
    train(prepared, tmp_path, Telemetry(every=0))
    assert not any(name.startswith("telemetry/") for name in read_metrics(tmp_path))
