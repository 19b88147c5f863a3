import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from earlyfusion.fusion_lm.loss import IGNORE, LossTerms, next_token_loss, token_losses
from earlyfusion.tokenizers.modality import ModalityTable

B, T, V = 3, 7, 11
TABLE = ModalityTable(("structure", "text", "image"), torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]))


def batch() -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) in double and targets (B, T); the rows count 7, 4 and 0 targets."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(B, T, V, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(V, (B, T), generator=generator)
    targets[1, [0, 2, 6]] = IGNORE
    targets[2] = IGNORE
    targets[0, :3] = torch.tensor([0, 3, 7])  # all three modalities occur
    return logits, targets


def modality_of(targets: Tensor) -> Tensor:
    """The modality of each target (B, T), -1 at ignored positions."""
    return torch.where(targets == IGNORE, -1, TABLE.of_token[targets.clamp(min=0)])


def loss(logits: Tensor, targets: Tensor, modalities: ModalityTable | None = None, **options) -> LossTerms:
    """The loss of given logits: the output projection is the identity."""
    eye = torch.eye(logits.shape[-1], dtype=logits.dtype)
    return next_token_loss(logits, eye, targets, modalities, **options)


def assert_equal_terms(found: LossTerms, expected: LossTerms, **tolerance) -> None:
    assert found.names == expected.names
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def test_figures_have_the_names_of_the_table() -> None:
    terms = loss(*batch(), TABLE)
    assert terms.names == TABLE.names
    for place, name in enumerate(terms.names):
        assert terms.of(terms.counts, name) == terms.counts[place]
    with pytest.raises(ValueError, match=r"structure, text, image.*'audio'"):
        terms.of(terms.counts, "audio")


def test_any_number_of_modalities() -> None:
    logits, targets = batch()
    table = ModalityTable(("a", "b", "c", "d", "e"), torch.arange(V) // 3)  # none is an "e"
    terms = loss(logits, targets, table)
    assert terms.names == table.names and terms.of(terms.counts, "e") == 0
    assert terms.of(terms.by_modality, "e").isnan()
    for place, name in enumerate(table.names[:4]):
        mine = torch.where(targets.clamp(min=0) // 3 == place, targets, IGNORE)
        expected = F.cross_entropy(logits.flatten(0, 1), mine.flatten())
        torch.testing.assert_close(
            terms.of(terms.by_modality, name).double(), expected, atol=1e-6, rtol=0, equal_nan=True
        )


def test_cross_entropy_is_torchs() -> None:
    logits, targets = batch()
    terms = loss(logits, targets, TABLE)
    torch.testing.assert_close(
        terms.cross_entropy.double(),
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()),
        atol=1e-6,
        rtol=0,
    )
    for number in range(3):
        mine = torch.where(modality_of(targets) == number, targets, IGNORE)
        expected = F.cross_entropy(logits.flatten(0, 1), mine.flatten())
        torch.testing.assert_close(terms.by_modality[number].double(), expected, atol=1e-6, rtol=0)
        assert terms.counts[number] == (mine != IGNORE).sum()
    assert terms.counts.dtype == torch.int64 and terms.counts.sum() == 11
    weighted = (terms.by_modality * terms.counts).sum() / terms.counts.sum()
    torch.testing.assert_close(weighted, terms.cross_entropy.detach())


def test_means_run_over_tokens_not_rows() -> None:
    logits, targets = batch()
    rows = [F.cross_entropy(logits[row], targets[row]) for row in range(2)]
    terms = loss(logits, targets)
    assert abs(rows[0] - rows[1]) > 0.1
    torch.testing.assert_close(
        terms.cross_entropy.double(), (7 * rows[0] + 4 * rows[1]) / 11, atol=1e-6, rtol=0
    )
    # empty rows, and the arrangement of tokens in rows, make no difference
    again = loss(logits[:2].reshape(1, 14, V), targets[:2].reshape(1, 14))
    torch.testing.assert_close(again.cross_entropy, terms.cross_entropy)
    torch.testing.assert_close(again.z, terms.z)


def test_z_is_the_mean_square_of_the_counted_normalizers() -> None:
    logits, targets = batch()
    squares = [
        float(logits[b, t].exp().sum().log() ** 2)
        for b in range(B)
        for t in range(T)
        if int(targets[b, t]) != IGNORE
    ]
    assert len(squares) == 11
    terms = loss(logits, targets)
    torch.testing.assert_close(float(terms.z), sum(squares) / 11, atol=1e-5, rtol=1e-6)
    shifted = loss(logits + 2, targets)  # it sees what the cross-entropy does not
    torch.testing.assert_close(shifted.cross_entropy, terms.cross_entropy)
    assert shifted.z > terms.z + 1


def test_gradients_are_those_of_the_formula() -> None:
    logits, targets = batch()
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    terms = loss(mine, targets, TABLE)
    (terms.cross_entropy + 0.1 * terms.z).backward()
    counted = theirs[targets != IGNORE]
    z = counted.logsumexp(-1).square().mean()
    (F.cross_entropy(counted, targets[targets != IGNORE]) + 0.1 * z).backward()
    assert mine.grad is not None and theirs.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-7, rtol=1e-5)
    assert not mine.grad[targets == IGNORE].any()
    assert not terms.by_modality.requires_grad and not terms.counts.requires_grad


def test_what_is_ignored_cannot_disturb() -> None:
    logits, targets = batch()
    wild = logits.clone()
    wild[targets == IGNORE] = 1e4
    assert_equal_terms(loss(wild, targets, TABLE), loss(logits, targets, TABLE))


def test_a_batch_of_nothing_is_zero_and_trains_nothing() -> None:
    logits, targets = batch()
    logits.requires_grad_()
    terms = loss(logits, torch.full_like(targets, IGNORE), TABLE)
    assert terms.cross_entropy == 0 and terms.z == 0 and terms.counts.tolist() == [0, 0, 0]
    assert terms.by_modality.isnan().all()
    (terms.cross_entropy + terms.z).backward()
    assert logits.grad is not None and not logits.grad.any()


def test_without_a_table_all_tokens_are_one_group() -> None:
    logits, targets = batch()
    terms = loss(logits, targets, statistics=True)
    assert terms.names == ("tokens",) and terms.counts.tolist() == [11]
    torch.testing.assert_close(terms.by_modality[0], terms.cross_entropy)
    torch.testing.assert_close(terms.in_modality, terms.by_modality)  # nothing leaks
    torch.testing.assert_close(terms.cross_entropy, loss(logits, targets, TABLE).cross_entropy)


def test_a_modality_that_does_not_occur_has_no_mean() -> None:
    logits, targets = batch()
    targets[modality_of(targets) > 0] = IGNORE
    terms = loss(logits, targets, TABLE)
    assert int(terms.counts[0]) > 0 and terms.counts[1:].tolist() == [0, 0]
    torch.testing.assert_close(terms.by_modality[0], terms.cross_entropy)
    assert terms.by_modality[1:].isnan().all()


def test_half_precision_is_summed_in_float32() -> None:
    logits, targets = batch()
    half = logits.bfloat16()
    terms = loss(half, targets, TABLE)
    assert terms.cross_entropy.dtype == terms.z.dtype == terms.by_modality.dtype == torch.float32
    assert_equal_terms(terms, loss(half.float(), targets, TABLE), atol=0, rtol=0)


def test_large_logits_stay_finite() -> None:
    terms = loss(torch.tensor([[[3e4, -3e4, 0.0]]]), torch.tensor([[1]]))
    assert float(terms.cross_entropy) == 6e4 and float(terms.z) == 9e8


# in chunks

HIDDEN = 6


def projected() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden (B, T, C) and weight (V, C) in double, targets as in `batch`."""
    _, targets = batch()
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(B, T, HIDDEN, generator=generator, dtype=torch.float64)
    return hidden, torch.randn(V, HIDDEN, generator=generator, dtype=torch.float64), targets


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("chunk", [V, 4 * V, 8 * V, 1000 * V])  # 21 tokens: 1, 4, 8 and all of them at once
def test_chunks_have_the_value_and_the_gradient_of_plain_torch(chunk: int, soft_cap: float | None) -> None:
    hidden, weight, targets = projected()
    mine = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    plain = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    terms = next_token_loss(*mine, targets, TABLE, soft_cap=soft_cap, chunk=chunk)
    logits = (plain[0] @ plain[1].T).flatten(0, 1)
    if soft_cap:
        logits = soft_cap * (logits / soft_cap).tanh()
    counted = targets.flatten() != IGNORE
    nll = F.cross_entropy(logits, targets.flatten(), reduction="none", ignore_index=IGNORE)
    z = logits.logsumexp(-1)[counted].square().mean()
    sums = torch.stack([nll[modality_of(targets).flatten() == m].sum() for m in range(3)])
    torch.testing.assert_close(terms.cross_entropy, nll[counted].mean())
    torch.testing.assert_close(terms.z, z)
    torch.testing.assert_close(terms.nll_sums, sums)
    torch.testing.assert_close(terms.nll, nll.view(B, T))
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    (terms.nll_sums @ weights + 0.3 * terms.z).backward()
    (sums @ weights + 0.3 * z).backward()
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_gradients_per_token_are_those_of_finite_differences() -> None:
    hidden, weight, targets = projected()
    flat = hidden.flatten(0, 1)[:5].requires_grad_()
    chosen = targets.clamp(min=0).flatten()[:5]
    torch.autograd.gradcheck(
        lambda h, w: token_losses(h, w, chosen, 3.0, 2 * V), (flat, weight.requires_grad_())
    )


def test_torchs_own_chunked_loss_agrees() -> None:
    options = getattr(F, "LinearCrossEntropyOptions", None)
    own = getattr(F, "linear_cross_entropy", None)
    if own is None:
        pytest.skip("this torch has no linear_cross_entropy")
    hidden, weight, targets = (x.float() if x.is_floating_point() else x for x in projected())
    mine, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    more = {"options": options()} if options else {}
    expected = own(theirs.flatten(0, 1), weight, targets.flatten(), ignore_index=IGNORE, **more)
    terms = next_token_loss(mine, weight, targets, chunk=4 * V)
    torch.testing.assert_close(terms.cross_entropy, expected)
    terms.cross_entropy.backward()
    expected.backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_logits_of_all_tokens_never_exist() -> None:
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else [made]:
                if isinstance(tensor, Tensor):
                    self.numbers = max(self.numbers, tensor.numel())
            return made

    hidden, weight = torch.randn(2, 50, 4, requires_grad=True), torch.randn(300, 4, requires_grad=True)
    targets = torch.randint(300, (2, 50))
    largest = {}
    for chunk in (3000, 300_000):
        with Largest() as seen:
            terms = next_token_loss(hidden, weight, targets, chunk=chunk)
            (terms.cross_entropy + terms.z).backward()
        largest[chunk] = seen.numbers
    assert largest == {3000: 3000, 300_000: 100 * 300}


def test_entropy_and_what_stays_in_the_modality() -> None:
    hidden, weight, targets = projected()
    terms = next_token_loss(hidden, weight, targets, TABLE, statistics=True, chunk=2 * V)
    assert terms.entropy is not None and terms.in_modality is not None
    p = (hidden @ weight.T).softmax(-1)
    for m in range(3):
        chosen = modality_of(targets) == m
        assert chosen.any()
        of = p[chosen]
        torch.testing.assert_close(terms.entropy[m], torch.special.entr(of).sum(-1).mean())
        within = of[:, TABLE.of_token == m].sum(-1)
        target = of.gather(1, targets[chosen][:, None])[:, 0]
        torch.testing.assert_close(terms.in_modality[m], -(target / within).log().mean())
        # what leaks is the probability of the other modalities
        torch.testing.assert_close(terms.by_modality[m] - terms.in_modality[m], -within.log().mean())


def test_under_autocast_products_are_bfloat16_and_gradients_are_not() -> None:
    hidden, weight, targets = (x.float() if x.is_floating_point() else x for x in projected())
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    exact = next_token_loss(hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        terms = next_token_loss(hidden, weight, targets, chunk=4 * V)
        plain = F.linear(hidden, weight)
    assert plain.dtype == torch.bfloat16 and terms.cross_entropy.dtype == torch.float32
    expected = F.cross_entropy(plain.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    torch.testing.assert_close(terms.cross_entropy, expected)
    assert terms.cross_entropy != exact.cross_entropy
    terms.cross_entropy.backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32
