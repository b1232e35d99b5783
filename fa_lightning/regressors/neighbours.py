"""A map without a form: what the nearest remembered states became."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fa_lightning.errors import UserError
from fa_lightning.regressors.base import Regressor, checked_pairs
from fa_lightning.regressors.scales import usable_std

_DISTANCES = 2**24
"""Distances, or values of neighbours, held at a time: 64 MiB."""


class NearestNeighbours(Regressor):
    """T(h) = h + the mean edit of the nearest remembered states (or their mean target), by standardised distance.

    Remembered pairs vote by their weight. Where there are more pairs than memory, a random subset is remembered, the
    same every time. Where there are fewer than neighbours, all vote; where there are none, the map is the identity.

    Args:
        hidden_size: units per state.
        neighbours: states that vote.
        memory: pairs remembered at most.
        residual: vote on the edit y - x; else on y itself.

    Raises:
        UserError: if an option is out of range.
    """

    name = "nearest_neighbours"
    fit_kind = "samples"
    mean: Tensor
    std: Tensor
    keys: Tensor
    values: Tensor
    votes: Tensor

    def __init__(self, hidden_size: int, neighbours: int = 8, memory: int = 4096, residual: bool = True) -> None:
        super().__init__(hidden_size)
        if neighbours < 1 or memory < 1:
            raise UserError(f"neighbours is {neighbours} and memory {memory}, but both must be 1 or more")
        self.neighbours, self.memory, self.residual = neighbours, memory, residual
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("std", torch.ones(hidden_size))
        self.register_buffer("keys", torch.zeros(0, hidden_size))
        self.register_buffer("values", torch.zeros(0, hidden_size))
        self.register_buffer("votes", torch.ones(0))

    def forward(self, h: Tensor) -> Tensor:
        """Let the neighbours vote, so many states at a time that memory stays bounded."""
        h = h.float()
        if not len(self.keys):
            return h
        largest = max(len(self.keys), self._voting * self.hidden_size)
        return torch.cat([self._voted(part) for part in torch.split(h, max(1, _DISTANCES // largest))])

    @torch.no_grad()
    def fit_samples(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
        """Remember the pairs; the standardisation is of all of them."""
        x, y, weight = checked_pairs(x, y, weight, self.hidden_size)
        mean = weight @ x / weight.sum()
        std = usable_std((weight @ (x - mean).square() / weight.sum()).sqrt())
        if len(x) > self.memory:
            kept = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: self.memory].to(x.device)
            x, y, weight = x[kept], y[kept], weight[kept]
        device = self.mean.device
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.keys = ((x - mean) / std).float().to(device)
        self.values = (y - x if self.residual else y).float().to(device)
        self.votes = weight.float().to(device)

    @property
    def _voting(self) -> int:
        return min(self.neighbours, len(self.keys))

    def _voted(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            distance = torch.cdist((h.detach() - self.mean) / self.std, self.keys)
        nearest = distance.topk(self._voting, largest=False).indices
        votes = self.votes[nearest]
        voted = (self.values[nearest] * (votes / votes.sum(1, keepdim=True))[..., None]).sum(1)
        return h + voted if self.residual else voted

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The tensors of a fitted map go into a fresh one, which remembers nothing yet and takes the sizes over.
        for name in ("keys", "values", "votes"):
            stored, own = state_dict.get(prefix + name), getattr(self, name)
            if stored is not None and len(stored) <= self.memory and stored.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
