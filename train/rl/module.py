"""Alignment: the model draws samples, rewards score them, and better ones become likelier (GRPO)."""

import copy
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...fusion_lm.folder import load_model, save_model
from ...fusion_lm.grammar import GrammarState
from ...fusion_lm.model import FusionLM
from ...fusion_lm.policy import Draws, log_probabilities
from ...fusion_lm.prompts import Options
from ..callbacks.divergence import skipped_steps
from ..loop.logged_training import LoggedTraining
from ..loop.optim import adamw, scheduled
from ..loop.schedule import lr_factor
from .loss import advantages, policy_loss
from .prompts import Batch
from .rewards import named_rewards, score
from .rollouts import roll_out
from .samples import Sample
from .settings import AlignmentSettings

RECENT = 20
"""Rollouts of the moving average of the reward."""


class Alignment(LoggedTraining):
    """Aligns a ``FusionLM``, ``self.net``, with rewards, by GRPO (arXiv:2402.03300).

    The first batch (``prompts.Batch``) of a rollout draws the samples of all its prompts; each batch trains
    on its part of them.
    """

    settings_class = AlignmentSettings
    may_differ = ("batch_size",)
    shown = ("reward",)
    skips = True
    settings: AlignmentSettings
    net: FusionLM

    def __init__(self, settings: AlignmentSettings) -> None:
        """
        Raises:
            ValueError: The model has no pictures, or a reward is not known.
        """
        super().__init__(settings)
        self.net, self.tokenizer = load_model(settings.init_from)
        self.net.float().train()  # Lightning expects it
        reference = copy.deepcopy(self.net).eval().requires_grad_(False)
        self._apart = (reference,)  # in a tuple, so that it is not in checkpoints
        self.vocab = self.tokenizer.vocab
        if "image" not in self.vocab.names:
            raise ValueError(
                f"{settings.init_from} has no pictures, only {', '.join(self.vocab.names[1:])}: alignment "
                "needs a model of text and images"
            )
        self.rewards = named_rewards(settings.rewards)
        self.options = Options(max_new_tokens=settings.max_new_tokens, **settings.drawing)
        self.recent_reward: float | None = None
        """Moving average of the mean reward."""
        self.last_samples: list[Sample] = []
        self.last_rewards: list[float] = []
        """The newest rollout and its rewards, the samples of a prompt one after the other."""
        self._draws: Draws | None = None
        self._advantages = self._before = torch.zeros(0)

    @property
    def reference(self) -> FusionLM:
        """The model that alignment started from."""
        return self._apart[0]

    def setup(self, stage: str) -> None:
        """
        Raises:
            ValueError: The precision is float16, or the weights would be sharded.
        """
        super().setup(stage)
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError("precision is 16-mixed, which overflows: use 32-true or bf16-mixed")
        if self.device_mesh is not None:
            raise ValueError("alignment does not shard weights: use strategy ddp, or one device")

    def on_fit_start(self) -> None:
        self.reference.to(self.device)
        self.tokenizer.to(self.device)

    # batch -> loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One part of a rollout -> its share of the loss (scalar)."""
        self.net.eval()  # without dropout, as the samples are drawn
        if batch.part == 0 and batch.inner == 0:
            self._roll_out(batch)
        assert self._draws is not None
        total, s = len(self._draws.documents), self.settings
        mine = range(batch.part * total // batch.parts, (batch.part + 1) * total // batch.parts)
        draws = self._draws.rows(mine)
        counts = torch.tensor(draws.counts, device=self.device)
        row = torch.arange(len(mine), device=self.device).repeat_interleave(counts)
        advantage = self._advantages.to(self.device)[mine.start : mine.stop][row]
        log_p = log_probabilities(self.net, self.vocab, draws, self.options)
        first = sum(self._draws.counts[: mine.start])
        here = slice(first, first + len(log_p))
        if batch.inner == 0:
            self._before[here] = log_p.detach().cpu()
            gap = (log_p.detach() - draws.log_p.to(self.device)).abs().mean()
            self.means.add("sampler_gap", gap, len(log_p))
        reference = None
        if s.kl_weight or (self.global_step + 1) % self._log_every() == 0:
            with torch.no_grad():
                reference = log_probabilities(self.reference, self.vocab, draws, self.options)
        terms = policy_loss(
            log_p,
            self._before[here].to(self.device),
            advantage,
            row,
            len(mine),
            clip_low=s.clip_low,
            clip_high=s.clip_high,
            reference=reference,
            kl_weight=s.kl_weight,
        )
        self.means.add("loss", terms.loss, len(mine))
        self.means.add("clipped", terms.clipped, len(log_p))
        if reference is not None:
            self.means.add("kl", terms.kl, len(log_p))
        return terms.loss * (len(mine) * batch.parts / total)  # Lightning divides by the number of parts

    @torch.no_grad()
    def _roll_out(self, batch: Batch) -> None:
        """Draw and score the samples of the batch's prompts."""
        s, started = self.settings, time.perf_counter()
        seed = np.random.SeedSequence([s.seed, batch.rollout, self.global_rank])
        with torch.autocast(self.device.type, enabled=False):  # a cache holds the weights' type
            rollout = roll_out(
                self.net,
                self.tokenizer,
                batch.prompts,
                s.samples,
                seed=int(seed.generate_state(1, np.uint64)[0] >> 2),
                max_new_tokens=s.max_new_tokens,
                batch_size=s.batch_size,
                **s.drawing,
            )
        drawn = time.perf_counter()
        rewards, by_name = score(rollout.samples, self.rewards, self.net, self.tokenizer)
        self.means.add("seconds/rollout", torch.tensor(drawn - started))
        self.means.add("seconds/reward", torch.tensor(time.perf_counter() - drawn))
        self._draws = rollout.draws
        self._advantages = advantages(torch.tensor(rewards), s.samples)
        self._before = torch.zeros(sum(self._draws.counts))
        self.last_samples, self.last_rewards = rollout.samples, rewards
        mean = sum(rewards) / len(rewards)
        past = self.recent_reward
        self.recent_reward = mean if past is None else past + (mean - past) / RECENT
        self.means.add("reward", torch.tensor(mean))
        for name, values in by_name.items():
            known = [value for value in values if value is not None]
            if known:
                self.means.add(f"reward/{name}", torch.tensor(sum(known) / len(known)), len(known))
        lengths = torch.tensor(self._draws.counts, dtype=torch.float32)
        self.means.add("length", lengths.mean())
        self.means.add("entropy", -self._draws.log_p.mean(), float(lengths.sum()))  # estimated, per token
        flat = self._advantages.view(-1, s.samples).abs().amax(dim=1) == 0
        self.means.add("equal_groups", flat.float().mean())

    # loss -> step

    def configure_optimizers(self) -> Any:
        """AdamW under the schedule of the settings.

        Raises:
            ValueError: ``max_steps`` is not set.
        """
        s = self.settings
        if s.max_steps < 1:
            raise ValueError(f"max_steps must be positive to train, got {s.max_steps}: set trainer.max_steps")
        optimizer = adamw(self.net, s.lr, betas=s.betas, eps=1e-8, weight_decay=s.weight_decay)
        shape = (s.max_steps, s.warmup_steps, s.decay_fraction, 0.0)
        return scheduled(optimizer, lambda step: lr_factor("wsd", step, *shape))

    def read_figures(self) -> dict[str, float]:
        """The means since the last log entry, and the steps skipped so far."""
        return {**super().read_figures(), "skipped_steps": skipped_steps(self.trainer)}

    # weights

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["recent_reward"] = self.recent_reward
        if self._draws is not None and self.global_step % self.settings.inner_steps:
            draws = self._draws._asdict() | {"state": asdict(self._draws.state)}
            checkpoint["rollout"] = {**draws, "advantages": self._advantages, "before": self._before}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: The checkpoint has other settings.
        """
        super().on_load_checkpoint(checkpoint)
        self.recent_reward = checkpoint.get("recent_reward")
        stored = checkpoint.get("rollout")
        if stored is not None:  # in the middle of its inner steps
            values = {name: stored[name] for name in Draws._fields}
            self._draws = Draws(**{**values, "state": GrammarState(**stored["state"])})
            self._advantages, self._before = stored["advantages"], stored["before"]

    def whole_net(self) -> FusionLM | None:
        """The transformer on rank 0, else None."""
        return self.net if self.global_rank == 0 else None

    def save_folder(self, folder: str | Path) -> None:
        """Write the model folder, transformer and tokenizer."""
        if self.global_rank == 0:
            save_model(folder, self.net, self.tokenizer)
