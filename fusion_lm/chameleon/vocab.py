"""Chameleon's numbering of tokens, as a shared vocabulary.

Its BPE holds everything: texts, the codes of images under names of their own (``IMGIMG``, the code's digits
as letters A to J, ``Z``), and spare tokens. An image is ``<racm3:break>``, its codes row by row, ``<eoss>``.
"""

from collections.abc import Mapping

from ...tokenizers.bpe import BpeTokenizer
from ...tokenizers.layout import Layout
from ...tokenizers.modality import Modality, Range
from ...tokenizers.vocab import SharedVocab, text_runs

PREFIX, SUFFIX = "IMGIMG", "Z"
BOS, EOS, PAD, BEGIN_IMAGE, END_IMAGE = "<s>", "</s>", "<pad>", "<racm3:break>", "<eoss>"
SEPARATOR, PLACEHOLDER = "<reserved08706>", "<image>"
"""What ends a turn of a conversation; what stands for an image's codes in ``transformers``."""


def code_name(code: int) -> str:
    """The name of an image code: 10 -> IMGIMGBAZ."""
    return PREFIX + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + SUFFIX


def code_of(name: str) -> int | None:
    """The image code of a token's name; None for other names."""
    letters = name.removeprefix(PREFIX).removesuffix(SUFFIX)
    if not name.startswith(PREFIX) or not letters or not set(letters) <= set("ABCDEFGHIJ"):
        return None
    return int("".join(str(ord(letter) - ord("A")) for letter in letters))


def chameleon_vocab(
    names: Mapping[str, int], text: BpeTokenizer, size: int, grid: tuple[int, int], where: str
) -> SharedVocab:
    """The vocabulary of ``size`` tokens in which ``names`` have their numbers.

    :param names: name -> token, Chameleon's ``vocabulary_map``.
    :param grid: rows and columns of codes that every image has.
    :raises ValueError: a token with a role is missing, or the codes are not 0..K-1 in the order of their
        tokens, without which the port in ``transformers`` itself would read them wrongly.
    """
    for name in (BOS, EOS, PAD, BEGIN_IMAGE, END_IMAGE):
        if name not in names:
            raise ValueError(f"{where} lacks the token {name!r}")
    codes = sorted((token, code) for name, token in names.items() if (code := code_of(name)) is not None)
    if not codes:
        raise ValueError(f"{where} names no image codes ({code_name(0)}, ...)")
    if [code for _, code in codes] != list(range(len(codes))):
        raise ValueError(
            f"{where}: the image codes are not 0 to {len(codes) - 1} in the order of their tokens; only that "
            "order can be imported"
        )
    image: list[Range] = []
    for token, code in codes:
        if image and token == image[-1].token + image[-1].count:
            image[-1] = image[-1]._replace(count=image[-1].count + 1)
        else:
            image.append(Range(token, code, 1))
    runs = text_runs(text.vocab_size, text.structural_ids)
    try:
        return SharedVocab(
            size=size,
            bos=names[BOS],
            eos=names[EOS],
            pad=names[PAD],
            modalities=(
                Modality("text", tuple(Range(first, first, count) for first, count in runs)),
                Modality("image", tuple(image), Layout(names[BEGIN_IMAGE], names[END_IMAGE], shape=grid)),
            ),
            sep=names.get(SEPARATOR),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
