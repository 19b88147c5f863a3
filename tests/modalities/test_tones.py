"""A third modality, sixteen tones: documents, training, generation, inspection; no other file changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch

from earlyfusion import DocumentTokenizer, FusionLMConfig, Sampling, load_model, sample
from earlyfusion.data.packing import Document, pack
from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.eval.report.tokens import describe
from earlyfusion.tokenizers.modality import CODECS
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.loop.fit import fit


class Melody(NamedTuple):
    """Pitches 0 to 15."""

    pitches: tuple[int, ...]


class Tones:
    """A codec: one code a tone; decoded, a tone is a number in 0..1."""

    codebook_size, codes_per_position = 16, 1

    def takes(self, segment: Any) -> bool:
        return isinstance(segment, Melody)

    def prepare(self, segment: Melody, layout: Any, *, whole: bool = False) -> torch.Tensor:
        return torch.tensor(segment.pitches) / 15

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        return (15 * inputs).round().long()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes / 15

    def show(self, decoded: torch.Tensor) -> Melody:
        return Melody(tuple(self.encode(decoded).tolist()))

    def save(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True)


def test_tones_are_a_codec_and_an_entry(text_tokenizer, image_tokenizer, vocab, photo, tmp_path, monkeypatch):
    monkeypatch.setitem(CODECS, "tones", lambda folder: Tones())
    vocab = vocab.extended("tones", codebook_size=16, max_size=8)
    tokenizer = DocumentTokenizer(vocab, text=text_tokenizer, image=image_tokenizer, tones=Tones())
    up, down = Melody((1, 2, 3, 4)), Melody((9, 8, 7))
    encoded = tokenizer.encode_many([["up ", up], ["down ", down], [photo, "down ", down, up]] * 8)
    assert [Tones().show(tone) for tone in tokenizer.decode(encoded[2].tokens)[2:]] == [down, up]  # type: ignore[arg-type]

    folder = tmp_path / "tokens"
    tokenizer.save(folder / "tokenizer")
    documents = [Document(one.tokens.numpy()) for one in encoded]
    packed = pack(documents, 96, vocab.pad, np.random.default_rng(0))
    windows = [{"tokens": window.tokens, "documents": window.documents} for window in packed]
    datasets.Dataset.from_list(windows).save_to_disk(str(folder / "train"))
    datasets.Dataset.from_list(windows[:1]).save_to_disk(str(folder / "validation"))
    config = FusionLMConfig(context_length=96, n_layers=1, width=32, n_heads=2, n_kv_heads=1, ffn_width=32)
    settings = LMSettings(tokenizer=str(folder), config=config, lr=2e-2, max_steps=40, warmup_steps=1)
    settings = replace(settings, modality_weights={"tones": 3.0})
    data = TokenData(str(folder), batch_size=4)
    trained = fit(FusionLMTraining(settings), data, tmp_path / "run", log_every=5, tensorboard=False)
    curves = read_metrics(tmp_path / "run")
    assert curves["train/tones"][-1][1] < 0.7 * curves["train/tones"][0][1]
    assert "validation/perplexity/tones" in curves

    model = load_model(trained)
    [[melody]] = sample(model, [["up "]], then="tones", stop_after="tones", sampling={"tones": Sampling(0)})
    assert isinstance(melody, Melody)
    says = [token.says for token in describe(tokenizer, tokenizer.encode([up]).tokens)]
    assert says == ["bos", "begin_tones", "4", "code 1", "code 2", "code 3", "code 4", "end_tones", "eos"]
