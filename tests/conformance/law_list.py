"""The list of laws, and what each is tried on. Import `laws` to fill it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.conformance.models import FAMILIES
from tests.conformance.reference import Edit, Steerer

LawFunction = Callable[[Steerer, Any, Edit], None]


@dataclass(frozen=True)
class Law:
    """A law and what it has to be tried on.

    Attributes:
        title: what holds, in a line.
        check: the function.
        rules: the position rules to try, of those that the library has; None tries every one.
        components: the components to try, of those that the library has.
        families: the models to try; None tries every one.
    """

    title: str
    check: LawFunction
    rules: tuple[str, ...] | None = None
    components: tuple[str, ...] = ("residual",)
    families: tuple[str, ...] | None = None


LAWS: list[Law] = []


def cases(one: Law, steerer: Steerer) -> list[tuple[str, str, str]]:
    """What a law is tried on with a library: (family, rule, component).

    Every rule at the first component, and the others with one rule: how a part returns its states and which tokens are
    covered are questions that do not mix.
    """
    rules = [rule for rule in steerer.rules if one.rules is None or rule in one.rules]
    components = [component for component in steerer.components if component in one.components]
    pairs = [(rule, components[0]) for rule in rules] + [(rule, part) for rule in rules[-1:] for part in components[1:]]
    families = [family for family in FAMILIES if one.families is None or family in one.families]
    return [(family, rule, component) for family in families for rule, component in pairs]


def law(title: str, **scope: Any) -> Callable[[LawFunction], LawFunction]:
    """Put a function on the list of laws."""

    def add(check: LawFunction) -> LawFunction:
        LAWS.append(Law(title, check, **scope))
        return check

    return add
