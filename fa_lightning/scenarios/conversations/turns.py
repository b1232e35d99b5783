"""A list of turns as a conversation: `role` and `content` of most tools, or `from` and `value` of ShareGPT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fa_lightning.common.rows import RowLocation
from fa_lightning.scenarios.conversations.conversation import Conversation

KEYS = (("role", "content"), ("from", "value"))
"""Of who speaks, and of what is said."""
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""Who speaks, by the words for it."""


def conversation_of_turns(where: RowLocation, column: str, value: Any) -> Conversation:
    """The conversation that a list of turns holds: perhaps the system's, then user and assistant in turns.

    Args:
        where: the row stands, for errors.
        column: of the list.
        value: the list; a single turn stands for a list of one.

    Raises:
        UserError: it is no list of turns, someone else speaks, or they don't take turns; the message names the row.
    """
    if isinstance(value, str):
        where.refuse(column, "it is a text, but a conversation is a list of turns: write JSON lines or Parquet")
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)) or not value:
        where.refuse(column, f"{value!r} is no list of turns, each with a role and a content")
    turns = [_turn(where, column, number, turn) for number, turn in enumerate(value, start=1)]
    system = turns.pop(0)[1] if turns[0][0] == "system" else ""
    roles = [role for role, _ in turns]
    if not turns or roles != [("user", "assistant")[index % 2] for index in range(len(turns))]:
        said = ", ".join(roles) or "no other turn"
        where.refuse(
            column,
            f"behind the system turn, if any, user and assistant must take turns, the user first; here are {said}",
        )
    texts = [text for _, text in turns]
    answer = texts.pop() if len(texts) % 2 == 0 else ""
    return Conversation(texts[-1], answer, system, tuple(zip(texts[:-1:2], texts[1::2], strict=True)))


def answer_of(where: RowLocation, column: str, value: Any) -> str:
    """An answer: a text, an assistant's turn, or a list that holds one such turn.

    Raises:
        UserError: it is none of these; the message names the row.
    """
    if isinstance(value, str):
        return where.text(column, value)
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, (list, tuple)) or len(turns) != 1:
        where.refuse(column, f"{str(value)[:60]!r} is neither a text nor one turn of the assistant's")
    role, text = _turn(where, column, 1, turns[0])
    if role != "assistant":
        where.refuse(column, f"the turn is the {role}'s, but an answer is the assistant's")
    return text


def begins_with_answer(value: Any) -> bool:
    """Whether a value is an answer and no conversation: it has no turns, or the first one is the assistant's."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return not isinstance(first, Mapping) or ROLES.get(str(first.get("role", first.get("from")))) == "assistant"


def _turn(where: RowLocation, column: str, number: int, turn: Any) -> tuple[str, str]:
    keys = next((keys for keys in KEYS if isinstance(turn, Mapping) and set(keys) <= set(turn)), None)
    if keys is None:
        where.refuse(column, f"turn {number} is {turn!r}, but must have a role and a content")
    role, text = (turn[key] for key in keys)
    if not isinstance(role, str) or role not in ROLES:
        where.refuse(column, f"the role of turn {number} is {role!r}, which is none of {', '.join(ROLES)}")
    return ROLES[role], where.text(column, text)
