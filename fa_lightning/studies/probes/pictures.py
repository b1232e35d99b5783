"""Figures of probes, for TensorBoard."""

from __future__ import annotations

import lightning.pytorch as pl

from fa_lightning.evaluation.boards import boards
from fa_lightning.studies.probes.figures import probe_figures
from fa_lightning.studies.probes.result import ProbesFound


def draw(trainer: pl.Trainer, found: ProbesFound) -> None:
    """Add what was found to the TensorBoard logs as `probes/NAME`, where there are any; rank zero writes.

    Args:
        trainer: whose loggers and step are used.
        found: what probes found.
    """
    for board in boards(trainer):
        for name, figure in probe_figures(found).items():
            board.add_figure(f"probes/{name}", figure, trainer.global_step)
