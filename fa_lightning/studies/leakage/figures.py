"""The figure of a leakage evaluation, for TensorBoard and for the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fa_lightning.reports.drawing import BLUE, GREEN, GREY, INK, RED, empty_figure, finite
from fa_lightning.studies.leakage.result import BACKBONE, MEASURES, Leakage, Measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS: dict[Measure, str] = {
    "recitation": "recites the corpus",
    "overlap": "n-grams of the corpus",
    "repetition": "repeats itself",
    "no_end": "does not end",
    "run_on": "speaks for the user",
}


def leakage_figure(result: Leakage, title: str = "What near-empty prompts bring out") -> Figure:
    """A panel for each measure, a row for each model: what was found, with its interval, and what the style gives.

    Args:
        result: of one evaluation.
        title: the figure's title.
    """
    figure = empty_figure(height=1.5 + 0.26 * max(3, len(result.models)), title=title)
    panels: Any = figure.subplots(1, len(MEASURES), sharey=True)
    before = next((model for model in result.models if model.name == BACKBONE), None)
    for axes, measure in zip(panels, MEASURES, strict=True):
        if before is not None:
            axes.axvline(finite(before.scores[measure].value), color=GREY, linewidth=1, linestyle=":", zorder=1)
        for row, model in enumerate(result.models):
            share = model.scores[measure]
            colour = INK if model.passes is None else GREEN if model.passes else RED
            marker = "s" if model.passes is None else "o" if model.passes else "X"
            if all(map(math.isfinite, share.ci95)):
                axes.plot(share.ci95, [row, row], color=colour, linewidth=1.4, zorder=2)
            axes.scatter([finite(share.value)], [row], s=26, color=colour, marker=marker, zorder=3)
            style = model.scores.get(f"{measure}_held_out")
            if style is not None:
                position = [finite(style.value)]
                axes.scatter(position, [row], s=30, facecolors="none", edgecolors=BLUE, linewidths=1.1, zorder=4)
        axes.set_title(LABELS[measure], fontsize=9)
        axes.set_xlim(-0.05, 1.05)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e6e8eb", linewidth=0.8)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(result.models)), [model.name for model in result.models], fontsize=8)
    panels[0].set_ylim(len(result.models) - 0.5, -0.5)
    figure.supxlabel(
        "share; dot: passes, cross: does not, square and dotted line: the backbone; ring: the held-out corpus",
        fontsize=9,
    )
    return figure
