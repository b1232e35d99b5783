"""Contrast-consistent probes that learn while a variant is trained: one layer's, from batches as they come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

RUNNING = 0.1
"""Share of the newest batch in a probe's running loss and vote."""


def ccs_loss(first: Tensor, second: Tensor) -> Tensor:
    """Consistency and confidence of probabilities (arXiv 2212.03827, eq. 1 to 3), the mean over pairs.

    Args:
        first: probability that the first of a contrast pair is true, (..., pairs).
        second: the same of the second one.

    Returns:
        (...); 0 where one of the two is surely true and the other surely not, 0.25 where all is 0.5.

    >>> ccs_loss(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])), ccs_loss(torch.tensor([0.5]), torch.tensor([0.5]))
    (tensor(0.), tensor(0.2500))
    """
    consistency = (first - (1 - second)).square()
    confidence = torch.minimum(first, second).square()
    return (consistency + confidence).mean(dim=-1)


class ContrastProbe(nn.Module):
    """Linear CCS probes of one layer, trained together from several first weights; that of the lowest loss speaks.

    States are standardised in each slot by itself: those that are learned from by their batch, others by the statistics
    of all batches so far. All is computed in float32, under autocast too. The loss knows no label; labels of training
    pairs say the sign (`vote`).

    Args:
        hidden_size: units per state.
        restarts: first weights.
        seed: of the first weights.
    """

    losses: Tensor
    votes: Tensor

    def __init__(self, hidden_size: int, restarts: int, seed: int) -> None:
        super().__init__()
        drawn = torch.randn(restarts, hidden_size, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(drawn / drawn.norm(dim=1, keepdim=True))
        self.bias = nn.Parameter(torch.zeros(restarts))
        # No momentum: the mean over all batches, as the states of the frozen model don't drift.
        self.slots = nn.ModuleList(nn.BatchNorm1d(hidden_size, affine=False, momentum=None) for _ in range(2))
        self.register_buffer("losses", torch.full((restarts,), 0.25))
        self.register_buffer("votes", torch.zeros(restarts))

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Probability that the first, and that the second, is true, (restarts, pairs), of pairs (pairs, 2, hidden)."""
        # One pair alone has no deviation: it is standardised by what is known, and adds nothing to that.
        self.slots.train(self.training and len(pairs) > 1)
        with torch.autocast(pairs.device.type, enabled=False):
            first, second = (
                torch.sigmoid(self.weight @ slot(pairs[:, index].float()).T + self.bias[:, None])
                for index, slot in enumerate(self.slots)
            )
        return first, second

    def still(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """The same by the best restart alone, (pairs,) each, learning nothing; gradients reach the states alone."""
        best = self.best
        slots: Any = self.slots
        weight, bias = self.weight[best].detach(), self.bias[best].detach()
        with torch.autocast(pairs.device.type, enabled=False):
            first, second = (
                torch.sigmoid(batch_norm(pairs[:, index].float(), slot.running_mean, slot.running_var) @ weight + bias)
                for index, slot in enumerate(slots)
            )
        return first, second

    @property
    def best(self) -> int:
        """The restart of the lowest loss so far."""
        return int(self.losses.argmin())

    @property
    def vote(self) -> float:
        """How much oftener the best restart is right than wrong about the first of a pair, -1 to 1."""
        return float(self.votes[self.best])

    @torch.no_grad()
    def count(self, first: Tensor, second: Tensor, truth: Tensor) -> None:
        """Keep running losses and votes of all restarts.

        Args:
            first: probability that the first of each pair is true, (restarts, pairs).
            second: probability that the second is, (restarts, pairs).
            truth: whether the first is, (pairs,).
        """
        is_right = (belief_of(first, second) > 0.5) == truth.bool()
        self.losses.lerp_(ccs_loss(first, second), RUNNING)
        self.votes.lerp_(2 * is_right.float().mean(-1) - 1, RUNNING)

    def belief(self, first: Tensor, second: Tensor) -> Tensor:
        """Probability that the first of each pair is true, (pairs,), of what `still` says, with the sign resolved."""
        belief = belief_of(first, second)
        return belief if self.vote >= 0 else 1 - belief


def belief_of(first: Tensor, second: Tensor) -> Tensor:
    """What both say together about the first being true (arXiv 2212.03827, section 2)."""
    return (first + 1 - second) / 2
