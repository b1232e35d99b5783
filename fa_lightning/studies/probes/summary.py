"""What finished probes print: at the best site of each subject and question, every probe beside its controls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fa_lightning.reports import terminal
from fa_lightning.studies.probes.result import Asked, Best, ProbesFound, Reading
from fa_lightning.studies.probes.shapes import VIEWS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def show(found: ProbesFound, console: Console | None = None) -> None:
    """Print at most 80 columns to `console`, the terminal if None."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for one in found.best:
        question = next(asked for asked in found.questions if asked.name == one.question)
        parts += [_table(found, one, question), Text("")]
    parts.append(Text("Layers are chosen on validation rows, by the logistic probe. Accuracy on held-out rows."))
    terminal.show(Group(*parts), console)


def _table(found: ProbesFound, best: Best, question: Asked) -> RenderableType:
    from rich.text import Text

    title = f"{best.subject}, {question.asks}: {VIEWS[best.view]}, {best.site}, {question.test} rows"
    columns = [("probe", 0), ("accuracy", 22), ("AUROC", 7), ("calibration", 11)]
    table = terminal.terminal_table(title, columns)
    readings = found.at_best(best.subject, best.question, best.view).values()
    for one in sorted(readings, key=lambda reading: reading.role == "control"):
        style = "dim" if one.role == "control" else ""
        table.add_row(Text(one.probe), _accuracy(one), _number(one.auroc), _number(one.calibration), style=style)
    return table


def _accuracy(one: Reading) -> str:
    low, high = one.ci95
    return f"{one.accuracy:.3f}" + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
