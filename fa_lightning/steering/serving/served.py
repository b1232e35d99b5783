"""What a server has loaded: a backbone or twins, the interventions, and the names under which both are asked."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fa_lightning.backbones.decoder import context_of
from fa_lightning.errors import UserError
from fa_lightning.scenarios.turn_endings import end_tokens
from fa_lightning.steering.constant import strength_of_dose
from fa_lightning.steering.intervention import Intervention


@dataclass(frozen=True)
class NamedIntervention:
    """A saved intervention as a request names it; a stack has several parts, which are attached in their order."""

    name: str
    parts: tuple[Intervention, ...]

    @property
    def strength(self) -> float:
        """That it was saved with; of a stack, the first part's."""
        return self.parts[0].strength


@dataclass(frozen=True)
class NamedModel:
    """What a request calls a model.

    Attributes:
        name: in requests.
        variant: the twin that answers; None is the backbone as it is.
        is_steered: whether the interventions hold where a request names none.
    """

    name: str
    variant: str | None
    is_steered: bool


@dataclass
class Served:
    """A loaded model with everything that requests choose from.

    Attributes:
        model: the causal LM.
        tokenizer: its.
        models: the names that may be asked.
        interventions: that may be asked for; where several are, they are attached in this order.
        variants: the twins; None for a backbone by itself.
    """

    model: Any
    tokenizer: Any
    models: Sequence[NamedModel]
    interventions: Sequence[NamedIntervention]
    variants: Any = None
    ends: frozenset[int] = field(init=False)
    context: int = field(init=False)

    def __post_init__(self) -> None:
        self.ends = frozenset(end_tokens(self.model, self.tokenizer))
        self.context = context_of(self.model)

    @property
    def parts(self) -> list[Intervention]:
        """All interventions, stacks part by part: a row's strengths are in this order."""
        return [part for intervention in self.interventions for part in intervention.parts]

    def named(self, name: str) -> NamedModel:
        """The model that a request calls by this name.

        Raises:
            UserError: there is none; the message lists those there are.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise UserError(f"there is no model {name!r}{_choices(name, [model.name for model in self.models])}")

    def strengths(
        self,
        model: NamedModel,
        names: Sequence[str] | None,
        strength: float | Sequence[float] | None,
        dose: float | Sequence[float] | None = None,
    ) -> tuple[float, ...]:
        """A row's strength of every part, 0 where it is not attached.

        Args:
            model: that is asked.
            names: of the interventions; None takes all of a steered model, and none of another.
            strength: in the place of the saved ones: of all, or one for each of `names`; None keeps them.
            dose: likewise, in the place of a strength; for vectors alone (see `strength_of_dose`).

        Raises:
            UserError: an intervention is not there or named twice, strengths are more or fewer than they, there is
                nothing that a strength could be of, or an intervention knows no doses.
        """
        known = [intervention.name for intervention in self.interventions]
        chosen = list(names) if names is not None else known if model.is_steered else []
        for name in chosen:
            if name not in known:
                raise UserError(f"there is no intervention {name!r}{_choices(name, known)}")
        if len(set(chosen)) < len(chosen):
            raise UserError(f"an intervention is named twice: {', '.join(chosen)}")
        if strength is not None and dose is not None:
            raise UserError("strength and dose say the same twice: give one of them")
        factors, doses = _for_each(strength, "strength", chosen, model), _for_each(dose, "dose", chosen, model)
        return tuple(
            _strength_of(part, factors.get(intervention.name), doses.get(intervention.name))
            if intervention.name in chosen
            else 0.0
            for intervention in self.interventions
            for part in intervention.parts
        )

    @contextmanager
    def using(self, variant: str | None) -> Iterator[Any]:
        """The model with a variant active."""
        if variant is None or self.variants is None:
            yield self.model
            return
        with self.variants.using(variant) as model:
            yield model


def names_of(folders: Sequence[str | Path]) -> list[str]:
    """What requests call the interventions of these folders: the last part of a path, more of it where two are alike.

    >>> names_of(["lab/interventions/ridge", "run/04_steering/intervention"])
    ['ridge', 'intervention']
    >>> names_of(["one/intervention", "two/intervention"])
    ['one/intervention', 'two/intervention']

    Raises:
        UserError: two are the same folder.
    """
    paths = [Path(folder).parts for folder in folders]
    for length in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    if not paths:
        return []
    raise UserError("an --intervention is given twice: name each folder once")


def _for_each(
    value: float | Sequence[float] | None, name: str, chosen: Sequence[str], model: NamedModel
) -> dict[str, float]:
    """A request's number by the name of the intervention that it is of."""
    if value is None:
        return {}
    if not chosen:
        raise UserError(
            f"{name} is given, but model {model.name!r} is asked without interventions: ask a steered model, or name "
            "some in `interventions`"
        )
    if isinstance(value, Sequence) and len(value) != len(chosen):
        raise UserError(f"{name} has {len(value)} numbers for {len(chosen)} interventions: give one, or one for each")
    return dict(zip(chosen, value if isinstance(value, Sequence) else [value] * len(chosen), strict=True))


def _strength_of(part: Intervention, strength: float | None, dose: float | None) -> float:
    if dose is not None:
        return strength_of_dose(part, dose)
    return part.strength if strength is None else strength


def _choices(name: str, known: Sequence[str]) -> str:
    if not known:
        return ": the server was started without any"
    close = difflib.get_close_matches(name, known, n=1)
    return (f"; did you mean {close[0]}?" if close else ".") + f" There are: {', '.join(known)}"
