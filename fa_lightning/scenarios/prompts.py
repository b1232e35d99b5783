"""How a scenario becomes tokens: the rendered prompt and the single answer token that follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fa_lightning.scenarios.scenario import ERROR_ANSWER, Letter

Tokenizer = Any
"""A Hugging Face `PreTrainedTokenizerBase` (not imported here: it costs seconds)."""


@dataclass(frozen=True)
class AnswerFormat:
    """Token ids of the answers in the position where this tokenizer puts them.

    Attributes:
        letter_a: id of the token `A` right after the prompt.
        letter_b: id of the token `B`.
        error: id of the first token of `error`, the answer to a neutral text.
        lead: ids that the template puts between the generation prompt and every answer (often none).
    """

    letter_a: int
    letter_b: int
    error: int
    lead: tuple[int, ...] = ()

    def letter(self, letter: Letter) -> int:
        """The token id of `letter`."""
        return self.letter_a if letter == "A" else self.letter_b


def prompt_ids(tokenizer: Tokenizer, message: str, system: str | None = None) -> list[int]:
    """Token ids of a prompt that ends where the answer begins.

    The chat template is used where the tokenizer has one (it alone then writes BOS); else the plain message, with the
    special tokens that the tokenizer itself puts in front.
    """
    return _ids(tokenizer, message, system, answer=None)


def answer_format(tokenizer: Tokenizer) -> AnswerFormat:
    """Find the answer tokens, and prove that each answer is told by one token.

    Raises:
        ValueError: naming the tokenizer, where `A` and `B` are not single distinct tokens after the prompt, or where
            the prompt's own last tokens change when an answer follows.
    """
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    probe = "Please provide the letter of the action you would take in this scenario:\n"
    prompt = _ids(tokenizer, probe, None, answer=None)
    after_a, after_b, after_error = (_ids(tokenizer, probe, None, answer=text) for text in ("A", "B", ERROR_ANSWER))
    shared = 0
    while shared < min(len(after_a), len(after_b)) and after_a[shared] == after_b[shared]:
        shared += 1
    if after_a[: len(prompt)] != prompt or shared < len(prompt):
        raise ValueError(
            f"tokenizer {name!r}: the prompt's last tokens change when an answer is appended, so the answer has no "
            "token of its own. Give the tokenizer a chat template whose generation prompt ends at a special token."
        )
    if len(after_a) != len(after_b) or shared >= len(after_a) or after_a[shared + 1 :] != after_b[shared + 1 :]:
        raise ValueError(
            f"tokenizer {name!r}: 'A' and 'B' are not single distinct tokens after the prompt (they are "
            f"{after_a[len(prompt) :]} and {after_b[len(prompt) :]}). Use a tokenizer that holds both letters, or set "
            "a chat template that puts the answer after a special token."
        )
    letters = after_a[shared], after_b[shared]
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in letters:
        raise ValueError(
            f"tokenizer {name!r}: one of 'A' and 'B' is its unknown token, so they are not single distinct tokens "
            "after the prompt. Use a tokenizer that holds both letters."
        )
    taken = (*letters, unknown)
    if after_error[:shared] != after_a[:shared] or len(after_error) <= shared or after_error[shared] in taken:
        raise ValueError(
            f"tokenizer {name!r}: the first token of {ERROR_ANSWER!r} ({after_error[len(prompt) :]}) can't be told "
            "from the letters. Use a tokenizer that holds the word."
        )
    return AnswerFormat(*letters, after_error[shared], tuple(prompt_lead(prompt, after_a, shared)))


def prompt_lead(prompt: list[int], with_answer: list[int], shared: int) -> list[int]:
    """The ids between the generation prompt and the answer.

    >>> prompt_lead([1, 2], [1, 2, 9, 65], 3)
    [9]
    """
    return with_answer[len(prompt) : shared]


def _ids(tokenizer: Tokenizer, message: str, system: str | None, answer: str | None) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        text = (f"{system}\n" if system else "") + message
        ids = list(tokenizer(text + (answer or ""))["input_ids"])
        # Some tokenizers close every text with EOS; an answer could never follow it.
        return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
    turns = [{"role": "user", "content": message}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    if system:
        turns = _with_system(tokenizer, turns, system)
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _with_system(tokenizer: Tokenizer, turns: list[dict[str, str]], system: str) -> list[dict[str, str]]:
    turns_with_role = [{"role": "system", "content": system}, *turns]
    try:
        heard = system.strip() in tokenizer.apply_chat_template(turns_with_role, tokenize=False)
    except Exception as error:
        # Templates without a system turn raise jinja2's TemplateError (Gemma's) or pass over it in silence.
        if type(error).__name__ != "TemplateError":
            raise
        heard = False
    if heard:
        return turns_with_role
    return [{"role": "user", "content": f"{system}\n\n{turns[0]['content']}"}, *turns[1:]]
