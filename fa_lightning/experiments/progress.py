"""The progress of a stage: a bar in a terminal, and in a log a line every few minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import rich
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override

from fa_lightning.common.numbers import duration

SECONDS = 120.0
"""Between two lines of a log."""


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar without the logger's version, which here is the stage's own name.

    A bar is drawn in terminals alone. Elsewhere, as in the log of a run in the background, a line says every two
    minutes how far the stage is.
    """

    _told = _begun = 0.0

    @override
    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return dict(metrics)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._told = self._begun = time.monotonic()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._tell(f"epoch {trainer.current_epoch}", batch_idx, [trainer.num_training_batches])

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if not trainer.sanity_checking:
            self._tell("validation", batch_idx, trainer.num_val_batches, dataloader_idx)

    @override
    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._tell("test", batch_idx, trainer.num_test_batches, dataloader_idx)

    def _tell(self, what: str, batch: int, batches: Sequence[float], loader: int = 0) -> None:
        """Say how far it is, if nothing was said for some time.

        Args:
            what: is being done.
            batch: number of the batch that is done, in its loader.
            batches: in each loader; infinite where nobody knows.
            loader: of the batch.
        """
        now = time.monotonic()
        if not self.is_enabled or rich.get_console().is_terminal or now - self._told < SECONDS:
            return
        self._told = now
        done, total = sum(batches[:loader]) + batch + 1, sum(batches)
        of = "" if math.isinf(total) else f" of {total:.0f}"
        rich.get_console().print(f"{what}: batch {done:.0f}{of}, {duration(now - self._begun)}")
