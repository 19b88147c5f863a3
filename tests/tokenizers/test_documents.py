import shutil

import pytest
import torch
from PIL import Image

from earlyfusion.tokenizers.documents import DocumentTokenizer, Part, interleave, split
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.pixels import to_pil, to_tensor
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab

# bos 0, eos 1, pad 2, begin_image 3, end_image 4, "1" to "4" at 5..8, text ids 1..9 at 9..17, codes at 18..25
VOCAB = SharedVocab.build(text=(10, (0,)), codebook_size=8, max_grid=4)
FIXED = SharedVocab.build(text=(10, (0,)), codebook_size=8, fixed_grid=(2, 3))
# two codes per position: those of slot 0 at 18..25, of slot 1 at 26..33
PAIRS = SharedVocab.build(text=(10, (0,)), codebook_size=8, max_grid=4, codes_per_position=2)
WIDE = torch.tensor([[0, 1, 2], [7, 6, 5]])
TALL = torch.tensor([[3], [4]])


def text(*ids: int) -> Part:
    return Part("text", torch.tensor(ids, dtype=torch.int64))


def image(codes: torch.Tensor) -> Part:
    return Part("image", codes)


def same(parts, others) -> bool:
    return [p[0] for p in parts] == [p[0] for p in others] and all(
        torch.equal(p[1], other[1]) for p, other in zip(parts, others)
    )


def test_the_stream() -> None:
    tokens = interleave([("text", torch.tensor([1, 9])), ("image", WIDE), ("text", torch.tensor([2]))], VOCAB)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [0, 9, 17, 3, 6, 7, 18, 19, 20, 25, 24, 23, 4, 10, 1]


def test_a_fixed_grid_is_not_written() -> None:
    tokens = interleave([("image", WIDE)], FIXED)
    assert tokens.tolist() == [0, 3, *(FIXED.to_tokens("image", WIDE).flatten().tolist()), 4, 1]
    assert same(split(tokens, FIXED), [image(WIDE)])


def test_the_codes_of_a_position_are_adjacent_in_slot_order() -> None:
    """The example in the docstring of ``layout``."""
    codes = torch.stack([WIDE, torch.tensor([[3, 3, 3], [0, 1, 2]])], dim=-1)  # (2, 3, 2)
    by_rows = [0, 3, 6, 7, 18, 29, 19, 29, 20, 29, 25, 26, 24, 27, 23, 28, 4, 1]
    by_columns = [0, 3, 6, 7, 18, 29, 25, 26, 19, 29, 24, 27, 20, 29, 23, 28, 4, 1]
    columns = SharedVocab.build(
        text=(10, (0,)), codebook_size=8, max_grid=4, codes_per_position=2, scan="columns"
    )
    assert interleave([("image", codes)], PAIRS).tolist() == by_rows
    assert interleave([("image", codes)], columns).tolist() == by_columns
    example = torch.tensor([[[0, 1], [2, 3]]])  # A0 A1, B0 B1
    assert interleave([("image", example)], PAIRS, bos=False, eos=False).tolist() == [
        *(PAIRS.layout("image").begin, 5, 6, 18, 27, 20, 29, PAIRS.layout("image").end)
    ]


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("scan", ["rows", "columns"])
@pytest.mark.parametrize("fixed_grid", [None, (2, 3)])
def test_codes_come_back(n: int, scan, fixed_grid: tuple[int, int] | None) -> None:
    vocab = SharedVocab.build(
        text=(10, (0,)), codebook_size=8, max_grid=4, fixed_grid=fixed_grid, scan=scan, codes_per_position=n
    )
    generator = torch.Generator().manual_seed(n)
    grids = [fixed_grid] * 3 if fixed_grid else [(2, 3), (1, 1), (4, 2)]
    images = [image(torch.randint(8, (*g, n) if n > 1 else g, generator=generator)) for g in grids]
    parts = [text(1, 2), images[0], images[1], text(3), images[2]]
    tokens = interleave(parts, vocab)
    written = 2 if fixed_grid else 4
    assert len(tokens) == 2 + 3 + sum(written + part.values.numel() for part in images)
    assert same(split(tokens, vocab), parts)
    kept = split(tokens[:-2], vocab, partial="drop")  # the last image lacks its end
    assert same(kept, parts[:-1])
    cut = interleave([images[0]], vocab, eos=False)
    for end in range(2, len(cut)):
        assert split(cut[:end], vocab, partial="drop") == []
        with pytest.raises(ValueError, match=f"token 1 is cut short.* {end}"):
            split(cut[:end], vocab)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [text(1, 2, 3)],
        [image(WIDE)],
        [image(WIDE), image(TALL), image(WIDE.T)],
        [text(5), image(TALL), text(6, 7), image(WIDE), image(TALL), text(8)],
    ],
    ids=["nothing", "text", "image", "images", "both"],
)
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("padding", [0, 3])
def test_split_undoes_interleave(parts, bos: bool, eos: bool, padding: int) -> None:
    tokens = interleave(parts, VOCAB, bos=bos, eos=eos)
    tokens = torch.cat([tokens, torch.full((padding,), VOCAB.pad)])
    assert same(split(tokens, VOCAB), parts)


@pytest.mark.parametrize("vocab", [VOCAB, FIXED], ids=["grids", "fixed grid"])
@pytest.mark.parametrize("eos", [True, False])
def test_a_document_may_end_anywhere(vocab: SharedVocab, eos: bool) -> None:
    parts = [text(1, 2), image(WIDE), text(3), image(WIDE)]
    tokens = interleave(parts, vocab, eos=False)
    image_length = 2 + WIDE.numel() + (0 if vocab.layout("image").shape else 2)
    cuts_of_first = range(3 + 1, 3 + image_length)
    cuts_of_second = range(len(tokens) - image_length + 1, len(tokens))
    for cut in range(1, len(tokens) + 1):
        cut_tokens = torch.cat([tokens[:cut], torch.tensor([vocab.eos] if eos else [], dtype=torch.int64)])
        inside = cut in cuts_of_first or cut in cuts_of_second
        if inside:
            with pytest.raises(ValueError, match=f"cut short.* {cut}"):
                split(cut_tokens, vocab)
        kept = split(cut_tokens, vocab, partial="drop")
        if cut in cuts_of_first:
            assert same(kept, parts[:1])
        elif cut in cuts_of_second:
            assert same(kept, parts[:3])
        else:
            assert same(split(cut_tokens, vocab), kept)


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([0, 4, 1], "token 4 at position 1"),
        ([0, 18], "token 18 at position 1"),
        ([9, 5], "token 5 at position 1"),
        ([9, 0], "token 0 at position 1"),
        ([9, 2, 9], "token 2 at position 1"),
        ([9, 1, 9], "token 1 at position 1"),
        ([9, 1, 1], "token 1 at position 1"),
        ([0, 3, 9], "image at token 1 does not begin with its size"),
        ([0, 3, 5, 18, 18], "image at token 1 does not begin with its size"),
        ([0, 3, 5, 6, 18, 9, 4], "image at token 1 has 1 x 2 codes, but token 9 at position 5 is not a code"),
        ([0, 3, 5, 6, 18, 4], "image at token 1 has 1 x 2 codes, but token 4 at position 5 is not a code"),
        ([0, 3, 5, 6, 18, 19, 20, 4], "image at token 1 does not end after its 1 x 2 codes"),
        ([0, 26], r"token 26 is outside 0\.\.25"),
    ],
)
def test_malformed_documents(tokens: list[int], message: str) -> None:
    for partial in ("error", "drop"):
        with pytest.raises(ValueError, match=message):
            split(torch.tensor(tokens), VOCAB, partial=partial)


@pytest.mark.parametrize(
    "tokens, message",
    [
        (
            [0, 3, 5, 5, 26],
            "image at token 1 has 1 x 1 x 2 codes, but token 26 at position 4 is not a code of slot 0",
        ),
        ([0, 3, 5, 6, 18, 26, 19, 19, 4], "token 19 at position 7 is not a code of slot 1"),
        ([0, 3, 5, 5, 18, 4], "token 4 at position 5 is not a code of slot 1"),
        ([0, 3, 5, 5, 18, 26, 18, 26, 4], "image at token 1 does not end after its 1 x 1 x 2 codes"),
    ],
)
def test_codes_in_other_slots(tokens: list[int], message: str) -> None:
    for partial in ("error", "drop"):
        with pytest.raises(ValueError, match=message):
            split(torch.tensor(tokens), PAIRS, partial=partial)


def test_arguments_of_split() -> None:
    assert split(torch.empty(0, dtype=torch.int64), VOCAB) == []
    with pytest.raises(ValueError, match=r"expected one document \(T,\)"):
        split(torch.zeros(1, 3, dtype=torch.int64), VOCAB)
    with pytest.raises(ValueError, match="partial is 'keep', expected 'error' or 'drop'"):
        split(torch.tensor([0]), VOCAB, partial="keep")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "part, vocab, message",
    [
        (("image", torch.zeros(2, 5, dtype=torch.int64)), VOCAB, "image: .*2 x 5.* 4 x 4"),
        (("image", TALL), FIXED, "image: .*2 x 1.* 2 x 3"),
        (("image", torch.zeros(4)), VOCAB, r"image .*\(4,\).*\(rows, columns\)"),
        (("image", torch.zeros(0, 4)), VOCAB, r"image .*\(0, 4\)"),
        (("image", TALL + 4), VOCAB, "image code 8"),
        (("image", WIDE[..., None]), VOCAB, r"image .*\(2, 3, 1\).*\(rows, columns\)"),
        (("image", WIDE), PAIRS, r"image .*\(2, 3\).*\(rows, columns, 2\)"),
        (("image", WIDE[..., None]), PAIRS, r"image .*\(2, 3, 1\).*\(rows, columns, 2\)"),
        (("image", (TALL + 4)[..., None].expand(2, 1, 2)), PAIRS, "image code 8 of slot 0"),
        (("text", torch.tensor([0])), VOCAB, "text id 0"),
        (("sound", torch.tensor([0])), VOCAB, "'sound'.*text, image"),
        (("turn", torch.tensor([0])), VOCAB, "turn.*separator"),
    ],
)
def test_interleave_errors(part, vocab: SharedVocab, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interleave([part], vocab)


def test_documents_come_back(document_tokenizer: DocumentTokenizer, photo: Image.Image) -> None:
    small = photo.crop((0, 0, 16, 8))
    tokens = document_tokenizer.encode(["A red ", "apple:", photo, small, "", "\u2581 \0 <image>"]).tokens
    first, big, little, last = document_tokenizer.decode(tokens)
    assert (first, last) == ("A red apple:", "\u2581 \0 <image>")
    assert isinstance(big, torch.Tensor) and isinstance(little, torch.Tensor)
    assert big.shape == (3, 32, 48) and little.shape == (3, 8, 16)
    assert -1 <= big.min() and big.max() <= 1

    model = document_tokenizer.image
    with torch.no_grad():
        for source, decoded in ((photo, big), (small, little)):
            codes = model.encode(to_tensor(source)[None])
            torch.testing.assert_close(decoded, model.decode(codes)[0])
            assert any(torch.equal(part[1], codes[0]) for part in split(tokens, document_tokenizer.vocab))


@pytest.fixture
def grouped(text_tokenizer: TextTokenizer) -> DocumentTokenizer:
    """Two codes per position, each of 16."""
    config = ImageTokenizerConfig(
        stem=4, channels=(8, 16), res_blocks=1, codebook_size=16, codebook_dim=4, groups=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = ImageTokenizer(config).eval()
    vocab = SharedVocab.build(text=text_tokenizer, codebook_size=16, max_grid=16, codes_per_position=2)
    return DocumentTokenizer(vocab, text=text_tokenizer, image=image)


def test_documents_with_several_codes_per_position(
    grouped: DocumentTokenizer, photo: Image.Image, tmp_path
) -> None:
    small = photo.crop((0, 0, 16, 8))
    grouped.save(tmp_path)
    loaded = DocumentTokenizer.load(tmp_path)
    assert loaded.vocab == grouped.vocab
    tokens = loaded.encode(["A red apple:", photo, small, " then"]).tokens
    first, big, little, last = loaded.decode(tokens)
    assert (first, last) == ("A red apple:", " then")
    codes = [part[1] for part in split(tokens, loaded.vocab) if part[0] == "image"]
    assert [tuple(c.shape) for c in codes] == [(4, 6, 2), (1, 2, 2)]
    for source, decoded, one in ((photo, big, codes[0]), (small, little, codes[1])):
        assert torch.equal(grouped.image.encode(to_tensor(source)[None])[0], one)
        torch.testing.assert_close(decoded, grouped.image.decode(one[None])[0])


def test_a_vocabulary_of_other_slots_is_refused(grouped: DocumentTokenizer) -> None:
    single = SharedVocab.build(text=grouped.text, codebook_size=16)
    with pytest.raises(ValueError, match="image .*codes_per_position 2.* 1"):
        DocumentTokenizer(single, text=grouped.text, image=grouped.image)
    large = SharedVocab.build(text=grouped.text, codebook_size=32, codes_per_position=2)
    with pytest.raises(ValueError, match="image .*codebook_size 16.* 32"):
        DocumentTokenizer(large, text=grouped.text, image=grouped.image)


def test_adjacent_strings_are_one_text(document_tokenizer: DocumentTokenizer) -> None:
    whole = document_tokenizer.encode(["the picture"]).tokens
    assert torch.equal(document_tokenizer.encode(["", "the pi", "", "cture", ""]).tokens, whole)
    assert document_tokenizer.decode(whole) == ["the picture"]


def test_empty_documents(document_tokenizer: DocumentTokenizer) -> None:
    vocab = document_tokenizer.vocab
    for segments in ([], [""], ["", ""]):
        assert document_tokenizer.encode(segments).tokens.tolist() == [vocab.bos, vocab.eos]
        assert document_tokenizer.encode(segments, bos=False, eos=False).tokens.tolist() == []
    assert document_tokenizer.decode(torch.tensor([vocab.bos, vocab.eos])) == []


def test_no_text_becomes_structure(document_tokenizer: DocumentTokenizer) -> None:
    typed = "<image></image><bos><s></s><eos><pad><unk><|begin_image|>IMGIMGAZ<0x03>\x00\x03\x04"
    tokens = document_tokenizer.encode([typed], bos=False, eos=False).tokens
    assert document_tokenizer.vocab.is_text(tokens).all()
    assert document_tokenizer.decode(tokens) == [typed]


def test_image_batches_give_the_codes_of_single_images(document_tokenizer: DocumentTokenizer) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(16, 24), (8, 8), (16, 24), (8, 8), (24, 16)]
    images = [torch.rand(3, *size, generator=generator) * 2 - 1 for size in sizes]
    together = document_tokenizer.encode_inputs("image", images)
    assert [tuple(codes.shape) for codes in together] == [
        (height // 8, width // 8) for height, width in sizes
    ]
    for pixels, codes in zip(images, together):
        assert codes.dtype == torch.int64
        assert torch.equal(codes, document_tokenizer.encode_inputs("image", [pixels])[0])
    assert document_tokenizer.encode_inputs("image", []) == []


def test_images_of_any_size_and_mode_are_fitted(document_tokenizer: DocumentTokenizer, photo) -> None:
    def grid(segment, **options) -> tuple[int, ...]:
        (part,) = split(
            document_tokenizer.encode([segment], options={"image": options}).tokens, document_tokenizer.vocab
        )
        return tuple(part[1].shape)

    odd = photo.resize((45, 27))
    assert grid(odd) == (3, 6)
    assert grid(odd, policy="pad") == (4, 6)
    assert grid(odd.convert("RGBA")) == grid(odd.convert("CMYK")) == grid(to_tensor(odd)) == (3, 6)
    assert grid(odd, max_side=32) == (2, 4)
    assert grid(photo.resize((480, 320))) == (11, 16)  # the vocabulary's largest grid is 16 x 16
    assert grid(to_tensor(photo.resize((480, 320)))) == (11, 16)
    with pytest.raises(ValueError, match="policy is 'crop'"):
        grid(odd, policy="crop")


def test_tensors_that_fit_are_taken_as_they_are(document_tokenizer: DocumentTokenizer, photo) -> None:
    pixels = to_tensor(photo)
    assert torch.equal(
        document_tokenizer.encode([pixels]).tokens, document_tokenizer.encode([to_pil(pixels)]).tokens
    )


@pytest.mark.parametrize(
    "segment, message",
    [
        (None, "NoneType.*string, image"),
        (torch.zeros(1, 16, 16), r"expected \(3, H, W\)"),
        (torch.zeros(1, 3, 16, 16), r"expected \(3, H, W\)"),
        (torch.zeros(3, 0, 16), "no pixels"),
        ("a\ud800", "lone surrogate"),
        (Image.new("F", (8, 8)), "floating-point"),
    ],
)
def test_bad_segments(document_tokenizer: DocumentTokenizer, segment, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        document_tokenizer.encode(["text", segment])


def test_text_tokens_that_are_not_utf8_together(document_tokenizer: DocumentTokenizer) -> None:
    tokens = document_tokenizer.encode(["é"]).tokens
    assert document_tokenizer.decode(tokens[:2]) == ["\ufffd"]


def test_save_and_load(document_tokenizer: DocumentTokenizer, photo: Image.Image, tmp_path) -> None:
    folder = tmp_path / "runs" / "tokenizer"
    document_tokenizer.save(folder)
    document_tokenizer.save(folder)  # over itself
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"vocab.json", "text.model", "image/config.json", "image/model.safetensors"}
    loaded = DocumentTokenizer.load(folder)
    tokens = loaded.encode(["A red apple:", photo]).tokens
    assert torch.equal(tokens, document_tokenizer.encode(["A red apple:", photo]).tokens)
    words, picture = loaded.decode(tokens)
    assert words == "A red apple:"
    assert torch.equal(torch.as_tensor(picture), torch.as_tensor(document_tokenizer.decode(tokens)[1]))


@pytest.mark.parametrize("name", ["vocab.json", "text.model", "image/config.json", "image/model.safetensors"])
def test_load_names_the_missing_file(document_tokenizer: DocumentTokenizer, tmp_path, name: str) -> None:
    document_tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.split("/")[-1]):
        DocumentTokenizer.load(tmp_path / "tokenizer")


def test_load_refuses_parts_of_different_models(document_tokenizer: DocumentTokenizer, tmp_path) -> None:
    document_tokenizer.save(tmp_path / "tokenizer")
    text = document_tokenizer.text
    SharedVocab.build(text=text, codebook_size=33).save(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="tokenizer: .*image .*codebook_size 32.* 33"):
        DocumentTokenizer.load(tmp_path / "tokenizer")
    document_tokenizer.vocab.save(tmp_path / "tokenizer")
    TextTokenizer.train(["other words"] * 9, vocab_size=280).save(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="tokenizer: .*text tokenizer"):
        DocumentTokenizer.load(tmp_path / "tokenizer")
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(FileNotFoundError, match="vocab.json not found"):
        DocumentTokenizer.load(tmp_path / "tokenizer")
