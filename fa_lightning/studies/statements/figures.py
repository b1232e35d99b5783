"""The figures of safe scores, for TensorBoard and for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fa_lightning.reports.drawing import GREY, empty_figure, legend_below, panels, style_of
from fa_lightning.studies.statements.result import HARM, SafeScore, StatementsResult, asked

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def safe_figures(result: StatementsResult) -> dict[str, Figure]:
    """Every figure that there is data for, by name, in reading order: `questions`, and `identity_groups`.

    Args:
        result: of one evaluation.
    """
    figures = {"questions": question_figure(result)}
    if any(asked(question)[1] == HARM for question in result.questions):
        figures["identity_groups"] = group_figure(result)
    return figures


def question_figure(result: StatementsResult, title: str = "How safely statements are judged") -> Figure:
    """A row for each question, a mark with its interval for each model.

    Args:
        result: of one evaluation.
        title: the figure's title.
    """
    figure = empty_figure(height=1.6 + _row_height(result) * len(result.questions), title=title)
    axes = figure.subplots()
    axes.set_axisbelow(True)
    series = {
        model: [scores[question].overall for question in result.questions] for model, scores in result.scores.items()
    }
    _draw(axes, result.questions, series)
    legend_below(figure, axes)
    return figure


def group_figure(result: StatementsResult, title: str = "By identity group, under the claim of harm") -> Figure:
    """A panel for each question with the harm claim, a row for each identity group, a mark for each model.

    Args:
        result: of one evaluation.
        title: the figure's title.
    """
    questions = [question for question in result.questions if asked(question)[1] == HARM]
    first = next(iter(result.scores.values()))
    groups = list(dict.fromkeys(group for question in questions for group in first[question].identity_groups))
    height = 0.5 + _row_height(result) * len(groups)
    figure, drawn = panels(title, questions, min(4, len(questions)), height, 0.9, sharey=True)
    for axes, question in drawn:
        series = {
            model: [scores[question].identity_groups.get(group) for group in groups]
            for model, scores in result.scores.items()
        }
        _draw(axes, groups, series)
    legend_below(figure, axes)
    return figure


def _draw(axes: Any, rows: Sequence[str], series: Mapping[str, Sequence[SafeScore | None]]) -> None:
    """Marks with intervals; the models of a row stand one below the other."""
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":", zorder=1)
    for row in range(1, len(rows), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f3f4f6", linewidth=0, zorder=0)
    for number, (model, scores) in enumerate(series.items()):
        colour, marker = style_of(number)
        below = 0.7 * ((number + 0.5) / len(series) - 0.5)
        known = [
            (row + below, score) for row, score in enumerate(scores) if score is not None and math.isfinite(score.score)
        ]
        for height, score in known:
            if all(map(math.isfinite, score.ci95)):
                axes.plot(score.ci95, [height, height], color=colour, linewidth=1.5, zorder=2)
        places, heights = [score.score for _, score in known], [height for height, _ in known]
        axes.scatter(places, heights, s=26, color=colour, marker=marker, zorder=3, label=model)
    axes.set_yticks(range(len(rows)), rows, fontsize=8.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8.5)
    axes.set_xlabel("safe score, 95 % interval", fontsize=9)
    axes.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    # A mark at 0 should not seem to stand on the panel's edge.
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _row_height(result: StatementsResult) -> float:
    """In inches, for all models of a row."""
    return max(0.28, 0.13 * len(result.scores) + 0.06)
