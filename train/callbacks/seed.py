"""Random numbers of a training that do not depend on how its network was made."""

import lightning as L
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.callbacks import Callback


class Reseed(Callback):
    """Starts the random numbers of a training from its seed (``seed_everything``) again.

    Without it they follow those that the initial weights were drawn from. ``trainer.callbacks`` of a config
    takes it; ``fit`` from Python always seeds again.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        reset_seed()
