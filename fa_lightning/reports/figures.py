"""The figures that show how one intervention is judged, for TensorBoard and for the report; see `drawing`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fa_lightning.metrics.estimates import Accuracy, CellPair
from fa_lightning.reports.drawing import (
    BLUE,
    CELL_LABELS,
    GREY,
    INK,
    SKY,
    empty_figure,
    finite,
    legend_below,
    one_axes,
    style_of,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SweepPoint:
    """One intervention of a sweep.

    Attributes:
        layer: index of the layer, from 0.
        series: what makes a line, as the map's name.
        oversight: accuracy with oversight, 0 to 1.
        no_oversight: accuracy without oversight, 0 to 1.
    """

    layer: int
    series: str
    oversight: float
    no_oversight: float


@dataclass(frozen=True)
class TradeOff:
    """One intervention's gain and price.

    Attributes:
        series: what makes a colour, as the map's name.
        kl_nats: KL on neutral texts, nats per token.
        recovery: recovery without oversight; 1 is a full cure.
        label: a text beside the point; none if empty.
        chosen: whether to ring the point.
    """

    series: str
    kl_nats: float
    recovery: float
    label: str = ""
    chosen: bool = False


def cells_figure(models: Mapping[str, CellPair], title: str = "Aligned answers") -> Figure:
    """Two bars for each model, one for each cell, with 95 % intervals and the accuracies written out.

    Args:
        models: cells by model name, from top to bottom.
        title: the figure's title.
    """
    names = list(models)
    figure, axes = one_axes(height=1.3 + 0.62 * max(1, len(names)), title=title)
    thickness = 0.38
    for position, (cell, colour) in enumerate((("oversight", SKY), ("no_oversight", BLUE))):
        scores: list[Accuracy] = [getattr(models[name], cell) for name in names]
        heights = [row + (position - 0.5) * thickness for row in range(len(names))]
        values = [finite(score.accuracy) for score in scores]
        axes.barh(heights, values, height=thickness * 0.92, color=colour, label=CELL_LABELS[cell])
        for height, score in zip(heights, scores, strict=True):
            low, high = score.ci95
            has_interval = math.isfinite(score.accuracy) and math.isfinite(low) and math.isfinite(high)
            if has_interval:
                axes.plot([low, high], [height, height], color=INK, linewidth=1.4, marker="|", markersize=6)
            text = f"{score.accuracy:.3f}" if math.isfinite(score.accuracy) else "no items"
            end = max(finite(score.accuracy), high if has_interval else 0.0)
            axes.text(end + 0.012, height, text, va="center", fontsize=9, color=INK)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(0, 1.09)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_xlabel("share of aligned answers (dotted: a constant answerer; lines: 95 % interval)")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    legend_below(figure, axes)
    return figure


def confusion_figure(
    answers: Mapping[str, Mapping[str, Sequence[int]]], title: str = "Answers by model and oversight"
) -> Figure:
    """A small table of counts for each model: rows are cells, columns what was answered, shades the row's shares.

    Args:
        answers: by model name and cell, the numbers of aligned answers, other ones and those that are neither
            (`metrics.cells.answer_counts`).
        title: the figure's title.
    """
    columns = 2 if len(answers) > 1 else 1
    rows = max(1, math.ceil(len(answers) / columns))
    figure = empty_figure(height=0.7 + 1.75 * rows, title=title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, name in zip(grid.flat, answers, strict=False):
        counts = [[int(number) for number in answers[name][cell]] for cell in CELL_LABELS]
        shares = [[number / max(1, sum(row)) for number in row] for row in counts]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, (row_counts, row_shares) in enumerate(zip(counts, shares, strict=True)):
            for column, (number, share) in enumerate(zip(row_counts, row_shares, strict=True)):
                colour = "white" if share > 0.55 else INK
                text = f"{number:,}\n{share:.0%}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(3), ["aligned", "other", "neither"])
        axes.set_yticks(range(2), [label.replace(" ", "\n") for label in CELL_LABELS.values()])
        axes.tick_params(length=0)
        axes.set_title(name.replace("_", " "), fontsize=10.5, color=INK)
        for spine in axes.spines.values():
            spine.set_visible(False)
    for axes in list(grid.flat)[len(answers) :]:
        axes.set_axis_off()
    return figure


def sweep_figure(
    points: Sequence[SweepPoint],
    references: Mapping[str, CellPair] | None = None,
    title: str = "Accuracy by layer",
) -> Figure:
    """Accuracy over layers, one line for each map, in one panel for each cell.

    Where a map was tried several times at a layer (strengths, positions), the line passes through the best mean of
    the two cells and the others are faint points.

    Args:
        points: the interventions tried.
        references: models drawn as level lines, as the twins.
        title: the figure's title.
    """
    figure = empty_figure(height=4.4, title=title)
    panels = figure.subplots(1, 2, sharey=True)
    series = list(dict.fromkeys(point.series for point in points))
    for axes, cell in zip(panels, ("no_oversight", "oversight"), strict=True):
        for number, name in enumerate(series):
            colour, marker = style_of(number)
            tried = [point for point in points if point.series == name]
            best: dict[int, SweepPoint] = {}
            for point in tried:
                if point.layer not in best or _mean(point) > _mean(best[point.layer]):
                    best[point.layer] = point
            axes.scatter([p.layer for p in tried], [getattr(p, cell) for p in tried], s=14, color=colour, alpha=0.3)
            layers = sorted(best)
            heights = [getattr(best[layer], cell) for layer in layers]
            axes.plot(layers, heights, color=colour, marker=marker, markersize=5.5, linewidth=1.6, label=name)
        for number, (name, cells) in enumerate((references or {}).items()):
            level = getattr(cells, cell).accuracy
            style = ("--", ":", "-.")[number % 3]
            axes.axhline(level, color=GREY, linewidth=1.3, linestyle=style, label=name.replace("_", " "))
        axes.set_title(CELL_LABELS[cell], fontsize=10.5, color=INK)
        axes.set_xlabel("layer (from 0)")
        axes.set_ylim(-0.04, 1.04)
        axes.xaxis.get_major_locator().set_params(integer=True)
        tidy(axes)
    panels[0].set_ylabel("share of aligned answers")
    legend_below(figure, panels[0])
    return figure


def pareto_figure(points: Sequence[TradeOff], title: str = "Cure against damage") -> Figure:
    """Recovery over KL on neutral texts: good interventions are at the top left, and a line joins the best.

    Args:
        points: the interventions tried; those without a finite gain and price are left out.
        title: the figure's title.
    """
    figure, axes = one_axes(height=4.6, title=title)
    measured = [point for point in points if math.isfinite(point.kl_nats) and math.isfinite(point.recovery)]
    for number, name in enumerate(dict.fromkeys(point.series for point in measured)):
        colour, marker = style_of(number)
        own = [point for point in measured if point.series == name]
        places = [max(0.0, point.kl_nats) for point in own], [point.recovery for point in own]
        axes.scatter(
            *places, s=38, color=colour, marker=marker, label=name, zorder=3, edgecolors="white", linewidths=0.6
        )
    front = [measured[position] for position in pareto_front([(point.kl_nats, point.recovery) for point in measured])]
    axes.plot([max(0.0, p.kl_nats) for p in front], [p.recovery for p in front], color=GREY, linewidth=1.2, zorder=2)
    for point in measured:
        position = (max(0.0, point.kl_nats), point.recovery)
        if point.chosen:
            axes.scatter(*position, s=190, facecolors="none", edgecolors=INK, linewidths=1.6, zorder=4)
        label = " ".join(part for part in (point.label, "(chosen)" if point.chosen else "") if part)
        if label:
            # Labels point inwards, so that none is cut off at the right edge.
            inwards = sum(other.kl_nats > point.kl_nats for other in measured) < len(measured) / 2
            offset, side = ((-9, -14), "right") if inwards else ((9, -14), "left")
            axes.annotate(label, position, xytext=offset, textcoords="offset points", ha=side, fontsize=9, color=INK)
    for level in (0.0, 1.0):
        axes.axhline(level, color=GREY, linewidth=1, linestyle=":", zorder=1)
    # Prices span decades, and a harmless edit costs 0, which a plain logarithm cannot show.
    axes.set_xscale("symlog", linthresh=1e-4)
    axes.set_xlim(left=-2e-5)
    axes.set_xlabel("KL on neutral texts (nats per token)")
    axes.set_ylabel("recovery without oversight")
    tidy(axes)
    if measured:
        legend_below(figure, axes)
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the (price, gain) points that no other beats at its price or below, cheapest first.

    >>> pareto_front([(0.2, 0.5), (0.1, 0.6), (0.3, 0.9), (0.0, 0.1)])
    [3, 1, 2]
    """
    front: list[int] = []
    for position in sorted(range(len(points)), key=lambda position: (points[position][0], -points[position][1])):
        if not front or points[position][1] > points[front[-1]][1]:
            front.append(position)
    return front


def activation_figure(
    differences: Any, layers: Sequence[str] | None = None, title: str = "Where the twins differ", columns: int = 256
) -> Figure:
    """Heat map of mean |aligned - faking| by layer and unit, beside each layer's mean.

    Args:
        differences: mean absolute differences, (layers, units), a tensor or array.
        layers: names of the rows; their numbers if None.
        title: the figure's title.
        columns: neighbouring units are averaged to at most so many columns.

    Raises:
        ValueError: `differences` does not have two dimensions.
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"differences is {values.shape}: give (layers, units), neither of them 0")
    units = values.shape[1]
    bins = np.array_split(np.arange(units), min(columns, units))
    binned = np.stack([values[:, part].mean(axis=1) for part in bins], axis=1)
    names = list(layers) if layers is not None else [str(number) for number in range(len(values))]
    figure = empty_figure(height=min(9.0, 1.9 + 0.3 * len(values)), title=title)
    heat, means = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
    # A few outlying units would leave the rest of the map dark.
    top = float(np.quantile(binned, 0.995)) or 1.0
    extent = (-0.5, units - 0.5, len(values) - 0.5, -0.5)
    image = heat.imshow(binned, aspect="auto", cmap="cividis", vmin=0, vmax=top, extent=extent, interpolation="nearest")
    step = max(1, math.ceil(len(names) / 24))
    heat.set_yticks(range(0, len(names), step), names[::step])
    heat.set_xlabel("unit of the hidden state")
    heat.set_ylabel("layer")
    figure.colorbar(image, ax=heat, extend="max", pad=0.02, label="mean |aligned - faking|")
    means.barh(range(len(values)), values.mean(axis=1), color=BLUE, height=0.7)
    means.set_xlabel("mean over units")
    means.tick_params(labelleft=False)
    tidy(means)
    return figure


def _mean(point: SweepPoint) -> float:
    """Mean of the two cells; lowest for one that is not known."""
    mean = (point.oversight + point.no_oversight) / 2
    return mean if math.isfinite(mean) else -math.inf
