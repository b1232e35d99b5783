"""The headline picture: recovery against KL on neutral texts, of every method at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fa_lightning.reports.drawing import GREY, INK, MOST_MARKS, RED, legend_below, one_axes
from fa_lightning.reports.figures import pareto_front
from fa_lightning.studies.lab.method_lines import (
    FAMILIES,
    HIGHEST,
    LOWEST,
    best_lines,
    clipped,
    families_of,
    family_of,
    is_known,
    method_names,
)
from fa_lightning.studies.lab.result import LabMethod, LabRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 12


def front_trials(rows: Sequence[LabRow], methods: Sequence[LabMethod]) -> list[LabRow]:
    """The trials that no other beats at its damage or below, cheapest first; baselines do not compete."""
    family = families_of(methods)
    rivals = [
        row
        for row in rows
        if row.scenarios is None
        and math.isfinite(row.worst_nats)
        and math.isfinite(row.recovery)
        and family.get((row.method, row.objective)) != "baseline"
    ]
    front = [rivals[position] for position in pareto_front([(row.worst_nats, row.recovery) for row in rivals])]
    # A trial that does nothing is on every front, and says nothing.
    return [row for row in front if row.recovery > 0] or front


def method_pareto_figure(
    rows: Sequence[LabRow],
    methods: Sequence[LabMethod],
    budget_kl_nats: float,
    title: str = "Cure against damage, all methods",
) -> Figure:
    """Recovery over KL on neutral texts: good interventions are at the top left, the dashed line is the budget.

    Small marks are trials on the validation split, and a line joins those that nothing beats; up to twelve of them
    are numbered and named. Large marks are each method on the test split, with its interval.

    Args:
        rows: trials on the validation split, those fitted on all scenarios.
        methods: what the budget bought on the test split.
        budget_kl_nats: nats per token.
        title: the figure's title.
    """
    figure, axes = one_axes(height=5.4, title=title)
    family = families_of(methods)
    measured = [row for row in rows if row.scenarios is None and is_known(row.worst_nats, row.recovery)]
    lines = [line for line in best_lines(methods, budget_kl_nats) if is_known(line.kl_nats, line.recovery)]
    for name, (colour, marker) in FAMILIES.items():
        own = [row for row in measured if family.get((row.method, row.objective), family_of(row)) == name]
        places = [_price(row.worst_nats) for row in own], [clipped(row.recovery) for row in own]
        axes.scatter(
            *places, s=13, color=colour, marker=marker, alpha=0.4, linewidths=0, rasterized=len(measured) > MOST_MARKS
        )
        best = [line for line in lines if line.family == name]
        for line in best:
            ends = [clipped(end) for end in line.interval]
            if is_known(*line.interval):
                axes.plot([_price(line.kl_nats)] * 2, ends, color=colour, linewidth=1.2, zorder=3)
        places = [_price(line.kl_nats) for line in best], [clipped(line.recovery) for line in best]
        if own or best:
            axes.scatter(
                *places, s=62, color=colour, marker=marker, edgecolors=INK, linewidths=0.9, label=name, zorder=4
            )
    front = front_trials(rows, methods)
    steps = [_price(row.worst_nats) for row in front], [clipped(row.recovery) for row in front]
    axes.plot(*steps, color=INK, linewidth=1.2, zorder=2, label="best trials")
    axes.axvline(budget_kl_nats, color=RED, linewidth=1.4, linestyle="--", label=f"budget, {budget_kl_nats:g} nats")
    for level in (0.0, 1.0):
        axes.axhline(level, color=GREY, linewidth=1, linestyle=":", zorder=1)
    # Prices span decades, and a harmless edit costs 0, which a plain logarithm cannot show.
    axes.set_xscale("symlog", linthresh=1e-4)
    dearest = max([budget_kl_nats * 10, *(row.worst_nats for row in measured), *(line.kl_nats for line in lines)])
    axes.set_xlim(-2e-5, dearest * 1.5)
    axes.set_ylim(LOWEST - 0.04, HIGHEST + 0.02)
    axes.set_xlabel("KL on neutral texts, the worse of words and answer (nats)")
    axes.set_ylabel("recovery without oversight")
    note = "large marks: each method on the test split, at the budget; small marks: trials on the validation split"
    if any(row.recovery < LOWEST for row in measured):
        note += f"\nwhat is below {LOWEST:g} is drawn there"
    axes.set_title(note, fontsize=8.5, color=INK)
    _number_front(axes, front, method_names([*methods, *rows]), budget_kl_nats)
    legend_below(figure, axes)
    return figure


def labelled_trials(front: Sequence[LabRow], budget_kl_nats: float) -> list[LabRow]:
    """Up to twelve trials that can be told apart: the best cure within the budget, the best of all, and others.

    Args:
        front: see `front_trials`.
        budget_kl_nats: nats per token.
    """
    within = [row for row in front if row.worst_nats <= budget_kl_nats]
    chosen: list[LabRow] = []
    for row in [*within[-1:], *reversed(front)]:
        is_apart = all(
            abs(row.recovery - other.recovery) > 0.05
            or max(row.worst_nats, other.worst_nats) > 1.6 * min(row.worst_nats, other.worst_nats)
            for other in chosen
        )
        if is_apart and len(chosen) < LABELLED:
            chosen.append(row)
    return sorted(chosen, key=lambda row: row.worst_nats)


def _number_front(axes: Any, front: Sequence[LabRow], names: dict[tuple[str, str], str], budget_kl_nats: float) -> None:
    """Numbers beside the best trials, and their names right of the axes."""
    lines = []
    for number, row in enumerate(labelled_trials(front, budget_kl_nats), start=1):
        position = (_price(row.worst_nats), clipped(row.recovery))
        axes.annotate(
            str(number), position, xytext=(-3, 6), textcoords="offset points", ha="right", fontsize=9, fontweight="bold"
        )
        lines.append(f"{number:>2}  {names[row.method, row.objective]}\n      {row.site}, x {row.strength:g}")
    if lines:
        text = "Best trials\n" + "\n".join(lines)
        axes.annotate(text, (1.02, 1.0), xycoords="axes fraction", va="top", fontsize=8, color=INK, linespacing=1.35)


def _price(kl_nats: float) -> float:
    return max(0.0, kl_nats)
