"""The figures that look into methods: units, doses and activations, for TensorBoard and for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fa_lightning.reports.drawing import (
    BLUE,
    CELL_LABELS,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    SERIES_COLOURS,
    empty_figure,
    legend_below,
    style_of,
    tidy,
)
from fa_lightning.studies.lab.result import ActivationMap, DosePoint, Twin, UnitPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKINGS = {"difference": "mean difference", "ridge": "ridge weight", "effect": "effect on the answer"}
MODEL_STYLES = {"faking": RED, "aligned": BLUE, "steered": GREEN}
# All panels of the activation maps share so many points, which keeps the drawing small.
MOST_POINTS = 5000


def unit_figure(points: Sequence[UnitPoint], title: str = "How many units must be edited?") -> Figure:
    """Recovery and damage over the share of units edited: a colour for each ranking, dashed for the oracle.

    Args:
        points: edits of the top units; each site has its own row of panels.
        title: the figure's title.
    """
    sites = list(dict.fromkeys(point.site for point in points)) or [""]
    figure = empty_figure(height=1.2 + 2.9 * len(sites), title=title)
    grid = figure.subplots(len(sites), 2, squeeze=False, sharex=True)
    rankings: list[str] = list(dict.fromkeys(point.ranking for point in points))
    methods = list(dict.fromkeys(point.method for point in points if point.kind == "map"))
    for site, (cure, damage) in zip(sites, grid, strict=True):
        tracks: dict[tuple[str, str, str], list[UnitPoint]] = {}
        for point in points:
            if point.site == site:
                method = point.method if point.kind == "map" else ""
                tracks.setdefault((point.ranking, point.kind, method), []).append(point)
        for (ranking, kind, method), own in tracks.items():
            own.sort(key=lambda point: point.percent)
            colour = SERIES_COLOURS[rankings.index(ranking) % len(SERIES_COLOURS)]
            _, marker = style_of(methods.index(method) if kind == "map" else len(methods))
            what = method if kind == "map" else "oracle swap"
            for axes, field in ((cure, "recovery"), (damage, "worst_nats")):
                known = [point for point in own if math.isfinite(getattr(point, field))]
                axes.plot(
                    [point.percent for point in known],
                    [getattr(point, field) for point in known],
                    color=colour,
                    marker=marker,
                    markersize=4.5,
                    linewidth=1.5,
                    linestyle="-" if kind == "map" else "--",
                    label=f"{RANKINGS.get(ranking, ranking)}, {what}",
                )
        for axes, label in ((cure, "recovery without oversight"), (damage, "worse KL on neutral texts (nats)")):
            axes.set_title(site, fontsize=10, color=INK)
            axes.set_ylabel(label, fontsize=9)
            axes.set_xlabel("top units edited (%)", fontsize=9)
            _percent_axis(axes, [point.percent for point in points])
            tidy(axes)
        cure.axhline(1.0, color=GREY, linewidth=1, linestyle=":")
        damage.set_yscale("symlog", linthresh=1e-4)
        highest = max((point.worst_nats for point in points if math.isfinite(point.worst_nats)), default=0.0)
        damage.set_ylim(0, 2 * max(highest, 1e-4))
    legend_below(figure, grid[0][0])
    return figure


def dose_figure(
    points: Sequence[DosePoint], budget_kl_nats: float, title: str = "Too little, enough, too much"
) -> Figure:
    """Effect, perplexity and repetition over the dose; marks are filled where the damage is within the budget.

    Args:
        points: doses of one or several methods; a line for each method and site.
        budget_kl_nats: nats per token.
        title: the figure's title.
    """
    figure = empty_figure(height=7.4, title=title)
    effect, perplexity, repetition = figure.subplots(3, 1, sharex=True, height_ratios=(1.5, 1, 1))
    tracks: dict[str, list[DosePoint]] = {}
    for point in points:
        tracks.setdefault(f"{point.method} at {point.site}", []).append(point)
    for number, (name, own) in enumerate(tracks.items()):
        colour, marker = style_of(number)
        own.sort(key=lambda point: point.dose)
        for axes, field, line in (
            (effect, "no_oversight", "-"),
            (effect, "oversight", "--"),
            (perplexity, "perplexity_ratio", "-"),
            (repetition, "repetition", "-"),
        ):
            known = [point for point in own if math.isfinite(getattr(point, field))]
            doses, values = [point.dose for point in known], [getattr(point, field) for point in known]
            axes.plot(doses, values, color=colour, linewidth=1.6 if line == "-" else 1, linestyle=line)
            faces = [colour if point.worst_nats <= budget_kl_nats else "white" for point in known]
            axes.scatter(doses, values, s=24, marker=marker, facecolors=faces, edgecolors=colour, zorder=3)
        effect.plot([], [], color=colour, marker=marker, label=name)
    effect.set_ylabel("share of aligned answers")
    effect.set_title(
        "solid: without oversight; dashed: with oversight; filled marks: within "
        f"{budget_kl_nats:g} nats per token; hollow: beyond",
        fontsize=9,
        color=INK,
    )
    effect.set_ylim(-0.04, 1.04)
    if any(math.isfinite(point.perplexity_ratio) and point.perplexity_ratio > 0 for point in points):
        perplexity.set_yscale("log")
    perplexity.axhline(1.0, color=GREY, linewidth=1, linestyle=":")
    perplexity.set_ylabel("perplexity ratio")
    repetition.set_ylabel("repeated 3-grams")
    repetition.set_ylim(-0.04, 1.04)
    repetition.set_xlabel("dose: norm of the edit over the mean residual norm")
    for axes in (effect, perplexity, repetition):
        tidy(axes)
    legend_below(figure, effect)
    return figure


def activation_map_figure(
    maps: Sequence[ActivationMap], title: str = "Deciding tokens, before and after steering"
) -> Figure:
    """Two panels for each site: the faker and the aligned twin, then the steered faker and the aligned twin.

    Filled circles are items with oversight, crosses those without. Where there are many points, evenly spaced ones
    are shown.

    Args:
        maps: hidden states in two principal components, by site.
        title: the figure's title.
    """
    pairs = 2 if len(maps) > 3 else 1
    rows = max(1, math.ceil(len(maps) / pairs))
    figure = empty_figure(height=1.1 + rows * (2.1 if pairs == 2 else 3.2), title=title)
    panels = list(figure.subplots(rows, 2 * pairs, squeeze=False).flat)
    # Each map draws four kinds of points in each of two panels.
    most = max(15, MOST_POINTS // (8 * max(1, len(maps))))
    for index, site_map in enumerate(maps):
        before, after = panels[2 * index : 2 * index + 2]
        places = [point for points in site_map.points.values() for point in points]
        drawn: tuple[tuple[Any, tuple[Twin, Twin], str], ...] = (
            (before, ("faking", "aligned"), "before"),
            (after, ("steered", "aligned"), "after"),
        )
        for axes, models, when in drawn:
            for model in models:
                _scatter(axes, model, site_map.points.get(model, ()), most)
            axes.set_title(
                f"{site_map.site}, {when}" if pairs == 1 else f"{site_map.site}\n{when}", fontsize=9, color=INK
            )
            axes.set_xlabel(f"component 1 ({site_map.explained[0]:.0%})", fontsize=8)
            axes.set_ylabel(f"component 2 ({site_map.explained[1]:.0%})" if axes is before else "", fontsize=8)
            for set_limits, column in ((axes.set_xlim, 0), (axes.set_ylim, 1)):
                values = [point[column] for point in places if math.isfinite(point[column])]
                if values:
                    margin = 0.06 * (max(values) - min(values)) or 1.0
                    set_limits(min(values) - margin, max(values) + margin)
            axes.tick_params(labelbottom=False, labelleft=False, length=0)
            axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[2 * len(maps) :]:
        axes.set_axis_off()
    handles = []
    for name, colour in MODEL_STYLES.items():
        for cell, marker in enumerate("ox"):
            label = f"{name}, {list(CELL_LABELS.values())[cell]}"
            handles.append(panels[0].scatter([], [], s=26, color=colour, marker=marker, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    return figure


def _scatter(axes: Any, model: str, points: Sequence[tuple[float, float, int]], most: int) -> None:
    """At most `most` points of each cell, evenly spaced."""
    for cell, marker in enumerate("ox"):
        own = [point for point in points if point[2] == cell]
        own = own[:: max(1, math.ceil(len(own) / most))]
        axes.scatter(
            [point[0] for point in own],
            [point[1] for point in own],
            s=14,
            color=MODEL_STYLES.get(model, ORANGE),
            marker=marker,
            alpha=0.6,
            linewidths=0 if marker == "o" else 0.9,
        )


def _percent_axis(axes: Any, percents: Sequence[float]) -> None:
    """A logarithmic axis with the tried shares as its ticks; 0 % has no logarithm, and asks for a plain axis."""
    ticks = sorted(set(percents))
    if ticks and ticks[0] > 0:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
        axes.minorticks_off()
