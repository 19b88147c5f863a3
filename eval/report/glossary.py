"""How to read a report: each metric in two or three sentences of plain English."""

from collections.abc import Iterable

from .page import html

METRICS: dict[str, str] = {
    "Exact": (
        "Share of texts that are right in every letter. One wrong letter makes a text wrong, so long words "
        "are harder. 0% to 100%, higher is better."
    ),
    "CER": (
        "Character error rate: letters to insert, delete or replace to get the right text, divided by its "
        "letters. 0 is perfect; 0.1 is one mistake in ten letters; it can exceed 1."
    ),
    "Held out": (
        "What no training text and no training image contains, not even inside another word. Random strings "
        "are there because a reader can guess a real word from half of its letters."
    ),
    "Ceiling": (
        "What was reached at best: OCR reading real type (before), and the same type after the image "
        "tokenizer (after). The model only sees what the tokenizer keeps."
    ),
    "PSNR": (
        "Peak signal-to-noise ratio: how close the pixels of the reconstruction are, in decibels. 3 dB more "
        "is half the squared error. A blur over small type can score well, so look at the OCR figures, too."
    ),
    "SSIM": (
        "Structural similarity: agreement of local brightness, contrast and pattern. 1 is identical, near 0 "
        "is unrelated."
    ),
    "T-ACC": (
        "Of the texts that OCR reads correctly in the original, the share that it still reads correctly in "
        "the reconstruction (TokBench)."
    ),
    "T-NED": (
        "Of the same texts, how alike text and reading are on average: 1 minus the edit distance, which is "
        "divided by the length of the longer one. Nearly right counts nearly 1 here, and 0 in T-ACC."
    ),
    "Loss": (
        "Cross-entropy in nats per token: how surprised the transformer is by the token that comes next. "
        "Guessing among V tokens gives ln V; lower is better."
    ),
    "Perplexity": (
        "The exponential of a loss: the number of equally likely tokens that would be as hard to guess. "
        "For a codebook: the number of codes that would be in use if all were used equally often."
    ),
    "Codes used": "Share of the codebook that occurs at all. Unused codes are wasted.",
    "Bits per pixel": (
        "Size of the codes: tokens per image times log2 of the codebook, divided by the pixels. A PNG of "
        "such a picture has 24 bits per pixel before it is packed."
    ),
    "Leakage": (
        "The part of the loss that comes from probability given to tokens of another modality, such as a "
        "letter where only an image code can stand. Near 0 when the model has learned the form of documents."
    ),
}


def how_to_read(names: Iterable[str]) -> str:
    """These metrics, folded under "How to read this"."""
    return html.details("How to read this", html.pairs((name, METRICS[name]) for name in names))
