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
    for candidate in candidates:
        module, _, attribute = candidate.partition(":")
        found = _module(module)
        if found is not None and hasattr(found, attribute):
            return getattr(found, attribute)
    name = candidates[-1].partition(":")[2]
    modules = _defining(name)
    if len(modules) != 1:
        where = ", ".join(modules) or "no module"
        raise LookupError(f"none of {', '.join(candidates)} exists, and {name} is defined by {where}")
    print(f"golden adapter: {name} was found in {modules[0]}, under none of its paths", file=sys.stderr)
    return getattr(importlib.import_module(f"{PACKAGE}.{modules[0]}"), name)


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
    return get("tokenizers.chameleon:code_name", "fusion_lm.chameleon.vocab:code_name")(code)


# tokenizers and documents


def build_vocab(text: Any, codebook_size: int, **fields: Any) -> Any:
    """The layout of this project: max_grid or fixed_grid, scan, codes_per_position, separator."""
    return Vocab().build(text=text, codebook_size=codebook_size, **fields)


def document_tokenizer(text: Any, image: Any, vocab: Any) -> Any:
    return DocumentTokenizer()(text, image, vocab)


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


def loss_terms(lm: Any, tokens: Any, documents: Any, targets: Any, kinds: Any, of_vocab: Any) -> Any:
    """Means over the target tokens, by modality ``kinds`` (B, T); see ``LossTerms``."""
    options = {"targets": targets, "modality": kinds, "vocab_modality": of_vocab}
    if takes_inputs(lm):
        parameters = inspect.signature(type(lm).forward).parameters
        if "modality" not in parameters and "targets" in parameters:  # what is to be predicted is one thing
            Targets = get("fusion_lm.loss:Targets", "fusion_lm.inputs:Targets", "train.lm.module:Targets")
            pair = Targets(targets, kinds)
            return lm(_inputs(tokens, documents), targets=pair, vocab_modality=of_vocab)
        return lm(_inputs(tokens, documents), **options)
    return lm(tokens, documents=documents, **options)


def takes_inputs(lm: Any) -> bool:
    """Whether ``forward`` takes one object in the place of tokens and documents."""
    parameters = list(inspect.signature(type(lm).forward).parameters)
    return "tokens" not in parameters or "documents" not in parameters


def _inputs(tokens: Any, documents: Any) -> Any:
    return get("fusion_lm.inputs:Inputs", "fusion_lm.model:Inputs")(tokens=tokens, documents=documents)


def targets_of(tokens: Any, documents: Any, vocab: Any, learned: Any = None) -> Any:
    """What packed windows are to predict: a pair of next tokens and their modalities."""
    find = get(
        "fusion_lm.loss:targets_of",
        "train.lm.module:targets_of",
        "data.windows:targets_of",
        "train.lm:targets_of",
    )
    return find(tokens, documents, vocab, learned)


def token_scores(lm: Any, tokens: Any) -> Any:
    """log p and entropy of each token (T,)."""
    return get("fusion_lm.scores:token_scores")(lm, tokens)


def both_ways(lm: Any, vocab: Any, tokens: Any, prompt_length: int) -> float:
    return get("fusion_lm.scores:both_ways")(lm, vocab, tokens, prompt_length)


# generation


@cache
def one_mapping_of_sampling() -> bool:
    """Whether generation takes ``sampling={"text": ..., "image": ...}`` in the place of ``text`` and
    ``image``."""
    return "sampling" in inspect.signature(get("fusion_lm.generate:decode")).parameters


def sampling_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of generation whose ``text`` and ``image`` are fields of Sampling, as this tree takes them."""
    given = {name: Sampling()(**options[name]) for name in ("text", "image") if name in options}
    rest = {name: value for name, value in options.items() if name not in ("text", "image", "guidance")}
    if "guidance" in options:
        rest["guidance"] = Guidance()(**options["guidance"])
    if one_mapping_of_sampling():
        return {**rest, "sampling": given} if given else rest
    return {**rest, **given}


def generate(lm: Any, vocab: Any, prompts: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
    """Each row's tokens, length of the prompt, reason to stop and log-likelihood."""
    results = get("fusion_lm.generate:generate")(lm, vocab, prompts, **sampling_options(options))
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
    """Drawings of a region; ``codes`` and ``log_likelihood`` of each."""
    run = get("fusion_lm.infill:infill")
    if not one_mapping_of_sampling() or "sampling" in inspect.signature(run).parameters:
        return run(model, segments, box, **sampling_options(options))
    try:
        return run(model, segments, box, **sampling_options(options))
    except TypeError:  # of images alone, so that it may take their sampling alone
        image = {"image": Sampling()(**options["image"])} if "image" in options else {}
        rest = {name: value for name, value in options.items() if name != "image"}
        return run(model, segments, box, **sampling_options(rest), **image)


def stream(model: Any, prompts: Sequence[Any], **options: Any) -> Iterator[Any]:
    """Events; a class's name says what one is."""
    return get(":stream", "fusion_lm.stream:stream")(model, prompts, **sampling_options(options))


def sample(model: Any, prompts: Sequence[Any], **options: Any) -> list[list[Any]]:
    """Strings and images."""
    return get(":sample", "fusion_lm.stream:sample")(model, prompts, **sampling_options(options))


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

    reader = get("data.windows:Windows", "data.tokens:Windows", "train.token_data:Windows")(folder)
    rows = reader.load(np.arange(reader.length))
    return {name: values for name, values in rows.items() if name != "windows"}


def training(tokenizer: Path, config: Mapping[str, Any], **settings: Any) -> Any:
    """A training of the transformer, for the tokenizer in a prepared folder."""
    return Training()(str(tokenizer), LMConfig()(**config), **settings)


def fit_lm(module: Any, folder: Path, run: Path, batch_size: int, **options: Any) -> Path:
    """Train in ``run``, or go on there; returns the model's folder."""
    data = get("data.windows:TokenData", "data.tokens:TokenData", "train.token_data:TokenData")
    fit = get("train.loop.fit:fit_lm", "train.lm.fit:fit_lm", "train.fit:fit_lm")
    return fit(
        module, data(str(folder), batch_size=batch_size), run, progress=False, tensorboard=False, **options
    )


def image_training(config: Mapping[str, Any], **settings: Any) -> Any:
    """A training of the image tokenizer."""
    module = get("train.image.module:ImageTokenizerTraining", "train.image_tokenizer:ImageTokenizerTraining")
    return module(ImageConfig()(**config), **settings)


def fit_image_tokenizer(
    module: Any, images: Path, data: Mapping[str, Any], run: Path, **options: Any
) -> Path:
    """Train in ``run`` on a folder of images, or go on there; returns the image tokenizer's folder."""
    images_of = get("data.images:ImageData", "train.data:ImageData")(
        str(images), factor=module.config.factor, **data
    )
    fit = get("train.loop.fit:fit_image_tokenizer", "train.fit:fit_image_tokenizer")
    return fit(module, images_of, run, progress=False, tensorboard=False, **options)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], int]:
    """The hyper-parameters in a checkpoint, and its step."""
    return get(
        "train.loop.fit:read_checkpoint",
        "train.loop.checkpoints:read_checkpoint",
        "train.fit:read_checkpoint",
    )(path)


def modality_weights(weights: Mapping[str, float]) -> str:
    """The option of `earlyfusion lm fit` that gives them."""
    default = inspect.signature(Training().__init__).parameters["modality_weights"].default
    if isinstance(default, tuple | list):
        return f"--model.modality_weights=[{','.join(str(weights[name]) for name in MODALITIES)}]"
    return "--model.modality_weights={" + ", ".join(f"{n}: {w}" for n, w in weights.items()) + "}"
