"""Estimate the memory and time of a training by model size and number of GPUs, from small measurements.

    .venv/bin/python benchmarks/speed/cost.py --threads 2 --out benchmarks/speed/cost.json

- Bytes kept for the backward pass, per token and layer, are counted in a forward pass of one or two layers of
  each preset's width (saved tensors without weights and their copies), in float32 and under bfloat16
  autocast, with and without activation checkpointing.
- Weights, gradients and AdamW's moments are 16 bytes per parameter (float32, also under autocast).
- A token costs 6 operations per parameter, and 6 L T C for attention within windows of T tokens, forward and
  backward; checkpointing adds a third.
- This arithmetic is checked against two trainings on this machine: the growth of the process, and the
  operations per second compared with those of plain matrix products.

The table at the end assumes GPUs of 80 GB and 989 TFLOP/s (H100, bfloat16, dense), of which trainings of this
kind reach 40 %. That is an assumption, not a measurement: no GPU was available.
"""

# ruff: noqa: E402

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import torch
import yaml
from machine import write_figures

from earlyfusion.fusion_lm.loss import LossTerms
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.train.loop.optim import adamw

CONFIGS = Path(__file__).parents[2] / "train" / "configs"
PRESETS = {"lm_small": 16_384, "lm": 16_384, "lm_chameleon7b": 65_536}
"""Preset -> the vocabulary size assumed here; a training takes that of its tokenizer."""
FITTED = {"lm_chameleon34b": 65_536}
"""Too wide for this machine: a C + b F, fitted to the others."""
MARGIN = 2.0
"""Safety factor on activations: the largest ratio of measured to predicted growth in the checks below."""
CHECKED = {"3.5 M": (6, 192, 6, 512, 2_400), "20 M": (6, 448, 7, 1_216, 8_192)}
"""Layers, width, heads, feed-forward, vocabulary of the trainings for the checks."""
GPU_BYTES, GPU_FLOPS, REACHED = 80e9, 989e12, 0.4


def preset(name: str, vocab_size: int) -> FusionLMConfig:
    """The network of a preset."""
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["config"]
    return FusionLMConfig(**{**values, "vocab_size": vocab_size, "dropout": 0.0})


def parameters(config: FusionLMConfig) -> int:
    """The number of parameters, counted without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in FusionLM(config).parameters())


def saved_bytes(config: FusionLMConfig, tokens: int, autocast: bool, checkpointing: bool) -> int:
    """Bytes that a forward pass over ``tokens`` keeps for the backward pass."""
    net = FusionLM(config)
    net.activation_checkpointing = checkpointing
    shapes = {p.shape for p in net.parameters()} | {p.T.shape for p in net.parameters() if p.ndim == 2}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    inputs = torch.randint(config.vocab_size, (1, tokens))
    alive = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            alive.append(net(inputs, targets=inputs))
    return sum(kept.values())


def per_token_and_layer(config: FusionLMConfig, autocast: bool, checkpointing: bool) -> float:
    """Bytes kept per token and layer: the difference between two layers and one."""
    tokens = 128
    small = replace(config, vocab_size=256, context_length=tokens)
    one, two = (saved_bytes(replace(small, n_layers=n), tokens, autocast, checkpointing) for n in (1, 2))
    return (two - one) / tokens


def operations(config: FusionLMConfig, window: int) -> float:
    """Operations per training token."""
    embedding = 0 if config.tie_embeddings else config.vocab_size * config.width
    return 6 * (parameters(config) - embedding) + 6 * config.n_layers * window * config.width


def resident() -> int:
    """Peak resident memory of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def trained(config: FusionLMConfig, rows: int, window: int, steps: int) -> tuple[float, float]:
    """Bytes by which the process grows in a training, and seconds per step."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        torch.mm(torch.randn(256, 256), torch.randn(256, 256))  # allocates torch's threads and buffers
        before = resident()
        net = FusionLM(config)
        optimizer = adamw(net, 1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        tokens = torch.randint(config.vocab_size, (rows, window))
        times = []
        for _ in range(steps):
            began = time.perf_counter()
            terms = net(tokens, targets=tokens)
            assert isinstance(terms, LossTerms)
            terms.cross_entropy.backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - began)
        os.write(writing, f"{resident() - before} {sorted(times)[len(times) // 2]}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    grown, seconds = os.read(reading, 100).decode().split()
    return float(grown), float(seconds)


def product_rate() -> float:
    """Operations per second of plain float32 products."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = 0.0
    for _ in range(20):
        began = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * 1024**3 / (time.perf_counter() - began))
    return best


def check(name: str, threads: int) -> dict[str, Any]:
    """Compare a training on this machine with the arithmetic."""
    layers, width, heads, ffn, vocab = CHECKED[name]
    config = FusionLMConfig(
        vocab_size=vocab,
        context_length=256,
        n_layers=layers,
        width=width,
        n_heads=heads,
        n_kv_heads=heads,
        ffn_width=ffn,
    )
    rows, window = 16, 256
    saved = per_token_and_layer(config, autocast=False, checkpointing=False) * layers * rows * window
    logits = 4 * min(2**25, rows * window * vocab)  # a chunk of them, and its gradient
    predicted = 16 * parameters(config) + saved + 2 * logits
    grown, seconds = trained(config, rows, window, 6)
    rate = operations(config, window) * rows * window / seconds
    peak = product_rate()
    return {
        "network": name,
        "parameters": parameters(config),
        "predicted_mib": round(predicted / 2**20),
        "measured_mib": round(grown / 2**20),
        "seconds_per_step": round(seconds, 3),
        "gflops": round(rate / 1e9, 1),
        "part_of_plain_products": round(rate / peak, 2),
        "threads": threads,
    }


def table(name: str, config: FusionLMConfig, saved: dict[str, float]) -> list[dict[str, Any]]:
    """For several numbers of GPUs, the windows that fit each, and hours per billion tokens."""
    count, window = parameters(config), config.context_length
    rows = []
    for gpus in (1, 2, 4, 8, 16, 32, 64):
        state = 16 * count / gpus
        gathered = 2 * 2 * count / config.n_layers if gpus > 1 else 0  # two blocks in bfloat16
        found: dict[str, Any] = {"preset": name, "gpus": gpus, "state_gb": round(state / 1e9, 1)}
        room = 0.9 * GPU_BYTES - state - gathered - 2e9
        for kind, factor in (("bfloat16", 1.0), ("bfloat16, checkpointing", 4 / 3)):
            recomputed = saved["bfloat16"] if factor > 1 else 0.0  # of the block that is recomputed
            bytes_of_window = MARGIN * (saved[kind] * config.n_layers + recomputed) * window
            windows = int(room // bytes_of_window) if room > 0 else 0
            found[f"windows ({kind})"] = max(0, windows)
            seconds = 1e9 * operations(config, window) * factor / (gpus * GPU_FLOPS * REACHED)
            found[f"hours per 1e9 tokens ({kind})"] = round(seconds / 3600, 2)
        rows.append(found)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"checked": [], "presets": [], "table": []}
    torch.set_num_threads(1)  # forked processes would share threads
    for name in CHECKED:
        result["checked"].append(check(name, 1))
        print(result["checked"][-1], flush=True)
    torch.set_num_threads(args.threads)
    widths, measured = [], []
    for name, vocab_size in {**PRESETS, **FITTED}.items():
        config = preset(name, vocab_size)
        width = [float(config.width), float(config.ffn_width)]
        if name in PRESETS:
            saved = {
                "float32": per_token_and_layer(config, False, False),
                "bfloat16": per_token_and_layer(config, True, False),
                "bfloat16, checkpointing": per_token_and_layer(config, True, True),
            }
            widths.append(width)
            measured.append(list(saved.values()))
        else:
            fit = torch.linalg.lstsq(torch.tensor(widths), torch.tensor(measured)).solution
            saved = dict(zip(saved, (torch.tensor(width) @ fit).tolist()))
        facts = {"preset": name, "parameters": parameters(config), "bytes_per_token_and_layer": saved}
        result["presets"].append(facts)
        result["table"] += table(name, config, saved)
        print(facts, flush=True)
    for row in result["table"]:
        print(row)
    if args.out:
        write_figures(args.out, result)


if __name__ == "__main__":
    main()
