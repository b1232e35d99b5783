"""Abilities: whether a test says something, and what drop it would have seen."""

import math

import pytest
from scipy import stats

from fa_lightning.evaluation.abilities import Ability, detectable_drop


@pytest.mark.parametrize("n", [8, 50, 400, 2000])
def test_the_smallest_drop_is_found_with_a_power_of_80_percent(n: int) -> None:
    drop = detectable_drop(n)
    fewest = next(k for k in range(1, n + 1) if stats.binomtest(k, k).pvalue <= 0.05)
    assert stats.binom.sf(fewest - 1, n, drop) == pytest.approx(0.8, abs=1e-6)


def test_a_handful_of_questions_shows_no_drop_at_all() -> None:
    assert math.isnan(detectable_drop(5))


@pytest.mark.parametrize(
    ("before", "floor", "units", "is_above"),
    [
        (0.98, 0.5, 400, True),
        (0.52, 0.5, 400, False),
        (0.9, 0.5, 4, False),
        (0.0, 0.0, 400, False),
        (0.9, 0.0, 400, True),
    ],
)
def test_at_its_floor_a_test_says_nothing(before: float, floor: float, units: int, is_above: bool) -> None:
    assert Ability(before, 0.5, floor, n=units, units=units).is_above_floor is is_above


def test_without_questions_nothing_is_known() -> None:
    assert not Ability(math.nan, math.nan, 0.5, n=0, units=0).is_above_floor
