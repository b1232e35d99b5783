"""Streaming first and second moments of paired hidden states, and the ridge regression they give.

The sums need one pass and memory that does not grow with the data, so a closed-form map can be fitted inside a
Trainer loop, on several processes, from a store that fits no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed
from torch import Tensor

from fa_lightning.common.float64 import float64_device, in_float64
from fa_lightning.errors import NotFiniteError, UserError
from fa_lightning.regressors.scales import usable_std

_SUMS = ("count", "sum_x", "sum_d", "sum_xx", "sum_xd", "sum_dd", "sum_yy")
_REFERENCES = ("reference_x", "reference_d")


@contextmanager
def _full_float32_products() -> Iterator[None]:
    """Matrix products without TensorFloat-32, whose 10-bit mantissa would spoil the covariance."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class PairMoments:
    """Weighted means and covariances of a pair of states x (faking) and y (aligned), summed block by block.

    The sums are those of x and of the difference d = y - x, since the maps learn the difference and d is small where
    the twins agree: products of y itself would cancel. Each block is centred on a fixed reference (the first block's
    mean), multiplied in float32 and summed in float64, so a large mean costs no precision.

    Example:
        >>> moments = PairMoments(hidden=2)
        >>> moments.add(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[1.0, 1.0], [3.0, 3.0]]))
        >>> moments.mean_x.tolist(), moments.mean_y.tolist()
        ([1.0, 2.0], [2.0, 2.0])

    Args:
        hidden: units per state.

    Raises:
        ValueError: if `hidden` is not positive.
    """

    count: Tensor
    sum_x: Tensor
    sum_d: Tensor
    sum_xx: Tensor
    sum_xd: Tensor
    sum_dd: Tensor
    sum_yy: Tensor
    reference_x: Tensor
    reference_d: Tensor

    def __init__(self, hidden: int) -> None:
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}, but must be a positive number of units")
        self.hidden = hidden
        self._has_reference = False
        shapes: dict[str, tuple[int, ...]] = {"count": (), "sum_xx": (hidden, hidden), "sum_xd": (hidden, hidden)}
        for name in _SUMS + _REFERENCES:
            setattr(self, name, torch.zeros(shapes.get(name, (hidden,)), dtype=torch.float64))

    @torch.no_grad()
    def add(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
        """Add a block of pairs.

        Args:
            x: faking states (n, hidden), any float dtype.
            y: aligned states (n, hidden) of the same tokens.
            weight: weight of each pair (n,), not negative; None weighs all 1.

        Raises:
            ValueError: if the shapes disagree.
            NotFiniteError: if a state is not finite.
        """
        if x.ndim != 2 or x.shape[1] != self.hidden or y.shape != x.shape:
            raise ValueError(f"x is {tuple(x.shape)} and y {tuple(y.shape)}, but both must be (n, {self.hidden})")
        if weight is not None and weight.shape != x.shape[:1]:
            raise ValueError(f"weight is {tuple(weight.shape)}, but must be ({x.shape[0]},), one per pair")
        if not len(x):
            return
        x = x.float()
        difference = y.to(x.device).float() - x
        self._to(float64_device(x.device))
        if not self._has_reference:
            self.reference_x, self.reference_d = in_float64(x).mean(0), in_float64(difference).mean(0)
            self._has_reference = True
        if weight is not None:
            weight = weight.to(x.device).float()
        x = _centred(x, self.reference_x)
        difference = _centred(difference, self.reference_d)
        count = len(x) if weight is None else in_float64(weight).sum()
        sum_x, sum_d = (part.sum(0) if weight is None else (part * weight[:, None]).sum(0) for part in (x, difference))
        if weight is not None:
            # With a root on either side the weighted product is one of a matrix with itself too.
            x, difference = x * weight.sqrt()[:, None], difference * weight.sqrt()[:, None]
        xx, xd = _products(x, difference)
        if not torch.isfinite(xd.sum() + xx.sum()):
            raise NotFiniteError("x, y or weight holds values that are not finite: the states overflowed their dtype")
        self.count += count
        sum_dd = difference.square().sum(0)
        # From the other sums a unit that varies little in y but much in x would be told by their rounding errors.
        sum_yy = (x + difference).square_().sum(0)
        for name, total in zip(_SUMS[1:], (sum_x, sum_d, xx, xd, sum_dd, sum_yy), strict=True):
            getattr(self, name).add_(total.to(self.sum_x.device))

    def merge(self, other: PairMoments) -> None:
        """Add the pairs that another instance has seen."""
        if other.hidden != self.hidden:
            raise ValueError(f"other.hidden is {other.hidden}, but these moments have {self.hidden} units")
        if not other._has_reference:
            return
        if not self._has_reference:
            self.load_state_dict(other.state_dict())
            return
        moved = PairMoments(self.hidden)
        moved.load_state_dict(other.state_dict())
        moved._to(self.sum_x.device)
        moved._recentre(self.reference_x, self.reference_d)
        for name in _SUMS:
            getattr(self, name).add_(getattr(moved, name))

    def all_reduce(self) -> None:
        """Sum over all processes of `torch.distributed`; nothing where it is not initialised.

        Call it once, when all blocks are in: a second call would count every pair once per process. Processes may
        hold different numbers of pairs, or none.
        """
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return
        if torch.distributed.get_backend() == "nccl":
            # A process that saw no pairs still holds its zeros on the CPU, which NCCL cannot reduce.
            self._to(torch.device("cuda", torch.cuda.current_device()))
        # Each process has its own reference: move all to their mean first, or the sums would not add up.
        holders = self.count.new_tensor(float(self._has_reference))
        reference_x, reference_d = self.reference_x.clone(), self.reference_d.clone()
        for tensor in (holders, reference_x, reference_d):
            torch.distributed.all_reduce(tensor)
        if not holders:
            return
        self._recentre(reference_x / holders, reference_d / holders)
        for name in _SUMS:
            torch.distributed.all_reduce(getattr(self, name))

    @property
    def mean_x(self) -> Tensor:
        """Mean faking state (hidden,), float64."""
        return self.reference_x + self.sum_x / self._total()

    @property
    def mean_difference(self) -> Tensor:
        """Mean of y - x (hidden,), float64."""
        return self.reference_d + self.sum_d / self._total()

    @property
    def mean_y(self) -> Tensor:
        """Mean aligned state (hidden,), float64."""
        return self.mean_x + self.mean_difference

    @property
    def var_x(self) -> Tensor:
        """Population variance of each unit of x (hidden,), float64."""
        total = self._total()
        return (self.sum_xx.diagonal() / total - (self.sum_x / total) ** 2).clamp_min(0)

    @property
    def var_y(self) -> Tensor:
        """Population variance of each unit of y (hidden,), float64."""
        total = self._total()
        return (self.sum_yy / total - ((self.sum_x + self.sum_d) / total) ** 2).clamp_min(0)

    @property
    def var_diff(self) -> Tensor:
        """Population variance of each unit of y - x (hidden,), float64."""
        total = self._total()
        return (self.sum_dd / total - (self.sum_d / total) ** 2).clamp_min(0)

    @property
    def covariance(self) -> Tensor:
        """Population covariance of x (hidden, hidden), float64."""
        total = self._total()
        mean = self.sum_x / total
        covariance = self.sum_xx / total - mean[:, None] * mean
        # Float32 products are not quite symmetric on every backend; the Cholesky factor reads one triangle only.
        return (covariance + covariance.T) / 2

    @property
    def covariance_difference(self) -> Tensor:
        """Population covariance of x (rows) with y - x (columns), (hidden, hidden), float64."""
        total = self._total()
        return self.sum_xd / total - (self.sum_x / total)[:, None] * (self.sum_d / total)

    def ridge(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Affine map from x to y, shrunk towards the identity.

        The penalty falls on the map from x to y - x, so an infinite one leaves the mean shift, not a zero map. Units
        are standardised before it, so one value suits any layer, and units of massive size (arXiv 2402.17762), which a
        penalty relative to the mean unit would be relative to, shrink the edits of no others.

        Args:
            penalty: ridge penalty on the map from standardised units of x, per pair; not negative.

        Returns:
            weight (hidden, hidden) and bias (hidden,), float64, with y predicted as x @ weight.T + bias.

        Raises:
            UserError: if the penalty is so small that the covariance is singular.
            ValueError: if the penalty is negative.
        """
        if not penalty >= 0:
            raise ValueError(f"penalty is {penalty}, but must be 0 or more")
        covariance = self.covariance
        identity = torch.eye(self.hidden, dtype=torch.float64, device=covariance.device)
        # States that never vary leave nothing to regress on: any penalty then gives the mean shift.
        std = usable_std(self.var_x.sqrt())
        correlation = covariance / std[:, None] / std
        factor, failed = torch.linalg.cholesky_ex(correlation + penalty * identity)
        if failed:
            raise UserError(
                f"penalty is {penalty}, but the covariance of {self._total().item():g} pairs of {self.hidden} units is "
                "singular without a larger one: try 0.01, or fit on more pairs"
            )
        residual = torch.cholesky_solve(self.covariance_difference / std[:, None], factor).T / std
        return identity + residual, self.mean_difference - residual @ self.mean_x

    def state_dict(self) -> dict[str, Tensor]:
        """The sums as a plain dict of tensors, for a checkpoint."""
        state = {name: getattr(self, name).clone() for name in _SUMS + _REFERENCES}
        state["has_reference"] = torch.tensor(self._has_reference)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the sums that `state_dict` returned.

        Raises:
            UserError: if a tensor is missing or the hidden size differs.
        """
        expected = {*_SUMS, *_REFERENCES, "has_reference"}
        if set(state) != expected:
            raise UserError(f"state holds {sorted(state)}, but must hold {sorted(expected)}")
        if state["sum_x"].shape != (self.hidden,):
            raise UserError(f"state has {state['sum_x'].numel()} units, but these moments have {self.hidden}")
        for name in _SUMS + _REFERENCES:
            setattr(self, name, state[name].double().clone())
        self._has_reference = bool(state["has_reference"])

    def _total(self) -> Tensor:
        if not self.count > 0:
            raise UserError("the moments hold no pairs (or only pairs of weight 0): add some first")
        return self.count

    def _to(self, device: torch.device) -> None:
        if self.sum_x.device != device:
            for name in _SUMS + _REFERENCES:
                setattr(self, name, getattr(self, name).to(device))

    def _recentre(self, reference_x: Tensor, reference_d: Tensor) -> None:
        """Rewrite the sums as if every block had been centred on these references; exact but for float64 rounding."""
        shift_x, shift_d = self.reference_x - reference_x, self.reference_d - reference_d
        sum_x, sum_d = self.sum_x, self.sum_d
        self.sum_xx = self.sum_xx + _cross(sum_x, shift_x, sum_x, shift_x, self.count)
        self.sum_xd = self.sum_xd + _cross(sum_x, shift_x, sum_d, shift_d, self.count)
        self.sum_dd = self.sum_dd + 2 * sum_d * shift_d + self.count * shift_d**2
        shift_y = shift_x + shift_d
        self.sum_yy = self.sum_yy + 2 * (sum_x + sum_d) * shift_y + self.count * shift_y**2
        self.sum_x = sum_x + self.count * shift_x
        self.sum_d = sum_d + self.count * shift_d
        self.reference_x, self.reference_d = reference_x.clone(), reference_d.clone()
        self._has_reference = True


def _centred(block: Tensor, reference: Tensor) -> Tensor:
    """`block` less `reference`, as exact as in float64: a float32 reference alone would be rounded away from the block.

    Args:
        block: (n, hidden), float32.
        reference: (hidden,), float64, near the block's values.
    """
    high = reference.float()
    low = (reference - high.double()).float()
    return (block - high.to(block.device)).sub_(low.to(block.device))


def _products(x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """The products x' x and x' d in float32, (hidden, hidden) each."""
    if x.device.type == "cpu":
        # numpy's BLAS knows the product of a matrix with itself, which is half the work, and torch's is the slower of
        # the two on AMD.
        own, other = x.numpy(), d.numpy()
        return torch.from_numpy(own.T @ own), torch.from_numpy(own.T @ other)
    with _full_float32_products(), torch.autocast(x.device.type, enabled=False):
        return x.T @ x, x.T @ d


def _cross(sum_a: Tensor, shift_a: Tensor, sum_b: Tensor, shift_b: Tensor, count: Tensor) -> Tensor:
    """Sum of (a + shift_a)(b + shift_b)' less the sum of ab', from the sums of a and b; (hidden, hidden)."""
    return torch.outer(sum_a, shift_b) + torch.outer(shift_a, sum_b) + count * torch.outer(shift_a, shift_b)
