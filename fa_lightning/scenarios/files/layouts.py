"""The layouts that rows of scenarios come in, told apart by their columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fa_lightning.errors import UserError


@dataclass(frozen=True)
class Layout:
    """What a row holds.

    Attributes:
        name: as docs/data.md calls it.
        needed: fields that every scenario has.
        allowed: fields that it may have, too.
    """

    name: str
    needed: tuple[str, ...]
    allowed: tuple[str, ...] = ("group", "split", "policy")

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of a scenario."""
        return self.needed + self.allowed


TEXT = "text"
"""The field of a neutral text, in any layout."""
ACTIONS = Layout(
    "facts with two actions",
    ("facts", "action_a", "action_b", "oversight", "aligned"),
    ("group", "split", "policy", "fact_kinds"),
)
PROMPT = Layout("prompts with two answers", ("prompt", "good", "bad", "oversight"))
CONVERSATION = Layout("conversations with two last answers", ("messages", "good", "bad", "oversight"))
LAYOUTS = (ACTIONS, PROMPT, CONVERSATION)
FIELDS = tuple(dict.fromkeys([*(field for layout in LAYOUTS for field in layout.fields), TEXT]))


def layout_of(file: str, fields: Collection[str], columns: Mapping[str, str]) -> Layout:
    """The layout of which all fields have a column; else the one of which most have.

    Args:
        file: for the message.
        fields: that have a column.
        columns: by field, the column that the user named: a layout that has them all goes before others.

    Raises:
        UserError: two are whole; the message says how to choose one.
    """
    whole = [layout for layout in LAYOUTS if set(layout.needed) <= set(fields)]
    whole = [layout for layout in whole if set(columns) <= {*layout.fields, TEXT}] or whole
    if len(whole) > 1:
        first, second = whole[:2]
        own = next(field for field in first.needed if field not in second.needed)
        raise UserError(
            f"{file} has the columns of two layouts, {first.name} and {second.name}: name a column that one of them "
            f"alone has (columns {{{own}: COLUMN}} in a base, --column {own}=COLUMN on the command line)"
        )
    return whole[0] if whole else max(LAYOUTS, key=lambda layout: len(set(layout.needed) & set(fields)))
