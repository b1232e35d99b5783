"""How sure a score is: 95 % intervals by the bootstrap over groups of dependent items, and exact ones at the edges.

Where all groups agree, no resample differs, and a bootstrap's interval has no width. What can be said instead is exact:
with n groups that are all alike, other kinds of groups are at most a share `unseen_share(n)` of all groups, whatever
they are like. Of a share that is 0 or 1 in every group this is the interval of Clopper and Pearson (Biometrika 26,
1934) with the groups as its units, which for 95 % is the "rule of three" (Hanley and Lippman-Hand, JAMA 249, 1983) with
3.7 in the place of 3, as both ends are bounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fa_lightning.common.numbers import NO_INTERVAL, Interval

# 2**22 numbers hold about 100 MiB with what is made of them, however many groups and resamples there are.
_NUMBERS_AT_ONCE = 2**22

# Where fewer groups than this differ from the rest, resamples know too little of them.
_FEW = 5
# Sums in another order differ in their last digits.
_SAME = 1e-9

SHARE: Interval = (0.0, 1.0)
"""The lowest and highest value of a share."""
DIFFERENCE: Interval = (-1.0, 1.0)
"""The same of a difference of two shares."""


def unseen_share(units: int, seen: int = 0) -> float:
    """The largest share of units of a kind of which so few were seen, at 95 % with both ends bounded.

    Of a larger share, `seen` or fewer would have been among `units` independent ones with a probability below 2.5 %:
    the upper end of Clopper and Pearson.

    >>> round(unseen_share(6), 3), round(unseen_share(100), 3), round(unseen_share(100, 2), 3)
    (0.459, 0.036, 0.07)
    """
    if not seen:
        unseen: float = 1 - 0.025 ** (1 / units)
        return unseen
    from scipy.stats import beta

    return float(beta.ppf(0.975, seen + 1, units - seen))


def bootstrap_over_groups(
    values: Tensor, groups: Tensor, resamples: int = 1000, seed: int = 0, bounds: Interval | None = SHARE
) -> Interval:
    """95 % percentile interval of a mean whose items come in groups of dependent items; exact where groups agree.

    Groups are drawn with replacement, each with all of its items (the cluster bootstrap), so that several
    wordings of one choice do not count as independent evidence. Of groups that agree see `exact_where_unanimous`.

    Args:
        values: one number per item, (n,).
        groups: each item's group, (n,) integers.
        resamples: number of resamples.
        seed: seed of the draws; the same seed gives the same interval in every process.
        bounds: lowest and highest value that an item can have; None where there are none.

    Returns:
        Lower and upper end; nan with fewer than two groups, and for equal values without bounds, from which nothing
        can be said.

    Raises:
        ValueError: the shapes differ, or `resamples` is below 1.

    >>> low, high = bootstrap_over_groups(torch.ones(100), torch.arange(100))
    >>> round(low, 4), high
    (0.9638, 1.0)
    >>> bootstrap_over_groups(torch.tensor([1.0, 0.0]), torch.tensor([7, 7]))
    (nan, nan)
    """
    columns = torch.stack([values.double(), torch.ones_like(values).double()], 1)
    sums = resampled_sums(columns, (groups,), resamples, seed)
    return exact_where_unanimous(percentile_interval(sums[:, 0] / sums[:, 1]), values, (groups,), bounds)


def exact_where_unanimous(
    interval: Interval, values: Tensor, clusterings: Sequence[Tensor], bounds: Interval | None = SHARE
) -> Interval:
    """A bootstrap's interval of a mean, mended where groups agree and no resample can tell how sure that is.

    Where no resample differs, since all groups have the same mean, its ends are where a share `unseen_share` of groups
    at the lowest and at the highest possible value would bring it: of 0 and 1 the interval of Clopper and Pearson with
    the groups as units. Where fewer than five groups, and fewer than half, are not at the lowest or highest value with
    all others, of which resamples know too little, the interval reaches as far as so many allow. Of several
    clusterings, each of which is drawn, the one with the fewest groups counts.

    Args:
        interval: by percentiles of resamples.
        values: one number per item, (n,).
        clusterings: for each way of grouping, every item's group, (n,) integers; one of a single group is not drawn,
            and so says nothing.
        bounds: lowest and highest value that an item can have; None where there are none: then equal means have no
            interval.
    """
    # No width: whatever is drawn has the mean of all.
    alike = [interval[0]] if interval[1] - interval[0] < _SAME else []
    if bounds is None:
        return NO_INTERVAL if alike else interval
    for groups in clusterings:
        means = _group_means(values, groups)
        count = len(means)
        if count < 2:
            continue
        others = {edge: int(((means - edge).abs() > _SAME).sum()) for edge in bounds}
        edges = {edge: seen for edge, seen in others.items() if seen < min(_FEW, count / 2)}
        for value, seen in (*edges.items(), *((value, 0) for value in alike)):
            unseen = unseen_share(count, seen)
            interval = _widened(interval, value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value))
    return interval


def paired_bootstrap(
    steered: Tensor, faking: Tensor, aligned: Tensor, groups: Tensor, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the recovery, from one draw of groups for the three models.

    The three models answer the same items, so resampling them together keeps what they share out of the interval.
    Resamples in which the twins do not differ have no recovery and are left out.

    Where all groups tell the same (the steered model answers as the aligned twin does on every item, or as the faker
    does), every resample has the same recovery r. Then other kinds of groups may still be a share p = `unseen_share` of
    all groups, and each would move steered - faking - r (aligned - faking) by 1 at most: the ends are r - p / gap and
    r + p / gap, where gap is the twins' difference (the rule of three, carried through the ratio). Where fewer than
    five groups, and fewer than half, differ from that for r = 0 or r = 1, it reaches as far as so many allow.

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
    columns = torch.stack([steered, faking, aligned], dim=1).double()
    sums = resampled_sums(columns, (groups,), resamples, seed)
    gap = sums[:, 2] - sums[:, 1]
    defined = gap != 0
    interval = percentile_interval((sums[defined, 0] - sums[defined, 1]) / gap[defined])
    mean_steered, mean_faking, mean_aligned = columns.mean(dim=0).tolist()
    difference = mean_aligned - mean_faking
    if not len(sums) or difference == 0:
        return interval
    recovery = (mean_steered - mean_faking) / difference
    for edge in (0.0, 1.0, recovery):
        rest = _group_means(columns[:, 0] - columns[:, 1] - edge * (columns[:, 2] - columns[:, 1]), groups)
        others, count = int((rest.abs() > _SAME).sum()), len(rest)
        if others == 0 or (edge in (0.0, 1.0) and others < min(_FEW, count / 2)):
            moved = unseen_share(count, others) / abs(difference)
            interval = _widened(interval, edge - moved, edge + moved)
    return interval


def bootstrap_of_pairs(
    values: Tensor,
    first: Tensor,
    second: Tensor,
    first_strata: Tensor,
    second_strata: Tensor,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of a mean over pairs, which share their members and are not independent.

    Members of both sides are drawn with replacement, each among those of its stratum, and a pair counts as often as
    both of its members were drawn: the pigeonhole bootstrap (Owen, arXiv 0712.1111). Of members that agree see
    `exact_where_unanimous`: its units are the members of the smaller side, and not the pairs.

    Args:
        values: of each pair, (pairs,).
        first: number of each pair's first member, from 0, (pairs,).
        second: number of its second member, counted by itself.
        first_strata: number of each first member's stratum, such as the policy of a model, (members,). The only member
            of a stratum is drawn among the other such ones.
        second_strata: the same of the second members.
        resamples: number of resamples.
        seed: of the draws.

    Returns:
        Lower and upper end; nan where there is but one member on both sides.

    >>> first, second = torch.cartesian_prod(torch.arange(6), torch.arange(6)).unbind(dim=1)
    >>> strata = torch.zeros(6, dtype=torch.int64)
    >>> low, high = bootstrap_of_pairs((first > 0).double(), first, second, strata, strata)
    >>> low < 30 / 36 < high
    True
    """
    columns = torch.stack([values.double(), torch.ones_like(values).double()], 1)
    sums = resampled_sums(columns, (first, second), resamples, seed, (first_strata, second_strata))
    # Where pairs are missing, a resample may hold none.
    some = sums[:, 1] > 0
    return exact_where_unanimous(percentile_interval(sums[some, 0] / sums[some, 1]), values, (first, second))


def resampled_sums(
    columns: Tensor,
    clusterings: Sequence[Tensor],
    resamples: int = 1000,
    seed: int = 0,
    strata: Sequence[Tensor] | None = None,
) -> Tensor:
    """Column sums in resamples that draw whole groups of dependent items: the bootstrap behind every interval.

    An item counts as often as its group was drawn; where items are grouped in two ways at once (as pairs of models
    are, by either model), as often as the one group was drawn times the other (arXiv 1106.2125). A clustering of one
    group alone is not drawn.

    Args:
        columns: what is summed, (n, k).
        clusterings: for each way of grouping, every item's group, (n,) integers.
        resamples: number of resamples.
        seed: of the draws; the same seed gives the same sums in every process.
        strata: for each clustering, the stratum of each of its groups in rising order, (groups,): a group is drawn
            among those of its stratum. None draws it among all.

    Returns:
        (resamples, k) float64; (0, k) where no clustering has two groups, from which nothing can be said.

    Raises:
        ValueError: the shapes differ, or `resamples` is below 1.
    """
    for groups in clusterings:
        if groups.ndim != 1 or len(groups) != len(columns):
            raise ValueError(f"groups is {tuple(groups.shape)} for {len(columns)} items: give one group per item")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, but must be 1 or more")
    columns = columns.detach().cpu().double()
    numbered = [torch.unique(groups.detach().cpu(), return_inverse=True)[1] for groups in clusterings]
    counts = [int(groups.max()) + 1 if len(groups) else 0 for groups in numbered]
    if max(counts, default=0) < 2:
        return columns.new_zeros(0, columns.shape[1])
    # Items of the same groups are drawn together: only their sums matter.
    cells, cell_of_item = torch.unique(torch.stack(numbered), dim=1, return_inverse=True)
    table = columns.new_zeros(cells.shape[1], columns.shape[1]).index_add_(0, cell_of_item, columns)
    generator = torch.Generator().manual_seed(seed)
    sums = []
    rows_at_once = max(1, _NUMBERS_AT_ONCE // cells.shape[1])
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        weights = columns.new_ones(rows, cells.shape[1])
        for number, (count, own) in enumerate(zip(counts, cells, strict=True)):
            drawn = _times_drawn(count, rows, generator, None if strata is None else strata[number])
            weights *= drawn[:, own]
        sums.append(weights @ table)
    return torch.cat(sums)


def times_drawn(groups: Tensor, resamples: int, seed: int = 0) -> Tensor:
    """How often each item comes in resamples that draw whole groups of dependent items.

    For statistics that are no quotient of sums; see `resampled_sums` for those that are.

    Args:
        groups: each item's group, (items,) integers.
        resamples: number of resamples.
        seed: of the draws.

    Returns:
        Counts, (resamples, items) float64; (0, items) with fewer than two groups, from which nothing can be said.

    >>> drawn = times_drawn(torch.tensor([7, 7, 8]), 5)
    >>> bool((drawn[:, 0] == drawn[:, 1]).all()), (drawn[:, 0] + drawn[:, 2]).tolist()
    (True, [2.0, 2.0, 2.0, 2.0, 2.0])
    """
    names, group_of_item = torch.unique(groups, return_inverse=True)
    if len(names) < 2:
        return torch.zeros(0, len(groups), dtype=torch.float64)
    return _times_drawn(len(names), resamples, torch.Generator().manual_seed(seed))[:, group_of_item]


def _times_drawn(count: int, resamples: int, generator: torch.Generator, strata: Tensor | None = None) -> Tensor:
    """How often each of `count` things comes when as many are drawn with replacement, (resamples, count) float64."""
    if strata is None:
        draws = torch.randint(count, (resamples, count), generator=generator)
        ones = torch.ones(()).double().expand(resamples, count)
        return torch.zeros(resamples, count, dtype=torch.float64).scatter_add_(1, draws, ones)
    names, stratum_of, sizes = torch.unique(strata, return_inverse=True, return_counts=True)
    # Drawn by itself, the only thing of a stratum would come once in every resample.
    stratum_of = torch.where(sizes[stratum_of] == 1, len(names), stratum_of)
    drawn = torch.zeros(resamples, count, dtype=torch.float64)
    for stratum in torch.unique(stratum_of):
        inside = stratum_of == stratum
        drawn[:, inside] = _times_drawn(int(inside.sum()), resamples, generator)
    return drawn


def _group_means(values: Tensor, groups: Tensor) -> Tensor:
    """The mean of each group's items, (groups,) float64."""
    names, group_of_item = torch.unique(groups.detach().cpu(), return_inverse=True)
    columns = torch.stack([values.detach().cpu().double(), torch.ones(len(values), dtype=torch.float64)])
    sums = columns.new_zeros(2, len(names)).index_add_(1, group_of_item, columns)
    return sums[0] / sums[1]


def _widened(interval: Interval, low: float, high: float) -> Interval:
    """An interval that reaches at least from `low` to `high`."""
    return min(interval[0], low), max(interval[1], high)


def percentile_interval(estimates: Tensor) -> tuple[float, float]:
    """2.5 and 97.5 % quantiles; nan of nothing."""
    if not len(estimates):
        return NO_INTERVAL
    low, high = torch.quantile(estimates, estimates.new_tensor([0.025, 0.975])).tolist()
    return low, high
