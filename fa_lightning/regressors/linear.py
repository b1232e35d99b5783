"""Maps with a closed solution: the identity, a shift, one line a unit, an affine map, a low-rank one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fa_lightning.regressors.base import Regressor, check_rank, check_ridge, checked_pairs
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.regressors.scales import usable_std

RIDGE = 1e-2
"""The usual penalty of ridge regression, see `Affine`."""

_COUPLED_VALUES = 2**22
"""Values of either twin whose quantiles are coupled at a time: some 0.3 GiB."""


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


class ConstantShift(Regressor):
    """T(h) = h + shift, whatever h is: the form of maps that come down to one vector."""

    shift: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.register_buffer("shift", torch.zeros(hidden_size))

    def forward(self, h: Tensor) -> Tensor:
        """Add the shift."""
        return h.float() + self.shift

    def constant_edit(self) -> Tensor:
        """The shift (hidden,)."""
        return self.shift


class MeanShift(ConstantShift):
    """T(h) = h + shift, with the shift the mean difference between the twins: difference-in-means steering.

    Example:
        >>> shift = MeanShift(hidden_size=2)
        >>> shift.shift.copy_(torch.tensor([1.0, -1.0]))
        tensor([ 1., -1.])
        >>> shift(torch.zeros(1, 2)).tolist()
        [[1.0, -1.0]]
    """

    name = "mean_shift"

    def fit(self, moments: PairMoments) -> None:
        """Set the shift to the mean of y - x."""
        self.shift.copy_(moments.mean_difference)


class UnitLines(Regressor):
    """T(h) = h + gain * (h - mean) + shift, each unit by itself: the form that the two transport maps share.

    The gain is that of the edit, so units that never varied while fitting (gain 0) are shifted and not blown up.
    """

    gain: Tensor
    mean: Tensor
    shift: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        for name in ("gain", "mean", "shift"):
            self.register_buffer(name, torch.zeros(hidden_size))

    def forward(self, h: Tensor) -> Tensor:
        """Move each unit along its line."""
        h = h.float()
        return h + self.gain * (h - self.mean) + self.shift

    def _set_line(self, slope: Tensor, std_x: Tensor, mean_x: Tensor, mean_y: Tensor) -> None:
        """Store the line through the means (hidden,); a slope counts only where the faking unit varied."""
        varied = std_x >= usable_std(std_x)
        self.gain.copy_(torch.where(varied, slope - 1, 0.0))
        self.mean.copy_(mean_x)
        self.shift.copy_(mean_y - mean_x)


class DiagonalAffine(UnitLines):
    """T(h) = mean_y + std_y / std_x (h - mean_x): each unit's optimal transport, were the states Gaussian.

    It needs the moments alone, and no pair of states: only how each unit is distributed in either twin.
    """

    name = "diagonal_affine"

    def fit(self, moments: PairMoments) -> None:
        """Match mean and standard deviation of each unit."""
        std_x = moments.var_x.sqrt()
        slope = moments.var_y.sqrt() / usable_std(std_x)
        self._set_line(slope, std_x, moments.mean_x, moments.mean_y)


class SortedTransport(UnitLines):
    """Linear activation transport (Linear-AcT, arXiv 2410.23054): per unit, least squares of sorted y on sorted x.

    Sorting couples the two distributions of a unit, whatever the pairs were. Weighted states are coupled by their
    weighted quantiles, which for equal weights is sorting.
    """

    name = "sorted_transport"
    fit_kind = "samples"

    @torch.no_grad()
    def fit_samples(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
        """Fit each unit's line to its quantiles."""
        x, y, weight = checked_pairs(x, y, weight, self.hidden_size)
        weight = weight / weight.sum()
        mean_x, mean_y = weight @ x, weight @ y
        centred_x, centred_y = x - mean_x, y - mean_y
        variance = weight @ centred_x.square()
        # A quantile coupling takes several times the memory of the states it couples.
        units = max(1, _COUPLED_VALUES // len(x))
        parts = zip(torch.split(centred_x, units, dim=1), torch.split(centred_y, units, dim=1), strict=True)
        covariance = torch.cat([_coupled_covariance(a, b, weight) for a, b in parts])
        std_x = variance.sqrt()
        self._set_line(covariance / usable_std(std_x).square(), std_x, mean_x, mean_y)


class Affine(Regressor):
    """T(h) = h W' + b by ridge regression, shrunk towards the identity (and so, with its bias, the mean shift).

    Args:
        hidden_size: units per state.
        ridge: penalty on W - I with each unit of the faking states standardised, see `PairMoments.ridge`.
    """

    name = "affine"
    weight: Tensor
    bias: Tensor

    def __init__(self, hidden_size: int, ridge: float = RIDGE) -> None:
        super().__init__(hidden_size)
        self.ridge = check_ridge(ridge)
        self.register_buffer("weight", torch.eye(hidden_size))
        self.register_buffer("bias", torch.zeros(hidden_size))

    def forward(self, h: Tensor) -> Tensor:
        """Apply the affine map."""
        return nn.functional.linear(h.float(), self.weight, self.bias)

    def fit(self, moments: PairMoments) -> None:
        """Solve the ridge regression in float64."""
        weight, bias = moments.ridge(self.ridge)
        self.weight.copy_(weight)
        self.bias.copy_(bias)


class LowRank(Regressor):
    """T(h) = h + U V h + b: the ridge regression of the edit with at most `rank` directions (reduced-rank ridge).

    Of all edits of that rank it has the least penalised squared error: the ridge solution is cut to the leading
    principal directions of the edits it predicts (Eckart and Young in the metric of the regularised covariance).

    Args:
        hidden_size: units per state.
        rank: of U V, from 1 to the hidden size.
        ridge: penalty as of `affine`.

    Raises:
        UserError: if an option is out of range.
    """

    name = "low_rank"
    up: Tensor
    down: Tensor
    bias: Tensor

    def __init__(self, hidden_size: int, rank: int = 16, ridge: float = RIDGE) -> None:
        super().__init__(hidden_size)
        self.rank, self.ridge = check_rank(rank, hidden_size), check_ridge(ridge)
        self.register_buffer("up", torch.zeros(hidden_size, rank))
        self.register_buffer("down", torch.zeros(rank, hidden_size))
        self.register_buffer("bias", torch.zeros(hidden_size))

    def forward(self, h: Tensor) -> Tensor:
        """Add the edit."""
        h = h.float()
        return h + nn.functional.linear(nn.functional.linear(h, self.down), self.up, self.bias)

    def fit(self, moments: PairMoments) -> None:
        """Solve the ridge regression in float64 and cut it to the rank."""
        weight, _ = moments.ridge(self.ridge)
        edit = weight - torch.eye(self.hidden_size, dtype=weight.dtype, device=weight.device)
        # With E = C' S^-1 the ridge solution of the edit, E C is E S E', the second moment of the edits in metric S.
        second = edit @ moments.covariance_difference
        directions = torch.linalg.eigh((second + second.T) / 2).eigenvectors[:, -self.rank :]
        down = directions.T @ edit
        self.up.copy_(directions)
        self.down.copy_(down)
        self.bias.copy_(moments.mean_difference - directions @ (down @ moments.mean_x))


def _coupled_covariance(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Covariance per unit of centred x and y (n, units) coupled by their weighted quantiles, (units,).

    Both quantile functions are steps: between any two neighbouring steps of either, the product is constant.
    """
    sorted_x, order_x = x.T.sort(dim=1)
    sorted_y, order_y = y.T.sort(dim=1)
    reached_x, reached_y = weight[order_x].cumsum(1), weight[order_y].cumsum(1)
    steps = torch.cat([reached_x, reached_y], dim=1).sort(dim=1).values.clamp(max=1.0)
    width = steps.diff(dim=1, prepend=torch.zeros_like(steps[:, :1]))
    last = x.shape[0] - 1
    value_x = sorted_x.gather(1, torch.searchsorted(reached_x, steps).clamp(max=last))
    value_y = sorted_y.gather(1, torch.searchsorted(reached_y, steps).clamp(max=last))
    return (width * value_x * value_y).sum(1)
