"""The lab's comparison of methods, made from its table of trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from fa_lightning.metrics.estimates import Accuracy, CellCounts, CellPair, Estimate, SideEffects
from fa_lightning.regressors.pairs import decision_states
from fa_lightning.studies.lab.result import (
    ActivationMap,
    Comparison,
    DosePoint,
    Generation,
    LabMethod,
    LabRow,
    Ranking,
    TransferCell,
    Twin,
    UnitKind,
    UnitPoint,
)
from fa_lightning.studies.lab.sweep_table import SweepRow
from fa_lightning.studies.lab.work import Lab, Work

MAP_POINTS = 150
"""Points of each twin in an activation map: more would hide each other."""
UNIT_KINDS: tuple[UnitKind, ...] = ("map", "oracle")


def comparison_of(
    lab: Lab,
    works: Sequence[Work],
    chosen: Mapping[str, SweepRow],
    winner: Work,
    maps: list[ActivationMap],
    texts: Sequence[tuple[str, str, str]],
) -> Comparison:
    """Everything that the lab found.

    Args:
        lab: with its finished table.
        works: all candidates.
        chosen: by candidate, its trial within the budget.
        winner: the best candidate.
        maps: see `activation_maps`.
        texts: (prompt, unsteered, steered) of the winner.
    """
    table = lab.table
    best = {lab.best_of(works, chosen, method).name for method in {work.method for work in works}}
    by_work = {f"test/{work.name}": work for work in works}
    return Comparison(
        budget_kl_nats=lab.budget,
        rows=[_trial(row) for row in table.kind("trial")],
        methods=[
            _method(row, by_work[row.work], chosen, by_work[row.work].name in best)
            for row in table.kind("test")
            if row.work in by_work
        ],
        units=[_unit(row, kind) for kind in UNIT_KINDS for row in table.kind(f"units {kind}")],
        doses=[
            DosePoint(
                row.method,
                row.site,
                row.dose,
                row.strength,
                row.oversight,
                row.no_oversight,
                row.kl_neutral_nats,
                row.perplexity_ratio,
                row.repetition,
                row.kl_answer_nats,
            )
            for row in table.kind("dose")
        ],
        maps=maps,
        transfer=_transfer(lab),
        generations=[Generation(prompt, before, after, winner.method) for prompt, before, after in texts],
        seconds=lab.seconds,
    )


def activation_maps(
    lab: Lab, works: Sequence[Work], chosen: Mapping[str, SweepRow], winner: Work
) -> list[ActivationMap]:
    """Held-out decision tokens of both twins in the plane of their first two principal components, and steered.

    At each site that the winner's method is fitted at, with the map of that very site.
    """
    drawn = []
    for work in works:
        if work.method != winner.method or not work.is_main or work.candidate.below:
            continue
        site = work.candidate.site
        faking, poor = decision_states(lab.data.store, site, "validation", 0)
        aligned, _ = decision_states(lab.data.store, site, "validation", 1)
        faking, aligned, poor = faking[:MAP_POINTS], aligned[:MAP_POINTS], poor[:MAP_POINTS]
        with torch.no_grad():
            regressor = work.candidate.regressor
            moved = regressor(faking.to(lab.variants.device)).cpu()
        steered = faking + chosen[work.name].strength * (moved - faking)
        both = torch.cat([faking, aligned])
        centre = both.mean(0)
        _, lengths, axes = torch.linalg.svd(both - centre, full_matrices=False)
        share = lengths.square() / lengths.square().sum().clamp_min(1e-12)
        clouds: dict[Twin, torch.Tensor] = {"faking": faking, "aligned": aligned, "steered": steered}
        points: dict[Twin, list[tuple[float, float, int]]] = {
            name: [
                (round(x, 4), round(y, 4), int(cell))
                for (x, y), cell in zip(((states - centre) @ axes[:2].T).tolist(), poor.tolist(), strict=True)
            ]
            for name, states in clouds.items()
        }
        drawn.append(ActivationMap(work.site, points, (float(share[0]), float(share[1]))))
    return drawn


def _trial(row: SweepRow) -> LabRow:
    return LabRow(
        **_fit(row),
        oversight=row.oversight,
        no_oversight=row.no_oversight,
        recovery=row.recovery,
        kl_neutral_nats=row.kl_neutral_nats,
        kl_answer_nats=row.kl_answer_nats,
        perplexity_ratio=row.perplexity_ratio,
        format_validity=row.format_validity,
        r2=row.r2,
    )


def _method(row: SweepRow, work: Work, chosen: Mapping[str, SweepRow], is_best: bool) -> LabMethod:
    twin = None
    if not math.isnan(row.aligned_oversight):
        twin = CellPair(Accuracy(row.aligned_oversight), Accuracy(row.aligned_no_oversight))
    return LabMethod(
        **_fit(row),
        twin_free=bool(row.twin_free),
        baseline=work.is_baseline,
        best_site=is_best,
        cells=_pair(row),
        recovery=_recovery(row),
        side_effects=SideEffects(
            kl_neutral_nats=row.kl_neutral_nats,
            perplexity_ratio=row.perplexity_ratio,
            format_validity=row.format_validity,
            kl_answer_nats=row.kl_answer_nats,
            unchanged_answers=row.unchanged_answers,
        ),
        validation_score=chosen[work.name].score,
        aligned_cells=twin,
    )


def _unit(row: SweepRow, kind: UnitKind) -> UnitPoint:
    return UnitPoint(
        cast(Ranking, row.ranking),
        kind,
        row.method,
        row.site,
        row.percent,
        row.oversight,
        row.no_oversight,
        row.recovery,
        row.kl_neutral_nats,
        row.kl_answer_nats,
    )


def _transfer(lab: Lab) -> list[TransferCell]:
    rows = lab.table.kind("transfer")
    twins = {(row.target, row.method): row for row in rows if not row.site}
    return [
        TransferCell(
            row.method,
            row.target,
            CellCounts(row.n_oversight, row.n_no_oversight),
            _pair(twins[row.target, "faking"]),
            _pair(twins[row.target, "aligned"]),
            _pair(row),
            _recovery(row),
            row.kl_neutral_nats,
            row.kl_answer_nats,
        )
        for row in rows
        if row.site
    ]


def _fit(row: SweepRow) -> dict[str, Any]:
    """What was fitted, where and how strongly it edits."""
    names = ("method", "objective", "site", "positions", "strength", "dose", "seed")
    return {name: getattr(row, name) for name in names} | {"scenarios": None if row.scenarios < 0 else row.scenarios}


def _pair(row: SweepRow) -> CellPair:
    return CellPair(
        Accuracy(row.oversight, (row.oversight_low, row.oversight_high)),
        Accuracy(row.no_oversight, (row.no_oversight_low, row.no_oversight_high)),
    )


def _recovery(row: SweepRow) -> Estimate:
    return Estimate(row.recovery, (row.recovery_low, row.recovery_high))
