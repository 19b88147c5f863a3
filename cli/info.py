"""``earlyfusion info``: describes a folder or checkpoint, from its JSON files and the headers of its weights.

Imports no torch, so it is instant. ``KINDS`` and ``FILES`` list what it recognizes.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..eval.report.page import numbers
from ..storage.hub import nearest, packaged
from .terminal import add_command

if TYPE_CHECKING:
    from ..tokenizers.layout import Layout

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
VOCAB = "vocab.json"
PREPARED = "prepare.json"
CODES = "codes.json"
LAST = "last.ckpt"
METRICS = "metrics.csv"
STAGES = "stages.json"
FIGURES = ("loss", "text", "image", "psnr", "exact_match")
"""What is said of a run's last logged figures."""
NETWORK = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
"""Prefixes of the names of an image tokenizer's weights, its codebooks left out."""

Lines = Iterable[tuple[str, str]]
"""Pairs of a name and its value."""


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "info",
        "summarize a model, tokenizer, prepared folder or checkpoint",
        """\
Summarize a folder that another command wrote, with the format of its files: a model, an
image, text or document tokenizer, a recognizer, prepared windows, codes, a run of a training
or of the demo with its last figures, or a checkpoint. Takes the names of packaged models, too.""",
        """\
  earlyfusion info openmoji-words
  earlyfusion info runs/demo""",
        run,
    )
    parser.add_argument(
        "folder", metavar="FOLDER", help="folder that another command wrote, a .ckpt file, or openmoji-words"
    )


def run(args: Namespace) -> None:
    print("\n".join(describe(packaged(args.folder))))


def describe(path: Path) -> list[str]:
    """A few lines about a folder or a checkpoint.

    Raises:
        FileNotFoundError: ``path``, or one of its files, is missing.
        ValueError: ``path`` is of unknown kind, or damaged.
    """
    try:
        return _described(path)
    except (TypeError, AttributeError, LookupError) as error:  # of a JSON file
        raise ValueError(f"{path} is damaged, a value has a wrong type: {error}") from None


def _described(path: Path) -> list[str]:
    from ..storage.files import read_json

    if not path.exists():
        raise FileNotFoundError(
            f"{path} not found: {nearest(path)}expected a model or tokenizer folder, or a checkpoint"
        )
    if path.suffix == ".ckpt":
        return _lines(f"{path}: a checkpoint", _checkpoint(path))
    if not path.is_dir():
        raise ValueError(f"{path} is a file: expected a model or tokenizer folder, or a checkpoint")
    if (path / CONFIG).exists():
        config = read_json(path / CONFIG, "a config")
        if config.get("kind") not in KINDS:
            known = ", ".join(map(repr, KINDS))
            raise ValueError(f"{path / CONFIG} is of kind {config.get('kind')!r}, expected one of {known}")
        kind = KINDS[config["kind"]]
        return _lines(f"{path}: {kind.title}, format {config.get('format')}", kind.lines(path, config))
    for name, title, lines in FILES:
        if (path / name).exists():
            return _lines(f"{path}: {title}", lines(path))
    known = (CONFIG, *(file for file, _, _ in FILES))
    inside = sorted(found.parent for name in known for found in path.glob(f"*/{name}"))
    hint = f"; did you mean {inside[0]}?" if inside else ""
    raise ValueError(f"{path} is not a model or tokenizer: it has no {CONFIG}, {VOCAB} or text.model{hint}")


def _model(folder: Path, config: dict[str, Any]) -> Lines:
    from ..fusion_lm.config import FusionLMConfig, shapes, upgrade

    made = _config(FusionLMConfig, upgrade, folder, config, "a transformer")
    found = _header(folder)
    wanted = shapes(made)
    for name in sorted(set(wanted) | set(found)):
        if wanted.get(name) != (shape := found[name][0] if name in found else None):
            raise ValueError(
                f"{folder / WEIGHTS}: {name} has shape {shape}, {CONFIG} requires {wanted.get(name)}"
            )
    yield "transformer", _weights(folder)
    heads = f"{made.n_heads} heads ({made.n_kv_heads} of keys and values)"
    yield "shape", f"{made.n_layers} layers, width {made.width}, {heads}, feed-forward {made.ffn_width}"
    yield "context", f"{made.context_length} tokens"
    yield from _documents(folder / "tokenizer")


def _documents(folder: Path) -> Lines:
    from ..storage.files import read_json
    from ..tokenizers.vocab import SharedVocab

    vocab = SharedVocab.load(folder)
    stored = read_json(folder / VOCAB, "a vocabulary").get("format")
    yield "vocabulary", f"{vocab.size:,} tokens, format {stored}"
    framed = {role for m in vocab.framed for role in (f"begin_{m.name}", f"end_{m.name}")}
    yield "", ", ".join(f"{role} {token}" for role, token in vocab.roles.items() if role not in framed)
    for modality in vocab.modalities:
        if (layout := modality.layout) is None:
            yield "", f"{modality.name} {_ranges(modality.ranges)}"
            continue
        slots = f", {layout.slots} codes per position" if layout.slots > 1 else ""
        frame = f"begin {layout.begin}, end {layout.end}, {_sizes(layout)}"
        yield "", f"{modality.name}: {frame}; codes {_ranges(modality.ranges)}{slots}"
    yield from _text(folder)
    for modality in vocab.framed:
        codec = folder / modality.name
        config = read_json(codec / CONFIG, f"the config of the {modality.name} tokenizer")
        if (kind := KINDS.get(config.get("kind", ""))) is not None:
            yield from kind.lines(codec, config)


def _text(folder: Path) -> Lines:
    from ..tokenizers.bpe import FILE, BpeTokenizer, load_text
    from ..tokenizers.text import FILE as TEXT

    text = load_text(folder)
    kind, file = ("BPE", FILE) if isinstance(text, BpeTokenizer) else ("sentencepiece", TEXT)
    yield "text", f"{kind}, {text.vocab_size:,} pieces, {numbers.size((folder / file).stat().st_size)}"


def _image(folder: Path, config: dict[str, Any]) -> Lines:
    from ..tokenizers.image_config import ImageTokenizerConfig, upgrade

    made = _config(ImageTokenizerConfig, upgrade, folder, config, "an image tokenizer")
    factor, n = made.factor, made.codes_per_position
    codes = f"{made.codebook_size:,} codes of width {made.codebook_dim}"
    what = "code" if n == 1 else "position"
    slots = "" if n == 1 else f"{n} codes per position, each of "
    bits = n * math.log2(made.codebook_size) / factor**2
    yield "images", f"{factor} x {factor} pixels per {what}, {slots}{codes}, {bits:.3g} bits per pixel"
    channels = ", ".join(map(str, made.channels))
    decoder = "" if made.decoder else "; no decoder"
    if made.decoder and made.decoder_widths != made.channels:
        decoder = f", of the decoder {', '.join(map(str, made.decoder_widths))}"
    yield "VQ-VAE", f"channels {channels}{decoder}; {_weights(folder, NETWORK)}"


def _recognizer(folder: Path, config: dict[str, Any]) -> Lines:
    yield "reads", f"{len(config.get('characters', ''))} characters"
    yield "network", f"channels {', '.join(map(str, config.get('channels', ())))}; {_weights(folder)}"


def _prepared(folder: Path) -> Lines:
    from ..storage.files import read_json

    record = read_json(folder / PREPARED, "a record of prepare")
    yield "format", str(record.get("format", 1))
    yield "windows", f"{record.get('context_length')} tokens each"
    for part in ("train", "validation"):
        if (counts := record.get(part)) is not None:
            tokens = ", ".join(f"{number:,} {name}" for name, number in counts.get("tokens", {}).items())
            yield part, f"{counts.get('windows', 0):,} windows; {tokens}"
    yield from _documents(folder / "tokenizer")


def _codes(folder: Path) -> Lines:
    from ..storage.files import read_json

    index = read_json(folder / CODES, "the index of a folder of codes")
    yield "format", str(index.get("format"))
    yield "tokenizer", f"{index.get('tokenizer')}, {index.get('codebook_size')} codes"
    yield "files", f"{sum(1 for _ in folder.rglob('*.npz')):,}"


def _training_run(folder: Path) -> Lines:
    from ..eval.report.curves import read_metrics

    if (folder / LAST).exists():
        yield from _checkpoint(folder / LAST)
    curves = read_metrics(folder)
    for part in ("train", "validation"):
        names = [
            name for name in curves if name.startswith(f"{part}/") and name.removeprefix(part)[1:] in FIGURES
        ]
        if names:
            step = max(curves[name][-1][0] for name in names)
            told = ", ".join(f"{name.removeprefix(part)[1:]} {curves[name][-1][1]:.4g}" for name in names)
            yield part, f"{told} (step {step})"
    yield from _model_within(folder)


def _demo(folder: Path) -> Lines:
    from ..eval.report.figures import headline
    from ..storage.files import read_json

    stages = read_json(folder / STAGES, "the record of a demo")
    yield "stages", f"{', '.join(name for name, stage in stages.items() if stage.get('done'))} are done"
    if (folder / "results.json").exists():
        for card in headline(read_json(folder / "results.json", "the figures of a demo")):
            yield "held out", f"{card.label}: {card.value} {card.note}"
    yield from _model_within(folder)


def _model_within(folder: Path) -> Lines:
    if (folder / "model" / CONFIG).exists():
        yield "model", f"{folder / 'model'}:"
        for line in describe(folder / "model")[1:]:
            yield "", line.strip()


def _checkpoint(path: Path) -> Lines:
    from .checkpoint_header import read_header

    header = read_header(path)
    settings = header.get("hyper_parameters") or {}
    config = settings.get("config") or {}
    yield "training of", next((what for field, what in NETWORKS.items() if field in config), "unknown")
    yield "format", f"{header.get('format', 1)} (Lightning {header.get('pytorch-lightning_version')})"
    steps = f" of {settings['max_steps']}" if "max_steps" in settings else ""
    yield "step", f"{header['global_step']}{steps}"


NETWORKS = {
    "n_layers": "a transformer",
    "codebook_size": "an image tokenizer",
    "characters": "a recognizer",
}
"""A field of a checkpoint's config by which its network is recognized."""


class Kind(NamedTuple):
    """How to describe a folder whose config.json has this kind."""

    title: str
    lines: Callable[[Path, dict[str, Any]], Lines]


KINDS = {
    "fusion_lm": Kind("a model", _model),
    "image_tokenizer": Kind("an image tokenizer", _image),
    "recognizer": Kind("a recognizer", _recognizer),
    "recogniser": Kind("a recognizer", _recognizer),  # of earlier releases
}
"""By the ``kind`` of a config.json."""

FILES: tuple[tuple[str, str, Callable[[Path], Lines]], ...] = (
    (PREPARED, "prepared windows", _prepared),
    (CODES, "codes of an image tokenizer", _codes),
    (VOCAB, "a document tokenizer", _documents),
    ("text.model", "a text tokenizer", _text),
    ("tokenizer.json", "a text tokenizer", _text),
    (LAST, "a training run", _training_run),
    (METRICS, "a training run", _training_run),
    (STAGES, "a run of the demo", _demo),
)
"""For folders without a config.json: the file to recognize them by, their title, and what describes them."""


def _weights(folder: Path, prefixes: tuple[str, ...] = ("",)) -> str:
    """Number and type of the parameters whose names begin with one of ``prefixes``, and the file's size."""
    found = {name: spec for name, spec in _header(folder).items() if name.startswith(prefixes)}
    count = sum(math.prod(shape) for shape, _ in found.values())
    types = sorted({dtype for _, dtype in found.values()})
    size = (folder / WEIGHTS).stat().st_size
    return f"{numbers.count(count)} parameters ({', '.join(types)}), {numbers.size(size)}"


def _header(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> shape and type of the tensors in a folder's weights."""
    from safetensors import SafetensorError, safe_open

    from ..storage.safetensors_header import check_header

    path = folder / WEIGHTS
    if not path.exists():
        raise FileNotFoundError(f"{path} not found: expected the weights there")
    check_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from None


def _config(kind: type, upgrade: Any, folder: Path, values: dict[str, Any], what: str) -> Any:
    """The dataclass ``kind`` in a config.json."""
    fields = {name: value for name, value in values.items() if name not in ("format", "kind")}
    try:
        return kind(**upgrade(fields))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is not a config of {what}: {error}") from None


def _sizes(layout: "Layout") -> str:
    if layout.shape is not None:
        return f"each of {' x '.join(map(str, layout.shape))} codes"
    assert layout.numbers is not None
    start, count = layout.numbers
    return f"sizes along {layout.axes} axes {start}..{start + count - 1} (up to {count})"


def _ranges(ranges: Iterable[tuple[int, int, int]]) -> str:
    return ", ".join(f"{token}..{token + count - 1}" for token, _, count in ranges)


def _lines(title: str, rows: Lines) -> list[str]:
    return [title, *(f"  {name:<12}{value}" for name, value in rows)]
