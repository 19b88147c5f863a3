"""Old module paths, which work for one more release with a DeprecationWarning."""

import sys
import warnings
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any

PACKAGE = __name__.rpartition(".")[0]

MOVED = {
    "tokenizers.chameleon": "fusion_lm.chameleon.vocab",
    "tokenizers.fields": "storage.fields",
    "tokenizers.files": "storage.files",
    "tokenizers.hub": "storage.hub",
    "tokenizers.nearest": "storage.nearest",
    "tokenizers.pickled_tensors": "storage.pickled_tensors",
    "tokenizers.pickles": "storage.pickles",
    "tokenizers.results": "storage.results",
    "tokenizers.safetensors_header": "storage.safetensors_header",
    "tokenizers.tensor_files": "storage.tensor_files",
    "tokenizers.weights": "storage.weights",
    "tokenizers.quantizer": "tokenizers.vqvae.quantizer",
    "tokenizers.taming": "tokenizers.vqvae.taming",
    "tokenizers.tiles": "tokenizers.vqvae.tiles",
    "tokenizers.unshuffle": "tokenizers.vqvae.unshuffle",
    "tokenizers.vqgan": "tokenizers.vqvae.vqgan",
    "fusion_lm.chameleon": "fusion_lm.chameleon.weights fusion_lm.chameleon.meta",
    "fusion_lm.decoding_weights": "fusion_lm.cpu.packed_weights fusion_lm.choices",
    "train.adversary": "train.image.adversary",
    "train.chameleon": "fusion_lm.chameleon.importer",
    "train.chameleon_export": "fusion_lm.chameleon.exporter",
    "train.cli": "cli.main",
    "train.conversations": "data.reading.conversations",
    "train.data": "train.image.data data.images train.loop.ranks",
    "train.demo": "train.demo.run train.demo.stages train.demo.machine",
    "train.demo_data": "train.demo.corpus train.demo.corpus_files",
    "train.divergence": "train.callbacks.divergence train.loop.optim",
    "train.fit": "train.loop.fit train.loop.trainer train.loop.resume",
    "train.grow": "train.lm.resize_vocab tokenizers.same_tokens",
    "train.image_losses": "train.image.losses",
    "train.image_tokenizer": "train.image.module train.image.settings train.image.losses",
    "train.lm": "train.lm.module train.lm.targets train.lm.sharding",
    "train.loader": "data.loader",
    "train.logged_training": "train.loop.logged_training",
    "train.lora": "train.lm.lora train.lm.settings",
    "train.muon": "train.lm.muon",
    "train.prepare": "data.prepare",
    "train.prepare_config": "data.prepare_config",
    "train.recogniser": "train.image.recognizer",
    "train.rows": "data.reading.rows data.reading.shapes data.prepare_config",
    "train.schedule": "train.loop.schedule train.loop.optim train.loop.resume",
    "train.shards": "data.shards",
    "train.sources": "data.reading.sources data.reading.stored storage.files",
    "train.stopping": "train.callbacks.stopping",
    "train.telemetry": "train.lm.telemetry",
    "train.text_images": "data.render.text_images",
    "train.token_data": "train.lm.data data.windows",
    "train.workers": "data.workers",
    "eval.bits": "eval.metrics.bits",
    "eval.ceilings": "eval.metrics.ceilings",
    "eval.codebook_map": "eval.report.codebook_map",
    "eval.comparison": "eval.tasks.comparison",
    "eval.curves": "eval.report.curves",
    "eval.drawing": "eval.tasks.drawing",
    "eval.heat_map": "eval.report.heat_map",
    "eval.html": "eval.report.page.html eval.report.page.charts",
    "eval.lm": "eval.tasks.everything",
    "eval.naming": "eval.tasks.naming",
    "eval.reading": "eval.tasks.reading eval.tasks.continuations eval.metrics.text",
    "eval.reconstruction": "eval.tasks.reconstruction",
    "eval.report": "eval.report.run",
    "eval.split": "data.render.split",
    "eval.tokens": "eval.report.tokens",
    "eval.typeset": "data.render.typeset",
    "eval.words": "data.render.words data.render.fonts",
    "eval.writing": "eval.tasks.writing eval.tasks.continuations",
}
"""Old module in the README and docs of 0.1 -> the new modules of its names."""


def install() -> None:
    """Make old paths importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def run(old: str) -> None:
    """Run the new module for ``python -m`` of an old path."""
    new = MOVED[old].split()[0]
    _warn(old, new)
    sys.exit(import_module(f"{PACKAGE}.{new}").main())


class _Finder:
    """Finds and loads modules at old paths (without ``importlib.abc``, which is slow to import)."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if _old(fullname) not in MOVED:
            return None
        loader: Any = self
        spec = ModuleSpec(fullname, loader)
        if folder := PathFinder.find_spec(fullname, path):  # train/lm.py is the folder train/lm now
            spec.submodule_search_locations = folder.submodule_search_locations
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__getattr__"] = partial(_attribute, module)

    def get_code(self, fullname: str) -> CodeType:
        return compile(f"from {__name__} import run\nrun({_old(fullname)!r})\n", fullname, "exec")


def _attribute(module: ModuleType, name: str) -> Any:
    """``name`` from the first new module that has it; the import system finds submodules."""
    old = _old(module.__name__)
    own = "__path__" in vars(module) and find_spec(f"{module.__name__}.{name}") is not None
    if not name.startswith("__") and not own:
        for new in MOVED[old].split():
            names = vars(import_module(f"{PACKAGE}.{new}"))
            if name in names:
                _warn(f"{old}.{name}", new)
                return names[name]
    raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")


def _old(fullname: str) -> str:
    return fullname.removeprefix(f"{PACKAGE}.")


def _warn(old: str, new: str) -> None:
    message = f"{PACKAGE}.{old} is now in {PACKAGE}.{new}; the old path works for one more release"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
