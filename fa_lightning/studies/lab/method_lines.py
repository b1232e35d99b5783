"""Methods compared at equal damage: seeds together, the best site of each, and families that share a colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from fa_lightning.common.numbers import widest
from fa_lightning.reports.drawing import BLUE, GREEN, GREY, ORANGE, PINK, SKY
from fa_lightning.studies.lab.result import LabMethod, LabRow

# Colour and marker by family, in the order of legends.
FAMILIES = {
    "behaviour-aware": (BLUE, "o"),
    "behaviour and regression": (GREEN, "s"),
    "regression to the twin": (ORANGE, "^"),
    "faker alone, no twin": (PINK, "D"),
    "other": (SKY, "v"),
    "baseline": (GREY, "X"),
}
BY_OBJECTIVE = {
    "behaviour": "behaviour-aware",
    "mixed": "behaviour and regression",
    "regression": "regression to the twin",
}
# What lies outside is drawn at the edge: a wrecked model would leave no room for the others.
LOWEST, HIGHEST = -0.2, 1.12
# The strength is chosen on validation texts, so that the same edit may cost a little more on others.
SLACK = 1.1


@dataclass(frozen=True)
class MethodLine:
    """One method at one site, all its seeds together.

    Attributes:
        name: the method, with its objective where one method has several.
        family: a key of `FAMILIES`.
        site: the site's name.
        entries: one for each seed.
    """

    name: str
    family: str
    site: str
    entries: tuple[LabMethod, ...]

    @property
    def recovery(self) -> float:
        """Mean over seeds."""
        return mean(entry.recovery.value for entry in self.entries)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of a single seed; of several from the lowest end of theirs to the highest."""
        return widest([entry.recovery.ci95 for entry in self.entries if math.isfinite(entry.recovery.value)])

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and highest recovery of any seed; nan where none is known."""
        values = [entry.recovery.value for entry in self.entries if math.isfinite(entry.recovery.value)]
        return (min(values), max(values)) if values else (math.nan, math.nan)

    @property
    def kl_nats(self) -> float:
        """The worse of the two KLs on neutral texts, mean over seeds."""
        return mean(entry.side_effects.worst_nats for entry in self.entries)

    def is_within(self, budget_kl_nats: float) -> bool:
        """Whether the damage on the test split is known and at most a tenth above the budget."""
        return self.kl_nats <= SLACK * budget_kl_nats


def method_lines(methods: Sequence[LabMethod]) -> list[MethodLine]:
    """One line for each method and site among the fits on all scenarios, in the order given."""
    names = method_names(methods)
    groups: dict[tuple[str, str], list[LabMethod]] = {}
    for method in methods:
        if method.scenarios is None:
            groups.setdefault((names[method.method, method.objective], method.site), []).append(method)
    return [MethodLine(name, family_of(own[0]), site, tuple(own)) for (name, site), own in groups.items()]


def best_lines(methods: Sequence[LabMethod], budget_kl_nats: float) -> list[MethodLine]:
    """One line for each method, at the site that validation chose; within the budget first, then by recovery.

    Where seeds chose different sites, the site chosen most often is taken, and all seeds are shown there.
    """
    chosen: dict[str, MethodLine] = {}
    for line in method_lines(methods):
        rival = chosen.get(line.name)
        if rival is None or _validation(line) > _validation(rival):
            chosen[line.name] = line
    return sorted(chosen.values(), key=lambda line: (not line.is_within(budget_kl_nats), -_known(line.recovery)))


def method_names(methods: Iterable[LabMethod | LabRow]) -> dict[tuple[str, str], str]:
    """Names that tell apart what was fitted to different objectives, by (method, objective)."""
    pairs = list(dict.fromkeys((method.method, method.objective) for method in methods))
    count: dict[str, int] = {}
    for method, _ in pairs:
        count[method] = count.get(method, 0) + 1
    return {
        (method, objective): f"{method} ({objective})" if count[method] > 1 else method for method, objective in pairs
    }


def family_of(method: LabMethod | LabRow) -> str:
    """The family of a method; of a trial, which knows its objective alone."""
    if isinstance(method, LabMethod) and method.baseline:
        return "baseline"
    if isinstance(method, LabMethod) and method.twin_free:
        return "faker alone, no twin"
    return BY_OBJECTIVE.get(method.objective, "other")


def families_of(methods: Sequence[LabMethod]) -> dict[tuple[str, str], str]:
    """Family by (method, objective), to look trials up in."""
    return {(method.method, method.objective): family_of(method) for method in methods}


def mean(values: Iterable[float]) -> float:
    """Mean of the finite values; nan if there is none.

    >>> mean([1.0, 2.0, float("nan")])
    1.5
    """
    known = [value for value in values if math.isfinite(value)]
    return fmean(known) if known else math.nan


def clipped(recovery: float) -> float:
    """`recovery`, moved to the edge of what is drawn."""
    return min(HIGHEST, max(LOWEST, recovery))


def is_known(*values: float) -> bool:
    """Whether all values are finite."""
    return all(math.isfinite(value) for value in values)


def _validation(line: MethodLine) -> tuple[int, float]:
    """How often validation chose the site, then how much it liked it."""
    chosen = sum(entry.best_site for entry in line.entries)
    return chosen, _known(mean(entry.validation_score for entry in line.entries))


def _known(value: float) -> float:
    """`value`, or minus infinity, so that sorting has an order with nan too."""
    return value if math.isfinite(value) else -math.inf
