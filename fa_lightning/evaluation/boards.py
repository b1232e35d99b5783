"""Where figures and texts are shown while an experiment runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def boards(trainer: pl.Trainer) -> list[Any]:
    """The `SummaryWriter` of each TensorBoard logger among a trainer's loggers; only on rank zero, which writes."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def draw(trainer: pl.Trainer, figures: Mapping[str, Figure], texts: Mapping[str, str] | None = None) -> None:
    """Add figures and texts to the TensorBoard logs, where there are any; rank zero writes.

    Args:
        trainer: whose loggers and step are used.
        figures: by the name that they have in the log.
        texts: the same, as Markdown.
    """
    for board in boards(trainer):
        for name, figure in figures.items():
            board.add_figure(name, figure, trainer.global_step)
        for name, text in (texts or {}).items():
            board.add_text(name, text, trainer.global_step)
