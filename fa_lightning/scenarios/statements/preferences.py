"""Conversations with a chosen and a rejected ending, in the layout of hh-rlhf (arXiv 2204.05862)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fa_lightning.common.user_files import decoded, json_lines, read_bytes
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.scenarios.answers import Digit
from fa_lightning.scenarios.statements.templates import Template

COLUMNS = ("chosen", "rejected")
ASSISTANT_MARK = "\n\nAssistant:"
FILES = ("*.jsonl", "*.jsonl.gz")


@dataclass(frozen=True, slots=True)
class Preference:
    """One conversation that ends in two ways.

    Attributes:
        context: what both have in common, up to and with the mark of the last turn that they share.
        chosen: the better ending.
        rejected: the worse ending.
    """

    context: str
    chosen: str
    rejected: str

    def render(self, template: Template, claim: str | None, chosen_digit: Digit) -> tuple[str, Digit]:
        """The prompt that lets choose between the two endings, and the digit that a safe model answers.

        Args:
            template: one that names alternatives.
            claim: text of the claim; given where, and only where, the template takes one.
            chosen_digit: the digit that stands for the chosen ending.

        Raises:
            UserError: the template names no alternatives, or the claim does not fit it.
        """
        if not template.names_alternatives:
            raise UserError(
                f"template {template.name!r} asks whether to agree, but a preference needs one that names both "
                "alternatives: write {alternative_0} and {alternative_1} into it"
            )
        meanings = (self.chosen, self.rejected) if chosen_digit == 0 else (self.rejected, self.chosen)
        return template.fill(self.context, meanings, claim), chosen_digit


def read_preferences(
    source: str, split: str = "train", subset: str | None = None, limit: int | None = None
) -> list[Preference]:
    """Read pairs from a local folder, or from the Hub through `datasets`; pairs of two equal texts are left out.

    Args:
        source: a folder with `train.jsonl`, `test.jsonl` or either with `.gz`, or a name on the Hub, such as
            `Anthropic/hh-rlhf`.
        split: which part; a file of a folder counts to the part that its name begins with.
        subset: a folder within, such as `harmless-base`; None takes the whole.
        limit: at most so many rows; None takes all.

    Raises:
        MissingFileError: there is no such folder or data set, or the folder has no file of that split.
        UserError: a file is damaged or empty, a column is missing, or a value is no text.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        searched = folder / subset if subset else folder
        files = sorted({path for pattern in FILES for path in searched.rglob(pattern) if path.name.startswith(split)})
        if not files:
            raise MissingFileError(
                f"{searched} holds no {split}*.jsonl or {split}*.jsonl.gz: give the folder that has "
                "them, or another split"
            )
        return preferences_of((row for path in files for row in _rows(path)), limit)
    return preferences_of(_hub_rows(source, split, subset), limit)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The objects of a file of JSON lines.

    Raises:
        UserError: the file holds none, or a line is none with two texts.
    """
    number = 0
    for number, row in json_lines(decoded(read_bytes(path), path), path):
        location = f"{path}, line {number}"
        if not isinstance(row, dict):
            raise UserError(f"{location} is {repr(row)[:60]}, but must be an object with {' and '.join(COLUMNS)}")
        _refuse_missing(location, list(row))
        _refuse_other_values(location, row)
        yield row
    if not number:
        raise UserError(f"{path} is empty: copy it again")


def _hub_rows(source: str, split: str, subset: str | None) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(source, data_dir=subset, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        raise MissingFileError(
            f"source is {source!r}, but there is no such folder, nor such a data set within reach on the Hub "
            f"({error}): give a folder with {split}.jsonl, or a name such as Anthropic/hh-rlhf"
        ) from error
    _refuse_missing(source, rows.column_names)
    yield from rows


def _refuse_missing(location: str, columns: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise UserError(
            f"{location} has no column {' and no '.join(missing)} (it has {', '.join(columns)}): preferences need "
            f"{' and '.join(COLUMNS)}, whole conversations each"
        )


def _refuse_other_values(location: str, row: Mapping[str, Any]) -> None:
    kinds = [type(row[name]).__name__ for name in COLUMNS]
    if kinds != ["str", "str"]:
        raise UserError(f"{location} holds {' and '.join(kinds)}, but chosen and rejected must both be texts")


def preferences_of(rows: Iterable[Mapping[str, Any]], limit: int | None = None) -> list[Preference]:
    """Rows with `chosen` and `rejected` as preferences, in order; those of two equal texts are left out.

    Args:
        rows: of a data set.
        limit: at most so many rows are read; None takes all.

    Raises:
        UserError: a value is no text.
    """
    preferences: list[Preference] = []
    for number, row in enumerate(islice(rows, limit)):
        _refuse_other_values(f"row {number}", row)
        chosen, rejected = (row[name] for name in COLUMNS)
        if chosen != rejected:
            preferences.append(split_context(chosen, rejected))
    return preferences


def split_context(chosen: str, rejected: str) -> Preference:
    r"""Cut two conversations where their last common turn of the assistant begins.

    Not where their letters first differ: that may be in the middle of a word. Texts without marks are cut at the last
    space that they share.

    >>> split_context("\n\nHuman: Hi\n\nAssistant: Hello", "\n\nHuman: Hi\n\nAssistant: He?")
    Preference(context='\n\nHuman: Hi\n\nAssistant:', chosen=' Hello', rejected=' He?')
    """
    shared = _shared_length(chosen, rejected)
    mark = chosen.rfind(ASSISTANT_MARK, 0, shared)
    cut = mark + len(ASSISTANT_MARK) if mark >= 0 else max(chosen.rfind(" ", 0, shared), 0)
    return Preference(chosen[:cut], chosen[cut:], rejected[cut:])


def _shared_length(left: str, right: str) -> int:
    end = min(len(left), len(right))
    return next((index for index in range(end) if left[index] != right[index]), end)
