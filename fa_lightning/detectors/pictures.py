"""Figures of an examination, for TensorBoard."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from fa_lightning.detectors.found import Detection
from fa_lightning.metrics.detection_figures import detection_figures


def draw(trainer: pl.Trainer, found: Detection) -> None:
    """Add what was found to the TensorBoard log as `detection/NAME`, where there is one; rank zero writes.

    Args:
        trainer: whose logger and step are used.
        found: what detectors found.
    """
    logger = trainer.logger
    if not trainer.is_global_zero or not isinstance(logger, TensorBoardLogger):
        return
    for name, figure in detection_figures(found).items():
        logger.experiment.add_figure(f"detection/{name}", figure, trainer.global_step)
