import torch
import torch.nn.functional as F
from torch import Tensor

from earlyfusion.fusion_lm.loss import IGNORE, MODALITIES, next_token_loss
from earlyfusion.tokenizers.vocab import IMAGE, STRUCTURE, TEXT

B, T, V = 3, 7, 11


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, T, V) in double, targets and modality (B, T); the rows count 7, 4 and 0 targets."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(B, T, V, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(V, (B, T), generator=generator)
    targets[1, [0, 2, 6]] = IGNORE
    targets[2] = IGNORE
    modality = torch.randint(3, (B, T), generator=generator)
    modality[0, :3] = torch.tensor([0, 1, 2])  # all three occur
    return logits, targets, modality


def test_the_modalities_have_the_numbers_of_the_vocabulary() -> None:
    assert [MODALITIES[n] for n in (STRUCTURE, TEXT, IMAGE)] == ["structure", "text", "image"]


def test_cross_entropy_is_torchs() -> None:
    logits, targets, modality = batch()
    terms = next_token_loss(logits, targets, modality)
    torch.testing.assert_close(
        terms.cross_entropy.double(),
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()),
        atol=1e-6,
        rtol=0,
    )
    for number in range(3):
        mine = torch.where(modality == number, targets, IGNORE)
        expected = F.cross_entropy(logits.flatten(0, 1), mine.flatten())
        torch.testing.assert_close(terms.by_modality[number].double(), expected, atol=1e-6, rtol=0)
        assert terms.counts[number] == (mine != IGNORE).sum()
    assert terms.counts.dtype == torch.int64 and terms.counts.sum() == 11
    weighted = (terms.by_modality * terms.counts).sum() / terms.counts.sum()
    torch.testing.assert_close(weighted, terms.cross_entropy.detach())


def test_means_run_over_tokens_not_rows() -> None:
    logits, targets, _ = batch()
    rows = [F.cross_entropy(logits[row], targets[row]) for row in range(2)]
    terms = next_token_loss(logits, targets)
    assert abs(rows[0] - rows[1]) > 0.1
    torch.testing.assert_close(
        terms.cross_entropy.double(), (7 * rows[0] + 4 * rows[1]) / 11, atol=1e-6, rtol=0
    )
    # rows of nothing, and the way that tokens are laid out in rows, change nothing
    again = next_token_loss(logits[:2].reshape(1, 14, V), targets[:2].reshape(1, 14))
    torch.testing.assert_close(again.cross_entropy, terms.cross_entropy)
    torch.testing.assert_close(again.z, terms.z)


def test_z_is_the_mean_square_of_the_counted_normalisers() -> None:
    logits, targets, _ = batch()
    squares = [
        float(logits[b, t].exp().sum().log() ** 2)
        for b in range(B)
        for t in range(T)
        if int(targets[b, t]) != IGNORE
    ]
    assert len(squares) == 11
    terms = next_token_loss(logits, targets)
    torch.testing.assert_close(float(terms.z), sum(squares) / 11, atol=1e-5, rtol=1e-6)
    shifted = next_token_loss(logits + 2, targets)  # it sees what the cross-entropy does not
    torch.testing.assert_close(shifted.cross_entropy, terms.cross_entropy)
    assert shifted.z > terms.z + 1


def test_gradients_are_those_of_the_formula() -> None:
    logits, targets, modality = batch()
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    terms = next_token_loss(mine, targets, modality)
    (terms.cross_entropy + 0.1 * terms.z).backward()
    counted = theirs[targets != IGNORE]
    z = counted.logsumexp(-1).square().mean()
    (F.cross_entropy(counted, targets[targets != IGNORE]) + 0.1 * z).backward()
    assert mine.grad is not None and theirs.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-7, rtol=1e-5)
    assert not mine.grad[targets == IGNORE].any()
    assert not terms.by_modality.requires_grad and not terms.counts.requires_grad


def test_what_is_ignored_cannot_disturb() -> None:
    logits, targets, modality = batch()
    expected = next_token_loss(logits, targets, modality)
    wild = logits.clone()
    wild[targets == IGNORE] = 1e4
    modality[targets == IGNORE] = 2
    for a, b in zip(next_token_loss(wild, targets, modality), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_batch_of_nothing_is_zero_and_trains_nothing() -> None:
    logits, targets, _ = batch()
    logits.requires_grad_()
    terms = next_token_loss(logits, torch.full_like(targets, IGNORE))
    assert terms.cross_entropy == 0 and terms.z == 0 and terms.counts.tolist() == [0, 0, 0]
    assert terms.by_modality.isnan().all()
    (terms.cross_entropy + terms.z).backward()
    assert logits.grad is not None and not logits.grad.any()


def test_a_modality_that_does_not_occur_has_no_mean() -> None:
    logits, targets, _ = batch()
    terms = next_token_loss(logits, targets)  # no modality given: all of it is structure
    assert terms.counts.tolist() == [11, 0, 0]
    torch.testing.assert_close(terms.by_modality[0], terms.cross_entropy)
    assert terms.by_modality[1:].isnan().all()


def test_half_precision_is_summed_in_float32() -> None:
    logits, targets, modality = batch()
    half = logits.bfloat16()
    terms = next_token_loss(half, targets, modality)
    assert terms.cross_entropy.dtype == terms.z.dtype == terms.by_modality.dtype == torch.float32
    for a, b in zip(terms, next_token_loss(half.float(), targets, modality), strict=True):
        assert torch.equal(a, b)


def test_large_logits_stay_finite() -> None:
    terms = next_token_loss(torch.tensor([[[3e4, -3e4, 0.0]]]), torch.tensor([[1]]))
    assert float(terms.cross_entropy) == 6e4 and float(terms.z) == 9e8
