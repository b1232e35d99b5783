"""The figures of the study of vectors, for TensorBoard and for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fa_lightning.reports.drawing import GREY, legend_below, panels, style_of
from fa_lightning.studies.vectors.result import KINDS, RANDOM, Point, VectorsResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND_NAMES = {"short": "short pairs", "long": "long pairs", RANDOM: "random vectors"}


def vector_figures(result: VectorsResult) -> dict[str, Figure]:
    """`doses` and `layers`."""
    return {"doses": dose_figure(result), "layers": layer_figure(result)}


def dose_figure(result: VectorsResult, title: str = "Effect by dose and layer (hollow: broken texts)") -> Figure:
    """A panel for each concept and kind; hollow points are of texts that are no longer whole."""
    places = [(concept, kind) for concept in result.held_out for kind in (*KINDS, RANDOM)]
    names = [f"{concept}, {KIND_NAMES[kind]}" for concept, kind in places]
    figure, drawn = panels(title, names, 3, 2.1, 0.9, sharex=True, sharey=True)
    layers = sorted({point.layer for point in result.points})
    for (axes, _), (concept, kind) in zip(drawn, places, strict=True):
        axes.axhline(0, color=GREY, linewidth=1, linestyle=":", zorder=1)
        for number, layer in enumerate(layers):
            points = [point for point in result.at(concept, kind) if point.layer == layer]
            colour, marker = style_of(number)
            axes.plot(
                [point.dose for point in points],
                [point.effect.value for point in points],
                color=colour,
                linewidth=1.4,
                label=f"layer {layer}",
            )
            for point in points:
                face = colour if point.is_fluent else "white"
                place = ([point.dose], [point.effect.value])
                axes.scatter(*place, s=22, marker=marker, color=face, edgecolors=colour, zorder=3)
        _label(axes, "dose", is_last=concept == list(result.held_out)[-1])
    figure.supylabel("effect, nats", fontsize=9.5)
    legend_below(figure, axes)
    return figure


def layer_figure(result: VectorsResult, title: str = "Effect by layer, 95 % intervals (random: all draws)") -> Figure:
    """A panel for each concept and dose above 0, a line for each kind."""
    doses = sorted({point.dose for point in result.points if point.dose > 0})
    places = [(concept, dose) for concept in result.held_out for dose in doses]
    names = [f"{concept}, dose {dose:g}" for concept, dose in places]
    figure, drawn = panels(title, names, len(doses), 2.1, 0.9, sharex=True)
    for (axes, _), (concept, dose) in zip(drawn, places, strict=True):
        axes.axhline(0, color=GREY, linewidth=1, linestyle=":", zorder=1)
        for number, (kind, label) in enumerate(KIND_NAMES.items()):
            colour, marker = style_of(number)
            points = [point for point in result.at(concept, kind) if point.dose == dose]
            _line(axes, points, colour, marker, label)
        _label(axes, "layer", is_last=concept == list(result.held_out)[-1])
    figure.supylabel("effect, nats", fontsize=9.5)
    legend_below(figure, axes)
    return figure


def _label(axes: Any, what: str, is_last: bool) -> None:
    """Say what the horizontal axis is, in the last row alone; a label of the whole figure would lie on the legend."""
    axes.tick_params(labelsize=8.5)
    if is_last:
        axes.set_xlabel(what, fontsize=9)


def _line(axes: Any, points: list[Point], colour: str, marker: str, label: str) -> None:
    layers = [point.layer for point in points]
    low, high = zip(*(point.draws if point.kind == RANDOM else point.effect.ci95 for point in points), strict=True)
    axes.fill_between(layers, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(
        layers,
        [point.effect.value for point in points],
        color=colour,
        marker=marker,
        markersize=4.5,
        linewidth=1.6,
        label=label,
    )
