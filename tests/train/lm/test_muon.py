"""Muon against torch's own Muon and AdamW, and against itself in float64."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.train.lm import muon as module
from earlyfusion.train.lm.muon import Muon, muon, orthogonalize, stacks

CONFIG = FusionLMConfig(
    vocab_size=40, context_length=16, n_layers=2, width=16, n_heads=2, n_kv_heads=1, ffn_width=32
)


def test_orthogonalize_keeps_the_singular_vectors_and_levels_the_values() -> None:
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    for one in (matrix, matrix.T):
        made = orthogonalize(one)
        values = torch.linalg.svdvals(made)
        assert 0.6 < float(values.min()) and float(values.max()) < 1.25
        u, _, vh = torch.linalg.svd(one, full_matrices=False)
        levelled = u.T @ made @ vh.T  # diagonal, when the singular vectors are the same
        assert torch.allclose(levelled, levelled.diag().diag(), atol=1e-4)


def newton_schulz(matrix: Tensor) -> Tensor:
    """Jordan's iteration as his page writes it, in float64 (m, n)."""
    x = matrix.double()
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@pytest.mark.parametrize("shape", [(64, 64), (64, 90), (64, 200), (300, 64)])
def test_orthogonalize_is_exact_to_the_rounding_of_float32(shape: tuple[int, int]) -> None:
    """Also with singular values from 1 to 1e-5, where iterating too long on X X^T would be 15 times worse."""
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    values = 10 ** torch.linspace(0, -5, values.shape[-1], dtype=torch.float64)
    matrices = (u * values @ vh).float()
    witness = torch.stack([newton_schulz(matrix) for matrix in matrices])
    together = orthogonalize(matrices)
    assert float((together - witness).abs().max()) < 5e-6
    assert torch.allclose(orthogonalize(matrices[1]), together[1], atol=1e-6)


def test_stacks_hold_matrices_of_one_shape_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_STACK", 50)
    shapes = [(4, 6), (6, 4), (4, 6), (8, 8), (4, 6), (8, 8)]
    matrices = [torch.full(shape, float(number)) for number, shape in enumerate(shapes)]
    numbers = [[int(matrix[0, 0]) for matrix in stack] for stack in stacks(matrices)]
    assert numbers == [[0, 2], [4], [1], [3], [5]]


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (48, 8), (16, 16)])
def test_matrices_move_as_with_torch_muon(shape: tuple[int, int]) -> None:
    """Wide, tall and square: the step of a tall matrix is longer by the root of rows / columns."""
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.empty(shape))
    theirs.data.copy_(ours.data)
    optimizer = Muon([{"params": [ours], "muon": True, "lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}])
    reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    for _ in range(4):
        gradient = torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    assert torch.allclose(ours, theirs, atol=2e-3)  # torch iterates in bfloat16


def test_the_rest_moves_as_with_torch_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(7)), nn.Parameter(torch.empty(7))
    theirs.data.copy_(ours.data)
    settings = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizer = Muon([{"params": [ours], "muon": False, **settings}])
    reference = torch.optim.AdamW([theirs], **settings)
    for _ in range(5):
        gradient = torch.randn(7)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_every_parameter_stands_in_one_group() -> None:
    network = FusionLM(CONFIG)
    optimizer = muon(network, lr=1e-3, muon_lr=0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())
    by_muon = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    names = {name for name, p in network.named_parameters() if id(p) in by_muon}
    assert len(names) == 4 * CONFIG.n_layers and all(name.endswith(".weight") for name in names)
    assert not any("norm" in name or "embedding" in name or "lm_head" in name for name in names)
    undecayed = [p for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]]
    assert {id(p) for name, p in network.named_parameters() if "norm" in name} == {id(p) for p in undecayed}


def test_state_survives_a_checkpoint() -> None:
    torch.manual_seed(0)
    one, other = FusionLM(CONFIG), FusionLM(CONFIG)
    other.load_state_dict(one.state_dict())
    settings = {"lr": 1e-3, "muon_lr": 0.02, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizers = [muon(one, **settings), muon(other, **settings)]
    tokens = torch.randint(0, 40, (2, 8))

    def step(network: FusionLM, optimizer: Muon) -> None:
        optimizer.zero_grad()
        network(tokens[:, :-1], targets=tokens[:, 1:]).cross_entropy.backward()
        optimizer.step()

    for _ in range(2):
        step(one, optimizers[0])
    other.load_state_dict(one.state_dict())
    optimizers[1].load_state_dict(deepcopy(optimizers[0].state_dict()))
    for network, optimizer in zip((one, other), optimizers, strict=True):
        step(network, optimizer)
    stored = optimizers[1].state_dict()["state"].values()  # what checkpoints have; steps are plain numbers
    assert {tuple(state) for state in stored} == {("momentum",), ("step", "mean", "square")}
    assert {state["step"] for state in stored if "step" in state} == {3}
    assert all(type(state.get("step", 0)) is int for state in stored)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name
