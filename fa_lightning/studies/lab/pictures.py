"""The lab's figures, for the loggers."""

from __future__ import annotations

import lightning.pytorch as pl

from fa_lightning.common.boards import is_watched, show
from fa_lightning.studies.lab.figures import lab_figures
from fa_lightning.studies.lab.result import Comparison


def draw_lab(trainer: pl.Trainer, lab: Comparison) -> None:
    """Hand the lab's figures to the loggers, where there are any; on rank zero.

    Args:
        trainer: whose loggers and step are used.
        lab: the comparison of methods.
    """
    if is_watched(trainer):
        show(trainer, {f"lab/{name}": figure for name, figure in lab_figures(lab).items()})
