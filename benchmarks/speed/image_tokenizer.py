"""Speed of the Chameleon-size image tokenizer, compared with transformers' and a plain implementation.

    .venv/bin/pip install transformers
    .venv/bin/python benchmarks/speed/image_tokenizer.py --out benchmarks/speed/image_tokenizer.json

Encoding is compared with ``ChameleonVQVAE.encode`` of transformers; decoding, which transformers does not
have, with a plain implementation of taming's network (``Plain``). Both sides have the same random weights,
machine, threads and data type, and run alternately, so that other work on the machine slows both; the median
is printed, with minimum and maximum. The codebook is drawn from the distribution of the latents. In float32
the codes are compared: they should differ only for ties, where the distances of the two nearest codes differ
by less than 1e-5.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import machine
import torch
import torch.nn.functional as F
from torch import Tensor

from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.vqvae.cpu import compute_dtype
from earlyfusion.tokenizers.vqvae.taming import from_state

MULTIPLIERS = (1, 1, 2, 2, 4)
TIE = 1e-5
"""Relative difference of the two smallest distances below which float32 cannot decide which is smaller."""


class Result(NamedTuple):
    """One comparison: images per second of every run."""

    name: str
    dtype: str
    size: int
    ours: list[float]
    theirs: list[float]
    codes: dict[str, int] | None
    """Numbers of codes: all, different, and different without a tie."""

    @property
    def ratio(self) -> float:
        """Ratio of the medians."""
        return statistics.median(self.ours) / statistics.median(self.theirs)


class Plain:
    """taming's network over its state dict: GroupNorm, x * sigmoid(x), attention by two products, NCHW."""

    def __init__(self, state: dict[str, Tensor]):
        self.state = state

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> latents before the codebook (B, codebook_dim, h, w)."""
        x = self.conv("encoder.conv_in", x)
        levels = self.count("encoder.down")
        for level in range(levels):
            x = self.level(f"encoder.down.{level}", x)
            if level < levels - 1:
                x = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), 2, 0)
        return self.conv("quant_conv", self.end("encoder", self.middle("encoder", x)))

    def decode(self, x: Tensor) -> Tensor:
        """Codebook vectors (B, codebook_dim, h, w) -> images (B, 3, H, W)."""
        x = self.middle("decoder", self.conv("decoder.conv_in", self.conv("post_quant_conv", x)))
        for level in reversed(range(self.count("decoder.up"))):
            x = self.level(f"decoder.up.{level}", x)
            if level:
                x = self.conv(f"decoder.up.{level}.upsample.conv", F.interpolate(x, scale_factor=2.0))
        return self.end("decoder", x)

    def pixels(self, x: Tensor) -> Tensor:
        """As ``decode``, in [-1, 1]."""
        return self.decode(x).clamp(-1, 1)

    def level(self, name: str, x: Tensor) -> Tensor:
        """Residual blocks, with attention after each if the level has it."""
        for i in range(self.count(f"{name}.block")):
            x = self.block(f"{name}.block.{i}", x)
            if f"{name}.attn.{i}.q.weight" in self.state:
                x = self.attention(f"{name}.attn.{i}", x)
        return x

    def middle(self, part: str, x: Tensor) -> Tensor:
        """Block, attention, block."""
        x = self.block(f"{part}.mid.block_1", x)
        if f"{part}.mid.attn_1.q.weight" in self.state:
            x = self.attention(f"{part}.mid.attn_1", x)
        return self.block(f"{part}.mid.block_2", x)

    def end(self, part: str, x: Tensor) -> Tensor:
        """Norm, activation, convolution."""
        return self.conv(f"{part}.conv_out", self.swish(self.norm(f"{part}.norm_out", x)))

    def block(self, name: str, x: Tensor) -> Tensor:
        """A residual block."""
        h = self.conv(f"{name}.conv1", self.swish(self.norm(f"{name}.norm1", x)))
        h = self.conv(f"{name}.conv2", self.swish(self.norm(f"{name}.norm2", h)))
        return (
            self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.state else x
        ) + h

    def attention(self, name: str, x: Tensor) -> Tensor:
        """One head over all positions."""
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weights = torch.bmm(q.transpose(1, 2), k) * q.shape[1] ** -0.5
        h = torch.bmm(v, weights.softmax(dim=2).transpose(1, 2))
        return x + self.conv(f"{name}.proj_out", h.view(x.shape))

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        """A convolution, by default one that keeps the size."""
        weight = self.state[f"{name}.weight"]
        padding = weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, weight, self.state[f"{name}.bias"], stride, padding)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """GroupNorm of 32 groups."""
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def swish(self, x: Tensor) -> Tensor:
        """x * sigmoid(x)."""
        return x * torch.sigmoid(x)

    def count(self, name: str) -> int:
        """The number of modules in a list."""
        return 1 + max(int(key[len(name) + 1 :].split(".")[0]) for key in self.state if key.startswith(name))


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    reference = transformers_model(args.channels)
    about = facts()
    print(f"machine   {about['machine']}, {about['cpus']} CPUs, {about['system']}")
    print(
        f"torch     {about['torch']}, {about['threads']} threads; transformers {about['transformers']}, "
        f"Python {about['python']}\ncommit    {about['commit']}\n\n"
        f"{'':<30}{'images/s':>10}{'least':>8}{'most':>8}{'theirs':>10}{'least':>8}{'most':>8}{'ratio':>8}",
        flush=True,
    )
    results = []
    for result in comparisons(reference, args):
        figures = "".join(
            f"{statistics.median(runs):>10.3g}{min(runs):>8.3g}{max(runs):>8.3g}"
            for runs in (result.ours, result.theirs)
        )
        name = f"{result.name}, {result.dtype}, {result.size} x {result.size}"
        print(f"{name:<30}{figures}{result.ratio:>8.2f}", flush=True)
        if result.codes is not None:
            c = result.codes
            print(f"  codes {c['all']}, different {c['different']}, without a tie {c['different_no_tie']}")
        results.append(result)
    if args.out:
        rows = [{**r._asdict(), "ratio": r.ratio} for r in results]
        machine.write_figures(args.out, {**about, "channels": args.channels, "results": rows})
    return 0


def parser() -> argparse.ArgumentParser:
    made = machine.described_parser(__doc__)
    made.add_argument("--threads", metavar="N", type=int, help="threads of torch (default: torch's choice)")
    made.add_argument("--repeats", metavar="N", type=int, default=5, help="runs per side (default: 5)")
    made.add_argument(
        "--sizes",
        metavar="PIXELS",
        type=int,
        nargs="*",
        default=[256, 512],
        help="sides of the images in float32, pixels (default: 256 512)",
    )
    made.add_argument(
        "--bfloat16-sizes",
        metavar="PIXELS",
        type=int,
        nargs="*",
        help="sides in bfloat16 (default: the same, or 64 if the CPU emulates bfloat16, which takes minutes)",
    )
    made.add_argument(
        "--channels",
        metavar="N",
        type=int,
        default=128,
        help="width of the first level (default: 128, Chameleon's)",
    )
    made.add_argument("--out", metavar="FILE", help="JSON file to write")
    return made


def comparisons(reference: Any, args: argparse.Namespace) -> Iterator[Result]:
    """Encode and decode, in float32 and in bfloat16."""
    emulated = compute_dtype(torch.empty(0, dtype=torch.bfloat16)) == torch.float32
    halves = args.bfloat16_sizes
    if halves is None:
        halves = [64] if emulated else args.sizes
    for dtype, sizes in ((torch.float32, args.sizes), (torch.bfloat16, halves)):
        if not sizes:
            continue
        reference = reference.to(dtype)
        tokenizer, state = ours(reference)
        kind = str(dtype).removeprefix("torch.")
        for size in sizes:
            images = pictures(size).to(dtype)
            codes = tokenizer.encode(images)
            compared = None
            if dtype == torch.float32:
                compared = compare(reference, images, codes, codes_of(reference.encode(images)))
            runs = measure(partial(tokenizer.encode, images), partial(reference.encode, images), args)
            yield Result("encode", kind, size, *runs, compared)
            vectors = tokenizer.quantizer.decode(codes).movedim(-1, 1).contiguous()
            runs = measure(partial(tokenizer.decode, codes), partial(Plain(state).pixels, vectors), args)
            yield Result("decode", kind, size, *runs, None)


@torch.no_grad()
def transformers_model(channels: int) -> Any:
    """ChameleonVQVAE with random weights and a codebook drawn like its latents."""
    try:
        from transformers.models.chameleon.configuration_chameleon import ChameleonVQVAEConfig
        from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE
    except ImportError:
        raise SystemExit("the comparison needs transformers: pip install transformers") from None
    torch.manual_seed(0)
    width = 2 * channels
    config = ChameleonVQVAEConfig(base_channels=channels, latent_channels=width, embed_dim=width)
    model = ChameleonVQVAE(config).eval()
    latents = model.quant_conv(model.encoder(pictures(128))).movedim(1, -1).flatten(0, 2)
    drawn = torch.randn_like(model.quantize.embedding.weight)
    model.quantize.embedding.weight.copy_(latents.mean(0) + latents.std(0) * drawn)
    return model


def ours(reference: Any) -> tuple[ImageTokenizer, dict[str, Tensor]]:
    """Our tokenizer with the weights of ``reference`` and a random decoder, and its state dict."""
    state: dict[str, Tensor] = dict(reference.state_dict())
    embedding = reference.quantize.embedding.weight
    channels = tuple(state["encoder.conv_in.weight"].shape[0] * n for n in MULTIPLIERS)
    config = ImageTokenizerConfig(
        architecture="vqgan",
        norm="group",
        stem=1,
        channels=channels,
        z_channels=state["encoder.conv_out.weight"].shape[0],
        quantizer="vq",
        codebook_size=embedding.shape[0],
        codebook_dim=embedding.shape[1],
    )
    torch.manual_seed(1)
    random = ImageTokenizer(config).to(embedding.dtype)
    parts = ("decoder.", "post_quant_conv.")
    state |= {name: value for name, value in random.state_dict().items() if name.startswith(parts)}
    return from_state(state).to(embedding.dtype), state


def pictures(size: int) -> Tensor:
    """One image (1, 3, size, size): smooth color patches with lines and noise."""
    generator = torch.Generator().manual_seed(size)
    patches = torch.rand(1, 3, max(2, size // 16), max(2, size // 16), generator=generator) * 2 - 1
    lines = (torch.rand(1, 1, size // 4, size // 4, generator=generator) > 0.8).float()
    grain = torch.randn(1, 3, size, size, generator=generator) * 0.05
    smooth = F.interpolate(patches, (size, size), mode="bicubic")
    return (smooth - F.interpolate(lines, (size, size)) + grain).clamp(-1, 1)


def codes_of(output: Any) -> Tensor:
    """The codes in the output of ``encode``, for any version of transformers."""
    values = output if isinstance(output, tuple) else output.to_tuple()
    return next(value for value in values if isinstance(value, Tensor) and value.dtype == torch.int64)


def compare(reference: Any, images: Tensor, codes: Tensor, theirs: Tensor) -> dict[str, int]:
    """Count codes that differ, and those of them that are not a tie."""
    latents = reference.quant_conv(reference.encoder(images)).movedim(1, -1).flatten(0, 2).double()
    distances = torch.cdist(latents, reference.quantize.embedding.weight.double()).square()
    nearest = distances.topk(2, largest=False).values
    tie = (nearest[:, 1] - nearest[:, 0]) / nearest[:, 0] < TIE
    different = codes.flatten() != theirs.flatten()
    return {
        "all": codes.numel(),
        "distinct": codes.unique().numel(),
        "ties": int(tie.sum()),
        "different": int(different.sum()),
        "different_no_tie": int((different & ~tie).sum()),
    }


def measure(
    ours: Callable[[], Tensor], theirs: Callable[[], Any], args: argparse.Namespace
) -> tuple[list[float], list[float]]:
    """Images per second of both sides, run alternately, after a warm-up run of each."""
    runs: tuple[list[float], list[float]] = ([], [])
    for repeat in range(args.repeats + 1):
        for work, kept in zip((ours, theirs), runs):
            start = time.perf_counter()
            work()
            if repeat:
                kept.append(1 / (time.perf_counter() - start))
    return runs


def facts() -> dict[str, Any]:
    """Machine and versions."""
    return {**machine.facts(), "transformers": version("transformers")}


if __name__ == "__main__":
    sys.exit(main())
