"""What the server of processes imports, and reads, before it forks: see ``start`` in conftest.py.

Its processes need torch, Lightning, `datasets` and the options of the trainings, which takes seconds.
"""

# ruff: noqa: F401
import contextlib
import io

import lightning.pytorch.strategies.model_parallel
import torch.distributed.fsdp
import torch.utils.tensorboard

import earlyfusion.data.prepare
import earlyfusion.tests.docstrings
import earlyfusion.train.callbacks.seed
from earlyfusion.cli.main import main

for command in ("lm", "image-tokenizer"):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main([command, "fit", "--help"])
