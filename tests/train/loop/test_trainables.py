"""The registry of what can be trained, and the settings that it names."""

import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import Callback

from earlyfusion.train.image.settings import ImageTokenizerSettings
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.loop.logged_training import LoggedTraining
from earlyfusion.train.loop.settings import TrainingSettings
from earlyfusion.train.loop.trainables import TRAINABLES, Trainable, load, trainable_of


def test_the_registry_imports_nothing_heavy():
    code = """
import sys
import earlyfusion.train.loop.trainables
assert not {"torch", "lightning", "numpy", "jsonargparse"} & set(sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("one", TRAINABLES.values(), ids=TRAINABLES)
def test_all_that_it_names_exists(one: Trainable):
    module, settings = load(one.module), load(one.settings)
    assert issubclass(module, LoggedTraining) and module.settings_class is settings
    assert issubclass(settings, TrainingSettings)
    names = {field.name for field in fields(settings)}
    assert one.linked_settings <= names and set(settings.nested) <= names
    assert not names & (set(settings.removed) | set(settings.renamed))
    assert all(issubclass(load(path), Callback) for path in one.callbacks.values())
    assert set(one.always) <= set(one.callbacks)
    assert ("predict" in one.stages) == (one.predictions is not None)
    for path in (one.data, one.predictions, one.prepare, *(link.compute for link in one.links)):
        assert path is None or callable(load(path))
    assert trainable_of(module.__new__(module)) is one


def test_what_is_not_registered_is_not_found():
    assert trainable_of(SimpleNamespace()) is None


@pytest.mark.parametrize(
    "settings",
    [
        LMSettings(tokenizer="x", lr=0.5, betas=(0.8, 0.9), modality_weights={"image": 0.5, "text": 1.0}),
        ImageTokenizerSettings(quantized_lr=0.1, recognizer="x", seed=3),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_settings_come_back_from_a_checkpoint(settings: TrainingSettings):
    assert type(settings).load(settings.stored()) == settings


def test_settings_of_earlier_versions_are_read():
    old = {**ImageTokenizerSettings().stored(), "l1_weight": 1.0, "quantised_lr": 0.1, "recogniser": "x"}
    del old["quantized_lr"], old["recognizer"]
    assert ImageTokenizerSettings.load(old) == ImageTokenizerSettings(quantized_lr=0.1, recognizer="x")
    lm = {**LMSettings(tokenizer="x").stored(), "modality_weights": [1.0, 1.0, 0.5]}
    lm["config"] = {**lm["config"], "qk_norm": True}
    read = LMSettings.load(lm)
    assert read.modality_weights == {"image": 0.5} and read.config.qk_norm == "layer"
