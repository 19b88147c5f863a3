"""The page for programs: Gradio's client, and the addresses that are open."""

import base64
import http.client
import importlib
import io
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from earlyfusion.fusion_lm.folder import Model
from earlyfusion.fusion_lm.stream import sample
from earlyfusion.playground import api

EXAMPLES = Path(__file__).parents[2] / "playground" / "examples"


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    module: Any = importlib.import_module("gradio_client")
    return module.Client(address, verbose=False)


def uri(name: str) -> str:
    return "data:image/png;base64," + base64.b64encode((EXAMPLES / name).read_bytes()).decode()


def picture(value: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))).convert("RGB")


def status(address: str, path: str, **request: Any) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address.rstrip("/") + path, **request)) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_what_is_composed_is_what_the_python_api_samples(client: Any, model: Model):
    settings = {"samples": 2, "temperature": 0.7, "image_temperature": 0.7, "seed": 5}
    got = client.predict([{"text": "A red apple:"}], settings, api_name="/compose")
    from earlyfusion.fusion_lm.sampling import Sampling

    prompt = ["A red apple:"]
    at = Sampling(temperature=0.7)
    expected = sample(model, [prompt, prompt], sampling=at, seed=5)
    assert len(got) == 2
    for document, segments in zip(got, expected):
        assert document["stop"] == "eos"
        for one, other in zip(document["segments"], segments, strict=True):
            if isinstance(other, str):
                assert one == {"text": other}
            else:
                assert picture(one["image"]).tobytes() == other.tobytes()


def test_tokens_are_inspected(client: Any, model: Model):
    [document] = client.predict([{"text": "A red apple:"}], {"then": "image"}, api_name="/compose")
    tokens = client.predict(document["tokens"], api_name="/inspect")
    assert [token["token"] for token in tokens] == document["tokens"]
    assert tokens[0]["p"] is None and all(0 <= token["p"] <= 1 for token in tokens[1:])
    codes = [token for token in tokens if token["kind"] == "image"]
    assert sorted(tuple(token["place"]) for token in codes) == [(r, c) for r in range(6) for c in range(6)]


def test_a_picture_goes_through_the_tokenizers(client: Any):
    found = client.predict(uri("line.png"), ["openmoji-words", "the same"], api_name="/reconstruct")
    assert [one["tokenizer"] for one in found] == ["openmoji-words", "the same"]
    assert found[0]["bits_per_pixel"] == 12 / 64 and found[0]["psnr"] > 10
    assert picture(found[0]["original"]).size == picture(found[0]["reconstruction"]).size
    assert found[0]["lines"] and all(len(pair) == 2 for pair in found[0]["lines"])


def test_runs_are_those_of_the_folder_alone(client: Any):
    assert client.predict(api_name="/runs") == ["one/lm"]
    assert client.predict("one/lm", api_name="/curves")["train/loss"][1] == [1, 4.98]
    for name in ("../private", "/etc", "one", ""):
        with pytest.raises(Exception, match=repr(name) if name else "''"):
            client.predict(name, api_name="/curves")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("/etc/passwd",), "64 segments"),
        (([{"image": "/etc/passwd"}],), "data:image"),
        (([{"text": "a"}], {"samples": 99}), "samples.*99"),
        (([{"text": "a"}], {"temperature": -1}), "temperature.*-1"),
        (([{"text": "a"}], {"then": "film"}), "film.*text, image"),
        (([{"text": "a"}], {"topk": 3}), "topk.*then, answer, samples"),
        (([{"text": "a"}], {"seed": 2**70}), "seed"),
        (([{"text": "a" * 400}],), "256"),
    ],
)
def test_mistakes_are_reported_in_a_line(client: Any, arguments: tuple[Any, ...], words: str):
    with pytest.raises(Exception, match=words):
        client.predict(*arguments, api_name="/compose")


@pytest.mark.parametrize("token", [10**9, -1, 4432])
def test_invalid_tokens_are_reported(client: Any, token: int):
    with pytest.raises(Exception, match=rf"{token}.*0\.\.4431"):
        client.predict([1, token], api_name="/inspect")


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/x.png", "https://example.org/x.png", "/etc/passwd"])
def test_what_looks_like_a_file_of_gradio_is_not_fetched(
    client: Any, path: str, monkeypatch: pytest.MonkeyPatch
):
    """Gradio searches all input for its files."""
    asked: list[str] = []
    httpx: Any = importlib.import_module("httpx")
    monkeypatch.setattr(httpx.AsyncClient, "get", lambda *args, **more: asked.append(path))
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for arguments, name in (
        (([file],), "/compose"),
        (([{"text": "a"}], {"then": file}), "/compose"),
        ((file,), "/reconstruct"),
        (([file],), "/inspect"),
    ):
        body = {"data": list(arguments)}
        request = urllib.request.Request(
            f"{client.src}gradio_api/call{name}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{client.src}gradio_api/call{name}/{event}") as answer:
            assert b"event: error" in answer.read()
    assert asked == []
    assert [found for found in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if found.is_file()] == []


def test_strips_of_any_shape_are_reconstructed(client: Any):
    for size in ((1, 2000), (3000, 20)):
        file = io.BytesIO()
        Image.new("L", size, 200).save(file, "PNG")
        strip = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        [found] = client.predict(strip, None, api_name="/reconstruct")
        assert found["tokens"] >= 250


def test_only_what_the_page_needs_is_open(address: str):
    for path in (
        "/gradio_api/upload",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://example.org",
        "/file=/etc/passwd",
        "/monitoring",
        "/gradio_api/run/compose",
        "/gradio_api/vibe-code",
        "/static/../../../../etc/passwd",
        "/docs",
    ):
        for method in ("GET", "POST"):
            code, _, body = status(address, path, method=method, data=b"x" if method == "POST" else None)
            assert code in (403, 404, 405) and b"root:" not in body, (method, path, code)


def test_nothing_but_the_stop_button_goes_past_the_queue(address: str):
    known = json.loads(status(address, "/config")[2])["dependencies"]
    functions = [one for one in known if one["backend_fn"]]  # the others run in the browser
    stopping = []
    for function in functions:
        body = json.dumps({"fn_index": function["id"], "data": ["x" * 10_000], "session_hash": "s"}).encode()
        headers = {"Content-Type": "application/json"}
        code, _, _ = status(address, "/gradio_api/run/predict", method="POST", data=body, headers=headers)
        assert code in (200, 404), (function, code)
        stopping += [function["targets"]] * (code == 200)
    assert len(functions) > 10 and len(stopping) == 1


def test_answers_bind_the_page_to_its_server(address: str):
    code, headers, body = status(address, "/")
    assert code == 200 and b"earlyfusion playground" in body
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    assert headers["referrer-policy"] == "no-referrer"


def test_requests_that_are_too_large_or_for_another_name_are_refused(address: str):
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"))
    connection.putrequest("POST", "/gradio_api/queue/join")
    connection.putheader("Content-Length", str(50 << 20))
    connection.endheaders()  # it answers before anything is sent
    answer = connection.getresponse()
    assert answer.status == 413 and b"20 MB" in answer.read()
    connection.close()
    assert status(address, "/", headers={"Host": "evil.example"})[0] == 421


def test_nothing_that_was_sent_is_kept(client: Any):
    gc: Any = importlib.import_module("gc")
    state: Any = importlib.import_module("gradio.state_holder")

    file = io.BytesIO()
    Image.effect_noise((48, 48), 90).save(file, "PNG")
    sent = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    client.predict([{"image": sent}], {"max_new_tokens": 2}, api_name="/compose")
    client.predict(sent, None, api_name="/reconstruct")
    sessions = [found for found in gc.get_objects() if isinstance(found, state.SessionState)]
    assert sessions and all(sent[-200:] not in repr(found.config_values) for found in sessions)
    assert [path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()] == []


def test_the_last_sheet_of_a_run_is_shown_and_a_damaged_one_does_not_hide_the_curves(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    for kind in ("samples", "reconstructions"):
        (run / kind).mkdir(parents=True)
    (run / "metrics.csv").write_text("step,train/loss\n0,1.0\n")
    for name in ("step-999999.png", "step-1000000.png", "step-1a2.png", "step-².png"):
        Image.new("RGB", (4, 4)).save(run / "samples" / name)
    (run / "reconstructions" / "step-000007.png").write_bytes(b"no picture")
    assert [title for title, _ in api.sheets(run.parent, "one")] == ["samples after 1,000,000 steps"]
