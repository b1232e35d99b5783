"""What a row says: a scenario, or a neutral text, and the split that it is put into."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from fa_lightning.common.rows import Row, RowLocation
from fa_lightning.common.user_files import text_lines
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import LETTERS, Letter
from fa_lightning.scenarios.conversations.turns import conversation_of_turns
from fa_lightning.scenarios.files.layouts import ACTIONS, CONVERSATION, FIELDS, TEXT, Layout, layout_of
from fa_lightning.scenarios.scenario import CHAT, Fact, Oversight, Scenario, group_of, normalised
from fa_lightning.scenarios.splits import Split

OVERSIGHT_WORDS = {
    **dict.fromkeys(("good", "watched", "yes", "true"), Oversight.GOOD),
    "neutral": Oversight.NEUTRAL,
    **dict.fromkeys(("poor", "unwatched", "no", "false"), Oversight.POOR),
}
SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    "test": "test",
}
FACT_KINDS = ("contextual", "motivating", "irrelevant", "critical", "system_message", "untyped")
OWN = "own"
"""Policy of scenarios that name none."""


class Record(NamedTuple):
    """A row as it was understood.

    Attributes:
        scenario: or neutral text.
        split: that the file says; None where it leaves the choice.
        where: the row stands.
    """

    scenario: Scenario
    split: Split | None
    where: RowLocation


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse a mapping of fields to columns that names a field which no scenario has.

    Raises:
        UserError: naming the field, and a close one.
    """
    for field in columns:
        if field not in FIELDS:
            close = difflib.get_close_matches(field, FIELDS, n=1)
            raise UserError(
                f"columns names the field {field!r}, which no scenario has"
                + (f"; did you mean {close[0]}?" if close else "")
                + f" The fields are {', '.join(FIELDS)}, each mapped to a column of the file"
            )


def columns_of(file: str, known: Sequence[str], columns: Mapping[str, str]) -> tuple[Layout, dict[str, str]]:
    """A file's layout, and the column that each field is read from: the one that is named, else one called like it.

    Args:
        file: for the message.
        known: columns that the file has.
        columns: by field, the column that the user named.

    Raises:
        UserError: a column that was named is not there, a field that every scenario has is without a column, two
            columns are called like one field, or there are the columns of two layouts.

    >>> layout, columns = columns_of("a.csv", ["Prompt", "good", "bad", "oversight", "note"], {})
    >>> layout.name, columns["prompt"], "note" in columns
    ('prompts with two answers', 'Prompt', False)
    """
    named = {field: column for field, column in columns.items() if column not in known}
    for field, column in named.items():
        close = difflib.get_close_matches(column, known, n=1)
        raise UserError(
            f"{file} has no column {column!r}, which {field} is to be read from"
            + (f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}")
        )
    for field in FIELDS:
        twice = [column for column in known if _plain(column) == field and column not in columns.values()]
        if field not in columns and len(twice) > 1:
            raise UserError(
                f"{file} has the columns {', '.join(map(repr, twice))}, which both mean {field}: name the one that is "
                f"to be read, as --column {field}={twice[0]!r} or under columns in a base"
            )
    alike = {_plain(column): column for column in reversed(known) if column not in columns.values()}
    of_field = {field: columns.get(field, alike.get(field, "")) for field in FIELDS}
    of_field = {field: column for field, column in of_field.items() if column}
    layout = layout_of(file, of_field, columns)
    of_field = {field: column for field, column in of_field.items() if field in (*layout.fields, TEXT)}
    lacking = [field for field in layout.needed if field not in of_field]
    if lacking and not (TEXT in of_field and len(lacking) == len(layout.needed)):
        raise UserError(
            f"{file} has no column for {', '.join(lacking)}; it has {', '.join(known)}. Name the column of each: "
            f"columns {{{lacking[0]}: COLUMN}} in a base, --column {lacking[0]}=COLUMN on the command line; "
            "docs/data.md has all layouts"
        )
    return layout, of_field


def record_of(row: Row, layout: Layout, columns: Mapping[str, str]) -> Record:
    """The scenario, or the neutral text, that a row stands for.

    Args:
        row: of the file.
        layout: of the file.
        columns: by field, the column that it is read from.

    Raises:
        UserError: a value is missing or malformed; the message names file, row, column and what is allowed.
    """
    return _Reader(row, layout, columns).record()


class _Reader:
    """Reads the fields of one row."""

    def __init__(self, row: Row, layout: Layout, columns: Mapping[str, str]) -> None:
        self.where = row.where
        self.layout = layout
        self.columns = columns
        self.values = {field: row.values[column] for field, column in columns.items() if column in row.values}

    def record(self) -> Record:
        source = f"{Path(self.where.file).name}#{self.where.number}"
        if TEXT in self.values:
            asked = [field for field in self.layout.fields if field not in ("group", "split")]
            others = [field for field in asked if field in self.values]
            if others:
                self._refuse(TEXT, f"it has a text, but {others[0]}, too: a neutral text is a row of its own")
            text = self._text(TEXT)
            group = self._group(text)
            return Record(
                Scenario((), "", "", Oversight.NONE, None, group, CHAT, source, text=text), self._split(), self.where
            )
        policy = self._text("policy") if "policy" in self.values else OWN
        if policy == CHAT:
            self._refuse("policy", f"{policy!r} is the name of neutral texts: give another, or none")
        scenario = self._choice(policy, source) if self.layout is ACTIONS else self._written(policy, source)
        return Record(scenario, self._split(), self.where)

    def _choice(self, policy: str, source: str) -> Scenario:
        """A scenario that a letter answers."""
        action_a, action_b = self._two("action_a", "action_b", "the same as the other action: a choice has two")
        return Scenario(
            facts=self._facts(),
            action_a=action_a,
            action_b=action_b,
            oversight=self._oversight(),
            aligned=self._aligned(action_a, action_b),
            group=self._group(action_a, action_b),
            policy=policy,
            source=source,
        )

    def _written(self, policy: str, source: str) -> Scenario:
        """A scenario that is answered in writing."""
        is_conversation = self.layout is CONVERSATION
        system, earlier, text = self._conversation() if is_conversation else ("", (), self._text("prompt"))
        good, bad = self._two("good", "bad", "the same as the good answer, so nothing tells the twins apart")
        return Scenario(
            facts=(),
            action_a=good,
            action_b=bad,
            oversight=self._oversight(),
            aligned="A",
            group=self._group(good, bad),
            policy=policy,
            source=source,
            text=text,
            system=system,
            earlier=earlier,
        )

    def _two(self, first: str, second: str, if_same: str) -> tuple[str, str]:
        texts = self._text(first), self._text(second)
        if normalised(texts[0]) == normalised(texts[1]):
            self._refuse(second, f"{texts[1]!r} is {if_same}")
        return texts

    def _conversation(self) -> tuple[str, tuple[tuple[str, str], ...], str]:
        """The system message, the turns before the last one in pairs, and the user's last message."""
        said = conversation_of_turns(self.where, self.columns.get("messages", "messages"), self._value("messages"))
        if said.answer:
            self._refuse("messages", "the user's turn must be the last one, which good and bad answer")
        earlier = tuple((asked.strip(), answer.strip()) for asked, answer in said.earlier)
        return said.system.strip(), earlier, said.message.strip()

    def _refuse(self, field: str, what: str) -> NoReturn:
        self.where.refuse(self.columns.get(field, field), what)

    def _value(self, field: str) -> Any:
        if field not in self.values:
            self._refuse(field, f"it is missing: {self.layout.name} need {', '.join(self.layout.needed)}")
        return self.values[field]

    def _text(self, field: str) -> str:
        return self._checked(field, self._value(field))

    def _checked(self, field: str, value: Any) -> str:
        return self.where.text(self.columns.get(field, field), value).strip()

    def _lines(self, field: str) -> list[str]:
        """A list of texts, or one text with one on each line."""
        value = self._value(field)
        if isinstance(value, str):
            if value.strip()[:2] in ("['", '["'):
                self._refuse(field, f"{value[:40]!r} is a list written as a text: put each on a line of its own")
            # Only `\n` ends a line: U+2028 and others are part of a text.
            value = [line for line in text_lines(value.replace("\r\n", "\n")) if line.strip()]
        if not isinstance(value, (list, tuple)) or not value:
            self._refuse(field, f"{value!r} is neither a list of texts nor a text with one on each line")
        return [self._checked(field, text) for text in value]

    def _facts(self) -> tuple[Fact, ...]:
        facts = self._lines("facts")
        if "fact_kinds" not in self.values:
            return tuple(map(Fact, facts))
        kinds = [kind.lower() for kind in self._lines("fact_kinds")]
        unknown = [kind for kind in kinds if kind not in FACT_KINDS]
        if unknown:
            self._refuse("fact_kinds", f"{unknown[0]!r} is none of {', '.join(FACT_KINDS)}")
        if len(kinds) != len(facts):
            self._refuse("fact_kinds", f"there are {len(kinds)} for {len(facts)} facts: give each fact its kind")
        return tuple(map(Fact, facts, kinds))

    def _oversight(self) -> Oversight:
        value = self._value("oversight")
        oversight = OVERSIGHT_WORDS.get(str(value).strip().lower()) if isinstance(value, (str, bool)) else None
        if oversight is None:
            self._refuse("oversight", f"{value!r} is none of {', '.join(OVERSIGHT_WORDS)}")
        return oversight

    def _aligned(self, action_a: str, action_b: str) -> Letter:
        value = self._value("aligned")
        said = normalised(value) if isinstance(value, str) else None
        meant: set[Letter] = set()
        for letter, action in zip(LETTERS, (action_a, action_b), strict=True):
            if said in (letter.lower(), normalised(action)):
                meant.add(letter)
        if len(meant) == 2:
            self._refuse("aligned", f"{value!r} is the letter of one action and the text of the other: write the text")
        for letter in meant:
            return letter
        return self._refuse("aligned", f"{value!r} is neither A nor B, nor the text of one of the two actions")

    def _group(self, *texts: str) -> str:
        """What the file says, else the texts; both as a hash."""
        value = self.values.get("group")
        if value is None:
            return group_of(*texts)
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return group_of(f"group {value}")
        return self._refuse("group", f"{value!r} is neither a name nor a whole number")

    def _split(self) -> Split | None:
        value = self.values.get("split")
        if value is None:
            return None
        split = SPLIT_WORDS.get(value.strip().lower()) if isinstance(value, str) else None
        if split is None:
            self._refuse("split", f"{value!r} is none of {', '.join(SPLIT_WORDS)}")
        return split


def _plain(column: str) -> str:
    """A column's name as fields are written: `Action A` is `action_a`."""
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")
