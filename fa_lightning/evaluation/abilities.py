"""What an edit costs in abilities: questions with a right answer, with the floor and the power of each test."""

from __future__ import annotations

import math
from dataclasses import dataclass

POWER, SIGNIFICANCE = 0.8, 0.05
"""A drop counts as one that a test could have seen if it is found in so many of all tests, by a sign test at 5 %."""


@dataclass(frozen=True)
class Ability:
    """One test of an ability, with and without an edit.

    Distance from the faker is no harm in itself: the honest twin is some way from it, too. A lost ability is.

    Attributes:
        before: share of right answers without the edit, 0 to 1.
        after: the same with it.
        floor: what an answerer without the ability reaches.
        n: questions.
        units: independent ones among them (groups), which the power is of.
    """

    before: float
    after: float
    floor: float
    n: int
    units: int

    @property
    def is_above_floor(self) -> bool:
        """Whether the model has the ability at all without the edit: two standard errors above the floor.

        A test on which it has not says nothing about the edit.
        """
        if not self.units or math.isnan(self.before):
            return False
        spread = math.sqrt(max(self.floor * (1 - self.floor), 0.25 / self.units) / self.units)
        return self.before > self.floor + 2 * spread

    @property
    def detectable_drop(self) -> float:
        """The smallest drop that the test would have seen, see `detectable_drop`."""
        return detectable_drop(self.units)


def detectable_drop(n: int) -> float:
    """The smallest drop in a share of right answers that n paired questions show, with a power of 80 %.

    The test is McNemar's in its exact form, a two-sided sign test at 5 % on the answers that change, and the drop the
    mildest case for it: no answer turns from wrong to right. Then k changes are enough once 2 * 0.5^k <= 0.05, which is
    k = 6, and the drop is the share d with P(Binomial(n, d) >= 6) = 0.8.

    Args:
        n: independent questions.

    Returns:
        Between 0 and 1; nan where even n changes of n would not be significant.

    >>> round(detectable_drop(400), 3), detectable_drop(5)
    (0.02, nan)
    """
    needed = math.ceil(1 - math.log2(SIGNIFICANCE))
    if n < needed:
        return math.nan
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _at_least(needed, n, middle) >= POWER else (middle, high)
    return high


def _at_least(needed: int, n: int, share: float) -> float:
    """P(Binomial(n, share) >= needed)."""
    return 1 - sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(needed))
