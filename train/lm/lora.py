"""Fine-tuning of a part of a transformer: low-rank updates of its matrices, and the rows of non-text tokens.

LoRA (Hu et al., arXiv:2106.09685) adds to a frozen matrix W the product of two narrow ones, (alpha / r) B A.
B starts at 0, so training starts from the unchanged model. The sum is a matrix like W, so a plain model
folder is saved.

A model that draws badly or not at all, as Chameleon was released, needs more: the rows of embedding and
lm_head of all non-text tokens (image codes and the tokens that frame them) are trained in full. Anole
(arXiv:2407.06135) trains only such rows of lm_head.
"""

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...fusion_lm.model import FusionLM
from ...tokenizers.vocab import SharedVocab
from .settings import Part


class LoRALinear(nn.Linear):
    """y = x W^T + (alpha / r) (x A^T) B^T with W (out, in) frozen, A (r, in) and B (out, r) trained."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        """Replace ``linear``, which has no bias, and share its weight."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, None
        self.lora_a = nn.Parameter(torch.empty(rank, linear.in_features).to(linear.weight))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank).to(linear.weight))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)  # as the paper's code does
        self.scale = alpha / rank

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in) -> (..., out)."""
        return super().forward(input) + self.scale * F.linear(F.linear(input, self.lora_a), self.lora_b)

    def merged(self) -> Tensor:
        """W + (alpha / r) B A (out, in), summed in float32 at least."""
        a, b = (m.to(torch.promote_types(m.dtype, torch.float32)) for m in (self.lora_a, self.lora_b))
        return torch.addmm(self.weight.to(a), b, a, alpha=self.scale).to(self.weight)


class TrainedRows(nn.Module):
    """Parametrization of a frozen matrix (V, C) of which some rows are trained."""

    places: Tensor

    def __init__(self, weight: Tensor, places: Tensor):
        super().__init__()
        self.register_buffer("places", places, persistent=False)
        self.rows = nn.Parameter(weight[places].detach().clone())

    def forward(self, weight: Tensor) -> Tensor:
        """The frozen matrix -> the matrix with the trained rows."""
        return weight.index_copy(0, self.places, self.rows)


def adapt(net: FusionLM, part: Part, vocab: SharedVocab, rank: int = 16, alpha: float = 32.0) -> None:
    """Freeze ``net`` in place, except what ``part`` trains.

    Args:
        net: The transformer.
        part: What is trained.
        vocab: Its vocabulary. The rows of all tokens except text and padding are trained.
        rank: Rank r of the low-rank updates of all matrices in the blocks.
        alpha: The updates are scaled by alpha / r.

    Raises:
        ValueError: Unknown part, or rank or alpha is not positive.
    """
    if part not in get_args(Part):
        raise ValueError(f"trained_part is {part!r}, expected one of {', '.join(get_args(Part))}")
    if rank < 1 or not alpha > 0:
        raise ValueError(f"lora_rank and lora_alpha must be positive, got {rank} and {alpha}")
    if part == "all":
        return
    net.requires_grad_(False)
    tokens = torch.arange(vocab.size)
    places = tokens[~vocab.is_text(tokens) & (tokens != vocab.pad)].to(net.embedding.weight.device)
    rows = TrainedRows(net.embedding.weight, places)
    parametrize.register_parametrization(net.embedding, "weight", rows)
    if not net.config.tie_embeddings:
        rows = TrainedRows(net.lm_head.weight, places)
    parametrize.register_parametrization(net.lm_head, "weight", rows)
    if part == "lora":
        for module in list(net.blocks.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, LoRALinear(child, rank, alpha))


@torch.no_grad()
def merged(net: FusionLM) -> FusionLM:
    """A plain transformer equal to ``net``, which may be adapted; it shares weights with ``net``."""
    weights: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, LoRALinear):
            weights[f"{name}.weight"] = module.merged()
    weights |= {"embedding.weight": net.embedding.weight, "lm_head.weight": net.lm_head.weight}
    with torch.device("meta"):
        plain = FusionLM(net.config)
    found = net.state_dict()
    state = {name: weights.get(name, found.get(name)) for name in plain.state_dict()}
    plain.load_state_dict(state, assign=True)  # type: ignore[arg-type]
    if plain.config.tie_embeddings:
        plain.lm_head.weight = plain.embedding.weight
    return plain.train(net.training)


def trained_names(net: nn.Module) -> set[str]:
    """The names of the trained parameters, as in ``state_dict()``."""
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}
