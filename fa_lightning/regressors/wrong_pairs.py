"""Wrong pairs: aligned states exchanged between groups, so that a map of them has learnt no scenario's edit."""

from __future__ import annotations

import torch
from torch import Tensor

from fa_lightning.errors import UserError
from fa_lightning.regressors.pairs import Pairs, SampledPairs

_EXCHANGES = 20
"""Rounds in which every row is offered another's partner; after few of them nothing of the first order is left."""


def wrong_pairs(pairs: SampledPairs, seed: int) -> Pairs:
    """The pairs with the aligned states of all that ask for an edit exchanged between groups.

    Pairs that ask for no edit stay right, as they do for the map that wrong pairs are compared with, and a prompt's
    last token gets that of another prompt, a word another word: what differs is whose edit it is, and nothing else.

    Args:
        pairs: right ones.
        seed: of the draw.

    Raises:
        UserError: there is no such exchange, since one group holds more than half of the rows.
    """
    y = pairs.y.clone()
    for alike in (pairs.decision, ~pairs.decision):
        rows = (pairs.edited & alike).nonzero().squeeze(1)
        if not len(rows):
            continue
        partner = derangement(pairs.group[rows].cpu(), seed).to(rows.device)
        y[rows] = pairs.y[rows[partner]]
    return pairs.x, y, pairs.weight


def derangement(groups: Tensor, seed: int) -> Tensor:
    """For each row another one, of another group, each row once.

    Args:
        groups: of each row, (rows,) integers.
        seed: of the draw.

    Returns:
        A permutation (rows,).

    Raises:
        UserError: one group holds more than half of the rows.

    >>> groups = torch.tensor([7, 7, 7, 8, 8, 9])
    >>> partner = derangement(groups, seed=0)
    >>> sorted(partner.tolist()), bool((groups[partner] == groups).any())
    ([0, 1, 2, 3, 4, 5], False)
    """
    rows = len(groups)
    generator = torch.Generator().manual_seed(seed)
    _, number, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    largest = int(counts.max()) if rows else 0
    if 2 * largest > rows:
        raise UserError(
            f"wrong pairs need aligned states of other groups, but one group has {largest} of the {rows} captured "
            "tokens: capture scenarios of more groups (capture_scenarios)"
        )
    # Groups lie one after the other, in random order; turned by the largest group's size, no row meets its own.
    mixed = torch.randperm(rows, generator=generator)
    order = mixed[torch.randperm(len(counts), generator=generator)[number[mixed]].argsort(stable=True)]
    partner = torch.empty_like(order)
    partner[order] = order.roll(-largest)
    # Then rows exchange partners at random wherever both remain of another group.
    for _ in range(_EXCHANGES):
        first, second = torch.randperm(rows, generator=generator)[: rows // 2 * 2].view(2, -1)
        fits = (number[partner[first]] != number[second]) & (number[partner[second]] != number[first])
        first, second = first[fits], second[fits]
        partner[first], partner[second] = partner[second], partner[first]
    return partner
