"""Rows of the store held in memory, for the few methods that need them all at once."""

from __future__ import annotations

import torch
from torch import Tensor

from fa_lightning.activations.sites import Site
from fa_lightning.activations.store import ActivationStore
from fa_lightning.regressors.spec import RegressorSpec, training_pairs
from fa_lightning.scenarios.cells import CELLS

BLOCK_ROWS = 4096
SAMPLE_ROWS = 32_768
"""Rows kept at most, 0.5 GiB of pairs of 2048 units: sorted values and neighbours gain little from more."""


def training_rows(store: ActivationStore, site: Site, spec: RegressorSpec) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs that a spec is fitted on, at most `SAMPLE_ROWS` of them, evenly spread over the store.

    Returns:
        Faking states (n, hidden), aligned states (n, hidden), weights (n,).
    """
    blocks = store.block_ranges("train", BLOCK_ROWS)
    share = max(1, SAMPLE_ROWS // max(1, len(blocks)))
    parts = []
    for start, stop in blocks:
        pairs = training_pairs(store.block("train", start, stop, [site.name]), site, spec)
        step = max(1, -(-len(pairs[0]) // share))
        parts.append(tuple(part[::step] for part in pairs))
    x, y, weight = (torch.cat(column) for column in zip(*parts, strict=True))
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
