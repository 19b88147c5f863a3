"""The decoder-only transformer over the shared vocabulary: its configuration and its forward pass.

Architecture: Chameleon (arXiv:2405.09818, section 2.3), that is Llama 2 (RMSNorm, SwiGLU, RoPE, grouped-query
attention) with QK-norm, here a LayerNorm over each head's query and key with a gain and bias per head, and
for the 34B model with norms after attention and feed-forward instead of before them. ``layers.py`` has the
layers, ``loss.py`` the loss.
"""

from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..storage.weights import load_network, read_config, save_network
from ..tokenizers.modality import ModalityTable
from .cache import KVCache
from .config import FusionLMConfig, shapes, upgrade
from .cpu.attention import first_keys
from .inputs import Inputs
from .layers import Block, Context, RMSNorm, initialize
from .loss import LossTerms, capped, next_token_loss
from .masks import attention_blocks, document_mask
from .positions import document_starts, positions_of, rope_tables

KIND = "fusion_lm"


class FusionLM(nn.Module):
    """Tokens (B, T) -> logits (B, T, V), for tokens of all modalities."""

    packed = False
    """Whether the weights are packed for generation (``cpu/packed_weights.py``). Such a model can neither
    compute a loss nor be saved."""

    def __init__(self, config: FusionLMConfig):
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {config.vocab_size}")
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList([Block(config.layer, layer) for layer in range(config.n_layers)])
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.activation_checkpointing = False
        """Keep only the inputs of the blocks for the backward pass, and recompute the rest."""
        self.attention_backend: Literal["auto", "sdpa", "flex"] = "auto"
        """Attention of packed documents: flex (FlexAttention; fast on GPUs, without backward on CPUs), sdpa
        (any device, with a (B, 1, T, T) mask), or auto (by device)."""
        self.reset_parameters()
        if config.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    def reset_parameters(self) -> None:
        """Initialize the weights again: see ``layers.initialize``."""
        initialize(self, self.config.n_layers)

    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for ``batch`` sequences of at most ``length`` tokens."""
        weight, config = self.embedding.weight, self.config
        return KVCache(config.layer, config.n_layers, batch, length, weight.device, weight.dtype)

    def forward(
        self,
        inputs: Inputs | Tensor,
        *,
        targets: Tensor | None = None,
        modalities: ModalityTable | None = None,
        statistics: bool = False,
        cache: KVCache | None = None,
        at: Tensor | None = None,
    ) -> Tensor | LossTerms:
        """Compute logits, or with ``targets`` the loss.

        Args:
            inputs: A batch, or just its tokens (B, T).
            targets: (B, T) int64, the next token at each position, -100 at positions without a loss.
            modalities: The modality of every token, to split the loss by.
            statistics: Also measure entropies and in-modality losses, which costs a second product with
                ``lm_head``.
            cache: Keys and values of the tokens before these; extended in place.
            at: (B,) int64, the one position of each row to return logits of.

        Returns:
            Logits (B, T, V), or (B, 1, V) with ``at``, or with ``targets`` the ``LossTerms``.

        Raises:
            ValueError: The sequence exceeds ``context_length`` or the free slots of the cache, a cache is
                given with documents, ``targets`` are given to packed weights, or ``inputs`` do not fit each
                other.
        """
        if targets is not None and self.packed:
            raise ValueError(
                "targets: a model packed for generation has no loss: load it again without weights=..."
            )
        x = self.hidden(inputs, cache=cache, at=at)
        if targets is None:
            return self.logits(x)
        weight = self.lm_head.weight
        cap = self.config.logit_soft_cap
        return next_token_loss(x, weight, targets, modalities, statistics=statistics, soft_cap=cap)

    def hidden(
        self, inputs: Inputs | Tensor, *, cache: KVCache | None = None, at: Tensor | None = None
    ) -> Tensor:
        """What ``logits`` reads, after the last norm: (B, T, C), or (B, 1, C) with ``at``.

        Arguments and errors as in ``forward``.
        """
        if isinstance(inputs, Tensor):
            inputs = Inputs(inputs)
        inputs.check(self.config.width)
        self._check_length(inputs, cache)
        context = self._context(inputs, cache)
        x = self._embed(inputs)  # (B, T, C)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, context, cache, use_reentrant=False)
            else:
                x = block(x, context, cache)
        if cache is not None:
            cache.advance(x.shape[1])
        if at is not None:
            x = x[torch.arange(len(x), device=x.device), at][:, None]
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> logits (..., V)."""
        return capped(self.lm_head(hidden), self.config.logit_soft_cap)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``.

        Raises:
            ValueError: The weights are packed for generation (``cpu/packed_weights.py``).
        """
        if self.packed:
            raise ValueError(
                "a model packed for generation cannot be saved: load it again without weights=..."
            )
        save_network(self, self.config, Path(folder), KIND)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder written by ``save``, strictly; the result is in evaluation mode and the file's dtype.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: The files do not fit together.
        """
        model = load_network(
            cls, FusionLMConfig, Path(folder), KIND, upgrade=upgrade, unfilled=True, shapes=shapes
        )
        if model.config.tie_embeddings:
            model.lm_head.weight = model.embedding.weight
        return model.eval()

    @staticmethod
    def read_config(folder: str | Path) -> FusionLMConfig:
        """The config in a folder written by ``save``; errors as in ``load``."""
        return read_config(FusionLMConfig, Path(folder), KIND, upgrade)

    def _check_length(self, inputs: Inputs, cache: KVCache | None) -> None:
        length, context = inputs.tokens.shape[1], self.config.context_length
        if cache is not None:
            length += cache.used
        if length > context:
            raise ValueError(f"{length} tokens do not fit the context length {context}: shorten the sequence")
        if cache is None:
            return
        if inputs.documents is not None:
            raise ValueError("documents: packed documents cannot continue a cache, pass only one of the two")
        if length > cache.length:
            raise ValueError(f"{length} tokens do not fit the cache's {cache.length} slots")

    def _context(self, inputs: Inputs, cache: KVCache | None = None) -> Context:
        """Rotary tables and mask for all layers."""
        slots = cache.slots(inputs.tokens.shape[1]) if cache is not None else None
        cos, sin = rope_tables(positions_of(inputs, slots), self.config.head_width, self.config.rope_theta)
        context = Context(cos, sin)
        if cache is not None and slots is not None:
            return context._replace(mask=cache.mask(slots), slots=slots)
        if inputs.documents is None:
            return context
        flex = inputs.tokens.is_cuda if self.attention_backend == "auto" else self.attention_backend == "flex"
        if flex:
            outside: Any = torch.compiler.disable(attention_blocks)  # of the compiled graph
            return context._replace(blocks=outside(inputs.documents))
        mask, firsts = document_mask(inputs.documents), first_keys(document_starts(inputs.documents))
        return context._replace(mask=mask, first_keys=firsts)

    def _embed(self, inputs: Inputs) -> Tensor:
        """Inputs -> (B, T, C): the embeddings of the tokens, some of them replaced by features."""
        x = self.embedding(inputs.tokens)
        if inputs.features is None or inputs.places is None:
            return x
        return x.masked_scatter(inputs.places[..., None], inputs.features.to(x.dtype))
