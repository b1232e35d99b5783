"""What the report and TensorBoard show of a lab: its table as the JSON of `lab.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fa_lightning.regressors.rows import decision_states
from fa_lightning.studies.lab.sweep_table import Row
from fa_lightning.studies.lab.work import Lab, Work, nothing

MAP_POINTS = 150
"""Points of each twin in an activation map: more would hide each other."""


def lab_view(
    lab: Lab,
    works: Sequence[Work],
    chosen: Mapping[str, Row],
    winner: Work,
    maps: list[dict[str, Any]],
    texts: Sequence[tuple[str, str, str]],
) -> dict[str, Any]:
    """The JSON of `lab.json`; nan is null.

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
    return {
        "budget_kl_nats": lab.budget,
        "rows": [_trial(row) for row in table.kind("trial")],
        "methods": [
            _method(row, by_work[row.work], chosen, by_work[row.work].name in best)
            for row in table.kind("test")
            if row.work in by_work
        ],
        "units": [
            {
                "ranking": row.ranking,
                "kind": kind,
                "method": row.method,
                "site": row.site,
                "percent": row.percent,
                **_numbers(row, "oversight", "no_oversight", "recovery", "kl_neutral_nats"),
            }
            for kind in ("map", "oracle")
            for row in table.kind(f"units {kind}")
        ],
        "doses": [
            {
                "method": row.method,
                "site": row.site,
                **_numbers(row, "dose", "strength", "oversight", "no_oversight"),
                **_numbers(row, "kl_neutral_nats", "perplexity_ratio", "repetition"),
            }
            for row in table.kind("dose")
        ],
        "maps": maps,
        "transfer": _transfer(lab),
        "generations": [
            {"prompt": prompt, "unsteered": before, "steered": after, "method": winner.method}
            for prompt, before, after in texts
        ],
        "seconds": lab.seconds,
    }


def activation_maps(lab: Lab, works: Sequence[Work], chosen: Mapping[str, Row], winner: Work) -> list[dict[str, Any]]:
    """Held-out decision tokens of both twins in the plane of their first two principal components, and steered.

    At each site that the winner's method is fitted at, with the map of that very site.
    """
    found = []
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
        points = {
            name: [
                [round(x, 4), round(y, 4), int(cell)]
                for (x, y), cell in zip(((states - centre) @ axes[:2].T).tolist(), poor.tolist(), strict=True)
            ]
            for name, states in (("faking", faking), ("aligned", aligned), ("steered", steered))
        }
        found.append({"site": work.site, "points": points, "explained": [float(share[0]), float(share[1])]})
    return found


def _trial(row: Row) -> dict[str, Any]:
    return {
        **_names(row),
        **_numbers(row, "oversight", "no_oversight", "recovery", "kl_neutral_nats", "perplexity_ratio"),
        **_numbers(row, "format_validity", "r2"),
    }


def _method(row: Row, work: Work, chosen: Mapping[str, Row], best: bool) -> dict[str, Any]:
    twin = None
    if row.aligned_oversight == row.aligned_oversight:
        twin = {
            "oversight": {"accuracy": row.aligned_oversight, "ci95": [None, None]},
            "no_oversight": {"accuracy": nothing(row.aligned_no_oversight), "ci95": [None, None]},
        }
    return {
        **_names(row),
        "twin_free": bool(row.twin_free),
        "baseline": work.is_baseline,
        "best_site": best,
        "cells": _pair(row),
        "recovery": _estimate(row),
        "side_effects": _numbers(row, "kl_neutral_nats", "perplexity_ratio", "format_validity"),
        "validation_score": nothing(chosen[work.name].score),
        "aligned_cells": twin,
    }


def _transfer(lab: Lab) -> list[dict[str, Any]]:
    rows = lab.table.kind("transfer")
    twins = {(row.target, row.method): row for row in rows if not row.site}
    return [
        {
            "method": row.method,
            "target": row.target,
            "n": {"oversight": row.n_oversight, "no_oversight": row.n_no_oversight},
            "faking": _pair(twins[row.target, "faking"]),
            "aligned": _pair(twins[row.target, "aligned"]),
            "steered": _pair(row),
            "recovery": _estimate(row),
            "kl_neutral_nats": nothing(row.kl_neutral_nats),
        }
        for row in rows
        if row.site
    ]


def _names(row: Row) -> dict[str, Any]:
    return {
        "method": row.method,
        "objective": row.objective,
        "site": row.site,
        "positions": row.positions,
        "strength": row.strength,
        "dose": nothing(row.dose),
        "seed": row.seed,
        "scenarios": None if row.scenarios < 0 else row.scenarios,
    }


def _pair(row: Row) -> dict[str, Any]:
    return {
        cell: {
            "accuracy": nothing(getattr(row, cell)),
            "ci95": [nothing(getattr(row, f"{cell}_low")), nothing(getattr(row, f"{cell}_high"))],
        }
        for cell in ("oversight", "no_oversight")
    }


def _estimate(row: Row) -> dict[str, Any]:
    return {"value": nothing(row.recovery), "ci95": [nothing(row.recovery_low), nothing(row.recovery_high)]}


def _numbers(row: Row, *names: str) -> dict[str, float | None]:
    return {name: nothing(getattr(row, name)) for name in names}
