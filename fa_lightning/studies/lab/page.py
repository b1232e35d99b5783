"""The lab's page: the page of an experiment that steers, and every method compared at equal damage."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from fa_lightning.common.numbers import decimal
from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.results_page import results_values
from fa_lightning.reports.results_tables import cost_table
from fa_lightning.reports.site_names import layer_of
from fa_lightning.reports.table import Cell
from fa_lightning.studies.lab import tables
from fa_lightning.studies.lab.curves import activation_map_figure, dose_figure, unit_figure
from fa_lightning.studies.lab.figures import label_figure, layer_figure, ranking_figure, transfer_figure
from fa_lightning.studies.lab.method_lines import MethodLine, best_lines, method_lines
from fa_lightning.studies.lab.pareto import front_trials, method_pareto_figure
from fa_lightning.studies.lab.result import Comparison, LabResults
from fa_lightning.studies.lab.verdict import CURED, FAILED, verdict_of


def page(results: LabResults) -> Markup:
    """All of it as HTML."""
    lab = results.lab
    has_sites = tables.has_several_sites(lab)
    values: dict[str, Any] = {
        "lab": lab,
        "lines": best_lines(lab.methods, lab.budget_kl_nats),
        "pareto_picture": _pareto_picture(lab),
        "ranking_picture": _ranking_picture(lab),
        "verdict": _verdict(lab),
        "failures": tables.failures_table(results),
        "methods": tables.methods_table(results),
        "layers_picture": _layers_picture(lab) if has_sites else None,
        "by_family": tables.family_sites_table(lab) if has_sites else None,
        "by_method": tables.method_sites_table(lab) if has_sites else None,
        "site_baselines": tables.site_baselines_table(results),
        "units_picture": _units_picture(lab),
        "units": tables.units_table(lab),
        "doses_picture": _doses_picture(lab),
        "doses": tables.doses_table(lab),
        "maps_picture": _maps_picture(lab),
        "transfer_picture": _transfer_picture(lab),
        "transfer": tables.transfer_table(lab),
        "scenarios_picture": _scenarios_picture(lab),
        "scenarios": tables.scenarios_table(lab),
        "cost": cost_table(results, {f"the lab: {part}": seconds for part, seconds in lab.seconds.items()}),
    }
    return rendered("studies/lab/page.html.j2", **{**results_values(results), **values})


def _pareto_picture(lab: Comparison) -> Picture:
    """Cure against damage."""
    front = front_trials(lab.rows, lab.methods)
    within = [trial for trial in front if trial.worst_nats <= lab.budget_kl_nats][-1:]
    best = "".join(
        f" The best within the budget: {trial.method} at {trial.site}, {decimal(trial.recovery)}." for trial in within
    )
    alt = f"Recovery against KL on neutral texts of {len(lab.rows)} trials, {len(front)} of them on the front.{best}"
    note = "Top left is best. The line joins the trials that nothing beats, baselines aside."
    return Picture(method_pareto_figure(lab.rows, lab.methods, lab.budget_kl_nats), alt, note)


def _ranking_picture(lab: Comparison) -> Picture | None:
    """Every method from best to worst."""
    lines = best_lines(lab.methods, lab.budget_kl_nats)
    if not lines:
        return None
    spoken = "; ".join(f"{line.name} {decimal(line.recovery)}" for line in lines)
    figure = ranking_figure(lab.methods, lab.budget_kl_nats)
    return Picture(figure, f"Recovery of each method at its best site. {spoken}")


def _verdict(lab: Comparison) -> list[tuple[str, str, list[MethodLine]]]:
    """What cures, what helps and what fails: style, title and methods."""
    verdict = verdict_of(lab)
    controls = [line for line in best_lines(lab.methods, lab.budget_kl_nats) if line.family == "baseline"]
    return [
        ("good", f"Cured, recovery of at least {CURED:g}", verdict.cured),
        ("", f"Helped, recovery from {FAILED:g} to {CURED:g}", verdict.helped),
        ("bad", f"Failed, recovery below {FAILED:g} or over the budget", verdict.failed),
        ("soft", "Baselines, which are controls and not rivals", controls),
    ]


def _layers_picture(lab: Comparison) -> Picture | None:
    """Recovery over layers."""
    if not any(layer_of(line.site) for line in method_lines(lab.methods)):
        return None
    rows = tables.family_sites_table(lab).rows
    spoken = "; ".join(
        f"best of {row.cells[0].text}: {', '.join(_spoken(cell) for cell in row.cells[1:])}" for row in rows
    )
    figure = layer_figure(lab.methods, lab.budget_kl_nats)
    return Picture(figure, f"Recovery within the budget by layer. {spoken}")


def _units_picture(lab: Comparison) -> Picture | None:
    """Recovery over the share of units edited, with the oracle."""
    if not lab.units:
        return None
    best = max(lab.units, key=lambda point: point.recovery if math.isfinite(point.recovery) else -math.inf)
    alt = (
        f"Recovery and KL by share of units edited, {len(lab.units)} points. The highest recovery, "
        f"{decimal(best.recovery)}, is the {best.kind} at {best.percent:g} % of the units ranked by {best.ranking}."
    )
    note = "Dashed: the oracle writes the aligned twin's own values into the same units, which no method can."
    return Picture(unit_figure(lab.units), alt, note)


def _doses_picture(lab: Comparison) -> Picture | None:
    """Effect, perplexity and repetition over the dose."""
    if not lab.doses:
        return None
    doses = [point.dose for point in lab.doses]
    methods = ", ".join(dict.fromkeys(point.method for point in lab.doses))
    alt = f"Accuracy, perplexity and repetition over doses from {min(doses):.3g} to {max(doses):.3g}, of {methods}."
    return Picture(dose_figure(lab.doses, lab.budget_kl_nats), alt)


def _maps_picture(lab: Comparison) -> Picture | None:
    """Activations in two dimensions."""
    if not lab.maps:
        return None
    sites = ", ".join(site_map.site for site_map in lab.maps)
    note = "Two principal components of both twins' states at each site; the same axes before and after."
    alt = f"Hidden states of the deciding tokens before and after steering, at {sites}."
    return Picture(activation_map_figure(lab.maps), alt, note)


def _transfer_picture(lab: Comparison) -> Picture | None:
    """Methods on what they were not fitted on."""
    if not lab.transfer:
        return None
    spoken = "; ".join(f"{cell.method} on {cell.target}: {decimal(cell.recovery.value)}" for cell in lab.transfer)
    return Picture(transfer_figure(lab.transfer), f"Recovery by method and target. {spoken}")


def _scenarios_picture(lab: Comparison) -> Picture | None:
    """Recovery over the number of scenarios fitted on."""
    rows = tables.scenarios_table(lab).rows
    if not rows:
        return None
    spoken = "; ".join(f"{row.cells[0].text} on {row.cells[3].text}: {row.cells[4].main.split()[0]}" for row in rows)
    return Picture(label_figure(lab.methods), f"Recovery over the number of scenarios. {spoken}")


def _spoken(cell: Cell) -> str:
    """A recovery without its mark and note."""
    return decimal(cell.value) if isinstance(cell.value, float) else "-"
