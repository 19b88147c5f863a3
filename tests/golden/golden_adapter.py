"""The one place where the golden record reaches into earlyfusion.

The record runs on trees from before and after the rebuild (the one that brought ``fusion_lm/inputs.py``),
whose modules and calls differ. ``PATHS`` says where a name is, so that ``golden_adapter.LM`` is the class in
either tree; the functions below it make the calls that changed. A tree that moves something else needs a line
here, and nothing elsewhere.

No part of the package is imported before it is used.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "earlyfusion"
QUIET: dict[str, Any] = {"progress": False, "tensorboard": False, "accelerator": "cpu"}
"""Options of every ``fit``."""
PATHS = {
    "main": ("cli.main:main", "train.cli:main"),
    # tokenizers
    "TextTokenizer": ("tokenizers.text:TextTokenizer",),
    "ImageTokenizer": ("tokenizers.image:ImageTokenizer",),
    "ImageConfig": ("tokenizers.image:ImageTokenizerConfig",),
    "Vocab": ("tokenizers.vocab:SharedVocab",),
    "END_OF_TURN": ("tokenizers.documents:END_OF_TURN",),
    "interleave": ("tokenizers.documents:interleave",),
    "chameleon_code_name": ("fusion_lm.chameleon.vocab:code_name", "tokenizers.chameleon:code_name"),
    # the transformer
    "LM": ("fusion_lm.model:FusionLM",),
    "LMConfig": ("fusion_lm.model:FusionLMConfig",),
    "Model": ("fusion_lm.folder:Model",),
    "load_model": ("fusion_lm.folder:load_model",),
    "save_model": ("fusion_lm.folder:save_model",),
    "token_scores": ("fusion_lm.scores:token_scores",),
    "both_ways": ("fusion_lm.scores:both_ways",),
    # training
    "read_checkpoint": ("train.loop.resume:read_checkpoint", "train.fit:read_checkpoint"),
}
"""Name -> module and attribute, after the rebuild and, if that differs, before it."""


def __getattr__(name: str) -> Any:
    if name not in PATHS:
        raise AttributeError(name)
    return get(*PATHS[name])


@cache
def package_folder() -> Path:
    """The root of the checkout, which is the package."""
    found = importlib.import_module(PACKAGE).__file__
    assert found is not None
    return Path(found).parent


@cache
def rebuilt() -> bool:
    """Whether the tree is from after the rebuild."""
    return (package_folder() / "fusion_lm" / "inputs.py").is_file()


def get(after: str, before: str | None = None) -> Any:
    """Import "module:attribute", below the package, of a tree from after or before the rebuild."""
    module, _, attribute = (after if before is None or rebuilt() else before).partition(":")
    return getattr(importlib.import_module(f"{PACKAGE}.{module}"), attribute)


def config_file(name: str) -> Path:
    """A commented YAML of the tree."""
    return package_folder() / "train" / "configs" / name


def packaged_model() -> Path:
    """The folder of the model that comes with the package."""
    return package_folder() / "pretrained" / "openmoji-words"


# tokenizers and documents


def initialize_codebook(tokenizer: Any, images: Any) -> None:
    """Fit the codebook of an image tokenizer to the latents of images (B, 3, H, W)."""
    initialize = tokenizer.initialize_codebook if rebuilt() else tokenizer.initialise_codebook
    initialize(tokenizer.latents(images).detach().movedim(1, -1).flatten(0, 2))


def document_tokenizer(text: Any, image: Any, vocab: Any) -> Any:
    cls = get("tokenizers.documents:DocumentTokenizer")
    return cls(vocab, text=text, image=image) if rebuilt() else cls(text, image, vocab)


def encode(tokenizer: Any, segments: Sequence[Any], *, eos: bool = True, **of_images: Any) -> Any:
    """Segments -> tokens (T,); ``of_images`` are policy and max_side."""
    if rebuilt():
        return tokenizer.encode(segments, eos=eos, options={"image": of_images} if of_images else {}).tokens
    return tokenizer.encode(segments, eos=eos, **of_images)


def split(tokens: Any, vocab: Any, **options: Any) -> list[tuple[str, Any]]:
    """Tokens of a document -> its parts, as plain pairs."""
    parts = get("tokenizers.documents:split")(tokens, vocab, **options)
    return [(part[0], part[1]) for part in parts]


def image_facts(vocab: Any) -> dict[str, Any]:
    """The fixed_grid, scan, codes_per_position and codebook_size of images."""
    if not rebuilt():
        names = ("fixed_grid", "scan", "codes_per_position", "codebook_size")
        return {name: getattr(vocab, name) for name in names}
    layout = vocab.layout("image")
    sizes = {"codes_per_position": layout.slots, "codebook_size": vocab["image"].codebook_size}
    return {"fixed_grid": layout.shape, "scan": layout.scan, **sizes}


def text_ids(vocab: Any, tokens: Any) -> Any:
    return vocab.to_codes("text", tokens) if rebuilt() else vocab.tokens_to_text(tokens)


def code_tokens(vocab: Any, codes: Any) -> Any:
    return vocab.to_tokens("image", codes) if rebuilt() else vocab.codes_to_tokens(codes)


def slots(vocab: Any, tokens: Any) -> Any:
    return vocab.slot(tokens, "image") if rebuilt() else vocab.slot(tokens)


def size_tokens(vocab: Any) -> list[int]:
    """The tokens for numbers of rows and columns."""
    numbers = vocab.layout("image").numbers if rebuilt() else vocab.grid
    return [] if numbers is None else list(range(numbers.start, numbers.start + numbers.count))


# the transformer


def logits(lm: Any, tokens: Any, documents: Any = None) -> Any:
    """Tokens (B, T), packed or not -> logits (B, T, V)."""
    return lm(_inputs(tokens, documents)) if rebuilt() else lm(tokens, documents=documents)


def loss_terms(lm: Any, vocab: Any, tokens: Any, documents: Any, learned: Any = None) -> dict[str, Any]:
    """The losses and statistics of packed windows: the tensors of ``LossTerms``, by name."""
    import torch

    targets = get("train.lm.targets:targets_of", "train.lm:targets_of")(tokens, documents, vocab, learned)
    if rebuilt():
        options = {"targets": targets, "modalities": vocab.table(), "statistics": True}
        terms = lm(_inputs(tokens, documents), **options)
    else:
        of_vocab = vocab.modality(torch.arange(vocab.size))
        options = {"targets": targets.tokens, "modality": targets.modality, "vocab_modality": of_vocab}
        terms = lm(tokens, documents=documents, **options)
    return {name: value for name, value in terms._asdict().items() if isinstance(value, torch.Tensor)}


def _inputs(tokens: Any, documents: Any) -> Any:
    return get("fusion_lm.inputs:Inputs")(tokens=tokens, documents=documents)


# generation


def options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of generation as the tree takes them.

    Args:
        options: As before the rebuild: ``text`` and ``image`` are fields of Sampling, ``guidance`` of
            Guidance; the others are ``grid``, ``max_images``, ``stop_after_image`` and the unchanged ones.
    """
    found = dict(options)
    sampling = get("fusion_lm.sampling:Sampling")
    given = {name: sampling(**found.pop(name)) for name in ("text", "image") if name in found}
    if "guidance" in found:
        cls = get("fusion_lm.guidance:Guidance", "fusion_lm.generate:Guidance")
        found["guidance"] = cls(**found["guidance"])
    if not rebuilt():
        return {**found, **given}
    if given:
        found["sampling"] = given
    if "grid" in found:
        found["shapes"] = {"image": found.pop("grid")}
    if "max_images" in found:
        found["max_blocks"] = found.pop("max_images")
    if found.pop("stop_after_image", False):
        found["stop_after"] = "image"
    return found


def generate(lm: Any, vocab: Any, prompts: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
    """The tokens, prompt length, stop reason and log-likelihood of each row."""
    results = get("fusion_lm.generate:generate")(lm, vocab, prompts, **options_of(options))
    return [
        {
            "tokens": result.tokens.tolist(),
            "prompt_length": int(result.prompt_length),
            "stop": str(result.stop),
            "log_likelihood": float(result.log_likelihood),
        }
        for result in results
    ]


def infill(model: Any, segments: Sequence[Any], box: Any, **options: Any) -> list[Any]:
    """Drawings of a region, each with ``image``, ``codes`` and ``log_likelihood``."""
    return get("fusion_lm.infill:infill")(model, segments, box, **options_of(options))


def stream(model: Any, prompts: Sequence[Any], **options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The kind and fields of each event, as they were before the rebuild."""
    factor = model.tokenizer.image.factor
    for event in get("fusion_lm.stream:stream")(model, prompts, **options_of(options)):
        kind, fields = type(event).__name__, dict(vars(event))
        if kind.startswith("Segment"):
            kind = "Image" + kind.removeprefix("Segment")
            if (modality := fields.pop("modality")) != "image":
                raise ValueError(f"{kind} of the modality {modality!r}")
            if "shape" in fields:
                rows, columns = fields.pop("shape")
                fields |= {"width": columns * factor, "height": rows * factor}
            if "value" in fields:
                fields["image"] = fields.pop("value")
        yield kind, fields


def sample(model: Any, prompts: Sequence[Any], **options: Any) -> list[list[Any]]:
    """Strings and images."""
    return get("fusion_lm.stream:sample")(model, prompts, **options_of(options))


# data and training


def prepare(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write a prepared folder. Returns the content of its prepare.json."""
    config = get("data.prepare_config:PrepareConfig", "train.prepare_config:PrepareConfig")
    run = get("data.prepare:prepare", "train.prepare:prepare")
    documents = Path(settings["documents"])
    if (
        "ignore" in config.__dataclass_fields__ and documents.is_dir()
    ):  # rows beside pictures and their metadata
        found = [name for name in ("interleaved.jsonl", "rows.jsonl") if (documents / name).is_file()]
        settings = {"ignore": found, **settings}
    return run(config(**settings), lambda *_: None)


def windows(folder: Path) -> dict[str, Any]:
    """All windows of one part of a prepared folder, as training reads them: int64 (B, T) each."""
    import numpy as np

    reader = get("data.windows:Windows", "train.token_data:Windows")(folder)
    rows = reader.load(np.arange(reader.length))
    return {name: values for name, values in rows.items() if name != "windows"}


def training(tokenizer: Path, config: Mapping[str, Any], **settings: Any) -> Any:
    """A training of the transformer, for the tokenizer in a prepared folder."""
    cls = get("train.lm.module:FusionLMTraining", "train.lm:FusionLMTraining")
    values = {
        "tokenizer": str(tokenizer),
        "config": get("fusion_lm.model:FusionLMConfig")(**config),
        **settings,
    }
    return cls(get("train.lm.settings:LMSettings")(**values)) if rebuilt() else cls(**values)


def fit_lm(module: Any, folder: Path, run: Path, batch_size: int, **options: Any) -> Path:
    """Train or resume in ``run``. Returns the model's folder."""
    data = get("train.lm.data:TokenData", "train.token_data:TokenData")(str(folder), batch_size=batch_size)
    fit = get("train.loop.fit:fit", "train.fit:fit_lm")
    return fit(module, data, run, **QUIET, **options)


def image_training(config: Mapping[str, Any], **settings: Any) -> Any:
    """A training of the image tokenizer."""
    cls = get("train.image.module:ImageTokenizerTraining", "train.image_tokenizer:ImageTokenizerTraining")
    values = {"config": get("tokenizers.image:ImageTokenizerConfig")(**config), **settings}
    return cls(get("train.image.settings:ImageTokenizerSettings")(**values)) if rebuilt() else cls(**values)


def fit_image_tokenizer(
    module: Any, images: Path, options_of_data: Mapping[str, Any], run: Path, **options: Any
) -> Path:
    """Train or resume in ``run`` on a folder of images. Returns the image tokenizer's folder."""
    cls = get("train.image.data:ImageData", "train.data:ImageData")
    data = cls(str(images), factor=module.config.factor, **options_of_data)
    fit = get("train.loop.fit:fit", "train.fit:fit_image_tokenizer")
    return fit(module, data, run, **QUIET, **options)


def modality_weights(structure: float, text: float, image: float) -> str:
    """The option of `earlyfusion lm fit` that sets them."""
    if rebuilt():
        return f"--model.modality_weights={{structure: {structure}, text: {text}, image: {image}}}"
    return f"--model.modality_weights=[{structure},{text},{image}]"
