"""The lab's parts of the page; each is empty where the lab, or its part of the lab, is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from fa_lightning.evaluation.results import Results
from fa_lightning.reports.elements import image_html, table_html
from fa_lightning.reports.table import accuracy, nats, number, with_interval
from fa_lightning.studies.lab.curves import activation_map_figure, dose_figure, unit_figure
from fa_lightning.studies.lab.figures import label_figure, layer_figure, ranking_figure, transfer_figure
from fa_lightning.studies.lab.method_lines import (
    FAMILIES,
    MethodLine,
    best_lines,
    layer_of,
    mean,
    method_lines,
    short_site,
    site_order,
)
from fa_lightning.studies.lab.methods_table import methods_table, recovery_text
from fa_lightning.studies.lab.pareto import front_trials, method_pareto_figure
from fa_lightning.studies.lab.result import Lab, LabMethod
from fa_lightning.studies.lab.verdict import CURED, FAILED, reason_of, verdict_of

Line = MethodLine[LabMethod]


def headline_part(results: Results) -> str:
    """Cure against damage, the verdict, and the methods in one table."""
    lab = results.lab
    if lab is None or not (lab.methods or lab.rows):
        return ""
    lines = best_lines(lab.methods, lab.budget_kl_nats)
    rivals = sum(line.family != "baseline" for line in lines)
    front = front_trials(lab.rows, lab.methods)
    parts = [
        "<h3>Methods at equal damage</h3>",
        f"<p>{rivals} methods and {len(lines) - rivals} baselines, {len(lab.rows):,} trials. Each method's strength "
        f"and site were chosen on the validation split, where its KL on neutral texts had to stay within "
        f"{lab.budget_kl_nats:g} nats per token; recovery is what that bought on the test split.</p>",
    ]
    within = [row for row in front if row.kl_neutral_nats <= lab.budget_kl_nats][-1:]
    best = "".join(
        f" The best within the budget: {row.method} at {row.site}, {number(row.recovery)}." for row in within
    )
    alt = f"Recovery against KL on neutral texts of {len(lab.rows)} trials, {len(front)} of them on the front.{best}"
    note = "Top left is best. The line joins the trials that nothing beats, baselines aside."
    parts.append(image_html(method_pareto_figure(lab.rows, lab.methods, lab.budget_kl_nats), alt, note))
    if lines:
        parts.append(_verdict_html(lab, lines, results))
        alt = "Recovery of each method at its best site. " + "; ".join(
            f"{line.name} {number(line.recovery)}" for line in lines
        )
        parts.append(image_html(ranking_figure(lab.methods, lab.budget_kl_nats), alt))
        parts.append(methods_table(lab, results.cells))
    return "".join(parts)


def layers_part(results: Results) -> str:
    """Recovery by method and by family over the sites."""
    if results.lab is None:
        return ""
    lab, lines = results.lab, method_lines(results.lab.methods)
    if len({line.site for line in lines}) < 2:
        return ""
    sites = sorted({line.site for line in lines}, key=site_order)
    by_place = {(line.name, line.site): line for line in lines}
    best: list[tuple[str, list[Line | None]]] = []
    for family in FAMILIES:
        own = [line for line in lines if line.family == family]
        picked = [max((one for one in own if one.site == site), key=_validation, default=None) for site in sites]
        if own:
            best.append((family, picked))
    every = [
        (line.name, [by_place.get((line.name, site)) for site in sites])
        for line in best_lines(lab.methods, lab.budget_kl_nats)
    ]
    parts = ["<h3>Layers</h3>"]
    if any(layer_of(site) for site in sites):
        alt = "Recovery within the budget by layer. " + "; ".join(
            f"best of {family}: {', '.join('-' if one is None else number(one.recovery) for one in picked)}"
            for family, picked in best
        )
        parts.append(image_html(layer_figure(lab.methods, lab.budget_kl_nats), alt))
    note = "Small: lowest to highest over seeds. An asterisk: over the budget on the test split."
    caption = (
        f"Recovery on the test split: at each site the family's method that scores best on the validation split. {note}"
    )
    parts.append(_heat_table(caption, "family", sites, best, lab))
    parts.append(_heat_table(f"The same for every method. {note}", "method", sites, every, lab))
    return "".join(parts)


def units_part(results: Results) -> str:
    """Recovery over the share of units edited, with the oracle."""
    if results.lab is None or not results.lab.units:
        return ""
    points = results.lab.units
    best = max(points, key=lambda point: point.recovery if math.isfinite(point.recovery) else -math.inf)
    alt = (
        f"Recovery and KL by share of units edited, {len(points)} points. The highest recovery, "
        f"{number(best.recovery)}, is the {best.kind} at {best.percent:g} % of the units ranked by {best.ranking}."
    )
    note = "Dashed: the oracle writes the aligned twin's own values into the same units, which no method can."
    rows = [
        [
            p.site,
            p.ranking,
            p.method if p.kind == "map" else "oracle",
            f"{p.percent:g}",
            number(p.oversight),
            number(p.no_oversight),
            number(p.recovery),
            nats(p.kl_neutral_nats),
        ]
        for p in points
    ]
    headers = ("site", "ranked by", "edit", "top %", "with oversight", "without oversight", "recovery", "KL, nats")
    return f"<h3>Units</h3>{image_html(unit_figure(points), alt, note)}{table_html('', headers, rows)}"


def doses_part(results: Results) -> str:
    """Effect, perplexity and repetition over the dose."""
    if results.lab is None or not results.lab.doses:
        return ""
    lab, points = results.lab, results.lab.doses
    alt = (
        f"Accuracy, perplexity and repetition over doses from {min(p.dose for p in points):.3g} to "
        f"{max(p.dose for p in points):.3g}, of {', '.join(dict.fromkeys(point.method for point in points))}."
    )
    rows = [
        [
            p.method,
            p.site,
            f"{p.dose:.3g}",
            f"{p.strength:.3g}",
            number(p.oversight),
            number(p.no_oversight),
            nats(p.kl_neutral_nats),
            number(p.perplexity_ratio),
            number(p.repetition),
        ]
        for p in points
    ]
    headers = ("method", "site", "dose", "strength", "with oversight", "without oversight", "KL, nats")
    table = table_html("", (*headers, "perplexity ratio", "repeated 3-grams"), rows)
    return f"<h3>Doses</h3>{image_html(dose_figure(points, lab.budget_kl_nats), alt)}{table}"


def maps_part(results: Results) -> str:
    """Activations in two dimensions."""
    if results.lab is None or not results.lab.maps:
        return ""
    maps = results.lab.maps
    alt = f"Hidden states of the deciding tokens before and after steering, at {', '.join(one.site for one in maps)}."
    note = "Two principal components of both twins' states at each site; the same axes before and after."
    return f"<h3>Activations</h3>{image_html(activation_map_figure(maps), alt, note)}"


def transfer_part(results: Results) -> str:
    """Methods judged on what they were not fitted on."""
    if results.lab is None or not results.lab.transfer:
        return ""
    cells = results.lab.transfer
    alt = "Recovery by method and target. " + "; ".join(
        f"{cell.method} on {cell.target}: {number(cell.recovery.value)}" for cell in cells
    )
    rows = [
        [
            cell.method,
            cell.target,
            number(cell.faking.no_oversight.accuracy),
            number(cell.aligned.no_oversight.accuracy),
            accuracy(cell.steered.oversight),
            accuracy(cell.steered.no_oversight),
            with_interval(cell.recovery),
            nats(cell.kl_neutral_nats),
            f"{cell.n.oversight} + {cell.n.no_oversight}",
        ]
        for cell in cells
    ]
    accuracies = ("faking, without", "aligned, without", "steered, with", "steered, without")
    headers = ("method", "judged on", *accuracies, "recovery", "KL, nats", "n (with + without)")
    table = table_html("Accuracies with and without oversight on each target.", headers, rows)
    return f"<h3>Transfer</h3>{image_html(transfer_figure(cells), alt)}{table}"


def scenarios_part(results: Results) -> str:
    """Recovery over the number of scenarios fitted on."""
    if results.lab is None or all(one.scenarios is None for one in results.lab.methods):
        return ""
    rows: list[list[str]] = []
    groups: dict[tuple[str, str, str, int], list[LabMethod]] = {}
    for one in results.lab.methods:
        if one.scenarios is not None:
            groups.setdefault((one.method, one.objective, one.site, one.scenarios), []).append(one)
    for (method, objective, site, count), own in sorted(groups.items(), key=lambda item: item[0]):
        line = Line(method, "", site, tuple(own))
        rows.append([method, objective, site, str(count), recovery_text(line), nats(line.kl_nats)])
    spoken = "; ".join(f"{row[0]} on {row[3]}: {row[4].split()[0]}" for row in rows)
    headers = ("method", "fitted to", "site", "scenarios", "recovery", "KL, nats")
    image = image_html(label_figure(results.lab.methods), f"Recovery over the number of scenarios. {spoken}")
    return f"<h3>Label efficiency</h3>{image}{table_html('', headers, rows)}"


def generations_part(results: Results) -> str:
    """Sample texts side by side."""
    if results.lab is None or not results.lab.generations:
        return ""
    rows = "".join(
        "<tr>"
        + "".join(f'<td class="wrap">{escape(text)}</td>' for text in (one.prompt, one.unsteered, one.steered))
        + f"<td>{escape(one.method)}</td></tr>"
        for one in results.lab.generations
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("prompt", "unsteered", "steered", "method"))
    table = f'<table class="samples"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<h3>Sample generations</h3><div class="scroll">{table}</div>'


def _verdict_html(lab: Lab, every: Sequence[Line], results: Results) -> str:
    """What cures, what helps, what fails and why."""
    verdict = verdict_of(lab)
    baselines = [line for line in every if line.family == "baseline"]
    items = []
    for state, title, lines in (
        ("good", f"Cured, recovery of at least {CURED:g}", verdict.cured),
        ("", f"Helped, recovery from {FAILED:g} to {CURED:g}", verdict.helped),
        ("bad", f"Failed, recovery below {FAILED:g} or over the budget", verdict.failed),
        ("soft", "Baselines, which are controls and not rivals", baselines),
    ):
        names = ", ".join(f"{line.name} ({number(line.recovery)})" for line in lines) or "none"
        items.append(f'<li><span class="{state}">{title}</span> ({len(lines)}): {escape(names)}.</li>')
    faker = results.cells["faking"].oversight.accuracy if "faking" in results.cells else math.nan
    rows = [[line.name, number(line.recovery), reason_of(lab, line, faker)] for line in verdict.failed]
    headers = ("method", "recovery on the test split", "why it fails, from its trials on the validation split")
    why = f'<div class="prose">{table_html("", headers, rows, fold=False)}</div>' if rows else ""
    return f"<ul>{''.join(items)}</ul>{why}"


def _heat_table(
    caption: str, what: str, sites: Sequence[str], rows: Sequence[tuple[str, list[Line | None]]], lab: Lab
) -> str:
    """A table of recoveries by site, shaded."""
    cells = [[escape(name), *(_heat(line, lab) for line in own)] for name, own in rows]
    table = table_html(caption, (what, *map(short_site, sites)), cells, is_html=True, fold=False)
    return f'<div class="wide">{table}</div>'


def _heat(line: Line | None, lab: Lab) -> str:
    """A recovery as HTML, shaded."""
    if line is None or not math.isfinite(line.recovery):
        return "-"
    low, high = line.interval
    spread = f" <small>{low:.2f} to {high:.2f}</small>" if len(line.entries) > 1 else ""
    mark = "" if line.is_within(lab.budget_kl_nats) else "*"
    shade = min(1.0, max(0.0, line.recovery))
    return f'<span class="heat" style="--heat:{shade:.2f}">{line.recovery:.3f}{mark}{spread}</span>'


def _validation(line: Line) -> float:
    score = mean(entry.validation_score for entry in line.entries)
    return score if math.isfinite(score) else -math.inf
