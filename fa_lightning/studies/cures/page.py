"""The page about ways to cure a faker."""

from __future__ import annotations

import math

from markupsafe import Markup

from fa_lightning.common import numbers
from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.cures.figures import cures_figure
from fa_lightning.studies.cures.result import CureScore, CuresResult, over_seeds
from fa_lightning.studies.cures.tables import (
    costs_table,
    cures_table,
    equal_damage_table,
    facts,
    guard_table,
    outcomes_table,
    trials_table,
)

WITHOUT_ACTIVATIONS = "input"
"""The kind of cure that touches neither weights nor activations while it is used."""


def page(result: CuresResult) -> Markup:
    """Every way to cure the faker, as HTML."""
    spoken = "; ".join(f"{score.method} {numbers.decimal(score.recovery.value)}" for score in over_seeds(result))
    picture = Picture(
        cures_figure(over_seeds(result)),
        f"Recovery of each method against the worse of its KLs on neutral texts. Recovery: {spoken}.",
        "Good cures are at the top left; whiskers are 95 % intervals.",
    )
    return rendered(
        "studies/cures/page.html.j2",
        result=result,
        tiles=_tiles(result),
        cures=cures_table(result),
        costs=costs_table(result),
        equal_damage=None if result.budget_nats is None else equal_damage_table(result),
        guard=None if result.guard is None else guard_table(result),
        outcomes=None if result.guard is None else outcomes_table(result),
        trials=trials_table(result),
        cures_picture=picture,
        facts_list=facts_table(facts(result)),
    )


def best_of(result: CuresResult, *kinds: str) -> CureScore | None:
    """The cure of the highest recovery among some kinds, seeds together; of equal ones the one of the lowest KL."""
    judged = [score for score in over_seeds(result) if score.kind in kinds]
    known = [score for score in judged if not math.isnan(score.recovery.value)]
    return min(known, key=lambda score: (-score.recovery.value, score.worst_nats), default=None)


def _tiles(result: CuresResult) -> list[tuple[str, str]]:
    """The numbers to look at first."""
    tiles = []
    for kind, what in (
        ("steering", "by steering"),
        ("adapter", "by training"),
        (WITHOUT_ACTIVATIONS, "without touching weights or activations"),
    ):
        best = best_of(result, kind)
        if best is not None:
            label = f"recovery {what}: {best.method}, KL {numbers.nats(best.worst_nats)}"
            ends = numbers.interval(best.recovery.ci95)
            tiles.append((numbers.decimal(best.recovery.value), f"{label}, {ends}"))
    return tiles
