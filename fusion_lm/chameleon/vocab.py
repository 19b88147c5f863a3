"""Chameleon's placement of tokens, as a shared vocabulary.

Chameleon's BPE contains all tokens: text, image codes (named ``IMGIMG``, the digits of the code as letters A
to J, ``Z``), and spare tokens. An image is ``<racm3:break>``, its codes row by row, ``<eoss>``.
"""

from collections.abc import Iterable, Mapping

from ...tokenizers.bpe import BpeTokenizer
from ...tokenizers.layout import Layout
from ...tokenizers.modality import Modality, Range
from ...tokenizers.vocab import SharedVocab, text_runs

PREFIX, SUFFIX = "IMGIMG", "Z"
BOS, EOS, PAD, BEGIN_IMAGE, END_IMAGE = "<s>", "</s>", "<pad>", "<racm3:break>", "<eoss>"
SEPARATOR = "<reserved08706>"
"""Ends a turn of a conversation."""
PLACEHOLDER = "<image>"
"""Placeholder for the codes of an image in ``transformers``."""


def code_name(code: int) -> str:
    """The name of an image code: 10 -> IMGIMGBAZ."""
    return PREFIX + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + SUFFIX


def code_of(name: str) -> int | None:
    """The image code in the name of a token: IMGIMGBAZ -> 10; None for other names."""
    letters = name.removeprefix(PREFIX).removesuffix(SUFFIX)
    if not name.startswith(PREFIX) or not letters or not set(letters) <= set("ABCDEFGHIJ"):
        return None
    return int("".join(str(ord(letter) - ord("A")) for letter in letters))


def chameleon_vocab(
    names: Mapping[str, int], text: BpeTokenizer, size: int, grid: tuple[int, int], where: str
) -> SharedVocab:
    """Build a vocabulary with the tokens of Chameleon.

    Args:
        names: Name -> token: Chameleon's ``vocabulary_map``.
        text: Chameleon's BPE; its text ids equal the tokens.
        size: V, the number of tokens.
        grid: Rows and columns of codes of every image.
        where: Name of the vocabulary in error messages.

    Raises:
        ValueError: A special token is missing, or the codes are not 0..K-1 in the order of their tokens
            (``transformers`` would not read such codes correctly either).
    """
    for name in (BOS, EOS, PAD, BEGIN_IMAGE, END_IMAGE):
        if name not in names:
            raise ValueError(f"{where} lacks the token {name!r}")
    codes = sorted((token, code) for name, token in names.items() if (code := code_of(name)) is not None)
    if not codes:
        raise ValueError(f"{where} has no image codes, expected tokens named {code_name(0)}, ...")
    if [code for _, code in codes] != list(range(len(codes))):
        expected = f"the image codes 0 to {len(codes) - 1} in the order of their tokens"
        raise ValueError(f"{where}: expected {expected}")
    runs = text_runs(text.vocab_size, text.structural_ids)
    try:
        return SharedVocab(
            size=size,
            bos=names[BOS],
            eos=names[EOS],
            pad=names[PAD],
            modalities=(
                Modality("text", tuple(Range(first, first, count) for first, count in runs)),
                Modality("image", _ranges(codes), Layout(names[BEGIN_IMAGE], names[END_IMAGE], shape=grid)),
            ),
            sep=names.get(SEPARATOR),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _ranges(codes: Iterable[tuple[int, int]]) -> tuple[Range, ...]:
    """Sorted (token, code) -> runs of consecutive tokens."""
    found: list[Range] = []
    for token, code in codes:
        if found and token == found[-1].token + found[-1].count:
            found[-1] = found[-1]._replace(count=found[-1].count + 1)
        else:
            found.append(Range(token, code, 1))
    return tuple(found)
