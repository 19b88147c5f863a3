"""Attention masks: causal within documents, optionally bidirectional within spans."""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


def document_mask(documents: Tensor) -> Tensor:
    """Causal attention within each document: documents (B, T) -> (B, 1, T, T) bool, True where visible."""
    T = documents.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=documents.device).tril()
    return (documents[:, None, :, None] == documents[:, None, None, :]) & causal


def mixed_mask(documents: Tensor, spans: Tensor) -> Tensor:
    """Causal attention within each document, bidirectional within each span.

    As in Transfusion (arXiv:2408.11039, section 3), where text is causal and the patches of an image see each
    other.

    Args:
        documents: (B, T) int64.
        spans: (B, T) int64, the same number for all tokens of a span; -1 outside of spans.

    Returns:
        (B, 1, T, T) bool, True where a query (third axis) sees a key (last axis).
    """
    T = documents.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=documents.device).tril()
    together = (spans[:, None, :, None] == spans[:, None, None, :]) & (spans >= 0)[:, None, :, None]
    return (documents[:, None, :, None] == documents[:, None, None, :]) & (causal | together)


def attention_blocks(documents: Tensor, spans: Tensor | None = None) -> BlockMask:
    """``document_mask``, or ``mixed_mask`` if ``spans`` are given, in the form of FlexAttention.

    FlexAttention skips blocks of keys that no query sees.
    """

    def visible(b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= key
        if spans is not None:
            seen = seen | ((spans[b, query] == spans[b, key]) & (spans[b, query] >= 0))
        return seen & (documents[b, query] == documents[b, key])

    B, T = documents.shape
    return create_block_mask(visible, B, None, T, T, device=documents.device)
