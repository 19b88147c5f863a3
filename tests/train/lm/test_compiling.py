"""``compile: auto``: when it compiles, and what happens where that fails."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.train.lm import compiling
from earlyfusion.train.lm.compiling import CACHE, compile_safely, decide, has_compiler, keep_compiled
from earlyfusion.train.loop.cpu_speed import Rates

CPU = torch.device("cpu")


class Net(nn.Module):
    """A layer; torch's own modules alone are not compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).tanh()


def test_only_a_long_training_on_a_cpu_with_a_compiler_is_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiling, "rates", lambda: Rates(float32=6.0, ratio=0.1))
    monkeypatch.setattr(compiling, "has_compiler", lambda: True)
    net = nn.Linear(1000, 1000, bias=False)  # 1e6 weights: 1 ms for each token
    for steps, expected in ((1790, False), (1810, True)):  # 1 s each; 0.2 s saved; 3 x 120 s to repay
        pays, line = decide(net, 1000, steps, CPU)
        assert pays == expected and "30 minutes" in line
    assert not decide(net, 1000, 9000, torch.device("cuda"))[0]
    monkeypatch.setattr(compiling, "has_compiler", lambda: False)
    pays, line = decide(net, 1000, 9000, CPU)
    assert not pays and "g++" in line


def test_a_compiler_that_is_missing_is_seen():
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert not has_compiler()


def test_a_network_that_does_not_compile_runs_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys):
    def fails(*_: object) -> None:
        raise RuntimeError("no room\nand more")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fails)
    net, x = Net(), torch.randn(3, 4)
    expected = net(x).sum()
    expected.backward()
    gradient = net.linear.weight.grad
    net.zero_grad()
    compile_safely(net)
    assert torch.equal(made := net(x).sum(), expected)
    made.backward()
    torch.testing.assert_close(net.linear.weight.grad, gradient, rtol=0, atol=0)
    net(torch.randn(5, 4))  # another shape, compiled again
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "RuntimeError: no room" in line


def test_compiled_files_are_kept_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("EARLYFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(CACHE, "chosen")
    keep_compiled()
    assert os.environ[CACHE] == "chosen"
    monkeypatch.delenv(CACHE)
    keep_compiled()
    assert os.environ[CACHE] == str(tmp_path / "cache/inductor")
    monkeypatch.delenv(CACHE)
    (tmp_path / "file").touch()
    monkeypatch.setenv("EARLYFUSION_CACHE", str(tmp_path / "file"))
    keep_compiled()
    assert CACHE not in os.environ


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler: no g++ here")
def test_compiled_is_eager_to_rounding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    """Losses to 1e-5 and gradients to 1e-4 of the largest, in float32."""
    monkeypatch.setenv(CACHE, str(tmp_path))
    torch.manual_seed(0)
    net = FusionLM(FusionLMConfig(40, 16, n_layers=1, width=16, n_heads=2, n_kv_heads=1, ffn_width=32))
    tokens, made = torch.randint(0, 40, (2, 17)), []
    for compiled in (False, True):
        if compiled:
            compile_safely(net)
        net.zero_grad()
        loss = net(tokens[:, :-1], targets=tokens[:, 1:]).cross_entropy
        loss.backward()
        made.append((float(loss.detach()), [p.grad for p in net.parameters()]))
    assert made[1][0] == pytest.approx(made[0][0], rel=1e-5)
    for a, b in zip(made[1][1], made[0][1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * float(b.abs().max()))
    assert capsys.readouterr().out == ""
    assert any(tmp_path.rglob("*.cpp"))  # it was compiled
