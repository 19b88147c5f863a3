"""``earlyfusion playground``: serves a page for the browser."""

from argparse import Namespace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from ..storage.hub import PRETRAINED
from .terminal import add_command, best_device, positive_integer


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "playground",
        "serve a page: compose prompts, inspect tokens, compare tokenizers",
        """\
Serve a page for the browser: compose prompts of text and pictures and watch the answers
arrive, inspect tokens and codebook, reconstruct pictures, follow trainings. Only this machine
can reach it, unless --host is given; the server stores nothing you send.
Needs the extra: pip install 'earlyfusion[playground]'""",
        """\
  earlyfusion playground
  earlyfusion playground runs/demo/model --tokenizer pretrained/openmoji-words""",
        run,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=str(PRETRAINED),
        help="model folder, or a name on the Hugging Face Hub (default: the packaged model)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        action="append",
        default=[],
        help="another image tokenizer or model to reconstruct pictures with; repeatable",
    )
    parser.add_argument(
        "--runs",
        metavar="DIR",
        default="runs",
        help="folder of the training runs to show (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address to serve on; 0.0.0.0 lets everybody connect who can reach this machine "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=positive_integer,
        default=7860,
        help="port to serve on (default: %(default)s)",
    )


def run(args: Namespace) -> None:
    """Load the model and the tokenizers, and serve the page until Ctrl+C."""
    if not args.port < 2**16:
        raise ValueError(f"--port must be at most 65535, got {args.port}")
    check_free(args.host.strip("[]"), args.port)  # at once: the imports take seconds
    from ..fusion_lm.cpu.packed_weights import for_generation
    from ..fusion_lm.folder import Model, load_model
    from ..playground.app import build
    from ..playground.server import serve
    from ..playground.showcase import showcase_of
    from ..storage.hub import local_folder
    from .models import load_image_tokenizer

    folder = local_folder(args.model)
    lm, tokenizer = load_model(folder, best_device())
    image = tokenizer.image
    title = folder.name if folder == PRETRAINED else _title(args.model)
    about = {
        "model": title,
        "parameters": f"{sum(p.numel() for p in lm.parameters()) / 1e6:,.1f} million",
        "context": f"{lm.config.context_length:,} tokens",
        "vocabulary": f"{tokenizer.vocab.size:,}",
        "codebook": f"{image.codebook_size:,} codes",
        "a position": f"{image.factor} x {image.factor} px",
    }
    others = {_title(name): load_image_tokenizer(name) for name in args.tokenizer}
    tokenizers = {title: image, **others}
    model = Model(for_generation(lm, "auto"), tokenizer)
    show, name = showcase_of(folder), "" if folder == PRETRAINED else title
    serve(
        lambda: build(model, about, tokenizers, Path(args.runs), show, name), args.host.strip("[]"), args.port
    )


def check_free(host: str, port: int) -> None:
    """Check that nothing listens there.

    Raises:
        OSError: A playground, or another program, does.
    """
    place = "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else host
    there = HTTPConnection(place, port, timeout=1)
    try:
        there.connect()
    except OSError:  # nothing is there, or the host is wrong, which serving reports
        return
    try:
        there.request("GET", "/")
        page = there.getresponse().read()
    except (OSError, HTTPException):
        page = b""
    finally:
        there.close()
    address = f"http://[{place}]:{port}/" if ":" in place else f"http://{place}:{port}/"
    what = f"a playground is already at {address}" if b"earlyfusion playground" in page else "it is taken"
    raise OSError(f"cannot serve at {host}, port {port}: {what}; choose another --port, such as {port + 1}")


def _title(name: str) -> str:
    """What the page calls a folder: its name as it was given, but not where this machine has it."""
    return "/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name
