"""Mixtures of prepared folders: every window in its turn, in the parts that were asked for."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value

from earlyfusion.data.loader import Batches, InOrder, ordered_batches
from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.data.windows import TokenData, mixed
from earlyfusion.tokenizers.vocab import SharedVocab


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


@pytest.mark.parametrize("draws", [[10, 4], [10, 10], [10, 35], [10, 1]])
def test_a_mixture_goes_through_every_window_in_turn(draws: list[int]):
    lengths = [10, 7]
    epochs = [mixed(lengths, draws, 3, epoch).flatten() for epoch in range(28)]
    assert all(len(epoch) == sum(draws) for epoch in epochs)
    assert all(sorted(epoch[epoch < 10]) == list(range(10)) for epoch in epochs)
    second = [n for epoch in epochs for n in sorted(epoch[epoch >= 10])]
    counts = Counter(second)
    assert set(counts) <= set(range(10, 17)) and sum(counts.values()) == 28 * draws[1]
    assert max(counts.values()) - min(counts.values()) <= 1  # 28 epochs of n draws are 4 n passes
    assert len({tuple(epoch) for epoch in epochs}) == 28
    assert (mixed(lengths, draws, 3, 5) == mixed(lengths, draws, 3, 5)).all()


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
        with pytest.raises(ValueError, match="expected positive parts of all windows that leave some"):
            TokenData(str(prepared), mixture=mixture)
    with pytest.raises(ValueError, match="limit is for one folder"):
        TokenData(str(prepared), mixture={"x": 0.5}, limit=3)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TokenData(str(prepared), mixture={str(tmp_path / "nowhere"): 0.5}).setup("fit")
    other = tmp_path / "other"
    shutil.copytree(texts, other)
    vocab = SharedVocab.load(other / "tokenizer")
    replace(vocab, scan="columns").save(other / "tokenizer")
    with pytest.raises(ValueError, match="was prepared with another tokenizer than"):
        TokenData(str(prepared), mixture={str(other): 0.5}).setup("fit")


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [(7, 3), (10, 0), (4, 1)])
def test_validation_has_every_sample_once_on_any_number_of_ranks(sizes: tuple[int, int], world_size: int):
    groups = [np.arange(sizes[0]), sizes[0] + np.arange(sizes[1])]
    batches = ordered_batches(groups, [4, 2], world_size)
    assert len(batches) % world_size == 0
    assert all(len(batch) for batch in batches)
    ranks = [InOrder(batches, list, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    assert sorted(n for rank in ranks for batch in rank for n in batch) == list(range(sum(sizes)))
    assert all(max(b) < sizes[0] or min(b) >= sizes[0] for b in batches)


def test_a_checkpoint_of_an_earlier_version_is_refused(prepared: Path):
    data = TokenData(str(prepared))
    data.setup("fit")
    with pytest.raises(ValueError, match="the checkpoint is of an earlier version of earlyfusion"):
        data.train_dataloader().load_state_dict({"epoch": 1, "position": 3})
