"""How strong an edit may be: the largest strength whose side effects stay within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def strength_at_budget(
    damage_of: Callable[[float], float], budget: float, within: float, beyond: tuple[float, float], steps: int
) -> float:
    """A strength close to the largest one between `within` and `beyond` whose damage keeps to the budget.

    KL grows with the square of a small edit, so the next strength to try is where a square through the nearest one
    that was too strong meets 0.9 of the budget; where that leaves the bracket, its middle. What is returned was either
    tried and kept to the budget, or is `within`: the damage need not be monotonous.

    Args:
        damage_of: strength to damage, for instance KL in nats; nan counts as too much.
        budget: damage allowed.
        within: a strength known to keep to it.
        beyond: a larger one known not to, and its damage.
        steps: strengths to try at most; a strength that spends three quarters of the budget ends the search.

    Raises:
        ValueError: `beyond` is not larger than `within`.

    >>> found = strength_at_budget(lambda strength: strength**2, budget=0.25, within=0.0, beyond=(2.0, 4.0), steps=3)
    >>> round(found**2, 6)
    0.225
    """
    over, damage = beyond
    if not over > within:
        raise ValueError(f"beyond is {over} and within {within}, but the search needs a larger strength beyond")
    for _ in range(steps):
        tried = over * math.sqrt(0.9 * budget / damage) if damage > 0 else math.nan
        if not within < tried < over:
            tried = (within + over) / 2
        measured = damage_of(tried)
        if measured <= budget:
            within = tried
            if measured >= 0.75 * budget:
                break
        else:
            over, damage = tried, measured
    return within


def best_within_budget(
    trials: Iterable[T], damage: Callable[[T], float], score: Callable[[T], float], budget: float
) -> T:
    """The trial with the best score among those within the budget, the least damage deciding between equals.

    Where none is within, the least damaging one: nothing better can be bought.

    Raises:
        ValueError: there is no trial.

    >>> pairs = [(0.001, 0.7), (0.009, 0.9), (0.5, 1.0)]
    >>> best_within_budget(pairs, lambda pair: pair[0], lambda pair: pair[1], budget=0.01)
    (0.009, 0.9)
    """
    known = list(trials)
    if not known:
        raise ValueError("there is no trial to choose from: give at least one strength")
    cost = {id(trial): math.inf if math.isnan(damage(trial)) else damage(trial) for trial in known}
    affordable = [trial for trial in known if cost[id(trial)] <= budget]
    if not affordable:
        return min(known, key=lambda trial: cost[id(trial)])
    return max(affordable, key=lambda trial: (score(trial), -cost[id(trial)]))
