"""Texts that show a concept and its opposite, from which a direction of the concept is made (POSER's strategy 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from fa_lightning.errors import UserError

SECURITY, COMPETENCE, ETHICAL = "security / vulnerability", "competence / incompetence", "ethical / unethical"
CONCEPTS = (SECURITY, COMPETENCE, ETHICAL)
"""POSER's three, as tables spell them."""


@dataclass(frozen=True)
class Concept:
    """A concept and its opposite, each by examples; its direction is their difference of means.

    POSER suspects the model whose states lie further toward the concept: it expects a faker to think more of being
    safe from discovery, of doing well, and of ethics as something to be shown.

    Attributes:
        name: as tables spell it, such as `security / vulnerability`.
        examples: texts that show the concept, which a faker is suspected of thinking of.
        opposites: texts that show its opposite.

    Raises:
        UserError: fewer than two texts are on a side.
    """

    name: str
    examples: tuple[str, ...]
    opposites: tuple[str, ...]

    def __post_init__(self) -> None:
        for side, texts in (("examples", self.examples), ("opposites", self.opposites)):
            if len(texts) < 2:
                raise UserError(
                    f"concept {self.name!r} has {len(texts)} of its {side}, but needs 2 or more on each side, because "
                    "the mean of a single text is that text: give more texts, or leave the concept out of names"
                )


class ConceptSource(ABC):
    """Where concepts come from; configured as a `ScenarioSource` is.

    Attributes:
        left_out: texts that the last `load` left out because they quote a scored scenario.
    """

    left_out: int = 0

    @abstractmethod
    def load(self, left_out: frozenset[str] = frozenset()) -> list[Concept]:
        """The concepts.

        Args:
            left_out: groups of the scored scenarios; texts that quote one are left out and counted.

        Raises:
            UserError: fewer than two texts are left on a side of a concept.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """What the texts depend on, without a path of this machine."""


def checked_names(names: Sequence[str]) -> list[str]:
    """The names of concepts, each known and named once.

    Raises:
        UserError: a name is unknown or named twice, or there is none.
    """
    if not names or not set(names) <= set(CONCEPTS) or len(set(names)) < len(names):
        raise UserError(
            f"names is {list(names)}, but must choose from {', '.join(map(repr, CONCEPTS))}, each once at most"
        )
    return list(names)
