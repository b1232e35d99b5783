"""Figures and texts of one judged intervention, for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from fa_lightning.activations.store import ActivationStore
from fa_lightning.evaluation.boards import boards
from fa_lightning.evaluation.results import Evaluation
from fa_lightning.metrics.estimates import CellPair
from fa_lightning.reports.figures import SweepPoint, activation_figure, cells_figure, confusion_figure, sweep_figure


def draw(
    trainer: pl.Trainer,
    stage: str,
    evaluation: Evaluation,
    sweep: Sequence[SweepPoint] = (),
    store: ActivationStore | None = None,
    generations: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Add an evaluation to the TensorBoard logs, where there are any; rank zero writes.

    Args:
        trainer: whose loggers and step are used.
        stage: prefix of the names, `val` or `test`.
        evaluation: cells, answers and baselines.
        sweep: what was tried, for the figure over layers.
        store: for the map of where the twins differ.
        generations: (prompt, unsteered, steered) texts.
    """
    for board in boards(trainer):
        _draw(board, trainer.global_step, stage, evaluation, sweep, store, generations)


def _draw(
    board: Any,
    step: int,
    stage: str,
    evaluation: Evaluation,
    sweep: Sequence[SweepPoint],
    store: ActivationStore | None,
    generations: Sequence[tuple[str, str, str]],
) -> None:
    models = evaluation.cells
    baselines = {name: CellPair(row.oversight, row.no_oversight) for name, row in evaluation.baselines.items()}
    board.add_figure(f"{stage}/cells", cells_figure({**models, **baselines}), step)
    board.add_figure(f"{stage}/answers", confusion_figure(evaluation.answers), step)
    if sweep:
        references = {name: models[name] for name in ("aligned", "faking")}
        board.add_figure(f"{stage}/layers", sweep_figure(sweep, references), step)
    if store is not None:
        board.add_figure(f"{stage}/activations", activation_figure(twin_difference(store), list(store.sites)), step)
    for number, (prompt, unsteered, steered) in enumerate(generations):
        text = f"{prompt}\n\n**faking:** {unsteered}\n\n**steered:** {steered}"
        board.add_text(f"{stage}/generation", text, number)


def twin_difference(store: ActivationStore, rows: int = 4096) -> torch.Tensor:
    """Mean |aligned - faking| over the first held-out tokens that decide, (sites, units)."""
    stop = min(rows, store.rows("validation"))
    block = store.block("validation", 0, stop)
    decision = block["decision"]
    return torch.stack(
        [(block[site][1].float() - block[site][0].float())[decision].abs().mean(0) for site in store.sites]
    )
