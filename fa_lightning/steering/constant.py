"""Interventions that come down to one vector for every token: what they add, without a hook, and their doses."""

from __future__ import annotations

import math

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


def strength_of_dose(vector: Intervention, dose: float, norm: float | None = None) -> float:
    """The strength that makes a vector's edit as long as `dose` times the mean norm of states at its site.

    Args:
        vector: whose edit is the same for every state.
        dose: below 0 it steers the other way.
        norm: of the states; None takes what the vector was saved with.

    Raises:
        UserError: the edit depends on the state, is nothing, or the norm is not known.
    """
    edit = vector.regressor.constant_edit()
    length = 0.0 if edit is None else float(edit.norm())
    if not length:
        reason = "depends on the state" if edit is None else "is nothing"
        raise UserError(f"dose is for vectors, but the edit of {vector.regressor.name} {reason}: give a strength")
    if norm is None:
        saved = vector.fingerprint.get("vector")
        norm = saved.get("norm") if isinstance(saved, dict) else None
    if not isinstance(norm, (int, float)) or not 0 < norm < math.inf:
        raise UserError(
            "dose needs the mean norm of states at the vector's site, which is saved with those that "
            "`python -m fa_lightning vector` makes: make it so, or give a strength"
        )
    return dose * norm / length
