import io
import random
import subprocess
import sys

import pytest
import sentencepiece

from earlyfusion.tokenizers.text import TextTokenizer

AWKWARD = [
    "",
    " ",
    "  leading, trailing and   inner  spaces   ",
    "\n\n\r\n\t\v\f\x85\u2028\u2029",
    "\0",
    "a\0b\0",
    "\u2581",
    "\u2581\u2581 a\u2581b \u2581",
    "\u2580\u2582\u2585",  # U+2585 is another mark of sentencepiece's
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇧🇷",
    "e\u0301 \u00e9 \ufb01 \uff21 \u00bd \u212b \u3000 \u00a0",  # all of them change under NFC or NFKC
    "\ufeff\ufffe\uffff\ufffd\U0010ffff",
    "नमस्ते 世界 שלום",
    "<image> <s></s><unk><pad> <0x41> [INST]",
]


def random_text(rng: random.Random) -> str:
    """Up to 40 characters, from all of Unicode and from special ranges."""

    def character() -> str:
        kind = rng.random()
        if kind < 0.4:
            return rng.choice("abcdeA  \n\t\0\u2581\u2581\u2585<0x41>unk</s>\u0301\ufeff")
        top = 0x250 if kind < 0.6 else 0x3000 if kind < 0.8 else 0x110000
        code = rng.randrange(top - 0x800 if top > 0xE000 else top)
        return chr(code + 0x800 if code >= 0xD800 else code)  # no surrogates

    return "".join(character() for _ in range(rng.randrange(40)))


@pytest.mark.parametrize("text", AWKWARD, ids=ascii)
def test_awkward_texts_come_back(text_tokenizer: TextTokenizer, text: str) -> None:
    ids = text_tokenizer.encode(text)
    assert text_tokenizer.decode(ids) == text
    assert not set(ids) & set(text_tokenizer.structural_ids)


def test_random_unicode_comes_back(text_tokenizer: TextTokenizer) -> None:
    rng = random.Random(0)
    for text in (random_text(rng) for _ in range(5000)):
        ids = text_tokenizer.encode(text)
        assert text_tokenizer.decode(ids) == text, ascii(text)
        assert 0 not in ids


def test_every_code_point_comes_back(text_tokenizer: TextTokenizer) -> None:
    for start in range(0, 0x110000, 0x800):
        if start != 0xD800:  # the surrogates
            text = "".join(map(chr, range(start, start + 0x800)))
            assert text_tokenizer.decode(text_tokenizer.encode(text)) == text, hex(start)


def test_long_text_comes_back(text_tokenizer: TextTokenizer) -> None:
    for text in ("the small house " * 5000, "x" * 50_000, "\u2581 " * 10_000, "世" * 20_000):
        assert text_tokenizer.decode(text_tokenizer.encode(text)) == text


def test_frequent_words_become_few_ids(text_tokenizer: TextTokenizer) -> None:
    assert len(text_tokenizer.encode("the picture")) < len("the picture") / 2


@pytest.mark.parametrize("text, position", [("ab\ud800", 2), ("\udfff", 0), ("\u2581\ud83dx", 1)])
def test_lone_surrogate_is_one_clear_error(text_tokenizer: TextTokenizer, text: str, position: int) -> None:
    with pytest.raises(ValueError, match=rf"surrogate U\+D[0-9A-F]+.*position {position}"):
        text_tokenizer.encode(text)
    with pytest.raises(ValueError, match=f"text 1.*surrogate.*position {position}"):
        TextTokenizer.train(["fine", text], vocab_size=300)


def test_structural_ids_are_not_text(text_tokenizer: TextTokenizer) -> None:
    assert text_tokenizer.structural_ids == (0,)
    assert text_tokenizer.id_to_piece(0) == "<unk>"
    assert text_tokenizer.id_to_piece(0x41 + 1) == "<0x41>"
    with pytest.raises(ValueError, match="id 0.*structural"):
        text_tokenizer.decode([300, 0])


@pytest.mark.parametrize("bad", [-1, 360, 10**9])
def test_ids_out_of_range(text_tokenizer: TextTokenizer, bad: int) -> None:
    assert text_tokenizer.vocab_size == 360
    with pytest.raises(ValueError, match=rf"{bad}.*0\.\.359"):
        text_tokenizer.decode([5, bad])
    with pytest.raises(ValueError, match=rf"{bad}.*0\.\.359"):
        text_tokenizer.id_to_piece(bad)


def test_any_text_ids_are_a_text(text_tokenizer: TextTokenizer) -> None:
    byte = lambda value: value + 1  # noqa: E731
    assert text_tokenizer.decode([byte(0xE2), byte(0x96)]) == "\ufffd"
    assert text_tokenizer.decode([byte(0xF0), byte(0x41), byte(0xFF)]) == "\ufffdA\ufffd"
    rng = random.Random(1)
    for _ in range(2000):
        text = text_tokenizer.decode([rng.randrange(1, 360) for _ in range(rng.randrange(12))])
        assert text_tokenizer.decode(text_tokenizer.encode(text)) == text


def test_save_and_load(text_tokenizer: TextTokenizer, tmp_path) -> None:
    text_tokenizer.save(tmp_path)
    loaded = TextTokenizer.load(tmp_path)
    assert loaded.vocab_size == text_tokenizer.vocab_size
    assert loaded.encode("A red apple\u2581") == text_tokenizer.encode("A red apple\u2581")
    assert [path.name for path in tmp_path.iterdir()] == ["text.model"]


def test_load_says_which_file_is_wrong(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"text\.model not found"):
        TextTokenizer.load(tmp_path)
    for data in (b"", b"garbage"):
        (tmp_path / "text.model").write_bytes(data)
        with pytest.raises(ValueError, match=r"text\.model.*sentencepiece"):
            TextTokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"byte_fallback": False}, "byte_fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "identity.*remove_extra_whitespaces.*add_dummy_prefix"),
        ({"normalization_rule_name": "nfkc_cf"}, "identity.*remove_extra_whitespaces.*add_dummy_prefix"),
        ({"remove_extra_whitespaces": True}, "identity.*remove_extra_whitespaces.*add_dummy_prefix"),
        ({"add_dummy_prefix": True}, "identity.*remove_extra_whitespaces.*add_dummy_prefix"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_models_that_lose_text_are_refused(options: dict, message: str) -> None:
    lossless = {
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red apple and a green apple"] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=290,
        hard_vocab_limit=False,
        minloglevel=2,
        **{**lossless, **options},
    )
    with pytest.raises(ValueError, match=message):
        TextTokenizer(model.getvalue())


def test_structural_ids_of_a_model_with_control_pieces() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red apple <s> </s> <mask>"] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=290,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        control_symbols=["<mask>"],
        minloglevel=2,
    )
    tokenizer = TextTokenizer(model.getvalue())
    assert tokenizer.structural_ids == (0, 1, 2, 3)  # unk, bos, eos, <mask>
    text = "<s><unk> </s> <mask>"
    assert not set(tokenizer.encode(text)) & {0, 1, 2, 3}
    assert tokenizer.decode(tokenizer.encode(text)) == text


def learned(tokenizer: TextTokenizer) -> set[str]:
    return {tokenizer.id_to_piece(i) for i in range(257, tokenizer.vocab_size)}


@pytest.mark.parametrize(
    "text",
    [
        "ZQZQ " * 5000,
        "ZQ" * 5000,
        "ZQ\u2585",
        "ZQ\0",
        "ZQ\n",
        "\u2581ZQ",
    ],
    ids=["longer than 4,192 bytes", "without a space", "U+2585", "NUL", "newline", "U+2581"],
)
def test_training_skips_no_text(text: str) -> None:
    pieces = learned(TextTokenizer.train(["plain text"] * 5 + [text] * 20, vocab_size=400))
    assert "ZQ" in pieces
    assert not any(
        mark in piece for piece in pieces for mark in ("\u2585", "\u2581ZQ" if "\u2581" in text else "\0")
    )


def test_long_training_texts_are_cut_between_words() -> None:
    words = " ".join(["umbrella"] * 2000)
    assert learned(TextTokenizer.train([words], vocab_size=10_000)) == learned(
        TextTokenizer.train(["umbrella"] + [" umbrella"] * 1999, vocab_size=10_000)
    )


def test_vocabulary_larger_than_the_data_needs() -> None:
    tokenizer = TextTokenizer.train(["a red apple"], vocab_size=50_000)
    assert 257 < tokenizer.vocab_size < 300
    assert tokenizer.decode(tokenizer.encode("a red apple")) == "a red apple"


def test_characters_as_text() -> None:
    tokenizer = TextTokenizer.train(["banana bandana"] * 100, vocab_size=400, max_piece_length=1)
    assert learned(tokenizer) == set("band\u2581")
    assert len(tokenizer.encode("banana band")) == len("banana band")


@pytest.mark.parametrize("text", ["umbrella", "a b" + "umbrella" * 9000])
def test_spaces_come_back_where_training_saw_none_or_few(text: str) -> None:
    tokenizer = TextTokenizer.train([text] * 20, vocab_size=300, character_coverage=0.99)
    assert tokenizer.decode(tokenizer.encode(" \u2581 a\u2581")) == " \u2581 a\u2581"


def test_pieces_do_not_depend_on_threads() -> None:
    texts = [f"the cat number {i} sees {i * 7} birds" for i in range(100)]
    one, four = (TextTokenizer.train(texts, vocab_size=350, threads=n) for n in (1, 4))
    assert [one.id_to_piece(i) for i in range(350)] == [four.id_to_piece(i) for i in range(350)]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"vocab_size": 100}, r"vocab_size.*100.*263.*character_coverage"),
        ({"vocab_size": 0}, r"vocab_size.*0"),
        ({"character_coverage": 1.5}, r"character_coverage.*1\.5.*0\.98 to 1"),
        ({"max_piece_length": 0}, r"max_piece_length.*0.*1 to 512"),
        ({"texts": []}, "texts.*empty"),
        ({"texts": ["", ""]}, "texts.*empty"),
        ({"texts": ["\u2581", "\u2585"]}, "texts.*empty"),
    ],
)
def test_training_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextTokenizer.train(**{"texts": ["abcde "] * 9, "vocab_size": 300, **options})


def test_errors_of_the_iterator_reach_the_caller() -> None:
    def texts():
        yield "fine"
        raise KeyError("broken source")

    with pytest.raises(KeyError, match="broken source"):
        TextTokenizer.train(texts(), vocab_size=300)


def test_import_needs_no_torch() -> None:
    code = (
        "import sys; import earlyfusion.tokenizers.text, earlyfusion.tokenizers.vocab; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
