"""Half-lives as they are told: ends that lie beyond an attack, several chains in one table, the logged numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from fa_lightning.common.numbers import NO_INTERVAL
from fa_lightning.metrics.estimates import Accuracy, Estimate
from fa_lightning.studies.chains import joined
from fa_lightning.studies.half_life.output import scalars
from fa_lightning.studies.half_life.result import Cured, Curve, HalfLife, HalfLifeResult, Point
from fa_lightning.studies.half_life.tables import half_life_cell, half_lives_table, tables

HALVED = HalfLife(5.25, (4.0, 7.5), "halved", 1.0, 1.0)
OPEN = HalfLife(7.5, (6.0, math.nan), "halved", 0.6, 0.8)
LASTING = HalfLife(math.nan, (math.nan, math.nan), "outlasts", 0.0, 0.0)
NEARLY = HalfLife(math.nan, (7.0, math.nan), "outlasts", 0.3, 0.5)
NOTHING = HalfLife(math.nan, NO_INTERVAL, "no gain", math.nan, math.nan)


def curve(cure: str, one: HalfLife) -> Curve:
    points = [
        Point(amount, Accuracy(1.0), Accuracy(share), Estimate(share), Estimate(1 - share), 1.0)
        for amount, share in ((0.0, 1.0), (8.0, 0.25))
    ]
    return Curve(cure, "faking", points, one, one)


def result_of(halves: Mapping[str, HalfLife]) -> HalfLifeResult:
    cures = [Cured(cure, 0.1, 0.2, 0.9) for cure in halves]
    curves = [curve(cure, one) for cure, one in halves.items()]
    return HalfLifeResult("faking", "aligned", cures, curves, 9, 7, 4, 1e-3, 8, 0, 2, 3.0)


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (HALVED, "5.25 [4.00, 7.50]"),
        (OPEN, "7.50 [6.00, > 8]"),
        (LASTING, "> 8"),
        (NEARLY, "> 8 [7.00, > 8]"),
        (NOTHING, "no gain"),
    ],
)
def test_an_end_beyond_the_attack_is_said(one: HalfLife, text: str) -> None:
    assert half_life_cell(curve("cure", one), one).text == text


def test_a_cure_is_one_line_over_chains_whether_it_lasts_or_not() -> None:
    chains = {0: result_of({"steering": HALVED, "twin": LASTING}), 1: result_of({"steering": LASTING, "twin": LASTING})}
    table = joined({seed: half_lives_table(result) for seed, result in chains.items()})
    column = [column.title for column in table.columns].index("faking back by half")
    lines = {(row.cells[2].text, row.cells[1].text): row.cells[column].text for row in table.rows}
    assert lines["steering", "all"] == "5.25 (1 of 2 chains)"
    assert lines["steering", "seed 1"] == "> 8"
    assert lines["twin", "all"] == "> 8"
    assert len(table.rows) == 2 * 3


def test_tables_and_logged_numbers() -> None:
    result = result_of({"steering": HALVED, "twin": LASTING})
    assert list(tables(result)) == ["half_lives", "curves", "cures", "facts"]
    assert scalars(result) == {
        "steering/faking/recovery_at_last": 0.25,
        "steering/faking/half_life": 5.25,
        "steering/faking/faking_back": 5.25,
        "twin/faking/recovery_at_last": 0.25,
    }
