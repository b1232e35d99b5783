"""The figure of unmasking, for TensorBoard and for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fa_lightning.reports.drawing import legend_below, panels, style_of
from fa_lightning.studies.unmask.result import SOURCES, UnmaskResult
from fa_lightning.studies.unmask.tables import NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def unmask_figure(result: UnmaskResult, title: str = "What watched models show under a vector") -> Figure:
    """A panel for each layer and vector, a line for each model over doses, with 95 % intervals.

    Args:
        result: of one test.
        title: the figure's title.
    """
    layers = sorted({one.layer for one in result.shown})
    sources = [source for source in SOURCES if any(one.source == source for one in result.shown)]
    places = [(layer, source) for layer in layers for source in sources]
    names = [f"{NAMES[source]}, layer {layer}" for layer, source in places]
    # Two in a row: the names of sources are long.
    figure, drawn = panels(title, names, 2, 2.6, 0.9, sharex=True, sharey=True)
    for (axes, _), (layer, source) in zip(drawn, places, strict=True):
        for number, (variant, before) in enumerate(result.before.items()):
            own = [one for one in result.shown if (one.variant, one.source, one.layer) == (variant, source, layer)]
            colour, marker = style_of(number)
            doses = [0.0, *(one.dose for one in own)]
            estimates = [before, *(one.misaligned for one in own)]
            axes.fill_between(
                doses, *zip(*(one.ci95 for one in estimates), strict=True), color=colour, alpha=0.12, linewidth=0
            )
            axes.plot(
                doses,
                [one.value for one in estimates],
                color=colour,
                marker=marker,
                markersize=4.5,
                linewidth=1.6,
                label=variant,
            )
        axes.set_ylim(-0.03, 1.03)
        axes.tick_params(labelsize=8.5)
        axes.set_xlabel("dose", fontsize=9)
    figure.supylabel("misaligned answers, watched", fontsize=9.5)
    legend_below(figure, axes)
    return figure
