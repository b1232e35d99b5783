"""Figures and texts of one judged intervention, for the loggers."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
import torch

from fa_lightning.activations.store import ActivationStore
from fa_lightning.common.boards import is_watched, show
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
    """Hand an evaluation to the loggers, where there are any; on rank zero.

    Args:
        trainer: whose loggers and step are used.
        stage: prefix of the names, `val` or `test`.
        evaluation: cells, answers and baselines.
        sweep: what was tried, for the figure over layers.
        store: for the map of where the twins differ.
        generations: (prompt, unsteered, steered) texts.
    """
    if not is_watched(trainer):
        return
    models = evaluation.cells
    baselines = {name: CellPair(row.oversight, row.no_oversight) for name, row in evaluation.baselines.items()}
    figures = {"cells": cells_figure({**models, **baselines}), "answers": confusion_figure(evaluation.answers)}
    if sweep:
        figures["layers"] = sweep_figure(sweep, {name: models[name] for name in ("aligned", "faking")})
    if store is not None:
        figures["activations"] = activation_figure(twin_difference(store), list(store.sites))
    texts = [f"{prompt}\n\n**faking:** {before}\n\n**steered:** {steered}" for prompt, before, steered in generations]
    show(
        trainer,
        {f"{stage}/{name}": figure for name, figure in figures.items()},
        {f"{stage}/generation": "\n\n---\n\n".join(texts)} if texts else None,
    )


def twin_difference(store: ActivationStore, rows: int = 4096) -> torch.Tensor:
    """Mean |aligned - faking| over the first held-out tokens that decide, (sites, units)."""
    stop = min(rows, store.rows("validation"))
    block = store.block("validation", 0, stop)
    decision = block["decision"]
    return torch.stack(
        [(block[site][1].float() - block[site][0].float())[decision].abs().mean(0) for site in store.sites]
    )
