"""Where a written turn ends, and how one sees that the model has begun to speak for the user."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from fa_lightning.scenarios.prompts import TemplateFault, Tokenizer

FIRST, ANSWER, SECOND = "What is one?", "The answer is two.", "What is three?"
"""Turns that no template writes by itself."""


def user_mark(tokenizer: Tokenizer) -> str:
    """What the chat template writes in front of a user's second turn, without the ends and beginnings of texts.

    Raises:
        TemplateFault: it can't be told: the template takes no second turn, or marks none.
    """
    turns = [("user", FIRST), ("assistant", ANSWER), ("user", SECOND)]
    try:
        whole = str(
            tokenizer.apply_chat_template([{"role": role, "content": text} for role, text in turns], tokenize=False)
        )
    except Exception as error:
        if not type(error).__module__.startswith("jinja2"):
            raise
        whole = ""
    between = whole.rpartition(ANSWER)[2].partition(SECOND)[0]
    for token in (tokenizer.eos_token, tokenizer.bos_token):
        between = between.replace(token or "", "")
    if not between.strip():
        raise TemplateFault(
            tokenizer,
            "no mark of a user's turn",
            "the chat template writes nothing in front of a user's second turn, so a run-on turn can't be told",
            "Give it the chat template that the variant is used with.",
        )
    return between.strip()


def end_tokens(model: Any, tokenizer: Tokenizer) -> set[int]:
    """The tokens that end a text: the tokenizer's, and those that the model's own settings name."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return {end for end in ends if end is not None}


def until_end(tokens: Sequence[int], ends: Collection[int]) -> tuple[list[int], bool]:
    """The tokens up to the first one that ends the text and without it, and whether there is one.

    >>> until_end([7, 8, 2, 0, 0], {2})
    ([7, 8], True)
    >>> until_end([7, 8, 9], {2})
    ([7, 8, 9], False)
    """
    place = next((place for place, token in enumerate(tokens) if token in ends), None)
    return list(tokens[:place]), place is not None
