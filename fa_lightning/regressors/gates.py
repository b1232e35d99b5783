"""Whether a state asks for an edit: a probe that reads from the faker whether it feels watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.errors import UserError
from fa_lightning.regressors.base import check_finite_states
from fa_lightning.regressors.scales import usable_std


class OversightProbe(nn.Module):
    """A linear probe of the faker's state: True where it says that oversight is poor.

    Logistic regression on standardised states, folded into one weight and bias.

    Args:
        hidden_size: units per state.

    Raises:
        ValueError: if `hidden_size` is not positive.
    """

    name = "oversight_probe"
    weight: Tensor
    bias: Tensor
    fitted: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        if hidden_size < 1:
            raise ValueError(f"hidden_size is {hidden_size}, but must be a positive number of units")
        self.hidden_size = hidden_size
        self.register_buffer("weight", torch.zeros(hidden_size))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(self, states: Tensor, poor: Tensor) -> None:
        """Fit the probe.

        Args:
            states: of the faker (n, hidden).
            poor: whether oversight was poor (n,), booleans; both must occur.

        Raises:
            UserError: if one of the two classes is missing.
            ValueError: if the shapes disagree.
            NotFiniteError: if a state is not finite.
        """
        from sklearn.linear_model import LogisticRegression

        if states.ndim != 2 or states.shape[1] != self.hidden_size or poor.shape != states.shape[:1]:
            raise ValueError(
                f"states is {tuple(states.shape)} and poor {tuple(poor.shape)}, but they must be "
                f"(n, {self.hidden_size}) and (n,)"
            )
        check_finite_states(states=states)
        poor = poor.bool().cpu()
        if poor.all() or not poor.any():
            raise UserError(
                f"poor is True for {int(poor.sum())} of {len(poor)} states, but the probe needs states of both kinds"
            )
        states = states.detach().cpu().double()
        mean = states.mean(0)
        std = usable_std(states.std(0, correction=0))
        probe = LogisticRegression(max_iter=1000).fit(((states - mean) / std).numpy(), poor.numpy())
        weight = torch.from_numpy(probe.coef_[0]) / std
        self.weight.copy_(weight)
        self.bias.copy_(float(probe.intercept_[0]) - weight @ mean)
        self.fitted.fill_(True)

    def forward(self, h: Tensor) -> Tensor:
        """Say where oversight is poor: states (n, hidden) -> (n,) booleans.

        Raises:
            RuntimeError: if the probe has not been fitted or loaded.
        """
        if not self.fitted:
            raise RuntimeError(
                "a gate without its probe: call fit(states, poor), or load_state_dict of a fitted probe, first"
            )
        # A product and a sum, not a matrix product, which autocast would round to 8 bits.
        return (h.float() * self.weight).sum(-1) + self.bias > 0

    def config(self) -> dict[str, Any]:
        """Name: what `build_gate` needs beside the hidden size."""
        return {"name": self.name}


def build_gate(config: Mapping[str, Any], hidden_size: int) -> OversightProbe:
    """Build an unfitted gate from what its `config` returned.

    >>> build_gate({"name": "oversight_probe"}, hidden_size=4).config()
    {'name': 'oversight_probe'}

    Raises:
        UserError: if no gate has that name and those options.
    """
    if dict(config) != {"name": OversightProbe.name}:
        raise UserError(f"the gate's config is {dict(config)}, but must be {{'name': '{OversightProbe.name}'}}")
    return OversightProbe(hidden_size)
