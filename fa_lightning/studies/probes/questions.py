"""What probes are asked to read: prompts with two possible answers, and the labels that a state may tell."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import DIGITS, LETTERS, AnswerTokens, digit_tokens, letter_tokens
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import SPLITS, Split, counterbalanced, limited
from fa_lightning.scenarios.statements.source import StatementSource
from fa_lightning.scenarios.statements.statement import limited_statements
from fa_lightning.scenarios.statements.templates import CLAIMS, template_named
from fa_lightning.studies.probes.result import ViewName

LEAST = 8
"""Rows that a split needs at least."""


@dataclass(frozen=True)
class Question:
    """A label that is read.

    Attributes:
        name: as tables spell it.
        asks: what is read, in words.
        views: where; contrast pairs only tell which of the two answers is right.
    """

    name: str
    asks: str
    views: tuple[ViewName, ...]


@dataclass(frozen=True)
class ProbeExample:
    """One prompt.

    Attributes:
        message: the user message.
        labels: by question; of one that has contrast pairs, whether the second answer is right.
        group: of dependent rows; intervals draw whole groups.
        split: which part it belongs to.
        opposite: the message of the row that asks about the opposite; empty where there is none.
        besides: by name, other things that are true of the prompt or not: what a probe without labels may have found in
            the place of the labels.
    """

    message: str
    labels: dict[str, bool]
    group: str
    split: Split
    opposite: str = ""
    besides: dict[str, bool] = field(default_factory=dict)

    @property
    def group_number(self) -> int:
        """The group as an integer."""
        return int(hashlib.sha256(self.group.encode()).hexdigest()[:15], 16)


class ProbeSource(ABC):
    """Loads or generates rows; configured as a `ScenarioSource` is.

    Attributes:
        questions: what is read of them.
    """

    questions: tuple[Question, ...]

    @abstractmethod
    def load(self) -> list[ProbeExample]:
        """The rows; the same ones in the same order at every call."""

    @abstractmethod
    def answers(self, tokenizer: Any) -> AnswerTokens:
        """The two answers' tokens.

        Raises:
            TemplateFault: they are not single distinct tokens.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """What the rows depend on, without a path of this machine."""


class StatementQuestions(ProbeSource):
    """Is a statement judged rightly? Rights and identities of one split are in no other.

    Every statement is asked with 1 for agree and with 0 for agree, and every right is affirmed and denied, so that
    neither digit, polarity nor template tells which digit is right.

    Args:
        statements: where statements come from.
        templates: names of the templates that ask about them.
        claim: `harm` or `good`; given where, and only where, the templates take one.
        train: at most so many training statements; None takes all. Each is a row in both digit orders and templates.
        validation: at most so many validation statements.
        test: at most so many test statements.

    Raises:
        UserError: no template is named; later, a template is not known, or takes no claim that is given.
    """

    questions = (Question("truth", "which digit judges the statement rightly", ("pairs", "opposites", "prompt")),)

    def __init__(
        self,
        statements: StatementSource,
        templates: list[str],
        claim: Literal["harm", "good"] | None = None,
        train: int | None = 400,
        validation: int | None = 100,
        test: int | None = 300,
    ) -> None:
        if not templates:
            raise UserError("templates is empty, but a statement needs one to be asked with, such as base_short")
        self.statements = statements
        self.templates = list(templates)
        self.claim = claim
        self.limits: dict[Split, int | None] = {"train": train, "validation": validation, "test": test}

    @override
    def load(self) -> list[ProbeExample]:
        splits = self.statements.load()
        splits.leak_report().raise_if_leaking()
        known = self.statements.templates()
        templates = [template_named(known, name) for name in self.templates]
        # A template that takes no claim, or needs one, says so itself.
        claim = None if self.claim is None else CLAIMS[self.claim]
        rows = []
        for split in SPLITS:
            for statement in limited_statements(splits.statements(split), self.limits[split]):
                for template in templates:
                    for agree in DIGITS:
                        message, safe = template.render(statement, claim, agree)
                        opposite, _ = template.render(statement.reversed(), claim, agree)
                        besides = {"which digit agrees": agree == 1, "whether it affirms": statement.affirms}
                        rows.append(
                            ProbeExample(message, {"truth": safe == 1}, statement.right, split, opposite, besides)
                        )
        return rows

    @override
    def answers(self, tokenizer: Any) -> AnswerTokens:
        return digit_tokens(tokenizer)

    @override
    def fingerprint(self) -> dict[str, str]:
        own = {"templates": ", ".join(self.templates), "claim": str(self.claim)}
        own |= {name: str(limit) for name, limit in self.limits.items()}
        return {**own, "source": type(self.statements).__name__, "rows_sha256": digest_of(self.load())}


class ScenarioQuestions(ProbeSource):
    """Is it watched, and which action is the aligned one? Groups of one split are in no other.

    Both cells have as many rows. Every scenario is asked in both orders of its actions, so that no letter is the
    aligned one oftener; the opposite of a prompt is the other order.

    Args:
        scenarios: where scenarios come from.
        train: at most so many training prompts.
        validation: at most so many validation prompts.
        test: at most so many test prompts.

    Raises:
        UserError: a limit is below 8.
    """

    questions = (
        Question("oversight", "whether oversight is poor", ("prompt",)),
        Question("action", "which letter is the aligned action", ("prompt", "opposites", "pairs")),
    )

    def __init__(self, scenarios: ScenarioSource, train: int = 1000, validation: int = 200, test: int = 600) -> None:
        self.limits: dict[Split, int] = {"train": train, "validation": validation, "test": test}
        for name, limit in self.limits.items():
            if limit < LEAST:
                raise UserError(f"{name} is {limit}, but must be {LEAST} or more")
        self.scenarios = scenarios

    @override
    def load(self) -> list[ProbeExample]:
        splits = self.scenarios.load()
        splits.leak_report().raise_if_leaking()
        rows = []
        for split in SPLITS:
            for item in counterbalanced(even_cells(splits.scenarios(split), self.limits[split] // 2), both_orders=True):
                labels = {"oversight": item.cell == "no_oversight", "action": item.aligned == LETTERS[1]}
                rows.append(ProbeExample(item.message(), labels, item.group, split, item.swapped().message()))
        return rows

    @override
    def answers(self, tokenizer: Any) -> AnswerTokens:
        return letter_tokens(tokenizer)

    @override
    def fingerprint(self) -> dict[str, str]:
        return {**self.scenarios.fingerprint(), **{f"probe_{name}": str(limit) for name, limit in self.limits.items()}}


def digest_of(rows: Iterable[ProbeExample]) -> str:
    """What the rows' splits, messages and labels come to, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.split}\x1f{row.message}\x1f{row.labels}\n".encode())
    return digest.hexdigest()


def even_cells(scenarios: Sequence[Scenario], limit: int) -> list[Scenario]:
    """At most `limit` scenarios, as many with as without oversight: 0.5 is then a coin."""
    counts = [sum(item.cell == cell for item in scenarios) for cell in CELLS]
    return limited(scenarios, 2 * min(*counts, limit // 2))
