"""Interventions that come down to one vector for every token, which need no hook."""

from __future__ import annotations

from torch import Tensor

from fa_lightning.errors import UserError
from fa_lightning.steering.intervention import Intervention


def shift_of_every_token(intervention: Intervention, refusal: str, adds: str, instead: str = "") -> Tensor:
    """What an intervention adds to every token, strength and all: (hidden,) float32.

    Args:
        intervention: at any site.
        refusal: how an error begins.
        adds: who would add the shift, for errors: `a bias adds`.
        instead: what to do with an intervention that is none of that kind.

    Raises:
        UserError: its edit depends on the state, it has a gate, or it does not edit every token.
    """
    constant = intervention.regressor.constant_edit()
    if constant is not None and intervention.gate is None and intervention.site.positions == "all":
        return (intervention.strength * constant).detach().float()
    if constant is None:
        name = intervention.regressor.name
        reason = f"the edit of {name} depends on the state (mean_shift's or contrast_vector's does not)"
    elif intervention.gate is not None:
        reason = "it has a gate"
    else:
        reason = f"its positions are {intervention.site.positions!r}"
        instead = f'{instead} If every token is meant, take intervention.at(positions="all") (--positions all)'.strip()
    raise UserError(f"{refusal}{reason}, but {adds} one vector to every token. {instead}".rstrip())
