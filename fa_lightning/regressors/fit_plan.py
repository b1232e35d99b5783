"""What is fitted where: every fit at its sites, and beside the fits the baselines that they are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.metrics.draws import DRAWS
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.fit import DECISION_ALONE, Fit
from fa_lightning.regressors.linear import RIDGE, Affine, MeanShift

MEAN_SHIFT = Fit(MeanShift, decision_weight=DECISION_ALONE)
"""The baseline of every fit: the shift of decision tokens."""


class FitPlan:
    """The fits of a run by number, each with its sites; the baselines' numbers come after the candidates'.

    Args:
        fits: of the candidates.
        sites: of the store; a fit that names another one is refused when its sites are asked for.
        layers: number of the model's decoder blocks.
        seed: of the chain: neighbouring ones share no exchange of partners.
    """

    def __init__(self, fits: list[Fit], sites: list[Site], layers: int, seed: int = 0) -> None:
        self.fits = fits
        self.sites = sites
        self.layers = layers
        self._sites: dict[int, list[Site]] = {}
        baselines = [MEAN_SHIFT, *(one for fit in fits for one in (*ridge_beside(fit), *shuffled(fit, seed)))]
        self.all_fits = [*fits, *(fit for number, fit in enumerate(baselines) if fit not in baselines[:number])]

    def refuse_equal_names(self) -> None:
        """Check that every candidate has a name of its own.

        Raises:
            UserError: two would bear one name at one site.
        """
        names = [
            f"'{fit.title}' at {site.name}"
            for number, fit in enumerate(self.fits)
            for site in (self.sites_of(number)[-1:] if fit.stack else self.sites_of(number))
        ]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two regressors are called {name}: tell them apart by `method` or `seed`")

    def sites_of(self, number: int) -> list[Site]:
        """A fit's sites; the baselines' are all, since any may be chosen."""
        if number >= len(self.fits):
            return list(self.sites)
        if number not in self._sites:
            self._sites[number] = self.fits[number].resolve(self.sites, self.layers)
        return self._sites[number]

    def single_maps(self) -> Iterator[tuple[int, Site]]:
        """Every candidate's fit with each of its sites, but for stacks, whose states are not the store's."""
        for number, fit in enumerate(self.fits):
            if fit.stack is None:
                for site in self.sites_of(number):
                    yield number, site

    def store_fits(self) -> Iterator[tuple[int, Fit, Site]]:
        """Every fit that starts from the store's states, baselines and all: of a stack its first site alone."""
        for number, fit in enumerate(self.all_fits):
            for site in self.sites_of(number)[: 1 if fit.stack else None]:
                yield number, fit, site

    def gradient_fits(self, *objectives: str) -> list[tuple[int, Site]]:
        """The candidates' fits by gradient that have one of these objectives."""
        return [
            (number, site)
            for number, site in self.single_maps()
            if self.fits[number].fit_kind == "gradient" and self.fits[number].objective in objectives
        ]

    def growing_stacks(self, epoch: int) -> list[int]:
        """The stacks that get one more site in an epoch, by the number of their fit."""
        # Names that mean the same block of a model are one site.
        return [
            number
            for number, fit in enumerate(self.fits)
            if fit.stack is not None and len(self.sites_of(number)) > epoch
        ]

    def baseline_number(self, fit: Fit) -> int:
        """The number of a baseline; not that of a candidate that happens to be fitted alike."""
        return len(self.all_fits) - 1 - self.all_fits[::-1].index(fit)


def ridge_beside(fit: Fit) -> list[Fit]:
    """The ridge map of a fit's own pairs, what maps of wrong pairs are to be held against; none beside a ridge map."""
    return [] if fit.map_class is Affine else [_ridge(fit)]


def shuffled(fit: Fit, seed: int = 0) -> list[Fit]:
    """The ridge maps of wrong pairs, one for each draw; number k is drawn by the seed `seed * DRAWS + k`."""
    return [replace(_ridge(fit), shuffled=True, seed=seed * DRAWS + draw) for draw in range(DRAWS)]


def _ridge(fit: Fit) -> Fit:
    """The ridge map of a fit's own pairs; what the fit keeps, it keeps."""
    # What a fit through answers is charged for is the decision, and neutral texts by a weight of their own.
    through_answers = fit.objective == "behaviour"
    return Fit(
        partial(Affine, ridge=fit.options.get("ridge", RIDGE)),
        positions=fit.positions,
        decision_weight=DECISION_ALONE if through_answers else fit.decision_weight,
        keep=fit.neutral_weight if through_answers else fit.keep,
    )


def map_at(maps: nn.ModuleDict, number: int, site: Site) -> Regressor:
    """The map of a fit at a site, of those kept by `map_key`."""
    module: Any = maps[map_key(number, site)]
    regressor: Regressor = module
    return regressor


def map_key(number: int, site: Site) -> str:
    """A name that `nn.ModuleDict` takes: no dots.

    >>> map_key(2, Site(3))
    '2-layers_3_residual'
    """
    return f"{number}-{site.name.replace('.', '_')}"
