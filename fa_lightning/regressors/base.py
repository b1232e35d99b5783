"""What a map from the faking model's hidden state to the aligned model's is, and how maps of each kind are fitted.

Every map is built from the hidden size and typed options of its own, and keeps all it has learnt in its `state_dict`.
So a map is saved as tensors and the words of its `config()`, and never pickled.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fa_lightning.common.float64 import in_float64
from fa_lightning.errors import NotFiniteError, UserError
from fa_lightning.regressors.moments import PairMoments

FitKind = Literal["closed", "samples", "gradient", "contrast"]

_FITS: dict[FitKind, str] = {
    "closed": "from moments: call fit(moments)",
    "samples": "from pairs in memory: call fit_samples(x, y, weight)",
    "gradient": "by gradient: call standardise(moments), then minimise loss(h, target)",
    "contrast": "from contrast pairs: call fit_contrast(positive, negative)",
}


class Regressor(nn.Module, ABC):
    """A map T from a faking state to a predicted aligned state, (n, hidden) -> (n, hidden) in float32.

    `fit_kind` says how a map learns:

    | kind | how |
    | --- | --- |
    | `closed` | `fit`, from the moments of the pairs, in one step |
    | `samples` | `fit_samples`, from the pairs themselves |
    | `gradient` | `standardise` sets its units from the moments, then minimise `loss` |
    | `contrast` | `fit_contrast`, from the faker's own states on contrast pairs |

    A subclass declares its options as keyword arguments of its `__init__`, and keeps each as an attribute of that name.

    Args:
        hidden_size: units per state.

    Attributes:
        name: what tables call the map where a fit gives no other name.

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

    @abstractmethod
    def forward(self, h: Tensor) -> Tensor:
        """Predict the aligned states: (n, hidden) of any float dtype -> (n, hidden) float32."""

    def config(self) -> dict[str, Any]:
        """Class path and options, JSON-able: what `build_regressor` needs beside the hidden size."""
        options = [name for name in inspect.signature(type(self)).parameters if name != "hidden_size"]
        return {"class_path": class_path(type(self)), "init_args": {name: getattr(self, name) for name in options}}

    def fit(self, moments: PairMoments) -> None:
        """Set a closed map from the moments of the pairs.

        Raises:
            TypeError: if the map is fitted otherwise.
        """
        raise TypeError(self._wrong_fit())

    def fit_samples(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
        """Set a map from pairs in memory.

        Args:
            x: faking states (n, hidden).
            y: aligned states (n, hidden) of the same tokens.
            weight: weight of each pair (n,), not negative; None weighs all 1.

        Raises:
            TypeError: if the map is fitted otherwise.
            ValueError: if there are no pairs, the shapes disagree, or a value is not finite.
        """
        raise TypeError(self._wrong_fit())

    def fit_contrast(self, positive: Tensor, negative: Tensor) -> None:
        """Set a map from the faker's own states on contrast pairs.

        Args:
            positive: states (pairs, hidden) to steer towards.
            negative: states (pairs, hidden) to steer away from, in the same order.

        Raises:
            TypeError: if the map is fitted otherwise.
            ValueError: if there are no pairs, their numbers differ, or a value is not finite.
        """
        raise TypeError(self._wrong_fit())

    def standardise(self, moments: PairMoments) -> None:
        """Set the units in which a gradient map works; other maps have none."""

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

    def _wrong_fit(self) -> str:
        return f"{self.name} is fitted {_FITS[self.fit_kind]}"


def class_path(kind: type) -> str:
    """A class as a config names it.

    >>> class_path(Regressor)
    'fa_lightning.regressors.base.Regressor'
    """
    return f"{kind.__module__}.{kind.__qualname__}"


def checked_pairs(x: Tensor, y: Tensor, weight: Tensor | None, hidden_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs and weights in float64, on the device of `x` or what stands in for it, without those of weight 0.

    Raises:
        ValueError: if the shapes disagree or a weight is negative.
        NotFiniteError: if a value is not finite.
        UserError: if no pair has a positive weight.
    """
    if x.ndim != 2 or x.shape[1] != hidden_size or y.shape != x.shape:
        raise ValueError(f"x is {tuple(x.shape)} and y {tuple(y.shape)}, but both must be (n, {hidden_size})")
    weight = torch.ones(len(x), device=x.device) if weight is None else weight.to(x.device)
    if weight.shape != x.shape[:1]:
        raise ValueError(f"weight is {tuple(weight.shape)}, but must be ({len(x)},), one per pair")
    check_finite_states(x=x, y=y, weight=weight)
    if (weight < 0).any():
        raise ValueError(f"weight holds {weight.min().item():g}, but weights must be 0 or more")
    used = weight > 0
    if not used.any():
        raise UserError(f"none of the {len(x)} pairs has a positive weight, but the fit needs at least one")
    return in_float64(x[used]), in_float64(y.to(x.device)[used]), in_float64(weight[used])


def check_finite_states(**states: Tensor) -> None:
    """Refuse values that are not finite.

    Raises:
        NotFiniteError: naming the argument.
    """
    for name, values in states.items():
        if not torch.isfinite(values).all():
            raise NotFiniteError(
                f"{name} holds values that are not finite: the states overflowed their dtype, record anew"
            )


def check_rank(rank: int, hidden_size: int) -> int:
    """The rank, if an edit of that many units can have it.

    Raises:
        UserError: if it can't.
    """
    if not 1 <= rank <= hidden_size:
        raise UserError(f"rank is {rank}, but must be from 1 to {hidden_size}, the number of units of a state")
    return rank


def check_ridge(ridge: float) -> float:
    """The penalty, if it is one.

    Raises:
        UserError: if it is negative or not a number.
    """
    if not ridge >= 0:
        raise UserError(f"ridge is {ridge}, but must be 0 or more")
    return ridge
