"""What is fitted where: every spec at its sites, and beside the specs the baselines that they are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.spec import DECISION_ALONE, RegressorSpec

MEAN_SHIFT = RegressorSpec("mean_shift", decision_weight=DECISION_ALONE)
"""The baseline of every spec: the shift of decision tokens."""


class FitPlan:
    """The specs of a run by number, each with its sites; the baselines' numbers come after the candidates'.

    Args:
        specs: of the candidates.
        sites: of the store; a spec that names another one is refused when its places are asked for.
        layers: number of the model's decoder blocks.
    """

    def __init__(self, specs: list[RegressorSpec], sites: list[Site], layers: int) -> None:
        self.specs = specs
        self.sites = sites
        self.layers = layers
        baselines = [MEAN_SHIFT, *(shuffled(spec) for spec in specs)]
        self.all_specs = [*specs, *(spec for place, spec in enumerate(baselines) if spec not in baselines[:place])]

    def refuse_equal_names(self) -> None:
        """Check that every candidate has a name of its own.

        Raises:
            UserError: two would bear one name at one site.
        """
        names = [
            f"'{spec.title}' at {site.name}"
            for number, spec in enumerate(self.specs)
            for site in (self.places(number)[-1:] if spec.stack else self.places(number))
        ]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two regressors are called {name}: tell them apart by `method` or `seed`")

    def places(self, number: int) -> list[Site]:
        """A spec's sites; the baselines' are all, since any may be chosen."""
        if number < len(self.specs):
            return self.specs[number].places(self.sites, self.layers)
        return list(self.sites)

    def placed(self) -> Iterator[tuple[int, Site]]:
        """Every candidate's spec with each of its sites, but for stacks, whose states are not the store's."""
        for number, spec in enumerate(self.specs):
            if spec.stack is None:
                for site in self.places(number):
                    yield number, site

    def store_fits(self) -> Iterator[tuple[int, RegressorSpec, Site]]:
        """Every fit that starts from the store's states, baselines and all: of a stack its first site alone."""
        for number, spec in enumerate(self.all_specs):
            for site in self.places(number)[: 1 if spec.stack else None]:
                yield number, spec, site

    def gradient_fits(self, *objectives: str) -> list[tuple[int, Site]]:
        """The candidates' fits by gradient that have one of these objectives."""
        return [
            (number, site)
            for number, site in self.placed()
            if self.specs[number].fit_kind == "gradient" and self.specs[number].objective in objectives
        ]

    def growing_stacks(self, epoch: int) -> list[int]:
        """The stacks that get one more site in an epoch, by the number of their spec."""
        return [number for number, spec in enumerate(self.specs) if len(spec.stack or ()) > epoch]

    def baseline_number(self, spec: RegressorSpec) -> int:
        """The number of a baseline; not that of a candidate that happens to be fitted alike."""
        return len(self.all_specs) - 1 - self.all_specs[::-1].index(spec)


def shuffled(spec: RegressorSpec) -> RegressorSpec:
    """The ridge map of wrong pairs that a spec is compared with."""
    return RegressorSpec("affine", decision_weight=spec.decision_weight, ridge=spec.ridge, shuffled=True)


def map_at(maps: nn.ModuleDict, number: int, site: Site) -> Regressor:
    """The map of a spec at a site, of those kept by `map_key`."""
    found: Any = maps[map_key(number, site)]
    regressor: Regressor = found
    return regressor


def map_key(number: int, site: Site) -> str:
    """A name that `nn.ModuleDict` takes: no dots.

    >>> map_key(2, Site(3))
    '2-layers_3_residual'
    """
    return f"{number}-{site.name.replace('.', '_')}"
