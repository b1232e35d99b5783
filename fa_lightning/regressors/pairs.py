"""The pairs of states that a map is fitted on: of a block of the store, or sampled from all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fa_lightning.activations.massive import ordinary_tokens
from fa_lightning.activations.sites import Site
from fa_lightning.activations.store import ActivationStore
from fa_lightning.regressors.fit import DECISION_ALONE, Fit
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.scenarios.cells import CELLS, NEUTRAL_CELL

Block = dict[str, Any]
"""For each site's name (faking, aligned) states, each (rows, hidden); of each row (rows,), what `ROW_DTYPES` names."""

Pairs = tuple[Tensor, Tensor, Tensor]
"""States (n, hidden), what they should become (n, hidden), and weights (n,)."""

BLOCK_ROWS = 4096
SAMPLE_ROWS = 32_768
"""Rows kept at most, 0.5 GiB of pairs of 2048 units: sorted values and neighbours gain little from more."""


@dataclass(frozen=True)
class SampledPairs:
    """Pairs in memory, with what it takes to make wrong ones of them.

    Attributes:
        x: states (n, hidden), float32.
        y: what they should become, (n, hidden).
        weight: (n,).
        group: of the row's scenario, (n,) int64.
        edited: whether the pair asks for an edit, (n,) booleans.
        decision: whether it is of a prompt's last token, (n,) booleans.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    group: Tensor
    edited: Tensor
    decision: Tensor

    def columns(self) -> tuple[Tensor, ...]:
        """What is known of each pair, in the order of the attributes."""
        return self.x, self.y, self.weight, self.group, self.edited, self.decision

    def those(self, rows: Tensor) -> SampledPairs:
        """The pairs that a mask (n,) chooses."""
        return SampledPairs(*(column[rows] for column in self.columns()))

    def thinned(self, most: int) -> SampledPairs:
        """At most so many (one at least), evenly spread; each weighs as much as those that it stands for.

        Blocks are thinned one by one, and of fits on decisions alone those of scenarios have few rows, those of neutral
        texts many: without that the latter would lose weight.
        """
        step = max(1, -(-len(self.x) // max(1, most)))
        rows = SampledPairs(*(column[::step] for column in self.columns()))
        return replace(rows, weight=step * rows.weight)


def training_pairs(block: Block, site: Site, fit: Fit) -> Pairs:
    """The pairs that a map is fitted on, of a block.

    Attention sinks and tokens of massive size have no part in it, unless it edits `all` tokens (see `counted_rows`).

    Args:
        block: of the store.
        site: whose states.
        fit: says which tokens count how much.
    """
    faking, aligned = (states.float() for states in block[site.name])
    weight, neutral = _row_weights(block, site, fit)
    used = weight > 0
    if not fit.keep:
        return faking[used], aligned[used], weight[used]
    wanted = torch.where(neutral[:, None], faking, aligned)
    own = ~neutral & used
    return (
        torch.cat([faking[used], aligned[own]]),
        torch.cat([wanted[used], aligned[own]]),
        torch.cat([weight[used], fit.keep * weight[own]]),
    )


def counted_rows(block: Block, site: Site, fit: Fit) -> Tensor:
    """The rows (rows,) of a block that count in a fit and in its error.

    A fit that edits `all` tokens has to know all of them; others do without attention sinks and tokens of massive
    size (see `ordinary_tokens`), which would be most of every mean.
    """
    faking, _ = block[site.name]
    if fit.positions == "all":
        return torch.ones_like(block["decision"])
    counted: Tensor = block["decision"] | ordinary_tokens(faking, block["position"])
    return counted


def _row_weights(block: Block, site: Site, fit: Fit) -> tuple[Tensor, Tensor]:
    """Weights (rows,) of a block's rows in a fit, and which are of neutral texts."""
    weight = token_weights(block["decision"], fit)
    neutral = block["cell"] == NEUTRAL_CELL
    if fit.scenarios is not None:
        # Examples are numbered with the scenarios first; neutral texts need no label and always count.
        weight = torch.where(neutral | (block["example"] < fit.scenarios), weight, 0.0)
    # Behind a text's last token the model speaks, and side effects there count as much as those on all its words. What
    # the twin makes of a text is no edit that anyone asks for: without `keep` they have no part.
    words = torch.where(block["decision"], block["position"].clamp(min=1), 1)
    weight = torch.where(neutral, fit.keep * words, weight)
    return torch.where(counted_rows(block, site, fit), weight, 0.0), neutral


def token_weights(decision: Tensor, fit: Fit) -> Tensor:
    """Weights (rows,) of the tokens in a fit.

    >>> from fa_lightning.regressors.linear import Affine
    >>> token_weights(torch.tensor([False, True]), Fit(Affine, decision_weight=5.0))
    tensor([1., 5.])
    """
    if fit.decision_weight == DECISION_ALONE:
        return decision.float()
    return torch.where(decision, fit.decision_weight, 1.0)


def sampled_pairs(store: ActivationStore, site: Site, fit: Fit) -> SampledPairs:
    """At most `SAMPLE_ROWS` of the store's training pairs, evenly spread, for what needs them all at once."""
    blocks = store.block_ranges("train", BLOCK_ROWS)
    share = SAMPLE_ROWS // max(1, len(blocks))
    return joined([pairs.thinned(share) for pairs in _pairs_by_block(store, site, fit)])


def exchangeable_pairs(store: ActivationStore, site: Site, fit: Fit, kept: PairMoments) -> SampledPairs:
    """A sample of the pairs that ask for an edit, as `sampled_pairs`; all others, whatever their number, go to `kept`.

    Args:
        store: the store.
        site: whose states.
        fit: says which tokens count how much.
        kept: gets those that ask for no edit.
    """
    share = SAMPLE_ROWS // max(1, len(store.block_ranges("train", BLOCK_ROWS)))
    samples = []
    for pairs in _pairs_by_block(store, site, fit):
        own = pairs.those(~pairs.edited)
        kept.add(own.x, own.y, own.weight)
        samples.append(pairs.those(pairs.edited).thinned(share))
    return joined(samples)


def _pairs_by_block(store: ActivationStore, site: Site, fit: Fit) -> Iterator[SampledPairs]:
    for start, stop in store.block_ranges("train", BLOCK_ROWS):
        yield pairs_of(store.block("train", start, stop, [site.name]), site, fit)


def pairs_of(block: Block, site: Site, fit: Fit) -> SampledPairs:
    """All of a block's training pairs (see `training_pairs`), with what it takes to make wrong ones of them."""
    return SampledPairs(*training_pairs(block, site, fit), *_groups(block, site, fit))


def joined(parts: Sequence[SampledPairs]) -> SampledPairs:
    """Pairs of several blocks, or of several fakers, one after the other."""
    return SampledPairs(*(torch.cat(column) for column in zip(*(part.columns() for part in parts), strict=True)))


def _groups(block: Block, site: Site, fit: Fit) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of `training_pairs`, its group, whether it asks for an edit, and whether it is a decision, (n,) each."""
    weight, neutral = _row_weights(block, site, fit)
    used = weight > 0
    # With `keep` the aligned twin's own states stand behind the rows, and ask for none.
    own = ~neutral & used if fit.keep else torch.zeros_like(used)
    group, decision = (torch.cat([block[name][used], block[name][own]]) for name in ("group", "decision"))
    return group, torch.cat([~neutral[used], torch.zeros_like(own[own])]), decision


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
