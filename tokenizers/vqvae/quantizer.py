"""Quantizers: latents -> codes -> latents. All kinds of ``vector-quantize-pytorch`` have one interface here.

A latent (latent_dim channels at one position) is split into ``groups`` parts,
each quantized by ``residual`` codebooks in turn, so that a position has n = groups * residual codes.
Slot g * residual + r is code r of group g. The codes of every slot are 0..K-1.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..image_config import ImageTokenizerConfig

_allow_in_graph = torch.compiler.allow_in_graph
try:  # einx, which the quantizers import, would import torch's compiler, which takes seconds
    torch.compiler.allow_in_graph = lambda function: function
    from vector_quantize_pytorch import FSQ, LFQ, SimVQ, VectorQuantize
    from vector_quantize_pytorch.vector_quantize_pytorch import kmeans, rotate_to
finally:
    torch.compiler.allow_in_graph = _allow_in_graph


class Quantized(NamedTuple):
    """The result of the quantizer's forward pass."""

    latents: Tensor
    """(B, latent_dim, h, w), with gradients to the input latents."""
    codes: Tensor
    """(B, h, w), or (B, h, w, n) with several codes per position."""
    loss: Tensor
    """Commitment loss and the kind's other losses (codebook, entropy); scalar, mean over slots."""


class IBQ(nn.Module):
    """Index backpropagation quantization (Shi et al., arXiv:2412.02692): hard codes in the forward pass, the
    softmax over all codes in the backward pass, so that every code learns in every step."""

    def __init__(self, dim: int, codebook_size: int, commitment: float = 0.25, entropy: float = 0.05):
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim) / dim**0.5)
        self.commitment, self.entropy = commitment, entropy

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, N, dim) -> quantized latents, codes (B, N), loss (section 3.2 of the paper)."""
        logits = x @ self.codebook.T
        probability = logits.softmax(-1)
        codes = logits.argmax(-1)
        hard = F.one_hot(codes, len(self.codebook)).to(x.dtype)
        quantized = (hard - probability.detach() + probability) @ self.codebook
        value = self.codebook[codes]
        loss = (
            F.mse_loss(quantized, x)
            + F.mse_loss(value, x.detach())
            + self.commitment * F.mse_loss(value.detach(), x)
        )
        mean = probability.mean(dim=(0, 1))
        per_position = -(probability * logits.log_softmax(-1)).sum(-1).mean()
        spread = -torch.xlogy(mean, mean).sum()
        return quantized, codes, loss + self.entropy * (per_position - spread)


class Quantizer(nn.Module):
    """``groups`` codebooks in parallel, ``residual`` in sequence."""

    def __init__(self, config: ImageTokenizerConfig):
        super().__init__()
        self.config = config
        self.slots = nn.ModuleList(_slot(config) for _ in range(config.codes_per_position))

    def forward(self, latents: Tensor) -> Quantized:
        """Latents (B, latent_dim, h, w) -> ``Quantized``. For "cosine" each group must be a unit vector."""
        B, _, h, w = latents.shape
        flat = latents.flatten(2).mT  # (B, h * w, latent_dim)
        parts, codes, losses = [], [], []
        for slots, part in zip(self._groups(), flat.chunk(self.config.groups, dim=-1)):
            left, total = part, torch.zeros_like(part)
            for slot in slots:
                quantized, code, *loss = slot(left)
                codes.append(code)
                losses.append(loss[0].sum() if loss else left.new_zeros(()))  # of shape (1,) or ()
                total = total + quantized.detach()
                left = left - quantized.detach()
            parts.append(quantized if len(slots) == 1 else self._pass(part, total))
        quantized = torch.cat(parts, dim=-1).mT.reshape(latents.shape)
        stacked = torch.stack(codes, dim=-1).long().view(B, h, w, len(codes))
        if len(codes) == 1:
            stacked = stacked[..., 0]
        return Quantized(quantized, stacked, torch.stack(losses).mean())

    @torch.no_grad()
    def encode(self, latents: Tensor) -> Tensor:
        """Latents (..., latent_dim) -> codes (...), or (..., n) with several codes per position."""
        codes = []
        for slots, part in zip(self._groups(), latents.chunk(self.config.groups, dim=-1)):
            left = part.reshape(-1, part.shape[-1])
            for i, slot in enumerate(slots):
                code = _nearest(slot, left)
                codes.append(code)
                if i + 1 < len(slots):
                    left = left - _codebook(slot)[code]
        n = len(codes)
        return torch.stack(codes, dim=-1).view((*latents.shape[:-1], *((n,) if n > 1 else ())))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (...) or (..., n) -> latents (..., latent_dim)."""
        if len(self.slots) == 1:
            codes = codes[..., None]
        vectors = [_codebook(slot)[codes[..., s]] for s, slot in enumerate(self.slots)]
        depth = self.config.residual
        return torch.cat(
            [sum(vectors[i + 1 : i + depth], vectors[i]) for i in range(0, len(vectors), depth)], -1
        )

    @property
    def codebook(self) -> Tensor:
        """(n * K, latent_dim): row s * K + c is what code c of slot s adds to the latent."""
        rows = []
        width = self.config.codebook_dim
        for s, slot in enumerate(self.slots):
            before = s // self.config.residual * width
            rows.append(F.pad(_codebook(slot), (before, self.config.latent_dim - before - width)))
        return torch.cat(rows)

    @torch.no_grad()
    def initialize(self, latents: Tensor, iterations: int = 10) -> None:
        """Fit the codebooks to ``latents``, slot by slot.

        Most kinds use k-means; "fsq" and "lfq" align their channels with the principal components.

        Args:
            latents: (N, latent_dim), N >= K.
            iterations: Iterations of k-means.

        Raises:
            ValueError: There are fewer latents than codes.
        """
        K = self.config.codebook_size
        if len(latents) < K:
            raise ValueError(f"k-means needs at least K = {K} latents, got {len(latents)}")
        for slots, part in zip(self._groups(), latents.float().chunk(self.config.groups, dim=-1)):
            left = part
            for slot in slots:
                if isinstance(slot, FSQ | LFQ):
                    _fit_projections(slot, left)
                    continue
                # "ibq" chooses the largest product: only directions matter, so all codes get one length.
                by_angle = self.config.quantizer in ("cosine", "ibq")
                seen = F.normalize(left, dim=1) if by_angle else left
                means, bins = kmeans(seen[None], K, num_iters=iterations, use_cosine_sim=by_angle)
                centers = means[0]
                if isinstance(slot, IBQ):
                    centers = centers * (left @ centers.T).amax(1).mean().clamp(min=1e-6)
                self._set(slot, centers, bins[0] * (K / len(left)))  # mean use 1, as at the start
                left = left - _codebook(slot)[_nearest(slot, left)]

    def _set(self, slot: Any, centers: Tensor, use: Tensor) -> None:
        """Make ``centers`` (K, codebook_dim) the codebook of one slot."""
        if self.config.quantizer == "simvq":
            slot.frozen_codebook.copy_(centers)
            torch.nn.init.eye_(slot.code_transform.weight)
        elif self.config.quantizer == "ibq":
            slot.codebook.copy_(centers)
        else:
            book = slot._codebook
            use = use.clamp(min=self.config.dead_code_threshold)
            book.embed.copy_(centers[None])
            book.cluster_size.copy_(use[None])
            book.embed_avg.copy_((centers * use[:, None])[None])
            book.initted.fill_(True)

    def _groups(self) -> list[list[Any]]:
        slots: list[Any] = list(self.slots)
        depth = self.config.residual
        return [slots[i : i + depth] for i in range(0, len(slots), depth)]

    def _pass(self, latents: Tensor, quantized: Tensor) -> Tensor:
        """``quantized``, with gradients to ``latents``."""
        if self.config.rotation_trick:
            return rotate_to(latents, quantized)
        return latents + (quantized - latents).detach()


def _slot(config: ImageTokenizerConfig) -> nn.Module:
    K, width = config.codebook_size, config.codebook_dim
    # With several codes per group, the rotation is applied to their sum. Rotating a residual would also lose
    # precision if its code points the other way.
    rotation = config.rotation_trick and config.residual == 1
    if config.quantizer == "fsq":
        with torch.device("cpu" if torch.get_default_device().type == "meta" else torch.get_default_device()):
            return FSQ(list(config.fsq_levels), dim=width)  # it reads the product of the levels from a tensor
    if config.quantizer == "lfq":
        return LFQ(codebook_size=K, dim=width, commitment_loss_weight=0.25, has_projections=True)
    if config.quantizer == "simvq":
        return SimVQ(width, K, rotation_trick=rotation)
    if config.quantizer == "ibq":
        return IBQ(width, K)
    return VectorQuantize(
        width,
        K,
        decay=config.codebook_decay,
        threshold_ema_dead_code=config.dead_code_threshold,  # type: ignore[arg-type]  # only compared
        use_cosine_sim=config.quantizer == "cosine",
        rotation_trick=rotation,
        learnable_codebook=config.learnable_codebook,
        ema_update=not config.learnable_codebook,
    )


def _codebook(slot: Any) -> Tensor:
    """The codes of one slot as latents (K, codebook_dim)."""
    if isinstance(slot, FSQ | LFQ):
        codes = _values(slot)
        return slot.project_out(codes)
    return slot.codebook


def _nearest(slot: Any, latents: Tensor) -> Tensor:
    """Codes (N,) of latents (N, codebook_dim)."""
    if isinstance(slot, FSQ | LFQ):
        training = slot.training
        slot.eval()
        codes = slot(latents[None])[1][0].long()
        slot.train(training)
        return codes
    precise = torch.promote_types(latents.dtype, torch.float32)
    latents, codebook = latents.to(precise), _codebook(slot).to(precise)
    if isinstance(slot, IBQ):
        return (latents @ codebook.T).argmax(1)
    # Nearest by squared distance; for unit vectors, that is the largest cosine.
    return torch.addmm(codebook.square().sum(1), latents, codebook.T, alpha=-2).argmin(1)


def _values(slot: Any) -> Tensor:
    """The codes of "fsq" and "lfq" before project_out."""
    return getattr(slot, "implicit_codebook" if isinstance(slot, FSQ) else "codebook")


def _fit_projections(slot: Any, latents: Tensor) -> None:
    """Fit project_in to the principal components, with unit variance, and project_out to its inverse."""
    if not slot.has_projections:
        return
    mean = latents.mean(0)
    _, spread, axes = torch.linalg.svd(latents - mean, full_matrices=False)
    kept = slot.project_in.out_features
    into = axes[:kept] / (spread[:kept, None] / math.sqrt(len(latents))).clamp(min=1e-6)
    slot.project_in.weight.copy_(into)
    slot.project_in.bias.copy_(-into @ mean)
    codes = _values(slot)
    chosen = codes[_nearest(slot, latents)]
    ones = torch.ones(len(chosen), 1, device=latents.device)
    back = torch.linalg.lstsq(torch.cat([chosen, ones], 1), latents).solution  # (kept + 1, codebook_dim)
    slot.project_out.weight.copy_(back[:-1].T)
    slot.project_out.bias.copy_(back[-1])
