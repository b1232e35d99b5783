"""Repetition of a model's writing as a metric, over all processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.common.float64 import float64_device
from fa_lightning.metrics.distinct_items import DistinctItems
from fa_lightning.metrics.divergences import repetition


class Repetition(DistinctItems):
    """Mean share of repeated 3-grams in texts; a text that comes twice counts once.

    Example:
        >>> metric = Repetition()
        >>> metric.update(torch.tensor([7, 7]), torch.tensor([[1, 2, 1, 2, 1, 2], [1, 2, 1, 2, 1, 2]]))
        >>> metric.update(torch.tensor([8]), torch.tensor([[1, 2, 3, 4, 5, 6]]))
        >>> metric.compute()
        0.25
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(columns=1, dtype=torch.float64, **kwargs)

    @override
    def update(self, index: Tensor, tokens: Tensor) -> None:
        """Add texts.

        Args:
            index: each text's number in its data set, (batch,) int64.
            tokens: without padding, (batch, tokens).

        Raises:
            ValueError: the shapes differ.
        """
        shares = [repetition(text[None]) for text in tokens]
        self._append(index, torch.tensor(shares, dtype=torch.float64, device=float64_device(index.device)))

    @override
    def compute(self) -> float:
        """The mean over everything seen by all processes; nan without texts."""
        _, shares = self._distinct()
        return shares.mean().item()
