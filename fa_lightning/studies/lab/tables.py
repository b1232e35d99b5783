"""The lab's tables: every method at its best site, and what each part of the lab measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from fa_lightning.common import numbers
from fa_lightning.metrics.estimates import Accuracy, SideEffects
from fa_lightning.reports.results_tables import (
    CHANCE,
    CONSTANT_ANSWER,
    WITH_OVERSIGHT,
    WITHOUT_OVERSIGHT,
    leak_pairs,
    models_table,
    summary_pairs,
)
from fa_lightning.reports.site_names import short_site, site_order
from fa_lightning.reports.table import (
    Cell,
    Column,
    Row,
    Table,
    accuracy,
    decimal,
    estimate,
    facts_table,
    nats,
    row,
)
from fa_lightning.studies.lab.method_lines import FAMILIES, SLACK, MethodLine, best_lines, mean, method_lines
from fa_lightning.studies.lab.result import Comparison, LabMethod, LabResults
from fa_lightning.studies.lab.verdict import reason_of, verdict_of


def tables(results: LabResults) -> dict[str, Table]:
    """What is printed at the lab's end, and every method for a document."""
    summary = [*summary_pairs(results), *_best_of_families(results.lab), *leak_pairs(results)]
    printed = {"models": models_table(results), "summary": facts_table(summary, "Summary")}
    if results.lab.methods:
        printed["methods"] = methods_table(results)
    if results.lab.site_baselines:
        printed["baselines"] = site_baselines_table(results)
    return printed


def methods_table(results: LabResults) -> Table:
    """One line for each method at the site that validation chose: within the budget first, then by recovery."""
    lab, rows = results.lab, []
    for name, level in (("aligned", "1"), ("faking", "0")):
        if name in results.cells:
            pair = results.cells[name]
            cells = [accuracy(pair.oversight), accuracy(pair.no_oversight)]
            rows.append(row(Cell(f"{name} twin", style="emphasis"), *[None] * 6, *cells, level, *[None] * 5))
    chance = results.recovery_at(CHANCE)
    if not math.isnan(chance):
        half = decimal(CHANCE)
        rows.append(row(Cell(CONSTANT_ANSWER, note="baseline"), *[None] * 6, half, half, decimal(chance), *[None] * 5))
    rows += [_method_row(line, lab.budget_kl_nats) for line in best_lines(lab.methods, lab.budget_kl_nats)]
    titles = (
        "method",
        "fitted to",
        "needs the twin",
        "site",
        "positions",
        "strength",
        "dose",
        WITH_OVERSIGHT,
        WITHOUT_OVERSIGHT,
        "recovery",
        "KL, per token",
        "KL, answer",
        "unchanged answers",
        "perplexity ratio",
        "aligned twin steered: with, without",
    )
    title = (
        "Each method at the site that validation chose: within the budget first, then by recovery on the test split. "
        "Brackets are 95 % intervals over groups; of several seeds they reach from the lowest end to the highest. "
        f"KL in red is over the budget of {lab.budget_kl_nats:g} nats, which both are held against"
    )
    return Table(title, tuple(map(Column, titles)), tuple(rows))


def family_sites_table(lab: Comparison) -> Table:
    """Recovery by site of each family's method that scores best on the validation split there."""
    lines, sites = method_lines(lab.methods), _sites(lab)
    rows = []
    for family in FAMILIES:
        own = [line for line in lines if line.family == family]
        best = [max((line for line in own if line.site == site), key=_validation, default=None) for site in sites]
        if own:
            rows.append(row(family, *(_shaded(line, lab) for line in best)))
    title = (
        "Recovery on the test split: at each site the family's method that scores best on the validation split. Small: "
        "lowest to highest over seeds. An asterisk: over the budget on the test split"
    )
    return Table(title, _site_columns("family", sites), tuple(rows))


def method_sites_table(lab: Comparison) -> Table:
    """Recovery by site of every method."""
    by_site = {(line.name, line.site): line for line in method_lines(lab.methods)}
    sites = _sites(lab)
    rows = [
        row(line.name, *(_shaded(by_site.get((line.name, site)), lab) for site in sites))
        for line in best_lines(lab.methods, lab.budget_kl_nats)
    ]
    title = (
        "The same for every method. Small: lowest to highest over seeds. An asterisk: over the budget on the test split"
    )
    return Table(title, _site_columns("method", sites), tuple(rows))


def failures_table(results: LabResults) -> Table:
    """The methods that fail, and why."""
    faking = results.cells.get("faking")
    oversight = math.nan if faking is None else faking.oversight.accuracy
    failed = verdict_of(results.lab).failed
    rows = [row(line.name, decimal(line.recovery), reason_of(results.lab, line, oversight)) for line in failed]
    titles = ("method", "recovery on the test split", "why it fails, from its trials on the validation split")
    return Table("", tuple(map(Column, titles)), tuple(rows))


def site_baselines_table(results: LabResults) -> Table:
    """The baselines at every site, each as strong as the best method there and on the same tokens."""
    rows = []
    for entry in sorted(results.lab.site_baselines, key=lambda entry: site_order(entry.site)):
        effects = entry.baseline.side_effects or SideEffects()
        draws = f" ({entry.baseline.draws} draws)" if entry.baseline.draws > 1 else ""
        rows.append(
            row(
                short_site(entry.site),
                entry.method,
                entry.name + draws,
                accuracy(entry.baseline.oversight),
                accuracy(entry.baseline.no_oversight),
                decimal(results.recovery_at(entry.baseline.no_oversight.accuracy)),
                nats(effects.worst_nats),
                section=entry.site,
            )
        )
    titles = ("site", "beside", "baseline", WITH_OVERSIGHT, WITHOUT_OVERSIGHT, "recovery", "worse KL, nats")
    return Table("Baselines at every site, on the test split", tuple(map(Column, titles)), tuple(rows))


def units_table(lab: Comparison) -> Table:
    """Edits of the top units of a site."""
    rows = [
        row(
            point.site,
            point.ranking,
            point.method if point.kind == "map" else "oracle",
            f"{point.percent:g}",
            decimal(point.oversight),
            decimal(point.no_oversight),
            decimal(point.recovery),
            nats(point.worst_nats),
        )
        for point in lab.units
    ]
    titles = ("site", "ranked by", "edit", "top %", WITH_OVERSIGHT, WITHOUT_OVERSIGHT, "recovery", "worse KL, nats")
    return Table("", tuple(map(Column, titles)), tuple(rows))


def doses_table(lab: Comparison) -> Table:
    """What each dose does to the answers and to the language."""
    rows = [
        row(
            point.method,
            point.site,
            f"{point.dose:.3g}",
            f"{point.strength:.3g}",
            decimal(point.oversight),
            decimal(point.no_oversight),
            nats(point.worst_nats),
            decimal(point.perplexity_ratio),
            decimal(point.repetition),
        )
        for point in lab.doses
    ]
    titles = ("method", "site", "dose", "strength", WITH_OVERSIGHT, WITHOUT_OVERSIGHT, "worse KL, nats")
    return Table("", tuple(map(Column, (*titles, "perplexity ratio", "repeated 3-grams"))), tuple(rows))


def transfer_table(lab: Comparison) -> Table:
    """Methods judged on what they were not fitted on."""
    rows = [
        row(
            cell.method,
            cell.target,
            decimal(cell.faking.no_oversight.accuracy),
            decimal(cell.aligned.no_oversight.accuracy),
            accuracy(cell.steered.oversight),
            accuracy(cell.steered.no_oversight),
            estimate(cell.recovery),
            nats(cell.worst_nats),
            f"{cell.n.oversight} + {cell.n.no_oversight}",
        )
        for cell in lab.transfer
    ]
    accuracies = ("faking, without", "aligned, without", "steered, with", "steered, without")
    titles = ("method", "judged on", *accuracies, "recovery", "worse KL, nats", "n (with + without)")
    return Table("Accuracies with and without oversight on each target", tuple(map(Column, titles)), tuple(rows))


def scenarios_table(lab: Comparison) -> Table:
    """Recovery by the number of scenarios fitted on."""
    groups: dict[tuple[str, str, str, int], list[LabMethod]] = {}
    for method in lab.methods:
        if method.scenarios is not None:
            groups.setdefault((method.method, method.objective, method.site, method.scenarios), []).append(method)
    rows = []
    for (name, objective, site, count), own in sorted(groups.items(), key=lambda item: item[0]):
        line = MethodLine(name, "", site, tuple(own))
        rows.append(row(name, objective, site, str(count), recovery_cell(line), nats(line.kl_nats)))
    titles = ("method", "fitted to", "site", "scenarios", "recovery", "worse KL, nats")
    return Table("", tuple(map(Column, titles)), tuple(rows))


def recovery_cell(line: MethodLine, **options: Any) -> Cell:
    """A recovery with its interval, and the number of seeds if there are several."""
    seeds = f"over {len(line.entries)} seeds" if len(line.entries) > 1 else ""
    return Cell(line.recovery, line.interval, note=seeds, **options)


def has_several_sites(lab: Comparison) -> bool:
    """Whether methods were fitted at more than one site."""
    return len(_sites(lab)) > 1


def _best_of_families(lab: Comparison) -> list[tuple[str, str]]:
    """The best method of each family, as (what, sentence) pairs."""
    best: dict[str, str] = {}
    for line in best_lines(lab.methods, lab.budget_kl_nats):
        over = "" if line.is_within(lab.budget_kl_nats) else ", over the budget"
        summary = f"{line.name} at {short_site(line.site)}: recovery {recovery_cell(line).text}{over}"
        best.setdefault(line.family, summary)
    return [(f"lab, {family}", best[family]) for family in FAMILIES if family in best and family != "baseline"]


def _method_row(line: MethodLine, budget_kl_nats: float) -> Row:
    first = line.entries[0]
    effects = [entry.side_effects for entry in line.entries]
    divergences = [mean(getattr(own, name) for own in effects) for name in ("kl_neutral_nats", "kl_answer_nats")]
    return row(
        Cell(line.name, note="baseline" if first.baseline else ""),
        None if first.objective == "none" else first.objective,
        "no" if first.twin_free else "yes",
        short_site(line.site),
        ", ".join(dict.fromkeys(entry.positions for entry in line.entries)),
        _span(line, lambda entry: entry.strength),
        _span(line, lambda entry: entry.dose),
        _over_seeds(line, lambda entry: entry.cells.oversight),
        _over_seeds(line, lambda entry: entry.cells.no_oversight),
        recovery_cell(line, style="strong"),
        *(nats(value, style="bad" if value > SLACK * budget_kl_nats else "") for value in divergences),
        decimal(mean(own.unchanged_answers for own in effects)),
        decimal(mean(own.perplexity_ratio for own in effects)),
        _aligned(line),
    )


def _span(line: MethodLine, of: Callable[[LabMethod], float]) -> str:
    """A number, or the lowest and highest over seeds."""
    values = [of(entry) for entry in line.entries if math.isfinite(of(entry))]
    if not values:
        return "-"
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _over_seeds(line: MethodLine, of: Callable[[LabMethod], Accuracy]) -> Cell:
    """An accuracy with its interval, over seeds the mean with the widest."""
    scores = [of(entry) for entry in line.entries]
    return Cell(mean(score.accuracy for score in scores), numbers.widest([score.ci95 for score in scores]))


def _aligned(line: MethodLine) -> str | None:
    """The aligned twin's two accuracies under the same steering, mean over seeds."""
    pairs = [entry.aligned_cells for entry in line.entries if entry.aligned_cells is not None]
    if not pairs:
        return None
    oversight = mean(pair.oversight.accuracy for pair in pairs)
    no_oversight = mean(pair.no_oversight.accuracy for pair in pairs)
    return f"{numbers.decimal(oversight)}, {numbers.decimal(no_oversight)}"


def _shaded(line: MethodLine | None, lab: Comparison) -> Cell:
    """A recovery, shaded."""
    if line is None or not math.isfinite(line.recovery):
        return Cell(None)
    low, high = line.span
    spread = f"{low:.2f} to {high:.2f}" if len(line.entries) > 1 else ""
    mark = "" if line.is_within(lab.budget_kl_nats) else "*"
    return Cell(line.recovery, note=spread, mark=mark, shade=min(1.0, max(0.0, line.recovery)))


def _sites(lab: Comparison) -> list[str]:
    return sorted({line.site for line in method_lines(lab.methods)}, key=site_order)


def _site_columns(name: str, sites: Sequence[str]) -> tuple[Column, ...]:
    return (Column(name), *(Column(short_site(site)) for site in sites))


def _validation(line: MethodLine) -> float:
    score = mean(entry.validation_score for entry in line.entries)
    return score if math.isfinite(score) else -math.inf
