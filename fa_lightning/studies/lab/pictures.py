"""The lab's figures, for TensorBoard."""

from __future__ import annotations

import lightning.pytorch as pl

from fa_lightning.evaluation.boards import boards
from fa_lightning.studies.lab.figures import lab_figures
from fa_lightning.studies.lab.result import Comparison


def draw_lab(trainer: pl.Trainer, lab: Comparison) -> None:
    """Add the lab's figures to the TensorBoard logs, where there are any; rank zero writes.

    Args:
        trainer: whose loggers and step are used.
        lab: the comparison of methods.
    """
    for board in boards(trainer):
        for name, figure in lab_figures(lab).items():
            board.add_figure(f"lab/{name}", figure, trainer.global_step)
