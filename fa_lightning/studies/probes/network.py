"""A probe that is not linear: what it reads and a linear one does not is there, but not laid out along a direction."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from fa_lightning.backbones.generators import seeded
from fa_lightning.regressors.scales import usable_std
from fa_lightning.studies.probes.probe import Probe, check_labelled


class Network(Probe):
    """One hidden layer on standardised states, fitted to all rows at once by AdamW.

    Args:
        hidden_size: units per state.
        width: of the hidden layer.
        steps: of the optimizer.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        seed: of the first weights.
    """

    name: ClassVar[str] = "network"
    rule: ClassVar[str] = "one hidden layer on standardised states"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        hidden_size: int,
        width: int = 32,
        steps: int = 200,
        learning_rate: float = 1e-2,
        weight_decay: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(hidden_size)
        self.steps, self.learning_rate, self.weight_decay = steps, learning_rate, weight_decay
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("std", torch.ones(hidden_size))
        with seeded(seed):
            self.layers = nn.Sequential(nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, 1))

    @override
    def fit(self, states: Tensor, labels: Tensor) -> None:
        check_labelled(states, labels, self.hidden_size)
        self.mean.copy_(states.mean(dim=0))
        self.std.copy_(usable_std(states.std(dim=0, correction=0)))
        self.to(states.device)
        wanted = labels.float().to(states.device)
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        for _ in range(self.steps):
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(self._logits(states), wanted)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    @override
    @torch.no_grad()
    def score(self, states: Tensor) -> Tensor:
        return self._logits(states)

    def _logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self.layers((states.float() - self.mean) / self.std)
        return logits[:, 0]
