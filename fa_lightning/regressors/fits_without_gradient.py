"""Every fit without a gradient: from moments gathered block by block, or from the states themselves."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.activations.sites import Site
from fa_lightning.activations.store import ActivationStore
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.faker_pass import FakerPass
from fa_lightning.regressors.fit import Fit
from fa_lightning.regressors.fit_plan import FitPlan, map_at, map_key
from fa_lightning.regressors.fits_through_model import stack_pairs
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.regressors.pairs import Block, decision_states, exchangeable_pairs, sampled_pairs, training_pairs
from fa_lightning.regressors.wrong_pairs import wrong_pairs
from fa_lightning.scenarios.batches import Batch


class FitsWithoutGradient:
    """The moments of a plan's pairs while they stream by, and what is set from them.

    Args:
        plan: what is fitted where.
        maps: the plan's maps, by `map_key`.
        probes: oversight probes, by `map_key` of number 0.
    """

    def __init__(self, plan: FitPlan, maps: nn.ModuleDict, probes: nn.ModuleDict) -> None:
        self._plan, self._maps, self._probes = plan, maps, probes
        self._moments: dict[Any, PairMoments] = {}

    def add(self, block: Block) -> None:
        """Add a block of the store to the moments of all pairs that some map wants."""
        # Fits that take the same pairs share their moments.
        wanted = {
            _pairs_key(fit, site): (fit, site)
            for _, fit, site in self._plan.store_fits()
            if fit.fit_kind in ("closed", "gradient") and not fit.shuffled
        }
        for key, (fit, site) in wanted.items():
            faking, aligned, weight = training_pairs(block, site, fit)
            self._moments.setdefault(key, PairMoments(faking.shape[1])).add(faking, aligned, weight)

    @torch.no_grad()
    def fit_first(self, data: Any) -> None:
        """Fit everything that the moments and the store's rows suffice for; a collective.

        Args:
            data: the DataModule, with its `store` and, for vectors, `contrast`.
        """
        for moments in self._moments.values():
            moments.all_reduce()
        for number, fit, site in self._plan.store_fits():
            if fit.shuffled:
                continue
            regressor = map_at(self._maps, number, site)
            if fit.fit_kind == "closed":
                regressor.fit(self._moments[_pairs_key(fit, site)])
            elif fit.fit_kind == "gradient":
                regressor.standardise(self._moments[_pairs_key(fit, site)])
            elif fit.fit_kind == "samples":
                pairs = sampled_pairs(data.store, site, fit)
                regressor.fit_samples(pairs.x, pairs.y, pairs.weight)
            else:
                contrast = data.contrast(fit.contrast or "oversight")
                regressor.fit_contrast(contrast.positive[site.name], contrast.negative[site.name])
        self._fit_on_wrong_pairs(data.store)
        for site in self._plan.sites:
            if map_key(0, site) in self._probes:
                probe: Any = self._probes[map_key(0, site)]
                probe.fit(*decision_states(data.store, site))
        self._moments.clear()

    def _fit_on_wrong_pairs(self, store: ActivationStore) -> None:
        """Fit the maps of wrong pairs: the rows are read once for all draws, and are the same on every rank."""
        alike: dict[Any, list[tuple[Regressor, Fit, Site]]] = {}
        for number, fit, site in self._plan.store_fits():
            if fit.shuffled:
                alike.setdefault(_pairs_key(fit, site), []).append((map_at(self._maps, number, site), fit, site))
        for fits in alike.values():
            first, fit, site = fits[0]
            # What asks for no edit is the same in all draws, and all of it counts, as it does for the map.
            kept = PairMoments(first.hidden_size)
            pairs = exchangeable_pairs(store, site, fit, kept)
            for regressor, draw, _ in fits:
                moments = copy.deepcopy(kept)
                # Beside the map, where a device is that multiplies faster.
                device = next(regressor.buffers()).device
                moments.add(*(column.to(device) for column in wrong_pairs(pairs, draw.seed)))
                regressor.fit(moments)

    @torch.no_grad()
    def add_to_stacks(self, epoch: int, live: FakerPass, aligned: dict[str, Tensor], texts: Batch) -> None:
        """Add a batch to the moments of each growing stack's next site, as the sites below steer it by now.

        Args:
            epoch: how many of a stack's sites are fitted.
            live: the faker's unsteered pass over prompts.
            aligned: the aligned twin's states of the same prompts.
            texts: neutral texts.
        """
        for number in self._plan.growing_stacks(epoch):
            sites = self._plan.sites_of(number)
            edits = [(site, map_at(self._maps, number, site)) for site in sites[:epoch]]
            for pairs in stack_pairs(self._plan.fits[number], sites[epoch], edits, live, aligned, texts):
                self._moments.setdefault(number, PairMoments(pairs[0].shape[1])).add(*pairs)

    def fit_next_of_stacks(self, epoch: int) -> None:
        """Fit the next site of every stack whose moments were gathered; a collective."""
        for number in sorted(self._moments):
            moments = self._moments.pop(number)
            moments.all_reduce()
            map_at(self._maps, number, self._plan.sites_of(number)[epoch]).fit(moments)


def _pairs_key(fit: Fit, site: Site) -> tuple[Any, ...]:
    """What the pairs that a map is fitted on depend on."""
    return (site.name, fit.positions == "all", fit.decision_weight, fit.keep, fit.scenarios)
