"""Maps from the faking model's hidden state to the aligned model's, as plain modules.

Every map is built from the hidden size and typed options, keeps all it has learnt in its `state_dict` and names
itself in `config()`, so that a map is saved as tensors and a few words and never pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fa_lightning.regressors.moments import PairMoments

FitKind = Literal["closed", "gradient"]


class Regressor(nn.Module):
    """A map T from a faking state to a predicted aligned state, (n, hidden) -> (n, hidden) in float32.

    `fit_kind` says how a map learns: a `closed` one from the moments in one step (`fit`), a `gradient` one by
    minimising `loss` after `standardise` has set its units from the moments.

    Args:
        hidden_size: units per state.

    Raises:
        ValueError: if `hidden_size` is not positive.
    """

    name: ClassVar[str]
    fit_kind: FitKind = "closed"

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        if hidden_size < 1:
            raise ValueError(f"hidden_size is {hidden_size}, but must be a positive number of units")
        self.hidden_size = hidden_size

    def forward(self, h: Tensor) -> Tensor:
        """Predict the aligned states: (n, hidden) of any float dtype -> (n, hidden) float32."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Name and options, JSON-able: what `build_regressor` needs beside the hidden size."""
        return {"name": self.name}

    def fit(self, moments: PairMoments) -> None:
        """Set a closed map from the moments of the pairs.

        Raises:
            TypeError: if the map is fitted by gradient.
        """
        raise TypeError(f"{self.name} is fitted by gradient: call standardise(moments), then minimise loss(h, target)")

    def standardise(self, moments: PairMoments) -> None:
        """Set the units in which a gradient map works; a closed map has none."""

    def constant_edit(self) -> Tensor | None:
        """The edit T(h) - h (hidden,) where it is the same for every h, which is cheaper to apply; else None."""
        return None

    def unit_scale(self) -> Tensor | None:
        """Per-unit scale (hidden,) in which `loss` measures an error; None for the states' own units."""
        return None

    def loss(self, h: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Weighted mean over pairs of the squared error per unit, each unit in its own scale.

        Args:
            h: faking states (n, hidden).
            target: aligned states (n, hidden).
            weight: weight of each pair (n,); None weighs all 1.

        Returns:
            A scalar; 0 where all weights are.
        """
        error: Tensor = self(h) - target.float()
        scale = self.unit_scale()
        if scale is not None:
            error = error / scale
        per_pair = error.square().mean(-1)
        if weight is None:
            return per_pair.mean()
        weight = weight.to(per_pair)
        return (per_pair * weight).sum() / weight.sum().clamp_min(torch.finfo(per_pair.dtype).tiny)


class Identity(Regressor):
    """The map that changes nothing: the baseline that costs nothing.

    Example:
        >>> Identity(hidden_size=2)(torch.ones(1, 2)).tolist()
        [[1.0, 1.0]]
    """

    name = "identity"

    def forward(self, h: Tensor) -> Tensor:
        """Return the states as they are, in float32."""
        return h.float()

    def fit(self, moments: PairMoments) -> None:
        """Nothing to fit."""

    def constant_edit(self) -> Tensor:
        """Zeros (hidden,)."""
        return torch.zeros(self.hidden_size)


class MeanShift(Regressor):
    """T(h) = h + shift, with the shift the mean difference between the twins: difference-in-means steering.

    Example:
        >>> shift = MeanShift(hidden_size=2)
        >>> shift.shift.copy_(torch.tensor([1.0, -1.0]))
        tensor([ 1., -1.])
        >>> shift(torch.zeros(1, 2)).tolist()
        [[1.0, -1.0]]
    """

    name = "mean_shift"
    shift: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.register_buffer("shift", torch.zeros(hidden_size))

    def forward(self, h: Tensor) -> Tensor:
        """Add the shift."""
        return h.float() + self.shift

    def fit(self, moments: PairMoments) -> None:
        """Set the shift to the mean of y - x."""
        self.shift.copy_(moments.mean_difference)

    def constant_edit(self) -> Tensor:
        """The shift (hidden,)."""
        return self.shift


class Affine(Regressor):
    """T(h) = h W' + b by ridge regression, shrunk towards the identity (and so, with its bias, the mean shift).

    Args:
        hidden_size: units per state.
        ridge: penalty on W - I, relative to the mean variance of a unit of the faking states.
    """

    name = "affine"
    weight: Tensor
    bias: Tensor

    def __init__(self, hidden_size: int, ridge: float = 1e-2) -> None:
        super().__init__(hidden_size)
        if not ridge >= 0:
            raise ValueError(f"ridge is {ridge}, but must be 0 or more")
        self.ridge = ridge
        self.register_buffer("weight", torch.eye(hidden_size))
        self.register_buffer("bias", torch.zeros(hidden_size))

    def forward(self, h: Tensor) -> Tensor:
        """Apply the affine map."""
        return nn.functional.linear(h.float(), self.weight, self.bias)

    def config(self) -> dict[str, Any]:
        """Name and ridge penalty."""
        return {"name": self.name, "ridge": self.ridge}

    def fit(self, moments: PairMoments) -> None:
        """Solve the ridge regression in float64."""
        weight, bias = moments.ridge(self.ridge)
        self.weight.copy_(weight)
        self.bias.copy_(bias)


class ResidualMLP(Regressor):
    """T(h) = h + scale * f((h - mean) / std), with f a small perceptron whose last layer starts at zero.

    It starts as the identity, so training only ever adds an edit. Mean and std are those of the faking states, scale
    the std of the difference between the twins: f sees and gives numbers of order one at any layer.

    Args:
        hidden_size: units per state.
        width: units of each inner layer.
        depth: number of inner layers, 1 or more.
        dropout: probability of dropping an inner unit while training.

    Raises:
        ValueError: if an option is out of range.
    """

    name = "residual_mlp"
    fit_kind = "gradient"
    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(self, hidden_size: int, width: int = 256, depth: int = 1, dropout: float = 0.0) -> None:
        super().__init__(hidden_size)
        if width < 1 or depth < 1:
            raise ValueError(f"width is {width} and depth {depth}, but both must be 1 or more")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, but must be in [0, 1)")
        self.width, self.depth, self.dropout = width, depth, dropout
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("std", torch.ones(hidden_size))
        self.register_buffer("scale", torch.ones(hidden_size))
        layers: list[nn.Module] = []
        for inputs in [hidden_size] + [width] * (depth - 1):
            layers += [nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout)]
        last = nn.Linear(width, hidden_size)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, h: Tensor) -> Tensor:
        """Add the perceptron's edit."""
        h = h.float()
        edit: Tensor = self.layers((h - self.mean) / self.std)
        return h + self.scale * edit

    def config(self) -> dict[str, Any]:
        """Name and shape of the perceptron."""
        return {"name": self.name, "width": self.width, "depth": self.depth, "dropout": self.dropout}

    def standardise(self, moments: PairMoments) -> None:
        """Set mean, std and scale from the moments."""
        self.mean.copy_(moments.mean_x)
        self.std.copy_(_usable(moments.var_x.sqrt()))
        self.scale.copy_(_usable(moments.var_diff.sqrt()))

    def unit_scale(self) -> Tensor:
        """Std of the difference between the twins, so that predicting the mean shift costs 1."""
        return self.scale


class NormMatchedRandom(Regressor):
    """T(h) = h + |inner(h) - h| r with one random unit direction r: an edit as large as the inner map's, but aimless.

    What it changes about a model is what any edit of that size changes, so a learnt map must beat it.

    Args:
        inner: the map whose edit norms are matched.
        seed: seed of the direction.
    """

    name = "norm_matched_random"
    direction: Tensor

    def __init__(self, inner: Regressor, seed: int = 0) -> None:
        super().__init__(inner.hidden_size)
        self.inner = inner
        self.seed = seed
        self.fit_kind = inner.fit_kind
        direction = torch.randn(inner.hidden_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.register_buffer("direction", (direction / direction.norm()).float())

    def forward(self, h: Tensor) -> Tensor:
        """Add the random direction at the inner edit's norm."""
        h = h.float()
        length: Tensor = (self.inner(h) - h).norm(dim=-1, keepdim=True)
        return h + length * self.direction

    def config(self) -> dict[str, Any]:
        """Name, seed and the inner map's config."""
        return {"name": self.name, "seed": self.seed, "inner": self.inner.config()}

    def constant_edit(self) -> Tensor | None:
        """The direction at the inner edit's norm, where the inner map has a constant edit."""
        edit = self.inner.constant_edit()
        return None if edit is None else edit.norm() * self.direction.to(edit.device)

    def fit(self, moments: PairMoments) -> None:
        """Fit the inner map; the direction stays."""
        self.inner.fit(moments)

    def standardise(self, moments: PairMoments) -> None:
        """Standardise the inner map."""
        self.inner.standardise(moments)

    def unit_scale(self) -> Tensor | None:
        """The inner map's scale."""
        return self.inner.unit_scale()


REGRESSORS: dict[str, type[Regressor]] = {kind.name: kind for kind in (Identity, MeanShift, Affine, ResidualMLP)}


def build_regressor(config: Mapping[str, Any], hidden_size: int) -> Regressor:
    """Build an unfitted map from what `Regressor.config` returned.

    Example:
        >>> build_regressor({"name": "affine", "ridge": 0.1}, hidden_size=4).config()
        {'name': 'affine', 'ridge': 0.1}

    Args:
        config: the map's `name` and options.
        hidden_size: units per state.

    Raises:
        ValueError: if no map has that name or it has no such option.
    """
    options = dict(config)
    name = options.pop("name", None)
    try:
        if name == NormMatchedRandom.name:
            return NormMatchedRandom(build_regressor(options.pop("inner", {}), hidden_size), **options)
        if name in REGRESSORS:
            return REGRESSORS[name](hidden_size, **options)
    except TypeError as error:
        raise ValueError(f"the options of regressor {name} are {options}, but {error}") from error
    names = ", ".join([*REGRESSORS, NormMatchedRandom.name])
    raise ValueError(f"the regressor's name is {name!r}, but must be one of: {names}")


def _usable(std: Tensor) -> Tensor:
    """Standard deviations (hidden,) with a floor, so that a unit that never varied is not blown up when it does."""
    floor = 1e-3 * std.square().mean().sqrt()
    return std.clamp_min(torch.finfo(torch.float32).eps).maximum(floor)
