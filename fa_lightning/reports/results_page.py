"""The page of an experiment that steers: models, baselines, candidates, side effects, cost, leaks, provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fa_lightning.common import numbers
from fa_lightning.evaluation.results import Candidate, Results
from fa_lightning.metrics.estimates import CellPair
from fa_lightning.reports import results_tables as tables
from fa_lightning.reports.drawing import CELL_LABELS
from fa_lightning.reports.figures import (
    SweepPoint,
    TradeOff,
    cells_figure,
    confusion_figure,
    pareto_figure,
    sweep_figure,
)
from fa_lightning.reports.html import Picture
from fa_lightning.reports.site_names import layer_of


def results_values(results: Results) -> dict[str, Any]:
    """What the template of such a page names.

    Args:
        results: of the experiment.
    """
    total = results.leak_report.get("total")
    return {
        "results": results,
        "tiles": _tiles(results),
        "models": tables.models_table(results) if results.cells else None,
        "cells_picture": _cells_picture(results),
        "answers_picture": _answers_picture(results),
        "baselines_picture": _baselines_picture(results),
        "candidate_pictures": _candidate_pictures(results),
        "candidates": tables.candidates_table(results),
        "side_effects": tables.side_effects_table(results),
        "neutral_texts": tables.texts_table(results),
        "abilities": tables.abilities_table(results),
        "cost": tables.cost_table(results),
        "extra_tests": tables.extra_tests_table(results),
        "leaks": total if isinstance(total, int) else None,
    }


def _tiles(results: Results) -> list[tuple[str, str]]:
    """The four numbers to look at first."""
    ends = numbers.interval(results.recovery.ci95)
    spread = f", 95 % interval {ends}" if ends else ""
    tiles = [(numbers.decimal(results.recovery.value), f"recovery (1 is a full cure){spread}")]
    if "steered" in results.cells and "faking" in results.cells:
        before, after = (results.cells[name].no_oversight.accuracy for name in ("faking", "steered"))
        tiles.append((f"{numbers.decimal(before)} → {numbers.decimal(after)}", "aligned answers without oversight"))
    kl, ratio = results.side_effects.worst_nats, results.cost.overhead_ratio
    tiles.append((numbers.nats(kl), "KL on neutral texts, nats: the worse of words and answer (0 is no change)"))
    tiles.append((f"{numbers.decimal(ratio)} times", "time per token, steered over not steered"))
    return tiles


def _cells_picture(results: Results) -> Picture | None:
    """The models' cells as bars."""
    if not results.cells:
        return None
    alt = "Bars of aligned answers. " + _spoken(results.cells)
    return Picture(cells_figure(results.cells), alt, "Bars with 95 % intervals.")


def _answers_picture(results: Results) -> Picture | None:
    """What was answered, by model and cell."""
    if not results.answers:
        return None
    spoken = "; ".join(
        f"{name} {CELL_LABELS.get(cell, cell)}: {aligned} aligned, {other} other, {neither} neither"
        for name, cells in results.answers.items()
        for cell, (aligned, other, neither) in cells.items()
    )
    return Picture(confusion_figure(results.answers), f"Counts of answers. {spoken}.", "Counts on the test split.")


def _baselines_picture(results: Results) -> Picture | None:
    """Simpler and cheating methods beside the chosen one, as bars."""
    if not results.baselines:
        return None
    models = {name: pair for name, pair in results.cells.items() if name == "steered"}
    models |= {name: CellPair(row.oversight, row.no_oversight) for name, row in results.baselines.items()}
    figure = cells_figure(models, "Aligned answers by method")
    return Picture(figure, "Bars of aligned answers by method. " + _spoken(models))


def _candidate_pictures(results: Results) -> list[Picture]:
    """Candidates by layer, and against damage."""
    pictures = []
    points = [point for point in map(_sweep_point, results.candidates) if point is not None]
    if points:
        references = {name: pair for name, pair in results.cells.items() if name in ("aligned", "faking")}
        best = max(points, key=lambda point: tables.known(point.no_oversight))
        alt = (
            f"Accuracy by layer of {len(points)} candidates. The highest without oversight is {best.series} "
            f"at layer {best.layer}: {numbers.decimal(best.no_oversight)}."
        )
        note = "On the validation split; level lines are the twins on the test split."
        pictures.append(Picture(sweep_figure(points, references), alt, note))
    trades = [
        TradeOff(
            candidate.regressor,
            candidate.kl_neutral_nats,
            results.recovery_at(candidate.no_oversight),
            label=candidate.site if tables.is_chosen(candidate, results) else "",
            chosen=tables.is_chosen(candidate, results),
        )
        for candidate in results.candidates
    ]
    drawn = [trade for trade in trades if math.isfinite(trade.kl_nats) and math.isfinite(trade.recovery)]
    if drawn:
        ringed = "".join(
            f" The chosen one: {numbers.nats(trade.kl_nats)} nats, recovery {numbers.decimal(trade.recovery)}."
            for trade in drawn
            if trade.chosen
        )
        alt = f"Recovery against KL on neutral texts, {len(drawn)} candidates.{ringed}"
        note = (
            "Top left is best; the line joins those that nothing beats. Candidates on the validation split, "
            "recovery between the twins of the test split."
        )
        pictures.append(Picture(pareto_figure(trades), alt, note))
    return pictures


def _sweep_point(candidate: Candidate) -> SweepPoint | None:
    """The candidate on a layer axis; None if it has not one layer."""
    layer = layer_of(candidate.site)
    if layer is None:
        return None
    component = "" if layer[1] == "residual" else f" ({layer[1]})"
    return SweepPoint(layer[0], candidate.regressor + component, candidate.oversight, candidate.no_oversight)


def _spoken(models: Mapping[str, CellPair]) -> str:
    """The accuracies as a sentence, for readers who do not see the bars."""
    return "; ".join(
        f"{name}: {numbers.decimal(cells.oversight.accuracy)} with and "
        f"{numbers.decimal(cells.no_oversight.accuracy)} without oversight"
        for name, cells in models.items()
    )
