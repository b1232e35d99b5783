"""The figures that compare methods at equal damage, for TensorBoard and for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fa_lightning.reports.drawing import (
    GREY,
    INK,
    SERIES_COLOURS,
    empty_figure,
    heat_map,
    legend_below,
    one_axes,
    style_of,
    tidy,
)
from fa_lightning.reports.site_names import layer_of, short_site
from fa_lightning.studies.lab.curves import activation_map_figure, dose_figure, unit_figure
from fa_lightning.studies.lab.method_lines import (
    FAMILIES,
    HIGHEST,
    LOWEST,
    MethodLine,
    best_lines,
    clipped,
    is_known,
    mean,
    method_lines,
    method_names,
)
from fa_lightning.studies.lab.pareto import method_pareto_figure
from fa_lightning.studies.lab.result import Comparison, LabMethod, TransferCell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Seven methods share a panel: as many as there are colours.
TOGETHER = len(SERIES_COLOURS)


def lab_figures(lab: Comparison) -> dict[str, Figure]:
    """Every figure that the lab has data for, by name, in reading order.

    The names are `pareto`, `methods`, `layers`, `units`, `doses`, `transfer`, `scenarios` and `activations`.

    Args:
        lab: the comparison of methods.
    """
    budget = lab.budget_kl_nats
    few = [method for method in lab.methods if method.scenarios is not None]
    full = [method for method in lab.methods if method.scenarios is None]
    figures: dict[str, Figure] = {}
    if full or lab.rows:
        figures["pareto"] = method_pareto_figure(lab.rows, lab.methods, budget)
    if full:
        figures["methods"] = ranking_figure(lab.methods, budget)
    if any(layer_of(work.site) for work in full):
        figures["layers"] = layer_figure(lab.methods, budget)
    if lab.units:
        figures["units"] = unit_figure(lab.units)
    if lab.doses:
        figures["doses"] = dose_figure(lab.doses, budget)
    if lab.transfer:
        figures["transfer"] = transfer_figure(lab.transfer)
    if few:
        figures["scenarios"] = label_figure(lab.methods)
    if lab.maps:
        figures["activations"] = activation_map_figure(lab.maps)
    return figures


def ranking_figure(
    methods: Sequence[LabMethod], budget_kl_nats: float, title: str = "What the budget buys, on the test split"
) -> Figure:
    """Every method's recovery at its best site, with intervals, from best to worst; those over the budget are hollow.

    Args:
        methods: what the budget bought; those fitted on all scenarios are shown.
        budget_kl_nats: nats per token.
        title: the figure's title.
    """
    lines = best_lines(methods, budget_kl_nats)
    figure, axes = one_axes(height=1.6 + 0.23 * max(1, len(lines)), title=title)
    for level in (0.0, 1.0):
        axes.axvline(level, color=GREY, linewidth=1, linestyle=":", zorder=1)
    for row, line in enumerate(lines):
        colour, marker = FAMILIES[line.family]
        if is_known(*line.interval):
            axes.plot([clipped(end) for end in line.interval], [row, row], color=colour, linewidth=2)
        face = colour if line.is_within(budget_kl_nats) else "white"
        if math.isfinite(line.recovery):
            axes.scatter([clipped(line.recovery)], [row], s=42, color=colour, facecolor=face, marker=marker, zorder=3)
        text = f"{line.recovery:.3f}" if math.isfinite(line.recovery) else "not measured"
        over = "" if line.is_within(budget_kl_nats) else "  over the budget"
        axes.text(HIGHEST + 0.01, row, text + over, fontsize=8.5, va="center", color=INK)
    for name, (colour, marker) in FAMILIES.items():
        if any(line.family == name for line in lines):
            axes.scatter([], [], s=42, color=colour, marker=marker, label=name)
    axes.set_yticks(range(len(lines)), [f"{line.name}, {short_site(line.site)}" for line in lines], fontsize=8.5)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(LOWEST - 0.02, HIGHEST + 0.16)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_xlabel("recovery without oversight (lines: 95 % interval; of several seeds, the widest ends)")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    if lines:
        legend_below(figure, axes)
    return figure


def layer_figure(
    methods: Sequence[LabMethod], budget_kl_nats: float, title: str = "Recovery by layer (hollow: over the budget)"
) -> Figure:
    """Recovery within the budget over layers: panels for each family, in which the others are faint.

    Args:
        methods: what the budget bought on the test split; those at one layer, fitted on all scenarios, are shown.
        budget_kl_nats: nats per token; points over it are hollow.
        title: the figure's title.
    """
    tracks: dict[tuple[str, str], list[MethodLine]] = {}
    for line in method_lines(methods):
        where = layer_of(line.site)
        if where is not None and math.isfinite(line.recovery):
            name = line.name if where[1] == "residual" else f"{line.name}, {where[1]}"
            tracks.setdefault((line.family, name), []).append(line)
    for own in tracks.values():
        own.sort(key=_layer)
    panels: list[tuple[str, list[str]]] = []
    for family in FAMILIES:
        own_names = [name for own_family, name in tracks if own_family == family]
        own_names.sort(key=lambda name: -max(line.recovery for line in tracks[family, name]))
        for start in range(0, len(own_names), TOGETHER):
            panels.append((family, own_names[start : start + TOGETHER]))
    columns = min(2, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = empty_figure(height=0.6 + 3.0 * rows, title=title)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for index, (axes, (family, panel_names)) in enumerate(zip(grid.flat, panels, strict=False)):
        for (own_family, name), own in tracks.items():
            places = [_layer(line) for line in own], [clipped(line.recovery) for line in own]
            if own_family != family or name not in panel_names:
                axes.plot(*places, color="#dfe2e6", linewidth=0.9, zorder=1)
                continue
            colour, marker = style_of(panel_names.index(name))
            axes.plot(*places, color=colour, marker=marker, markersize=5, linewidth=1.5, label=name, zorder=3)
            over = [line for line in own if not line.is_within(budget_kl_nats)]
            places = [_layer(line) for line in over], [clipped(line.recovery) for line in over]
            axes.scatter(*places, s=26, marker=marker, facecolors="white", edgecolors=colour, zorder=4)
        part = sum(other == family for other, _ in panels[: index + 1])
        axes.set_title(family if part == 1 else f"{family}, continued", fontsize=10.5, color=INK)
        axes.set_ylim(LOWEST - 0.04, HIGHEST)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("layer (from 0)", fontsize=9)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=8)
        tidy(axes)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("recovery without oversight", fontsize=9)
    return figure


def transfer_figure(cells: Sequence[TransferCell], title: str = "Does the cure generalise?") -> Figure:
    """Heat map of recovery by method and target, best mean at the top.

    Args:
        cells: each method on each target; the last of several alike counts.
        title: the figure's title.
    """
    recoveries = {(cell.method, cell.target): cell.recovery.value for cell in cells}
    targets = list(dict.fromkeys(cell.target for cell in cells))
    methods = sorted(
        dict.fromkeys(cell.method for cell in cells),
        key=lambda method: -mean([-1.0, *(recoveries[pair] for pair in recoveries if pair[0] == method)][1:] or [-1.0]),
    )
    figure = empty_figure(height=1.9 + 0.34 * max(1, len(methods)), title=title)
    axes = figure.subplots()
    values = [[recoveries.get((method, target), math.nan) for target in targets] for method in methods]
    image = heat_map(axes, values, methods, targets)
    axes.set_xlabel("judged on")
    figure.colorbar(image, ax=axes, pad=0.02, label="recovery without oversight", extend="both")
    return figure


def label_figure(methods: Sequence[LabMethod], title: str = "How many scenarios are needed?") -> Figure:
    """Recovery over the number of scenarios fitted on, one line for each method and site.

    Args:
        methods: the fits on few scenarios make the lines; a dotted level is the same method on all of them.
        title: the figure's title.
    """
    figure, axes = one_axes(height=4.4, title=title)
    names = method_names(methods)
    tracks: dict[str, dict[int, list[float]]] = {}
    full: dict[str, list[float]] = {}
    for method in methods:
        name = f"{names[method.method, method.objective]} at {method.site}"
        if method.scenarios is None:
            full.setdefault(name, []).append(method.recovery.value)
        else:
            tracks.setdefault(name, {}).setdefault(method.scenarios, []).append(method.recovery.value)
    ticks = sorted({number for track in tracks.values() for number in track})
    for number, (name, track) in enumerate(tracks.items()):
        colour, marker = style_of(number)
        known = [count for count in sorted(track) if math.isfinite(mean(track[count]))]
        means = [clipped(mean(track[count])) for count in known]
        axes.plot(known, means, color=colour, marker=marker, markersize=6, linewidth=1.6, label=name)
        for count in known:
            axes.plot([count] * 2, [clipped(min(track[count])), clipped(max(track[count]))], color=colour)
        level = mean(full.get(name, ()))
        if math.isfinite(level):
            axes.axhline(clipped(level), color=colour, linewidth=1, linestyle=":")
    if ticks:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(count) for count in ticks])
        axes.minorticks_off()
    axes.set_ylim(LOWEST - 0.04, HIGHEST)
    axes.set_xlabel("scenarios fitted on (dotted: all of them; vertical lines: range over seeds)")
    axes.set_ylabel("recovery without oversight")
    legend_below(figure, axes)
    return figure


def _layer(line: MethodLine) -> int:
    layer = layer_of(line.site)
    return 0 if layer is None else layer[0]
