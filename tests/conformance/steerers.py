"""fa_lightning behind the calls of the laws, one steerer per kind of map."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.activations.sites import Site
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.gates import OversightProbe
from fa_lightning.regressors.linear import Affine, MeanShift
from fa_lightning.regressors.networks import ResidualMLP
from fa_lightning.steering.intervention import Intervention, steering
from tests.conformance.models import HIDDEN
from tests.conformance.reference import Edit, Steerer

METHODS = ["shift", "affine", "mlp", "gated", "several"]


def vector_for(hidden: int = HIDDEN) -> Tensor:
    """A fixed direction (hidden,), about as long as the random models' states."""
    return 2 * torch.randn(hidden, generator=torch.Generator().manual_seed(3))


@functools.cache
def mlp_map(hidden: int = HIDDEN) -> ResidualMLP:
    torch.manual_seed(1)
    regressor = ResidualMLP(hidden, width=16, dropout=0.5)
    last: Any = regressor.layers[-1]
    nn.init.normal_(last.weight, std=0.5)
    return regressor.eval()


@functools.cache
def affine_map(hidden: int = HIDDEN) -> Affine:
    torch.manual_seed(2)
    regressor = Affine(hidden)
    regressor.weight.add_(0.2 * torch.randn(hidden, hidden))
    regressor.bias.add_(torch.randn(hidden))
    return regressor


def shift_map(vector: Tensor) -> MeanShift:
    regressor = MeanShift(len(vector))
    regressor.shift.copy_(vector)
    return regressor


@functools.cache
def probe(hidden: int = HIDDEN) -> OversightProbe:
    """A gate that says yes to the half of the random states whose first unit is above zero."""
    states = torch.randn(200, hidden, generator=torch.Generator().manual_seed(4))
    gate = OversightProbe(hidden)
    gate.fit(states, states[:, 0] > 0)
    return gate


def make_edit(rule: str, regressor: Regressor | None = None, layer: int = 0, strength: float = 0.7) -> Intervention:
    """An intervention on the residual stream, with an MLP unless another map is given."""
    return Intervention(Site(layer, positions=rule), regressor or mlp_map(), strength)


class FaLightning(Steerer):
    """This package, with one of `METHODS` made from an edit's vector."""

    name = "fa_lightning"
    rules = ("all", "last", "generated", "prompt", "from_6", "from_2")
    components = ("residual", "attention", "mlp")

    def __init__(self, method: str = "shift") -> None:
        self.method = method

    def interventions(self, edit: Edit) -> list[Intervention]:
        """What is attached for an edit."""
        hidden = len(edit.vector)
        regressors: dict[str, list[Regressor]] = {
            "shift": [shift_map(edit.vector)],
            "affine": [affine_map(hidden)],
            "mlp": [mlp_map(hidden)],
            "gated": [affine_map(hidden)],
            "several": [affine_map(hidden), mlp_map(hidden), shift_map(edit.vector)],
        }
        component: Any = edit.component
        site = Site(edit.layer, component, edit.rule)
        gate = probe(hidden) if self.method == "gated" else None
        return [Intervention(site, regressor, edit.strength, gate=gate) for regressor in regressors[self.method]]

    def steer(self, model: Any, edits: list[Edit], prompt_tokens: Tensor | None = None) -> AbstractContextManager[Any]:
        return _steered(model, [part for edit in edits for part in self.interventions(edit)], prompt_tokens)

    def steer_rows(
        self, model: Any, edit: Edit, strengths: list[float], prompt_tokens: Tensor | None = None
    ) -> AbstractContextManager[Any]:
        parts = self.interventions(edit)
        return _steered(model, parts, prompt_tokens, torch.tensor([strengths] * len(parts)))

    @torch.no_grad()
    def edited(self, edit: Edit, hidden: Tensor) -> Tensor:
        for part in self.interventions(edit):
            flat = hidden.reshape(-1, hidden.shape[-1])
            new = flat + part.strength * (part.regressor.eval()(flat) - flat)
            if part.gate is not None:
                new = torch.where(part.gate(flat)[:, None], new, flat)
            hidden = new.view(hidden.shape)
        return hidden

    def saved_and_loaded(self, model: Any, edit: Edit, folder: Path) -> AbstractContextManager[Any]:
        parts = self.interventions(edit)
        folders = [part.save(folder / str(index)) for index, part in enumerate(parts)]
        return _steered(model, [Intervention.load(path, model) for path in folders])


@contextmanager
def _steered(
    model: Any,
    interventions: list[Intervention],
    prompt_tokens: Tensor | None = None,
    strengths: Tensor | None = None,
) -> Iterator[Any]:
    with steering(model, interventions, prompt_tokens, strengths):
        yield model
