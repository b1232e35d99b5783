"""How sure a score is: 95 % intervals by the bootstrap over groups of dependent items."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NO_INTERVAL = (math.nan, math.nan)
# 2**22 draws hold about 100 MiB, however many groups and resamples there are.
_DRAWS_AT_ONCE = 2**22


def bootstrap_over_groups(values: Tensor, groups: Tensor, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a mean whose items come in groups of dependent items.

    Groups are drawn with replacement, each with all of its items (the cluster bootstrap), so that several
    wordings of one choice do not count as independent evidence. Unanimous values give an interval of no width.

    Args:
        values: one number per item, (n,).
        groups: each item's group, (n,) integers.
        resamples: number of resamples.
        seed: seed of the draws; the same seed gives the same interval in every process.

    Returns:
        Lower and upper end; nan with fewer than two groups, from which nothing can be said.

    Raises:
        ValueError: the shapes differ, or `resamples` is below 1.

    >>> bootstrap_over_groups(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([7, 8, 9]))
    (1.0, 1.0)
    >>> bootstrap_over_groups(torch.tensor([1.0, 0.0]), torch.tensor([7, 7]))
    (nan, nan)
    """
    sums = _resampled_sums(torch.stack([values.double(), torch.ones_like(values).double()], 1), groups, resamples, seed)
    return percentile_interval(sums[:, 0] / sums[:, 1])


def paired_bootstrap(
    steered: Tensor, faking: Tensor, aligned: Tensor, groups: Tensor, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the recovery, from one draw of groups for the three models.

    The three models answer the same items, so resampling them together keeps what they share out of the interval.
    Resamples in which the twins do not differ have no recovery and are left out.

    Args:
        steered: whether each answer of the steered faking model is aligned, (n,), items without oversight only.
        faking: the same of the faking model, (n,).
        aligned: the same of the aligned twin, (n,).
        groups: each item's group, (n,) integers.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        Lower and upper end; nan where undefined (fewer than two groups, or twins that never differ).

    Raises:
        ValueError: the shapes differ, or `resamples` is below 1.

    >>> half = torch.tensor([1.0, 0.0]).repeat(50)
    >>> low, high = paired_bootstrap(half, torch.zeros(100), torch.ones(100), torch.arange(100))
    >>> 0.3 < low < 0.5 < high < 0.7
    True
    """
    sums = _resampled_sums(torch.stack([steered, faking, aligned], dim=1).double(), groups, resamples, seed)
    gap = sums[:, 2] - sums[:, 1]
    defined = gap != 0
    return percentile_interval((sums[defined, 0] - sums[defined, 1]) / gap[defined])


def _resampled_sums(columns: Tensor, groups: Tensor, resamples: int, seed: int) -> Tensor:
    """Column sums of `columns` (n, k) in each resample of groups, (resamples, k) float64; (0, k) below two groups."""
    if groups.ndim != 1 or len(groups) != len(columns):
        raise ValueError(f"groups is {tuple(groups.shape)} for {len(columns)} items: give one group per item")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, but must be 1 or more")
    columns, groups = columns.detach().cpu(), groups.detach().cpu()
    names, places = torch.unique(groups, return_inverse=True)
    count = len(names)
    if count < 2:
        return columns.new_zeros(0, columns.shape[1])
    per_group = columns.new_zeros(count, columns.shape[1]).index_add_(0, places, columns)
    generator = torch.Generator().manual_seed(seed)
    sums = []
    rows_at_once = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        draws = torch.randint(count, (rows, count), generator=generator)
        multiplicity = per_group.new_zeros(rows, count)
        multiplicity.scatter_add_(1, draws, multiplicity.new_ones(()).expand(rows, count))
        sums.append(multiplicity @ per_group)
    return torch.cat(sums)


def percentile_interval(estimates: Tensor) -> tuple[float, float]:
    """2.5 and 97.5 % quantiles; nan of nothing."""
    if not len(estimates):
        return NO_INTERVAL
    low, high = torch.quantile(estimates, estimates.new_tensor([0.025, 0.975])).tolist()
    return low, high
