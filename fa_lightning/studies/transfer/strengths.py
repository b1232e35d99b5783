"""Which strength of a cure its target gets: its sources' own answers decide, within a budget on the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One strength, on validation groups.

    Attributes:
        strength: of the cure.
        recovery: mean over the fakers that the cure was fitted on; the target's answers have no part in it.
        kl_answer_nats: KL(target || cured) at the first token said to neutral texts, which needs no label.
    """

    strength: float
    recovery: float
    kl_answer_nats: float


def chosen(trials: Sequence[Trial], budget: float) -> float:
    """The strength that cures the sources best, of those that cost the target no more than the budget.

    Strength 0 costs and cures nothing, and is always there. Of equal recoveries the cheapest is taken.

    >>> trials = [Trial(0.5, 0.4, 0.01), Trial(1.0, 0.9, 0.02), Trial(2.0, 1.0, 0.3)]
    >>> [chosen(trials, budget) for budget in (1.0, 0.1, 0.001)]
    [2.0, 1.0, 0.0]
    """
    allowed = [one for one in trials if one.kl_answer_nats <= budget and not math.isnan(one.recovery)]
    best = max((*allowed, Trial(0.0, 0.0, 0.0)), key=lambda one: (one.recovery, -one.kl_answer_nats))
    return best.strength
