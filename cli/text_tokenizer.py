"""``earlyfusion text-tokenizer fit``: texts -> a sentencepiece model."""

import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from .results import add_out, writes
from .terminal import add_command, add_group, positive_integer, real


def add(commands: Any) -> None:
    group = add_group(
        commands,
        "text-tokenizer",
        "train a sentencepiece BPE on your texts",
        "Train a sentencepiece BPE on your texts.",
    )
    parser = add_command(
        group,
        "fit",
        "train on text files or data sets",
        """\
Train a sentencepiece BPE with byte fallback, which restores every Unicode text exactly.
Writes OUT/text.model.""",
        """\
  earlyfusion text-tokenizer fit --input books/*.txt --vocab-size 8000 --out runs/text
  earlyfusion text-tokenizer fit --input captions.parquet --column caption \\
      --vocab-size 4000 --out runs/text""",
        run,
    )
    parser.add_argument(
        "--input",
        metavar="FILE",
        nargs="+",
        required=True,
        help="text files (one text per line), and files or folders of rows: .jsonl, .csv, .parquet, ...",
    )
    parser.add_argument(
        "--vocab-size",
        metavar="N",
        type=positive_integer,
        required=True,
        help="maximum number of pieces, 256 bytes included",
    )
    add_out(parser)
    parser.add_argument(
        "--column",
        metavar="NAME",
        default="text",
        help="column or key that holds the texts (default: %(default)s)",
    )
    parser.add_argument(
        "--character-coverage",
        metavar="FRACTION",
        type=real,
        default=0.9995,
        help="fraction of corpus characters covered by pieces; the rest falls back to bytes "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--max-piece-length",
        metavar="N",
        type=positive_integer,
        default=16,
        help="maximum characters per piece; 1 = single characters (default: %(default)s)",
    )


@writes(inputs=("input",), holds=("text.model",))
def run(args: Namespace) -> None:
    from ..data.reading.text_corpus import Counted, read_texts
    from ..tokenizers.progress import suggest
    from ..tokenizers.text import FILE, TextTokenizer

    read: list[str] = []
    texts = Counted(text for name in args.input for text in read_texts(name, args.column, read.append))
    tokenizer = TextTokenizer.train(
        texts,
        args.vocab_size,
        character_coverage=args.character_coverage,
        max_piece_length=args.max_piece_length,
    )
    tokenizer.save(args.out)
    print("\n".join(read))
    print(f"{texts.texts:,} texts, {texts.characters:,} characters -> {tokenizer.vocab_size:,} pieces")
    if tokenizer.vocab_size < args.vocab_size:
        print(f"--vocab-size was {args.vocab_size:,}, but these texts yield no more pieces")
    print(f"written to {Path(args.out) / FILE}")
    suggest(f"earlyfusion prepare --config prepare --text_tokenizer={shlex.quote(str(args.out))}")
