"""Every map by its name, and the way back from a config to a map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fa_lightning.errors import UserError
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.linear import Affine, DiagonalAffine, Identity, LowRank, MeanShift, SortedTransport
from fa_lightning.regressors.neighbours import NearestNeighbours
from fa_lightning.regressors.networks import Loreft, LowRankResidual, PlainMLP, ResidualMLP
from fa_lightning.regressors.vectors import ContrastVector, ProjectionShift
from fa_lightning.regressors.wrappers import NormMatchedRandom, UnitSubset

_KINDS: tuple[type[Regressor], ...] = (
    Identity,
    MeanShift,
    DiagonalAffine,
    SortedTransport,
    Affine,
    LowRank,
    ResidualMLP,
    PlainMLP,
    LowRankResidual,
    Loreft,
    NearestNeighbours,
    ContrastVector,
    ProjectionShift,
)

REGRESSORS: dict[str, type[Regressor]] = {kind.name: kind for kind in _KINDS}


def build_regressor(config: Mapping[str, Any], hidden_size: int) -> Regressor:
    """Build an unfitted map from what `Regressor.config` returned.

    Example:
        >>> build_regressor({"name": "affine", "ridge": 0.1}, hidden_size=4).config()
        {'name': 'affine', 'ridge': 0.1}

    Args:
        config: the map's `name` and options.
        hidden_size: units per state.

    Raises:
        UserError: if no map has that name or it has no such option.
    """
    options = dict(config)
    name = options.pop("name", None)
    try:
        if name == NormMatchedRandom.name:
            return NormMatchedRandom(build_regressor(options.pop("inner", {}), hidden_size), **options)
        if name == UnitSubset.name:
            # Which units are kept is a tensor, and comes with the others.
            keep = torch.ones(hidden_size, dtype=torch.bool)
            return UnitSubset(build_regressor(options.pop("inner", {}), hidden_size), keep, **options)
        if name in REGRESSORS:
            return REGRESSORS[name](hidden_size, **options)
    except TypeError as error:
        raise UserError(f"the options of regressor {name} are {options}, but {error}") from error
    names = ", ".join([*REGRESSORS, NormMatchedRandom.name, UnitSubset.name])
    raise UserError(f"the regressor's name is {name!r}, but must be one of: {names}")
