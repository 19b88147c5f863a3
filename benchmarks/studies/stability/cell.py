"""One cell: train a small transformer for a few hundred steps, and record its loss, norms and logits.

A plain training loop with the computations of ``FusionLMTraining``: Lightning's overhead would be large
compared with a step of 0.1 s.
"""

import csv
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grid import BETAS, CLIP, EPS, NETWORK, RECIPES, STREAMS, WARMUP, WEIGHT_DECAY, Cell
from streams import Packed, windows
from torch import Tensor

from earlyfusion.data.loader import shuffled_batches
from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.fusion_lm.loss import LossTerms
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.lm.targets import targets_of, weighted_mean
from earlyfusion.train.lm.telemetry import observe, row_norms
from earlyfusion.train.loop.optim import adamw, clip
from earlyfusion.train.loop.schedule import lr_factor

POINTS = 50
"""Rows of a cell's time series."""
VALIDATION, PROBES = 128, 4
"""Number of windows, always the same, for the losses, and for norms and logits."""
AVERAGE = 10
"""A cell's loss is averaged over this many steps to decide whether it has diverged."""
RISE = 0.5
"""A loss has risen if it is this many nats above its best mean."""


def train(cell: Cell, data: Path, steps: int, batch: int, precision: str, series: Path) -> dict[str, Any]:
    """Train the cell, write its time series and return its row.

    Training stops at the first loss or gradient that is not finite.
    """
    began, cpu = time.monotonic(), time.process_time()
    torch.manual_seed(cell.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe, stream = RECIPES[cell.recipe], STREAMS[cell.stream]
    vocab = SharedVocab.load(data / "tokenizer")
    read = windows(data, "train", stream.kind)
    held_out = windows(data, "validation", stream.kind)
    length = read.tokens.shape[1]
    net = FusionLM(FusionLMConfig(vocab.size, length, **NETWORK, **recipe.config)).to(device)
    net.attention_backend = "sdpa"  # windows are short, and the probe needs the mask
    optimizer = adamw(net, cell.lr, BETAS, EPS, WEIGHT_DECAY)
    weights = torch.tensor(stream.weights, device=device)
    autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed")

    def terms_of(packed: Packed, chosen: Any, **more: Any) -> LossTerms:
        tokens, documents = packed.tokens[chosen].to(device), packed.documents[chosen].to(device)
        targets = targets_of(tokens, documents, vocab)
        with autocast:
            terms = net(Inputs(tokens, documents), targets=targets, modalities=vocab.table(device), **more)
        assert isinstance(terms, LossTerms)
        return terms

    def validate(statistics: bool = False) -> dict[str, float]:
        net.eval()
        places = torch.arange(min(VALIDATION, len(held_out.tokens)))
        with torch.no_grad():
            found = [terms_of(held_out, some, statistics=statistics) for some in places.split(4 * batch)]
        net.train()
        return _mean_of(found, weights)

    started = validate()
    losses: list[float] = []
    rows: list[dict[str, float]] = []
    every, warmup = max(1, steps // POINTS), max(1, round(WARMUP * steps))
    highest = 0.0
    middle: dict[str, float] = {}
    trouble = ""
    order = _order(len(read.tokens), batch, cell.seed)
    for step in range(steps):
        if step % every == 0:
            rows.append({"step": step, **_probe(net, held_out, vocab, autocast)})
        for group in optimizer.param_groups:
            group["lr"] = cell.lr * lr_factor("cosine", step, steps, warmup, 0.0, 0.0)
        terms = terms_of(read, next(order))
        loss = weighted_mean(terms, weights)
        (loss + recipe.z_loss_weight * terms.z if recipe.z_loss_weight else loss).backward()
        norm, value = float(clip(net.parameters(), CLIP)), float(loss.detach())
        if not math.isfinite(norm) or not math.isfinite(value):
            trouble = "not finite"
            break
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value)
        highest = max(highest, norm)
        if len(losses) % every == 0:
            rows[-1] |= {"loss": sum(losses[-every:]) / every, "grad_norm": norm, "lr": group["lr"]}
            rows[-1] |= {f"loss_{n}": float(v) for n, v in zip(terms.names, terms.by_modality)}
        if len(losses) == steps // 2:
            middle = validate()
    rows.append({"step": len(losses), **_probe(net, held_out, vocab, autocast)})
    _write(rows, series)
    ended = {"loss": math.nan} if trouble else validate(statistics=True)
    diverged, reason = divergence(losses, started["loss"], trouble)
    last = {name: value for name, value in rows[-1].items() if not name.startswith(("step", "loss", "lr"))}
    return {
        "part": cell.part,
        "recipe": cell.recipe,
        "stream": cell.stream,
        "lr": cell.lr,
        "seed": cell.seed,
        "loss": ended["loss"],
        "initial_loss": started["loss"],
        "middle_loss": middle.get("loss", math.nan),
        **{name: value for name, value in ended.items() if name != "loss"},
        "diverged_at": diverged,
        "diverged": reason,
        "risen_at": rise(losses),
        "highest_grad_norm": highest,
        "highest_output_norm": _highest(rows, "output_norm"),
        "highest_attention_logit": _highest(rows, "attention_logit"),
        **last,
        "parameters": sum(p.numel() for p in net.parameters()),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "seconds": round(time.monotonic() - began, 1),
        "device": device,
    }


def _order(count: int, batch: int, seed: int) -> Any:
    """Endless batches of window indices, reshuffled in every epoch."""
    epoch = 0
    while True:
        yield from shuffled_batches([np.arange(count)], [batch], seed, epoch)
        epoch += 1


def _mean_of(found: list[LossTerms], weights: Tensor) -> dict[str, float]:
    """Means over all targets, in nats: the loss with the stream's weights, and the loss of each modality.

    With statistics (at the end) also the entropy of the predictions and the loss within the target's
    modality; the loss minus that is what leaks to the other modalities.
    """
    counts = torch.stack([terms.counts for terms in found]).double()  # (n, 3)
    total = counts.sum(0)
    sums = torch.stack([terms.nll_sums for terms in found]).double().sum(0)
    out = {"loss": float((weights * sums).sum() / (weights * total).sum())}
    out |= {name: float(value) for name, value in zip(found[0].names, sums / total)}
    entropies = [terms.entropy for terms in found if terms.entropy is not None]
    within = [terms.in_modality for terms in found if terms.in_modality is not None]
    for suffix, values in (("entropy", entropies), ("within", within)):
        if values:
            means = (torch.stack(values).double() * counts).nan_to_num(0).sum(0) / total
            out |= {f"{name}_{suffix}": float(value) for name, value in zip(found[0].names, means)}
    return out


@torch.no_grad()
def _probe(net: FusionLM, packed: Packed, vocab: SharedVocab, autocast: Any) -> dict[str, float]:
    """Norms and logits on the first few windows, without dropout, as ``Telemetry`` measures them.

    output_norm: mean L2 norm of the last block's output, the input of the final norm, also by modality of
    the token. attention_logit: the largest q.k / sqrt(D) that a query sees, over all layers and in each.
    row_norm: mean L2 norm of the modality's rows of lm_head.
    """
    device = net.embedding.weight.device
    tokens, documents = (values[:PROBES].to(device) for values in packed)
    with autocast:
        seen = observe(net, tokens, documents, vocab)
    largest = [float(logit) for logit in seen.attention_logits]
    used, kinds = tokens != vocab.pad, vocab.modality(tokens)
    out = {"attention_logit": max(largest), "log_z": float(seen.terms.log_z)}
    out["output_norm"] = float(seen.output_norms[used].mean())
    rows = row_norms(net.lm_head.weight, vocab.table(device))
    for name in ("text", "image"):
        kind = vocab.names.index(name)
        out[f"output_norm_{name}"] = float(seen.output_norms[used & (kinds == kind)].mean())
        out[f"row_norm_{name}"] = float(rows[kind])
    return out | {f"attention_logit_{layer}": logit for layer, logit in enumerate(largest)}


def divergence(losses: list[float], initial: float, trouble: str = "") -> tuple[int | None, str]:
    """The step at which a training diverged (None if it did not), and the reason.

    It diverged if it was stopped (``trouble``), or if the running mean of its loss is above the initial loss
    from some step to the end.
    """
    if trouble:
        return len(losses), trouble
    means = _running(losses)
    if not means or means[-1] <= initial:
        return None, ""
    below = [step for step, mean in enumerate(means) if mean <= initial]
    return (below[-1] + 1 if below else 0), "above the start"


def rise(losses: list[float]) -> int | None:
    """The first step at which the running mean of the loss is ``RISE`` above its best so far, or None."""
    best = math.inf
    for step, mean in enumerate(_running(losses)):
        if step < AVERAGE:  # a few batches may be low by chance
            continue
        best = min(best, mean)
        if mean > best + RISE:
            return step
    return None


def _running(losses: list[float]) -> list[float]:
    """The mean over the last ``AVERAGE`` steps, at each step."""
    parts = (losses[max(0, step + 1 - AVERAGE) : step + 1] for step in range(len(losses)))
    return [sum(part) / len(part) for part in parts]


def _highest(rows: list[dict[str, float]], name: str) -> float:
    return max((row[name] for row in rows if math.isfinite(row[name])), default=math.nan)


def _write(rows: list[dict[str, float]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({n: v if n == "step" else f"{v:.4g}" for n, v in row.items()} for row in rows)
