"""Small states and their moments, for the tests of maps."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fa_lightning.regressors.maps import map_classes
from fa_lightning.regressors.moments import PairMoments

HIDDEN = 4

Map = TypeVar("Map", bound=nn.Module)


def states(rows: int = 64, seed: int = 0, hidden: int = HIDDEN) -> Tensor:
    """Standard normal states (rows, hidden)."""
    return torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed))


def moments_of(x: Tensor, y: Tensor, weight: Tensor | None = None) -> PairMoments:
    """Moments of pairs."""
    moments = PairMoments(x.shape[1])
    moments.add(x, y, weight)
    return moments


def described(name: str, **options: Any) -> dict[str, Any]:
    """The config of a map, by the name of its class; of what is no map, with that name as it is."""
    paths = {path.rpartition(".")[2]: path for path in map_classes()}
    return {"class_path": paths.get(name, name), "init_args": options}


def randomised(regressor: Map) -> Map:
    """A map with all it may learn set at random."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in regressor.state_dict().values():
            drawn = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(drawn > 0.5 if tensor.dtype == torch.bool else drawn + 0.5)
    return regressor.eval()
