"""Make, read and steer alignment-faking language models with PyTorch Lightning.

The names below are imported from their rooms when they are first used, so that importing the package costs next to
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fa_lightning.common.version import __version__ as __version__

if TYPE_CHECKING:
    from fa_lightning.activations.capture import capture
    from fa_lightning.activations.sites import Site
    from fa_lightning.activations.store import ActivationStore
    from fa_lightning.backbones.arguments import BackboneArguments
    from fa_lightning.backbones.load import load_backbone, load_tokenizer
    from fa_lightning.backbones.variants import Variants
    from fa_lightning.errors import UserError
    from fa_lightning.evaluation.direct import contrast_vector, fit_map, judge, read_states
    from fa_lightning.regressors.base import Regressor
    from fa_lightning.scenarios.scenario import Scenario
    from fa_lightning.scenarios.source import ScenarioSource
    from fa_lightning.steering.intervention import Intervention
    from fa_lightning.steering.intervention import steering as steer
    from fa_lightning.steering.text_comparison import Sampling
    from fa_lightning.steering.text_comparison import write as generate

__all__ = [
    "ActivationStore",
    "BackboneArguments",
    "Intervention",
    "Regressor",
    "Sampling",
    "Scenario",
    "ScenarioSource",
    "Site",
    "UserError",
    "Variants",
    "capture",
    "contrast_vector",
    "fit_map",
    "generate",
    "judge",
    "load_backbone",
    "load_tokenizer",
    "read_states",
    "steer",
]

_HOMES = {
    "ActivationStore": "activations.store",
    "BackboneArguments": "backbones.arguments",
    "Intervention": "steering.intervention",
    "Regressor": "regressors.base",
    "Sampling": "steering.text_comparison",
    "Scenario": "scenarios.scenario",
    "ScenarioSource": "scenarios.source",
    "Site": "activations.sites",
    "UserError": "errors",
    "Variants": "backbones.variants",
    "capture": "activations.capture",
    "contrast_vector": "evaluation.direct",
    "fit_map": "evaluation.direct",
    "generate": "steering.text_comparison",
    "judge": "evaluation.direct",
    "load_backbone": "backbones.load",
    "load_tokenizer": "backbones.load",
    "read_states": "evaluation.direct",
    "steer": "steering.intervention",
}
"""The module that each public name comes from."""

_NAMES_THERE = {"steer": "steering", "generate": "write"}
"""What a few of them are called there."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), _NAMES_THERE.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
