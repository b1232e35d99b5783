"""The figures that show where a model's states tell what is asked, for TensorBoard and for the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fa_lightning.reports.drawing import GREY, INK, legend_below, panels, style_of, tidy
from fa_lightning.studies.probes.result import VIEWS, Best, Labelled, ProbesResult, Reading, ViewName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAIN = "logistic"
"""The probe that stands for a subject where subjects are compared."""

_Read = TypeVar("_Read", Reading, Labelled)


def probe_figures(result: ProbesResult) -> dict[str, Figure]:
    """Every figure that there is data for, by name, in reading order.

    The names are `subjects`, `layers`, `efficiency` and `controls`.

    Args:
        result: what probes found.
    """
    figures: dict[str, Figure] = {}
    if len(result.subjects) > 1 and any(reading.probe == MAIN for reading in result.readings):
        figures["subjects"] = subject_figure(result.readings)
    if any(reading.site for reading in result.readings):
        figures["layers"] = layer_figure(result.readings, result.subjects)
    if result.efficiency:
        figures["efficiency"] = efficiency_figure(result.efficiency, result.subjects)
    if any(reading.role == "control" for reading in result.readings):
        figures["controls"] = control_figure(result.readings, result.best)
    return figures


def subject_figure(
    readings: Sequence[Reading], title: str = "Where each model's states tell it (logistic probe, held-out rows)"
) -> Figure:
    """A panel for each question and view, a line for each subject over layers, with 95 % intervals.

    Args:
        readings: those of the logistic probe are shown.
        title: the figure's title.
    """
    chosen = [reading for reading in readings if reading.probe == MAIN]
    return _profiles(title, chosen, lambda entry: (entry.question, entry.view), lambda entry: entry.subject)


def layer_figure(
    readings: Sequence[Reading], subjects: Sequence[str], title: str = "Every probe, layer by layer (held-out rows)"
) -> Figure:
    """A panel for each subject, question and view, a line for each probe over layers, with 95 % intervals.

    Args:
        readings: those of probes are shown, controls are not.
        subjects: named in the panels where there are several.
        title: the figure's title.
    """
    chosen = [reading for reading in readings if reading.role == "probe"]
    return _profiles(title, chosen, _panel_of(subjects), lambda entry: entry.probe)


def efficiency_figure(
    efficiency: Sequence[Labelled],
    subjects: Sequence[str],
    title: str = "How many labels a probe needs, at the best layer (CCS: for its sign alone)",
) -> Figure:
    """A panel for each subject, question and view: accuracy over the number of labelled rows, a line for each probe.

    Args:
        efficiency: accuracies by number of labels.
        subjects: named in the panels where there are several.
        title: the figure's title.
    """
    figure, drawn = _lines(
        title, efficiency, _panel_of(subjects), lambda reading: reading.probe, lambda reading: reading.labels
    )
    for axes in drawn:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("labelled training rows", fontsize=9)
    return figure


def control_figure(
    readings: Sequence[Reading],
    best: Sequence[Best],
    title: str = "Probes beside their controls, at the best layer",
) -> Figure:
    """A panel for each subject, question and view: a point with its 95 % interval for each probe and control.

    Args:
        readings: at all sites.
        best: the sites that are shown.
        title: the figure's title.
    """
    names = [f"{site.subject}: {site.question}, {VIEWS[site.view]}" for site in best]
    most = max(len(_at(readings, site)) for site in best)
    figure, drawn = panels(title, names, min(2, len(names)), 0.9 + 0.23 * most, 0.5, sharex=True)
    for (axes, _), site in zip(drawn, best, strict=True):
        rows = sorted(_at(readings, site), key=lambda reading: reading.role == "control")
        for height, row in enumerate(rows):
            colour = INK if row.role == "probe" else GREY
            axes.plot(row.ci95, [height, height], color=colour, linewidth=1.6)
            axes.scatter(
                [row.accuracy], [height], s=30, color=colour, marker="o" if row.role == "probe" else "s", zorder=3
            )
        axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":", zorder=1)
        axes.set_yticks(range(len(rows)), [row.probe for row in rows], fontsize=8.5)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlim(-0.03, 1.03)
        axes.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    figure.supxlabel("share read rightly (dotted: a coin; lines: 95 % interval; grey squares: controls)", fontsize=9.5)
    return figure


def _profiles(
    title: str,
    readings: Sequence[Reading],
    panel: Callable[[Reading], tuple[str, ...]],
    series: Callable[[Reading], str],
) -> Figure:
    figure, drawn = _lines(title, readings, panel, series, lambda reading: reading.layer)
    for axes in drawn:
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("layer", fontsize=9)
    return figure


def _lines(
    title: str,
    reads: Sequence[_Read],
    panel: Callable[[_Read], tuple[str, ...]],
    series: Callable[[_Read], str],
    position: Callable[[_Read], int],
) -> tuple[Figure, list[Any]]:
    """A panel for each question, a line with its interval for each series; the figure and its axes."""
    names = list(dict.fromkeys(panel(reading) for reading in reads))
    labels = list(dict.fromkeys(series(reading) for reading in reads))
    titles = [_spoken(name) for name in names]
    figure, grid = panels(title, titles, min(3, max(1, len(names))), 2.5, 0.9, sharey=True)
    drawn = [axes for axes, _ in grid]
    for axes, name in zip(drawn, names, strict=True):
        for number, label in enumerate(labels):
            colour, marker = style_of(number)
            own = sorted(
                (reading for reading in reads if panel(reading) == name and series(reading) == label), key=position
            )
            if not own:
                continue
            places = [position(reading) for reading in own]
            axes.fill_between(
                places, *zip(*(reading.ci95 for reading in own), strict=True), color=colour, alpha=0.12, linewidth=0
            )
            line = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.6, "label": label}
            axes.plot(places, [reading.accuracy for reading in own], **line)
        axes.axhline(0.5, color=GREY, linewidth=1, linestyle=":", zorder=1)
        axes.set_ylim(-0.03, 1.03)
        axes.tick_params(labelsize=8.5)
        tidy(axes)
    figure.supylabel("share read rightly (dotted: a coin)", fontsize=9.5)
    # A panel may lack a series that another one has.
    legend_below(figure, max(drawn, key=lambda axes: len(axes.get_legend_handles_labels()[1])))
    return figure, drawn


def _panel_of(subjects: Sequence[str]) -> Callable[[Reading | Labelled], tuple[str, ...]]:
    """What a panel is of; a subject is named where there are several."""
    if len(subjects) > 1:
        return lambda reading: (reading.subject, reading.question, reading.view)
    return lambda reading: (reading.question, reading.view)


def _spoken(name: tuple[str, ...]) -> str:
    *others, question, view = name
    return ": ".join([*others, f"{question}, {VIEWS[cast(ViewName, view)]}"])


def _at(readings: Sequence[Reading], best: Best) -> list[Reading]:
    """Readings at the best site, and those that read no states."""
    wanted = (best.subject, best.question, best.view)
    return [
        reading
        for reading in readings
        if (reading.subject, reading.question, reading.view) == wanted and reading.site in (best.site, "")
    ]
