"""Reseeds a training, so that its random numbers do not depend on how the network was built."""

import lightning as L
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.callbacks import Callback


class Reseed(Callback):
    """Resets the random numbers to the seed (``seed_everything``) when training starts.

    Otherwise they continue after those of the initial weights. Add it to ``trainer.callbacks`` of a config;
    ``fit`` from Python always reseeds.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        reset_seed()
