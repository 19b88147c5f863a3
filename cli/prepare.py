"""``earlyfusion prepare``: documents -> packed windows of tokens."""

from argparse import Namespace
from typing import Any

from .terminal import add_command, positive_integer


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "prepare",
        "documents of text and images -> packed windows of tokens",
        """\
Turn documents of text and images into packed, memory-mapped windows of tokens, which
`earlyfusion lm fit` reads. The config names the tokenizers, the documents (imagefolder,
webdataset, parquet, ...; an image and a text column, or parallel lists) and the folder to
write. A run that was stopped resumes. Sample configs: train/configs/prepare*.yaml.""",
        "  earlyfusion prepare --config prepare.yaml",
        run,
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="a YAML file")
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=positive_integer,
        default=1,
        help="processes, each with its image tokenizer (default: %(default)s)",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where they run: this machine, or the Ray cluster that ray.init() finds (extra: ray; all its "
        "machines must see the same folders)",
    )


def run(args: Namespace) -> None:
    from ..data.prepare import run as prepare

    prepare(args.config, args.jobs, args.engine)
