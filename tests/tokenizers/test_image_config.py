"""Hyper-parameters of the image tokenizer: what is refused, what follows from them, older files."""

import json
import math
import re
from dataclasses import asdict
from typing import Any, get_args

import pytest

from earlyfusion.tokenizers.image_config import ImageTokenizerConfig, QuantizerKind, upgrade


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "vit"}, "architecture is 'vit', expected one of unshuffle, vqgan"),
        ({"norm": "batch"}, "norm is 'batch', expected one of group, layer"),
        ({"quantizer": "pq"}, "quantizer is 'pq', expected one of vq, cosine, simvq, fsq, lfq, ibq"),
        ({"stem": 0}, "stem must be a power of two (1, 2, 4, ...), got 0"),
        ({"stem": 3}, "stem must be a power of two (1, 2, 4, ...), got 3"),
        ({"channels": ()}, "channels must be multiples of 8, one per level, got ()"),
        ({"channels": (8, 12)}, "channels must be multiples of 8, one per level, got (8, 12)"),
        ({"channels": (0, 8)}, "channels must be multiples of 8, one per level, got (0, 8)"),
        ({"res_blocks": 0}, "res_blocks must be at least 1, got 0"),
        ({"z_channels": 0}, "z_channels must be at least 1, got 0"),
        ({"attention_levels": (2,)}, "attention_levels must lie in 0..1, got (2,)"),
        ({"attention_levels": (-1,)}, "attention_levels must lie in 0..1, got (-1,)"),
        ({"codebook_size": 0}, "codebook_size must be at least 1, got 0"),
        ({"codebook_dim": -1}, "codebook_dim must be at least 1, got -1"),
        ({"groups": 0}, "groups must be at least 1, got 0"),
        ({"residual": 0}, "residual must be at least 1, got 0"),
        ({"codebook_decay": 0.0}, "codebook_decay must lie between 0 and 1, got 0.0"),
        ({"codebook_decay": 1.0}, "codebook_decay must lie between 0 and 1, got 1.0"),
        ({"codebook_decay": math.nan}, "codebook_decay must lie between 0 and 1, got nan"),
        ({"dead_code_threshold": -0.1}, "dead_code_threshold must be 0 (off) or more, got -0.1"),
        ({"dead_code_threshold": math.nan}, "dead_code_threshold must be 0 (off) or more, got nan"),
        ({"residual": 2}, "residual is 2, which quantizer 'cosine' cannot do: take vq or simvq, or groups"),
        ({"learnable_codebook": True}, "learnable_codebook is for vq, the quantizer is 'cosine'"),
        (
            {"quantizer": "lfq", "codebook_size": 1000},
            "codebook_size of lfq must be a power of two, got 1000",
        ),
        ({"quantizer": "lfq", "codebook_size": 1}, "codebook_size of lfq must be a power of two, got 1"),
        (
            {"quantizer": "lfq", "codebook_size": 1024, "codebook_dim": 9},
            "codebook_dim is 9, expected at least 10, the channels that lfq rounds",
        ),
        ({"quantizer": "fsq"}, "fsq_levels are (), whose product must be codebook_size, 1024"),
        ({"quantizer": "fsq", "fsq_levels": (8, 8)}, "fsq_levels are (8, 8), whose product must be"),
        ({"quantizer": "fsq", "fsq_levels": (512, 2)}, "fsq_levels must be 3 or more each, got (512, 2)"),
        (
            {"quantizer": "fsq", "fsq_levels": (8, 8, 4, 4), "codebook_dim": 3},
            "codebook_dim is 3, expected at least 4, the channels that fsq rounds",
        ),
        ({"fsq_levels": (32, 32)}, "fsq_levels are for fsq, the quantizer is 'cosine'"),
    ],
)
def test_bad_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        ImageTokenizerConfig(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantizer", get_args(QuantizerKind))
def test_every_kind_can_be_built(quantizer: str) -> None:
    from earlyfusion.tokenizers.quantizer import Quantizer

    fields: dict[str, Any] = {"quantizer": quantizer, "codebook_size": 64, "codebook_dim": 16}
    if quantizer == "fsq":
        fields["fsq_levels"] = (8, 8)
    for groups in (1, 3):
        config = ImageTokenizerConfig(groups=groups, **fields)
        assert Quantizer(config).codebook.shape == (groups * 64, groups * 16)
    if quantizer in ("vq", "simvq"):
        config = ImageTokenizerConfig(groups=3, residual=2, **fields)
        assert Quantizer(config).codebook.shape == (6 * 64, 3 * 16)


def test_what_follows_from_the_fields() -> None:
    codes: dict[str, Any] = {"quantizer": "vq", "codebook_dim": 16, "groups": 3, "residual": 2}
    config = ImageTokenizerConfig(stem=2, channels=(8, 16, 24), **codes)
    assert (config.factor, config.codes_per_position, config.latent_dim) == (8, 6, 48)
    assert ImageTokenizerConfig(stem=1, channels=(8,)).factor == 1


def test_json_gives_the_same_config_back() -> None:
    config = ImageTokenizerConfig(quantizer="fsq", fsq_levels=(8, 8, 4, 4), attention_levels=(1,))
    loaded = ImageTokenizerConfig(**upgrade(json.loads(json.dumps(asdict(config)))))
    assert loaded == config and isinstance(loaded.fsq_levels, tuple)


@pytest.mark.parametrize(("cosine", "kind"), [(True, "cosine"), (False, "vq")])
def test_the_fields_of_earlier_versions(cosine: bool, kind: str) -> None:
    """`cosine` became a kind of quantizer; GroupNorm was the only norm."""
    assert upgrade({"stem": 4, "cosine": cosine}) == {"stem": 4, "norm": "group", "quantizer": kind}
    today = {"stem": 4, "norm": "layer", "quantizer": "simvq"}
    assert upgrade(dict(today)) == today
