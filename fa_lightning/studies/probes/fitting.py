"""All probes and their controls on the states of one site: fitted on training rows, scored on all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fa_lightning.studies.probes.ccs import CCS, Slots, first_weights
from fa_lightning.studies.probes.linear import Logistic, MassMean, MassMeanCovariance
from fa_lightning.studies.probes.network import Network
from fa_lightning.studies.probes.probe import Probe
from fa_lightning.studies.probes.result import Role

SUPERVISED: tuple[type[Probe], ...] = (Logistic, MassMean, MassMeanCovariance, Network)
CHEAP: tuple[type[Probe], ...] = (Logistic, MassMean, MassMeanCovariance)
"""Those that are fitted again and again for label efficiency."""

RANDOM_DIRECTION = "random direction"
SHUFFLED_PAIRS = "CCS, shuffled pairs"
RANDOM_LABELS = "logistic, random labels"
BAG_OF_WORDS = "bag of words"
CONSTANT = "constant answer"
CONTROLS = {
    RANDOM_DIRECTION: "projections on random directions, the sign of each from the training labels; mean of 20",
    SHUFFLED_PAIRS: "CCS fitted on endings of different prompts; mean of 3 shuffles",
    RANDOM_LABELS: "logistic regression fitted on permuted training labels; mean of 5 permutations",
    BAG_OF_WORDS: "support vectors on which words and pairs of them stand together in the prompt; reads no states",
    CONSTANT: "always true; 0.5 where the classes are balanced",
}
DIRECTIONS, SHUFFLES, PERMUTATIONS = 20, 3, 5


@dataclass(frozen=True)
class Scored:
    """What a probe says of all rows.

    Attributes:
        log_odds: (rows,), or (draws, rows) of a control that is drawn several times.
        role: a probe or a control.
        are_log_odds: whether they are log-odds, or only their order and sign mean something.
    """

    log_odds: Tensor
    role: Role = "probe"
    are_log_odds: bool = True


@dataclass(frozen=True)
class Search:
    """How CCS is searched for.

    Attributes:
        restarts: first weights that are tried.
        steps: of the optimizer.
        seed: of first weights, shuffles and permutations.
    """

    restarts: int = 10
    steps: int = 300
    seed: int = 0

    def probe(self, hidden_size: int, seed: int = 0) -> CCS:
        """An unfitted probe."""
        return CCS(hidden_size, self.restarts, self.steps, seed=self.seed + seed)


def scored_prompts(states: Tensor, labels: Tensor, train: Tensor, search: Search) -> Iterator[tuple[str, Scored]]:
    """Names and scores of the supervised probes, then of the controls.

    Args:
        states: (rows, hidden).
        labels: booleans (rows,).
        train: numbers of the training rows.
        search: its seed is that of the controls.
    """
    for kind in SUPERVISED:
        probe = kind(states.shape[1])
        probe.fit(states[train], labels[train])
        yield probe.name, Scored(probe.score(states).cpu())
    draws = []
    for number in range(PERMUTATIONS):
        generator = torch.Generator().manual_seed(search.seed + number)
        chance = Logistic(states.shape[1])
        chance.fit(states[train], labels[train][torch.randperm(len(train), generator=generator)])
        draws.append(chance.score(states).cpu())
    yield RANDOM_LABELS, Scored(torch.stack(draws), "control")


def scored_pairs(pairs: Tensor, labels: Tensor, train: Tensor, search: Search) -> Iterator[tuple[str, Scored]]:
    """The same of contrast pairs, whose supervised probes read the difference of both standardised endings, and CCS.

    Args:
        pairs: (rows, 2, hidden).
        labels: whether the second ending is right, booleans (rows,).
        train: numbers of the training rows.
        search: how CCS is searched for.
    """
    probe = search.probe(pairs.shape[2])
    probe.fit(pairs[train])
    probe.resolve_sign(pairs[train], labels[train])
    yield probe.name, Scored(probe.score(pairs).cpu())
    slots = Slots(pairs.shape[2])
    slots.fit(pairs[train])
    difference = slots.difference(pairs)
    yield from scored_prompts(difference, labels, train, search)
    yield RANDOM_DIRECTION, Scored(along_random_directions(difference, labels, train, search.seed), "control", False)
    draws = []
    for number in range(SHUFFLES):
        shuffled = search.probe(pairs.shape[2], seed=number)
        shuffled.fit(shuffled_pairs(pairs[train], search.seed + number))
        shuffled.resolve_sign(pairs[train], labels[train])
        draws.append(shuffled.score(pairs).cpu())
    yield SHUFFLED_PAIRS, Scored(torch.stack(draws), "control")


def along_random_directions(difference: Tensor, labels: Tensor, train: Tensor, seed: int) -> Tensor:
    """Projections on random directions, each turned so that most training labels are read rightly, (draws, rows)."""
    weights, _ = first_weights(DIRECTIONS, difference.shape[1], seed)
    projections = weights @ difference.cpu().T
    agree = ((projections[:, train] > 0) == labels[train].bool().cpu()).float().mean(dim=1)
    return torch.where(agree >= 0.5, 1.0, -1.0)[:, None] * projections


def shuffled_pairs(pairs: Tensor, seed: int) -> Tensor:
    """The first endings beside second ones of other prompts, (n, 2, hidden)."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    return torch.stack([pairs[:, 0], pairs[order.to(pairs.device), 1]], dim=1)
