"""Contrast-consistent search: a direction that answers a prompt's two endings with opposite truth, without labels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fa_lightning.common.float64 import in_float64
from fa_lightning.regressors.scales import usable_std
from fa_lightning.studies.probes.probe import check_pairs
from fa_lightning.training.contrast_probe import ccs_loss


class Slots(nn.Module):
    """Each slot of contrast pairs standardised by itself.

    Which ending a state is of is its most prominent feature; with the slots' own means gone, it can't be read any
    more. Means and deviations are of the rows that it was fitted on alone.

    Args:
        hidden_size: units per state.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.register_buffer("mean", torch.zeros(2, hidden_size))
        self.register_buffer("std", torch.ones(2, hidden_size))

    def fit(self, pairs: Tensor) -> None:
        """Take the slots' means and deviations from pairs (n, 2, hidden).

        Raises:
            ValueError: these are no contrast pairs.
        """
        check_pairs(pairs, self.hidden_size)
        self.to(pairs.device)
        self.mean.copy_(pairs.mean(dim=0))
        self.std.copy_(usable_std(pairs.std(dim=0, correction=0)))

    def forward(self, pairs: Tensor) -> Tensor:
        """Standardised pairs, (n, 2, hidden) float32."""
        normalised: Tensor = (pairs.float() - self.mean) / self.std
        return normalised

    def difference(self, pairs: Tensor) -> Tensor:
        """Second minus first standardised state, (n, hidden): what supervised probes of pairs read."""
        first, second = self(pairs).unbind(dim=1)
        difference: Tensor = second - first
        return difference


class CCS(nn.Module):
    """A linear probe found by contrast-consistent search (arXiv 2212.03827).

    All restarts are fitted at once, as rows of one weight; that of the lowest loss is kept. No label is looked at but
    by `resolve_sign`, which says which of the two sides is true.

    Args:
        hidden_size: units per state.
        restarts: first weights that are tried.
        steps: of AdamW, on all pairs at once.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        seed: of the first weights.

    Raises:
        ValueError: `restarts` or `steps` is below 1.
    """

    name: ClassVar[str] = "CCS"
    rule: ClassVar[str] = "consistent and confident on contrast pairs; labels say its sign alone"
    weight: Tensor
    bias: Tensor
    sign: Tensor

    def __init__(
        self,
        hidden_size: int,
        restarts: int = 10,
        steps: int = 300,
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("restarts", restarts), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be 1 or more")
        self.hidden_size = hidden_size
        self.restarts, self.steps, self.seed = restarts, steps, seed
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.slots = Slots(hidden_size)
        self.register_buffer("weight", torch.zeros(hidden_size))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("sign", torch.ones(()))
        self.losses: Tensor = torch.zeros(0)

    def fit(self, pairs: Tensor) -> None:
        """Find the direction in pairs (n, 2, hidden); `losses` then holds that of every restart.

        Raises:
            ValueError: these are no contrast pairs.
        """
        self.slots.fit(pairs)
        self.to(pairs.device)
        normalised = self.slots(pairs)
        weights, biases = first_weights(self.restarts, self.hidden_size, self.seed)
        weights = weights.to(normalised.device).requires_grad_()
        biases = biases.to(normalised.device).requires_grad_()
        optimizer = torch.optim.AdamW([weights, biases], lr=self.learning_rate, weight_decay=self.weight_decay)
        for _ in range(self.steps):
            optimizer.zero_grad()
            # The sum leaves each restart its own gradient.
            ccs_loss(*_probabilities(normalised, weights, biases)).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            self.losses = ccs_loss(*_probabilities(normalised, weights, biases))
            best = int(self.losses.argmin())
            self.weight.copy_(weights[best])
            self.bias.copy_(biases[best])
        self.sign.fill_(1.0)

    def resolve_sign(self, pairs: Tensor, labels: Tensor) -> None:
        """Turn the probe so that most of these labels, true where the second ending is right, are read rightly."""
        self.sign.fill_(1.0)
        agrees = (self.score(pairs) > 0) == labels.bool()
        self.sign.fill_(1.0 if agrees.float().mean() >= 0.5 else -1.0)

    @torch.no_grad()
    def score(self, pairs: Tensor) -> Tensor:
        """Log-odds that the second ending is the right one, (n,): of the mean of what both endings say."""
        first, second = _probabilities(self.slots(pairs), self.weight[None], self.bias[None])
        mean = in_float64(((second + (1 - first)) / 2)[0])
        return self.sign.to(mean.device) * torch.logit(mean, eps=1e-9)


def first_weights(count: int, hidden_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random directions of length 1, (count, hidden), and biases of 0, (count,)."""
    weights = torch.randn(count, hidden_size, generator=torch.Generator().manual_seed(seed))
    return weights / weights.norm(dim=1, keepdim=True), torch.zeros(count)


def _probabilities(pairs: Tensor, weights: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
    """Of both endings, (restarts, pairs) each."""
    logits = torch.einsum("nsd,rd->srn", pairs, weights) + biases[:, None]
    first, second = torch.sigmoid(logits)
    return first, second
