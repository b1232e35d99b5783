r"""Whole conversations as one text, in the layout of hh-rlhf (arXiv 2204.05862): `\n\nHuman: ...\n\nAssistant: ...`."""

from __future__ import annotations

import re

from fa_lightning.scenarios.conversations.conversation import Conversation

HUMAN_MARK, ASSISTANT_MARK = "\n\nHuman:", "\n\nAssistant:"


def marked_text(conversation: Conversation) -> str:
    r"""All that is said before the answer, up to and with the mark behind which it comes.

    >>> marked_text(Conversation("Why?"))
    '\n\nHuman: Why?\n\nAssistant:'
    """
    system = f"\n\nSystem: {conversation.system}" if conversation.system else ""
    turns = "".join(f"{HUMAN_MARK} {asked}{ASSISTANT_MARK} {said}" for asked, said in conversation.earlier)
    return f"{system}{turns}{HUMAN_MARK} {conversation.message}{ASSISTANT_MARK}"


def conversation_of_marked(text: str) -> Conversation | None:
    r"""The conversation in a text with marks; None where turns are empty, or don't alternate from the user's on.

    >>> conversation_of_marked("\n\nHuman: Why?\n\nAssistant: Because.")
    Conversation(message='Why?', answer='Because.', system='', earlier=())
    """
    before, *parts = re.split("\n\n(Human|Assistant):", text)
    speakers, texts = parts[::2], [said.strip() for said in parts[1::2]]
    turns = [("Human", "Assistant")[index % 2] for index in range(len(texts))]
    if before.strip() or not all(texts) or speakers != turns or len(texts) < 2 or len(texts) % 2:
        return None
    *earlier, last = zip(texts[::2], texts[1::2], strict=True)
    return Conversation(*last, earlier=tuple(earlier))


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    r"""What two texts have in common, and how each goes on, cut where their last common turn of the assistant begins.

    Not where their letters first differ: that may be in the middle of a word. Texts without marks are cut at the last
    space that they share.

    >>> split_texts("\n\nHuman: Hi\n\nAssistant: Hello", "\n\nHuman: Hi\n\nAssistant: He?")
    ('\n\nHuman: Hi\n\nAssistant:', ' Hello', ' He?')
    """
    shared = _shared_length(chosen, rejected)
    mark = chosen.rfind(ASSISTANT_MARK, 0, shared)
    cut = mark + len(ASSISTANT_MARK) if mark >= 0 else max(chosen.rfind(" ", 0, shared), 0)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _shared_length(left: str, right: str) -> int:
    end = min(len(left), len(right))
    return next((index for index in range(end) if left[index] != right[index]), end)
