"""Sheets of rollouts show every sample of a prompt with its reward."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image, ImageColor

from earlyfusion.eval.report.page.canvas import RIGHT
from earlyfusion.tokenizers.documents import interleave
from earlyfusion.train.rl.samples import Prompt, Sample
from earlyfusion.train.rl.sheets import RolloutSheet, grouped

RUNS = 4


@pytest.fixture
def training(vocab, document_tokenizer, photo) -> Any:
    """Four samples after each of three prompts: two to write, one to read."""

    def words(text: str) -> torch.Tensor:
        ids = torch.tensor(document_tokenizer.text.encode(text))
        return interleave([("text", ids)], vocab, eos=False)

    read = document_tokenizer.encode([photo], eos=False).tokens
    prompts = [
        Prompt(words(name), "write", name) for name in ("red", "Type the word bicycle, please, in small type")
    ]
    prompts.append(Prompt(read, "read", "cat"))
    drawn = photo.resize((64, 16))
    samples = []
    for prompt in prompts:
        for number in range(RUNS):
            picture = drawn if prompt.kind == "write" and number else None
            text = ("cat", "a\ncat", "", "bird")[number] if prompt.kind == "read" else ""
            samples.append(Sample(prompt, prompt.tokens, "eos", text, picture))
    rewards = [0.0, 0.25, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 0.0, 0.0, 0.0]
    return SimpleNamespace(
        last_samples=samples,
        last_rewards=rewards,
        tokenizer=document_tokenizer,
        settings=SimpleNamespace(samples=RUNS),
    )


def trainer(folder: Any) -> Any:
    return SimpleNamespace(is_global_zero=True, default_root_dir=folder, global_step=50, loggers=[])


def test_a_sheet_has_a_row_for_each_prompt(training, tmp_path):
    RolloutSheet(prompts=2).draw(trainer(tmp_path), training)
    rows = [json.loads(line) for line in (tmp_path / "rollouts/step-000050.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == [prompt.prompt.answer for prompt in training.last_samples[:8:4]]
    assert [one["reward"] for row in rows for one in row["samples"]] == training.last_rewards[:8]
    assert [one["size"] for one in rows[0]["samples"]] == [None, [64, 16], [64, 16], [64, 16]]
    with Image.open(tmp_path / "rollouts/step-000050.png") as two:
        width, height = two.size
    RolloutSheet().draw(trainer(tmp_path), training)
    with Image.open(tmp_path / "rollouts/step-000050.png") as three:
        # a column of prompts, then three pictures of 64 px, twice as large and in frames
        assert three.width == width > 160 + 3 * (2 * 64 + 4)
        assert three.height > height > 2 * (2 * 16 + 4)


def test_the_samples_with_the_highest_reward_are_framed(training, tmp_path):
    def green() -> int:
        RolloutSheet(prompts=1).draw(trainer(tmp_path), training)
        with Image.open(tmp_path / "rollouts/step-000050.png") as sheet:
            pixels = sheet.convert("RGB").getcolors(sheet.width * sheet.height) or []
        return sum(count for count, color in pixels if color == ImageColor.getrgb(RIGHT))

    frame = (64 * 2 + 4) * (16 * 2 + 4) - 64 * 2 * 16 * 2
    assert frame <= green() < frame + 100  # and its reward
    training.last_rewards[1] = 1.0
    assert 2 * frame <= green() < 2 * frame + 200
    training.last_rewards[:RUNS] = [0.5] * RUNS
    assert green() == 0


def test_nothing_is_drawn_before_the_first_rollout(training, tmp_path):
    training.last_samples, training.last_rewards = [], []
    RolloutSheet().draw(trainer(tmp_path), training)
    assert not list(tmp_path.iterdir())


def test_samples_and_rewards_belong_together(training):
    with pytest.raises(ValueError, match="12 samples have 11 rewards"):
        grouped(training.last_samples, training.last_rewards[1:], RUNS)
    with pytest.raises(ValueError, match="rollouts.prompts is 0"):
        RolloutSheet(prompts=0)
