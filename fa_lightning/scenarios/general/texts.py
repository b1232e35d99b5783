"""General texts, on which side effects are measured: where they come from, and how they join a source's splits."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from typing_extensions import override

from fa_lightning.common.user_files import json_lines, read_text, text_lines
from fa_lightning.errors import UserError
from fa_lightning.scenarios.scenario import CHAT, Oversight, Scenario, group_of
from fa_lightning.scenarios.splits import ScenarioSplits, split_of

VALIDATION_SHARE, TEST_SHARE = 0.2, 0.5
"""Most of them are for judging: a general text teaches little, and a side effect is seen on many."""


class GeneralTexts(ABC):
    """User messages that have nothing to do with the scenarios."""

    @abstractmethod
    def texts(self) -> list[str]:
        """The messages, each once, in a fixed order."""

    def fingerprint(self) -> str:
        """Digest of the messages."""
        return hashlib.sha256("\x1f".join(self.texts()).encode()).hexdigest()[:16]


class EverydayRequests(GeneralTexts):
    """Some 200 short requests of everyday life, which come with the package."""

    @override
    def texts(self) -> list[str]:
        return text_lines(read_text(Path(__file__).with_name("everyday_requests.txt")))


class FileTexts(GeneralTexts):
    """A file of one's own: a message on each line, or JSON lines.

    Args:
        path: ends in `.jsonl` (or `.jsonl.gz`) for JSON lines; anything else is plain text.
        column: of JSON lines, the field that holds the message.
        limit: takes so many from the top; None takes all.

    Raises:
        UserError: `limit` is below 1.
    """

    def __init__(self, path: str, column: str = "prompt", limit: int | None = None) -> None:
        _check_limit(limit)
        self.path, self.column, self.limit = path, column, limit

    @override
    def texts(self) -> list[str]:
        content = read_text(self.path)
        if ".jsonl" not in Path(self.path).suffixes:
            return _distinct(text_lines(content), self.path, self.limit)
        return _distinct(
            [
                _field(record, self.column, f"{self.path}, line {line}")
                for line, record in json_lines(content, self.path)
            ],
            self.path,
            self.limit,
        )


class DatasetTexts(GeneralTexts):
    """A column of a data set, by its name on the Hub or the folder that holds it (library `datasets`).

    Args:
        name: as `datasets.load_dataset` takes it.
        column: that holds the message.
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
    def texts(self) -> list[str]:
        from datasets import load_dataset

        try:
            rows = load_dataset(self.name, self.configuration, split=self.split)
        except (ValueError, OSError) as error:
            raise UserError(f"the data set {self.name!r} can't be loaded: {error}") from error
        return _distinct([_field(row, self.column, self.name) for row in rows], self.name, self.limit)


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
    for number, text in enumerate(general.texts()):
        group = group_of(text)
        split = split_of(group, seed, VALIDATION_SHARE, TEST_SHARE)
        parts[split].append(Scenario((), "", "", Oversight.NONE, None, group, CHAT, f"{name}#{number}", text=text))
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


def _field(record: Any, column: str, where: str) -> str:
    value = record.get(column) if isinstance(record, dict) else None
    if not isinstance(value, str):
        fields = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{where} holds no text under {column!r}, but: {fields}; name the column that holds the message"
        )
    return value


def _distinct(texts: list[str], where: str, limit: int | None) -> list[str]:
    found = dict.fromkeys(text.strip() for text in texts if text.strip())
    if not found:
        raise UserError(f"{where} holds no text: general texts are needed to see side effects on")
    return list(itertools.islice(found, limit))


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}, but must be 1 or more")
