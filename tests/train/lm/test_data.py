"""The windows of a training: each folder's share, in turn, and resumed exactly."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value

from earlyfusion.data.loader import Batches
from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.lm.data import TokenData


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, tokenizer_folders: tuple[Path, Path]) -> Path:
    """A second prepared folder, of texts alone."""
    folder = tmp_path_factory.mktemp("texts")
    rows = {"text": [f"The cat sees {n} birds and one small house." for n in range(40)]}
    Dataset.from_dict(rows, Features(text=Value("string"))).save_to_disk(str(folder / "set"))
    text, image = map(str, tokenizer_folders)
    settings = {"context_length": 64, "validation_share": 0.0, "max_grid": 16}
    config = PrepareConfig(str(folder / "set"), str(folder / "tokens"), text, image, **settings)
    prepare(config, lambda *_: None)
    return folder / "tokens"


def test_the_parts_are_those_that_were_asked_for(prepared: Path, texts: Path):
    data = TokenData(str(prepared), batch_size=4, mixture={str(texts): 0.3})
    data.setup("fit")
    own, other = (source.length for source in data.sources)
    loader = data.train_dataloader()
    assert data.epochs() == {str(prepared): 0.0, str(texts): 0.0}
    seen = [batch for _ in range(3) for batch in loader]
    windows = torch.cat([batch["windows"] for batch in seen])
    drawn = data.draws()
    assert drawn[0] == own and drawn[1] / sum(drawn) == pytest.approx(0.3, abs=0.03)
    part = float((windows >= own).float().mean())
    assert part == pytest.approx(0.3, abs=0.05)
    for batch in seen:  # each row is the window that it says
        for row, number in zip(batch["tokens"], batch["windows"].tolist()):
            source, place = (data.sources[0], number) if number < own else (data.sources[1], number - own)
            assert torch.equal(row, source.load(np.array([place]))["tokens"][0])
    passed = list(data._batches.position / data._batches.count * np.array([1, drawn[1] / other]))  # type: ignore[union-attr]
    assert list(data.epochs().values())[-1] == pytest.approx(passed[-1])


def test_a_mixture_that_stops_goes_on_with_the_next_windows(prepared: Path, texts: Path):
    def loader() -> Batches:
        data = TokenData(str(prepared), batch_size=4, mixture={str(texts): 0.4}, seed=2)
        data.setup("fit")
        return data.train_dataloader()

    whole = [b["windows"].tolist() for part in (loader(),) for _ in range(4) for b in part]
    first, seen = loader(), []
    for batch in first:
        seen.append(batch["windows"].tolist())
        if len(seen) == 5:
            break
    second = loader()
    second.load_state_dict(first.state_dict())
    while len(seen) < len(whole):
        seen += [batch["windows"].tolist() for batch in second]
    assert seen[: len(whole)] == whole


def test_what_cannot_be_mixed(prepared: Path, texts: Path, tmp_path: Path):
    for mixture in ({"x": 1.0}, {"x": 0.0}, {"x": -0.2}, {"x": 0.6, "y": 0.5}):
        with pytest.raises(ValueError, match="mixture"):
            TokenData(str(prepared), mixture=mixture)
    with pytest.raises(ValueError, match="limit.*mixture"):
        TokenData(str(prepared), mixture={"x": 0.5}, limit=3)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TokenData(str(prepared), mixture={str(tmp_path / "nowhere"): 0.5}).setup("fit")
    other = tmp_path / "other"
    shutil.copytree(texts, other)
    vocab = SharedVocab.load(other / "tokenizer")
    images = replace(vocab["image"], layout=replace(vocab.layout("image"), scan="columns"))
    replace(vocab, modalities=(vocab["text"], images)).save(other / "tokenizer")
    with pytest.raises(ValueError, match="other.*tokenizer"):
        TokenData(str(prepared), mixture={str(other): 0.5}).setup("fit")


def test_token_data_limit(prepared: Path):
    def windows(limit: int | None) -> set[int]:
        data = TokenData(str(prepared), batch_size=4, limit=limit)
        data.setup()
        return {int(i) for batch in data.train_dataloader() for i in batch["windows"]}

    assert windows(4) == set(range(4)) and len(windows(None)) > 8
    with pytest.raises(ValueError, match="limit.*0"):
        TokenData(str(prepared), limit=0)
