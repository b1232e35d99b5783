"""General texts, on which side effects are measured: where they come from, and how they join a source's splits."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import warnings
from abc import ABC, abstractmethod
from pathlib import Path

from typing_extensions import override

from fa_lightning.common.rows import Rows, has_rows, read_rows
from fa_lightning.common.user_files import read_text, text_lines
from fa_lightning.errors import UserError
from fa_lightning.scenarios.conversations.conversation import Conversation
from fa_lightning.scenarios.conversations.layouts import conversation_of
from fa_lightning.scenarios.scenario import CHAT, Oversight, Scenario, group_of
from fa_lightning.scenarios.splits import ScenarioSplits, split_of

VALIDATION_SHARE, TEST_SHARE = 0.2, 0.5
"""Most of them are for judging: a general text teaches little, and a side effect is seen on many."""


class GeneralTexts(ABC):
    """User messages that have nothing to do with the scenarios, perhaps with what was said before."""

    @abstractmethod
    def load(self) -> list[Conversation]:
        """The messages, each once, in a fixed order; answers to them are not read."""

    def fingerprint(self) -> str:
        """Digest of the messages."""
        return hashlib.sha256("\x1f".join(text.lines() for text in self.load()).encode()).hexdigest()[:16]


class EverydayRequests(GeneralTexts):
    """Some 200 short requests of everyday life, which come with the package."""

    @override
    def load(self) -> list[Conversation]:
        return [Conversation(line) for line in text_lines(read_text(Path(__file__).with_name("everyday_requests.txt")))]


class FileTexts(GeneralTexts):
    """A file of one's own: a message on each line, or rows with a message or a conversation in each.

    Args:
        path: ends in one of `fa_lightning.common.rows.FORMATS` for rows, which are read in any layout of
            `conversation_of`; anything else is plain text. What is said before the user's last message stands in front
            of it, and an answer to it is not read.
        column: that holds the message, where a row holds no turns and no instruction.
        limit: takes so many from the top; None takes all.

    Raises:
        UserError: `limit` is below 1.
    """

    def __init__(self, path: str, column: str = "prompt", limit: int | None = None) -> None:
        _check_limit(limit)
        self.path, self.column, self.limit = path, column, limit

    @override
    def load(self) -> list[Conversation]:
        if has_rows(self.path):
            return _of_rows(read_rows(self.path), self.column, self.path, self.limit)
        lines = [line for line in text_lines(read_text(self.path)) if line.strip()]
        return _distinct([Conversation(line) for line in lines], self.path, self.limit)


class DatasetTexts(GeneralTexts):
    """The messages or conversations of a data set, by its name on the Hub or its folder (library `datasets`).

    Args:
        name: as `datasets.load_dataset` takes it.
        column: that holds the message, where a row holds no turns and no instruction.
        configuration: of the data set, where it has several.
        split: of the data set.
        limit: takes so many from the top.

    Raises:
        UserError: `limit` is below 1.
    """

    def __init__(
        self, name: str, column: str, configuration: str | None = None, split: str = "train", limit: int | None = 500
    ) -> None:
        _check_limit(limit)
        self.name, self.column, self.configuration, self.split, self.limit = name, column, configuration, split, limit

    @override
    def load(self) -> list[Conversation]:
        rows = read_rows(self.name, self.configuration, self.split)
        return _of_rows(rows, self.column, self.name, self.limit)


def with_general_texts(splits: ScenarioSplits, general: GeneralTexts | None, seed: int) -> ScenarioSplits:
    """The splits with general texts among their neutral ones, each text in the split that its words and the seed say.

    Args:
        splits: of a source.
        general: None adds none.
        seed: of the source.
    """
    if general is None:
        return splits
    parts: dict[str, list[Scenario]] = {"train": [], "validation": [], "test": []}
    name = type(general).__name__
    for number, said in enumerate(general.load()):
        group = group_of(said.lines())
        split = split_of(group, seed, VALIDATION_SHARE, TEST_SHARE)
        source = f"{name}#{number}"
        parts[split].append(
            Scenario(
                (),
                "",
                "",
                Oversight.NONE,
                None,
                group,
                CHAT,
                source,
                text=said.message,
                system=said.system,
                earlier=said.earlier,
            )
        )
    return dataclasses.replace(
        splits,
        neutral_train=[*splits.neutral_train, *parts["train"]],
        neutral_validation=[*splits.neutral_validation, *parts["validation"]],
        neutral_test=[*splits.neutral_test, *parts["test"]],
    )


def split_arguments(
    validation: float, test: float, seed: int, limit: int | None, general: GeneralTexts | None
) -> dict[str, str]:
    """What the splits of a source depend on beside its data, as fields of its fingerprint."""
    arguments = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    fields = {name: str(value) for name, value in arguments.items()}
    return fields if general is None else fields | {"general": general.fingerprint()}


def _of_rows(rows: Rows, column: str, where: str, limit: int | None) -> list[Conversation]:
    said = [conversation_of(row, column) for row in rows.rows]
    return _distinct(said, where, limit, rows.empty)


def _distinct(said: list[Conversation], where: str, limit: int | None, empty: int = 0) -> list[Conversation]:
    texts = dict.fromkeys(text.asked._replace(message=text.message.strip()) for text in said)
    if not texts:
        raise UserError(f"{where} holds no text: general texts are needed to see side effects on")
    if len(texts) < len(said) or empty:
        warnings.warn(
            f"{where}: {len(said) - len(texts)} texts left out that repeat an earlier one, {empty} empty rows",
            stacklevel=2,
        )
    return list(itertools.islice(texts, limit))


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}, but must be 1 or more")
