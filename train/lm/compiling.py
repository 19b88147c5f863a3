"""``compile: auto``: compiles the network if the planned steps repay the minutes that it takes."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..loop.cpu_speed import cache_folder, rates

SAVED = 0.2
"""Part of a step's time that compiling saves. Measured: 0.21 of the quick demo's forward and backward
(float32, AVX-512, one thread), 0.22 of a step of 34 M parameters (bfloat16, AMX, two threads)."""
SECONDS = 120.0
"""Time that compiling takes: 64 to 113 s were measured on two cores."""
SAFE = 3.0
"""How many times the saving must exceed ``SECONDS``: once, the step of the quick demo became 18 % slower."""
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled() -> None:
    """Let torch.compile keep its files in ``cache_folder``, not in /tmp, unless the user chose a folder."""
    folder = cache_folder()
    if CACHE in os.environ or folder is None:
        return
    try:
        (folder / "inductor").mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder / "inductor", os.W_OK):
        os.environ[CACHE] = str(folder / "inductor")


def decide(net: nn.Module, tokens_per_step: int, steps: int, device: torch.device) -> tuple[bool, str]:
    """Whether to compile a network for a training, and one line that says why.

    The training's time is estimated from 6 operations per weight and token and from the measured rate of this
    CPU, which is less than the time that it takes.

    Args:
        net: The network.
        tokens_per_step: Tokens of all micro-batches of a step.
        steps: Steps of the whole training.
        device: Where it trains.
    """
    if device.type != "cpu":
        return False, "compile: off, auto decides on CPUs only: give true"
    weights = sum(parameter.numel() for parameter in net.parameters())
    seconds = 6e-9 * weights * tokens_per_step * steps / rates().float32
    saved = SAVED * seconds
    told = f"this training of about {seconds / 60:.0f} minutes would save about {saved / 60:.0f}"
    if saved < SAFE * SECONDS:
        return False, f"compile: off, {told}, and compiling takes about {SECONDS / 60:.0f}"
    if not has_compiler():
        return False, f"compile: off, {told}, but no C++ compiler was found: install g++"
    return True, f"compile: on, {told}"


def has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return bool(get_cpp_compiler())
    except Exception:  # torch has several errors for it
        return False


def compile_safely(net: nn.Module) -> None:
    """Compile ``net`` in place; what cannot be compiled runs as it is, and one line says so."""
    told = False

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        nonlocal told
        from torch._inductor.compile_fx import compile_fx

        try:
            return compile_fx(graph, inputs)  # type: ignore[arg-type,return-value]
        except Exception as error:  # of torch, of the compiler or of the system
            if not told:
                first = str(error).strip().partition("\n")[0]
                print(f"compile: failed, so the network runs uncompiled ({type(error).__name__}: {first})")
            told = True
            return graph.forward

    net.compile(backend=backend)
