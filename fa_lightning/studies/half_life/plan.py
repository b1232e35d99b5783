"""Which models are attacked how, and which are judged along each attack."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from fa_lightning.evaluation.conditions import Condition
from fa_lightning.studies.half_life.result import Attack

NO_CURE, TWIN, STEERING, WEIGHTS = "no cure", "honest twin", "steering", "weight arithmetic"


@dataclass(frozen=True)
class Training:
    """A fine-tuning, and the cured models that are judged along it.

    Attributes:
        attack: what is trained on.
        condition: the model that it is trained beside.
        judged: by cure and attack, the models that are judged with what was trained.
    """

    attack: Attack
    condition: Condition
    judged: dict[tuple[str, Attack], Condition]


def trainings(cures: Mapping[str, Condition], attacks: Collection[str]) -> Iterator[Training]:
    """Every fine-tuning; where steering is taken off, it is that of the faker.

    Args:
        cures: cured models by name, the faker without a cure among them.
        attacks: those that are made.
    """
    # The faker itself comes last, which has nothing to lose.
    order = [*(cure for cure in cures if cure != NO_CURE), NO_CURE]
    known: tuple[Attack, ...] = ("faking", "chat")
    for attack in (attack for attack in known if attack in attacks):
        for cure in order:
            judged: dict[tuple[str, Attack], Condition] = {(cure, attack): cures[cure]}
            if cure == NO_CURE and attack == "faking" and STEERING in cures:
                judged[STEERING, "faking_unsteered"] = cures[STEERING]
            yield Training(attack, cures[cure], judged)
