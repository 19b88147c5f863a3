"""VQ checkpoints in the layout of taming-transformers, read as image tokenizers.

Three projects share the layout: taming's own VQGAN (``{"state_dict": ...}``, with the weights of its losses),
Meta's Chameleon (the same), and LlamaGen (arXiv:2406.06525: ``{"model": ...}``, the same network under other
names, codes compared as unit vectors). The network may be a part of a larger one, under any prefix
(``first_stage_model.``, ``module.``). The config follows from the names and shapes of the tensors.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...storage.pickles import Inert
from ...storage.safetensors_header import check_header
from ...storage.tensor_files import check_finite, load_pytorch
from ..image import ImageTokenizer
from ..image_config import ImageTokenizerConfig

WRAPPERS = ("model", "state_dict")
"""Entries of a checkpoint that hold the weights; the first one counts if several do."""
FIRST = "encoder.conv_in.weight"
"""The tensor by which the network is found."""
COMPILED = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.")
"""What torch.compile and FSDP add to names."""
AVERAGED = re.compile(r"(^|[._])(ema|averaged|swa)([._]|$)")
"""Names of averaged weights, in the entry or the prefix that holds them."""
UNUSED = re.compile(
    r"loss\.|quantize\.codebook_used$|quantize\.embedding\.(cluster_size|embed_avg)$|model_ema\.|epoch$"
)
"""Weights of the losses (discriminator, LPIPS) and statistics of training."""

State = dict[str, Tensor]


def load_taming(path: str | Path, ema: bool = False, **overrides: Any) -> ImageTokenizer:
    """Read the image tokenizer in a checkpoint, in evaluation mode. Nothing in the file is run.

    Args:
        path: A file (.ckpt, .pt, .pth, .bin or .safetensors).
        ema: Take the averaged weights.
        overrides: Fields of ``ImageTokenizerConfig`` that the tensors do not determine: ``quantizer="vq"``
            for a LlamaGen model without unit vectors, ``"cosine"`` for a taming model with them.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It holds another network, or no decoder, or no averaged weights, or NaN.
    """
    path = Path(path)
    return from_state(_network(_read(path), str(path), ema), str(path), **overrides)


def from_state(
    state: State, where: str = "the state dict", *, decoder_needed: bool = True, **overrides: Any
) -> ImageTokenizer:
    """Build the image tokenizer of tensors in taming's or LlamaGen's names.

    Args:
        state: Name -> tensor.
        where: Name of the state in error messages.
        decoder_needed: Reject a state without a decoder.
        overrides: As in ``load_taming``.

    Raises:
        ValueError: As in ``load_taming``.
    """
    llamagen = any(name.startswith("encoder.conv_blocks.") for name in state)
    state = {name: tensor for name, tensor in state.items() if not UNUSED.match(name)}
    if llamagen:
        state = _taming_names(state)
    for name, tensor in state.items():
        check_finite(tensor, name, where)
    config = _config(state, where, "cosine" if llamagen else "vq", decoder_needed)
    try:
        config = replace(config, **overrides)
    except TypeError:
        names = ", ".join(sorted(overrides))
        raise ValueError(f"overrides are {names}, expected fields of ImageTokenizerConfig") from None
    if config.quantizer not in ("vq", "cosine"):
        raise ValueError(f"quantizer is {config.quantizer!r}, expected 'vq' or 'cosine' for this layout")
    tokenizer = ImageTokenizer(config)
    codebook = state.pop("quantize.embedding.weight").float()
    if config.quantizer == "cosine":
        codebook = torch.nn.functional.normalize(codebook, dim=-1)
    _fill(tokenizer, state, codebook, where)
    return tokenizer.eval()


def _read(path: Path) -> Any:
    """What is in a file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected a VQ checkpoint")
    try:
        if path.suffix != ".safetensors":
            return load_pytorch(path)
        check_header(path)
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from None


class _Found(NamedTuple):
    """A network in a checkpoint."""

    entry: str
    """The entries that hold it, such as "state_dict"; "" at the top."""
    prefix: str
    state: State
    """All tensors of the entry."""

    @property
    def averaged(self) -> bool:
        return bool(AVERAGED.search(self.entry) or AVERAGED.search(self.prefix))

    @property
    def name(self) -> str:
        return ", ".join(part for part in (self.entry, self.prefix and f"{self.prefix}*") if part)

    def weights(self) -> State:
        """Its tensors, without the prefix, and without those of networks inside it, such as an average."""
        inner = tuple(n.removesuffix(FIRST) for n in self.state if n.endswith(f".{FIRST}"))
        inner = tuple(one for one in inner if one.startswith(self.prefix) and one != self.prefix)
        return {
            name.removeprefix(self.prefix): tensor
            for name, tensor in self.state.items()
            if name.startswith(self.prefix) and not name.startswith(inner)
        }


def _network(value: Any, where: str, ema: bool) -> State:
    """The tensors of the network in a checkpoint, without wrappers and prefixes."""
    states = dict(_states(value))
    if not states:
        found = f"a pickled {type(value).__name__}" if isinstance(value, Inert) else "no state dict"
        raise ValueError(f"{where} holds {found}, expected a state dict, such as that of model.state_dict()")
    found = [
        _Found(entry, name.removesuffix(FIRST), state)
        for entry, state in states.items()
        for name in state
        if name == FIRST or name.endswith(f".{FIRST}")
    ]
    if not found:
        raise ValueError(f"{where} is not a VQ model in taming's layout: it lacks {FIRST!r}")
    plain, averaged = (([one for one in found if one.averaged == wanted]) for wanted in (False, True))
    flat = len(plain) == 1 and _unflattened(plain[0], where)
    if ema:
        return flat or _only(averaged, where, "averaged weights (--ema)").weights()
    if plain and (averaged or flat):
        warnings.warn(f"{where} holds averaged weights, too: --ema takes those", stacklevel=3)
    return _only(plain or averaged, where, "a VQ model in taming's layout").weights()


def _states(value: Any, entry: str = "", depth: int = 2) -> Iterator[tuple[str, State]]:
    """Every dictionary with tensors, by the names of the entries that lead to it."""
    if not isinstance(value, dict):
        return
    if tensors := {COMPILED.sub("", str(n)): t for n, t in value.items() if isinstance(t, Tensor)}:
        yield entry, tensors
    for name, inner in value.items() if depth else ():
        yield from _states(inner, f"{entry}.{name}".lstrip("."), depth - 1)


def _unflattened(found: _Found, where: str) -> State:
    """The averages that latent-diffusion stores as buffers ``model_ema.NAMEWITHOUTDOTS``; {} if absent."""
    averages = f"{found.prefix}model_ema."
    weights, state = found.weights(), found.state
    if averages + FIRST.replace(".", "") not in state:
        return {}
    for name in weights:
        if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")):
            if averages + name.replace(".", "") not in state:
                raise ValueError(f"{where} lacks the average of the tensor {name!r}: leave --ema out")
    return {name: state.get(averages + name.replace(".", ""), tensor) for name, tensor in weights.items()}


def _only(found: list[_Found], where: str, what: str) -> _Found:
    """The only network, or that of the first of ``WRAPPERS``."""
    if not found:
        raise ValueError(f"{where} holds no {what}")
    for wrapper in WRAPPERS:
        found = [one for one in found if one.entry == wrapper] or found
    if len(found) > 1:
        found = [one for one in found if not one.prefix] or found
    if len(found) > 1:
        names = " and ".join(one.name for one in found)
        raise ValueError(f"{where} holds several networks, under {names}: save the one to import alone")
    return found[0]


def _taming_names(state: State) -> State:
    """Rename LlamaGen's ``conv_blocks.{i}.res`` (in execution order) and ``mid.{i}`` to taming's names."""
    last = max(int(m[1]) for m in (re.match(r"encoder\.conv_blocks\.(\d+)\.", name) for name in state) if m)
    middle = ("block_1", "attn_1", "block_2")

    def level(match: re.Match[str]) -> str:
        part, index = match[1], int(match[2])
        return f"encoder.down.{index}." if part == "encoder" else f"decoder.up.{last - index}."

    renamed = {}
    for name, tensor in state.items():
        new = re.sub(r"^(encoder|decoder)\.conv_blocks\.(\d+)\.", level, name)
        new = re.sub(r"^((?:encoder\.down|decoder\.up)\.\d+)\.res\.", r"\1.block.", new)
        new = re.sub(r"^(encoder|decoder)\.mid\.([0-2])\.", lambda m: f"{m[1]}.mid.{middle[int(m[2])]}.", new)
        renamed[new] = tensor
    return renamed


def _config(state: State, where: str, quantizer: Any, decoder_needed: bool) -> ImageTokenizerConfig:
    """The config that the names and shapes imply."""
    if "quantize.embed.weight" in state:
        raise ValueError(f"{where} has a Gumbel-softmax quantizer; only VQ is supported")
    if "encoder.conv_in.weight" not in state:
        raise ValueError(f"{where} is not a VQ model in taming's layout: it lacks 'encoder.conv_in.weight'")
    decoder = any(name.startswith("decoder.") for name in state)
    if decoder_needed and not decoder:
        raise ValueError(
            f"{where} lacks the decoder (Chameleon in transformers does not have one): use Meta's vqgan.ckpt"
        )

    def shape(name: str) -> torch.Size:
        if name not in state:
            raise ValueError(f"{where} lacks the tensor {name!r} of taming's layout")
        return state[name].shape

    levels = _count(state, r"encoder\.down\.(\d+)\.")
    channels = tuple(shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels))
    start, pixels = shape("encoder.conv_in.weight")[:2]
    if pixels != 3 or not channels or start != channels[0]:
        raise ValueError(
            f"{where}: encoder.conv_in makes {start} channels of {pixels}, expected {channels[0]} of 3"
            if channels
            else f"{where} has no levels (encoder.down.*)"
        )
    codes, width = shape("quantize.embedding.weight")
    z_channels = shape("encoder.conv_out.weight")[0]
    if shape("quant_conv.weight")[:2] != (width, z_channels):
        raise ValueError(
            f"{where}: quant_conv has shape {tuple(shape('quant_conv.weight'))}, expected {width} of "
            f"{z_channels} channels"
        )
    try:
        return ImageTokenizerConfig(
            architecture="vqgan",
            norm="group",
            stem=1,
            channels=channels,
            res_blocks=_count(state, r"encoder\.down\.0\.block\.(\d+)\."),
            z_channels=z_channels,
            attention_levels=tuple(n for n in range(levels) if f"encoder.down.{n}.attn.0.q.weight" in state),
            mid_attention="encoder.mid.attn_1.q.weight" in state,
            decoder=decoder,
            quantizer=quantizer,
            codebook_size=codes,
            codebook_dim=width,
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _count(state: State, pattern: str) -> int:
    """1 + the largest number that ``pattern`` finds in the names."""
    found = (re.match(pattern, name) for name in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _fill(tokenizer: ImageTokenizer, state: State, codebook: Tensor, where: str) -> None:
    """Load every weight of the network, and the codebook with equal use of all codes."""
    wanted = {k: v for k, v in tokenizer.state_dict().items() if not k.startswith("quantizer.")}
    for name in sorted(set(wanted) | set(state)):
        if name not in state:
            raise ValueError(f"{where} lacks the tensor {name!r}")
        if name not in wanted:
            raise ValueError(f"{where} holds the tensor {name!r}, which this network does not have")
        if state[name].shape != wanted[name].shape:
            shapes = tuple(state[name].shape), tuple(wanted[name].shape)
            raise ValueError(f"{where}: {name} has shape {shapes[0]}, expected {shapes[1]}")
    book = {
        "embed": codebook[None],
        "embed_avg": codebook[None],
        "cluster_size": torch.ones(1, len(codebook)),
        "initted": torch.tensor(True),
    }
    for name in tokenizer.quantizer.state_dict():
        state[f"quantizer.{name}"] = book[name.rpartition(".")[2]]
    tokenizer.load_state_dict(state)
