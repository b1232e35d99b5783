"""Strengths within a budget of damage."""

from __future__ import annotations

import math

import pytest

from fa_lightning.studies.lab.dose import best_within_budget, strength_at_budget


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_the_search_returns_a_strength_that_was_tried_and_kept_to_the_budget(power: float) -> None:
    tried: dict[float, float] = {}

    def damage(strength: float) -> float:
        tried[strength] = strength**power
        return tried[strength]

    found = strength_at_budget(damage, budget=0.2, within=0.0, beyond=(2.0, 2.0**power), steps=8)
    assert found in tried
    assert 0.7 * 0.2 <= tried[found] <= 0.2
    assert len(tried) <= 8


def test_a_square_is_solved_in_one_step() -> None:
    tried = []
    found = strength_at_budget(lambda one: tried.append(one) or one**2, 0.01, 0.0, (1.0, 1.0), steps=8)  # type: ignore[func-returns-value]
    assert tried == [found]
    assert found**2 == pytest.approx(0.009)


def test_what_the_budget_never_allows_stays_where_it_was() -> None:
    assert strength_at_budget(lambda _: math.nan, 1.0, within=0.25, beyond=(2.0, math.nan), steps=5) == 0.25
    with pytest.raises(ValueError, match=r"beyond is 1.0 and within 1.0"):
        strength_at_budget(lambda _: 0.0, 1.0, within=1.0, beyond=(1.0, 2.0), steps=5)


def test_the_best_trial_is_the_best_affordable_one() -> None:
    trials = [("cheap", 0.0, 0.5), ("good", 0.009, 0.9), ("gentle", 0.002, 0.9), ("dear", 0.011, 1.0)]

    def choose(pairs: list[tuple[str, float, float]], budget: float) -> str:
        return best_within_budget(pairs, lambda one: one[1], lambda one: one[2], budget)[0]

    assert choose(trials, 0.01) == "gentle"
    assert choose(trials, 0.02) == "dear"
    assert choose(trials[1:], 0.001) == "gentle", "nothing is affordable: the least damage"
    assert choose([("unknown", math.nan, 1.0), *trials], 0.01) == "gentle", "unknown damage is not affordable"
    with pytest.raises(ValueError, match="no trial"):
        choose([], 0.01)
