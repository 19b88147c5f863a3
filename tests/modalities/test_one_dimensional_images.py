"""An image codec whose codes are a sequence, as TiTok's (arXiv:2406.07550), in the place of a grid."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from earlyfusion import (
    DocumentTokenizer,
    FusionLM,
    FusionLMConfig,
    SharedVocab,
    load_model,
    save_model,
    stream,
)
from earlyfusion.eval.report.tokens import describe
from earlyfusion.fusion_lm.infill import infill
from earlyfusion.fusion_lm.stream import SegmentBegin, SegmentDone
from earlyfusion.tokenizers.layout import Layout
from earlyfusion.tokenizers.modality import CODECS, Modality, Range
from earlyfusion.tokenizers.pixels import to_pil, to_tensor


class Stripes:
    """Six codes from left to right, two slots each: how bright and how red that part is, 0 to 7."""

    codebook_size, codes_per_position = 8, 2

    def takes(self, segment: Any) -> bool:
        return isinstance(segment, Image.Image)

    def prepare(self, segment: Image.Image, layout: Layout, *, whole: bool = False) -> torch.Tensor:
        return to_tensor(segment.convert("RGB").resize((6, 1)))

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        levels = torch.stack([inputs.mean(dim=1), inputs[:, 0]], dim=-1)[:, 0]  # (B, 6, 2)
        return ((levels + 1) * 3.5).round().long()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        bright, red = (codes / 3.5 - 1).unbind(-1)  # (B, 6)
        return torch.stack([red, bright, bright], dim=1)[:, :, None]

    def show(self, decoded: torch.Tensor) -> Image.Image:
        return to_pil(decoded)

    def save(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True)


def test_images_of_one_axis(text_tokenizer, photo, tmp_path, monkeypatch):
    monkeypatch.setitem(CODECS, "image", lambda folder: Stripes())
    pixels = SharedVocab.build(text=text_tokenizer, codebook_size=1, fixed_grid=(1, 1))
    layout, token = Layout(3, 4, shape=(6,), slots=2), pixels.size - 1
    images = Modality("image", (Range(token, 0, 16),), layout)
    vocab = SharedVocab(token + 16, 0, 1, 2, modalities=(pixels["text"], images))
    tokenizer = DocumentTokenizer(vocab, text=text_tokenizer, image=Stripes())  # type: ignore[arg-type]
    tokens = tokenizer.encode(["a ", photo], eos=False).tokens
    block = tokens[-layout.length() :]
    assert len(block) == 1 + 6 * 2 + 1 and vocab.slot(block, "image").tolist() == [-1, *[0, 1] * 6, -1]
    assert tokenizer.decode(tokens)[1].shape == (3, 1, 6)  # type: ignore[union-attr]
    assert [t.place for t in describe(tokenizer, block)][1:4] == [(0,), (0,), (1,)]

    config = FusionLMConfig(vocab.size, 64, n_layers=1, width=32, n_heads=2, n_kv_heads=1, ffn_width=32)
    save_model(tmp_path / "model", FusionLM(config), tokenizer)
    model = load_model(tmp_path / "model")
    begin, done, finished = stream(model, [["a "]], then="image", stop_after="image")
    assert isinstance(begin, SegmentBegin) and begin.shape == (6,)
    assert isinstance(done, SegmentDone) and done.value.size == (6, 1)
    with pytest.raises(ValueError, match="grid of codes.*image have 1 axis"):
        infill(model, [photo], (0, 0, 0.5, 1))
