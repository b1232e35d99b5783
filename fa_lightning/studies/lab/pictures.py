"""The lab's figures, for TensorBoard."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl

from fa_lightning.evaluation.boards import boards
from fa_lightning.studies.lab.figures import lab_figures


def draw_lab(trainer: pl.Trainer, view: dict[str, Any]) -> None:
    """Add the lab's figures to the TensorBoard logs, where there are any; rank zero writes.

    Args:
        trainer: whose loggers and step are used.
        view: see `lab_view`.
    """
    for board in boards(trainer):
        for name, figure in lab_figures(_attributes(view)).items():
            board.add_figure(f"lab/{name}", figure, trainer.global_step)


def _attributes(value: Any, name: str = "") -> Any:
    """JSON as objects with attributes, which is what figures read; null is nan where a number belongs."""
    if isinstance(value, dict) and name != "points":
        return SimpleNamespace(**{key: _attributes(inner, key) for key, inner in value.items()})
    if isinstance(value, list) and name != "points":
        return [_attributes(inner) for inner in value]
    return float("nan") if value is None and name not in ("scenarios", "aligned_cells") else value
