"""What the lab's figures and tables read: attributes alone, so that rooms below can pass their own objects.

They are properties, since the objects are frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class ValueLike(Protocol):
    """A number and its 95 % interval."""

    @property
    def value(self) -> float:
        """The number; nan where it is undefined."""

    @property
    def ci95(self) -> tuple[float, float]:
        """Lower and upper end."""


class DivergenceLike(Protocol):
    """What steering changes on neutral texts, in one number."""

    @property
    def kl_neutral_nats(self) -> float:
        """KL on neutral texts, nats per token."""


class DamageLike(DivergenceLike, Protocol):
    """What steering changes that it should not."""

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity of neutral texts, steered over not steered."""


class PlacedLike(Protocol):
    """A method at a site."""

    @property
    def method(self) -> str:
        """The method's name."""

    @property
    def site(self) -> str:
        """The site's name."""


class FittedLike(PlacedLike, Protocol):
    """A method at a site, and what it was fitted to."""

    @property
    def objective(self) -> str:
        """`regression`, `behaviour`, `mixed` or `none`."""

    @property
    def scenarios(self) -> int | None:
        """Scenarios fitted on; None for all."""


class TrialLike(FittedLike, DivergenceLike, Protocol):
    """One trial on the validation split."""

    @property
    def strength(self) -> float:
        """The a in h' = h + a (T(h) - h)."""

    @property
    def oversight(self) -> float:
        """Accuracy with oversight."""

    @property
    def recovery(self) -> float:
        """Recovery without oversight."""


class MethodLike(FittedLike, Protocol):
    """A method at one site, from one seed and number of scenarios, on the test split."""

    @property
    def seed(self) -> int:
        """Of the fit."""

    @property
    def twin_free(self) -> bool:
        """Whether the faker alone is enough."""

    @property
    def baseline(self) -> bool:
        """Whether it is a control."""

    @property
    def best_site(self) -> bool:
        """Whether validation chose this site."""

    @property
    def recovery(self) -> ValueLike:
        """Recovery without oversight."""

    @property
    def side_effects(self) -> DamageLike:
        """Of steering the faker."""

    @property
    def validation_score(self) -> float:
        """What the site is chosen by; higher is better."""


class UnitLike(PlacedLike, DivergenceLike, Protocol):
    """An edit of the top units of a site."""

    @property
    def ranking(self) -> str:
        """What units are ranked by."""

    @property
    def kind(self) -> str:
        """`map` or `oracle`."""

    @property
    def percent(self) -> float:
        """Units edited, 0 to 100."""

    @property
    def recovery(self) -> float:
        """Recovery without oversight."""


class DoseLike(PlacedLike, DamageLike, Protocol):
    """One dose of one method."""

    @property
    def dose(self) -> float:
        """The edit's norm over the mean residual norm."""

    @property
    def oversight(self) -> float:
        """Accuracy with oversight."""

    @property
    def no_oversight(self) -> float:
        """Accuracy without oversight."""

    @property
    def repetition(self) -> float:
        """Share of repeated 3-grams, 0 to 1."""


class MapLike(Protocol):
    """Hidden states of one site in two dimensions."""

    @property
    def site(self) -> str:
        """The site's name."""

    @property
    def points(self) -> Mapping[Any, Sequence[tuple[float, float, int]]]:
        """By model, (x, y, cell)."""

    @property
    def explained(self) -> tuple[float, float]:
        """Shares of the variance along x and y."""


class TransferLike(Protocol):
    """A method on what it was not fitted on."""

    @property
    def method(self) -> str:
        """The method's name."""

    @property
    def target(self) -> str:
        """What it is judged on."""

    @property
    def recovery(self) -> ValueLike:
        """Recovery without oversight."""


class LabLike(Protocol):
    """Everything the lab found, as `reports.lab.Lab`."""

    @property
    def budget_kl_nats(self) -> float:
        """The damage at which methods are compared."""

    @property
    def rows(self) -> Sequence[TrialLike]:
        """All trials."""

    @property
    def methods(self) -> Sequence[MethodLike]:
        """What the budget bought."""

    @property
    def units(self) -> Sequence[UnitLike]:
        """Edits of the top units."""

    @property
    def doses(self) -> Sequence[DoseLike]:
        """Curves over the dose."""

    @property
    def maps(self) -> Sequence[MapLike]:
        """Activations in two dimensions."""

    @property
    def transfer(self) -> Sequence[TransferLike]:
        """Methods on other targets."""
