"""Import Chameleon from a folder of ``transformers``, or from Meta's own format, as a model folder.

Weights are copied from file to file, one tensor at a time, in the type they are stored in. Nothing in the
source is run: only tensors are read from PyTorch's files.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...storage.files import atomic_folder, read_json, write_json
from ...storage.tensor_files import Spec, TensorFiles, check_finite, write_tensors
from ...storage.weights import CONFIG, FORMAT, WEIGHTS
from ...tokenizers.bpe import BpeTokenizer
from ...tokenizers.documents import TOKENIZER, DocumentTokenizer
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.image_config import Preprocessing
from ...tokenizers.progress import Progress
from ...tokenizers.vqvae.taming import from_state, load_taming
from ..model import KIND, FusionLMConfig
from .meta import meta_tensor, read_meta
from .vocab import chameleon_vocab
from .weights import IMAGE_TOKENIZER, check_tensors, config_from_transformers, parts

DECODER = "vq_decoder.safetensors"
"""Where the exporter stores the VQ decoder, which the format of ``transformers`` does not have."""
META_TEXT, META_IMAGE = "text_tokenizer.json", "vqgan.ckpt"
RESOLUTION = 512
"""Side of Chameleon's images, in pixels."""


class Source(NamedTuple):
    """A Chameleon model after all checks, before the transformer's tensors are read."""

    config: FusionLMConfig
    specs: Mapping[str, Spec]
    """Shape and type of each tensor of ``FusionLM``."""
    read: Callable[[str], Tensor]
    """Reads one of them by name."""
    text: BpeTokenizer
    names: Mapping[str, int]
    """Name -> token, for all tokens."""
    image: ImageTokenizer
    grid: tuple[int, int]
    """Rows and columns of codes of every image."""


def read_source(
    folder: Path, vqgan: str | Path | None = None, preprocessing: Preprocessing = "meta"
) -> Source:
    """Find and check a model.

    Args:
        folder: A folder in the format of ``transformers``, or Meta's.
        vqgan: A checkpoint of the model's image tokenizer that has its decoder, for folders without one.
        preprocessing: How the model's images become numbers.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or describes something that ``FusionLM`` does not have.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: expected the folder of a Chameleon model")
    if (folder / CONFIG).is_file():
        source = _from_transformers(folder, vqgan)
    elif (folder / "tokenizer" / META_TEXT).is_file() or (folder / "models").is_dir():
        source = _from_meta(folder, vqgan)
    else:
        raise FileNotFoundError(
            f"{folder} is not a Chameleon model: expected {CONFIG} (transformers), or models/ and "
            f"tokenizer/{META_TEXT} (Meta)"
        )
    source.image.config = replace(source.image.config, preprocessing=preprocessing)
    return source


def write_model(source: Source, out: str | Path, progress: Progress | None = None) -> None:
    """Write the model folder ``out``, completely or not at all.

    Args:
        source: The result of ``read_source``.
        out: The folder to write.
        progress: Called after each tensor.
    """
    where = "the model's vocabulary"
    vocab = chameleon_vocab(source.names, source.text, source.config.vocab_size, source.grid, where)
    tokenizer = DocumentTokenizer(vocab, text=source.text, image=source.image)
    with atomic_folder(out) as new:
        write_json(new / CONFIG, {"kind": KIND, "format": FORMAT, **asdict(source.config)})
        write_tensors(new / WEIGHTS, source.specs, source.read, progress)
        tokenizer.save(new / TOKENIZER)


def _from_transformers(folder: Path, vqgan: str | Path | None) -> Source:
    values = read_json(folder / CONFIG, "a Chameleon config")
    config = config_from_transformers(values, str(folder / CONFIG))
    files = TensorFiles.of_folder(folder)
    specs = check_tensors(config, files, str(folder))
    theirs = {part.name: part.theirs for part in parts(config)}
    state = {n.removeprefix(IMAGE_TOKENIZER): files[n] for n in files if n.startswith(IMAGE_TOKENIZER)}
    if (folder / DECODER).is_file():  # the folder was exported here
        state |= dict(TensorFiles([folder / DECODER]))
    image = _image_tokenizer(state, folder, vqgan)
    text = BpeTokenizer.load(folder)
    resolution = (values.get("vq_config") or {}).get("resolution", RESOLUTION)
    side = int(resolution) // image.factor
    return Source(
        config=config,
        specs=specs,
        read=lambda name: torch.cat([_checked(files[n], n, folder) for n in theirs[name]]),
        text=text,
        names=values.get("vocabulary_map") or text.ids,
        image=image,
        grid=(side, side),
    )


def _from_meta(folder: Path, vqgan: str | Path | None) -> Source:
    found = sorted((folder / "models").glob("*/params.json")) if (folder / "models").is_dir() else []
    if len(found) != 1:
        sizes = ", ".join(path.parent.name for path in found) or "none"
        raise FileNotFoundError(f"{folder / 'models'} must have one folder with params.json, found {sizes}")
    model = found[0].parent
    params = read_json(model / "params.json", "the parameters of a model")
    more = model / "consolidate_params.json"
    if more.is_file():
        params |= read_json(more, "more parameters of a model")
    paths = sorted(model.glob("consolidated*.pth"))
    numbers = [int(m[1]) for path in paths if (m := re.fullmatch(r"consolidated\.(\d+)\.pth", path.name))]
    wanted = params.get("model_parallel_size") or len(paths)
    if not paths or (numbers and numbers != list(range(len(paths)))) or len(paths) != wanted:
        names = ", ".join(path.name for path in paths) or "none"
        raise FileNotFoundError(f"{model} must have all {wanted or 1} shards of the weights, found {names}")
    config, specs, shards = read_meta(params, model, paths)
    image = load_taming(Path(vqgan) if vqgan is not None else folder / "tokenizer" / META_IMAGE)
    text = BpeTokenizer(read_json(folder / "tokenizer" / META_TEXT, "Chameleon's text tokenizer"))
    side = RESOLUTION // image.factor
    return Source(
        config=config,
        specs=specs,
        read=lambda name: _checked(meta_tensor(config, shards, name), name, model),
        text=text,
        names=text.ids,
        image=image,
        grid=(side, side),
    )


def _checked(tensor: Tensor, name: str, folder: Path) -> Tensor:
    check_finite(tensor, name, str(folder))
    return tensor


def _image_tokenizer(state: dict[str, Tensor], folder: Path, vqgan: str | Path | None) -> ImageTokenizer:
    """That of a folder of ``transformers``, from its tensors, from a checkpoint, or from both.

    Raises:
        ValueError: There is none, or the two differ.
    """
    if not state and vqgan is None:
        raise ValueError(
            f"{folder} has no image tokenizer (no tensor {IMAGE_TOKENIZER}*): give --vqgan FILE, such as "
            "Meta's vqgan.ckpt"
        )
    if not state and vqgan is not None:
        return load_taming(vqgan)
    image = from_state(state, f"{folder}, the image tokenizer", decoder_needed=False)
    return image if vqgan is None else _with_decoder(image, Path(vqgan))


def _with_decoder(image: ImageTokenizer, checkpoint: Path) -> ImageTokenizer:
    """Read the same image tokenizer from ``checkpoint``, with its decoder.

    Raises:
        ValueError: The checkpoint has another encoder or codebook.
    """
    whole = load_taming(checkpoint)
    mine, other = image.state_dict(), whole.state_dict()
    for name, tensor in mine.items():
        if name not in other or not torch.equal(tensor, other[name]):
            raise ValueError(
                f"{checkpoint} is not the image tokenizer of this model: {name} differs; use the vqgan.ckpt "
                "that belongs to it"
            )
    return whole
