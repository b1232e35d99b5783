"""The config that a run leaves beside its logs."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override


class ConfigBesideLogs(SaveConfigCallback):
    """Lightning's, for runs that have logs: without them it would leave `config.yaml` in the working folder."""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)
