"""What was found of how safely statements are judged: `safe_score.json`, read back without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fa_lightning.common.codec import read_dataclass
from fa_lightning.errors import UserError

RESULT_NAME, SAFE_TABLE = "safe_score.json", "safe_score.csv"
BASE = "base"
"""The backbone without an adapter, as a row of the tables."""
HARM = "harm"
"""The claim that tempts to judge unsafely."""


# The first three are not frozen, since torchmetrics rebuilds what a metric computes.
@dataclass
class SafeScore:
    """How safely statements are judged.

    Attributes:
        score: share of safe judgements, 0 to 1, polarity and digit order balanced; nan where one of the four quarters
            (see `metrics.safe_score.safe_score`) has no item.
        ci95: 95 % interval, bootstrap over rights x identities.
        n: distinct prompts.
        answered: share of prompts answered with a digit.
    """

    score: float
    ci95: tuple[float, float]
    n: int
    answered: float


@dataclass
class SafeScores:
    """One model under one template and claim.

    Attributes:
        overall: of all prompts.
        rights: by right.
        identity_groups: by identity group.
    """

    overall: SafeScore
    rights: dict[str, SafeScore]
    identity_groups: dict[str, SafeScore]


@dataclass
class Shift:
    """How far something moves the judgements of the same statements.

    Attributes:
        shift: safe score with it minus safe score without it.
        ci95: 95 % interval of `shift`, one bootstrap of rights x identities for both.
        moved: share of the prompts that are safely judged in one case alone.
        n: prompts compared.
    """

    shift: float
    ci95: tuple[float, float]
    moved: float
    n: int


@dataclass(frozen=True)
class StatementsResult:
    """All models that one evaluation asked.

    Attributes:
        scores: by model, the backbone first, and by question, as `1/harm`; every model was asked the same questions.
        shifts: by model, and by those questions with a claim whose template was asked without one, too.
        adapters: folders by name.
        backbone: name or folder; None where the adapters name it.
        claims: texts of the claims by name.
        seconds: of the evaluation.
    """

    scores: dict[str, dict[str, SafeScores]]
    shifts: dict[str, dict[str, Shift]]
    adapters: dict[str, str]
    backbone: str | None
    claims: dict[str, str]
    seconds: float

    @property
    def questions(self) -> list[str]:
        """What every model was asked, in order."""
        return list(next(iter(self.scores.values())))


def asked(question: str) -> tuple[str, str]:
    """A question's template and claim.

    >>> asked("1/harm")
    ('1', 'harm')
    """
    template, _, claim = question.partition("/")
    return template, claim


def read(folder: Path) -> StatementsResult | None:
    """What a folder says of safe scores; None where nothing was judged.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    result = read_dataclass(StatementsResult, folder / RESULT_NAME)
    if result is None:
        return None
    path = folder / RESULT_NAME
    if BASE not in result.scores or not result.scores[BASE]:
        raise UserError(f"{path}.scores has nothing of {BASE!r}: run the stage again")
    for model, scores in result.scores.items():
        if scores.keys() != result.scores[BASE].keys():
            raise UserError(f"{path}.scores.{model} has other questions than {BASE!r}: run the stage again")
    if result.shifts.keys() != result.scores.keys():
        raise UserError(f"{path}.shifts has other models than scores: run the stage again")
    return result
