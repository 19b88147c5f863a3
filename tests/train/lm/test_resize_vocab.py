"""A transformer for another vocabulary: what means the same keeps its rows, and so its logits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from earlyfusion.fusion_lm.folder import save_model
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.documents import DocumentTokenizer
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.same_tokens import kept_tokens, same_tokens
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.resize_vocab import resized
from earlyfusion.train.lm.settings import LMSettings

CONFIG = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=32, codebook_dim=4)


def tokenizer(sentences: list[str], size: int, image: ImageTokenizer, grid: int, **more) -> DocumentTokenizer:
    text = TextTokenizer.train(sentences, vocab_size=size, threads=1)
    vocab = SharedVocab.build(text=text, codebook_size=image.codebook_size, max_grid=grid, **more)
    return DocumentTokenizer(vocab, text=text, image=image)


@pytest.fixture
def old() -> DocumentTokenizer:
    torch.manual_seed(0)
    return tokenizer(["The cat sees two birds."] * 30, 290, ImageTokenizer(CONFIG).eval(), 8)


@pytest.fixture
def new(old: DocumentTokenizer) -> DocumentTokenizer:
    """More words, a separator, larger images, and twice the codes: the old ones come first."""
    torch.manual_seed(1)
    config = ImageTokenizerConfig(**{**CONFIG.__dict__, "codebook_size": 64})
    image = ImageTokenizer(config).eval()
    state = image.state_dict()
    for name, value in old.image.state_dict().items():
        if state[name].shape == value.shape:
            state[name] = value
        else:  # the codebook and its statistics
            axis = next(n for n, size in enumerate(value.shape) if size == 32)
            state[name].narrow(axis, 0, 32).copy_(value)
    image.load_state_dict(state)
    sentences = ["The cat sees two birds.", "A green house, where cats see birds."] * 30
    return tokenizer(sentences, 330, image, 12, separator=True)


def network(vocab: SharedVocab, **more) -> FusionLM:
    torch.manual_seed(2)
    config = FusionLMConfig(
        vocab_size=vocab.size, context_length=64, n_layers=1, width=32, ffn_width=48, **more
    )
    net = FusionLM(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return net


@pytest.mark.parametrize("tied", [False, True])
def test_documents_of_the_old_tokens_have_the_old_logits(old, new, tied: bool):
    net = network(old.vocab, tie_embeddings=tied)
    larger, count = resized(net, old, new)
    kept = kept_tokens(old, new)
    assert larger.config.vocab_size == new.vocab.size
    assert count == int((kept >= 0).sum())
    places = (kept >= 0).nonzero().flatten()
    assert kept[places].unique().numel() == count  # none is taken twice
    generator = torch.Generator().manual_seed(3)
    drawn = places[torch.randint(len(places), (2, 20), generator=generator)]
    with torch.no_grad():
        torch.testing.assert_close(larger(drawn)[..., places], net(kept[drawn])[..., kept[places]])


def test_what_means_the_same(old: DocumentTokenizer, new: DocumentTokenizer):
    kept = kept_tokens(old, new)
    assert [kept[token] for token in (new.vocab.bos, new.vocab.eos, new.vocab.layout("image").begin)] == [
        0,
        1,
        3,
    ]
    numbers = new.vocab.layout("image").numbers
    assert numbers is not None and old.vocab.layout("image").numbers is not None
    assert new.vocab.sep is not None and kept[new.vocab.sep] == -1
    grid = numbers.start
    assert (kept[grid : grid + 12] >= 0).tolist() == [True] * 8 + [False] * 4
    before = {old.text.id_to_piece(i) for i in range(old.text.vocab_size)}
    shared = [i for i in new.text.encode("The cat sees") if new.text.id_to_piece(i) in before]
    for i in shared:
        token = kept[new.vocab.to_tokens("text", torch.tensor([i]))]
        piece = old.text.id_to_piece(int(old.vocab.to_codes("text", token)))
        assert piece == new.text.id_to_piece(i)
    assert shared
    codes = kept[new.vocab.ids_to_tokens("image", torch.arange(64))]
    assert (codes[:32] == old.vocab.ids_to_tokens("image", torch.arange(32))).all()
    assert (codes[32:] == -1).all()


def test_new_pieces_begin_with_the_mean_of_their_old_ones(old: DocumentTokenizer, new: DocumentTokenizer):
    net = network(old.vocab)
    larger, _ = resized(net, old, new)
    kept = kept_tokens(old, new)
    found = 0
    for i in range(new.text.vocab_size):
        word = new.text.piece_bytes(i)
        if i in new.text.structural_ids or len(word) < 2:
            continue
        token = new.vocab.to_tokens("text", torch.tensor([i]))
        if kept[token] == -1:
            ids = torch.tensor(old.text.encode(word.decode()))
            rows = net.embedding.weight[old.vocab.to_tokens("text", ids)]
            torch.testing.assert_close(larger.embedding.weight[token[0]], rows.mean(dim=0))
            found += 1
    assert found > 3
    code = new.vocab.ids_to_tokens("image", torch.tensor([40]))
    nearest = (new.image.codebook[:32] - new.image.codebook[40]).square().sum(1).argmin()
    row = net.embedding.weight[old.vocab.ids_to_tokens("image", nearest[None])]
    torch.testing.assert_close(larger.embedding.weight[code], row)


def test_another_decoder_is_no_other_tokenizer(old: DocumentTokenizer, tmp_path: Path, capsys):
    net = network(old.vocab)
    save_model(tmp_path / "model", net, old)
    larger = ImageTokenizer(replace(CONFIG, decoder_channels=(16, 24))).eval()
    state = {k: v for k, v in old.image.state_dict().items() if not k.startswith("decoder.")}
    larger.load_state_dict({**larger.state_dict(), **state})
    DocumentTokenizer(old.vocab, text=old.text, image=larger).save(tmp_path / "tokenizer")
    assert same_tokens(tmp_path / "tokenizer", tmp_path / "model" / "tokenizer")
    module = FusionLMTraining(
        LMSettings(tokenizer=str(tmp_path / "tokenizer"), init_from=str(tmp_path / "model"), max_steps=1)
    )
    assert capsys.readouterr().out == ""
    for name, weight in net.state_dict().items():
        assert torch.equal(module.net.state_dict()[name], weight)
    modalities = tuple(
        replace(one, layout=one.layout and replace(one.layout, scan="columns"))
        for one in old.vocab.modalities
    )
    turned = replace(old.vocab, modalities=modalities)  # the same numbers, read in another order
    DocumentTokenizer(turned, text=old.text, image=old.image).save(tmp_path / "turned")
    assert not same_tokens(tmp_path / "turned", tmp_path / "model" / "tokenizer")


def test_a_training_begins_with_the_weights_of_another_vocabulary(old, new, tmp_path: Path, capsys):
    net = network(old.vocab)
    save_model(tmp_path / "model", net, old)
    new.save(tmp_path / "tokenizer")
    module = FusionLMTraining(
        LMSettings(tokenizer=str(tmp_path / "tokenizer"), init_from=str(tmp_path / "model"), max_steps=1)
    )
    count = int((kept_tokens(old, new) >= 0).sum())
    assert f"{count} of its {old.vocab.size} tokens keep their rows" in capsys.readouterr().out
    assert module.config.vocab_size == new.vocab.size
    for name, weight in net.blocks.state_dict().items():
        assert torch.equal(module.net.blocks.state_dict()[name], weight)
    # A model whose file is in float16 grows in float32.
    save_model(tmp_path / "half", net.half(), old)
    half = FusionLMTraining(
        LMSettings(tokenizer=str(tmp_path / "tokenizer"), init_from=str(tmp_path / "half"), max_steps=1)
    )
    assert {p.dtype for p in half.net.parameters()} == {torch.float32}
    rows = kept_tokens(old, new) >= 0
    half_rows, whole_rows = (m.net.embedding.weight[rows] for m in (half, module))
    torch.testing.assert_close(half_rows, whole_rows, atol=1e-3, rtol=1e-3)
    # Of another image tokenizer of the same size no code means what it meant.
    torch.manual_seed(7)
    other = DocumentTokenizer(old.vocab, text=old.text, image=ImageTokenizer(CONFIG).eval())
    assert int((kept_tokens(old, other) >= 0).sum()) == old.vocab.size - 32
