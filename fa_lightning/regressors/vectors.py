"""Maps from the faker alone: a direction that tells contrast pairs apart, added or projected onto."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fa_lightning.common.float64 import in_float64
from fa_lightning.errors import UserError
from fa_lightning.regressors.base import Regressor, check_finite_states
from fa_lightning.regressors.linear import ConstantShift

Direction = Literal["mean", "principal"]
ProjectionMode = Literal["target", "mirror"]


class ContrastRegressor(Regressor):
    """What maps from contrast pairs share: a direction between the two sides.

    Args:
        hidden_size: units per state.
        direction: `mean` difference, or `principal` direction of the paired differences.

    Raises:
        UserError: if an option is none of those.
    """

    fit_kind = "contrast"

    def __init__(self, hidden_size: int, direction: Direction = "mean") -> None:
        super().__init__(hidden_size)
        self.direction: Direction = _one_of("direction", direction, Direction)


class ContrastVector(ContrastRegressor, ConstantShift):
    """T(h) = h + v: v the mean difference of contrast pairs, or its part along their principal direction.

    The mean difference is the steering vector of contrastive activation addition (arXiv 2312.06681) and activation
    addition (arXiv 2308.10248), the principal direction that of representation engineering (arXiv 2310.01405).

    Args:
        hidden_size: units per state.
        direction: `mean` difference, or `principal` direction of the paired differences.
        normalise: give v unit norm; the strength of an intervention is then its length.

    Raises:
        UserError: if an option is out of range.
    """

    name = "contrast_vector"

    def __init__(
        self,
        hidden_size: int,
        direction: Direction = "mean",
        normalise: bool = False,
    ) -> None:
        super().__init__(hidden_size, direction)
        self.normalise = normalise

    def fit_contrast(self, positive: Tensor, negative: Tensor) -> None:
        """Set the vector from the pairs."""
        unit, length = contrast_direction(*_checked(positive, negative, self.hidden_size), self.direction)
        self.shift.copy_(unit if self.normalise else length * unit)


class ProjectionShift(ContrastRegressor):
    """Moves a state along one direction d, only where it lies on the wrong side of a threshold (arXiv 2604.08169).

    The threshold lies midway between the mean projections of the positive and the negative states. A state with
    h.d below it is moved along d, to the `target`, the mean projection of the positive states, or to its `mirror`
    image on the other side of the threshold. Every other state stays as it is.

    Args:
        hidden_size: units per state.
        direction: d is along the `mean` difference, or the `principal` direction of the paired differences.
        mode: where a state is moved.

    Raises:
        UserError: if an option is none of those.
    """

    name = "projection_shift"
    axis: Tensor
    threshold: Tensor
    target: Tensor

    def __init__(
        self,
        hidden_size: int,
        direction: Direction = "mean",
        mode: ProjectionMode = "target",
    ) -> None:
        super().__init__(hidden_size, direction)
        self.mode: ProjectionMode = _one_of("mode", mode, ProjectionMode)
        self.register_buffer("axis", torch.zeros(hidden_size))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("target", torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        """Move the states below the threshold."""
        h = h.float()
        # A product and a sum, not a matrix product, which autocast would round to 8 bits.
        projection = (h * self.axis).sum(-1, keepdim=True)
        distance = self.target - projection if self.mode == "target" else 2 * (self.threshold - projection)
        return h + torch.where(projection < self.threshold, distance, 0.0) * self.axis

    def fit_contrast(self, positive: Tensor, negative: Tensor) -> None:
        """Set direction, threshold and target from the pairs."""
        positive, negative = _checked(positive, negative, self.hidden_size)
        unit, _ = contrast_direction(positive, negative, self.direction)
        above, below = (states.mean(0) @ unit for states in (positive, negative))
        self.axis.copy_(unit)
        self.threshold.copy_((above + below) / 2)
        self.target.copy_(above)


def contrast_direction(positive: Tensor, negative: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """The unit direction (hidden,) from negative to positive states, and the mean difference's length along it.

    The principal direction is that of the differences as they are, not centred: representation engineering flips
    pairs at random before it centres, which leaves their mean difference in.

    >>> unit, length = contrast_direction(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), "mean")
    >>> [round(value, 3) for value in unit.tolist()], round(length.item(), 3)
    ([0.6, 0.8], 5.0)

    Args:
        positive: states (pairs, hidden), float64.
        negative: states (pairs, hidden), in the same order.
        direction: which one.

    Raises:
        UserError: if positive and negative states do not differ in the mean, so that no sign is right.
    """
    differences = positive - negative
    mean = differences.mean(0)
    unit = torch.linalg.svd(differences, full_matrices=False).Vh[0] if direction == "principal" else mean
    norm = unit.norm()
    unit = unit / norm.clamp_min(torch.finfo(unit.dtype).tiny)
    length = mean @ unit
    if not length.abs() > 1e-9 * differences.square().sum(1).mean().sqrt():
        raise UserError(
            f"positive and negative states ({len(positive)} pairs) do not differ in the mean along their {direction} "
            "direction: the two sides hold the same prompts, or the site does not see what tells them apart"
        )
    return unit * length.sign(), length.abs()


def _checked(positive: Tensor, negative: Tensor, hidden_size: int) -> tuple[Tensor, Tensor]:
    """Contrast pairs in float64."""
    if positive.shape != negative.shape or positive.ndim != 2 or positive.shape[1] != hidden_size or not len(positive):
        raise ValueError(
            f"positive is {tuple(positive.shape)} and negative {tuple(negative.shape)}, but both must be "
            f"(pairs, {hidden_size}) with as many pairs, at least one"
        )
    check_finite_states(positive=positive, negative=negative)
    return in_float64(positive.detach()), in_float64(negative.detach().to(positive.device))


def _one_of(name: str, value: Any, kinds: Any) -> Any:
    if value not in get_args(kinds):
        raise UserError(f"{name} is {value!r}, but must be one of: {', '.join(get_args(kinds))}")
    return value
