"""The pairs of states that a map is fitted on: of a block of the store, or sampled from all of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fa_lightning.activations.sites import Site
from fa_lightning.activations.store import ActivationStore
from fa_lightning.regressors.fit import DECISION_ALONE, Fit
from fa_lightning.scenarios.cells import CELLS, NEUTRAL_CELL

Block = dict[str, Any]
"""For each site's name (faking, aligned) states, each (rows, hidden); `decision`, `cell`, `example`, each (rows,)."""

Pairs = tuple[Tensor, Tensor, Tensor]
"""States (n, hidden), what they should become (n, hidden), and weights (n,)."""

BLOCK_ROWS = 4096
SAMPLE_ROWS = 32_768
"""Rows kept at most, 0.5 GiB of pairs of 2048 units: sorted values and neighbours gain little from more."""


def training_pairs(block: Block, site: Site, fit: Fit) -> Pairs:
    """The pairs that a map is fitted on, of a block.

    Args:
        block: of the store.
        site: whose states.
        fit: says which tokens count how much.
    """
    faking, aligned = (states.float() for states in block[site.name])
    weight = token_weights(block["decision"], fit)
    neutral = block["cell"] == NEUTRAL_CELL
    if fit.scenarios is not None:
        # Examples are numbered with the scenarios first; neutral texts need no label and always count.
        weight = torch.where(neutral | (block["example"] < fit.scenarios), weight, 0.0)
    if not fit.keep:
        used = weight > 0
        return faking[used], aligned[used], weight[used]
    wanted = torch.where(neutral[:, None], faking, aligned)
    weight = torch.where(neutral, fit.keep, weight)
    own = ~neutral & (weight > 0)
    used = weight > 0
    return (
        torch.cat([faking[used], aligned[own]]),
        torch.cat([wanted[used], aligned[own]]),
        torch.cat([weight[used], fit.keep * weight[own]]),
    )


def token_weights(decision: Tensor, fit: Fit) -> Tensor:
    """Weights (rows,) of the tokens in a fit.

    >>> from fa_lightning.regressors.linear import Affine
    >>> token_weights(torch.tensor([False, True]), Fit(Affine, decision_weight=5.0))
    tensor([1., 5.])
    """
    if fit.decision_weight == DECISION_ALONE:
        return decision.float()
    return torch.where(decision, fit.decision_weight, 1.0)


def sampled_pairs(store: ActivationStore, site: Site, fit: Fit) -> Pairs:
    """At most `SAMPLE_ROWS` of the store's training pairs, evenly spread, for maps that need them all at once."""
    blocks = store.block_ranges("train", BLOCK_ROWS)
    share = max(1, SAMPLE_ROWS // max(1, len(blocks)))
    samples = []
    for start, stop in blocks:
        pairs = training_pairs(store.block("train", start, stop, [site.name]), site, fit)
        step = max(1, -(-len(pairs[0]) // share))
        samples.append(tuple(column[::step] for column in pairs))
    x, y, weight = (torch.cat(column) for column in zip(*samples, strict=True))
    return x, y, weight


def decision_states(
    store: ActivationStore, site: Site, split: str = "train", variant: int = 0
) -> tuple[Tensor, Tensor]:
    """The decision tokens' states of a split's scenarios, and where oversight is poor.

    Args:
        store: the store.
        site: where.
        split: `train` or `validation`.
        variant: 0 for the faker, 1 for the aligned twin.

    Returns:
        States (n, hidden) float32, and booleans (n,).
    """
    states, poor = [], []
    for start, stop in store.block_ranges(split, BLOCK_ROWS):
        block = store.block(split, start, stop, [site.name])
        kept = block["decision"] & (block["cell"] < len(CELLS))
        states.append(block[site.name][variant][kept].float())
        poor.append(block["cell"][kept] == CELLS.index("no_oversight"))
    return torch.cat(states), torch.cat(poor)
