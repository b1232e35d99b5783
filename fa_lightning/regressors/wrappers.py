"""Maps made of another map: an aimless edit of its size, and its edit of some units only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fa_lightning.regressors.base import Regressor, class_path
from fa_lightning.regressors.moments import PairMoments


class Wrapper(Regressor):
    """A map made of an inner one, which is what is fitted, in its own way.

    Args:
        inner: the map.
    """

    def __init__(self, inner: Regressor) -> None:
        super().__init__(inner.hidden_size)
        self.inner = inner
        self.fit_kind = inner.fit_kind

    def fit(self, moments: PairMoments) -> None:
        """Fit the inner map."""
        self.inner.fit(moments)

    def fit_samples(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
        """Fit the inner map."""
        self.inner.fit_samples(x, y, weight)

    def fit_contrast(self, positive: Tensor, negative: Tensor) -> None:
        """Fit the inner map."""
        self.inner.fit_contrast(positive, negative)

    def standardise(self, moments: PairMoments) -> None:
        """Standardise the inner map."""
        self.inner.standardise(moments)

    def unit_scale(self) -> Tensor | None:
        """The inner map's scale."""
        return self.inner.unit_scale()


class NormMatchedRandom(Wrapper):
    """T(h) = h + |inner(h) - h| r with one random unit direction r: an edit as large as the inner map's, but aimless.

    What it changes about a model is what any edit of that size changes, so a learnt map must beat it.

    Args:
        inner: the map whose edit norms are matched.
        seed: seed of the direction.
    """

    name = "norm_matched_random"
    direction: Tensor

    def __init__(self, inner: Regressor, seed: int = 0) -> None:
        super().__init__(inner)
        self.seed = seed
        direction = torch.randn(inner.hidden_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.register_buffer("direction", (direction / direction.norm()).float())

    def forward(self, h: Tensor) -> Tensor:
        """Add the random direction at the inner edit's norm."""
        h = h.float()
        length: Tensor = (self.inner(h) - h).norm(dim=-1, keepdim=True)
        return h + length * self.direction

    def config(self) -> dict[str, Any]:
        """Class path, seed and the inner map's config."""
        return {"class_path": class_path(type(self)), "init_args": {"seed": self.seed, "inner": self.inner.config()}}

    def constant_edit(self) -> Tensor | None:
        """The direction at the inner edit's norm, where the inner map has a constant edit."""
        edit = self.inner.constant_edit()
        return None if edit is None else edit.norm() * self.direction.to(edit.device)


class UnitSubset(Wrapper):
    """T(h) = inner(h) in the units that are kept, h in the others: a map that edits few units.

    Args:
        inner: the map.
        keep: which units it may edit, (hidden,) booleans; they are stored with the tensors, not in the config. None
            keeps all, until tensors are loaded.

    Raises:
        ValueError: if `keep` is not one boolean per unit.
    """

    name = "unit_subset"
    keep: Tensor

    def __init__(self, inner: Regressor, keep: Tensor | None = None) -> None:
        super().__init__(inner)
        keep = torch.ones(inner.hidden_size, dtype=torch.bool) if keep is None else keep
        if keep.shape != (inner.hidden_size,) or keep.dtype != torch.bool:
            raise ValueError(
                f"keep is {tuple(keep.shape)} of {keep.dtype}, but must be ({inner.hidden_size},) of torch.bool, "
                "one per unit"
            )
        self.register_buffer("keep", keep.clone())

    def forward(self, h: Tensor) -> Tensor:
        """Edit the kept units alone."""
        h = h.float()
        return torch.where(self.keep, self.inner(h), h)

    def config(self) -> dict[str, Any]:
        """Class path and the inner map's config."""
        return {"class_path": class_path(type(self)), "init_args": {"inner": self.inner.config()}}

    def constant_edit(self) -> Tensor | None:
        """The inner map's, where it has one, without the other units."""
        edit = self.inner.constant_edit()
        return None if edit is None else torch.where(self.keep.to(edit.device), edit, 0.0)
