"""Figures of an examination, for TensorBoard."""

from __future__ import annotations

import lightning.pytorch as pl

from fa_lightning.evaluation.boards import boards
from fa_lightning.studies.detection.figures import detection_figures
from fa_lightning.studies.detection.result import Detection


def draw(trainer: pl.Trainer, found: Detection) -> None:
    """Add what was found to the TensorBoard logs as `detection/NAME`, where there are any; rank zero writes.

    Args:
        trainer: whose loggers and step are used.
        found: what detectors found.
    """
    for board in boards(trainer):
        for name, figure in detection_figures(found).items():
            board.add_figure(f"detection/{name}", figure, trainer.global_step)
