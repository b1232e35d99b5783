"""A row as a conversation, or as a pair of them, in the layouts of TRL, axolotl, LLaMA-Factory, hh-rlhf and CAA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fa_lightning.common.rows import Row
from fa_lightning.scenarios.conversations.conversation import Conversation, ConversationPair
from fa_lightning.scenarios.conversations.marked_texts import HUMAN_MARK, conversation_of_marked, split_texts
from fa_lightning.scenarios.conversations.turns import answer_of, begins_with_answer, conversation_of_turns

TURNS = ("messages", "conversations")
LAYOUTS = "messages, conversations, prompt (and completion) or instruction (and input, output)"
PREFERENCE = ("chosen", "rejected")
CONTRAST = ("positive", "negative")
ANSWERS = (("matching", "not_matching"), ("answer_matching_behavior", "answer_not_matching_behavior"))
"""Of a `question`: EasyEdit2's columns, and those of the files of contrastive activation addition (CAA)."""
PAIRS = "chosen and rejected, positive and negative, or question, matching and not_matching"


def holds_conversation(row: Row, column: str = "prompt") -> bool:
    """Whether a row has the columns of a conversation."""
    return any(name in row.values for name in (*TURNS, "instruction", column))


def conversation_of(row: Row, column: str = "prompt") -> Conversation:
    """The conversation in a row; its answer is empty where the row has none.

    Args:
        row: of a file. It is read by the first of these that it has: `messages` or `conversations`, a list of turns;
            `instruction` with perhaps `input`, `output` and `history`; a prompt, text or turns, with perhaps a
            `completion`. `system` may stand beside all of them.
        column: of the prompt.

    Raises:
        UserError: it has none, or a value is no text and no turns; the message names file, row and column.
    """
    where, values = row.where, row.values
    turns = next((name for name in TURNS if name in values), None)
    if turns is not None:
        conversation = conversation_of_turns(where, turns, values[turns])
    elif "instruction" in values:
        conversation = _instruction(row)
    elif column in values:
        conversation = _prompt(row, column)
    else:
        where.refuse(column, f"it is missing, and so are all others of a conversation: {LAYOUTS}; here {_has(row)}")
    system = where.text("system", values["system"]) if "system" in values else ""
    return conversation if conversation.system or not system else conversation._replace(system=system)


def pair_of(row: Row) -> ConversationPair | None:
    r"""The pair of conversations in a row; None where a text with the marks of hh-rlhf has turns out of order.

    Args:
        row: of a file. `chosen` and `rejected` are whole conversations, or answers to the conversation that the row
            holds beside them; or whole texts: with the marks of hh-rlhf, or such that begin alike. `positive` and
            `negative` are messages or conversations. `matching` and `not_matching` are answers to a `question`.

    Raises:
        UserError: it has none of them, or a value is no text and no turns; the message names file, row and column.
    """
    where, values = row.where, row.values
    if any(name in values for name in CONTRAST):
        return ConversationPair(*(_message(row, name) for name in CONTRAST))
    names = next((pair for pair in ANSWERS if any(name in values for name in pair)), None)
    if names is not None:
        asked = Conversation(where.text("question", _value(row, "question")))
        return ConversationPair(*(asked._replace(answer=answer_of(where, name, _value(row, name))) for name in names))
    if not any(name in values for name in PREFERENCE):
        where.refuse(PREFERENCE[0], f"it is missing, and so are all others of a pair: {PAIRS}; here {_has(row)}")
    chosen, rejected = (_value(row, name) for name in PREFERENCE)
    if not (begins_with_answer(chosen) and begins_with_answer(rejected)):
        return ConversationPair(*(conversation_of_turns(where, name, values[name]) for name in PREFERENCE))
    if holds_conversation(row):
        asked = conversation_of(row)
        if asked.answer:
            where.refuse(PREFERENCE[0], "it is an answer, but the conversation beside it ends with one already")
        return ConversationPair(*(asked._replace(answer=answer_of(where, name, values[name])) for name in PREFERENCE))
    return _pair_of_texts(*(where.text(name, values[name]) for name in PREFERENCE))


def is_text_pair(row: Row) -> bool:
    """Whether `chosen` and `rejected` are whole texts, with nothing beside them that says what they answer."""
    return all(isinstance(row.values.get(name), str) for name in PREFERENCE) and not holds_conversation(row)


def _pair_of_texts(chosen: str, rejected: str) -> ConversationPair | None:
    if HUMAN_MARK in chosen:
        first, second = conversation_of_marked(chosen), conversation_of_marked(rejected)
        return None if first is None or second is None else ConversationPair(first, second)
    shared, first_end, second_end = (text.strip() for text in split_texts(chosen, rejected))
    if not (shared and first_end and second_end):
        return None
    return ConversationPair(Conversation(shared, first_end), Conversation(shared, second_end))


def _instruction(row: Row) -> Conversation:
    where, values = row.where, row.values
    message = where.text("instruction", values["instruction"])
    if "input" in values:
        message = f"{message}\n{where.text('input', values['input'])}"
    answer = where.text("output", values["output"]) if "output" in values else ""
    earlier = values.get("history", ())
    if not isinstance(earlier, (list, tuple)) or not all(isinstance(turn, list) and len(turn) == 2 for turn in earlier):
        where.refuse("history", f"{str(earlier)[:60]!r} is no list of pairs of a message and its answer")
    return Conversation(
        message, answer, earlier=tuple((where.text("history", said), where.text("history", to)) for said, to in earlier)
    )


def _prompt(row: Row, column: str) -> Conversation:
    prompt = _message(row, column)
    if "completion" not in row.values:
        return prompt
    if prompt.answer:
        row.where.refuse(column, "it ends with an answer, but a completion is one, too: end it with the user's turn")
    return prompt._replace(answer=answer_of(row.where, "completion", row.values["completion"]))


def _message(row: Row, column: str) -> Conversation:
    """A message of the user's, or turns."""
    value = _value(row, column)
    if isinstance(value, (list, tuple, Mapping)):
        return conversation_of_turns(row.where, column, value)
    return Conversation(row.where.text(column, value))


def _value(row: Row, column: str) -> Any:
    if column not in row.values:
        row.where.refuse(column, f"it is missing; here {_has(row)}")
    return row.values[column]


def _has(row: Row) -> str:
    return f"are {', '.join(row.values)}" if len(row.values) > 1 else f"is {', '.join(row.values)}"
