"""Maps that learn by gradient: perceptrons, and edits within a few directions."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from fa_lightning.errors import UserError
from fa_lightning.regressors.base import Regressor, check_rank, check_ridge
from fa_lightning.regressors.linear import RIDGE
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.regressors.scales import usable_std


class Standardised(Regressor):
    """What gradient maps share: they see (h - mean) / std and give edits in units of `scale`, at any layer alike.

    Mean and std are those of the faking states, scale the std of the difference between the twins. On ridge, the map
    adds its edit to the closed ridge solution, which stays fixed.

    Args:
        hidden_size: units per state.
        on_ridge: add the edit to ridge(h), not to h.
        ridge: penalty of that solution, as of `affine`.

    Raises:
        UserError: if `ridge` is negative.
    """

    fit_kind = "gradient"
    mean: Tensor
    std: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, hidden_size: int, on_ridge: bool = False, ridge: float = RIDGE) -> None:
        super().__init__(hidden_size)
        self.on_ridge, self.ridge = on_ridge, check_ridge(ridge)
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("std", torch.ones(hidden_size))
        self.register_buffer("scale", torch.ones(hidden_size))
        if on_ridge:
            self.register_buffer("weight", torch.eye(hidden_size))
            self.register_buffer("bias", torch.zeros(hidden_size))

    @abstractmethod
    def edit(self, z: Tensor) -> Tensor:
        """The learnt edit in units of `scale`, from standardised states, both (n, hidden)."""

    def forward(self, h: Tensor) -> Tensor:
        """Add the learnt edit."""
        h = h.float()
        start = nn.functional.linear(h, self.weight, self.bias) if self.on_ridge else h
        return start + self.scale * self.edit((h - self.mean) / self.std)

    def standardise(self, moments: PairMoments) -> None:
        """Set mean, std and scale, and solve the ridge regression where the map starts from it."""
        self.mean.copy_(moments.mean_x)
        self.std.copy_(usable_std(moments.var_x.sqrt()))
        self.scale.copy_(usable_std(moments.var_diff.sqrt()))
        if self.on_ridge:
            weight, bias = moments.ridge(self.ridge)
            self.weight.copy_(weight)
            self.bias.copy_(bias)

    def unit_scale(self) -> Tensor:
        """Std of the difference between the twins, so that predicting the mean shift costs 1."""
        return self.scale


class ResidualMLP(Standardised):
    """T(h) = h + scale * f((h - mean) / std), with f a small perceptron whose last layer starts at zero.

    It starts as the identity (or the ridge map), so training only ever adds an edit.

    Args:
        hidden_size: units per state.
        width: units of each inner layer.
        depth: number of inner layers, 1 or more.
        dropout: probability of dropping an inner unit while training.
        on_ridge: add the perceptron's edit to ridge(h), not to h.
        ridge: penalty of that solution, as of `affine`.

    Raises:
        UserError: if an option is out of range.
    """

    name = "residual_mlp"

    def __init__(
        self,
        hidden_size: int,
        width: int = 256,
        depth: int = 1,
        dropout: float = 0.0,
        on_ridge: bool = False,
        ridge: float = RIDGE,
    ) -> None:
        super().__init__(hidden_size, on_ridge, ridge)
        self.width, self.depth, self.dropout = width, depth, dropout
        self.layers = _perceptron(hidden_size, width, depth, dropout)
        _start_at_zero(self.layers[-1])

    def edit(self, z: Tensor) -> Tensor:
        """The perceptron."""
        edit_of_states: Tensor = self.layers(z)
        return edit_of_states


class PlainMLP(Regressor):
    """T(h) = mean_y + std_y * f((h - mean_x) / std_x): a perceptron that predicts the aligned state, with no skip.

    Args:
        hidden_size: units per state.
        width: units of each inner layer.
        depth: number of inner layers, 1 or more.
        dropout: probability of dropping an inner unit while training.

    Raises:
        UserError: if an option is out of range.
    """

    name = "mlp"
    fit_kind = "gradient"
    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, hidden_size: int, width: int = 256, depth: int = 1, dropout: float = 0.0) -> None:
        super().__init__(hidden_size)
        self.width, self.depth, self.dropout = width, depth, dropout
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("std", torch.ones(hidden_size))
        self.register_buffer("target_mean", torch.zeros(hidden_size))
        self.register_buffer("target_std", torch.ones(hidden_size))
        self.layers = _perceptron(hidden_size, width, depth, dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Predict the standardised aligned states, and give them their units."""
        edit_of_states: Tensor = self.layers((h.float() - self.mean) / self.std)
        return self.target_mean + self.target_std * edit_of_states

    def standardise(self, moments: PairMoments) -> None:
        """Set mean and std of either twin."""
        self.mean.copy_(moments.mean_x)
        self.std.copy_(usable_std(moments.var_x.sqrt()))
        self.target_mean.copy_(moments.mean_y)
        self.target_std.copy_(usable_std(moments.var_y.sqrt()))

    def unit_scale(self) -> Tensor:
        """Std of the aligned states, so that predicting their mean costs 1."""
        return self.target_std


class LowRankResidual(Standardised):
    """T(h) = h + scale * (B (A z + a) + b), z the standardised state: a low-rank edit that learns by gradient.

    B and b start at zero, so it starts as the identity (or the ridge map).

    Args:
        hidden_size: units per state.
        rank: of B A, from 1 to the hidden size.
        on_ridge: add the edit to ridge(h), not to h.
        ridge: penalty of that solution, as of `affine`.

    Raises:
        UserError: if an option is out of range.
    """

    name = "low_rank_residual"

    def __init__(self, hidden_size: int, rank: int = 16, on_ridge: bool = False, ridge: float = RIDGE) -> None:
        super().__init__(hidden_size, on_ridge, ridge)
        self.rank = check_rank(rank, hidden_size)
        self.down = nn.Linear(hidden_size, rank)
        self.up = nn.Linear(rank, hidden_size)
        _start_at_zero(self.up)

    def edit(self, z: Tensor) -> Tensor:
        """Down to the rank and up again."""
        edit_of_states: Tensor = self.up(self.down(z))
        return edit_of_states


class Loreft(Regressor):
    """T(h) = h + R' (W z + b - R z) s with z = (h - mean) / s: a low-rank linear subspace edit (LoReFT).

    R (rank, hidden) has orthonormal rows; W starts as R and b as 0, so the map starts as the identity. Centring and
    the one scale s, the standard deviation of the median unit, only rewrite W and b of arXiv 2404.03592, so that they
    learn alike at any layer.

    Args:
        hidden_size: units per state.
        rank: rows of R, from 1 to the hidden size.

    Raises:
        UserError: if the rank is out of range.
    """

    name = "loreft"
    fit_kind = "gradient"
    mean: Tensor
    size: Tensor
    scale: Tensor

    def __init__(self, hidden_size: int, rank: int = 16) -> None:
        super().__init__(hidden_size)
        self.rank = check_rank(rank, hidden_size)
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("size", torch.ones(()))
        self.register_buffer("scale", torch.ones(hidden_size))
        # Rows of R are the orthonormal basis of these columns, so plain tensors hold all and any optimiser may step.
        self.columns = nn.Parameter(nn.init.orthogonal_(torch.empty(hidden_size, rank)))
        self.source = nn.Linear(hidden_size, rank)
        with torch.no_grad():
            self.source.weight.copy_(self.rotation())
            self.source.bias.zero_()

    def rotation(self) -> Tensor:
        """R (rank, hidden), its rows orthonormal."""
        basis, triangle = torch.linalg.qr(self.columns)
        # Householder's signs would jump where an entry of the diagonal crosses zero.
        rows: Tensor = (basis * triangle.diagonal().sign()).T
        return rows

    def forward(self, h: Tensor) -> Tensor:
        """Edit the states within the span of R's rows."""
        h = h.float()
        rotation = self.rotation()
        z = (h - self.mean) / self.size
        inside = nn.functional.linear(z, self.source.weight - rotation, self.source.bias)
        return h + self.size * (inside @ rotation)

    def standardise(self, moments: PairMoments) -> None:
        """Set the centre, the one scale, and the units of the loss."""
        self.mean.copy_(moments.mean_x)
        self.size.copy_(moments.var_x.median().sqrt().clamp_min(torch.finfo(torch.float32).eps))
        self.scale.copy_(usable_std(moments.var_diff.sqrt()))

    def unit_scale(self) -> Tensor:
        """Std of the difference between the twins, so that predicting the mean shift costs 1."""
        return self.scale


def _perceptron(hidden_size: int, width: int, depth: int, dropout: float) -> nn.Sequential:
    """`depth` inner layers and a linear one back to the hidden size."""
    if width < 1 or depth < 1:
        raise UserError(f"width is {width} and depth {depth}, but both must be 1 or more")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout is {dropout}, but must be in [0, 1)")
    layers: list[nn.Module] = []
    for inputs in [hidden_size] + [width] * (depth - 1):
        layers += [nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(width, hidden_size))


def _start_at_zero(layer: nn.Module) -> None:
    """Zero a linear layer, so that the edit it ends starts as none."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
