"""``earlyfusion import chameleon``: a Chameleon model of ``transformers``, or of Meta's, as a model folder.

Weights go from file to file one tensor at a time, in the type that they are stored in. Nothing in the source
is run: of PyTorch's files tensors alone are read.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...tokenizers.bpe import BpeTokenizer
from ...tokenizers.documents import TOKENIZER, DocumentTokenizer
from ...tokenizers.files import atomic_folder, read_json, write_json
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.image_config import Preprocessing
from ...tokenizers.progress import Progress
from ...tokenizers.taming import from_state, load_taming
from ...tokenizers.tensor_files import Spec, TensorFiles, write_tensors
from ...tokenizers.weights import CONFIG, FORMAT, WEIGHTS
from ..model import KIND, FusionLMConfig
from .vocab import chameleon_vocab
from .weights import (
    IMAGE_TOKENIZER,
    check_names,
    config_from_meta,
    config_from_transformers,
    meta_tensor,
    parts,
)

DECODER = "vq_decoder.safetensors"
"""Where `export` puts what the format has no place for."""
META_TEXT, META_IMAGE = "text_tokenizer.json", "vqgan.ckpt"
RESOLUTION = 512
"""Pixels of a side of the images that Chameleon sees."""


class Source(NamedTuple):
    """What is to become a model folder."""

    config: FusionLMConfig
    specs: Mapping[str, Spec]
    """Of the transformer's tensors, in our names."""
    make: Callable[[str], Tensor]
    """Gives one of them."""
    text: BpeTokenizer
    names: Mapping[str, int]
    """Every token's name."""
    image: ImageTokenizer
    grid: tuple[int, int]


def read_source(
    folder: Path, vqgan: str | Path | None = None, preprocessing: Preprocessing = "meta"
) -> Source:
    """A folder of ``transformers`` or of Meta's; the transformer's tensors are not read yet.

    :param vqgan: a checkpoint of the image tokenizer with its decoder, where the folder has none.
    :param preprocessing: of the images that the model is to read.
    :raises FileNotFoundError: something is missing.  :raises ValueError: something is damaged or unknown.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: a Chameleon model's is expected")
    if (folder / CONFIG).is_file():
        source = _of_transformers(folder, vqgan)
    elif (folder / "tokenizer" / META_TEXT).is_file() or (folder / "models").is_dir():
        source = _of_meta(folder, vqgan)
    else:
        raise FileNotFoundError(
            f"{folder} holds neither {CONFIG} (transformers) nor models/ and tokenizer/{META_TEXT} (Meta)"
        )
    source.image.config = replace(source.image.config, preprocessing=preprocessing)
    return source


def write_model(source: Source, out: str | Path, progress: Progress | None = None) -> None:
    """Write the model folder, whole or not at all."""
    where = "the model's vocabulary"
    vocab = chameleon_vocab(source.names, source.text, source.config.vocab_size, source.grid, where)
    tokenizer = DocumentTokenizer(vocab, text=source.text, image=source.image)
    with atomic_folder(out) as new:
        write_json(new / CONFIG, {"kind": KIND, "format": FORMAT, **asdict(source.config)})
        write_tensors(new / WEIGHTS, source.specs, source.make, progress)
        tokenizer.save(new / TOKENIZER)


def _of_transformers(folder: Path, vqgan: str | Path | None) -> Source:
    values = read_json(folder / CONFIG, "a Chameleon config")
    config = config_from_transformers(values, str(folder / CONFIG))
    files = TensorFiles.of_folder(folder)
    specs = check_names(config, files, str(folder))
    theirs = {part.name: part.theirs for part in parts(config)}
    state = {n.removeprefix(IMAGE_TOKENIZER): files[n] for n in files if n.startswith(IMAGE_TOKENIZER)}
    if (folder / DECODER).is_file():  # of a model that was exported here
        state |= dict(TensorFiles([folder / DECODER]))
    image = from_state(state, f"{folder}, the image tokenizer", decoder_needed=False)
    if vqgan is not None:
        image = _with_decoder(image, Path(vqgan))
    text = BpeTokenizer.load(folder)
    vq = values.get("vq_config") or {}
    side = int(vq.get("resolution", RESOLUTION)) // image.factor
    names = values.get("vocabulary_map") or text.ids
    return Source(
        config,
        specs,
        lambda name: torch.cat([files[n] for n in theirs[name]]),
        text,
        names,
        image,
        (side, side),
    )


def _of_meta(folder: Path, vqgan: str | Path | None) -> Source:
    found = sorted((folder / "models").glob("*/params.json")) if (folder / "models").is_dir() else []
    if len(found) != 1:
        sizes = ", ".join(path.parent.name for path in found) or "none"
        raise FileNotFoundError(f"{folder / 'models'} must hold one folder with a params.json: found {sizes}")
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
        raise FileNotFoundError(f"{model} must hold the {wanted or 1} shards of its weights: found {names}")
    shards = [TensorFiles([path]) for path in paths]
    config, specs = _check_meta(params, shards, paths, model)
    checkpoint = Path(vqgan) if vqgan is not None else folder / "tokenizer" / META_IMAGE
    image = load_taming(checkpoint)
    text = BpeTokenizer(read_json(folder / "tokenizer" / META_TEXT, "Chameleon's text tokenizer"))
    side = RESOLUTION // image.factor
    return Source(
        config, specs, lambda name: meta_tensor(config, shards, name), text, text.ids, image, (side, side)
    )


def _check_meta(
    params: Mapping[str, Any], shards: Sequence[TensorFiles], paths: Sequence[Path], model: Path
) -> tuple[FusionLMConfig, dict[str, Spec]]:
    """The config, and what each tensor of ours will be: the shapes are those of the config, the type is that
    of the embedding; what does not fit is refused."""
    head = "output.weight"
    for path, shard in zip(paths, shards, strict=True):
        if head not in shard:
            raise ValueError(f"{path} lacks the tensor {head!r}")
    vocab_size = sum(shard.spec(head).shape[0] for shard in shards)
    config = config_from_meta(params, vocab_size, str(model / "params.json"))
    S = len(shards)
    for name, size in (("n_heads", config.n_heads), ("n_kv_heads", config.n_kv_heads)):
        if size % S:
            raise ValueError(f"{model}: {name} is {size}, which {S} shards do not divide")
    expected = _meta_shapes(config, S)
    for path, shard in zip(paths, shards, strict=True):
        for name in sorted(set(expected) | set(shard)):
            if name not in shard:
                raise ValueError(f"{path} lacks the tensor {name!r}")
            if name not in expected:
                if name.endswith("rope.freqs"):
                    continue
                raise ValueError(f"{path} holds the tensor {name!r}, for which Chameleon has no place")
            if shard.spec(name).shape != expected[name]:
                raise ValueError(
                    f"{path}: {name} has the shape {shard.spec(name).shape}, expected {expected[name]}"
                )
    types = {shard.spec(name).dtype for shard in shards for name in expected}
    if len(types) > 1:
        raise ValueError(f"{model} holds tensors of different types: {types}")
    dtype = types.pop()
    return config, {p.name: Spec((sum(p.rows), *p.rest), dtype) for p in parts(config)}


def _meta_shapes(config: FusionLMConfig, S: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in one of ``S`` shards."""
    C, D, V, F = config.width, config.head_width, config.vocab_size // S, config.ffn_width // S
    H, Hkv = config.n_heads // S, config.n_kv_heads // S
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (config.vocab_size, C // S),
        "output.weight": (V, C),
        "norm.weight": (C,),
    }
    for n in range(config.n_layers):
        attention, ffn = f"layers.{n}.attention.", f"layers.{n}.feed_forward."
        shapes |= {
            f"layers.{n}.attention_norm.weight": (C,),
            f"layers.{n}.ffn_norm.weight": (C,),
            f"{attention}wq.weight": (H * D, C),
            f"{attention}wk.weight": (Hkv * D, C),
            f"{attention}wv.weight": (Hkv * D, C),
            f"{attention}wo.weight": (C, H * D),
            f"{ffn}w1.weight": (F, C),
            f"{ffn}w2.weight": (C, F),
            f"{ffn}w3.weight": (F, C),
        }
        for x in "qk":
            shapes |= {f"{attention}{x}_normalization.{kind}": (D,) for kind in ("weight", "bias")}
    return shapes


def _with_decoder(image: ImageTokenizer, checkpoint: Path) -> ImageTokenizer:
    """The image tokenizer of ``checkpoint``, which must be the same one, with its decoder.

    :raises ValueError: its encoder or codebook is another.
    """
    whole = load_taming(checkpoint)
    mine, other = image.state_dict(), whole.state_dict()
    for name, tensor in mine.items():
        if name not in other or not torch.equal(tensor, other[name]):
            raise ValueError(
                f"{checkpoint} is the checkpoint of another image tokenizer: {name} differs from the model's"
            )
    return whole
