"""Where figures and texts are shown while an experiment runs."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger


def boards(trainer: pl.Trainer) -> list[Any]:
    """The `SummaryWriter` of each TensorBoard logger among a trainer's loggers; only on rank zero, which writes."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
