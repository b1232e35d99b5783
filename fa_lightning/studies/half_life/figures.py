"""The figures of half-lives, for TensorBoard and for the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fa_lightning.reports.drawing import GREY, legend_below, panels, style_of
from fa_lightning.studies.half_life.result import Curve, HalfLife, HalfLifeResult
from fa_lightning.studies.half_life.tables import ATTACKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def half_life_figures(result: HalfLifeResult) -> dict[str, Figure]:
    """`curves` and `half_lives`."""
    return {"curves": curves_figure(result), "half_lives": half_lives_figure(result)}


def curves_figure(result: HalfLifeResult, title: str = "What is left of each cure along an attack") -> Figure:
    """For each attack recovery without oversight, and watched answers less unwatched ones; a line for each cure."""
    attacks = [attack for attack in ATTACKS if any(curve.attack == attack for curve in result.curves)]
    names = [name for attack in attacks for name in (f"{ATTACKS[attack]}: recovery", f"{ATTACKS[attack]}: faking")]
    figure, drawn = panels(title, names, 2, 2.3, 0.9)
    cures = [one.cure for one in result.cures]
    axes_of: list[Any] = []
    for number, (axes, _) in enumerate(drawn):
        attack, shows_recovery = attacks[number // 2], number % 2 == 0
        axes_of.append(axes)
        for level in (0.0, 0.5, 1.0):
            axes.axhline(level, color=GREY, linewidth=1, linestyle=":", zorder=1)
        for curve in result.curves:
            if curve.attack == attack:
                _line(axes, curve, cures.index(curve.cure), shows_recovery)
        amounts = next(curve for curve in result.curves if curve.attack == attack).points
        _scale(axes, [point.amount for point in amounts], "share of noise" if attack == "noise" else "steps")
    fullest = max(axes_of, key=lambda axes: len(axes.get_legend_handles_labels()[1]), default=None)
    if fullest is not None:
        legend_below(figure, fullest)
    return figure


def half_lives_figure(
    result: HalfLifeResult, title: str = "Half of the faking is back (full), half of the cure is lost (hollow)"
) -> Figure:
    """A panel for each attack, two marks for each cure that cured at all; an arrow where it lasts longer."""
    attacks = [attack for attack in ATTACKS if any(curve.attack == attack for curve in result.curves)]
    figure, drawn = panels(title, [ATTACKS[attack] for attack in attacks], 2, 2.0, 0.5)
    cures = [one.cure for one in result.cures]
    for (axes, _), attack in zip(drawn, attacks, strict=False):
        own = [curve for curve in result.curves if curve.attack == attack and curve.recovery.fate != "no gain"]
        last = max((curve.points[-1].amount for curve in own), default=1.0)
        for place, curve in enumerate(own):
            for half_life, is_full in ((curve.honesty, True), (curve.recovery, False)):
                _mark(
                    axes, half_life, place - 0.15 if is_full else place + 0.15, cures.index(curve.cure), last, is_full
                )
        axes.set_yticks(range(len(own)), [curve.cure for curve in own], fontsize=8.5)
        axes.set_ylim(max(len(own), 1) - 0.5, -0.5)
        amounts = [point.amount for point in own[0].points] if own else [0.0, 1.0]
        _scale(axes, amounts, "share of noise" if attack == "noise" else "steps")
    return figure


def _line(axes: Any, curve: Curve, number: int, shows_recovery: bool) -> None:
    colour, marker = style_of(number)
    amounts = [point.amount for point in curve.points]
    if shows_recovery:
        values = [point.recovery.value for point in curve.points]
        ends = [point.recovery.ci95 for point in curve.points]
    else:
        values = [point.faking.value for point in curve.points]
        ends = [point.faking.ci95 for point in curve.points]
    axes.fill_between(amounts, *zip(*ends, strict=True), color=colour, alpha=0.12, linewidth=0)
    style = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.6}
    axes.plot(amounts, values, label=curve.cure, **style)


def _mark(axes: Any, one: HalfLife, place: float, number: int, last: float, is_full: bool) -> None:
    colour, marker = style_of(number)
    low, high = (last if math.isnan(end) else end for end in one.ci95)
    axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
    at = last if math.isnan(one.amount) else one.amount
    face = colour if is_full else "white"
    sign = ">" if math.isnan(one.amount) else marker
    axes.scatter([at], [place], s=40, color=face, edgecolors=colour, marker=sign, zorder=3)


def _scale(axes: Any, amounts: list[float], what: str) -> None:
    """Amounts on the scale that half-lives are interpolated on: log(1 + amount)."""
    import numpy as np

    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    axes.set_xticks(amounts, [f"{amount:g}" for amount in amounts], fontsize=8)
    axes.set_xlim(0, amounts[-1] * 1.2)
    axes.minorticks_off()
    axes.tick_params(labelsize=8)
    axes.set_xlabel(what, fontsize=9)
