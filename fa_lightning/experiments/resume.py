"""Where the next run resumes: a checkpoint of every epoch, the best or not."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override


class ResumePoint(Checkpoint):
    """Saves the state of a running stage at the end of every epoch; the runner adds it to every stage.

    Lightning's `ModelCheckpoint(save_last=True)` writes its last checkpoint only when it also writes a best one, and
    with `save_top_k=0` not before the fit ends.

    Args:
        path: of the checkpoint; replaced each time, in one step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
