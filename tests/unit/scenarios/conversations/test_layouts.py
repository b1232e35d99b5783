"""Rows as conversations and pairs: every layout of every tool says the same, and what is wrong is named."""

from __future__ import annotations

from typing import Any

import pytest

from fa_lightning.common.rows import Row, RowLocation
from fa_lightning.errors import UserError
from fa_lightning.scenarios.conversations.conversation import Conversation, ConversationPair
from fa_lightning.scenarios.conversations.layouts import conversation_of, is_text_pair, pair_of

SYSTEM, HI, HELLO, WHY, BECAUSE = "Be kind.", "Hi.", "Hello.", "Why?", "Because."
LONG = Conversation(WHY, BECAUSE, SYSTEM, ((HI, HELLO),))
SHORT = Conversation(WHY, BECAUSE)
SPOKEN = [("system", SYSTEM), ("user", HI), ("assistant", HELLO), ("user", WHY), ("assistant", BECAUSE)]
TURNS = [{"role": role, "content": text} for role, text in SPOKEN]
SHARED = [{"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": text} for role, text in SPOKEN]


def row(**values: Any) -> Row:
    return Row(RowLocation("mine.jsonl", 3), values)


@pytest.mark.parametrize(
    "values",
    [
        {"messages": TURNS},
        {"messages": TURNS, "prompt": "not this", "prompt_id": 7},
        {"conversations": SHARED},
        {"conversations": SHARED[1:], "system": SYSTEM},
        {"messages": tuple(TURNS[1:]), "system": SYSTEM},
        {"prompt": TURNS[:-1], "completion": TURNS[-1:]},
        {"prompt": TURNS[:-1], "completion": BECAUSE},
        {"instruction": WHY, "output": BECAUSE, "system": SYSTEM, "history": [[HI, HELLO]]},
    ],
)
def test_every_layout_of_a_long_conversation_is_the_same_one(values: dict[str, Any]) -> None:
    assert conversation_of(row(**values)) == LONG


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [TURNS[3], TURNS[4]]},
        {"prompt": WHY, "completion": BECAUSE},
        {"prompt": [TURNS[3]], "completion": TURNS[4]},
        {"instruction": WHY, "output": BECAUSE},
    ],
)
def test_every_layout_of_a_short_one(values: dict[str, Any]) -> None:
    assert conversation_of(row(**values)) == SHORT


def test_a_prompt_alone_has_no_answer_and_an_input_stands_behind_its_instruction() -> None:
    assert conversation_of(row(prompt=WHY)) == SHORT.asked == Conversation(WHY)
    assert conversation_of(row(question=WHY), column="question") == Conversation(WHY)
    assert conversation_of(row(messages=TURNS[:-1])) == LONG.asked
    assert conversation_of(row(instruction="Add.", input="1 and 2")).message == "Add.\n1 and 2"
    assert LONG.lines() == "Be kind.\nHi.\nHello.\nWhy?"


NEVER = "Never mind."
OTHER = {"role": "assistant", "content": NEVER}
PAIR = ConversationPair(LONG, LONG._replace(answer=NEVER))
SHORT_PAIR = ConversationPair(SHORT, SHORT._replace(answer=NEVER))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # TRL: an explicit prompt, an implicit one, each of turns and of texts.
        ({"prompt": TURNS[:-1], "chosen": TURNS[-1:], "rejected": [OTHER]}, PAIR),
        ({"chosen": TURNS, "rejected": [*TURNS[:-1], OTHER]}, PAIR),
        ({"prompt": WHY, "chosen": BECAUSE, "rejected": NEVER}, SHORT_PAIR),
        ({"chosen": f"{WHY} {BECAUSE}", "rejected": f"{WHY} {NEVER}"}, SHORT_PAIR),
        # As UltraFeedback has it: whole conversations, and the prompt once more.
        ({"prompt": WHY, "chosen": TURNS[3:], "rejected": [TURNS[3], OTHER], "messages": TURNS[3:]}, SHORT_PAIR),
        # LLaMA-Factory, in both of its layouts.
        ({"conversations": SHARED[:-1], "chosen": SHARED[-1], "rejected": {"from": "gpt", "value": NEVER}}, PAIR),
        ({"instruction": WHY, "chosen": BECAUSE, "rejected": NEVER}, SHORT_PAIR),
        # hh-rlhf.
        (
            {
                "chosen": f"\n\nHuman: {WHY}\n\nAssistant: {BECAUSE}",
                "rejected": f"\n\nHuman: {WHY}\n\nAssistant: {NEVER}",
            },
            SHORT_PAIR,
        ),
        # Of contrast vectors.
        ({"question": WHY, "matching": BECAUSE, "not_matching": NEVER}, SHORT_PAIR),
        (
            {"question": WHY, "answer_matching_behavior": BECAUSE, "answer_not_matching_behavior": NEVER},
            SHORT_PAIR,
        ),
        ({"positive": TURNS, "negative": [*TURNS[:-1], OTHER]}, PAIR),
    ],
)
def test_every_layout_of_a_choice_is_the_same_one(values: dict[str, Any], expected: ConversationPair) -> None:
    pair = pair_of(row(**values))
    assert pair == expected
    assert pair is not None
    assert pair.is_choice


def test_what_is_no_choice_is_a_pair_all_the_same() -> None:
    messages = pair_of(row(positive="You are watched.", negative="Nobody watches."))
    assert messages == (Conversation("You are watched."), Conversation("Nobody watches."))
    earlier = pair_of(row(chosen=TURNS, rejected=[TURNS[0], TURNS[1], OTHER, *TURNS[3:]]))
    same = pair_of(row(prompt=WHY, chosen=BECAUSE, rejected=BECAUSE))
    assert not any(pair is None or pair.is_choice for pair in (messages, earlier, same))


@pytest.mark.parametrize(
    "rejected",
    [
        "\n\nHuman: Why?\n\nAssistant: ",
        "\n\nHuman: Why?\n\nHuman: Why?\n\nAssistant: No.",
        "\n\nHuman: Why?",
        "Look:\n\nHuman: Why?\n\nAssistant: No.",
    ],
)
def test_marked_texts_out_of_order_are_no_pair(rejected: str) -> None:
    assert pair_of(row(chosen="\n\nHuman: Why?\n\nAssistant: Yes.", rejected=rejected)) is None


def test_texts_that_share_no_word_are_no_pair() -> None:
    values = {"chosen": "Yes it is", "rejected": "No it is not"}
    assert pair_of(row(**values)) is None
    assert is_text_pair(row(**values))
    assert not is_text_pair(row(prompt=WHY, **values))
    assert not is_text_pair(row(chosen=TURNS, rejected=TURNS))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"text": WHY, "id": 1},
            r"mine.jsonl, row 3, column 'prompt': it is missing, .*; here are text, id",
        ),
        ({"messages": "[{'role': 'user'}]"}, "column 'messages': it is a text, but a conversation is a list of turns"),
        ({"messages": TURNS[2:]}, "the user first; here are assistant, user, assistant"),
        (
            {"conversations": [{"from": "observation", "value": "x"}]},
            "column 'conversations': the role of turn 1 is",
        ),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "the role of turn 1 is .'user'."),
        ({"messages": [{"role": "user", "content": None}]}, "column 'messages': None is no text"),
        ({"prompt": 7}, "column 'prompt': 7 is no text"),
        ({"prompt": TURNS, "completion": "x"}, "column 'prompt': it ends with an answer, but a completion is one, too"),
        ({"prompt": WHY, "completion": TURNS}, "column 'completion': .* is neither a text nor one turn"),
        ({"prompt": WHY, "completion": TURNS[1]}, "column 'completion': the turn is the user's"),
        ({"instruction": WHY, "history": [["a"]]}, "column 'history': .* is no list of pairs"),
        ({"instruction": WHY, "history": 5}, "column 'history': .* is no list of pairs"),
        ({"prompt": "half a \ud800"}, "holds half a character"),
    ],
)
def test_what_is_no_conversation_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        conversation_of(row(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": WHY}, r"row 3, column 'chosen': it is missing, .* positive and negative.*; here is text"),
        ({"chosen": WHY, "prompt": WHY}, "column 'rejected': it is missing; here are chosen, prompt"),
        ({"positive": WHY}, "column 'negative': it is missing"),
        ({"matching": WHY, "not_matching": HI}, "column 'question': it is missing"),
        ({"messages": TURNS, "chosen": "a", "rejected": "b"}, "the conversation beside it ends with one already"),
        ({"chosen": TURNS, "rejected": "b"}, "column 'rejected': it is a text, but a conversation is a list"),
        ({"prompt": WHY, "chosen": 5, "rejected": "b"}, "column 'chosen': '5' is neither a text nor"),
        ({"chosen": 5, "rejected": "b"}, "column 'chosen': 5 is no text"),
    ],
)
def test_what_is_no_pair_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pair_of(row(**values))
