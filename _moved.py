"""Old paths of modules, for one release: importing one warns and gives the module at its new path."""

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any

PACKAGE = __name__.rpartition(".")[0]

MOVED = {
    "tokenizers.chameleon": "fusion_lm.chameleon.vocab",
    "tokenizers.quantizer": "tokenizers.vqvae.quantizer",
    "tokenizers.taming": "tokenizers.vqvae.taming",
    "tokenizers.tiles": "tokenizers.vqvae.tiles",
    "tokenizers.unshuffle": "tokenizers.vqvae.unshuffle",
    "tokenizers.vqgan": "tokenizers.vqvae.vqgan",
    "fusion_lm.decoding_weights": "fusion_lm.cpu.packed_weights",
    "train.adversary": "train.image.adversary",
    "train.chameleon": "fusion_lm.chameleon.importer",
    "train.chameleon_export": "fusion_lm.chameleon.exporter",
    "train.cli": "cli.main",
    "train.conversations": "data.conversations",
    "train.data": "train.image.data",
    "train.demo_budget": "train.demo.budget",
    "train.demo_data": "train.demo.corpus",
    "train.divergence": "train.callbacks.divergence",
    "train.fit": "train.loop.fit",
    "train.grow": "train.lm.resize_vocab",
    "train.image_losses": "train.image.losses",
    "train.image_tokenizer": "train.image.module",
    "train.loader": "data.loader",
    "train.logged_training": "train.loop.logged_training",
    "train.lora": "train.lm.lora",
    "train.muon": "train.lm.muon",
    "train.prepare": "data.prepare",
    "train.prepare_config": "data.prepare_config",
    "train.recogniser": "train.image.recognizer",
    "train.rows": "data.rows",
    "train.schedule": "train.loop.schedule",
    "train.shards": "data.shards",
    "train.sources": "data.sources",
    "train.stopping": "train.callbacks.stopping",
    "train.telemetry": "train.lm.telemetry",
    "train.text_images": "data.render.text_images",
    "train.token_data": "train.lm.data",
    "train.workers": "data.workers",
    "eval.bits": "eval.metrics.bits",
    "eval.ceilings": "eval.metrics.ceilings",
    "eval.codebook_map": "eval.report.codebook_map",
    "eval.comparison": "eval.tasks.comparison",
    "eval.curves": "eval.report.curves",
    "eval.drawing": "eval.tasks.drawing",
    "eval.heat_map": "eval.report.heat_map",
    "eval.html": "eval.report.html",
    "eval.lm": "eval.tasks.everything",
    "eval.naming": "eval.tasks.naming",
    "eval.reading": "eval.tasks.reading",
    "eval.reconstruction": "eval.tasks.reconstruction",
    "eval.split": "data.render.split",
    "eval.tokens": "eval.report.tokens",
    "eval.typeset": "data.render.typeset",
    "eval.words": "data.render.words",
    "eval.writing": "eval.tasks.writing",
}
"""What the README and the docs of 0.1 named, and where it is."""

NOW_FOLDERS = {
    "eval.report": "eval.report.run",
    "fusion_lm.chameleon": "fusion_lm.chameleon.weights",
    "train.demo": "train.demo.run",
    "train.lm": "train.lm.module",
}
"""Modules whose old path is a folder now: their names can still be imported from there."""

STUB = "from {package}._moved import forward\nforward(__name__, {old!r})\n"


def install() -> None:
    """Let old paths be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def forward(name: str, old: str) -> None:
    """What a module at an old path does when it is imported, or run by ``python -m``."""
    new = f"{PACKAGE}.{MOVED[old]}"
    if name == "__main__":
        _warn(old, new, stacklevel=3)
        sys.exit(import_module(new).main())
    _warn(old, new, stacklevel=4)
    sys.modules[name] = import_module(new)


def _warn(old: str, new: str, stacklevel: int) -> None:
    message = f"{PACKAGE}.{old} is now {new}; the old path works for one more release"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


# Finder and loaders have no base classes: importlib.abc takes as long to import as all the rest.


class _Finder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        old = fullname.removeprefix(f"{PACKAGE}.")
        if old in MOVED:
            stub: Any = _Stub(old)
            return ModuleSpec(fullname, stub)
        if old in NOW_FOLDERS and (found := PathFinder.find_spec(fullname, path)) is not None:
            folder: Any = _Folder(old)
            spec = ModuleSpec(fullname, folder, is_package=True)
            spec.submodule_search_locations = list(found.submodule_search_locations or ())
            return spec
        return None


class _Loader:
    def __init__(self, old: str) -> None:
        self.old = old

    def create_module(self, spec: ModuleSpec) -> None:
        return None


class _Stub(_Loader):
    """Loads code that calls ``forward``, so that ``python -m`` works too."""

    def get_code(self, fullname: str) -> CodeType:
        return compile(STUB.format(package=PACKAGE, old=self.old), fullname, "exec")

    def exec_module(self, module: ModuleType) -> None:
        forward(module.__name__, self.old)


class _Folder(_Loader):
    """A folder without __init__.py, which also has the names of the module that was there."""

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = partial(self._attribute, module)

    def _attribute(self, folder: ModuleType, name: str) -> Any:
        new = f"{PACKAGE}.{NOW_FOLDERS[self.old]}"
        special = name.startswith("__") or find_spec(f"{folder.__name__}.{name}") is not None
        names = {} if special else vars(import_module(new))
        if getattr(names.get(name), "__module__", new) != new or name not in names:  # only what it defines
            raise AttributeError(f"module {folder.__name__!r} has no attribute {name!r}")
        _warn(self.old, new, stacklevel=3)
        value = folder.__dict__[name] = names[name]
        return value
