"""Where an assistant's turn ends, and how to see that the model has begun to speak for the user."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from fa_lightning.scenarios.control_tokens import control_marks, pattern_of
from fa_lightning.scenarios.prompts import TemplateFault, Tokenizer, has_template, rendered

FIRST, ANSWER, SECOND = "What is one?", "The answer is two.", "What is three?"
"""Turns that no template writes by itself."""


def user_mark(tokenizer: Tokenizer) -> str:
    """What the chat template writes in front of a user's second turn, without what ends or begins turns and texts.

    Raises:
        TemplateFault: nothing shows it: the template takes no second turn, or marks none.
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
    for token in (turn_end(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id):
        if token is not None:
            between = between.replace(str(tokenizer.decode([token])), "")
    if not between.strip():
        raise TemplateFault(
            tokenizer,
            "no mark of a user's turn",
            "the chat template writes nothing in front of a user's second turn, so nothing shows a run-on turn",
            "Give it the chat template that the variant is used with.",
        )
    return between.strip()


class TurnEnding(NamedTuple):
    """How an assistant's turn ends: read from the chat template once, then looked for in each conversation.

    Attributes:
        token: the token that ends it.
        written: how often the chat template writes it behind the words; 0 where it writes none.
    """

    token: int
    written: int

    def end_of(self, ids: Sequence[int]) -> int | None:
        """The index of the token that ends a finished conversation's last turn; None where the template writes none.

        Counted from behind, since an answer may hold the token, too.

        >>> TurnEnding(token=2, written=1).end_of([5, 2, 6, 2, 9])
        3

        Args:
            ids: of the conversation, as `conversation_ids` renders it.
        """
        indices = [index for index, token in enumerate(ids) if token == self.token]
        return indices[-self.written] if 0 < self.written <= len(indices) else None


def turn_ending(tokenizer: Tokenizer) -> TurnEnding | None:
    """How an assistant's turn ends: at the first control token that the chat template writes behind the words.

    Settings name others as often as not: Gemma's end-of-text token is `<eos>`, and its turns end at `<end_of_turn>`.
    Where the template writes none, or there is no template, it is the end-of-text token; None without one.
    """
    written = _marks_behind_answer(tokenizer)
    end: int | None = written[0] if written else tokenizer.eos_token_id
    return None if end is None else TurnEnding(end, written.count(end))


def turn_end(tokenizer: Tokenizer) -> int | None:
    """The token that ends an assistant's turn, see `turn_ending`; None without one."""
    ending = turn_ending(tokenizer)
    return None if ending is None else ending.token


def end_tokens(model: Any, tokenizer: Tokenizer) -> set[int]:
    """The tokens at which writing ends: the turn's, the text's, and those that the model's own settings name."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {turn_end(tokenizer), tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return {end for end in ends if end is not None}


def _marks_behind_answer(tokenizer: Tokenizer) -> list[int]:
    """The control tokens that the chat template writes behind an assistant's last words."""
    if not has_template(tokenizer):
        return []
    try:
        before, _, behind = rendered(tokenizer, FIRST, ANSWER).rpartition(ANSWER)
    except TemplateFault:
        # A template that takes no answer can still ask.
        return []
    marks = control_marks(tokenizer)
    return [marks[mark] for mark in pattern_of(marks).findall(behind)] if before else []


def until_end(tokens: Sequence[int], ends: Collection[int]) -> tuple[list[int], bool]:
    """The tokens up to the first one that ends the text and without it, and whether there is one.

    >>> until_end([7, 8, 2, 0, 0], {2})
    ([7, 8], True)
    >>> until_end([7, 8, 9], {2})
    ([7, 8, 9], False)
    """
    end = next((index for index, token in enumerate(tokens) if token in ends), None)
    return list(tokens[:end]), end is not None
