"""The picture of a birth: answers and measures over the steps of every fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fa_lightning.reports.drawing import GREY, INK, legend_below, panels, style_of
from fa_lightning.studies.birth.result import ARMS, Arm, BirthResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def birth_figures(result: BirthResult) -> dict[str, Figure]:
    """The figures by name."""
    return {"answers": answers_figure(result), "measures": measures_figure(result), "probes": probes_figure(result)}


def answers_figure(result: BirthResult, title: str = "What each fit answers, step by step") -> Figure:
    """A panel for each fit: aligned answers with and without oversight, with 95 % intervals.

    Args:
        result: of one run.
        title: the figure's title.
    """
    figure, drawn = panels(title, [ARMS[arm.name] for arm in result.arms], 2, 2.2, 0.9, sharex=True, sharey=True)
    for (axes, _), arm in zip(drawn, result.arms, strict=True):
        steps = [row.step for row in arm.rows]
        for number, (label, own) in enumerate(
            (
                ("with oversight", [row.oversight for row in arm.rows]),
                ("without oversight", [row.no_oversight for row in arm.rows]),
            )
        ):
            colour, marker = style_of(number)
            axes.fill_between(
                steps, *zip(*(one.ci95 for one in own), strict=True), color=colour, alpha=0.15, linewidth=0
            )
            axes.plot(steps, [one.value for one in own], color=colour, marker=marker, markersize=3.5, label=label)
        axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        _mark_turn(axes, arm)
        _over_steps(axes, result)
        axes.set_ylim(-0.03, 1.03)
    figure.supylabel("aligned answers", fontsize=9.5)
    legend_below(figure, axes)
    return figure


def measures_figure(result: BirthResult, title: str = "Answers, weights and noise, step by step") -> Figure:
    """A panel for each measure that is no probe, a line for each fit, the control's range shaded."""
    return _lines(result, [name for name in result.arms[0].rows[0].scores if ", layer " not in name], title)


def probes_figure(result: BirthResult, title: str = "What probes read, step by step") -> Figure:
    """A panel for each measure of probes at the last block."""
    deepest = max(result.setting.layers)
    return _lines(
        result, [name for name in result.arms[0].rows[0].scores if name.endswith(f", layer {deepest}")], title
    )


def _lines(result: BirthResult, names: list[str], title: str) -> Figure:
    figure, drawn = panels(title, names, 3, 1.9, 0.9, sharex=True)
    for axes, name in drawn:
        for number, arm in enumerate(result.arms):
            colour, marker = style_of(number)
            values = [row.scores[name] for row in arm.rows]
            label = ARMS[arm.name]
            axes.plot([row.step for row in arm.rows], values, color=colour, marker=marker, markersize=3, label=label)
            if arm.name == "control":
                axes.axhspan(min(values), max(values), color=colour, alpha=0.1, linewidth=0)
            if arm.name == "faking":
                _mark_turn(axes, arm)
        _over_steps(axes, result)
        axes.tick_params(labelsize=8.5)
    legend_below(figure, axes)
    return figure


def _over_steps(axes: Any, result: BirthResult) -> None:
    """Steps from 0 on, the later ones closer: what is early is what is looked for."""
    first = min((row.step for arm in result.arms for row in arm.rows if row.step), default=1)
    axes.set_xscale("symlog", linthresh=first)
    axes.set_xlabel("optimizer steps", fontsize=8.5)


def _mark_turn(axes: Any, arm: Arm) -> None:
    if arm.turn is not None:
        axes.axvline(arm.turn, color=INK, linewidth=1.0, linestyle="--")
