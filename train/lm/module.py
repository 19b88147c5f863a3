"""Training of the transformer on packed windows of the shared vocabulary."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

from ...eval.metrics.bits import Rates
from ...fusion_lm.folder import save_model
from ...fusion_lm.inputs import Inputs
from ...fusion_lm.loss import IGNORE, LossTerms
from ...fusion_lm.model import FusionLM, FusionLMConfig, upgrade
from ...tokenizers.documents import TOKENIZER, DocumentTokenizer
from ...tokenizers.vocab import SharedVocab
from ..loop.divergence import clip_or_skip, skipped_steps
from ..loop.logged_training import LoggedTraining
from ..loop.meters import Means
from ..loop.schedule import adamw, check_config, check_schedule, lr_factor
from .data import TokenData
from .first_weights import drawn, fill, shell, start_from_codebook, stored
from .lora import Part, adapt, merged, trained_names
from .muon import muon
from .resize_vocab import load_grown

NAMES = ("structure", "text", "image")


class Targets(NamedTuple):
    """What a window is to predict, each (B, T) int64."""

    tokens: Tensor
    """The next token, IGNORE where it belongs to another document or is padding."""
    modality: Tensor
    """Its modality."""


def targets_of(
    tokens: Tensor, documents: Tensor, vocab: SharedVocab, learned: Tensor | None = None
) -> Targets:
    """Shift packed windows by one: tokens and documents (B, T) -> targets (B, T).

    ``learned`` (B, T) says which tokens are to be learned, as conversations have them; None: all.
    """
    following = torch.cat([tokens[:, 1:], tokens.new_full((len(tokens), 1), vocab.pad)], dim=1)
    same = torch.zeros_like(tokens, dtype=torch.bool)
    same[:, :-1] = documents[:, 1:] == documents[:, :-1]
    counted = same & (following != vocab.pad)
    if learned is not None:
        counted[:, :-1] &= learned[:, 1:] != 0
    return Targets(torch.where(counted, following, IGNORE), vocab.modality(following))


def drop_conditions(
    tokens: Tensor, documents: Tensor, vocab: SharedVocab, dropped: Tensor
) -> tuple[Tensor, Tensor]:
    """Let images begin documents of their own, as guidance needs them (condition dropout, arXiv:2207.12598).

    The token before such an image becomes the beginning of a document, and what stands before that is left
    alone. Neither is then learned as the successor of what it followed.

    :param tokens: packed windows (B, T), and their ``documents``.
    :param dropped: (B, T) bool; it counts where an image follows that does not begin its document already.
    :returns: tokens and documents (B, T).
    """
    same = torch.zeros_like(dropped)
    same[:, :-1] = (documents[:, 1:] == documents[:, :-1]) & vocab.is_begin(tokens[:, 1:])
    dropped = dropped & same & (tokens != vocab.bos)
    border = documents.diff(dim=1, prepend=documents[:, :1]) != 0
    return tokens.masked_fill(dropped, vocab.bos), (border | dropped).cumsum(dim=1)


class FusionLMTraining(LoggedTraining):
    """Trains a ``FusionLM``, which stands in ``self.net``."""

    may_differ = ("tokenizer", "compile", "activation_checkpointing", "build_in_shards")
    """Settings that a run may go on with when they changed: they do not change what is learned."""
    shown = ("loss", *NAMES)
    net: FusionLM
    modality_weights: Tensor

    def __init__(
        self,
        tokenizer: str,
        config: FusionLMConfig = FusionLMConfig(),
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        warmup_steps: int = 100,
        max_steps: int = -1,
        decay_fraction: float = 0.4,
        schedule: Literal["wsd", "cosine", "exponential"] = "wsd",
        final_lr: float = 0.1,
        z_loss_weight: float = 1e-4,
        modality_weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        condition_dropout: float = 0.0,
        muon_lr: float | None = None,
        rows_from_codebook: bool = True,
        init_from: str | None = None,
        trained_part: Part = "all",
        lora_rank: int = 16,
        lora_alpha: float = 32.0,
        activation_checkpointing: bool = False,
        compile: bool = False,
        build_in_shards: bool = False,
    ) -> None:
        """
        Args:
            tokenizer: Folder of the tokenizer, or the prepared folder that holds it.
            config: The network; vocab_size 0 takes the tokenizer's. With init_from it may be left out.
            lr: Learning rate after the warm-up.
            betas: AdamW's.
            eps: AdamW's.
            weight_decay: AdamW's, on matrices only: no norms, no biases.
            warmup_steps: Steps until the learning rate is reached.
            max_steps: Steps in all; the command takes it from trainer.max_steps.
            decay_fraction: Last part of the steps, over which the learning rate falls to 0 (schedule wsd).
            schedule: After the warm-up: wsd (constant, then linear to 0), cosine, exponential (Chameleon's).
            final_lr: Where cosine and exponential end, as a part of lr.
            z_loss_weight: Weight of the mean of log(Z)^2, which keeps the logits from drifting.
            modality_weights: Weights of the targets that are structure, text and images in the loss.
            condition_dropout: Part of the images that are learned without what stands before them, so that
                generated ones can be guided (sample --guidance); 0.1 is usual.
            muon_lr: Learning rate of Muon, which then updates the matrices of the blocks; null: AdamW.
            rows_from_codebook: Begin with alike embeddings for codes that look alike (start_from_codebook).
            init_from: Model folder whose weights to begin with. Where its tokenizer is another one, tokens
                that mean the same keep their rows (grow).
            trained_part: all; lora: low-rank updates of the matrices, and the rows of image tokens in
                embedding and lm_head; image_rows: those rows alone. The last two need init_from.
            lora_rank: Rank of the low-rank updates.
            lora_alpha: They are scaled by lora_alpha / lora_rank.
            activation_checkpointing: Compute each block again in the backward pass: less memory, more time.
            compile: Compile the network (torch.compile), which takes minutes once and pays on GPUs.
            build_in_shards: Make the weights a part at a time, each process keeping its shard, for networks
                that a machine cannot hold once for each process. Other weights are drawn than without it.
        """
        super().__init__()
        if isinstance(config, dict):  # from a checkpoint, which holds no classes
            config = FusionLMConfig(**upgrade(config))
        if init_from is not None and config == FusionLMConfig():
            config = replace(FusionLM.read_config(init_from), vocab_size=0)
        check_schedule(lr, warmup_steps, max_steps, decay_fraction, schedule, final_lr)
        self.tokenizer_folder = tokenizer_folder(tokenizer)
        self.vocab = SharedVocab.load(self.tokenizer_folder)
        if config.vocab_size not in (0, self.vocab.size):
            raise ValueError(
                f"config.vocab_size is {config.vocab_size}, but the tokenizer in {tokenizer} has "
                f"{self.vocab.size} tokens: leave it at 0"
            )
        config = replace(config, vocab_size=self.vocab.size)
        if trained_part != "all" and init_from is None:
            raise ValueError(f"trained_part={trained_part} trains a part of a model: give it as init_from")
        if trained_part != "all" and muon_lr is not None:
            raise ValueError(f"trained_part={trained_part} is trained by AdamW: leave muon_lr at null")
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.save_hyperparameters(
            {
                **settings,
                "tokenizer": str(tokenizer),
                "config": asdict(config),
                "betas": list(betas),
                "modality_weights": list(modality_weights),
            }
        )
        self.config, self.lr, self.betas, self.eps = config, lr, tuple(betas), eps
        self.weight_decay, self.z_loss_weight = weight_decay, z_loss_weight
        self.warmup_steps, self.max_steps, self.decay_fraction = warmup_steps, max_steps, decay_fraction
        check_modality_weights(modality_weights)
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"condition_dropout must lie in [0, 1), got {condition_dropout}")
        self.condition_dropout = condition_dropout
        self.schedule, self.final_lr = schedule, final_lr
        self.register_buffer("modality_weights", torch.tensor(modality_weights), persistent=False)
        if build_in_shards and trained_part != "all":
            raise ValueError(f"build_in_shards is for trainings of all weights, not of {trained_part}")
        self.net = shell(config) if build_in_shards else FusionLM(config)
        self.net.activation_checkpointing = activation_checkpointing
        if compile:
            self.net.compile()  # in place: names of the weights stay
        self.muon_lr = muon_lr
        self.trained = False
        """Whether the weights are those of a run."""
        self.init_from, self.rows_from_codebook = init_from, rows_from_codebook
        if build_in_shards:
            self.trained = init_from is not None  # their weights come with configure_model
        elif init_from is not None:
            self._take_weights(init_from)
        elif rows_from_codebook:
            start_from_codebook(self.net, DocumentTokenizer.load(self.tokenizer_folder))
        adapt(self.net, trained_part, self.vocab, lora_rank, lora_alpha)
        self.trained_part = trained_part
        self.strict_loading = trained_part == "all"  # a checkpoint holds only what is trained
        self.validation_means, self.rates = Means(), Rates.load(self.tokenizer_folder)
        self.skipped = False
        """Whether the last step was left out."""
        self.last_loss: Tensor | None = None
        """Of the last batch, without the z-loss: it says whether the training diverges."""
        self._tokens = 0
        self._since = time.perf_counter()

    def configure_model(self) -> None:
        """Under ``ModelParallelStrategy`` each process keeps its part of every block (FSDP2).

        Raises ValueError where that strategy is asked for more.
        """
        mesh = self.device_mesh
        if is_sharded(self.net):
            return
        if mesh is None:
            self._fill_shell()
            return
        if mesh["tensor_parallel"].size() > 1:
            raise ValueError("tensor_parallel_size is above 1, which this model does not have: leave it at 1")
        if self.trained_part != "all":
            raise ValueError(f"trained_part={self.trained_part} is not trained in shards: take strategy ddp")
        for block in self.net.blocks:
            fully_shard(block, mesh=mesh["data_parallel"])
        fully_shard(self.net, mesh=mesh["data_parallel"])
        self._fill_shell()

    def _fill_shell(self) -> None:
        """The weights of a network that was built without them (``build_in_shards``)."""
        if not next(self.net.parameters()).is_meta:
            return
        if self.init_from is not None:
            parts = stored(self.init_from, self.config, self.tokenizer_folder)
        else:
            tokenizer = DocumentTokenizer.load(self.tokenizer_folder) if self.rows_from_codebook else None
            parts = drawn(self.config, tokenizer)
        fill(self.net, self.trainer.strategy.root_device, parts)

    def setup(self, stage: str) -> None:
        """Raises ValueError when the windows are longer than the context, or for float16, which overflows."""
        if stage == "fit" and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError("precision is 16-mixed, which overflows: use bf16-mixed, or 32-true")
        data: Any = getattr(self.trainer, "datamodule", None)
        length = getattr(data, "context_length", 0)
        if length > self.config.context_length:
            raise ValueError(
                f"config.context_length is {self.config.context_length}, but the windows in {data.path} have "
                f"{length} tokens: give at least as many"
            )

    def forward(self, inputs: Inputs | Tensor, **kwargs: Any) -> Any:
        """``FusionLM.forward``."""
        return self.net(inputs, **kwargs)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Windows -> cross-entropy plus weighted z-loss (scalar)."""
        if self.condition_dropout:
            dropped = torch.rand(batch["tokens"].shape, device=self.device) < self.condition_dropout
            changed = drop_conditions(batch["tokens"], batch["documents"], self.vocab, dropped)
            batch = {**batch, "tokens": changed[0], "documents": changed[1]}
        terms = self._terms(batch)
        loss = weighted_mean(terms, self.modality_weights)
        self.last_loss = loss.detach()
        if self.trainer.world_size > 1:
            loss = self._share_of_all(terms)
        else:
            loss = loss + self.z_loss_weight * terms.z
        self._add(self.means, terms)
        self._tokens += batch["tokens"].numel() * self.trainer.world_size
        return loss

    def _share_of_all(self, terms: LossTerms) -> Tensor:
        """This rank's part of the loss over all ranks' targets, times the number of ranks: the mean of the
        gradients that they then take is that of one process, however many targets each has."""
        weights = self.modality_weights
        own = torch.stack([(weights * terms.counts).sum(), terms.counts.sum().float()])
        every: Any = self.trainer.strategy.reduce(own.clone(), reduce_op="mean")
        nll = (weights * terms.nll_sums).sum() / every[0].clamp(min=1e-9)
        return nll + self.z_loss_weight * terms.z * own[1] / every[1].clamp(min=1.0)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm, which is logged; a gradient that is not finite never reaches the weights."""
        self.lr_now = optimizer.param_groups[0]["lr"]
        self.grad_norm, self.skipped = clip_or_skip(self.net.parameters(), gradient_clip_val)

    def on_train_start(self) -> None:
        """Begin to measure the speed."""
        self._tokens, self._since = 0, time.perf_counter()

    def read_figures(self) -> dict[str, float]:
        """The means since the last log entry, the steps left out so far, and the speed."""
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

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Losses, bits per byte and pixel, and perplexities of the whole validation set."""
        self._measure(batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The same of the test set."""
        self._measure(batch)

    def on_validation_epoch_end(self) -> None:
        """Log them."""
        self._log_validation("validation")

    def on_test_epoch_end(self) -> None:
        """Log them."""
        self._log_validation("test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Windows -> ``losses`` (B, T), nats of each next token, 0 where none counts, and ``windows``."""
        self._check_trained()
        return {"losses": self._terms(batch).nll, "windows": batch["windows"]}

    def configure_optimizers(self) -> Any:
        """AdamW, with Muon where ``muon_lr`` is given; warm-up, stable, decay."""
        if self.max_steps < 1:
            raise ValueError(
                f"max_steps must be positive to train, got {self.max_steps}: set trainer.max_steps"
            )
        common = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        if self.muon_lr is None:
            optimizer: torch.optim.Optimizer = adamw(self.net, self.lr, **common)  # type: ignore[arg-type]
        else:
            optimizer = muon(self.net, self.lr, self.muon_lr, **common)  # type: ignore[arg-type]
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: lr_factor(
                self.schedule, step, self.max_steps, self.warmup_steps, self.decay_fraction, self.final_lr
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what is not trained: it is in the folder of ``init_from``."""
        super().on_save_checkpoint(checkpoint)
        if self.trained_part != "all":
            names = trained_names(self)
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse other settings than the checkpoint's, and one that lacks weights.

        Raises ValueError.
        """
        super().on_load_checkpoint(checkpoint)
        stored = checkpoint.get("state_dict")  # shards hold theirs elsewhere, and are loaded by now
        if stored is not None and (missing := trained_names(self) - set(stored)):
            raise ValueError(f"the checkpoint lacks the weights {min(missing)}: it is of another training")
        self.trained = True

    def whole_net(self) -> FusionLM | None:
        """The transformer with all of its weights, on rank 0. Shards are gathered: all ranks must call it."""
        if not is_sharded(self.net):
            return self.net if self.global_rank == 0 else None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self.net, options=options)
        if self.global_rank:
            return None
        with torch.device("meta"):
            net = FusionLM(self.config)
        net.load_state_dict(weights, assign=True)
        if self.config.tie_embeddings:
            net.lm_head.weight = net.embedding.weight
        return net.to(self.device).train(self.net.training)

    def save_folder(self, folder: str | Path) -> None:
        """Write the model folder, transformer and tokenizer; as :meth:`whole_net`, all ranks call it."""
        net = self.whole_net()
        if net is None:
            return
        with torch.random.fork_rng(devices=[]):  # a network draws numbers before its weights are read
            tokenizer = DocumentTokenizer.load(self.tokenizer_folder)
        save_model(folder, merged(net), tokenizer)

    def _terms(self, batch: dict[str, Tensor], targets: Targets | None = None, **more: Any) -> LossTerms:
        if targets is None:
            targets = targets_of(batch["tokens"], batch["documents"], self.vocab, batch.get("learned"))
        terms = self(
            Inputs(batch["tokens"], batch["documents"]),
            targets=targets.tokens,
            modalities=self.vocab.table(targets.tokens.device),
            **more,
        )
        assert isinstance(terms, LossTerms)
        return terms

    def _measure(self, batch: dict[str, Tensor]) -> None:
        self._check_trained()
        targets = targets_of(batch["tokens"], batch["documents"], self.vocab, batch.get("learned"))
        terms = self._terms(batch, targets, statistics=True)
        self._add(self.validation_means, terms)
        self.rates.add(terms, targets.tokens)

    def _add(self, means: Means, terms: LossTerms) -> None:
        """Means over target tokens, not over windows."""
        total = terms.counts.sum()
        means.add("loss", terms.cross_entropy, total)
        means.add("z", terms.z, total)
        for name, mean, count in zip(terms.names, terms.by_modality, terms.counts):
            means.add(name, mean, count)

    def _check_trained(self) -> None:
        if not self.trained and self.trainer.state.fn != "fit":
            raise ValueError(
                "the transformer has no trained weights: give a --ckpt_path, or --model.init_from"
            )

    def _log_validation(self, stage: str) -> None:
        for figures in (self.validation_means, self.rates):
            figures.reduce(self.trainer.strategy)
        values = self.validation_means.read() | self.rates.read()
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, rank_zero_only=True)

    def _take_weights(self, folder: str) -> None:
        net = load_grown(folder, self.tokenizer_folder)
        check_config(folder, net.config, self.config)
        self.net.load_state_dict(net.state_dict())
        self.trained = True


def is_sharded(net: FusionLM) -> bool:
    """Whether each process keeps a part of the weights; between steps some may be whole."""
    return isinstance(net, FSDPModule)


def check_modality_weights(weights: tuple[float, float, float]) -> None:
    """Raises ValueError for weights that give no mean."""
    if len(weights) != len(NAMES) or min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(
            f"modality_weights must be {len(NAMES)} numbers, none negative and not all 0, "
            f"for {', '.join(NAMES)}; got {list(weights)}"
        )


def weighted_mean(terms: LossTerms, weights: Tensor) -> Tensor:
    """Mean cross-entropy (scalar) of the targets, each with the weight of its modality (3,).

    With equal weights it is ``terms.cross_entropy``; a batch without any target of positive weight gives 0.
    """
    total = (weights * terms.counts).sum()
    return (weights * terms.nll_sums).sum() / torch.where(total > 0, total, 1.0)


def tokenizer_folder(folder: str | Path) -> Path:
    """The tokenizer's folder: ``folder`` itself, or ``tokenizer/`` in it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found: what `earlyfusion prepare` wrote is expected there")
    inner = folder / TOKENIZER
    return inner if inner.is_dir() and not (folder / "vocab.json").is_file() else folder
