"""All cures of a faker at once: how much each cures against what it does to neutral texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fa_lightning.reports.drawing import BLUE, GREEN, GREY, INK, ORANGE, PINK, SKY, legend_below, one_axes
from fa_lightning.studies.cures.result import CureScore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {
    "reference": (GREY, "D", "faker and twin"),
    "steering": (BLUE, "*", "steering"),
    "adapter": (ORANGE, "s", "trained"),
    "input": (GREEN, "o", "input"),
    "guard": (SKY, "v", "guard"),
    "baseline": (PINK, "X", "baseline"),
}
"""Colour, marker and name in the legend of each kind of cure."""


def cures_figure(scores: Sequence[CureScore], title: str = "Ways to cure a faker") -> Figure:
    """Recovery over the worse of both KLs on neutral texts, a numbered mark for each method; the good ones: top left.

    Methods whose KL was not measured are left out of the axes, but named with their recovery.

    Args:
        scores: one for each method, in the order of the table.
        title: the figure's title.
    """
    figure, axes = one_axes(height=5.4, title=title)
    names, labelled = [], set()
    for number, score in enumerate(scores, start=1):
        method, kl, recovery = score.method, score.worst_nats, score.recovery.value
        low, high = score.recovery.ci95
        colour, marker, label = KINDS[score.kind]
        if not (math.isfinite(kl) and math.isfinite(recovery)):
            names.append(f"{number:>2}  {method}: not drawn, recovery {recovery:.2f}")
            continue
        position = max(kl, 0.0)
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([position, position], [low, high], color=colour, linewidth=1.2, zorder=2)
        size = 130 if marker == "*" else 60
        axes.scatter(
            [position],
            [recovery],
            s=size,
            color=colour,
            marker=marker,
            edgecolors=INK,
            linewidths=0.8,
            zorder=3,
            label=None if score.kind in labelled else label,
        )
        labelled.add(score.kind)
        axes.annotate(str(number), (position, recovery), xytext=(5, 5), textcoords="offset points", fontsize=8.5)
        names.append(f"{number:>2}  {method}")
    for level in (0.0, 1.0):
        axes.axhline(level, color=GREY, linewidth=1, linestyle=":", zorder=1)
    # Costs span decades, and a cure that leaves neutral texts alone costs 0, which a plain logarithm cannot show.
    axes.set_xscale("symlog", linthresh=1e-4)
    axes.set_xlim(left=-2e-5)
    axes.set_xlabel("KL on neutral texts (nats; the worse of what is read and what is said)")
    axes.set_ylabel("recovery without oversight")
    text = "\n".join(names)
    axes.annotate(text, (1.02, 1.0), xycoords="axes fraction", va="top", fontsize=8, color=INK, linespacing=1.35)
    legend_below(figure, axes)
    return figure
