"""Linear probes: logistic regression and the difference of class means, with and without the covariance."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.regressors.gates import OversightProbe
from fa_lightning.studies.probes.probe import Probe, check_labelled


class Logistic(Probe):
    """Logistic regression on standardised states, with scikit-learn's default penalty (C = 1).

    The arithmetic is that of the gate that reads oversight, `regressors.gates.OversightProbe`.
    """

    name: ClassVar[str] = "logistic"
    rule: ClassVar[str] = "logistic regression on standardised states"

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.plane = OversightProbe(hidden_size)

    @override
    def fit(self, states: Tensor, labels: Tensor) -> None:
        check_labelled(states, labels, self.hidden_size)
        self.plane.fit(states, labels)

    @override
    def score(self, states: Tensor) -> Tensor:
        return states.float() @ self.plane.weight.to(states.device) + self.plane.bias.to(states.device)


class MassMean(Probe):
    """The difference of the class means (arXiv 2310.06824), read at the middle between them.

    The direction is not fitted to tell the classes apart, so it is less drawn to what only happens to differ. Its
    log-odds are those of two Gaussians along it that share their variance.
    """

    name: ClassVar[str] = "mass-mean"
    rule: ClassVar[str] = "projection on the difference of the class means, cut at the middle"
    weight: Tensor
    bias: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.register_buffer("weight", torch.zeros(hidden_size))
        self.register_buffer("bias", torch.zeros(()))

    @override
    def fit(self, states: Tensor, labels: Tensor) -> None:
        check_labelled(states, labels, self.hidden_size)
        states, labels = states.detach().cpu().double(), labels.bool().cpu()
        positive, negative = states[labels].mean(dim=0), states[~labels].mean(dim=0)
        within = torch.where(labels[:, None], states - positive, states - negative)
        weight = self._direction(positive - negative, within)
        self.weight.copy_(weight)
        self.bias.copy_(-weight @ (positive + negative) / 2)

    @override
    def score(self, states: Tensor) -> Tensor:
        return states.float() @ self.weight.to(states.device) + self.bias.to(states.device)

    def _direction(self, difference: Tensor, within: Tensor) -> Tensor:
        """The weight of a Gaussian log-odds ratio, from the difference of means (hidden,) and centred states."""
        variance = (within @ difference).square().mean()
        # Two states alone have no spread: any scale reads them alike.
        scale = difference.square().sum() / variance if variance > 0 else torch.ones((), dtype=torch.float64)
        return scale * difference


class MassMeanCovariance(MassMean):
    """The same with the inverse covariance within the classes: linear discriminant analysis (arXiv 2310.06824, eq. 2).

    The covariance is shrunk as Ledoit and Wolf do, since it would have no inverse where units outnumber states.
    """

    name: ClassVar[str] = "mass-mean, covariance"
    rule: ClassVar[str] = "difference of the class means times the inverse covariance within them"

    @override
    def _direction(self, difference: Tensor, within: Tensor) -> Tensor:
        from sklearn.covariance import ledoit_wolf

        covariance = torch.from_numpy(ledoit_wolf(within.numpy(), assume_centered=True)[0])
        # Two states alone, or units that never move, leave nothing to divide by.
        floor = 1e-6 * max(float(covariance.diagonal().mean()), 1e-12)
        inverted: Tensor = torch.linalg.solve(
            covariance + floor * torch.eye(len(covariance), dtype=torch.float64), difference
        )
        return inverted
