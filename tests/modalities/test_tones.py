"""A third modality, sixteen tones: documents, training, generation, inspection; no other file changes."""

from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import torch

from earlyfusion import DocumentTokenizer, FusionLMConfig, Sampling, load_model, sample
from earlyfusion.data.packing import pack
from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.eval.report.tokens import describe
from earlyfusion.tokenizers.documents import split
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


def test_a_modality_is_a_codec_and_an_entry(
    text_tokenizer, image_tokenizer, vocab, photo, tmp_path, monkeypatch
):
    monkeypatch.setitem(CODECS, "tones", lambda folder: Tones())
    vocab = vocab.extended("tones", codebook_size=16, max_size=8)
    tokenizer = DocumentTokenizer(vocab, text=text_tokenizer, image=image_tokenizer, tones=Tones())
    up, down = Melody((1, 2, 3, 4)), Melody((9, 8, 7))
    documents = [["up ", up], ["down ", down], [photo, "down ", down, up]] * 8
    encoded = tokenizer.encode_many(documents)
    whole = tokenizer.decode_parts(split(encoded[2].tokens, vocab))
    assert [name for name, _ in whole] == ["image", "text", "tones", "tones"]
    assert Tones().show(whole[2][1]) == down and Tones().show(whole[3][1]) == up

    tokenizer.save(tmp_path / "tokens" / "tokenizer")
    windows = pack(
        [e.tokens.numpy().astype(np.int32) for e in encoded], 96, vocab.pad, np.random.default_rng(0)
    )
    rows = [{"tokens": w.tokens, "documents": w.documents} for w in windows]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "tokens" / "train"))
    config = FusionLMConfig(context_length=96, n_layers=1, width=32, n_heads=2, n_kv_heads=1, ffn_width=32)
    settings = LMSettings(tokenizer=str(tmp_path / "tokens"), config=config, lr=1e-2, max_steps=30, warmup_steps=1,
                          modality_weights={"tones": 3.0})  # fmt: skip
    folder = fit(FusionLMTraining(settings), TokenData(str(tmp_path / "tokens"), batch_size=4), tmp_path / "run",
                 log_every=5, tensorboard=False)  # fmt: skip
    losses = [loss for _, loss in read_metrics(tmp_path / "run")["train/tones"]]
    assert losses[-1] < 0.7 * losses[0]

    model = load_model(folder)
    [continuation] = sample(
        model, [["up "]], then="tones", stop_after="tones", sampling={"tones": Sampling(0)}
    )
    assert isinstance(continuation[0], Melody) and len(continuation) == 1
    says = [token.says for token in describe(tokenizer, tokenizer.encode([up]).tokens)]
    assert says == ["bos", "begin_tones", "4", "code 1", "code 2", "code 3", "code 4", "end_tones", "eos"]
    with pytest.raises(ValueError, match="'smells'.*text, image, tones"):
        sample(model, [["up "]], then="smells")
