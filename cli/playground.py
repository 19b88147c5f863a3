"""``earlyfusion playground``."""

from argparse import Namespace
from pathlib import Path

from ..fusion_lm.cpu.packed_weights import for_generation
from ..fusion_lm.folder import Model, load_model
from ..tokenizers.hub import PRETRAINED, local_folder
from ..tokenizers.image import ImageTokenizer
from .evaluate import best_device, image_folder


def playground(args: Namespace) -> None:
    """Load `args.model` and `args.tokenizer`, and serve the page at `args.host`, `args.port` until Ctrl+C.

    Raises ValueError, FileNotFoundError, ImportError or OSError, one line each.
    """
    from ..playground.app import build, serve

    if not args.port < 2**16:
        raise ValueError(f"--port is {args.port}, expected at most 65535")
    folder = local_folder(args.model)
    device = best_device()
    lm, tokenizer = load_model(folder, device)
    image = tokenizer.image
    title = folder.name if folder == PRETRAINED else str(args.model)
    about = {
        "model": title,
        "parameters": f"{sum(p.numel() for p in lm.parameters()):,}",
        "context": f"{lm.config.context_length:,} tokens",
        "vocabulary": f"{tokenizer.vocab.size:,}",
        "codebook": f"{image.codebook_size:,} codes",
        "a position": f"{image.factor} x {image.factor} px",
    }
    tokenizers = {title: image}
    for name in args.tokenizer:
        tokenizers[name] = ImageTokenizer.load(image_folder(name)).to(device).eval()
    model = Model(for_generation(lm, "auto"), tokenizer)
    serve(lambda: build(model, about, tokenizers, Path(args.runs)), args.host.strip("[]"), args.port)
