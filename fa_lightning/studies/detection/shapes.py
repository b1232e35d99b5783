"""What the figures of detectors read: attributes alone, so that rooms below can pass their own objects.

They are properties, since the objects are frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class NamedLike(Protocol):
    """A detector."""

    @property
    def name(self) -> str:
        """Its name."""


class AccuracyLike(Protocol):
    """How often a detector names the faker of pairs of one kind."""

    @property
    def detector(self) -> str:
        """Its name."""

    @property
    def policy_pair(self) -> str:
        """`saint_and_money`, or `all`."""

    @property
    def kind(self) -> str:
        """`twins`, `decoys` or `steered`."""

    @property
    def value(self) -> float:
        """Share of pairs told rightly."""

    @property
    def ci95(self) -> tuple[float, float]:
        """Lower and upper end."""


class AloneLike(Protocol):
    """How well a detector tells fakers from benign models, one at a time."""

    @property
    def detector(self) -> str:
        """Its name."""

    @property
    def auroc(self) -> float:
        """Area under the ROC curve."""

    @property
    def auroc_ci95(self) -> tuple[float, float]:
        """Lower and upper end."""

    @property
    def tpr(self) -> float:
        """True positive rate on folds left out."""

    @property
    def fpr(self) -> float:
        """False positive rate there."""

    @property
    def roc(self) -> tuple[Sequence[float], Sequence[float]]:
        """False and true positive rates."""


class SuspectLike(Protocol):
    """One model under suspicion."""

    @property
    def name(self) -> str:
        """Of the variant."""

    @property
    def behaviour(self) -> str:
        """`aligned`, `faking`, or empty where nobody knows."""

    @property
    def role(self) -> str:
        """`variant`, `decoy` or `steered`."""

    @property
    def suspicion(self) -> Mapping[str, float]:
        """By detector; higher is more faking."""

    @property
    def curves(self) -> Mapping[str, tuple[str, Sequence[float], Sequence[float]]]:
        """By detector, the name of the axis, its values and the measured mean at each."""


class DetectionLike(Protocol):
    """Everything that detectors found, as `detectors.found.Detection`."""

    @property
    def detectors(self) -> Sequence[NamedLike]:
        """In the order of the tables."""

    @property
    def suspects(self) -> Sequence[SuspectLike]:
        """Every model."""

    @property
    def accuracies(self) -> Sequence[AccuracyLike]:
        """By detector, policy pair and kind."""

    @property
    def alone(self) -> Sequence[AloneLike]:
        """By detector."""
