"""The loss: next-token cross-entropy with z-loss, split by modality. Training and evaluation share it.

The logits of a whole batch over a large vocabulary would be the largest tensor in training (16 windows of
4,096 tokens over 65,536: 17 GB in float32). They are never materialized: they are computed in chunks, and
only negative log-likelihood and log Z are kept. The backward pass recomputes all chunks but one.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokenizers.modality import ModalityTable

IGNORE = -100
"""Target value of positions where nothing is learned (document borders, padding)."""
ALL = ("tokens",)
"""The only group of targets if modalities are not distinguished."""
CHUNK = {"cpu": 2**25, "cuda": 2**27}
"""Most logits in memory at once, by device; benchmarks/speed/loss.py measures the cost."""
CACHED = {"cpu": 2**18}
"""Logits that several passes go over at once, by device: as many as fit the caches of a CPU."""


class TokenLosses(NamedTuple):
    """One value for each token, differentiable."""

    nll: Tensor
    """Negative log-likelihood of the target, nats (N,), at least float32."""
    log_z: Tensor
    """Logarithm of the softmax's normalizer (N,)."""


class TokenStatistics(NamedTuple):
    """One value for each token, without gradients."""

    entropy: Tensor
    """Entropy of the prediction over the whole vocabulary, nats (N,)."""
    in_modality: Tensor
    """Negative log-likelihood under the softmax over the tokens of the target's own modality (N,)."""


class LossTerms(NamedTuple):
    """Means over the target tokens that are not ignored. The trainer weights and adds the terms.

    Values by modality are tensors (G,) in the order of ``names``.
    """

    names: tuple[str, ...]
    """The G modalities that targets are grouped by; ``("tokens",)`` if they are not distinguished."""
    cross_entropy: Tensor
    """Nats per token, all modalities (scalar)."""
    z: Tensor
    """Mean of log(Z)^2, Z the softmax's normalizer (scalar); PaLM, arXiv:2204.02311, section 5."""
    nll_sums: Tensor
    """Cross-entropy summed over the tokens of each modality (G,), for weights by modality."""
    by_modality: Tensor
    """Mean cross-entropy per modality (G,); NaN for modalities without target tokens."""
    counts: Tensor
    """Target tokens per modality (G,) int64."""
    log_z: Tensor
    """Mean of log(Z) (scalar)."""
    nll: Tensor
    """Cross-entropy of each token, nats (B, T); 0 at ignored positions."""
    entropy: Tensor | None = None
    """Mean entropy of the predictions per modality of the target (G,), with ``statistics``."""
    in_modality: Tensor | None = None
    """Mean cross-entropy within the target's modality (G,), with ``statistics``. ``by_modality`` minus this
    is the probability that leaks to the other modalities, in nats."""

    def of(self, values: Tensor, name: str) -> Tensor:
        """The value of one modality (scalar) in ``values`` (G,), such as ``terms.of(terms.counts, "text")``.

        Raises:
            ValueError: ``names`` does not have it.
        """
        if name not in self.names:
            raise ValueError(f"modality: expected one of {', '.join(self.names)}, got {name!r}")
        return values[self.names.index(name)]


def capped(logits: Tensor, soft_cap: float | None) -> Tensor:
    """Logits bounded to (-cap, cap) by cap * tanh(logits / cap) (Gemma 2, arXiv:2408.00118, section 2)."""
    return logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)


class _Chunked(torch.autograd.Function):
    """Negative log-likelihood and log Z of hidden (N, C) @ weight.T (C, V), a chunk of rows at a time.

    d nll / d logits = softmax - one_hot(target); d log_z / d logits = softmax. Products run in ``dtype``,
    sums in float32. The last chunk's logits are kept, and the backward pass begins with them: if everything
    fits into one chunk, nothing is computed twice.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        soft_cap: float | None,
        rows: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """-> nll (N,), log_z (N,)."""
        by = weight.to(dtype)
        nll, log_z, logits = [], [], None
        for h, target in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = capped(_precise(h.to(dtype) @ by.T), soft_cap)
            z = torch.cat([part.logsumexp(dim=-1) for part in logits.split(_cached(logits))])
            nll.append(z - logits.gather(1, target[:, None])[:, 0])
            log_z.append(z)
        ctx.soft_cap, ctx.rows, ctx.dtype, ctx.kept = soft_cap, rows, dtype, logits
        normalizer = torch.cat(log_z)
        ctx.save_for_backward(hidden, weight, targets, normalizer)
        return torch.cat(nll), normalizer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of hidden (N, C) and weight (V, C)."""
        nll_grad, log_z_grad = gradients
        hidden, weight, targets, log_z = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None  # overwritten below, so a second backward pass computes it again
        by = weight.to(ctx.dtype)
        hidden_grad = torch.empty_like(hidden)
        weight_grad = None
        for start in reversed(range(0, len(hidden), ctx.rows)):
            chunk = slice(start, start + ctx.rows)
            h = hidden[chunk].to(ctx.dtype)
            logits = capped(_precise(h @ by.T), ctx.soft_cap) if kept is None else kept
            kept, slope = None, None
            if ctx.soft_cap is not None:
                slope = 1 - (logits / ctx.soft_cap).square()
            scale = (nll_grad + log_z_grad)[chunk, None]
            parts = (x.split(_cached(logits)) for x in (logits, log_z[chunk, None], scale))
            for part, z, by_row in zip(*parts, strict=True):
                part.sub_(z).exp_().mul_(by_row)
            grad = logits.scatter_add_(1, targets[chunk, None], -nll_grad[chunk, None])
            if slope is not None:
                grad.mul_(slope)
            grad = grad.to(ctx.dtype)
            hidden_grad[chunk] = grad @ by
            part = grad.T @ h
            weight_grad = _precise(part) if weight_grad is None else weight_grad.add_(part)
        assert weight_grad is not None
        return hidden_grad, weight_grad.to(weight.dtype), None, None, None, None


def token_losses(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    soft_cap: float | None = None,
    chunk: int | None = None,
) -> TokenLosses:
    """Negative log-likelihood and log Z of every token, without all logits in memory at once.

    Under autocast, products run in its data type.

    Args:
        hidden: (N, C), the input of the output projection.
        weight: (V, C), the output projection.
        targets: (N,) int64 in 0..V-1.
        soft_cap: See ``capped``.
        chunk: Most logits in memory at once; None: ``CHUNK``.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    rows = _rows(weight, device, chunk)
    return TokenLosses(*_Chunked.apply(hidden, weight, targets, soft_cap, rows, dtype))


@torch.no_grad()
def token_statistics(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    of_token: Tensor,
    soft_cap: float | None = None,
    chunk: int | None = None,
) -> TokenStatistics:
    """Entropy of every prediction, and the cross-entropy within the target's modality.

    Args:
        hidden: As in ``token_losses``.
        weight: As in ``token_losses``.
        targets: As in ``token_losses``.
        of_token: (V,) int64, the modality of each token.
        soft_cap: As in ``token_losses``.
        chunk: As in ``token_losses``.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    by, rows = weight.to(dtype), _rows(weight, device, chunk)
    entropy, in_modality = [], []
    for h, target in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = capped(_precise(h.to(dtype) @ by.T), soft_cap)
        log_p = logits.log_softmax(dim=-1)
        entropy.append(-(log_p.exp() * log_p).sum(dim=-1))
        other = of_token[None, :] != of_token[target][:, None]
        log_z = log_p.masked_fill(other, float("-inf")).logsumexp(dim=-1)
        in_modality.append(log_z - log_p.gather(1, target[:, None])[:, 0])
    return TokenStatistics(torch.cat(entropy), torch.cat(in_modality))


def next_token_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    modalities: ModalityTable | None = None,
    *,
    statistics: bool = False,
    soft_cap: float | None = None,
    chunk: int | None = None,
) -> LossTerms:
    """Next-token cross-entropy and z-loss, split by modality.

    Args:
        hidden: (B, T, C), the input of the output projection.
        weight: (V, C), the output projection.
        targets: (B, T) int64, the next token in 0..V-1, or ``IGNORE``. Means are over all other tokens of the
            batch, not over rows.
        modalities: The modality of every token, to group the targets by; None: one group, ``"tokens"``.
        statistics: Also measure entropies and in-modality losses.
        soft_cap: Bound of the logits, see ``capped``.
        chunk: Most logits in memory at once, see ``token_losses``.
    """
    if modalities is None:
        modalities = ModalityTable(ALL, torch.zeros(len(weight), dtype=torch.int64, device=targets.device))
    shape = targets.shape
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    counted = targets != IGNORE
    targets = targets.clamp(min=0)
    nll, log_z = token_losses(hidden, weight, targets, soft_cap, chunk)  # (B * T,)
    nll, log_z = torch.where(counted, nll, 0.0), torch.where(counted, log_z, 0.0)
    total = counted.sum().clamp(min=1)
    group = modalities.of_token[targets]
    one_hot = F.one_hot(group, len(modalities.names)) * counted[:, None]  # (B * T, G)
    counts, one_hot = one_hot.sum(0), one_hot.to(nll.dtype)
    nll_sums = nll @ one_hot
    entropy = in_modality = None
    if statistics:
        measured = token_statistics(hidden.detach(), weight, targets, modalities.of_token, soft_cap, chunk)
        entropy, in_modality = ((torch.where(counted, s, 0.0) @ one_hot) / counts for s in measured)
    return LossTerms(
        names=modalities.names,
        cross_entropy=nll.sum() / total,
        z=log_z.square().sum() / total,
        nll_sums=nll_sums,
        by_modality=nll_sums.detach() / counts,
        counts=counts,
        log_z=log_z.detach().sum() / total,
        nll=nll.detach().view(shape),
        entropy=entropy,
        in_modality=in_modality,
    )


def _precise(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _rows(weight: Tensor, device: str, chunk: int | None) -> int:
    return max(1, (chunk or CHUNK.get(device, CHUNK["cuda"])) // len(weight))


def _cached(logits: Tensor) -> int:
    """How many rows of logits (N, V) to go over at once; all if compiled, which fuses the passes."""
    N, V = logits.shape
    if torch.compiler.is_compiling():
        return N
    return max(1, CACHED.get(logits.device.type, N * V) // V)
