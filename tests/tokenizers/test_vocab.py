import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from earlyfusion.tokenizers.layout import Layout, Numbers
from earlyfusion.tokenizers.modality import Modality, Range
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab

# bos 0, eos 1, pad 2, begin 3, end 4; "1" to "3" at 5..7; text ids 0, 2, 3, 5 at 8..11; codes 0..3 at 12..15
SMALL = SharedVocab.build(text=(6, (1, 4)), codebook_size=4, max_grid=3)

# The layout of Meta's Chameleon: the codes are between structure and text; all images have 32 x 32 codes.
CHAMELEON = SharedVocab(
    size=65536,
    bos=0,
    pad=1,
    eos=2,
    modalities=(
        Modality("text", (Range(3, 3, 1), Range(8198, 8198, 65536 - 8198))),
        Modality("image", (Range(4, 0, 8192),), Layout(8197, 8196, shape=(32, 32))),
    ),
)

# Two slots of three codes. ODD is an unusual layout: three ranges whose borders are not those of the slots.
PAIRS = SharedVocab.build(text=(6, (1, 4)), codebook_size=3, max_grid=3, codes_per_position=2)
STRUCTURE, TEXT, IMAGE = range(3)


def changed(vocab: SharedVocab, name: str, **fields) -> SharedVocab:
    """``vocab`` with other fields of a modality, or of its layout."""
    found = vocab[name]
    layout = {key: value for key, value in fields.items() if key != "ranges"}
    found = replace(found, layout=replace(found.layout, **layout) if layout else found.layout)  # type: ignore[type-var]
    found = replace(found, ranges=fields.get("ranges", found.ranges))
    return replace(vocab, modalities=tuple(found if m.name == name else m for m in vocab.modalities))


ODD = changed(replace(PAIRS, size=25), "image", ranges=(Range(13, 0, 1), Range(15, 1, 4), Range(24, 5, 1)))


def test_layout_of_build() -> None:
    assert [SMALL.bos, SMALL.eos, SMALL.pad, SMALL.layout("image").begin, SMALL.layout("image").end] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert SMALL.layout("image").numbers == Numbers(start=5, count=3)
    assert SMALL["text"].ranges == (Range(8, 0, 1), Range(9, 2, 2), Range(11, 5, 1))
    assert SMALL["image"].ranges == (Range(12, 0, 4),)
    assert (SMALL.size, SMALL["text"].n_ids, SMALL["image"].codebook_size) == (16, 6, 4)
    expected = [STRUCTURE] * 8 + [TEXT] * 4 + [IMAGE] * 4
    assert SMALL.modality(torch.arange(16)).tolist() == expected


def test_build_for_a_tokenizer(text_tokenizer: TextTokenizer) -> None:
    vocab = SharedVocab.build(text=text_tokenizer, codebook_size=512)
    assert vocab.size == 5 + 64 + (text_tokenizer.vocab_size - 1) + 512
    assert vocab["text"].n_ids == text_tokenizer.vocab_size
    ids = torch.tensor(text_tokenizer.encode("<image> \0 \u2581 A red apple"))
    assert torch.equal(vocab.to_codes("text", vocab.to_tokens("text", ids)), ids)
    assert vocab.is_text(vocab.to_tokens("text", ids)).all()


def test_fixed_grid_takes_no_tokens() -> None:
    vocab = SharedVocab.build(text=(6, (0,)), codebook_size=4, fixed_grid=(2, 8))
    assert (vocab.layout("image").numbers, vocab.layout("image").shape, vocab.size) == (
        None,
        (2, 8),
        5 + 5 + 4,
    )


def test_a_separator_is_structure_of_its_own(tmp_path: Path) -> None:
    vocab = SharedVocab.build(text=(6, (0,)), codebook_size=4, max_grid=3, separator=True)
    assert (vocab.sep, vocab.layout("image").numbers, vocab.size) == (5, (6, 3), 6 + 3 + 5 + 4)
    assert vocab.roles["sep"] == 5 and "sep" not in SMALL.roles
    assert int(vocab.modality(torch.tensor(5))) == STRUCTURE
    vocab.save(tmp_path)
    assert SharedVocab.load(tmp_path) == vocab
    with pytest.raises(ValueError, match="(sep and text|text and sep) both hold token 9"):
        replace(vocab, sep=9)


@pytest.mark.parametrize("vocab", [SMALL, CHAMELEON], ids=["small", "Chameleon"])
def test_round_trips(vocab: SharedVocab) -> None:
    codes = torch.arange(vocab["image"].codebook_size).view(2, -1)
    tokens = vocab.to_tokens("image", codes)
    assert tokens.shape == codes.shape and tokens.dtype == torch.int64
    assert torch.equal(vocab.to_codes("image", tokens), codes)
    assert (tokens.flatten().diff() > 0).all()

    everything = torch.arange(vocab.size)
    text = everything[vocab.is_text(everything)]
    ids = vocab.to_codes("text", text)
    assert torch.equal(vocab.to_tokens("text", ids), text)
    assert (ids.diff() > 0).all()
    assert not (vocab.is_text(everything) & vocab.is_("image", everything)).any()


def test_each_slot_has_its_own_tokens() -> None:
    assert PAIRS["image"].ranges == (Range(12, 0, 6),)
    assert (PAIRS.size, PAIRS["image"].codebook_size, PAIRS["image"].slots) == (18, 3, 2)
    assert PAIRS.to_tokens("image", torch.tensor([[0, 0], [2, 1]])).tolist() == [[12, 15], [14, 16]]
    assert ODD.to_tokens("image", torch.tensor([[0, 0], [1, 1], [2, 2]])).tolist() == [
        [13, 17],
        [15, 18],
        [16, 24],
    ]
    assert ODD.slot(torch.arange(12, 25), "image").tolist() == [-1, 0, -1, 0, 0, 1, 1, -1, -1, -1, -1, -1, 1]
    assert SMALL.slot(torch.tensor([[11, 12], [15, 0]]), "image").tolist() == [[-1, 0], [0, -1]]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_slots_round_trip(n: int) -> None:
    vocab = SharedVocab.build(text=(6, (0,)), codebook_size=5, codes_per_position=n)
    codes = torch.randint(5, (3, 2, 4, n), generator=torch.Generator().manual_seed(0))
    codes = codes[..., 0] if n == 1 else codes
    tokens = vocab.to_tokens("image", codes)
    assert tokens.shape == codes.shape and torch.equal(vocab.to_codes("image", tokens), codes)
    ids = vocab.tokens_to_ids("image", tokens)
    assert torch.equal(ids, codes if n == 1 else codes + 5 * torch.arange(n))
    assert torch.equal(vocab.ids_to_tokens("image", ids), tokens)
    everything = vocab.ids_to_tokens("image", torch.arange(5 * n))
    assert torch.equal(everything, vocab.is_("image", torch.arange(vocab.size)).nonzero()[:, 0])
    for slot in range(n):
        assert (vocab.slot(everything[5 * slot : 5 * slot + 5], "image") == slot).all()


@pytest.mark.parametrize(
    "method, values, message",
    [
        ("to_tokens", [[0, 3]], "code 3 of slot 1"),  # nor that of the next slot
        ("to_tokens", [[3, 0]], "code 3 of slot 0"),
        ("to_tokens", [[2, -1]], "code -1 of slot 1"),
        ("to_tokens", [0, 1, 2], r"codes .*\(3,\).*\(..., 2\)"),
        ("to_tokens", 1, r"codes .*\(\).*\(..., 2\)"),
        ("to_codes", [[12, 13]], "token 13 .*image.* slot 1"),
        ("to_codes", [[12, 15], [15, 15]], "token 15 .*image.* slot 0"),
        ("to_codes", [[11, 15]], "token 11 .*image.* slot 0"),
        ("to_codes", [12], r"tokens .*\(1,\).*\(..., 2\)"),
        ("ids_to_tokens", [6], "image code 6"),
        ("tokens_to_ids", [11], "token 11 .*image"),
    ],
)
def test_slots_out_of_range(method: str, values: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(PAIRS, method)("image", torch.tensor(values))
    with pytest.raises(ValueError, match=r"token 18 .*0\.\.17"):
        PAIRS.slot(torch.tensor([18]), "image")


def test_every_token_has_one_modality() -> None:
    everything = torch.arange(SMALL.size)
    found = torch.stack([SMALL.is_(name, everything) for name in SMALL.names])
    assert SMALL.names == ("structure", "text", "image") and (found.sum(0) == 1).all()
    assert SMALL.table().names == SMALL.names and torch.equal(
        SMALL.table().of_token, SMALL.modality(everything)
    )
    assert SMALL.is_begin(everything).nonzero().tolist() == [[3]]
    with pytest.raises(ValueError, match="'sound'.*text, image"):
        SMALL.is_("sound", everything)
    with pytest.raises(ValueError, match="text has no blocks"):
        SMALL.layout("text")


def test_more_modalities_come_behind_all_tokens() -> None:
    vocab = SMALL.extended("tones", codebook_size=4, max_size=5, codes_per_position=2)
    assert vocab.size == SMALL.size + 2 + 5 + 8 and vocab.names[3:] == ("tones",)
    assert vocab.layout("tones") == Layout(16, 17, Numbers(18, 5), axes=1, slots=2)
    assert vocab["tones"].ranges == (Range(23, 0, 8),) and vocab["image"] == SMALL["image"]
    fixed = vocab.extended("depth", codebook_size=3, shape=(2, 2), scan="columns")
    assert fixed.layout("depth") == Layout(31, 32, shape=(2, 2), scan="columns") and fixed.size == 36
    assert fixed.modality(torch.tensor([3, 8, 12, 16, 18, 23, 30, 31, 35])).tolist() == [
        0,
        1,
        2,
        0,
        0,
        3,
        3,
        0,
        4,
    ]


def test_unused_tokens_are_structure() -> None:
    wide = replace(SMALL, size=20)
    assert wide.modality(torch.arange(16, 20)).tolist() == [STRUCTURE] * 4


@pytest.mark.parametrize(
    "method, name, good, bad, message",
    [
        ("to_tokens", "text", 5, 1, "text id 1"),  # structural
        ("to_tokens", "text", 5, 6, "text id 6"),
        ("to_tokens", "text", 5, -1, "text id -1"),
        ("to_codes", "text", 8, 12, "token 12 .*text"),
        ("to_codes", "text", 8, 5, "token 5 .*text"),
        ("to_tokens", "image", 3, 4, "image code 4"),
        ("to_tokens", "image", 3, -1, "image code -1"),
        ("to_codes", "image", 12, 11, "token 11 .*image"),
        ("to_codes", "image", 12, 16, "token 16 .*image"),
    ],
)
def test_out_of_range(method: str, name: str, good: int, bad: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(SMALL, method)(name, torch.tensor([[good, bad]]))
    for outside in (16, -2):
        with pytest.raises(ValueError, match=rf"token {outside} .*0\.\.15"):
            SMALL.modality(torch.tensor([0, outside]))


def test_integer_types_and_empty_tensors() -> None:
    for dtype in (torch.int32, torch.int16):
        assert SMALL.to_tokens("image", torch.tensor([1], dtype=dtype)).tolist() == [13]
    assert SMALL.modality(torch.empty(0, 3, dtype=torch.int64)).shape == (0, 3)
    assert SMALL.modality(torch.tensor(8)).item() == TEXT
    for wrong in (torch.tensor([True]), torch.tensor([1], dtype=torch.uint8), torch.tensor([1.0])):
        with pytest.raises(ValueError, match="expected a tensor of int64, got torch"):
            SMALL.to_tokens("image", wrong)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        (None, {"eos": 0}, "bos and eos .* 0"),
        (None, {"pad": 9}, "pad and text .* 9"),
        ("image", {"numbers": (5, 4)}, "numbers of image and text .* 8"),
        ("image", {"ranges": (Range(11, 0, 4),)}, "text and image .* 11"),
        (None, {"size": 15}, r"0\.\.15 .* size 15"),
        (None, {"bos": -1}, r"bos.*-1.*0.*15"),
        ("image", {"numbers": None}, "numbers or a shape"),
        ("image", {"shape": (2, 2)}, "numbers or a shape"),
        ("image", {"numbers": None, "shape": (0, 2)}, r"shape .*\(0, 2\)"),
        ("image", {"numbers": (5, 0)}, "numbers .* 0"),
        ("image", {"scan": "diagonal"}, "scan .*diagonal"),
        ("image", {"slots": 0}, "codes_per_position .* 0"),
        ("image", {"slots": 3}, "image .* 4 .* codes_per_position, 3"),
        ("text", {"ranges": ()}, "text .* at least one range"),
        ("text", {"ranges": (Range(8, 0, 0),)}, "text .* at least one range"),
        ("text", {"ranges": (Range(8, 3, 1), Range(9, 0, 2))}, "text .* ascend"),
        ("text", {"ranges": (Range(10, 0, 1), Range(8, 1, 2))}, "text .* ascend"),
        ("image", {"ranges": (Range(12, 1, 3),)}, "image .* without a gap"),
        ("image", {"ranges": (Range(12, 0, 1), Range(13, 2, 1))}, "image .* without a gap"),
        (None, {"modalities": ()}, "modalities"),
        (None, {"modalities": SMALL.modalities[1:]}, "modalities .*image.* text first"),
        (None, {"modalities": (*SMALL.modalities, SMALL["image"])}, "modalities .*different"),
        (None, {"modalities": (*SMALL.modalities, replace(SMALL["image"], name="a b"))}, "modalities .*a b"),
    ],
)
def test_invalid_vocabularies(name: str | None, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes) if name is None else changed(SMALL, name, **changes)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_grid": 0}, "max_grid is 0"),
        ({"max_grid": None}, "max_grid is None"),
        ({"text": (6, (6,))}, r"structural_ids are \[6\], expected ids in 0\.\.5"),
        ({"codebook_size": 0}, "expected at least one range"),
        ({"codes_per_position": 0}, "codes_per_position is 0"),
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
    assert json.loads((tmp_path / "vocab.json").read_text())["format"] == 2
    assert pickle.loads(pickle.dumps(vocab)) == vocab


def test_format_1_is_read(tmp_path) -> None:
    """Earlier versions had two modalities; the oldest had no scan and one code per position."""
    value = {
        "format": 1,
        "size": 16,
        "roles": {"bos": 0, "eos": 1, "pad": 2, "begin_image": 3, "end_image": 4},
        "text": [r._asdict() for r in SMALL["text"].ranges],
        "image": [{"token": 12, "id": 0, "count": 4}],
        "grid": {"start": 5, "count": 3},
        "fixed_grid": None,
    }
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(value))
    assert SharedVocab.load(tmp_path) == SMALL
    value |= {"scan": "columns", "codes_per_position": 2, "grid": None, "fixed_grid": [2, 3]}
    value["roles"] = {"bos": 0, "eos": 1, "pad": 2, "begin_image": 3, "end_image": 4, "sep": 5}  # type: ignore[assignment]
    path.write_text(json.dumps(value))
    loaded = SharedVocab.load(tmp_path)
    assert loaded.layout("image") == Layout(3, 4, shape=(2, 3), scan="columns", slots=2) and loaded.sep == 5


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda value: value.update(format=99), "format.* 1 or 2"),
        (lambda value: value.pop("format"), "format.* 1 or 2"),
        (lambda value: value.pop("roles"), "vocab.json .*roles"),
        (lambda value: value["roles"].pop("bos"), "vocab.json .*bos"),
        (lambda value: value["roles"].update(sound=99), "vocab.json .*sound"),
        (lambda value: value["modalities"][0].update(ranges=[[8, 0, 1]]), "vocab.json"),
        (lambda value: value["modalities"][1]["layout"].update(depth=1), "vocab.json .*depth"),
        (lambda value: value.update(size="16"), "vocab.json"),
        (lambda value: value.update(size=3), r"vocab\.json: .*0\.\.15"),
        (
            lambda value: value["modalities"][1]["layout"].update(slots=3),
            r"vocab\.json: .*codes_per_position, 3",
        ),
        (lambda value: value["modalities"][1]["layout"].update(slots="2"), "vocab.json"),
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
    with pytest.raises(FileNotFoundError, match=r"vocab\.json not found.*shared vocabulary"):
        SharedVocab.load(tmp_path)
    for content in ("", "{", "[1]", "\xff"):
        (tmp_path / "vocab.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=r"vocab\.json is not a shared vocabulary"):
            SharedVocab.load(tmp_path)
