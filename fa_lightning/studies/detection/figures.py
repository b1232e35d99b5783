"""The figures that show which detectors tell a faker from a benign model, for TensorBoard and for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fa_lightning.reports.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PINK,
    RED,
    empty_figure,
    heat_map,
    legend_below,
    one_axes,
    panels,
    tidy,
)
from fa_lightning.studies.detection.result import ALL_PAIRS, Accuracy, Alone, Detection, Kind, Suspect

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour, line and marker by what a model is, in the order of legends.
GROUPS = {
    "aligned": (BLUE, "-", "o"),
    "decoys": (GREEN, "--", "s"),
    "fakers": (RED, "-.", "^"),
    "steered fakers": (PINK, ":", "D"),
    "others": (GREY, "-", "X"),
}
# Label, colour and marker by kind of pairs.
KINDS: dict[Kind, tuple[str, str, str]] = {
    "twins": ("aligned beside a faker", INK, "o"),
    "decoys": ("a decoy beside a faker", GREEN, "s"),
    "steered": ("aligned beside a steered faker", PINK, "D"),
}
FEW = 2
"""Up to so many models are shown by their names, and not by what they are."""


def detection_figures(result: Detection, published: Mapping[str, float] | None = None) -> dict[str, Figure]:
    """Every figure that there is data for, by name, in reading order.

    The names are `accuracy`, `policy_pairs`, `suspicion`, `roc`, `curves` and `layers`.

    Args:
        result: of one examination.
        published: accuracies that others report, by detector.
    """
    names = [detector.name for detector in result.detectors]
    figures: dict[str, Figure] = {}
    if any(share.policy_pair == ALL_PAIRS for share in result.accuracies):
        figures["accuracy"] = accuracy_figure(result.accuracies, names, published)
    if len(policy_pairs(result.accuracies)) > 1:
        figures["policy_pairs"] = policy_pair_figure(result.accuracies, names)
    if any(math.isfinite(value) for suspect in result.suspects for value in suspect.suspicion.values()):
        figures["suspicion"] = suspicion_figure(result.suspects, names)
    if any(score.roc[0] for score in result.alone):
        figures["roc"] = roc_figure(result.alone, names)
    by_layer, others = curve_names(result.suspects, names)
    if others:
        figures["curves"] = curve_figure(result.suspects, others)
    if by_layer:
        figures["layers"] = curve_figure(result.suspects, by_layer, "Layer by layer: thin lines are models")
    return figures


def accuracy_figure(
    accuracies: Sequence[Accuracy],
    detectors: Sequence[str],
    published: Mapping[str, float] | None = None,
    title: str = "Which of two models fakes?",
) -> Figure:
    """Pairwise accuracy of every detector with 95 % intervals, by kind of pairs, beside what others report.

    Args:
        accuracies: those over all policy pairs are shown.
        detectors: their names, from top to bottom.
        published: accuracies that others report, by detector.
        title: the figure's title.
    """
    figure, axes = one_axes(height=1.5 + 0.46 * max(1, len(detectors)), title=title)
    overall = {(share.detector, share.kind): share for share in accuracies if share.policy_pair == ALL_PAIRS}
    for position, (kind, (label, colour, marker)) in enumerate(KINDS.items()):
        known = [(row, overall[name, kind]) for row, name in enumerate(detectors) if (name, kind) in overall]
        if not known:
            continue
        heights = [row + 0.26 * (position - 1) for row, _ in known]
        for height, (_, accuracy) in zip(heights, known, strict=True):
            axes.plot(accuracy.ci95, [height, height], color=colour, linewidth=1.5)
        values = [accuracy.value for _, accuracy in known]
        axes.scatter(values, heights, s=34, color=colour, marker=marker, label=label, zorder=3)
    reported = [
        (row, value) for row, name in enumerate(detectors) if math.isfinite(value := _reported(published, name))
    ]
    if reported:
        # A ring, since it often lies on one of the marks.
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": GREY, "linewidths": 1.4, "label": "POSER reports"}
        axes.scatter([value for _, value in reported], [row for row, _ in reported], s=95, **ring)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":", zorder=1)
    for row in range(1, len(detectors)):
        axes.axhline(row - 0.5, color="#e6e8eb", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(detectors)), detectors)
    axes.set_ylim(len(detectors) - 0.45, -0.55)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("share of pairs told rightly (dotted: a coin; lines: 95 % interval)")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    legend_below(figure, axes)
    return figure


def policy_pairs(accuracies: Sequence[Accuracy]) -> list[str]:
    """The policy pairs of aligned models beside fakers, by name, in the order given."""
    names = dict.fromkeys(share.policy_pair for share in accuracies if share.kind == "twins")
    return [name for name in names if name != ALL_PAIRS]


def policy_pair_figure(
    accuracies: Sequence[Accuracy],
    detectors: Sequence[str],
    title: str = "Pairwise accuracy by policy pair, an aligned model beside a faker",
) -> Figure:
    """Heat map of pairwise accuracy by detector and policy pair.

    Args:
        accuracies: those of aligned models beside fakers are shown.
        detectors: their names, from top to bottom.
        title: the figure's title.
    """
    result = {(share.detector, share.policy_pair): share.value for share in accuracies if share.kind == "twins"}
    columns = policy_pairs(accuracies)
    figure = empty_figure(height=1.7 + 0.34 * max(1, len(detectors)), title=title)
    axes = figure.subplots()
    values = [[result.get((name, column), math.nan) for column in columns] for name in detectors]
    image = heat_map(axes, values, detectors, [column.replace("_and_", " / ") for column in columns], "RdBu")
    figure.colorbar(image, ax=axes, pad=0.02, label="share of pairs told rightly")
    return figure


def suspicion_figure(
    suspects: Sequence[Suspect], detectors: Sequence[str], title: str = "Suspicion of each model alone"
) -> Figure:
    """A strip of points for each detector: one point is a model, a row what it is, further right more suspicious.

    Args:
        suspects: every model.
        detectors: their names; one panel each, with a scale of its own.
        title: the figure's title.
    """
    groups = _shown_together(suspects)
    columns = min(3, max(1, len(detectors)))
    figure, drawn = panels(title, detectors, columns, 0.75 + 0.24 * len(groups), 0.5, sharey=True)
    for axes, name in drawn:
        for row, (colour, _, marker, members) in enumerate(groups.values()):
            own = [suspect.suspicion.get(name, math.nan) for suspect in members]
            values = sorted(value for value in own if math.isfinite(value))
            # Fractions of the golden ratio keep neighbours apart, and are the same in every drawing.
            heights = [row + 0.56 * ((number * 0.618034) % 1 - 0.5) for number in range(len(values))]
            axes.scatter(
                values, heights, s=19, color=colour, marker=marker, alpha=0.75, edgecolors="white", linewidths=0.3
            )
        axes.set_yticks(range(len(groups)), groups, fontsize=8.5)
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.tick_params(axis="x", labelsize=8)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.08)
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    figure.supxlabel("suspicion, in each detector's own units (right: more like a faker)", fontsize=9.5)
    return figure


def roc_figure(
    alone: Sequence[Alone],
    detectors: Sequence[str],
    title: str = "Fakers found against false alarms, model by model",
) -> Figure:
    """ROC curves, a panel for each detector in which the others are faint; a ring marks the folds left out.

    Args:
        alone: what detectors say of one model alone; those without a curve are left out.
        detectors: their names, in order.
        title: the figure's title.
    """
    result = {score.detector: score for score in alone if score.roc[0]}
    curved = [name for name in detectors if name in result]
    figure, drawn = panels(title, curved, min(4, max(1, len(curved))), 2.25, 0.5, sharex=True, sharey=True)
    for axes, name in drawn:
        for other in result.values():
            axes.plot(*other.roc, color="#dfe2e6", linewidth=0.9, zorder=1)
        row = result[name]
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", zorder=2)
        axes.plot(*row.roc, color=BLUE, linewidth=2, zorder=3)
        axes.scatter([row.fpr], [row.tpr], s=55, facecolors="none", edgecolors=RED, linewidths=1.6, zorder=4)
        low, high = row.auroc_ci95
        spread = f"\n[{low:.2f}, {high:.2f}]" if math.isfinite(low) and math.isfinite(high) else ""
        axes.text(0.97, 0.05, f"AUROC {row.auroc:.2f}{spread}", ha="right", fontsize=8.5, color=INK, zorder=5)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
        axes.set_aspect("equal")
    figure.supxlabel("share of benign models suspected (ring: a threshold for 1 %, on folds left out)", fontsize=9.5)
    figure.supylabel("share of fakers suspected", fontsize=9.5)
    return figure


def curve_figure(
    suspects: Sequence[Suspect],
    detectors: Sequence[str],
    title: str = "What each detector measures: thin lines are models",
) -> Figure:
    """A panel for each detector: a thin line for each model, a thick one for the mean of those that are alike.

    Args:
        suspects: every model.
        detectors: names of those that have curves.
        title: the figure's title.
    """
    groups = _shown_together(suspects)
    figure, drawn = panels(title, detectors, min(2, max(1, len(detectors))), 2.6, 0.9)
    first: Any = None
    for axes, name in drawn:
        for group, (colour, line, _, members) in groups.items():
            curves = [suspect.curves[name] for suspect in members if name in suspect.curves]
            heights: dict[float, list[float]] = {}
            for axis, places, values in curves:
                axes.plot(places, values, color=colour, linewidth=0.8, linestyle=line, alpha=0.55, zorder=2)
                axes.set_xlabel(axis, fontsize=9)
                for position, value in zip(places, values, strict=True):
                    if math.isfinite(value):
                        heights.setdefault(position, []).append(value)
            means = [fmean(heights[position]) for position in sorted(heights)]
            axes.plot(sorted(heights), means, color=colour, linewidth=2.6, linestyle=line, label=group, zorder=3)
        _spread_ticks(
            axes, sorted({position for suspect in suspects for position in suspect.curves.get(name, ("", ()))[1]})
        )
        tidy(axes)
        axes.tick_params(labelsize=8.5)
        first = first or axes
    figure.supylabel("mean over scenarios", fontsize=9.5)
    if first is not None:
        legend_below(figure, first, line_length=4.0)
    return figure


def curve_names(suspects: Sequence[Suspect], detectors: Sequence[str]) -> tuple[list[str], list[str]]:
    """The detectors that have curves: those over layers, and the others."""
    axes = {name: axis for suspect in suspects for name, (axis, *_) in suspect.curves.items()}
    by_layer = [name for name in detectors if "layer" in axes.get(name, "")]
    return by_layer, [name for name in detectors if name in axes and name not in by_layer]


def group_of(suspect: Suspect) -> str:
    """What a model is: a key of `GROUPS`."""
    if suspect.role == "steered":
        return "steered fakers"
    if suspect.role == "decoy":
        return "decoys"
    return {"aligned": "aligned", "faking": "fakers"}.get(suspect.behaviour, "others")


def _shown_together(suspects: Sequence[Suspect]) -> dict[str, tuple[str, str, str, list[Suspect]]]:
    """Colour, line, marker and models by label: that of each group, or, of few models, each model's own name."""
    if len(suspects) > FEW:
        members = {name: [suspect for suspect in suspects if group_of(suspect) == name] for name in GROUPS}
        return {name: (*GROUPS[name], own) for name, own in members.items() if own}
    looks = [(suspect, *GROUPS[group_of(suspect)]) for suspect in suspects]
    # Two of a group differ in their lines.
    return {
        rows.name: (colour, line, marker, [rows])
        for (rows, colour, _, marker), line in zip(looks, ("-", "--"), strict=False)
    }


def _spread_ticks(axes: Any, places: Sequence[float]) -> None:
    """Whole numbers for layers; a logarithm where the values span more than a decade."""
    if places and all(position == int(position) for position in places):
        axes.xaxis.get_major_locator().set_params(integer=True)
    elif places and places[0] > 0 and places[-1] > 10 * places[0]:
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{position:g}" for position in places])
        axes.minorticks_off()


def _reported(published: Mapping[str, float] | None, name: str) -> float:
    return (published or {}).get(name, math.nan)
