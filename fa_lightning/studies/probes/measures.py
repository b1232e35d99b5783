"""How well a probe reads a label: accuracy, ranking and calibration with intervals. Plain functions on tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fa_lightning.common.numbers import NO_INTERVAL
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.metrics.intervals import (
    bootstrap_over_groups,
    exact_where_unanimous,
    percentile_interval,
    times_drawn,
)
from fa_lightning.metrics.pairwise import wins

RESAMPLES = 500
"""Of an AUROC, each of which ranks all items anew, and of a mean over draws."""


@dataclass(frozen=True)
class ProbeScore:
    """How well a probe reads a label on items that it was not fitted on.

    Attributes:
        accuracy: share of items read rightly, log-odds of 0 counting half; its interval is a bootstrap over groups, and
            over draws where there are several, and exact where all groups agree.
        auroc: area under the ROC curve, with the same interval.
        calibration: expected calibration error, 15 bins; nan where scores are no log-odds.
    """

    accuracy: Estimate
    auroc: Estimate
    calibration: float = math.nan


def credit(log_odds: Tensor, labels: Tensor) -> Tensor:
    """1 where the sign of the log-odds is that of the label, 0 where it is not, 0.5 where they are 0.

    Args:
        log_odds: of the label being true, (..., items).
        labels: booleans (items,).

    Returns:
        (..., items) float64.

    >>> credit(torch.tensor([2.0, -1.0, 0.0, 3.0]), torch.tensor([True, True, False, False])).tolist()
    [1.0, 0.0, 0.5, 0.0]
    """
    return (1 + torch.where(labels, 1.0, -1.0).double() * torch.sign(log_odds)) / 2


def auroc(log_odds: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve of scores of any size; nan where one class is missing.

    Args:
        log_odds: (items,).
        labels: booleans (items,).

    >>> auroc(torch.tensor([900.0, 1000.0, 1001.0, 2.0]), torch.tensor([False, True, True, False]))
    1.0
    """
    from torchmetrics.functional.classification import binary_auroc

    if labels.all() or not labels.any():
        return math.nan
    # Of numbers beyond 0 and 1 torchmetrics takes a sigmoid, which makes large ones equal: give it their ranks.
    levels, ranks = torch.unique(log_odds, return_inverse=True)
    return float(binary_auroc(ranks.double() / max(1, len(levels) - 1), labels.long()))


def calibration_error(log_odds: Tensor, labels: Tensor) -> float:
    """Expected calibration error of the probabilities that log-odds stand for, 0 to 1; 15 bins.

    >>> round(calibration_error(torch.zeros(4), torch.tensor([True, True, True, True])), 3)
    0.5
    """
    from torchmetrics.functional.classification import binary_calibration_error

    return float(binary_calibration_error(torch.sigmoid(log_odds.double()), labels.long(), n_bins=15))


def probe_score(log_odds: Tensor, labels: Tensor, groups: Tensor, are_log_odds: bool = True) -> ProbeScore:
    """Judge a probe, or the mean of several draws of one.

    Args:
        log_odds: (items,), or (draws, items): then every number is the mean over draws, with one interval.
        labels: booleans (items,).
        groups: of dependent items, (items,) integers.
        are_log_odds: whether the scores are log-odds, whose calibration means something.

    Raises:
        ValueError: there are no items, or the shapes disagree.
    """
    draws = log_odds[None] if log_odds.ndim == 1 else log_odds
    if not len(labels) or not len(labels) == len(groups) == draws.shape[1]:
        raise ValueError(
            f"log_odds is {tuple(log_odds.shape)} for {len(labels)} labels and {len(groups)} groups: give one of each "
            "for at least one item"
        )
    earned = credit(draws, labels)
    areas = [auroc(draw, labels) for draw in draws]
    errors = [calibration_error(draw, labels) for draw in draws] if are_log_odds else [math.nan]
    return ProbeScore(
        Estimate(float(earned.mean()), accuracy_interval(earned, groups)),
        Estimate(sum(areas) / len(areas), auroc_interval(draws, labels, groups)),
        sum(errors) / len(errors),
    )


def accuracy_interval(earned: Tensor, groups: Tensor) -> tuple[float, float]:
    """95 % interval of a mean over draws and items, by the bootstrap over groups and over draws at once.

    With the draws held fixed, an interval would say nothing of their luck: few permutations of labels may by chance
    leave most of them as they were.

    Args:
        earned: what each item earned, (draws, items).
        groups: (items,) integers.

    Returns:
        Lower and upper end; nan with fewer than two groups.
    """
    if len(earned) == 1:
        return bootstrap_over_groups(earned[0], groups)
    times = times_drawn(groups, RESAMPLES)
    share = _shares_of_draws(len(earned))[: len(times)]
    interval = percentile_interval(((share @ earned.double()) * times).sum(dim=1) / times.sum(dim=1))
    return exact_where_unanimous(interval, earned.double().mean(dim=0), (groups,))


def auroc_interval(draws: Tensor, labels: Tensor, groups: Tensor) -> tuple[float, float]:
    """95 % interval of the AUROC, the mean over draws, by the bootstrap over groups and over draws at once.

    Where all groups of either class are told alike, it is exact, with the groups of the class that has fewer as units.

    Args:
        draws: log-odds (draws, items).
        labels: booleans (items,).
        groups: (items,) integers.

    Returns:
        Lower and upper end; nan with fewer than two groups or one class alone.
    """
    if labels.all() or not labels.any():
        return NO_INTERVAL
    times = times_drawn(groups, RESAMPLES)
    first, second = times[:, labels], times[:, ~labels]
    won = torch.zeros(len(times), dtype=torch.float64)
    every = torch.zeros(int(labels.sum()), int((~labels).sum()), dtype=torch.float64)
    # One by one: of many draws together these would fill the memory.
    for draw, share in zip(draws, _shares_of_draws(len(draws))[: len(times)].T, strict=True):
        wins_of_draw = wins(draw[labels], draw[~labels])
        every += wins_of_draw / len(draws)
        won += share * ((first @ wins_of_draw) * second).sum(dim=1)
    totals = first.sum(dim=1) * second.sum(dim=1)
    # A resample may hold one class alone.
    some = totals > 0
    interval = percentile_interval(won[some] / totals[some])
    for side, own in ((1, groups[labels]), (0, groups[~labels])):
        interval = exact_where_unanimous(interval, every.mean(dim=side), (own,))
    return interval


def _shares_of_draws(count: int) -> Tensor:
    """The share of each draw in each resample, (resamples, draws)."""
    if count == 1:
        return torch.ones(RESAMPLES, 1, dtype=torch.float64)
    # Another seed than the groups', whose luck is no matter of the draws.
    return times_drawn(torch.arange(count), RESAMPLES, seed=1) / count
