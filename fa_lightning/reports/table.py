"""A finished experiment as text: tables for an 80-column terminal and the same in Markdown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fa_lightning.evaluation.estimates import Accuracy, Estimate, Interval
from fa_lightning.evaluation.results import MODELS, Results
from fa_lightning.reports.terminal import show, terminal_table
from fa_lightning.studies.lab.method_lines import FAMILIES, best_lines, short_site
from fa_lightning.studies.lab.result import Lab

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

COLUMNS = ("model", "oversight", "no oversight", "KL, neutral texts", "format validity")


@dataclass(frozen=True)
class CellRow:
    """One line of the table of cells.

    Attributes:
        name: the model or baseline.
        oversight: accuracy with oversight.
        no_oversight: accuracy without oversight.
        n: items with and without oversight, as `500 + 500`.
        kl_neutral_nats: KL on neutral texts, nats per token; nan where nothing was edited or it was not measured.
        format_validity: share of items answered with a letter; nan if not measured.
        is_baseline: whether it is a baseline and not one of the four models.
    """

    name: str
    oversight: Accuracy
    no_oversight: Accuracy
    n: str
    kl_neutral_nats: float
    format_validity: float
    is_baseline: bool = False


def cell_rows(results: Results) -> list[CellRow]:
    """The models, in the order of `MODELS`, then the baselines, in the order they are stored."""
    n = f"{results.n.oversight} + {results.n.no_oversight}"
    order = [name for name in MODELS if name in results.cells] + [name for name in results.cells if name not in MODELS]
    rows = []
    for name in order:
        pair, valid = results.cells[name], results.format_validity.get(name, math.nan)
        if name == "steered" and math.isnan(valid):
            valid = results.side_effects.format_validity
        kl = results.side_effects.kl_neutral_nats if name == "steered" else math.nan
        rows.append(CellRow(name, pair.oversight, pair.no_oversight, n, kl, valid))
    for name, baseline in results.baselines.items():
        valid = results.format_validity.get(name, math.nan)
        if baseline.side_effects is not None and math.isnan(valid):
            valid = baseline.side_effects.format_validity
        kl = baseline.side_effects.kl_neutral_nats if baseline.side_effects is not None else math.nan
        rows.append(CellRow(name, baseline.oversight, baseline.no_oversight, n, kl, valid, is_baseline=True))
    return rows


def summary_lines(results: Results) -> list[tuple[str, str]]:
    """What was chosen, recovery, side effects, cost and leaks, as (what, value) pairs."""
    effects, cost, lines = results.side_effects, results.cost, []
    if results.chosen is not None:
        chosen = results.chosen
        where = f"{chosen.regressor} at {chosen.site}, positions {chosen.positions}, strength {chosen.strength:g}"
        lines.append(("intervention", where))
    lines += [
        ("test items", f"{results.n.oversight} with and {results.n.no_oversight} without oversight"),
        ("recovery", f"{with_interval(results.recovery)} (1 is a full cure)"),
        ("KL on neutral texts", f"{nats(effects.kl_neutral_nats)} nats per token (0 is harmless)"),
        ("perplexity ratio", f"{number(effects.perplexity_ratio)} (1 is harmless)"),
        ("format validity", number(effects.format_validity)),
        ("time per token", f"{number(cost.overhead_ratio)} times that without steering"),
    ]
    if cost.seconds:
        stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in cost.seconds.items())
        lines.append(("run time", f"{duration(sum(cost.seconds.values()))} ({stages})"))
    for name, extra in results.extra_tests.items():
        steered = extra.cells.get("steered")
        accuracy = f", steered without oversight {number(steered.no_oversight.accuracy)}" if steered else ""
        lines.append((f"test {name}", f"recovery {with_interval(extra.recovery)}{accuracy}"))
    if results.lab is not None and results.lab.methods:
        lines += _lab_lines(results.lab)
    if "total" in results.leak_report:
        lines.append(("leaks between splits", f"{results.leak_report['total']} (must be 0)"))
    return lines


def _lab_lines(lab: Lab) -> list[tuple[str, str]]:
    """The best method of each family, as (what, value) pairs."""
    best: dict[str, str] = {}
    for line in best_lines(lab.methods, lab.budget_kl_nats):
        over = "" if line.is_within(lab.budget_kl_nats) else ", over the budget"
        # Over several seeds the ends are those of the seeds, and no confidence interval.
        seeds = f" over {len(line.entries)} seeds" if len(line.entries) > 1 else ""
        ends = f"{interval(line.interval)}{seeds}"
        best.setdefault(
            line.family, f"{line.name} at {short_site(line.site)}: recovery {number(line.recovery)} {ends}{over}"
        )
    order = [family for family in FAMILIES if family in best and family != "baseline"]
    return [(f"lab, {family}", best[family]) for family in order]


def results_tables(results: Results) -> RenderableType:
    """The tables printed at the end of an experiment, at most 80 columns wide."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = f"{results.experiment}: aligned answers, with 95 % intervals"
    # The last two have short names here, to fit 80 columns.
    widths = zip((*COLUMNS[1:3], "KL", "valid"), (17, 17, 7, 5), strict=True)
    cells = terminal_table(title, [(COLUMNS[0], 0), *widths])
    was_baseline = False
    for row in cell_rows(results):
        if row.is_baseline and not was_baseline:
            cells.add_section()
        was_baseline = row.is_baseline
        style = "bold" if row.name == "steered" else "dim" if row.is_baseline else ""
        figures = (
            short_accuracy(row.oversight),
            short_accuracy(row.no_oversight),
            "-" if math.isnan(row.kl_neutral_nats) else f"{row.kl_neutral_nats:.4f}",
            short(row.format_validity),
        )
        # Names come from files, so they are texts and not rich's markup.
        cells.add_row(Text(row.name), *figures, style=style)
    summary = Table(box=None, show_header=False, pad_edge=False, width=80, padding=(0, 2, 0, 0))
    summary.add_column(width=20, overflow="fold")
    summary.add_column(overflow="fold", ratio=1)
    for what, value in summary_lines(results):
        summary.add_row(Text(what), Text(value))
    return Group(cells, Text(""), summary)


def print_results(results: Results, console: Console | None = None) -> None:
    """Print `results_tables` to `console`, the terminal if None."""
    show(results_tables(results), console)


def markdown_table(results: Results) -> str:
    """The same tables in Markdown, for a README."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- | --- | --- | --- | --- |"]
    for row in cell_rows(results):
        name = f"**{escaped(row.name)}**" if row.name == "steered" else escaped(row.name)
        figures = (
            accuracy(row.oversight),
            accuracy(row.no_oversight),
            nats(row.kl_neutral_nats),
            number(row.format_validity),
        )
        lines.append(f"| {name} | {' | '.join(figures)} |")
    lines += ["", "| what | value |", "| --- | --- |"]
    lines += [f"| {escaped(what)} | {escaped(value)} |" for what, value in summary_lines(results)]
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Three decimals; a dash for nan.

    >>> number(0.98765), number(float("nan"))
    ('0.988', '-')
    """
    return "-" if math.isnan(value) else f"{value:.3f}"


def nats(value: float) -> str:
    """A KL: four decimals, or a power of ten where they would be zeros; a dash for nan.

    >>> nats(0.01234), nats(0.00001234), nats(0.0)
    ('0.0123', '1.2e-05', '0.0000')
    """
    return f"{value:.1e}" if 0 < abs(value) < 5e-5 else "-" if math.isnan(value) else f"{value:.4f}"


def interval(ci95: Interval) -> str:
    """`[0.911, 0.971]`, or nothing if it is not known."""
    return f"[{number(ci95[0])}, {number(ci95[1])}]" if all(math.isfinite(end) for end in ci95) else ""


def accuracy(value: Accuracy) -> str:
    """`0.941 [0.911, 0.971]`."""
    return f"{number(value.accuracy)} {interval(value.ci95)}".strip()


def with_interval(value: Estimate) -> str:
    """`0.958 [0.930, 0.981]`."""
    return f"{number(value.value)} {interval(value.ci95)}".strip()


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.5), duration(75), duration(7260)
    ('0.5 s', '1 min 15 s', '2 h 1 min')
    """
    if not math.isfinite(seconds):
        return "-"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def short(value: float) -> str:
    """An accuracy in four characters: `.941`, `1.00`."""
    if not math.isfinite(value):
        return "-"
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0") else text[:4]


def short_accuracy(value: Accuracy) -> str:
    """`.941 [.911, .971]`."""
    if not all(math.isfinite(end) for end in value.ci95):
        return short(value.accuracy)
    return f"{short(value.accuracy)} [{short(value.ci95[0])}, {short(value.ci95[1])}]"


def escaped(text: str) -> str:
    """`text` on one line of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
