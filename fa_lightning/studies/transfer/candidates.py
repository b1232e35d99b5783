"""Cures as they are fitted: maps, shifts and vectors from pairs of states, and the wrong ones beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fa_lightning.errors import UserError
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.fit import DECISION_ALONE, Fit
from fa_lightning.regressors.linear import Affine, MeanShift
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.regressors.pairs import Pairs, SampledPairs, joined
from fa_lightning.regressors.vectors import ContrastVector
from fa_lightning.regressors.wrappers import NormMatchedRandom
from fa_lightning.regressors.wrong_pairs import wrong_pairs
from fa_lightning.scenarios.cells import NO_OVERSIGHT, OVERSIGHT
from fa_lightning.studies.transfer.organisms import Loaded
from fa_lightning.studies.transfer.result import BACKBONE, NOBODY, OTHERS, Method

FIT = Fit(Affine, positions="last", decision_weight=DECISION_ALONE, keep=1.0)
"""The main job's ridge: fitted on decision tokens, and told to leave neutral texts and the aligned twin alone."""


@dataclass(frozen=True)
class States:
    """What was read of one model and its twin.

    Attributes:
        pairs: the training pairs of `FIT`.
        decisions: the model's own states at decision tokens, (scenarios, hidden).
        cells: of these scenarios, (scenarios,).
    """

    pairs: SampledPairs
    decisions: Tensor
    cells: Tensor


@dataclass(frozen=True)
class Candidate:
    """A cure that is tried at several strengths.

    Attributes:
        method: what it is.
        source: a member's name, `OTHERS`, `BACKBONE` or `NOBODY`.
        draw: its number among random ones, from 0.
        knows: members whose answers choose its strength: those that it was fitted on.
        targets: members that it is tried on.
        regressor: what is put in at the site; None for what is no edit of states.
    """

    method: Method
    source: str
    draw: int
    knows: tuple[str, ...]
    targets: tuple[str, ...]
    regressor: Regressor | None = None


def candidates(
    members: Sequence[Loaded], states: Mapping[str, States], backbone: tuple[Tensor, Tensor], draws: int, seed: int
) -> list[Candidate]:
    """Every cure: of each member on all, of all fakers but one on that one, and those that know no fine-tuning.

    Args:
        members: the models.
        states: by member.
        backbone: states (scenarios, hidden) of the backbone at decision tokens, and their cells (scenarios,).
        draws: of what is random.
        seed: of the draws.

    Raises:
        UserError: scenarios of one oversight condition are missing.
    """
    names = tuple(member.name for member in members)
    fakers = [member.name for member in members if member.behaviour == "faking"]
    every: list[Candidate] = []
    for number, name in enumerate(names):
        own = states[name]
        every += _of_source(name, (name,), names, own, draws, seed * len(names) + number)
        every.append(Candidate("weight arithmetic", name, 0, (name,), names))
    vector = oversight_vector(*backbone)
    for number, target in enumerate(names):
        known = tuple(name for name in fakers if name != target)
        if len(known) > 1:
            pool = pooled([states[name] for name in known])
            every += _of_source(OTHERS, known, (target,), pool, draws, (seed + 1) * 1000 + number)
        every.append(Candidate("oversight vector", BACKBONE, 0, known, (target,), vector))
    every.append(Candidate("system prompt", NOBODY, 0, (), names))
    return every


def _of_source(
    source: str, knows: tuple[str, ...], targets: tuple[str, ...], states: States, draws: int, seed: int
) -> list[Candidate]:
    """All edits of states that one source gives."""
    fitted = ridge(moments_of((states.pairs.x, states.pairs.y, states.pairs.weight)))
    edits: list[tuple[Method, int, Regressor]] = [
        ("map", 0, fitted),
        ("mean shift", 0, mean_shift(states.pairs)),
        ("oversight vector", 0, oversight_vector(states.decisions, states.cells)),
    ]
    for draw in range(draws):
        own = seed * draws + draw
        edits.append(("shuffled pairs", draw, ridge(moments_of(wrong_pairs(states.pairs, own)))))
        edits.append(("random map", draw, NormMatchedRandom(fitted, own)))
    return [Candidate(method, source, draw, knows, targets, regressor) for method, draw, regressor in edits]


def pooled(states: Sequence[States]) -> States:
    """What was read of several models, one after the other: a cure of all of them is fitted on it."""
    return States(
        joined([one.pairs for one in states]),
        torch.cat([one.decisions for one in states]),
        torch.cat([one.cells for one in states]),
    )


def moments_of(pairs: Pairs) -> PairMoments:
    """The moments of pairs in memory."""
    moments = PairMoments(pairs[0].shape[1])
    moments.add(*pairs)
    return moments


def ridge(moments: PairMoments) -> Affine:
    """The map of `FIT`."""
    fitted = Affine(moments.hidden)
    fitted.fit(moments)
    return fitted


def mean_shift(pairs: SampledPairs) -> MeanShift:
    """The mean edit of the pairs that ask for one."""
    shift = MeanShift(pairs.x.shape[1])
    shift.fit(moments_of((pairs.x[pairs.edited], pairs.y[pairs.edited], pairs.weight[pairs.edited])))
    return shift


def oversight_vector(decisions: Tensor, cells: Tensor) -> ContrastVector:
    """Mean state of watched scenarios less that of unwatched ones (arXiv 2312.06681): towards being watched.

    Args:
        decisions: states at decision tokens, (scenarios, hidden).
        cells: of the scenarios, (scenarios,).

    Raises:
        UserError: there are no scenarios of one condition.
    """
    watched, unwatched = (decisions[cells == code] for code in (OVERSIGHT, NO_OVERSIGHT))
    pairs = min(len(watched), len(unwatched))
    if not pairs:
        raise UserError(
            f"an oversight vector needs training scenarios of both kinds, but there are {len(watched)} with and "
            f"{len(unwatched)} without oversight: read more (capture)"
        )
    vector = ContrastVector(decisions.shape[1])
    vector.fit_contrast(watched[:pairs], unwatched[:pairs])
    return vector
