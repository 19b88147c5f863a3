"""The demo's plan: its budgets, its commands, and their configs."""

from pathlib import Path

import pytest
import yaml

from earlyfusion.cli import prepare
from earlyfusion.cli.main import build_parser, main
from earlyfusion.train.demo.budget import CONFIGS, DEMO, IMAGE_TOKENIZER, LM, PREPARE, load_budget, settings
from earlyfusion.train.demo.stages import Command, Run, stages

BUDGETS = ("full", "long", "quick")
SEED = 3


def commands(budget: str) -> list[Command]:
    run = Run(Path("runs/here"), SEED, CONFIGS / budget)
    return [step for stage in stages(run) for step in stage.steps if not callable(step)]


def of(budget: str, *words: str) -> Command:
    (found,) = (one for one in commands(budget) if one[: len(words)] == list(words))
    return found


def test_the_budgets_are_those_of_the_command():
    assert tuple(sorted(folder.name for folder in CONFIGS.iterdir())) == BUDGETS
    for budget in BUDGETS:
        args = build_parser().parse_args(["demo", "--budget", budget])
        assert args.budget == budget
        files = {file.name for file in (CONFIGS / budget).iterdir()}
        assert files == {DEMO, IMAGE_TOKENIZER, PREPARE, LM}


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_files_of_a_budget_fit_together(budget: str):
    demo = load_budget(CONFIGS / budget)
    image, tokens, lm = (settings(CONFIGS / budget / file) for file in (IMAGE_TOKENIZER, PREPARE, LM))
    run = Run(Path("runs/here"), 0, CONFIGS / budget)
    assert set(demo.seconds) == {stage.name for stage in stages(run)}
    assert demo.corpus.test_words >= 500
    assert image["trainer"]["max_steps"] > image["model"]["autoencoder_steps"]
    factor = image["model"]["config"]["stem"] * 2
    assert len(image["model"]["config"]["channels"]) == 2 and tokens["max_grid"] * factor >= 200
    assert tokens["context_length"] == lm["model"]["config"]["context_length"]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("kind", ["image-tokenizer", "lm"])
def test_the_commands_that_train_read_the_configs(budget: str, kind: str, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*of(budget, kind, "fit"), "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    given = settings(CONFIGS / budget / (LM if kind == "lm" else IMAGE_TOKENIZER))
    assert printed["seed_everything"] == printed["data"]["seed"] == SEED
    assert printed["model"].get("seed", SEED) == SEED
    assert printed["trainer"]["default_root_dir"] == f"runs/here/{kind}"
    for group in ("model", "trainer"):
        for name, value in given[group].items():
            if name not in ("config", "seed", "default_root_dir", "callbacks"):
                assert printed[group][name] == value, name
    for name, value in given["model"]["config"].items():
        assert printed["model"]["config"][name] == value, name


def test_the_drawings_during_the_training_are_of_training_names():
    split = pytest.importorskip("earlyfusion.data.render.split", reason="the extra demo")
    known = {split.sentence(split.DRAW, concept.name) for concept in split.demo_concepts().train}
    for budget in ("quick", "full"):
        lm = settings(CONFIGS / budget / LM)
        assert known.issuperset(lm["samples"]["prompts"]), budget
        assert lm["samples"]["every"] < lm["trainer"]["max_steps"]  # several sheets


@pytest.mark.parametrize("budget", BUDGETS)
def test_prepare_reads_its_config(budget: str):
    config, _ = prepare.parse(of(budget, "prepare")[1:])
    given = settings(CONFIGS / budget / PREPARE)
    assert (config.seed, config.scan, config.out) == (SEED, "columns", "runs/here/tokens")
    assert config.context_length == given["context_length"] and config.max_grid == given["max_grid"]
    assert config.separator == given.get("separator", False)
    assert config.documents == "runs/here/data/documents/train"


@pytest.mark.parametrize("budget", BUDGETS)
def test_all_other_commands_parse(budget: str):
    parser, seen = build_parser(), set()
    for command in commands(budget):
        if command[0] in ("text-tokenizer", "eval"):
            args = parser.parse_args(command)
            assert callable(args.run) and args.out.startswith("runs/here/")
            seen.add(command[1])
    assert seen == {"fit", "reconstruction", "reading", "writing"}


def test_every_command_stays_in_the_runs_folder_but_for_the_configs():
    for command in commands("quick"):
        for word in command:
            if "/" in word:
                assert word.startswith("runs/here/") or Path(word).parent == CONFIGS / "quick", word
