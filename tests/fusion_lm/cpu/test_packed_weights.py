"""Weight layouts for generation: the same model, within their precision."""

import pytest
import torch
from torch import Tensor, nn

from earlyfusion.fusion_lm.cpu.packed_weights import (
    FEW,
    WEIGHTS,
    Float16Linear,
    Int8Linear,
    PackedLinear,
    for_generation,
)
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.tokenizers.vocab import SharedVocab

FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines


def logits_of(model: FusionLM, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        logits = model(tokens)
    assert isinstance(logits, Tensor)
    return logits.float()


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("weights", "tolerance"),
    [("auto", 1e-5), ("float32", 1e-5), ("float16", 2e-3), ("bfloat16", 0.05), ("int8", 0.08)],
)
def test_logits_are_those_of_the_model(build, tokens: Tensor, weights, tolerance: float, tied: bool) -> None:
    model = build(n_kv_heads=2, tie_embeddings=tied)
    expected = logits_of(model, tokens)
    changed = for_generation(build(n_kv_heads=2, tie_embeddings=tied), weights)
    for rows in (tokens, tokens[:1, :1]):  # many rows, and one
        found, by = logits_of(changed, rows), expected[: len(rows), : rows.shape[1]]
        assert float((found - by).abs().max()) <= tolerance * float(by.abs().max())
    assert not any(isinstance(m, nn.Linear) for m in changed.modules()) or weights == "bfloat16"


def test_int8_is_rounded_to_nearest_with_a_scale_for_each_output() -> None:
    weight = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    weight[3] = 0
    layer = Int8Linear(weight, torch.float32)
    restored = layer.weight.float() * layer.scales[:, None]
    assert float((restored - weight).abs().max()) <= float(weight.abs().max()) / 127 / 2 * 1.001
    assert layer.weight.dtype == torch.int8 and int(layer.weight.abs().max()) == 127
    x = torch.randn(2, 3, 32)
    expected = x @ restored.T  # the kernel takes and gives bfloat16
    torch.testing.assert_close(layer(x), expected, atol=0.02 * float(expected.abs().max()), rtol=0)
    many = torch.randn(FEW + 1, 32)
    torch.testing.assert_close(layer(many), many @ restored.T, atol=1e-4, rtol=1e-4)


def test_float16_is_taken_where_it_loses_nothing(build, tokens: Tensor) -> None:
    half = build().half().float()
    expected = logits_of(half, tokens)
    packed = for_generation(half, "auto")
    layer = packed.get_submodule("blocks.0.ffn.down")
    assert isinstance(layer, Float16Linear if FBGEMM else PackedLinear)
    torch.testing.assert_close(logits_of(packed, tokens), expected, atol=1e-5, rtol=1e-5)
    whole = for_generation(build(), "auto")
    assert isinstance(whole.get_submodule("blocks.0.ffn.down"), PackedLinear)
    elsewhere = for_generation(build().half().to("meta"), "auto")  # float16 products would overflow
    assert {p.dtype for p in elsewhere.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="weights.*float16.*bfloat16 or auto"):
        for_generation(elsewhere, "float16")


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_a_row_does_not_depend_on_its_neighbors(build, weights) -> None:
    packed = for_generation(build(vocab_size=50), weights)
    numbers = torch.Generator().manual_seed(0)
    tokens = torch.randint(50, (5, 12), generator=numbers)
    others = torch.randint(50, (5, 12), generator=numbers)
    others[2] = tokens[2]
    assert torch.equal(logits_of(packed, tokens)[2], logits_of(packed, others)[2])


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_packed_weights_write_what_the_model_writes(build, weights) -> None:
    """Greedily, in a batch and alone."""
    vocab = SharedVocab.build(text=(6, (0,)), codebook_size=5, max_grid=4)
    greedy = Sampling(0)
    prompts = [torch.tensor([vocab.bos, *[9] * n]) for n in (0, 7, 2)]
    plain = build(vocab_size=vocab.size).half().float()
    packed = for_generation(build(vocab_size=vocab.size).half().float(), weights)
    for some in (prompts, prompts[:1]):
        rows = [generate(model, vocab, some, max_new_tokens=30, sampling=greedy) for model in (plain, packed)]
        assert [r.tokens.tolist() for r in rows[0]] == [r.tokens.tolist() for r in rows[1]]


def test_a_folder_is_loaded_with_the_weights_that_are_asked_for(model_folder) -> None:
    sizes = {}
    for weights in (None, *WEIGHTS):
        lm = load_model(model_folder, weights=weights).lm
        sizes[weights] = sum(t.numel() * t.element_size() for t in lm.state_dict().values())
        assert lm.training is False
    assert sizes["bfloat16"] == sizes[None] / 2 and sizes["int8"] < sizes[None]
    with pytest.raises(ValueError, match="weights.*auto, float32, float16, bfloat16, int8.*'int4'"):
        load_model(model_folder, weights="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_a_packed_model_has_no_file_and_no_loss(build, tokens: Tensor, weights, tmp_path) -> None:
    packed = for_generation(build(), weights)
    assert packed.packed
    with pytest.raises(ValueError, match="packed for generation"):
        packed.save(tmp_path / weights)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="targets.*packed for generation"):
        packed(tokens, targets=tokens)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_model_itself_stays_as_it_is(build, tokens: Tensor, weights, tied: bool) -> None:
    model = build(n_kv_heads=2, tie_embeddings=tied).half().float().train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    expected = logits_of(model, tokens)
    changed = for_generation(model, weights)
    assert changed is not model and model.training and not changed.training and not model.packed
    assert {name: p.dtype for name, p in model.named_parameters()} == dict.fromkeys(before, torch.float32)
    assert all(p.requires_grad and torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(logits_of(model, tokens), expected)
    assert not any(p.requires_grad for p in changed.parameters())
    if weights in ("auto", "float32", "float16"):  # what did not change is not copied
        assert changed.embedding.weight.data_ptr() == model.embedding.weight.data_ptr()
