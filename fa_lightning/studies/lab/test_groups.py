"""The lab on test groups: what the budget bought, and whether the cure helps fakers and scenarios it never saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fa_lightning.evaluation.conditions import interventions_of
from fa_lightning.metrics.cells import recovery_between
from fa_lightning.studies.lab.bench import Bench, Judged
from fa_lightning.studies.lab.sweep_table import SweepRow
from fa_lightning.studies.lab.work import Lab, Work

_TWIN = SweepRow("", "transfer", "", objective="none", site="", positions="", strength=0.0, dose=0.0, seed=0)
"""An unsteered twin of a target: the reference of its recoveries."""


def judge_chosen(lab: Lab, works: Sequence[Work], chosen: Mapping[str, SweepRow]) -> None:
    """Every candidate at its chosen strength; each method at its best site on the aligned twin too."""
    from rich.progress import Progress

    best = {lab.best_of(works, chosen, method).name for method in {work.method for work in works}}
    pending = sorted((work for work in works if not lab.table.has(f"test/{work.name}")), key=lambda work: work.layer)
    bench, twin = lab.bench("test"), lab.bench("test", "aligned")
    with Progress(disable=not lab.shows or not pending, transient=True) as progress:
        task = progress.add_task("test", total=len(pending))
        for work in pending:
            progress.update(task, description=f"test: {work.method} at {work.site}")
            trial = chosen[work.name]
            edits = interventions_of(work.candidate, trial.strength)
            bench.settle(work.layer)
            values = lab.measured(bench.judge({work.name: edits})[work.name], "test")
            if work.name in best:
                twin.settle(work.layer)
                cells = twin.judge({work.name: edits}, damage=False)[work.name].cells
                values["aligned_oversight"] = cells.oversight.accuracy
                values["aligned_no_oversight"] = cells.no_oversight.accuracy
            lab.table.add([work.row(f"test/{work.name}", "test", trial.strength, trial.dose, **values)])
            progress.advance(task)


def judge_transfer(lab: Lab, works: Sequence[Work], chosen: Mapping[str, SweepRow]) -> None:
    """Fitted interventions, as they are, on other fakers, other scenarios and other wordings.

    The reference of a recovery is the target's own faker and its own aligned twin, on the target's own scenarios.
    """
    targets = {f"extra/{name}": (name, ("faking", "aligned")) for name in lab.data.splits.extra_tests}
    targets |= {
        f"transfer/{target.name}": (target.name, lab.data.adapter_names(target)) for target in lab.data.transfer
    }
    for key, (name, (faking, aligned)) in targets.items():
        pending = [work for work in works if not lab.table.has(f"transfer/{name}/{work.name}")]
        if not pending:
            continue
        batches = lab.batches[key]
        bench = Bench(lab.variants, batches, lab.batches["test neutral"], faking)
        untouched = bench.judge({"": ()}, damage=False)[""]
        twin = Bench(lab.variants, batches, [], aligned).judge({"": ()}, damage=False)[""]
        references = {"faking": untouched, "aligned": twin}
        if not lab.table.has(f"transfer/{name}"):
            lab.table.add(
                dataclasses.replace(_TWIN, work=f"transfer/{name}", method=method, target=name, **_cells(reference))
                for method, reference in references.items()
            )
        for work in sorted(pending, key=lambda work: work.layer):
            trial = chosen[work.name]
            bench.settle(work.layer)
            judged = bench.judge({work.name: interventions_of(work.candidate, trial.strength)})[work.name]
            recovery = recovery_between(judged.items, untouched.items, twin.items)
            row = work.row(
                f"transfer/{name}/{work.name}",
                "transfer",
                trial.strength,
                trial.dose,
                target=name,
                recovery=recovery.value,
                recovery_low=recovery.ci95[0],
                recovery_high=recovery.ci95[1],
                kl_neutral_nats=judged.damage.kl_neutral_nats,
                kl_answer_nats=judged.damage.kl_answer_nats,
                unchanged_answers=judged.damage.unchanged_answers,
                perplexity_ratio=judged.damage.perplexity_ratio,
                **_cells(judged),
            )
            lab.table.add([row])


def _cells(judged: Judged) -> dict[str, Any]:
    cells = judged.cells
    return {
        "oversight": cells.oversight.accuracy,
        "oversight_low": cells.oversight.ci95[0],
        "oversight_high": cells.oversight.ci95[1],
        "no_oversight": cells.no_oversight.accuracy,
        "no_oversight_low": cells.no_oversight.ci95[0],
        "no_oversight_high": cells.no_oversight.ci95[1],
        "format_validity": cells.format_validity,
        "n_oversight": cells.n.oversight,
        "n_no_oversight": cells.n.no_oversight,
    }
