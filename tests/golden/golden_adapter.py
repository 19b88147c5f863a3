"""The one place where the golden record reaches into earlyfusion.

The record must run on two trees whose modules and names differ. Everything that it asks of the package goes
through this file: ``get`` finds a name under the first path that there is, and the functions below it call
what changed its shape. A tree that moves something else is served by a line here, and by nothing elsewhere.

Nothing of the package is imported before it is asked for.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "earlyfusion"
NO_CODE = {"tests", "benchmarks", "docs", "build", "dist", "runs", "pretrained"}
"""Folders of a checkout that hold none of the package."""
MODALITIES = ("structure", "text", "image")


def get(*candidates: str) -> Any:
    """The first of "module:attribute" (below the package) that there is.

    Where none is, the one module that defines the last candidate's attribute at its top; that is told on
    stderr, so that a path can be added.

    :raises LookupError: no module has it, or several have.
    """
    found = find(*candidates)
    if found is not None:
        return found
    name = candidates[-1].partition(":")[2]
    modules = _defining(name)
    if len(modules) != 1:
        where = ", ".join(modules) or "no module"
        raise LookupError(f"none of {', '.join(candidates)} exists, and {name} is defined by {where}")
    print(f"golden adapter: {name} was found in {modules[0]}, under none of its paths", file=sys.stderr)
    return getattr(importlib.import_module(f"{PACKAGE}.{modules[0]}"), name)


def find(*candidates: str) -> Any:
    """The same, or None where no candidate is there."""
    for candidate in candidates:
        module, _, attribute = candidate.partition(":")
        found = _module(module)
        if found is not None and hasattr(found, attribute):
            return getattr(found, attribute)
    return None


@cache
def _module(path: str) -> Any:
    """The module, or None where there is none; a module that there is and that fails says why."""
    parts = path.split(".") if path else []
    for end in range(len(parts) + 1):
        name = ".".join((PACKAGE, *parts[:end]))
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:  # what is above it is a module, not a package
            if not (error.name or "").startswith(PACKAGE):
                raise
            return None
        if spec is None or not _in_tree(spec):
            return None
    return importlib.import_module(".".join((PACKAGE, *parts)))


def _in_tree(spec: Any) -> bool:
    """An installed checkout offers its folders where the imported one has none of that name."""
    root = package_folder().resolve()
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    return any(Path(place).resolve().is_relative_to(root) for place in places)


@cache
def _defining(name: str) -> tuple[str, ...]:
    """The modules that define a class, a function or a value of that name at their top."""
    root = package_folder()
    modules = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if parts[0] in NO_CODE or any(part.startswith(".") for part in parts):
            continue
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body if name in source else ():
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}
            if name in names:
                modules.append(".".join(parts)[: -len(".py")])
    return tuple(modules)


def package_folder() -> Path:
    """The root of the checkout, which is the package."""
    import earlyfusion

    assert earlyfusion.__file__ is not None
    return Path(earlyfusion.__file__).parent


def forget_installed_checkouts() -> None:
    """Take away the finder of `pip install -e`: it stands behind PYTHONPATH, but gives what a tree lacks."""
    mark = "__editable__"
    sys.meta_path[:] = [
        f for f in sys.meta_path if mark not in str(getattr(f, "__module__", type(f).__module__))
    ]
    sys.path_hooks[:] = [hook for hook in sys.path_hooks if mark not in str(getattr(hook, "__module__", ""))]
    sys.path[:] = [place for place in sys.path if mark not in place]
    sys.path_importer_cache.clear()


def loaded_from_elsewhere() -> list[str]:
    """Files of the package's modules that were imported from another tree."""
    root = package_folder().resolve()
    ours = [
        module for name, module in sys.modules.items() if name == PACKAGE or name.startswith(f"{PACKAGE}.")
    ]
    files = [getattr(module, "__file__", None) for module in ours]
    return [file for file in files if file and not Path(file).resolve().is_relative_to(root)]


def config_file(name: str) -> Path:
    """A commented YAML of the tree, wherever it stands."""
    root = package_folder()
    found = [p for p in sorted(root.rglob(name)) if p.relative_to(root).parts[0] not in (*NO_CODE, ".venv")]
    if len(found) != 1:
        raise LookupError(f"expected one {name} in {root}, found {found}")
    return found[0]


def packaged_model() -> Path:
    """The folder of the model that comes with the package."""
    return package_folder() / "pretrained" / "openmoji-words"


def main(argv: Sequence[str]) -> int:
    """The command `earlyfusion`."""
    return get("cli.main:main", "train.cli:main")(list(argv))


# names


def LMConfig() -> Any:
    return get("fusion_lm.model:FusionLMConfig", "fusion_lm.config:FusionLMConfig")


def LM() -> Any:
    return get("fusion_lm.model:FusionLM")


def Sampling() -> Any:
    return get("fusion_lm.sampling:Sampling")


def Guidance() -> Any:
    return get("fusion_lm.guidance:Guidance", "fusion_lm.generate:Guidance")


def ImageConfig() -> Any:
    return get("tokenizers.image_config:ImageTokenizerConfig", "tokenizers.image:ImageTokenizerConfig")


def ImageTokenizer() -> Any:
    return get("tokenizers.image:ImageTokenizer")


def TextTokenizer() -> Any:
    return get("tokenizers.text:TextTokenizer")


def Vocab() -> Any:
    return get("tokenizers.vocab:SharedVocab")


def DocumentTokenizer() -> Any:
    return get("tokenizers.documents:DocumentTokenizer")


def Training() -> Any:
    return get("train.lm.module:FusionLMTraining", "train.lm:FusionLMTraining")


def end_of_turn() -> Any:
    return get("tokenizers.documents:END_OF_TURN")


def chameleon_code_name(code: int) -> str:
    """What Chameleon calls the token of an image code."""
    return get("fusion_lm.chameleon.vocab:code_name", "tokenizers.chameleon:code_name")(code)


# tokenizers and documents


def initialise_codebook(tokenizer: Any, latents: Any) -> None:
    """Fit the codebook of an image tokenizer to latents (N, latent_dim)."""
    name = "initialise_codebook" if hasattr(tokenizer, "initialise_codebook") else "initialize_codebook"
    getattr(tokenizer, name)(latents)


def build_vocab(text: Any, codebook_size: int, **fields: Any) -> Any:
    """The layout of this project: max_grid or fixed_grid, scan, codes_per_position, separator."""
    return Vocab().build(text=text, codebook_size=codebook_size, **fields)


def document_tokenizer(text: Any, image: Any, vocab: Any) -> Any:
    cls = DocumentTokenizer()
    if next(iter(list(inspect.signature(cls.__init__).parameters)[1:])) == "vocab":
        return cls(vocab, text=text, image=image)
    return cls(text, image, vocab)


def encode(tokenizer: Any, segments: Sequence[Any], *, eos: bool = True, **of_images: Any) -> Any:
    """Segments -> tokens (T,); ``of_images`` are policy and max_side."""
    if "options" in inspect.signature(type(tokenizer).encode).parameters:
        return tokenizer.encode(segments, eos=eos, options={"image": of_images} if of_images else {}).tokens
    return tokenizer.encode(segments, eos=eos, **of_images)


def interleave(parts: Sequence[tuple[str, Any]], vocab: Any, **options: Any) -> Any:
    """Parts ("text", ids), ("image", codes), ("turn", nothing) -> tokens (T,)."""
    return get("tokenizers.documents:interleave")(parts, vocab, **options)


def split(tokens: Any, vocab: Any, **options: Any) -> list[tuple[str, Any]]:
    """Tokens of a document -> its parts, as plain pairs."""
    parts = get("tokenizers.documents:split")(tokens, vocab, **options)
    return [(part[0], part[1]) for part in parts]


def role(vocab: Any, name: str) -> int | None:
    """The token of bos, eos, pad, begin_image, end_image or sep."""
    return vocab.roles.get(name)


def modality(vocab: Any, tokens: Any) -> Any:
    """Numbers of MODALITIES for tokens."""
    return vocab.modality(tokens)


def has_layouts(vocab: Any) -> bool:
    """Whether the vocabulary knows its modalities by name, each with a layout."""
    return hasattr(vocab, "modalities")


def image_facts(vocab: Any) -> dict[str, Any]:
    """Of the images: fixed_grid, scan, codes_per_position, codebook_size."""
    if not has_layouts(vocab):
        names = ("fixed_grid", "scan", "codes_per_position", "codebook_size")
        return {name: getattr(vocab, name) for name in names}
    layout = vocab.layout("image")
    sizes = {"codes_per_position": layout.slots, "codebook_size": vocab["image"].codebook_size}
    return {"fixed_grid": layout.shape, "scan": layout.scan, **sizes}


def text_ids(vocab: Any, tokens: Any) -> Any:
    return vocab.to_codes("text", tokens) if has_layouts(vocab) else vocab.tokens_to_text(tokens)


def code_tokens(vocab: Any, codes: Any) -> Any:
    return vocab.to_tokens("image", codes) if has_layouts(vocab) else vocab.codes_to_tokens(codes)


def slots(vocab: Any, tokens: Any) -> Any:
    return vocab.slot(tokens, "image") if has_layouts(vocab) else vocab.slot(tokens)


def numbers_of_grids(vocab: Any) -> list[int]:
    """The tokens that say rows and columns."""
    numbers = vocab.layout("image").numbers if has_layouts(vocab) else vocab.grid
    return [] if numbers is None else list(range(numbers.start, numbers.start + numbers.count))


# the transformer


def load_model(folder: str | Path | None = None, weights: str | None = None) -> Any:
    """A model folder, or the packaged model: a pair of ``lm`` and ``tokenizer``."""
    arguments = [] if folder is None else [folder]
    load = get(":load_model", "fusion_lm.folder:load_model")
    return load(*arguments, **({} if weights is None else {"weights": weights}))


def model_of(lm: Any, tokenizer: Any) -> Any:
    return get("fusion_lm.folder:Model")(lm, tokenizer)


def save_model(folder: str | Path, lm: Any, tokenizer: Any) -> None:
    get("fusion_lm.folder:save_model")(folder, lm, tokenizer)


def logits(lm: Any, tokens: Any, documents: Any = None) -> Any:
    """Tokens (B, T), packed or not -> logits (B, T, V)."""
    if takes_inputs(lm):
        return lm(_inputs(tokens, documents))
    return lm(tokens, documents=documents)


def loss_terms(lm: Any, vocab: Any, tokens: Any, documents: Any, learned: Any = None) -> dict[str, Any]:
    """Losses of packed windows with their statistics: the tensors of ``LossTerms``, by name."""
    import torch

    targets_of = get("train.lm.targets:targets_of", "train.lm.module:targets_of", "train.lm:targets_of")
    targets = targets_of(tokens, documents, vocab, learned)
    if takes_inputs(lm):
        options = {"targets": targets, "modalities": vocab.table(), "statistics": True}
        terms = lm(_inputs(tokens, documents), **options)
    else:
        of_vocab = modality(vocab, torch.arange(vocab.size))
        options = {"targets": targets.tokens, "modality": targets.modality, "vocab_modality": of_vocab}
        terms = lm(tokens, documents=documents, **options)
    return {name: value for name, value in terms._asdict().items() if isinstance(value, torch.Tensor)}


def takes_inputs(lm: Any) -> bool:
    """Whether ``forward`` takes one object in the place of tokens and documents."""
    parameters = inspect.signature(type(lm).forward).parameters
    return "tokens" not in parameters or "documents" not in parameters


def _inputs(tokens: Any, documents: Any) -> Any:
    return get("fusion_lm.inputs:Inputs", "fusion_lm.model:Inputs")(tokens=tokens, documents=documents)


def token_scores(lm: Any, tokens: Any) -> Any:
    """log p and entropy of each token (T,)."""
    return get("fusion_lm.scores:token_scores")(lm, tokens)


def both_ways(lm: Any, vocab: Any, tokens: Any, prompt_length: int) -> float:
    return get("fusion_lm.scores:both_ways")(lm, vocab, tokens, prompt_length)


# generation


@cache
def option_names() -> frozenset[str]:
    """What generation can be asked for."""
    options = find("fusion_lm.prompts:Options")
    if options is not None:
        return frozenset(options.__dataclass_fields__)
    return frozenset(inspect.signature(get("fusion_lm.generate:decode")).parameters)


def options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of generation as this tree takes them. They are given as the first tree had them: ``text`` and
    ``image`` are fields of Sampling, ``guidance`` of Guidance, and grid, max_images, stop_after_image."""
    names, found = option_names(), dict(options)
    given = {name: Sampling()(**found.pop(name)) for name in ("text", "image") if name in found}
    if "guidance" in found:
        found["guidance"] = Guidance()(**found["guidance"])
    if given and "sampling" in names:
        found["sampling"] = given
    else:
        found |= given
    if "grid" in found and "shapes" in names:
        grid = found.pop("grid")
        found["shapes"] = {} if grid is None else {"image": grid}
    if "max_images" in found and "max_blocks" in names:
        found["max_blocks"] = found.pop("max_images")
    if "stop_after_image" in found and "stop_after" in names:
        found["stop_after"] = "image" if found.pop("stop_after_image") else None
    return found


def generate(lm: Any, vocab: Any, prompts: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
    """Each row's tokens, length of the prompt, reason to stop and log-likelihood."""
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
    """Drawings of a region; ``image``, ``codes`` and ``log_likelihood`` of each."""
    return get("fusion_lm.infill:infill")(model, segments, box, **options_of(options))


def stream(model: Any, prompts: Sequence[Any], **options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events, as the first tree had them: kind and fields."""
    factor = model.tokenizer.image.factor
    for event in get(":stream", "fusion_lm.stream:stream")(model, prompts, **options_of(options)):
        kind, fields = type(event).__name__, dict(vars(event))
        if kind.startswith("Segment"):
            kind = "Image" + kind.removeprefix("Segment")
            if fields.pop("modality") != "image":
                raise ValueError(f"{kind} is of no image")
            if "shape" in fields:
                rows, columns = fields.pop("shape")
                fields |= {"width": columns * factor, "height": rows * factor}
            if "value" in fields:
                fields["image"] = fields.pop("value")
        yield kind, fields


def sample(model: Any, prompts: Sequence[Any], **options: Any) -> list[list[Any]]:
    """Strings and images."""
    return get(":sample", "fusion_lm.stream:sample")(model, prompts, **options_of(options))


# data and training


def prepare(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write a prepared folder; returns what its prepare.json says."""
    config = get(
        "data.config:PrepareConfig", "data.prepare_config:PrepareConfig", "train.prepare_config:PrepareConfig"
    )
    run = get("data.prepare:prepare", "train.prepare:prepare")
    return run(config(**settings), lambda *_: None)


def windows(folder: Path) -> dict[str, Any]:
    """All windows of one part of a prepared folder, as training reads them: int64 (B, T) each."""
    import numpy as np

    reader = get("data.windows:Windows", "train.token_data:Windows")(folder)
    rows = reader.load(np.arange(reader.length))
    return {name: values for name, values in rows.items() if name != "windows"}


def training(tokenizer: Path, config: Mapping[str, Any], **settings: Any) -> Any:
    """A training of the transformer, for the tokenizer in a prepared folder."""
    values = {"tokenizer": str(tokenizer), "config": LMConfig()(**config), **settings}
    return _module_of(Training(), "train.lm.settings:LMSettings", values)


def fit_lm(module: Any, folder: Path, run: Path, batch_size: int, **options: Any) -> Path:
    """Train in ``run``, or go on there; returns the model's folder."""
    data = get("train.lm.data:TokenData", "data.windows:TokenData", "train.token_data:TokenData")
    return _fit("fit_lm", module, data(str(folder), batch_size=batch_size), run, options)


def image_training(config: Mapping[str, Any], **settings: Any) -> Any:
    """A training of the image tokenizer."""
    cls = get("train.image.module:ImageTokenizerTraining", "train.image_tokenizer:ImageTokenizerTraining")
    values = {"config": ImageConfig()(**config), **settings}
    return _module_of(cls, "train.image.settings:ImageTokenizerSettings", values)


def fit_image_tokenizer(
    module: Any, images: Path, data: Mapping[str, Any], run: Path, **options: Any
) -> Path:
    """Train in ``run`` on a folder of images, or go on there; returns the image tokenizer's folder."""
    cls = get("train.image.data:ImageData", "data.images:ImageData", "train.data:ImageData")
    return _fit(
        "fit_image_tokenizer", module, cls(str(images), factor=module.config.factor, **data), run, options
    )


def _module_of(cls: Any, settings: str, values: Mapping[str, Any]) -> Any:
    """A training, whose settings are its arguments, or one object."""
    if "settings" in inspect.signature(cls.__init__).parameters:
        return cls(get(settings)(**values))
    return cls(**values)


def _fit(name: str, module: Any, data: Any, run: Path, options: Mapping[str, Any]) -> Path:
    """By a function of its own, or by the one of all trainings."""
    fit = find(f"train.loop.fit:{name}", f"train.fit:{name}") or get("train.loop.fit:fit")
    return fit(module, data, run, progress=False, tensorboard=False, accelerator="cpu", **options)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], int]:
    """The hyper-parameters in a checkpoint, and its step."""
    read = get(
        "train.loop.resume:read_checkpoint", "train.loop.fit:read_checkpoint", "train.fit:read_checkpoint"
    )
    return read(path)


def modality_weights(weights: Mapping[str, float]) -> str:
    """The option of `earlyfusion lm fit` that gives them."""
    parameter = inspect.signature(Training().__init__).parameters.get("modality_weights")
    if parameter is not None and isinstance(parameter.default, tuple | list):
        return f"--model.modality_weights=[{','.join(str(weights[name]) for name in MODALITIES)}]"
    return "--model.modality_weights={" + ", ".join(f"{n}: {w}" for n, w in weights.items()) + "}"
