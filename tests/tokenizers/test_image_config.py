"""Hyper-parameters of the image tokenizer: invalid values, derived values, older files."""

import json
import math
from dataclasses import asdict
from typing import Any, get_args

import pytest

from earlyfusion.tokenizers.image_config import ImageTokenizerConfig, QuantizerKind, upgrade


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "vit"}, r"architecture.*'vit'.*unshuffle, vqgan"),
        ({"norm": "batch"}, r"norm.*'batch'.*group, layer"),
        ({"quantizer": "pq"}, r"quantizer.*'pq'.*vq, cosine, simvq, fsq, lfq, ibq"),
        ({"stem": 0}, r"stem.*\b0\b.*1"),
        ({"stem": 3}, r"stem.*power of two.*\b3$"),
        ({"channels": ()}, r"channels.*multiples of 8.*\(\)"),
        ({"channels": (8, 12)}, r"channels.*multiples of 8.*\(8, 12\)"),
        ({"channels": (0, 8)}, r"channels.*0.*8"),
        ({"res_blocks": 0}, r"res_blocks.*0.*1"),
        ({"z_channels": 0}, r"z_channels.*0.*1"),
        ({"attention_levels": (2,)}, r"attention_levels.*0\.\.1.*\(2,\)"),
        ({"attention_levels": (-1,)}, r"attention_levels.*-1.*0"),
        ({"codebook_size": 0}, r"codebook_size.*0.*1"),
        ({"codebook_dim": -1}, r"codebook_dim.*-1.*1"),
        ({"groups": 0}, r"groups.*0.*1"),
        ({"residual": 0}, r"residual.*0.*1"),
        ({"codebook_decay": 0.0}, r"codebook_decay.*0 and 1.*0\.0"),
        ({"codebook_decay": 1.0}, r"codebook_decay.*0 and 1.*1\.0"),
        ({"codebook_decay": math.nan}, r"codebook_decay.*nan.*0 to 1"),
        ({"dead_code_threshold": -0.1}, r"dead_code_threshold.*-0\.1.*0"),
        ({"dead_code_threshold": math.nan}, r"dead_code_threshold.*nan.*0"),
        ({"residual": 2}, r"residual.*2.*'cosine'.*simvq.*groups"),
        ({"learnable_codebook": True}, r"learnable_codebook.*vq.*'cosine'"),
        ({"quantizer": "lfq", "codebook_size": 1000}, r"codebook_size.*lfq.*power of two.*1000"),
        ({"quantizer": "lfq", "codebook_size": 1}, r"codebook_size.*lfq.*power of two.*1"),
        ({"quantizer": "lfq", "codebook_size": 1024, "codebook_dim": 9}, r"codebook_dim.*9.*10.*lfq"),
        ({"quantizer": "fsq"}, r"fsq_levels.*\(\).*product.*1024"),
        ({"quantizer": "fsq", "fsq_levels": (8, 8)}, r"fsq_levels.*\(8, 8\).*product.*1024"),
        ({"quantizer": "fsq", "fsq_levels": (512, 2)}, r"fsq_levels.*2.*3"),
        ({"quantizer": "fsq", "fsq_levels": (8, 8, 4, 4), "codebook_dim": 3}, r"codebook_dim.*3.*4.*fsq"),
        ({"fsq_levels": (32, 32)}, r"fsq_levels.*fsq.*'cosine'"),
    ],
)
def test_bad_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ImageTokenizerConfig(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantizer", get_args(QuantizerKind))
def test_every_kind_can_be_built(quantizer: str) -> None:
    from earlyfusion.tokenizers.vqvae.quantizer import Quantizer

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
    """``cosine`` became a kind of quantizer; GroupNorm was the only norm."""
    assert upgrade({"stem": 4, "cosine": cosine}) == {"stem": 4, "norm": "group", "quantizer": kind}
    today = {"stem": 4, "norm": "layer", "quantizer": "simvq"}
    assert upgrade(dict(today)) == today
