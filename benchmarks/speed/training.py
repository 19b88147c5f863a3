"""Training speed of the transformer, compared with transformers' Chameleon with the same weights.

    .venv/bin/pip install transformers
    .venv/bin/python benchmarks/speed/training.py --threads 2 --out benchmarks/speed/training.json
    .venv/bin/python benchmarks/speed/training.py --what rate --size 150M --windows 16 --device cuda \\
        --dtype bfloat16 --compile

training: tokens per second of forward, backward and AdamW (torch's, fused). Both run alternately, so that
other work on the machine slows both; the median is printed, with minimum and maximum. Before that, losses and
gradients of both are compared in float32, since speeds of different networks cannot be compared. Ours also
computes the z-loss.
  equal    Full windows with one document each.
  padded   Documents as long as those of a prepared folder. Ours are packed into windows, with borders;
           theirs are padded to the longest of their batch, which has as many documents as ours on average.
           Padding tokens do not count.
  grouped  The same, with their batches grouped by length (group_by_length of transformers' Trainer).

rate: the share of the rate of a large matrix product that training reaches, counting 6 operations per token
for each weight except the embedding, and those of attention without the masked half.

Chameleon forbids image codes by overwriting their logits, so the loss of such a code would be infinite. Its
list of image codes is emptied here, which also saves it that time. For the loss alone see loss.py.
"""

# ruff: noqa: E402

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import machine
import numpy as np
import torch
from batches import (
    PAD,
    Batch,
    document_lengths,
    documents_of,
    equal,
    ours_of,
    packed,
    padded,
    quantiles,
    stored_lengths,
    theirs_of,
    useful_share,
)
from torch import Tensor, nn

from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig

SIZES = {
    "tiny": FusionLMConfig(256, 64, n_layers=2, width=32, n_heads=2, n_kv_heads=2, ffn_width=48),
    "35M": FusionLMConfig(8192, 512, n_layers=8, width=512, n_heads=8, n_kv_heads=8, ffn_width=1408),
    "150M": FusionLMConfig(40_960, 2048, n_layers=12, width=768, n_heads=12, n_kv_heads=12, ffn_width=2048),
}
Z_LOSS = 1e-4
TOLERANCE = 1e-4
"""Largest relative difference in float32 between equal networks."""
DEMO = "runs/demo/tokens"
POOL = 10_000
"""Documents that are packed, or grouped by length, together."""


class Side(NamedTuple):
    """A network in training."""

    net: nn.Module
    loss: Callable[[Batch, float], Tensor]
    """Loss of a batch; the number is the weight of the z-loss, if the network has one."""
    optimizer: torch.optim.Optimizer


class Row(NamedTuple):
    """A comparison: batches for ours and for theirs."""

    name: str
    batches: tuple[list[Batch], list[Batch]]


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    about = facts(args)
    print(
        f"machine   {about['machine']}, {about['cpus']} CPUs, {about['system']}, {about['device']}\n"
        f"torch     {about['torch']}, {about['threads']} threads, {args.dtype}, {args.clock} time; "
        f"transformers {about['transformers']}, Python {about['python']}\ncommit    {about['commit']}",
        flush=True,
    )
    found = (training if args.what == "training" else rate)(args)
    if args.out:
        machine.write_figures(args.out, {**about, "windows": args.windows, **found})
    return 0


def parser() -> argparse.ArgumentParser:
    made = machine.described_parser(__doc__)
    add = made.add_argument
    add("--what", choices=("training", "rate"), default="training", help="see above (default: training)")
    add("--size", choices=sorted(SIZES), default="35M", help="size of the transformer (default: 35M)")
    add("--windows", metavar="N", type=int, default=2, help="windows per batch (default: 2)")
    add(
        "--documents",
        metavar="DIR",
        nargs="*",
        default=[DEMO],
        help="prepared folders whose document lengths are used (default: the demo's, or like those)",
    )
    add("--runs", metavar="N", type=int, default=5, help="runs per side (default: 5)")
    add("--steps", metavar="N", type=int, default=2, help="steps per run (default: 2)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16 uses autocast")
    add(
        "--compile",
        action="store_true",
        help="also compare compiled networks, on full windows (rate: only these)",
    )
    add("--threads", metavar="N", type=int, help="threads of torch (default: torch's choice)")
    add("--device", default="cpu", help="torch device (default: cpu)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: process time, for a busy machine")
    add("--out", metavar="FILE", help="JSON file to write")
    return made


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Compare our training with theirs."""
    config, rng = SIZES[args.size], np.random.default_rng(0)
    steps = (args.runs + 1) * args.steps  # the first run does not count
    rows, lengths = [Row("equal", equal(config, args.windows, steps, rng))], {}
    for folder in args.documents:
        if Path(folder).is_dir():
            found = document_lengths(Path(folder), config.context_length)
        elif folder == DEMO:
            print(f"{folder} not found: its lengths are drawn from the quantiles in training.json")
            found = stored_lengths(config.context_length, rng)
        else:
            print(f"{folder} not found: give --documents a folder of `earlyfusion prepare` or `make demo`")
            continue
        lengths[folder] = quantiles(found)
        pool = documents_of(rng.permutation(found)[:POOL], config.vocab_size, rng)
        ours = packed(pool, config.context_length, args.windows, steps, rng)
        for name, grouped in (("padded", False), ("grouped", True)):
            theirs = padded(pool, config.context_length * args.windows, steps, rng, grouped)
            rows.append(Row(f"{name}, {folder}", (ours, theirs)))
    pair = networks(config, args)
    counts = [sum(p.numel() for p in learned(side.net)) for side in pair]
    print(f"networks  {counts[0]:,} parameters, theirs {counts[1]:,}; {args.windows} windows a step")
    differences = {row.name: compare(pair, row, args) for row in rows}
    for folder, found in lengths.items():
        print(f"lengths   {folder}: " + ", ".join(f"{name} {n:g}" for name, n in found.items()))
    print(
        f"\n{'tokens/s':<36}{'median':>9}{'least':>8}{'most':>8}{'theirs':>9}{'least':>8}{'most':>8}{'ratio':>8}"
    )
    results = []
    for compiled in (False, True)[: 1 + args.compile]:
        if compiled:
            pair = networks(config, args)
            for side in pair:
                side.net.compile()
        # The shapes of padded batches differ, and each would be compiled.
        for row in rows[:1] if compiled else rows:
            name = row.name + ", compiled" * compiled
            runs = in_turns(pair, row, args)
            ratio = statistics.median(runs[0]) / statistics.median(runs[1])
            figures = "".join(
                f"{statistics.median(some):>9,.0f}{min(some):>8,.0f}{max(some):>8,.0f}" for some in runs
            )
            print(f"{name:<36}{figures}{ratio:>8.2f}", flush=True)
            useful = [useful_share(batches) for batches in row.batches]
            results.append(
                {"name": name, "ours": runs[0], "theirs": runs[1], "ratio": ratio, "useful_share": useful}
            )
    return {
        "config": asdict(config),
        "parameters": counts,
        "lengths": lengths,
        "differences": differences,
        "results": results,
    }


def networks(config: FusionLMConfig, args: argparse.Namespace) -> tuple[Side, Side]:
    """Our network and theirs with the same random weights, each with an optimizer."""
    theirs = chameleon(config).to(args.device)

    def their_loss(batch: Batch, _z_loss: float) -> Tensor:
        return theirs(**batch.inputs, use_cache=False).loss

    ours = our_side(config, args)
    ours.net.load_state_dict(as_ours(dict(theirs.named_parameters())))
    return ours, Side(theirs, their_loss, adamw(theirs))


def our_side(config: FusionLMConfig, args: argparse.Namespace) -> Side:
    """Our network with random weights."""
    net = FusionLM(config).to(args.device).train()

    def loss(batch: Batch, z_loss: float) -> Tensor:
        given = dict(batch.inputs)
        terms: Any = net(Inputs(given.pop("tokens"), given.pop("documents", None)), **given)
        return terms.cross_entropy + z_loss * terms.z

    return Side(net, loss, adamw(net))


def adamw(network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer, the same for both."""
    return torch.optim.AdamW(learned(network), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def learned(network: nn.Module) -> list[nn.Parameter]:
    """The weights of the transformer."""
    return [p for name, p in network.named_parameters() if "vqmodel" not in name]


def chameleon(config: FusionLMConfig) -> Any:
    """ChameleonForConditionalGeneration of the same shape; its image tokenizer is tiny and not used."""
    try:
        from transformers import ChameleonConfig, ChameleonForConditionalGeneration
    except ImportError:
        raise SystemExit("the comparison needs transformers: pip install transformers") from None
    vq = {"base_channels": 32, "channel_multiplier": [1], "embed_dim": 8, "num_embeddings": 4}
    made = ChameleonForConditionalGeneration(
        ChameleonConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.ffn_width,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            pad_token_id=None,
            vocabulary_map={"IMGIMGAZ": 0, "<image>": PAD},
            vq_config=vq,
        )
    )
    made.model.vocabulary_mapping.image_tokens = []
    for name, parameter in made.named_parameters():
        if "_norm." in name:  # so that a mistake in QK-norm's gains and biases shows
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)
    return made.train()


def as_ours(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of ``chameleon``, or their gradients, under our names."""
    names = {
        "attention_norm.weight": ["input_layernorm.weight"],
        "ffn_norm.weight": ["post_attention_layernorm.weight"],
        "attention.qkv.weight": [f"self_attn.{part}_proj.weight" for part in "qkv"],
        "attention.out.weight": ["self_attn.o_proj.weight"],
        "ffn.gate_up.weight": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
        "ffn.down.weight": ["mlp.down_proj.weight"],
    }
    for name in ("q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias"):
        names[f"attention.{name}"] = [f"self_attn.{name}"]
    made = {
        "embedding.weight": tensors["model.embed_tokens.weight"],
        "norm.weight": tensors["model.norm.weight"],
        "lm_head.weight": tensors["lm_head.weight"],
    }
    for layer in range(sum(name.endswith("o_proj.weight") for name in tensors)):
        for ours, theirs in names.items():
            parts = [tensors[f"model.layers.{layer}.{name}"] for name in theirs]
            made[f"blocks.{layer}.{ours}"] = torch.cat(parts)
    return {name: tensor.detach() for name, tensor in made.items()}


def compare(pair: tuple[Side, Side], row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """Compare losses and gradients of both in float32 on the same documents.

    Raises:
        SystemExit: They differ.
    """
    first, second = (batches[0] for batches in row.batches)
    if "documents" in first.inputs:  # the batches differ, so both get the documents of our first window
        tokens, documents = (first.inputs[name][0].numpy() for name in ("tokens", "documents"))
        parts = [tokens[documents == n] for n in np.unique(documents)]
        first = ours_of(tokens[None], documents[None])
        second = theirs_of([part for part in parts if (part != PAD).all()])
    losses, gradients = [], []
    for side, batch in zip(pair, (first, second)):
        loss = side.loss(to(batch, args), 0.0)
        side.optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        found = {name: p.grad for name, p in side.net.named_parameters() if p.grad is not None}
        gradients.append(found if side is pair[0] else as_ours(found))
    apart = {name: float((gradients[0][name] - g).norm() / g.norm()) for name, g in gradients[1].items()}
    worst = max(apart, key=lambda name: apart[name])
    print(f"equal?    {row.name}: losses {losses[0]:.6f} and {losses[1]:.6f}, ", end="")
    print(f"gradients at most {apart[worst]:.1e} apart ({worst})", flush=True)
    if not max(apart[worst], abs(losses[0] / losses[1] - 1)) < TOLERANCE:
        raise SystemExit("the two networks differ, so their speeds cannot be compared")
    return {"losses": losses, "gradient": apart[worst], "gradient_of": worst}


def in_turns(pair: tuple[Side, Side], row: Row, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Useful tokens per second of every run of both."""
    runs: tuple[list[float], list[float]] = ([], [])
    for run in range(args.runs + 1):
        for side, batches, kept in zip(pair, row.batches, runs):
            part = [to(batch, args) for batch in batches[run * args.steps : (run + 1) * args.steps]]
            start = now(args)
            for batch in part:
                step(side, batch, args)
            if run:
                kept.append(sum(batch.useful for batch in part) / (now(args) - start))
            del part
    return runs


def step(side: Side, batch: Batch, args: argparse.Namespace) -> None:
    """Forward, backward, AdamW."""
    half = torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.dtype == "bfloat16")
    with half:
        loss = side.loss(batch, Z_LOSS)
    side.optimizer.zero_grad()
    loss.backward()
    side.optimizer.step()


def now(args: argparse.Namespace) -> float:
    """The time in seconds, after the device has finished its work."""
    if args.device != "cpu":
        torch.cuda.synchronize(args.device)
    return time.process_time() if args.clock == "cpu" else time.perf_counter()


def to(batch: Batch, args: argparse.Namespace) -> Batch:
    """Move a batch to the device."""
    return Batch({name: tensor.to(args.device) for name, tensor in batch.inputs.items()}, batch.useful)


def rate(args: argparse.Namespace) -> dict[str, Any]:
    """Operations per second of training on equal windows, compared with a large matrix product."""
    config = SIZES[args.size]
    side = our_side(config, args)
    if args.compile:
        side.net.compile()
    batches, _ = equal(config, args.windows, args.steps, np.random.default_rng(0))
    batches = [to(batch, args) for batch in batches]
    speeds, products = [], []
    for run in range(args.runs + 1):
        start = now(args)
        for batch in batches:
            step(side, batch, args)
        if run:
            speeds.append(sum(batch.useful for batch in batches) / (now(args) - start))
            products.append(matrix_rate(args))
    operations = operations_per_token(config, side.net)
    speed, product = statistics.median(speeds), statistics.median(products)
    share = speed * operations / product
    print(f"training  {speed:,.0f} tokens/s of {operations / 1e9:.3f} G operations")
    print(f"product   {product / 1e12:.3f} T operations/s, of which training reaches {100 * share:.0f} %")
    found = {"config": asdict(config), "compiled": args.compile, "share": share}
    found |= {"tokens_per_second": speeds, "operations_per_token": operations, "matrix_rate": products}
    if args.device != "cpu":
        found["peak_mib"] = torch.cuda.max_memory_allocated(args.device) / 2**20
        print(f"memory    {found['peak_mib']:,.0f} MiB at most")
    return found


def operations_per_token(config: FusionLMConfig, net: nn.Module) -> int:
    """Operations of a training step per token: 6 for each weight but the embedding, and attention's."""
    weights = sum(p.numel() for p in net.parameters()) - config.vocab_size * config.width
    return 6 * weights + 6 * config.n_layers * config.context_length * config.width


def matrix_rate(args: argparse.Namespace) -> float:
    """Operations per second of a square matrix product in the data type of the training."""
    side, times = (2048, 4) if args.device == "cpu" else (8192, 40)
    a, b = (torch.randn(side, side, device=args.device, dtype=getattr(torch, args.dtype)) for _ in range(2))
    torch.mm(a, b)
    start = now(args)
    for _ in range(times):
        torch.mm(a, b)
    return times * 2 * side**3 / (now(args) - start)


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions and settings."""
    try:
        other = version("transformers")
    except PackageNotFoundError:
        other = "not installed"
    return {
        **machine.facts(),
        "device": "no GPU" if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "transformers": other,
        "dtype": args.dtype,
        "clock": args.clock,
    }


if __name__ == "__main__":
    sys.exit(main())
