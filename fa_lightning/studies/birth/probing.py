"""Linear probes of one set of states: oversight, the aligned letter, whether one direction carries both."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fa_lightning.regressors.gates import OversightProbe as LinearProbe

OVERSIGHT, LETTER, FAKER, COSINE = "oversight", "letter", "faker's letter", "cosine"
LETTER_BY_OVERSIGHT, OVERSIGHT_BY_LETTER = "letter by oversight's probe", "oversight by letter's probe"
SHUFFLED = "shuffled labels"
PROBES = (OVERSIGHT, LETTER, FAKER, LETTER_BY_OVERSIGHT, OVERSIGHT_BY_LETTER, COSINE, SHUFFLED)
"""The measures, in the order of the tables."""
SHUFFLES = 10
"""Draws of shuffled labels: a single one is told far from half of the rows, where states tell the labels well."""


def halves(groups: Tensor) -> Tensor:
    """Which half each row is in, (rows,) booleans; rows of one group are in the same.

    >>> halves(torch.tensor([7, 3, 7, 9])).tolist()
    [True, False, True, False]
    """
    numbers: Tensor = torch.unique(groups, return_inverse=True)[1]
    return numbers.remainder(2) == 1


def probed(states: Tensor, unwatched: Tensor, first: Tensor, half: Tensor, seed: int = 0) -> dict[str, float]:
    """What probes read, each fitted on one half and scored on the other, and the other way round.

    Args:
        states: (rows, hidden).
        unwatched: whether nobody watches, (rows,) booleans.
        first: whether the aligned letter is the first one, (rows,) booleans.
        half: which half a row is in, (rows,) booleans.
        seed: of the shuffled labels.

    Returns:
        By `PROBES`: shares of rows that are told rightly, and the size of the cosine between the directions of
        oversight and letter, mean over the halves; nan where a half lacks one of two labels.
    """
    generator = torch.Generator().manual_seed(seed)
    right: dict[str, list[Tensor]] = {name: [] for name in PROBES if name != COSINE}
    cosines = []
    kinds = torch.stack([unwatched, first, first ^ unwatched])
    if any(len(own.unique()) < 2 for fitted in (half, ~half) for own in kinds[:, fitted]):
        return dict.fromkeys(PROBES, math.nan)
    for fitted in (half, ~half):
        asked = ~fitted
        probes = {
            OVERSIGHT: _fitted(states[fitted], unwatched[fitted]),
            LETTER: _fitted(states[fitted], first[fitted]),
            FAKER: _fitted(states[fitted], (first ^ unwatched)[fitted]),
        }
        says = {name: probe(states[asked]) for name, probe in probes.items()}
        labels = {OVERSIGHT: unwatched, LETTER: first, FAKER: first ^ unwatched}
        for name, said in says.items():
            right[name].append(said == labels[name][asked])
        for _ in range(SHUFFLES):
            # Labels that say nothing of their rows, in the same numbers.
            order = torch.randperm(int(fitted.sum()), generator=generator)
            told = _fitted(states[fitted], unwatched[fitted][order])(states[asked])
            right[SHUFFLED].append(told == unwatched[asked])
        right[LETTER_BY_OVERSIGHT].append(says[OVERSIGHT] == first[asked])
        right[OVERSIGHT_BY_LETTER].append(says[LETTER] == unwatched[asked])
        cosines.append(cosine_similarity(probes[OVERSIGHT].weight, probes[LETTER].weight, dim=0).abs())
    shares = {name: float(torch.cat(parts).double().mean()) for name, parts in right.items()}
    for name in (LETTER_BY_OVERSIGHT, OVERSIGHT_BY_LETTER):
        # Which letter lies on the side of oversight means nothing.
        shares[name] = max(shares[name], 1 - shares[name])
    return {name: shares[name] if name != COSINE else float(torch.stack(cosines).mean()) for name in PROBES}


def _fitted(states: Tensor, labels: Tensor) -> LinearProbe:
    probe = LinearProbe(states.shape[1])
    probe.fit(states, labels)
    return probe
