"""How much each unit of a site matters, for edits of the top units alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.regressors.fit_plan import MEAN_SHIFT, FitPlan, map_at, map_key
from fa_lightning.regressors.linear import Affine


def unit_scores(ranking: str, site: Site, plan: FitPlan, maps: nn.ModuleDict, effects: nn.ParameterDict) -> Tensor:
    """Scores of the units at a site, (hidden,), none negative: the larger, the more a unit matters.

    Args:
        ranking: `difference` is that of the twins' means on decision tokens; `ridge` the weight that an affine map
            gives to a unit's edit; `effect` what the unit does to the answer (see `unit_effects`).
        site: where.
        plan: what was fitted where.
        maps: the plan's maps, by `map_key`.
        effects: sums of `unit_effects`, by `map_key` of number 0; empty where they were not measured.

    Raises:
        UserError: what the ranking needs was not fitted.
        ValueError: there is no such ranking.
    """
    scores: Tensor
    if ranking == "difference":
        shift: Any = map_at(maps, plan.baseline_number(MEAN_SHIFT), site)
        scores = shift.shift.abs()
    elif ranking == "ridge":
        ridge: Any = map_at(maps, _affine_number(plan, site), site)
        weight: Tensor = ridge.weight
        scores = (weight - torch.eye(len(weight), device=weight.device)).norm(dim=1)
    elif ranking == "effect":
        if not effects:
            raise UserError("units are ranked by effect, but their effects were not measured: set rank_units: true")
        scores = effects[map_key(0, site)].abs()
    else:
        raise ValueError(f"ranking is {ranking!r}, but must be difference, ridge or effect")
    return scores


def _affine_number(plan: FitPlan, site: Site) -> int:
    for number, fit in enumerate(plan.fits):
        if issubclass(fit.map_class, Affine) and fit.stack is None and site in plan.sites_of(number):
            return number
    raise UserError("units are ranked by ridge weight, but no affine map is fitted there: add one")
