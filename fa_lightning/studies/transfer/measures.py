"""From answers under cures to recoveries, one row for each method, source and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fa_lightning.metrics.cells import CellAccuracy, Cells, Items, recovery_between
from fa_lightning.metrics.draws import cells_over_draws
from fa_lightning.metrics.estimates import Estimate, mean_estimate
from fa_lightning.studies.transfer.organisms import Loaded
from fa_lightning.studies.transfer.result import METHODS, Member, Method, TransferResult, Tried, totals_of


@dataclass(frozen=True)
class Answered:
    """What one model answered under one cure, or under one draw of it.

    Attributes:
        method: of the cure.
        source: of the cure.
        target: who was asked.
        strength: of the cure; 0 for none.
        items: the answers.
        kl_answer_nats: at the first token said to neutral texts.
    """

    method: Method
    source: str
    target: str
    strength: float
    items: Items
    kl_answer_nats: float


def judged(
    members: Sequence[Loaded], references: Mapping[str, tuple[Items, Items]], answered: Sequence[Answered], **facts: Any
) -> TransferResult:
    """All that the study says.

    Args:
        members: the models.
        references: by member, its answers without a cure and its twin's.
        answered: all others.
        **facts: of `TransferResult`.
    """
    rows = []
    for member in members:
        own, twin = (_cells(items) for items in references[member.name])
        rows.append(Member(member.name, member.behaviour, member.asked, own.pair, twin.pair, own.n))
    grouped: dict[tuple[Method, str, str], list[Answered]] = {}
    for one in answered:
        grouped.setdefault((one.method, one.source, one.target), []).append(one)
    order = {member.name: place for place, member in enumerate(members)}
    places = sorted(grouped, key=lambda key: (METHODS.index(key[0]), order.get(key[1], len(order)), order[key[2]]))
    tried = [_tried(key, grouped[key], *references[key[2]]) for key in places]
    return TransferResult(rows, tried, totals_of(rows, tried), **facts)


def _tried(key: tuple[Method, str, str], draws: Sequence[Answered], faking: Items, aligned: Items) -> Tried:
    return Tried(
        *key,
        fmean(one.strength for one in draws),
        fmean(one.kl_answer_nats for one in draws),
        cells_over_draws([one.items for one in draws]),
        mean_estimate([_recovery(one, faking, aligned) for one in draws]),
        len(draws),
    )


def _recovery(one: Answered, faking: Items, aligned: Items) -> Estimate:
    # Without an edit nothing is cured by definition: nothing to be sure of.
    return Estimate(0.0, (0.0, 0.0)) if one.strength == 0 else recovery_between(one.items, faking, aligned)


def _cells(items: Items) -> Cells:
    metric = CellAccuracy()
    metric.update(*(items[name] for name in ("correct", "cell", "group", "index", "answered")))
    cells: Cells = metric.compute()
    return cells
