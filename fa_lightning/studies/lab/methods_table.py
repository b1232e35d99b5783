"""The table of methods: one line for each, at its best site, with all that the budget bought and what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape

from fa_lightning.evaluation.estimates import Accuracy, CellPair
from fa_lightning.reports.elements import table_html
from fa_lightning.reports.table import accuracy, interval, nats, number
from fa_lightning.studies.lab.method_lines import MethodLine, best_lines, mean, short_site
from fa_lightning.studies.lab.result import Lab, LabMethod

Line = MethodLine[LabMethod]
HEADERS = (
    "method",
    "fitted to",
    "needs the twin",
    "site",
    "positions",
    "strength",
    "dose",
    "with oversight",
    "without oversight",
    "recovery",
    "KL, nats",
    "perplexity ratio",
    "aligned twin steered: with, without",
)


def methods_table(lab: Lab, twins: Mapping[str, CellPair]) -> str:
    """The methods as an HTML table, best within the budget first.

    Args:
        lab: with the methods.
        twins: cells of `aligned` and `faking`, which head the table where they are known.
    """
    rows = []
    for name in ("aligned", "faking"):
        if name in twins:
            cells = [accuracy(twins[name].oversight), accuracy(twins[name].no_oversight)]
            level = {"aligned": "1", "faking": "0"}[name]
            rows.append([f"<i>{name} twin</i>", *["-"] * 6, *cells, level, *["-"] * 3])
    rows += [_row(line, lab.budget_kl_nats) for line in best_lines(lab.methods, lab.budget_kl_nats)]
    caption = (
        "Each method at the site that validation chose: within the budget first, then by recovery on the test split. "
        "Brackets are 95 % intervals; over several seeds the mean, lowest and highest. "
        f"KL in red is over the budget of {lab.budget_kl_nats:g} nats per token."
    )
    return f'<div class="wide">{table_html(caption, HEADERS, rows, is_html=True, fold=False)}</div>'


def recovery_text(line: Line) -> str:
    """`0.958 [0.930, 0.981]`, and the number of seeds if there are several."""
    seeds = f" over {len(line.entries)} seeds" if len(line.entries) > 1 else ""
    return f"{number(line.recovery)} {interval(line.interval)}{seeds}".strip()


def _row(line: Line, budget_kl_nats: float) -> list[str]:
    """One line of the table, as HTML."""
    first = line.entries[0]
    kl = nats(line.kl_nats)
    return [
        escape(line.name) + (" <small>baseline</small>" if first.baseline else ""),
        "-" if first.objective == "none" else first.objective,
        "no" if first.twin_free else "yes",
        escape(short_site(line.site)),
        escape(", ".join(dict.fromkeys(entry.positions for entry in line.entries))),
        _span(line, lambda entry: entry.strength),
        _span(line, lambda entry: entry.dose),
        _cell(line, lambda entry: entry.cells.oversight),
        _cell(line, lambda entry: entry.cells.no_oversight),
        f"<b>{recovery_text(line)}</b>",
        kl if line.is_within(budget_kl_nats) or kl == "-" else f'<span class="bad">{kl}</span>',
        number(mean(entry.side_effects.perplexity_ratio for entry in line.entries)),
        _aligned(line),
    ]


def _span(line: Line, of: Callable[[LabMethod], float]) -> str:
    """A number, or the lowest and highest over seeds."""
    values = [of(entry) for entry in line.entries if math.isfinite(of(entry))]
    if not values:
        return "-"
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _cell(line: Line, of: Callable[[LabMethod], Accuracy]) -> str:
    """An accuracy with its interval, or the mean with the lowest and highest over seeds."""
    if len(line.entries) == 1:
        return accuracy(of(line.entries[0]))
    values = [of(entry).accuracy for entry in line.entries]
    known = [value for value in values if math.isfinite(value)]
    ends = (min(known), max(known)) if known else (math.nan, math.nan)
    return f"{number(mean(values))} {interval(ends)}".strip()


def _aligned(line: Line) -> str:
    """The aligned twin's two accuracies under the same steering, mean over seeds."""
    pairs = [entry.aligned_cells for entry in line.entries if entry.aligned_cells is not None]
    if not pairs:
        return "-"
    oversight = mean(pair.oversight.accuracy for pair in pairs)
    return f"{number(oversight)}, {number(mean(pair.no_oversight.accuracy for pair in pairs))}"
