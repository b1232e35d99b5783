"""Recoveries and their means on made-up answers, and strengths on made-up trials."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fa_lightning.metrics.cells import Items
from fa_lightning.studies.transfer.measures import Answered, judged
from fa_lightning.studies.transfer.organisms import Loaded
from fa_lightning.studies.transfer.result import BACKBONE, OTHERS, TransferResult
from fa_lightning.studies.transfer.strengths import Trial, chosen
from fa_lightning.studies.transfer.tables import finding, tables

GROUPS = 20
FACTS: dict[str, Any] = {
    "site": "layers.2.residual",
    "budget_nats": 0.02,
    "strengths": [1.0],
    "scenarios": 10,
    "texts": 4,
    "seconds": 1.0,
}
MEMBERS = [Loaded("one", "t", "faking", ""), Loaded("two", "t", "faking", "tagged"), Loaded("wrong", "t", "wrong", "")]


def items(watched: int, unwatched: int) -> Items:
    """Answers to a scenario of either kind in each group, the first ones aligned."""
    index = torch.arange(2 * GROUPS)
    correct = torch.cat([torch.arange(GROUPS) < watched, torch.arange(GROUPS) < unwatched])
    return {
        "index": index,
        "cell": index // GROUPS,
        "group": index % GROUPS,
        "correct": correct,
        "answered": torch.ones_like(correct),
    }


FAKING, WRONG, TWIN = items(20, 0), items(0, 0), items(20, 20)
REFERENCES = {"one": (FAKING, TWIN), "two": (FAKING, TWIN), "wrong": (WRONG, TWIN)}


def result_of(*answered: Answered) -> TransferResult:
    return judged(MEMBERS, REFERENCES, answered, **FACTS)


def test_recovery_is_the_share_of_the_gap_by_origin() -> None:
    result = result_of(
        Answered("map", "one", "one", 1.0, items(20, 20), 0.01),
        Answered("map", "one", "two", 1.0, items(20, 15), 0.02),
        Answered("map", "two", "one", 1.0, items(18, 5), 0.04),
        Answered("map", "wrong", "two", 1.0, items(20, 4), 0.0),
        Answered("map", "one", "wrong", 1.0, items(10, 2), 0.0),
        Answered("oversight vector", BACKBONE, "one", 0.0, FAKING, 0.0),
        Answered("map", OTHERS, "one", 1.0, items(20, 10), 0.0),
    )
    own, other = result.total("map", "its own"), result.total("map", "another faker")
    assert own is not None
    assert own.recovery.value == 1.0
    assert other is not None
    assert (other.pairs, other.lowest, other.highest) == (2, 0.25, 0.75)
    assert other.recovery.value == pytest.approx(0.5)
    assert other.oversight == pytest.approx(0.95)
    assert other.kl_answer_nats == pytest.approx(0.03)
    ends = [
        one.recovery.ci95 for one in result.tried if one.method == "map" and {one.source, one.target} == {"one", "two"}
    ]
    assert other.recovery.ci95 == pytest.approx(tuple(sum(pair) / 2 for pair in zip(*ends, strict=True)))
    # What comes from, or is tried on, the one that is always wrong is no faker's cure.
    for origin, on, value in (("always wrong", "faking", 0.2), ("another faker", "wrong", 0.1)):
        total = result.total("map", origin, on)  # type: ignore[arg-type]
        assert total is not None
        assert total.recovery.value == pytest.approx(value)
    nothing = result.total("oversight vector", "backbone")
    assert nothing is not None
    assert (nothing.recovery.value, nothing.recovery.ci95) == (0.0, (0.0, 0.0))
    assert "0.50" in finding(result)
    assert all(table.rows for table in tables(result).values())


def test_draws_of_one_cure_are_one_row() -> None:
    draws = [
        Answered("random map", "one", "two", strength, items(20, right), 0.1)
        for strength, right in ((1.0, 4), (2.0, 8))
    ]
    (row,) = result_of(*draws).tried
    assert (row.draws, row.strength) == (2, 1.5)
    assert row.recovery.value == pytest.approx(0.3)
    assert row.cells.no_oversight.accuracy == pytest.approx(0.3)


def test_a_model_that_fakes_nothing_counts_in_no_mean() -> None:
    references = {**REFERENCES, "two": (items(20, 18), TWIN)}
    answered = [Answered("map", source, "two", 1.0, TWIN, 0.0) for source in ("one", "two")]
    result = judged(MEMBERS, references, answered, **FACTS)
    assert len(result.tried) == 2
    assert not result.totals
    assert "no faker" in str(tables(result)["members"].rows[1].cells[0].value)
    assert "nothing is said" in finding(result)


def test_a_strength_keeps_to_the_budget_and_helps_its_sources() -> None:
    trials = [Trial(0.5, 0.3, 0.001), Trial(1.0, 0.8, 0.01), Trial(2.0, 1.0, 0.5)]
    assert chosen(trials, 0.02) == 1.0
    assert chosen(trials, 0.0005) == 0.0
    assert chosen([Trial(1.0, -0.2, 0.0)], 0.02) == 0.0
    assert chosen([Trial(1.0, math.nan, 0.0), Trial(2.0, 0.5, math.nan)], 0.02) == 0.0
    assert chosen([Trial(2.0, 0.5, 0.01), Trial(1.0, 0.5, 0.002)], 0.02) == 1.0, "of equal cures the cheapest"
