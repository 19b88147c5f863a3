"""Telemetry of the transformer's training: how the modalities share one network, and whether it is stable.

Chameleon (arXiv:2405.09818, section 2.3) traces its late divergences to modalities that compete by slowly
growing norms, and monitors the norm of the last layer's output, which grows before the loss does. Telemetry
measures that norm, the attention logits (bounded by QK-norm), log Z (bounded by the z-loss), and the
probability that leaks from one modality to the others, in an extra forward pass of a few windows. It does not
change the
training: weights, optimizer, random numbers and losses stay the same bit by bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ...fusion_lm.layers import Attention
from ...fusion_lm.loss import LossTerms
from ...fusion_lm.model import FusionLM
from ...tokenizers.modality import ModalityTable
from ...tokenizers.vocab import SharedVocab
from ..loop.meters import Means
from .targets import window_loss

SCORES = {"cpu": 2**22, "cuda": 2**26}
"""Maximum number of attention logits in memory at once, by device."""
SAMPLE = 2**20
"""Maximum number of a matrix's weights kept from before a step, to measure the step's size."""
UPDATE = "update_ratio/"
BLOCK_MATRICES = ("attention.qkv", "attention.out", "ffn.gate_up", "ffn.down")


class Observation(NamedTuple):
    """Measurements of windows (R, T) inside the network."""

    terms: LossTerms
    """With entropies and in-modality losses; differentiable where gradients are enabled."""
    output_norms: Tensor
    """L2 norm of the residual stream before the last norm (R, T), float32."""
    attention_logits: Tensor
    """Largest attention logit of each layer (layers,), float32."""


def observe(
    net: FusionLM,
    tokens: Tensor,
    documents: Tensor,
    vocab: SharedVocab,
    learned: Tensor | None = None,
) -> Observation:
    """An extra forward pass of packed windows, tokens and documents (R, T), uncompiled and without
    dropout."""
    batch = {"tokens": tokens, "documents": documents}
    if learned is not None:
        batch["learned"] = learned
    used = tokens != vocab.pad
    norms: dict[str, Tensor] = {}
    logits: dict[int, Tensor] = {}

    @torch.no_grad()
    def before_attention(attention: Attention, arguments: tuple[Any, ...]) -> None:
        x, context, _ = arguments
        q, k, _ = attention.queries_keys_values(x, context)
        logits[attention.layer] = max_attention_logit(q, k, documents, used)

    @torch.no_grad()
    def before_last_norm(_: nn.Module, arguments: tuple[Tensor]) -> None:
        norms["output"] = torch.linalg.vector_norm(arguments[0], dim=-1, dtype=torch.float32)

    with _set_aside(net):
        layers = [module for module in net.blocks.modules() if isinstance(module, Attention)]
        hooks = [attention.register_forward_pre_hook(before_attention) for attention in layers]
        hooks.append(net.norm.register_forward_pre_hook(before_last_norm))
        try:
            terms = window_loss(net, batch, vocab, statistics=True)
        finally:
            for hook in hooks:
                hook.remove()
    return Observation(terms, norms["output"], torch.stack([logits[i] for i in range(len(layers))]))


@contextmanager
def _set_aside(net: FusionLM) -> Iterator[None]:
    """Context in which the network runs uncompiled, in evaluation mode, and with masks instead of
    FlexAttention, which is slow without compilation."""
    modes, backend = [(module, module.training) for module in net.modules()], net.attention_backend
    net.eval()
    net.attention_backend = "sdpa"
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        net.attention_backend = backend
        for module, mode in modes:
            module.training = mode
            # FSDP2 keeps the outermost weights gathered for the backward pass. Here a step follows instead,
            # and the next forward would not see its new weights.
            if isinstance(module, FSDPModule):
                module.reshard()


def max_attention_logit(q: Tensor, k: Tensor, documents: Tensor, used: Tensor) -> Tensor:
    """The largest q·k / sqrt(D) (scalar, float32) over all heads and the pairs that attention uses: the key
    not after the query, both in one document, the query not padding.

    Args:
        q: (B, H, T, D), as attention takes it.
        k: (B, Hkv, T, D).
        documents: (B, T), as in ``Inputs``.
        used: (B, T) bool, False for padding.
    """
    B, H, T, D = q.shape
    index = torch.arange(T, device=q.device)
    rows = max(1, SCORES.get(q.device.type, SCORES["cuda"]) // (H * T))  # queries at once
    largest = []
    with torch.autocast(q.device.type, enabled=False):
        for query, key, document, counts in zip(q.float(), k.float(), documents, used):
            query = query.unflatten(0, (len(key), -1))  # (Hkv, H / Hkv, T, D)
            for start in range(0, T, rows):
                end = min(T, start + rows)
                scores = query[:, :, start:end] @ key[:, None, :end].mT  # (Hkv, H / Hkv, rows, end)
                seen = (index[start:end, None] >= index[:end]) & counts[start:end, None]
                seen &= document[start:end, None] == document[:end]
                largest.append(scores.masked_fill_(~seen, float("-inf")).amax())
    return torch.stack(largest).amax() / D**0.5


def gradient_cosines(
    net: FusionLM, terms: LossTerms, modalities: Sequence[str]
) -> dict[tuple[str, str], Tensor]:
    """Cosine (scalar) between the gradients of the mean losses of each pair of ``modalities``, for the
    weights of the blocks; NaN if a modality is missing. ``terms`` come from ``observe``.

    Does not change ``parameter.grad``. Needs memory for one gradient of these weights per modality.
    """
    weights = [parameter for parameter in net.blocks.parameters() if parameter.requires_grad]
    with _set_aside(net):  # activation checkpointing recomputes the blocks
        gradients = {
            name: torch.autograd.grad(
                terms.of(terms.nll_sums, name) / terms.of(terms.counts, name).clamp(min=1),
                weights,
                retain_graph=name != modalities[-1],
            )
            for name in modalities
        }

    def dot(one: str, other: str) -> Tensor:
        pairs = zip(gradients[one], gradients[other])
        return torch.stack([(a * b).sum(dtype=torch.float32) for a, b in pairs]).sum()

    return {
        (one, other): dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
        for one, other in combinations(modalities, 2)
    }


def row_norms(weight: Tensor, table: ModalityTable) -> Tensor:
    """Mean L2 norm of the rows of ``weight`` (V, C) of each modality (G,)."""
    norms = torch.linalg.vector_norm(weight.detach(), dim=1, dtype=torch.float32)
    one_hot = F.one_hot(table.of_token, len(table.names)).float()
    return (_whole(norms) @ one_hot) / one_hot.sum(0)


def matrices(net: FusionLM) -> dict[str, list[Tensor]]:
    """The matrices of the network by function, over all layers."""
    found = {"embedding": [net.embedding.weight]}
    if not net.config.tie_embeddings:
        found["lm_head"] = [net.lm_head.weight]
    for name in BLOCK_MATRICES:
        found[name.rpartition(".")[2]] = [block.get_submodule(name).weight for block in net.blocks]  # type: ignore[misc]
    return found


class WeightsBefore:
    """Weights before a step, to measure the step's size.

    Only every n-th row of a matrix with more than ``SAMPLE`` weights is kept, which bounds the memory: 4 MiB
    per matrix in float32. n is odd, so that all positions within a head occur.
    """

    def __init__(self, net: FusionLM) -> None:
        self.rows = {name: [_rows(w).clone() for w in group] for name, group in matrices(net).items()}

    @torch.no_grad()
    def moved(self, net: FusionLM) -> dict[str, tuple[Tensor, Tensor]]:
        """Group -> sums of squares of the step and of the weights before it, float32.

        Sharded weights give the sums of this rank.
        """
        sums = {}
        for name, group in matrices(net).items():
            pairs = [(_rows(now).float(), before.float()) for now, before in zip(group, self.rows[name])]
            step = torch.stack([(now - before).square().sum() for now, before in pairs]).sum()
            sums[name] = step, torch.stack([before.square().sum() for _, before in pairs]).sum()
        return sums


def _rows(weight: Tensor) -> Tensor:
    """``weight`` (rows, columns), or every n-th row of it, n odd; only the local shard if it is sharded."""
    here = weight.detach()
    here = here.to_local() if isinstance(here, DTensor) else here
    return here[:: -(-here.numel() // SAMPLE) | 1]


def _whole(value: Tensor) -> Tensor:
    """``value``, gathered if it is sharded."""
    return value.full_tensor() if isinstance(value, DTensor) else value


class Telemetry(Callback):
    """Logs ``telemetry/...`` every N steps, without changing the training.

    Measured before the step, with the weights of its gradient, on the first ``rows`` windows of the last
    batch that it accumulates, without dropout, over all ranks:

    ``loss``, ``loss/MODALITY``    cross-entropy, nats a token
    ``entropy/MODALITY``           of the prediction, nats, by the modality of the target
    ``in_modality/MODALITY``       cross-entropy of the softmax over the tokens of the target's modality alone
    ``leakage/MODALITY``           the rest of the cross-entropy: probability given to other modalities, nats
    ``log_z``                      mean logarithm of the softmax's normalizer
    ``output_norm``, ``output_norm/MODALITY``
                                   mean over tokens, without padding, of the L2 norm of the residual stream
                                   before the last norm, by the modality of the token
    ``attention_logit``, ``attention_logit/layer_NN``
                                   the largest, see ``max_attention_logit``
    ``row_norm/MODALITY``          mean L2 norm of the modality's rows of lm_head
    ``gradient_cosine``            if requested, between the gradients of two modalities' losses for the
                                   weights of the blocks; the mean over all pairs and ranks

    Measured after the step: ``gradient_norm``, before clipping, and ``update_ratio/GROUP``: the norm of the
    step divided by that of the weights, for embedding, lm_head, qkv, out, gate_up and down of all layers
    (``WeightsBefore``). A modality without tokens in the windows has no figures.
    """

    def __init__(self, every: int = 50, rows: int = 8, gradient_cosine: bool = False) -> None:
        """
        Args:
            every: Steps between two measurements; 0 turns telemetry off.
            rows: Maximum windows of the batch to measure.
            gradient_cosine: Also measure the cosine between the gradients of the modalities. Costs a backward
                pass and memory for one gradient per modality. Not with FSDP.
        """
        if every < 0:
            raise ValueError(
                f"every must not be negative, got {every}: give a number of steps, or 0 for no telemetry"
            )
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        self.every, self.rows, self.gradient_cosine = every, rows, gradient_cosine
        self._batch: dict[str, Tensor] | None = None
        self._means = Means()
        self._before: WeightsBefore | None = None
        """The weights before the step that is being measured, else None."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """
        Raises:
            ValueError: ``gradient_cosine`` is requested, but the weights are sharded.
        """
        self._means, self._before = Means(), None
        if self.gradient_cosine and any(isinstance(p, DTensor) for p in pl_module.parameters()):
            raise ValueError("gradient_cosine does not work with FSDP's sharded weights: set it to false")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Measure once per step, however many batches it accumulates."""
        if self.every and (trainer.global_step + 1) % self.every == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batch = None
        if self._before is None:
            return
        before, self._before, training = self._before, None, pl_module
        net: Any = training.net
        for name, (step, size) in before.moved(net).items():
            self._means.add(UPDATE + name, step / size, size)
        norm = getattr(training, "grad_norm", None)
        if norm is not None:
            self._means.add("gradient_norm", _whole(norm))
        self._means.reduce(trainer.strategy)
        values = {
            f"telemetry/{name}": value**0.5 if name.startswith(UPDATE) else value
            for name, value in self._means.read().items()
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step - 1)  # Lightning counts logged steps from 0

    def _measure(self, trainer: Any, training: Any) -> None:
        assert self._batch is not None
        net, vocab = training.net, training.vocab
        rows = {name: values[: self.rows] for name, values in self._batch.items()}
        tokens = rows["tokens"]
        with torch.set_grad_enabled(self.gradient_cosine):
            with trainer.precision_plugin.forward_context():
                seen = observe(net, tokens, rows["documents"], vocab, rows.get("learned"))
            if self.gradient_cosine:
                terms = seen.terms
                modalities = [modality.name for modality in vocab.modalities]
                for pair, cosine in gradient_cosines(net, terms, modalities).items():
                    one, other = (terms.of(terms.counts, name) > 0 for name in pair)
                    self._means.add("gradient_cosine", cosine, one & other)
        table = vocab.table(tokens.device)
        self._add(seen, table.of_token[tokens], tokens != vocab.pad)  # unchecked: no wait for the device
        largest = trainer.strategy.reduce(seen.attention_logits, reduce_op="max")
        self._means.add("attention_logit", largest.amax())
        for layer, logit in enumerate(largest):
            self._means.add(f"attention_logit/layer_{layer:02d}", logit)
        norms = row_norms(net.lm_head.weight, table)
        for name, norm in zip(vocab.names, norms):
            self._means.add(f"row_norm/{name}", norm)
        self._before = WeightsBefore(net)

    def _add(self, seen: Observation, modality: Tensor, used: Tensor) -> None:
        """Add means over tokens; ``modality`` and ``used`` (R, T) are those of the input tokens."""
        terms, total = seen.terms, seen.terms.counts.sum()
        assert terms.entropy is not None and terms.in_modality is not None
        self._means.add("loss", terms.cross_entropy, total)
        self._means.add("log_z", terms.log_z, total)
        norms, leakage = seen.output_norms * used, terms.by_modality - terms.in_modality
        self._means.add("output_norm", norms.sum() / used.sum(), used.sum())
        for i, name in enumerate(terms.names):
            for figure, values in (
                ("loss", terms.by_modality),
                ("entropy", terms.entropy),
                ("in_modality", terms.in_modality),
                ("leakage", leakage),
            ):
                self._means.add(f"{figure}/{name}", values[i], terms.counts[i])
            here = used & (modality == i)
            self._means.add(f"output_norm/{name}", (norms * here).sum() / here.sum(), here.sum())
