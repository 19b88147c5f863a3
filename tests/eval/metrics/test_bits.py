"""Bits per byte and per pixel, perplexities: over a whole validation set, beside sums token by token."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from earlyfusion.eval.metrics.bits import Rates, text_bytes
from earlyfusion.fusion_lm.loss import LossTerms
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.documents import DocumentTokenizer, interleave
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import IMAGE, TEXT, SharedVocab
from earlyfusion.train.lm.targets import targets_of

TEXTS = (
    "A red apple.",
    "",
    "  spaces,  at either end  ",
    "tabs\t, lines\r\n and \0",
    "Ünïcödé, naïve, \u0301e, 苹果, яблоко, 🍎🏳️‍🌈",
    "\u2581 is how spaces are spelled, <0x41> a byte, \u2585 an unknown one",
)
PIXELS = 64
"""Of a code of the tests' image tokenizer, 8 x 8."""


def test_the_bytes_of_tokens_add_up_to_those_of_the_text(text_tokenizer: TextTokenizer, vocab: SharedVocab):
    lengths = text_bytes(text_tokenizer, vocab)
    assert lengths.shape == (vocab.size,) and lengths.dtype == torch.int64
    rng = random.Random(0)
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for text in (*TEXTS, *("".join(rng.choices(characters, k=20)) for _ in range(50))):
        tokens = vocab.text_to_tokens(torch.tensor(text_tokenizer.encode(text), dtype=torch.int64))
        assert int(lengths[tokens].sum()) == len(text.encode())
    is_text = vocab.is_text(torch.arange(vocab.size))
    assert (lengths[is_text] > 0).all() and (lengths[~is_text] == 0).all()
    assert int(lengths.max()) > 4  # a word


def windows(vocab: SharedVocab, text: TextTokenizer, rows: int) -> tuple[Tensor, Tensor]:
    """Packed documents of a text and an image, and padding: tokens and documents (rows, 64)."""
    tokens, documents = torch.full((rows, 64), vocab.pad), torch.full((rows, 64), 9)
    for row in range(rows):
        ids = torch.tensor(text.encode(TEXTS[4][: 8 + 2 * row] + "apple and"))
        slots = (n,) if (n := vocab.codes_per_position) > 1 else ()
        codes = torch.randint(vocab.codebook_size, (2, 3, *slots))
        document = interleave([("text", ids), ("image", codes)], vocab)
        tokens[row, : len(document)], documents[row, : len(document)] = document, 0
    return tokens, documents


def terms_of(
    net: FusionLM, vocab: SharedVocab, tokens: Tensor, documents: Tensor
) -> tuple[LossTerms, Tensor]:
    """Loss terms and targets."""
    targets = targets_of(tokens, documents, vocab)
    with torch.no_grad():
        terms = net(
            tokens, documents, targets.tokens, targets.modality, vocab.modality(torch.arange(vocab.size))
        )
    assert isinstance(terms, LossTerms)
    return terms, targets.tokens


def network(vocab: SharedVocab) -> FusionLM:
    """A tiny one, whose predictions are far from uniform."""
    torch.manual_seed(0)
    config = FusionLMConfig(vocab.size, 64, n_layers=1, width=32, n_heads=2, n_kv_heads=2, ffn_width=32)
    made = FusionLM(config)
    with torch.no_grad():
        made.lm_head.weight.mul_(40)
    return made.eval()


@pytest.fixture
def net(vocab: SharedVocab) -> FusionLM:
    return network(vocab)


def test_figures_are_those_of_all_tokens(net: FusionLM, vocab: SharedVocab, text_tokenizer: TextTokenizer):
    tokens, documents = windows(vocab, text_tokenizer, 5)
    nats: dict[int, list[float]] = {0: [], 1: [], 2: []}
    inner: dict[int, list[float]] = {0: [], 1: [], 2: []}
    n_bytes = 0
    modality = vocab.modality(torch.arange(vocab.size))
    for row in tokens:
        document = row[row != vocab.pad]
        with torch.no_grad():
            logits = net(document[None])
        assert isinstance(logits, Tensor)
        for p, target in zip(logits[0].double().softmax(-1), document[1:]):
            own = int(modality[target])
            nats[own].append(-math.log(p[target]))
            inner[own].append(-math.log(p[target] / p[modality == own].sum()))
        ids = vocab.tokens_to_text(document[vocab.is_text(document)])
        n_bytes += len(text_tokenizer.decode(ids.tolist()).encode())
    rates = Rates(text_bytes(text_tokenizer, vocab), PIXELS)
    for part in (slice(0, 1), slice(1, 5)):  # batches of unequal sizes
        rates.add(*terms_of(net, vocab, tokens[part], documents[part]))
    figures = rates.read()
    expected = {
        "bits_per_byte": sum(nats[TEXT]) / math.log(2) / n_bytes,
        "bits_per_pixel": sum(nats[IMAGE]) / math.log(2) / (5 * 6 * PIXELS),
    }
    for i, name in enumerate(("structure", "text", "image")):
        expected[f"perplexity/{name}"] = math.exp(sum(nats[i]) / len(nats[i]))
        expected[f"in_modality_perplexity/{name}"] = math.exp(sum(inner[i]) / len(inner[i]))
    assert figures == pytest.approx(expected, rel=1e-4)
    assert figures["in_modality_perplexity/image"] < 0.9 * figures["perplexity/image"]
    assert rates.read() == {}  # begun again


@pytest.mark.parametrize("n", [1, 2])
def test_a_model_that_knows_nothing(text_tokenizer: TextTokenizer, tmp_path: Path, n: int):
    torch.manual_seed(0)
    config = ImageTokenizerConfig(
        stem=4, channels=(8, 16), res_blocks=1, codebook_size=16, codebook_dim=4, groups=n
    )
    image = ImageTokenizer(config).eval()
    vocab = SharedVocab.build(text=text_tokenizer, codebook_size=16, codes_per_position=n)
    DocumentTokenizer(text_tokenizer, image, vocab).save(tmp_path)
    state = torch.get_rng_state()
    rates = Rates.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    net = network(vocab)
    torch.nn.init.zeros_(net.lm_head.weight)
    rates.add(*terms_of(net, vocab, *windows(vocab, text_tokenizer, 3)))
    figures = rates.read()
    for name in ("structure", "text", "image"):
        assert figures[f"perplexity/{name}"] == pytest.approx(vocab.size, rel=1e-5)
    assert figures["in_modality_perplexity/image"] == pytest.approx(16 * n, rel=1e-5)
    share = math.log(vocab.size) / math.log(vocab.codebook_size)
    assert figures["bits_per_pixel"] == pytest.approx(image.bits_per_pixel * share, rel=1e-5)


def test_what_is_missing_has_no_figures(net: FusionLM, vocab: SharedVocab, text_tokenizer: TextTokenizer):
    tokens, documents = windows(vocab, text_tokenizer, 2)
    tokens, documents = tokens[:, :6], documents[:, :6]
    assert not vocab.is_image(tokens).any()
    rates = Rates(text_bytes(text_tokenizer, vocab), PIXELS)
    assert rates.read() == {}
    rates.add(*terms_of(net, vocab, tokens, documents))
    figures = rates.read()
    assert set(figures) == {"bits_per_byte", "perplexity/text", "in_modality_perplexity/text"}
    terms, targets = terms_of(net, vocab, tokens, documents)
    with pytest.raises(ValueError, match="give the forward vocab_modality"):
        rates.add(terms._replace(in_modality=None), targets)


class TwoRanks:
    """A strategy: ``other`` is what the other rank has."""

    def __init__(self, other: Rates) -> None:
        self.other = other

    def reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum" and self.other._sums is not None
        return tensor + self.other._sums


def test_ranks_add_up(net: FusionLM, vocab: SharedVocab, text_tokenizer: TextTokenizer):
    tokens, documents = windows(vocab, text_tokenizer, 5)
    lengths = text_bytes(text_tokenizer, vocab)
    together, first, second = (Rates(lengths, PIXELS) for _ in range(3))
    together.add(*terms_of(net, vocab, tokens, documents))
    first.add(*terms_of(net, vocab, tokens[:2], documents[:2]))
    second.add(*terms_of(net, vocab, tokens[2:], documents[2:]))
    strategy: Any = TwoRanks(second)
    first.reduce(strategy)
    assert first.read() == pytest.approx(together.read(), rel=1e-5)


def test_a_large_set_is_counted_exactly(vocab: SharedVocab, text_tokenizer: TextTokenizer):
    """float32 would stop to count at 2^24."""
    rates = Rates(text_bytes(text_tokenizer, vocab), PIXELS)
    nothing = torch.zeros(())
    for count, nats in ((2**24, 2.0**24), (1, 1000.0), (1, 1000.0), (1, 1000.0)):
        terms = LossTerms(
            cross_entropy=nothing,
            z=nothing,
            nll_sums=torch.tensor([0.0, 0.0, nats]),
            by_modality=nothing,
            counts=torch.tensor([0, 0, count]),
            log_z=nothing,
            nll=nothing,
            entropy=nothing,
            in_modality=torch.tensor([math.nan, math.nan, nats / count]),
        )
        rates.add(terms, torch.full((1, 1), -100))
    figures = rates.read()
    mean = (2**24 + 3000) / (2**24 + 3)
    assert figures["perplexity/image"] == pytest.approx(math.exp(mean), rel=1e-12)
    assert figures["in_modality_perplexity/image"] == pytest.approx(math.exp(mean), rel=1e-12)
    assert figures["bits_per_pixel"] == pytest.approx(mean / math.log(2) / PIXELS, rel=1e-12)
