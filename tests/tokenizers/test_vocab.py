import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import IMAGE, STRUCTURE, TEXT, Grid, Range, SharedVocab

# bos 0, eos 1, pad 2, begin 3, end 4; "1" to "3" at 5..7; text ids 0, 2, 3, 5 at 8..11; codes 0..3 at 12..15
SMALL = SharedVocab.build(text=(6, (1, 4)), codebook_size=4, max_grid=3)

# The layout of Meta's Chameleon: the codes stand among structure and text, and all images are 32 x 32 codes.
CHAMELEON = SharedVocab(
    size=65536,
    bos=0,
    pad=1,
    eos=2,
    end_image=8196,
    begin_image=8197,
    image=(Range(4, 0, 8192),),
    text=(Range(3, 3, 1), Range(8198, 8198, 65536 - 8198)),
    fixed_grid=(32, 32),
)

# Two slots of three codes. In ODD, as others may have it: three ranges whose borders are not the slots'.
PAIRS = SharedVocab.build(text=(6, (1, 4)), codebook_size=3, max_grid=3, codes_per_position=2)
ODD = replace(PAIRS, size=25, image=(Range(13, 0, 1), Range(15, 1, 4), Range(24, 5, 1)))


def test_layout_of_build() -> None:
    assert [SMALL.bos, SMALL.eos, SMALL.pad, SMALL.begin_image, SMALL.end_image] == [0, 1, 2, 3, 4]
    assert SMALL.grid == Grid(start=5, count=3)
    assert SMALL.text == (Range(8, 0, 1), Range(9, 2, 2), Range(11, 5, 1))
    assert SMALL.image == (Range(12, 0, 4),)
    assert (SMALL.size, SMALL.text_vocab_size, SMALL.codebook_size) == (16, 6, 4)
    expected = [STRUCTURE] * 8 + [TEXT] * 4 + [IMAGE] * 4
    assert SMALL.modality(torch.arange(16)).tolist() == expected


def test_build_for_a_tokenizer(text_tokenizer: TextTokenizer) -> None:
    vocab = SharedVocab.build(text=text_tokenizer, codebook_size=512)
    assert vocab.size == 5 + 64 + (text_tokenizer.vocab_size - 1) + 512
    assert vocab.text_vocab_size == text_tokenizer.vocab_size
    ids = torch.tensor(text_tokenizer.encode("<image> \0 \u2581 A red apple"))
    assert torch.equal(vocab.tokens_to_text(vocab.text_to_tokens(ids)), ids)
    assert vocab.is_text(vocab.text_to_tokens(ids)).all()


def test_fixed_grid_takes_no_tokens() -> None:
    vocab = SharedVocab.build(text=(6, (0,)), codebook_size=4, fixed_grid=(2, 8))
    assert (vocab.grid, vocab.fixed_grid, vocab.size) == (None, (2, 8), 5 + 5 + 4)
    assert not vocab.is_grid(torch.arange(vocab.size)).any()
    assert not vocab.mask("grid").any()


def test_a_separator_is_structure_of_its_own(tmp_path: Path) -> None:
    vocab = SharedVocab.build(text=(6, (0,)), codebook_size=4, max_grid=3, separator=True)
    assert (vocab.sep, vocab.grid, vocab.size) == (5, (6, 3), 6 + 3 + 5 + 4)
    assert vocab.roles["sep"] == 5 and "sep" not in SMALL.roles
    assert int(vocab.modality(torch.tensor(5))) == STRUCTURE
    assert vocab.mask("sep").nonzero().tolist() == [[5]] and not SMALL.mask("sep").any()
    vocab.save(tmp_path)
    assert SharedVocab.load(tmp_path) == vocab
    with pytest.raises(ValueError, match="(sep and text|text and sep) both hold token 9"):
        replace(vocab, sep=9)


@pytest.mark.parametrize("vocab", [SMALL, CHAMELEON], ids=["small", "Chameleon"])
def test_round_trips(vocab: SharedVocab) -> None:
    codes = torch.arange(vocab.codebook_size).view(2, -1)
    tokens = vocab.codes_to_tokens(codes)
    assert tokens.shape == codes.shape and tokens.dtype == torch.int64
    assert torch.equal(vocab.tokens_to_codes(tokens), codes)
    assert (tokens.flatten().diff() > 0).all()

    everything = torch.arange(vocab.size)
    text = everything[vocab.is_text(everything)]
    ids = vocab.tokens_to_text(text)
    assert torch.equal(vocab.text_to_tokens(ids), text)
    assert (ids.diff() > 0).all()
    assert not (vocab.is_text(everything) & vocab.is_image(everything)).any()


def test_each_slot_has_its_own_tokens() -> None:
    assert PAIRS.image == (Range(12, 0, 6),)
    assert (PAIRS.size, PAIRS.codebook_size, PAIRS.codes_per_position) == (18, 3, 2)
    assert PAIRS.codes_to_tokens(torch.tensor([[0, 0], [2, 1]])).tolist() == [[12, 15], [14, 16]]
    assert ODD.codes_to_tokens(torch.tensor([[0, 0], [1, 1], [2, 2]])).tolist() == [
        [13, 17],
        [15, 18],
        [16, 24],
    ]
    assert ODD.slot(torch.arange(12, 25)).tolist() == [-1, 0, -1, 0, 0, 1, 1, -1, -1, -1, -1, -1, 1]
    assert ODD.mask("image", slot=0).nonzero()[:, 0].tolist() == [13, 15, 16]
    assert ODD.mask("image", slot=1).nonzero()[:, 0].tolist() == [17, 18, 24]
    assert torch.equal(SMALL.mask("image", slot=0), SMALL.mask("image"))
    assert SMALL.slot(torch.tensor([[11, 12], [15, 0]])).tolist() == [[-1, 0], [0, -1]]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_slots_round_trip(n: int) -> None:
    vocab = SharedVocab.build(text=(6, (0,)), codebook_size=5, codes_per_position=n)
    codes = torch.randint(5, (3, 2, 4, n), generator=torch.Generator().manual_seed(0))
    codes = codes[..., 0] if n == 1 else codes
    tokens = vocab.codes_to_tokens(codes)
    assert tokens.shape == codes.shape and torch.equal(vocab.tokens_to_codes(tokens), codes)
    ids = vocab.tokens_to_image_ids(tokens)
    assert torch.equal(ids, codes if n == 1 else codes + 5 * torch.arange(n))
    assert torch.equal(vocab.image_ids_to_tokens(ids), tokens)
    everything = vocab.image_ids_to_tokens(torch.arange(5 * n))
    assert torch.equal(everything, vocab.mask("image").nonzero()[:, 0])
    assert torch.stack([vocab.mask("image", slot) for slot in range(n)]).sum(0).equal(vocab.mask("image"))


@pytest.mark.parametrize(
    "method, values, message",
    [
        ("codes_to_tokens", [[0, 3]], "image code 3 of slot 1 has no token"),  # nor that of the next slot
        ("codes_to_tokens", [[3, 0]], "image code 3 of slot 0 has no token"),
        ("codes_to_tokens", [[2, -1]], "image code -1 of slot 1 has no token"),
        ("codes_to_tokens", [0, 1, 2], r"codes have the shape \(3,\), expected \(..., 2\): .* 2 codes per"),
        ("codes_to_tokens", 1, r"codes have the shape \(\), expected \(..., 2\)"),
        ("tokens_to_codes", [[12, 13]], "token 13 is not an image code of slot 1"),
        ("tokens_to_codes", [[12, 15], [15, 15]], "token 15 is not an image code of slot 0"),
        ("tokens_to_codes", [[11, 15]], "token 11 is not an image code of slot 0"),
        ("tokens_to_codes", [12], r"tokens have the shape \(1,\), expected \(..., 2\)"),
        ("image_ids_to_tokens", [6], "image code 6 has no token"),
        ("tokens_to_image_ids", [11], "token 11 is not an image code"),
        ("slot", [18], r"token 18 is outside 0\.\.17"),
    ],
)
def test_slots_out_of_range(method: str, values: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(PAIRS, method)(torch.tensor(values))


@pytest.mark.parametrize("role, slot", [("image", 2), ("image", -1), ("text", 0)])
def test_masks_of_other_slots(role: str, slot: int) -> None:
    with pytest.raises(
        ValueError, match=f"slot is {slot} of role '{role}', expected one of 0..1 of role 'image'"
    ):
        PAIRS.mask(role, slot)


def test_masks_are_disjoint_and_agree_with_modality() -> None:
    roles = ["text", "image", "grid", "bos", "eos", "pad", "begin_image", "end_image"]
    masks = torch.stack([SMALL.mask(role) for role in roles])
    assert masks.shape == (8, SMALL.size) and masks.dtype == torch.bool
    assert (masks.sum(0) == 1).all()
    everything = torch.arange(SMALL.size)
    assert torch.equal(SMALL.mask("text"), SMALL.is_text(everything))
    assert torch.equal(SMALL.mask("image"), SMALL.is_image(everything))
    assert torch.equal(SMALL.mask("grid"), SMALL.is_grid(everything))
    assert SMALL.mask("pad").nonzero().item() == SMALL.pad
    with pytest.raises(ValueError, match="role is 'sound', expected one of bos, eos"):
        SMALL.mask("sound")


def test_unused_tokens_are_structure() -> None:
    wide = replace(SMALL, size=20)
    assert wide.modality(torch.arange(16, 20)).tolist() == [STRUCTURE] * 4


@pytest.mark.parametrize(
    "method, bad, message",
    [
        ("text_to_tokens", 1, "text id 1 has no token"),  # structural
        ("text_to_tokens", 6, "text id 6 has no token"),
        ("text_to_tokens", -1, "text id -1 has no token"),
        ("tokens_to_text", 12, "token 12 is not text"),
        ("tokens_to_text", 5, "token 5 is not text"),
        ("codes_to_tokens", 4, "image code 4 has no token"),
        ("codes_to_tokens", -1, "image code -1 has no token"),
        ("tokens_to_codes", 11, "token 11 is not an image code"),
        ("tokens_to_codes", 16, "token 16 is not an image code"),
        ("modality", 16, r"token 16 is outside 0\.\.15"),
        ("modality", -2, r"token -2 is outside 0\.\.15"),
    ],
)
def test_out_of_range(method: str, bad: int, message: str) -> None:
    good = {
        "text_to_tokens": 5,
        "tokens_to_text": 8,
        "codes_to_tokens": 3,
        "tokens_to_codes": 12,
        "modality": 0,
    }
    with pytest.raises(ValueError, match=message):
        getattr(SMALL, method)(torch.tensor([[good[method], bad]]))


def test_integer_types_and_empty_tensors() -> None:
    for dtype in (torch.int32, torch.int16):
        assert SMALL.codes_to_tokens(torch.tensor([1], dtype=dtype)).tolist() == [13]
    assert SMALL.modality(torch.empty(0, 3, dtype=torch.int64)).shape == (0, 3)
    assert SMALL.modality(torch.tensor(8)).item() == TEXT
    for wrong in (torch.tensor([True]), torch.tensor([1], dtype=torch.uint8), torch.tensor([1.0])):
        with pytest.raises(ValueError, match="expected a tensor of int64, got torch"):
            SMALL.codes_to_tokens(wrong)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"eos": 0}, "bos and eos both hold token 0"),
        ({"pad": 9}, "pad and text both hold token 9"),
        ({"grid": (5, 4)}, "grid and text both hold token 8"),
        ({"image": (Range(11, 0, 4),)}, "text and image both hold token 11"),
        ({"size": 15}, r"tokens 0\.\.15 do not fit into size 15"),
        ({"bos": -1}, r"tokens -1\.\.15 do not fit"),
        ({"grid": None}, "exactly one of grid and fixed_grid"),
        ({"fixed_grid": (2, 2)}, "exactly one of grid and fixed_grid"),
        ({"grid": None, "fixed_grid": (0, 2)}, r"fixed_grid is \(0, 2\), expected two positive"),
        ({"grid": (5, 0)}, "grid is .* expected at least one"),
        ({"text": ()}, "expected at least one range"),
        ({"text": (Range(8, 0, 0),)}, "expected at least one range, none of them empty"),
        ({"text": (Range(8, 3, 1), Range(9, 0, 2))}, "both ascend"),
        ({"text": (Range(10, 0, 1), Range(8, 1, 2))}, "both ascend"),
        ({"image": (Range(12, 1, 3),)}, "codes from 0 on without a gap"),
        ({"image": (Range(12, 0, 1), Range(13, 2, 1))}, "codes from 0 on without a gap"),
        ({"codes_per_position": 0}, "codes_per_position is 0, expected 1 or more"),
        ({"codes_per_position": 3}, "image holds 4 ids, expected a multiple of codes_per_position, 3"),
    ],
)
def test_invalid_layouts(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_grid": 0}, "max_grid is 0"),
        ({"max_grid": None}, "max_grid is None"),
        ({"text": (6, (6,))}, r"structural_ids are \[6\], expected ids in 0\.\.5"),
        ({"codebook_size": 0}, "expected at least one range"),
        ({"codes_per_position": 0}, "codes_per_position is 0, expected 1 or more"),
        ({"text": (2, (0, 1))}, "expected at least one range"),
    ],
)
def test_invalid_build(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SharedVocab.build(**{"text": (6, (0,)), "codebook_size": 4, **options})


@pytest.mark.parametrize("vocab", [SMALL, CHAMELEON, ODD], ids=["small", "Chameleon", "slots"])
def test_save_and_load(vocab: SharedVocab, tmp_path) -> None:
    vocab.save(tmp_path)
    assert SharedVocab.load(tmp_path) == vocab
    assert hash(SharedVocab.load(tmp_path)) == hash(vocab)
    assert json.loads((tmp_path / "vocab.json").read_text())["format"] == 1
    assert pickle.loads(pickle.dumps(vocab)) == vocab


def test_files_of_earlier_versions_have_one_code_per_position(tmp_path) -> None:
    SMALL.save(tmp_path)
    path = tmp_path / "vocab.json"
    value = json.loads(path.read_text())
    assert value.pop("codes_per_position") == 1
    path.write_text(json.dumps(value))
    assert SharedVocab.load(tmp_path) == SMALL


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda value: value.update(format=99), "not in format 1"),
        (lambda value: value.pop("format"), "not in format 1"),
        (lambda value: value.pop("roles"), "not a shared vocabulary: .*roles"),
        (lambda value: value["roles"].pop("bos"), "not a shared vocabulary: .*bos"),
        (lambda value: value["roles"].update(sound=99), "not a shared vocabulary: .*sound"),
        (lambda value: value.update(text=[[8, 0, 1]]), "not a shared vocabulary"),
        (lambda value: value.update(size="16"), "not a shared vocabulary"),
        (lambda value: value.update(size=3), r"vocab\.json: tokens 0\.\.15 do not fit"),
        (
            lambda value: value.update(codes_per_position=3),
            r"vocab\.json: image holds 4 ids, expected a mult",
        ),
        (lambda value: value.update(codes_per_position="2"), "not a shared vocabulary"),
    ],
)
def test_load_refuses_what_does_not_fit(tmp_path, change, message: str) -> None:
    SMALL.save(tmp_path)
    path = tmp_path / "vocab.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message):
        SharedVocab.load(tmp_path)


def test_load_says_which_file_is_wrong(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"vocab\.json not found: a shared vocabulary"):
        SharedVocab.load(tmp_path)
    for content in ("", "{", "[1]", "\xff"):
        (tmp_path / "vocab.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=r"vocab\.json is not a shared vocabulary"):
            SharedVocab.load(tmp_path)
