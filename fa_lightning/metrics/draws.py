"""Baselines that are drawn at random, such as a random direction: several draws of each are judged, and are one row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TypeVar, cast

import torch
from torch import Tensor

from fa_lightning.common.numbers import Interval
from fa_lightning.metrics.cells import Items
from fa_lightning.metrics.estimates import Accuracy, CellPair
from fa_lightning.metrics.intervals import bootstrap_over_groups, percentile_interval, resampled_sums
from fa_lightning.scenarios.cells import NO_OVERSIGHT, OVERSIGHT

T = TypeVar("T")

DRAWS = 5
"""Of each random baseline: one draw says little, since what changes by chance differs from draw to draw."""

_MARK = " #"


def draw_name(name: str, number: int) -> str:
    """What one draw of a baseline is called.

    >>> draw_name("shuffled pairs", 3)
    'shuffled pairs #3'
    """
    return f"{name}{_MARK}{number}"


def by_baseline(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of conditions by the baseline that they are draws of; others are by themselves.

    >>> by_baseline(["identity", "shuffled pairs #0", "shuffled pairs #1"])
    {'identity': ['identity'], 'shuffled pairs': ['shuffled pairs #0', 'shuffled pairs #1']}
    """
    baselines: dict[str, list[str]] = {}
    for name in names:
        baseline, mark, number = name.rpartition(_MARK)
        baselines.setdefault(baseline if mark and number.isdigit() else name, []).append(name)
    return baselines


def cells_over_draws(draws: Sequence[Items]) -> CellPair:
    """Mean accuracies over draws that answered the same items, with their intervals (see `interval_over_draws`).

    Args:
        draws: `CellAccuracy.items()` of each.
    """
    first = draws[0]
    cells = []
    for code in (OVERSIGHT, NO_OVERSIGHT):
        inside = first["cell"] == code
        correct = torch.stack([items["correct"][inside] for items in draws]).double()
        accuracy = correct.mean().item() if correct.numel() else float("nan")
        cells.append(Accuracy(accuracy, interval_over_draws(correct, first["group"][inside])))
    return CellPair(*cells)


def interval_over_draws(values: Tensor, groups: Tensor, resamples: int = 1000, seed: int = 0) -> Interval:
    """95 % interval of a mean over draws and items: draws and groups are both drawn anew (arXiv 0712.1111).

    So it holds what the draws differ by beside what the groups do. It is never narrower than the interval over groups
    of the draws' mean, which is that of one draw where all answer alike.

    Args:
        values: one number for each draw and item, (draws, items).
        groups: each item's group, (items,) integers.
        resamples: number of resamples.
        seed: of the resamples.

    Returns:
        Lower and upper end; nan with fewer than two groups, from which nothing can be said.

    >>> groups = torch.arange(100)
    >>> constant_draws = torch.tensor([[1.0], [0.0], [1.0], [0.0]]).expand(4, 100)
    >>> low, high = interval_over_draws(constant_draws, groups)
    >>> low < 0.1 and high > 0.9
    True
    """
    over_groups = bootstrap_over_groups(values.mean(0), groups, resamples, seed)
    if len(torch.unique(groups)) < 2 or len(values) < 2:
        return over_groups
    columns = torch.stack([values.flatten(), torch.ones(values.numel(), dtype=values.dtype)], 1)
    draw_of_row = torch.arange(len(values)).repeat_interleave(values.shape[1])
    sums = resampled_sums(columns, (groups.repeat(len(values)), draw_of_row), resamples, seed)
    low, high = percentile_interval(sums[:, 0] / sums[:, 1])
    return min(low, over_groups[0]), max(high, over_groups[1])


def mean_over_draws(measures: Sequence[T]) -> T:
    """The mean of each number in dataclasses or dictionaries of one form, as side effects are; counts must agree.

    >>> mean_over_draws([{"kl": 0.1, "texts": 40}, {"kl": 0.3, "texts": 40}])
    {'kl': 0.2, 'texts': 40}
    """
    first = measures[0]
    if isinstance(first, float):
        return cast(T, fmean(cast(Sequence[float], measures)))
    if isinstance(first, dict):
        tables = cast(Sequence[dict[str, object]], measures)
        return cast(T, {name: mean_over_draws([table[name] for table in tables]) for name in first})
    if dataclasses.is_dataclass(first):
        names = [one.name for one in dataclasses.fields(first)]
        means = {name: mean_over_draws([getattr(one, name) for one in measures]) for name in names}
        return cast(T, dataclasses.replace(first, **means))  # type: ignore[type-var]
    if any(one != first for one in measures):
        raise ValueError(f"the draws have {measures}, but were to be judged on the same items")
    return first
