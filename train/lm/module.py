"""Training of the transformer on packed windows of the shared vocabulary."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...eval.metrics.bits import Rates
from ...fusion_lm.folder import save_model
from ...fusion_lm.inputs import Inputs
from ...fusion_lm.loss import LossTerms
from ...fusion_lm.model import FusionLM
from ...tokenizers.documents import TOKENIZER, DocumentTokenizer
from ...tokenizers.vocab import SharedVocab
from ..callbacks.divergence import skipped_steps
from ..loop.logged_training import LoggedTraining, on_host
from ..loop.meters import Means
from ..loop.optim import adamw, scheduled
from ..loop.resume import check_config
from ..loop.schedule import lr_factor
from .compiling import compile_safely, decide, keep_compiled
from .data import TokenData
from .first_weights import drawn, fill, shell, start_from_codebook, stored
from .lora import adapt, merged, trained_names
from .muon import muon
from .resize_vocab import load_resized
from .settings import LMSettings, weight_tensor
from .sharding import is_sharded, shard, whole_net
from .targets import drop_conditions, share_of_all, targets_of, weighted_mean, window_loss


class FusionLMTraining(LoggedTraining):
    """Trains a ``FusionLM``, ``self.net``.

    A batch has ``tokens`` and ``documents`` (B, T), ``windows`` (B,), and ``learned`` (B, T) if not all
    tokens are learned; see ``TokenData``.
    """

    settings_class = LMSettings
    skips = True
    may_differ = ("tokenizer", "compile", "activation_checkpointing", "build_in_shards")
    settings: LMSettings
    net: FusionLM
    modality_weights: Tensor

    def __init__(self, settings: LMSettings) -> None:
        folder = tokenizer_folder(settings.tokenizer)
        vocab = SharedVocab.load(folder)
        settings = settings.for_vocabulary(vocab.size)
        super().__init__(settings)
        self.tokenizer_folder, self.vocab, self.config = folder, vocab, settings.config
        self.shown = ("loss", *vocab.names)
        weights = weight_tensor(settings.modality_weights, vocab.names)  # type: ignore[arg-type]
        self.register_buffer("modality_weights", weights, persistent=False)
        self.net = shell(self.config) if settings.build_in_shards else FusionLM(self.config)
        self.net.activation_checkpointing = settings.activation_checkpointing
        if settings.compile is True:
            keep_compiled()
            self.net.compile()  # in place: the weights keep their names
        self.trained = settings.init_from is not None
        """Whether the weights are trained."""
        if settings.build_in_shards:
            pass  # configure_model creates the weights
        elif settings.init_from is not None:
            net = load_resized(settings.init_from, folder)
            check_config(settings.init_from, net.config, self.config)
            self.net.load_state_dict(net.state_dict())
        else:
            start_from_codebook(self.net, DocumentTokenizer.load(folder))
        adapt(self.net, settings.trained_part, vocab, settings.lora_rank, settings.lora_alpha)
        self.strict_loading = settings.trained_part == "all"  # a checkpoint holds only what is trained
        self.validation_means, self.rates = Means(), Rates.load(folder)
        self.last_loss: Tensor | None = None
        """Loss of the last batch, without the z-loss, which ``Divergence`` checks."""
        self._tokens, self._since = 0, time.perf_counter()

    # batch -> loss

    def forward(self, inputs: Inputs | Tensor, **kwargs: Any) -> Any:
        return self.net(inputs, **kwargs)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Windows -> weighted cross-entropy plus weighted z-loss (scalar)."""
        if self.settings.condition_dropout:
            dropped = torch.rand(batch["tokens"].shape, device=self.device) < self.settings.condition_dropout
            tokens, documents = drop_conditions(batch["tokens"], batch["documents"], self.vocab, dropped)
            batch = {**batch, "tokens": tokens, "documents": documents}
        terms = window_loss(self.net, batch, self.vocab)
        loss = weighted_mean(terms, self.modality_weights)
        self.last_loss = loss.detach()
        z_weight = self.settings.z_loss_weight
        if self.trainer.world_size > 1:
            loss = share_of_all(terms, self.modality_weights, z_weight, self.trainer.strategy)
        else:
            loss = loss + z_weight * terms.z
        _add(self.means, terms)
        self._tokens += batch["tokens"].numel() * self.trainer.world_size
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Losses, bits per byte and pixel, and perplexities of the whole validation set."""
        self._check_trained()
        targets = targets_of(batch["tokens"], batch["documents"], self.vocab, batch.get("learned"))
        terms = window_loss(self.net, batch, self.vocab, targets=targets, statistics=True)
        _add(self.validation_means, terms)
        self.rates.add(terms, targets)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Windows -> ``losses`` (B, T), nats of each next token or 0 without a target, and ``windows``."""
        self._check_trained()
        return {"losses": window_loss(self.net, batch, self.vocab).nll, "windows": batch["windows"]}

    # loss -> step

    def configure_optimizers(self) -> Any:
        """AdamW, with Muon if ``muon_lr`` is given, under the schedule of the settings."""
        s = self.settings
        if s.max_steps < 1:
            raise ValueError(f"max_steps must be positive to train, got {s.max_steps}: set trainer.max_steps")
        common: dict[str, Any] = {"betas": s.betas, "eps": s.eps, "weight_decay": s.weight_decay}
        if s.muon_lr is None:
            optimizer: torch.optim.Optimizer = adamw(self.net, s.lr, **common)
        else:
            optimizer = muon(self.net, s.lr, s.muon_lr, **common)
        shape = (s.max_steps, s.warmup_steps, s.decay_fraction, s.final_lr)
        return scheduled(optimizer, lambda step: lr_factor(s.schedule, step, *shape))

    # figures

    def on_train_start(self) -> None:
        self._tokens, self._since = 0, time.perf_counter()

    def read_figures(self) -> dict[str, float]:
        """The means since the last log entry, the steps skipped so far, and the speed."""
        now = time.perf_counter()
        speed = self._tokens / max(1e-9, now - self._since)
        self._tokens, self._since = 0, now
        data: Any = getattr(self.trainer, "datamodule", None)
        epochs = data.epochs() if isinstance(data, TokenData) else {}
        return {
            **super().read_figures(),
            "skipped_steps": skipped_steps(self.trainer),
            "tokens_per_second": speed,
            **{f"epochs/{name}": passed for name, passed in epochs.items()},
        }

    def on_validation_epoch_end(self) -> None:
        for figures in (self.validation_means, self.rates):
            figures.reduce(self.trainer.strategy)
        values = self.validation_means.read() | self.rates.read()
        values = {f"validation/{name}": value for name, value in values.items()}
        self.log_dict(on_host(values), rank_zero_only=True)

    # weights

    def setup(self, stage: str) -> None:
        """
        Raises:
            ValueError: The windows are longer than the context, or the precision is float16, which overflows.
        """
        super().setup(stage)
        if stage == "fit" and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError("precision is 16-mixed, which overflows: use bf16-mixed, or 32-true")
        data: Any = getattr(self.trainer, "datamodule", None)
        length = getattr(data, "context_length", 0)
        if length > self.config.context_length:
            raise ValueError(
                f"config.context_length is {self.config.context_length}, but the windows in {data.path} have "
                f"{length} tokens: set it to at least {length}"
            )

        if stage == "fit" and self.settings.compile == "auto":
            self._compile_if_it_pays(data)

    def _compile_if_it_pays(self, data: Any) -> None:
        """``compile: auto``."""
        trainer: Any = self.trainer
        if trainer.world_size > 1:
            pays, why = False, "compile: off, auto decides for one process only: give true"
        else:
            windows = getattr(data, "batch_size", 1) * trainer.accumulate_grad_batches
            length = getattr(data, "context_length", 0) or self.config.context_length
            device = trainer.strategy.root_device
            pays, why = decide(self.net, windows * length, self.settings.max_steps, device)
        if trainer.is_global_zero:
            print(why)
        if pays:
            keep_compiled()
            compile_safely(self.net)

    def configure_model(self) -> None:
        """Under ``ModelParallelStrategy`` each process keeps a shard of every block (FSDP2).

        Raises:
            ValueError: The strategy has tensor parallelism, or only a part of the weights is trained.
        """
        mesh, part = self.device_mesh, self.settings.trained_part
        if is_sharded(self.net):
            return
        if mesh is not None:
            size = mesh["tensor_parallel"].size()
            if size > 1:
                raise ValueError(
                    f"tensor_parallel_size is {size}, expected 1: this model has no tensor parallelism"
                )
            if part != "all":
                raise ValueError(f"trained_part={part} does not work with sharded weights: use strategy ddp")
            shard(self.net, mesh["data_parallel"])
        if next(self.net.parameters()).is_meta:
            self._fill_shell()

    def _fill_shell(self) -> None:
        """Create the weights of a network that was built without them (``build_in_shards``)."""
        if self.settings.init_from is not None:
            parts = stored(self.settings.init_from, self.config, self.tokenizer_folder)
        else:
            parts = drawn(self.config, DocumentTokenizer.load(self.tokenizer_folder))
        fill(self.net, self.trainer.strategy.root_device, parts)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.settings.trained_part != "all":  # the other weights are in the folder of init_from
            names = trained_names(self)
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: The checkpoint has other settings, or lacks weights.
        """
        super().on_load_checkpoint(checkpoint)
        found = checkpoint.get("state_dict")  # sharded weights are stored elsewhere and already loaded
        if found is not None and (missing := trained_names(self) - set(found)):
            raise ValueError(
                f"the checkpoint lacks the weights {min(missing)}: it belongs to another training"
            )
        self.trained = True

    def whole_net(self) -> FusionLM | None:
        """The transformer with all weights, on rank 0; all ranks must call it."""
        return whole_net(self.net, self.global_rank, self.device)

    def save_folder(self, folder: str | Path) -> None:
        """Write the model folder, transformer and tokenizer; all ranks must call it."""
        net = self.whole_net()
        if net is None:
            return
        with torch.random.fork_rng(devices=[]):  # building a network draws random numbers
            tokenizer = DocumentTokenizer.load(self.tokenizer_folder)
        save_model(folder, merged(net), tokenizer)

    def _check_trained(self) -> None:
        if not self.trained and self.trainer.state.fn != "fit":
            raise ValueError("the transformer has no trained weights: give --ckpt_path, or --model.init_from")


def _add(means: Means, terms: LossTerms) -> None:
    """Add means over target tokens, not over windows."""
    total = terms.counts.sum()
    means.add("loss", terms.cross_entropy, total)
    means.add("z", terms.z, total)
    for name, mean, count in zip(terms.names, terms.by_modality, terms.counts):
        means.add(name, mean, count)


def tokenizer_folder(folder: str | Path) -> Path:
    """The tokenizer's folder: ``folder`` itself, or ``tokenizer/`` in it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found: expected what `earlyfusion prepare` wrote")
    inner = folder / TOKENIZER
    return inner if inner.is_dir() and not (folder / "vocab.json").is_file() else folder
