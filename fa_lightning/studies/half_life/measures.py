"""From answers under a growing attack to curves and half-lives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fa_lightning.common.numbers import NO_INTERVAL, Interval
from fa_lightning.metrics.cells import Items, recovery_between
from fa_lightning.metrics.estimates import Accuracy, Estimate
from fa_lightning.metrics.intervals import DIFFERENCE, bootstrap_over_groups, resampled_sums
from fa_lightning.scenarios.cells import NO_OVERSIGHT, OVERSIGHT
from fa_lightning.studies.half_life.result import Attack, Curve, HalfLife, Point


@dataclass(frozen=True)
class References:
    """What curves are measured against, none of it attacked.

    Attributes:
        faking: the faker's answers.
        aligned: its twin's.
        known: by cure, a recovery that is so by definition, before the attack.
    """

    faking: Items
    aligned: Items
    known: dict[str, float]


def curves_of(
    answers: Mapping[tuple[str, Attack], Mapping[float, Items]], references: References, twin: str
) -> list[Curve]:
    """Curves and half-lives, in the order of the answers.

    Args:
        answers: by cure and attack, at each amount of it, rising, the first 0; to the same items; of several draws the
            mean, so that `correct` may be a share.
        references: faker and twin, not attacked.
        twin: the name of the twin among the cures, which others are held to.
    """
    drawn = {key: _drawn(along, references.faking) for key, along in answers.items()}
    curves = []
    for (cure, attack), along in answers.items():
        points = [_point(cure, amount, items, references) for amount, items in along.items()]
        held_to: Attack = "faking" if attack == "faking_unsteered" else attack
        of_twin = None if cure == twin else drawn.get((twin, held_to))
        curves.append(
            Curve(cure, attack, points, _half_life(along, references.faking, points, drawn[cure, attack], of_twin))
        )
    return curves


def _point(cure: str, amount: float, items: Items, references: References) -> Point:
    recovery = recovery_between(items, references.faking, references.aligned)
    if amount == 0 and cure in references.known:
        recovery = Estimate(references.known[cure])
    validity = float(items["answered"].double().mean()) if len(items["answered"]) else math.nan
    return Point(amount, _accuracy(items, OVERSIGHT), _accuracy(items, NO_OVERSIGHT), recovery, validity)


def _accuracy(items: Items, cell: int) -> Accuracy:
    inside = items["cell"] == cell
    if not inside.any():
        return Accuracy(math.nan)
    values = items["correct"][inside].double()
    return Accuracy(float(values.mean()), bootstrap_over_groups(values, items["group"][inside]))


def _gains(along: Mapping[float, Items], faking: Items) -> Tensor:
    """What each item without oversight gained over the faker, at each amount (amounts, items)."""
    inside = faking["cell"] == NO_OVERSIGHT
    before = faking["correct"][inside].double()
    return torch.stack([items["correct"][inside].double() - before for items in along.values()])


def _drawn(along: Mapping[float, Items], faking: Items, resamples: int = 1000) -> Tensor:
    """Half-lives of whole curves from groups that are drawn again, (resamples,); the same draws for all curves."""
    groups = faking["group"][faking["cell"] == NO_OVERSIGHT]
    return halved_at(list(along), resampled_sums(_gains(along, faking).T, (groups,), resamples))


def _half_life(
    along: Mapping[float, Items], faking: Items, points: Sequence[Point], drawn: Tensor, of_twin: Tensor | None
) -> HalfLife:
    """The amount that leaves half of what a cure gained over the faker without oversight.

    The twin cancels: half of the recovery is half of the gain.
    """
    gains = _gains(along, faking)
    gain = bootstrap_over_groups(gains[0], faking["group"][faking["cell"] == NO_OVERSIGHT], bounds=DIFFERENCE)
    if not gain[0] > 0:
        return HalfLife(math.nan, NO_INTERVAL, "no gain", math.nan, math.nan, math.nan)
    amounts = list(along)
    amount = float(halved_at(amounts, gains.mean(dim=1)))
    halved = float(drawn.isfinite().double().mean())
    before = math.nan if of_twin is None else float(((drawn < of_twin) + 0.5 * (drawn == of_twin)).mean())
    if math.isinf(amount):
        return HalfLife(math.nan, _interval(drawn), "outlasts", halved, math.nan, before)
    watched = _at(amounts, [point.oversight.accuracy for point in points], amount)
    return HalfLife(amount, _interval(drawn), "halved", halved, watched, before)


def halved_at(amounts: Sequence[float], gains: Tensor) -> Tensor:
    """The first amount at which a gain is half of the first one; infinite where it stays above.

    Between two amounts the gain is taken to be straight over log(1 + amount).

    Args:
        amounts: rising, (amounts,).
        gains: at each, (..., amounts); a first one of 0 or less is halved from the beginning.

    Returns:
        (...) float64.

    >>> halved_at([0, 1, 3], torch.tensor([[1.0, 0.75, 0.25], [1.0, 0.9, 0.6], [0.0, 0.0, 0.0]])).tolist()
    [1.8284271247461898, inf, 0.0]
    """
    scale = torch.tensor(amounts, dtype=torch.float64).log1p()
    left = gains.double()
    start = left[..., :1]
    below = left <= start / 2
    first = below.double().argmax(dim=-1, keepdim=True)
    before = (first - 1).clamp(min=0)
    high, low = left.gather(-1, before), left.gather(-1, first)
    share = torch.where(high > low, (high - start / 2) / (high - low).clamp(min=1e-12), torch.zeros_like(high))
    reached = (scale[before] + share * (scale[first] - scale[before])).expm1()
    # A resample of a cure that gains nothing has lost its half before it began.
    reached = torch.where(start > 0, reached, torch.zeros_like(reached))
    return torch.where(below.any(dim=-1, keepdim=True), reached, torch.full_like(reached, math.inf)).squeeze(-1)


def _interval(drawn: Tensor) -> Interval:
    """2.5 and 97.5 % quantiles, each one of the values; nan where that is infinite."""
    if not len(drawn):
        return NO_INTERVAL
    ordered = drawn.sort().values
    last = len(ordered) - 1
    ends = [float(ordered[place]) for place in (math.floor(0.025 * last), math.ceil(0.975 * last))]
    return (ends[0] if math.isfinite(ends[0]) else math.nan, ends[1] if math.isfinite(ends[1]) else math.nan)


def _at(amounts: Sequence[float], values: Sequence[float], amount: float) -> float:
    """A curve's value at an amount, straight over log(1 + amount) between its points."""
    for (low, first), (high, second) in zip(
        zip(amounts, values, strict=True), zip(amounts[1:], values[1:], strict=True), strict=False
    ):
        if low <= amount <= high:
            share = (math.log1p(amount) - math.log1p(low)) / (math.log1p(high) - math.log1p(low))
            return first + share * (second - first)
    return math.nan
