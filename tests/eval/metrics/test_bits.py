"""Bits per byte and per pixel, perplexities: over a whole validation set, beside sums token by token."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from earlyfusion.eval.metrics.bits import Rates, Unit, text_bytes
from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.fusion_lm.loss import LossTerms
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.documents import DocumentTokenizer, interleave
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.lm.targets import targets_of

TEXTS = (
    "A red apple.",
    "",
    "  spaces,  at either end  ",
    "tabs\t, lines\r\n and \0",
    "Ünïcödé, naïve, \u0301e, 苹果, яблоко, 🍎🏳️‍🌈",
    "\u2581 is how spaces are spelled, <0x41> a byte, \u2585 an unknown one",
)
NAMES = ("structure", "text", "image")
PIXELS = 64
"""Of a code of the tests' image tokenizer, 8 x 8."""
UNITS = {"image": Unit("bits_per_pixel", PIXELS)}


def test_the_bytes_of_tokens_add_up_to_those_of_the_text(text_tokenizer: TextTokenizer, vocab: SharedVocab):
    lengths = text_bytes(text_tokenizer, vocab)
    assert lengths.shape == (vocab.size,) and lengths.dtype == torch.int64
    rng = random.Random(0)
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for text in (*TEXTS, *("".join(rng.choices(characters, k=20)) for _ in range(50))):
        tokens = vocab.to_tokens("text", torch.tensor(text_tokenizer.encode(text), dtype=torch.int64))
        assert int(lengths[tokens].sum()) == len(text.encode())
    is_text = vocab.is_text(torch.arange(vocab.size))
    assert (lengths[is_text] > 0).all() and (lengths[~is_text] == 0).all()
    assert int(lengths.max()) > 4  # a word


def windows(vocab: SharedVocab, text: TextTokenizer, rows: int) -> tuple[Tensor, Tensor]:
    """Packed documents of a text and an image, and padding: tokens and documents (rows, 64)."""
    tokens, documents = torch.full((rows, 64), vocab.pad), torch.full((rows, 64), 9)
    for row in range(rows):
        ids = torch.tensor(text.encode(TEXTS[4][: 8 + 2 * row] + "apple and"))
        slots = (n,) if (n := vocab["image"].slots) > 1 else ()
        codes = torch.randint(vocab["image"].codebook_size, (2, 3, *slots))
        document = interleave([("text", ids), ("image", codes)], vocab)
        tokens[row, : len(document)], documents[row, : len(document)] = document, 0
    return tokens, documents


def terms_of(
    net: FusionLM, vocab: SharedVocab, tokens: Tensor, documents: Tensor
) -> tuple[LossTerms, Tensor]:
    """Loss terms and targets."""
    targets = targets_of(tokens, documents, vocab)
    with torch.no_grad():
        terms = net(Inputs(tokens, documents), targets=targets, modalities=vocab.table(), statistics=True)
    assert isinstance(terms, LossTerms)
    return terms, targets


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
    nats: dict[str, list[float]] = {name: [] for name in NAMES}
    inner: dict[str, list[float]] = {name: [] for name in NAMES}
    n_bytes = 0
    modality = vocab.modality(torch.arange(vocab.size))
    for row in tokens:
        document = row[row != vocab.pad]
        with torch.no_grad():
            logits = net(document[None])
        assert isinstance(logits, Tensor)
        for p, target in zip(logits[0].double().softmax(-1), document[1:]):
            own = int(modality[target])
            name = NAMES[own]
            nats[name].append(-math.log(p[target]))
            inner[name].append(-math.log(p[target] / p[modality == own].sum()))
        ids = vocab.to_codes("text", document[vocab.is_text(document)])
        n_bytes += len(text_tokenizer.decode(ids.tolist()).encode())
    rates = Rates(NAMES, text_bytes(text_tokenizer, vocab), UNITS)
    for part in (slice(0, 1), slice(1, 5)):  # batches of unequal sizes
        rates.add(*terms_of(net, vocab, tokens[part], documents[part]))
    figures = rates.read()
    expected = {
        "bits_per_byte": sum(nats["text"]) / math.log(2) / n_bytes,
        "bits_per_pixel": sum(nats["image"]) / math.log(2) / (5 * 6 * PIXELS),
    }
    for name in NAMES:
        expected[f"perplexity/{name}"] = math.exp(sum(nats[name]) / len(nats[name]))
        expected[f"in_modality_perplexity/{name}"] = math.exp(sum(inner[name]) / len(inner[name]))
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
    DocumentTokenizer(vocab, text=text_tokenizer, image=image).save(tmp_path)
    state = torch.get_rng_state()
    rates = Rates.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    net = network(vocab)
    torch.nn.init.zeros_(net.lm_head.weight)
    rates.add(*terms_of(net, vocab, *windows(vocab, text_tokenizer, 3)))
    figures = rates.read()
    for name in NAMES:
        assert figures[f"perplexity/{name}"] == pytest.approx(vocab.size, rel=1e-5)
    assert figures["in_modality_perplexity/image"] == pytest.approx(16 * n, rel=1e-5)
    share = math.log(vocab.size) / math.log(vocab["image"].codebook_size)
    assert figures["bits_per_pixel"] == pytest.approx(image.bits_per_pixel * share, rel=1e-5)


def test_what_is_missing_has_no_figures(net: FusionLM, vocab: SharedVocab, text_tokenizer: TextTokenizer):
    tokens, documents = windows(vocab, text_tokenizer, 2)
    tokens, documents = tokens[:, :6], documents[:, :6]
    assert not vocab.is_("image", tokens).any()
    rates = Rates(NAMES, text_bytes(text_tokenizer, vocab), UNITS)
    assert rates.read() == {}
    rates.add(*terms_of(net, vocab, tokens, documents))
    figures = rates.read()
    assert set(figures) == {"bits_per_byte", "perplexity/text", "in_modality_perplexity/text"}
    terms, targets = terms_of(net, vocab, tokens, documents)
    with pytest.raises(ValueError, match="in_modality.*statistics=True"):
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
    together, first, second = (Rates(NAMES, lengths, UNITS) for _ in range(3))
    together.add(*terms_of(net, vocab, tokens, documents))
    first.add(*terms_of(net, vocab, tokens[:2], documents[:2]))
    second.add(*terms_of(net, vocab, tokens[2:], documents[2:]))
    strategy: Any = TwoRanks(second)
    first.reduce(strategy)
    assert first.read() == pytest.approx(together.read(), rel=1e-5)


def summed(names: tuple[str, ...], nats: list[float], counts: list[int]) -> LossTerms:
    """Loss terms with these sums by modality; the others do not matter."""
    nothing, sums, numbers = torch.zeros(()), torch.tensor(nats), torch.tensor(counts)
    means = {"by_modality": sums / numbers, "in_modality": sums / numbers}
    return LossTerms(
        names, nothing, nothing, nll_sums=sums, counts=numbers, log_z=nothing, nll=nothing, **means
    )


def test_a_large_set_is_counted_exactly(vocab: SharedVocab, text_tokenizer: TextTokenizer):
    """float32 stops counting at 2^24."""
    rates = Rates(NAMES, text_bytes(text_tokenizer, vocab), UNITS)
    for count, nats in ((2**24, 2.0**24), (1, 1000.0), (1, 1000.0), (1, 1000.0)):
        rates.add(summed(NAMES, [0.0, 0.0, nats], [0, 0, count]), torch.full((1, 1), -100))
    figures = rates.read()
    mean = (2**24 + 3000) / (2**24 + 3)
    assert figures["perplexity/image"] == pytest.approx(math.exp(mean), rel=1e-12)
    assert figures["in_modality_perplexity/image"] == pytest.approx(math.exp(mean), rel=1e-12)
    assert figures["bits_per_pixel"] == pytest.approx(mean / math.log(2) / PIXELS, rel=1e-12)


def test_another_modality_has_bits_per_position(vocab: SharedVocab, text_tokenizer: TextTokenizer):
    """Four codes at each position of audio; modalities in any order."""
    units = {**UNITS, "audio": Unit("bits_per_position/audio", 1 / 4)}
    rates = Rates(("structure", "audio", "text", "image"), text_bytes(text_tokenizer, vocab), units)
    word = vocab.to_tokens("text", torch.tensor(text_tokenizer.encode("apple")))[None]
    counts = [5, 24, word.numel(), 6]
    rates.add(summed(rates.names, [1.0, 12.0, 3.0, 9.0], counts), word)
    figures = rates.read()
    assert figures["bits_per_position/audio"] == pytest.approx(12 / math.log(2) / 6)
    assert figures["bits_per_pixel"] == pytest.approx(9 / math.log(2) / (6 * PIXELS))
    assert figures["bits_per_byte"] == pytest.approx(3 / math.log(2) / 5)
    assert figures["perplexity/audio"] == pytest.approx(math.exp(12 / 24))
    assert len(figures) == 3 + 2 * 4
