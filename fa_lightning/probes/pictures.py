"""Figures of probes, for TensorBoard."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from fa_lightning.metrics.probe_figures import probe_figures
from fa_lightning.probes.found import ProbesFound


def draw(trainer: pl.Trainer, found: ProbesFound) -> None:
    """Add what was found to the TensorBoard log as `probes/NAME`, where there is one; rank zero writes.

    Args:
        trainer: whose logger and step are used.
        found: what probes found.
    """
    logger = trainer.logger
    if not trainer.is_global_zero or not isinstance(logger, TensorBoardLogger):
        return
    for name, figure in probe_figures(found).items():
        logger.experiment.add_figure(f"probes/{name}", figure, trainer.global_step)
