"""Which methods cure, which help and which fail within the budget, and why, in plain words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fa_lightning.common.numbers import decimal, nats
from fa_lightning.studies.lab.method_lines import MethodLine, best_lines, method_names
from fa_lightning.studies.lab.result import Comparison, LabRow

# Recovery that counts as a cure, and below which a method is said to fail.
CURED, FAILED = 0.97, 0.5
# A loss of accuracy with oversight that is worth a word.
BROKEN = 0.05


@dataclass(frozen=True)
class SortedMethods:
    """The methods sorted by what the budget bought on the test split, best first; baselines are not judged.

    Attributes:
        cured: recovery of at least `CURED` within the budget.
        helped: between.
        failed: below `FAILED`, not measured, or over the budget at the strength chosen.
    """

    cured: list[MethodLine]
    helped: list[MethodLine]
    failed: list[MethodLine]


def verdict_of(lab: Comparison) -> SortedMethods:
    """Sort the lab's methods into cures, helps and failures."""
    verdict = SortedMethods([], [], [])
    for line in best_lines(lab.methods, lab.budget_kl_nats):
        if line.family == "baseline":
            continue
        if not line.is_within(lab.budget_kl_nats) or not line.recovery >= FAILED:
            verdict.failed.append(line)
        elif line.recovery >= CURED:
            verdict.cured.append(line)
        else:
            verdict.helped.append(line)
    return verdict


def reason_of(lab: Comparison, line: MethodLine, oversight: float = math.nan) -> str:
    """Why a method fails, as its trials on the validation split tell.

    Args:
        lab: with the trials.
        line: the method.
        oversight: the faker's accuracy with oversight, to say what is broken; nan if not known.
    """
    best = best_trial(lab, line)
    if best is None:
        return "no trial was recorded"
    rows = _trials(lab, line)
    reached = f"{decimal(best.recovery)} at {nats(best.worst_nats)} nats"
    if best.recovery < FAILED:
        reason = f"no strength tried reaches {FAILED:g}, whatever the damage: at best {reached}"
    elif best.worst_nats > lab.budget_kl_nats:
        times = best.worst_nats / lab.budget_kl_nats if lab.budget_kl_nats > 0 else math.inf
        reason = f"works only beyond the budget: {reached}, {times:.3g} times the budget"
    else:
        reason = f"holds on the validation split ({reached}), not on the test split"
    if all(row.worst_nats > lab.budget_kl_nats for row in rows):
        reason += "; every strength tried costs more than the budget"
    if best.oversight < oversight - BROKEN:
        reason += f"; breaks answers with oversight ({decimal(best.oversight)})"
    return reason


def best_trial(lab: Comparison, line: MethodLine) -> LabRow | None:
    """The trial of the method with the highest recovery at any damage and site; None if there is none."""
    return max(_trials(lab, line), key=lambda row: row.recovery, default=None)


def _trials(lab: Comparison, line: MethodLine) -> list[LabRow]:
    """The method's trials with a known gain and price, fitted on all scenarios."""
    names = method_names(lab.methods)
    return [
        row
        for row in lab.rows
        if names.get((row.method, row.objective)) == line.name
        and row.scenarios is None
        and math.isfinite(row.recovery)
        and math.isfinite(row.worst_nats)
    ]
