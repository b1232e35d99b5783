"""Turn a message into the tokens of a prompt, with the chat template where there is one, and name faults of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fa_lightning.errors import UserError
from fa_lightning.scenarios.limits import id_beyond
from fa_lightning.scenarios.thoughts import OFF, SWITCHES, empty_thought, marks_in

Tokenizer = Any
"""A Hugging Face `PreTrainedTokenizerBase` (not imported here: it costs seconds)."""

PLACEHOLDER = "The answer is two."
"""An answer that no template writes by itself."""
PROBE = "Please provide the letter of the action you would take in this scenario:\n"

FIXED_DAY = (
    "{% macro strftime_now(format) %}{{ format | replace('%Y', '2024') | replace('%m', '07') | replace('%d', '26')"
    " | replace('%b', 'Jul') | replace('%B', 'July') }}{% endmacro %}{{ '' }}"
)
"""Jinja code that makes a template write a fixed date instead of today's, so that prompts are the same on every day.

It is put in front of templates that ask for the date, as Llama 3.2's do. The date is the one that these templates fall
back on themselves when they can't ask for it.
"""


class TemplateFault(UserError):
    """A fault of a tokenizer or its chat template that makes the model unfit for use, and how to correct it.

    Attributes:
        name: the fault in two or three words, as `double BOS`.
        what: what is wrong.
        next_step: what corrects it.
    """

    def __init__(self, tokenizer: Tokenizer, name: str, what: str, next_step: str) -> None:
        self.name, self.what, self.next_step = name, what, next_step
        known_as = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        super().__init__(f"tokenizer {known_as!r}: {what}. {next_step}")


def prompt_ids(
    tokenizer: Tokenizer, message: str, system: str | None = None, earlier: Sequence[tuple[str, str]] = ()
) -> list[int]:
    """The token ids of a prompt, up to where the model's answer begins.

    A tokenizer with a chat template renders the message with it: the template alone writes BOS. Models that think are
    asked to answer at once: by the template's switch, or behind an empty thought (see `skipped_thought`), and so does
    every conversation go on. A tokenizer without a template gets the plain message, behind
    whatever special tokens the tokenizer adds itself.

    Args:
        tokenizer: of the model.
        message: the user's.
        system: the system message; None has none.
        earlier: (message, answer) of turns before this one; without a template they stand in front, a line each.
    """
    return _ids(tokenizer, message, system, answer=None, earlier=earlier)


def conversation_ids(
    tokenizer: Tokenizer,
    message: str,
    answer: str,
    system: str | None = None,
    earlier: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """The token ids of a message and its answer, rendered as one finished conversation; see `prompt_ids`."""
    return _ids(tokenizer, message, system, answer, earlier)


def merged_answer(tokenizer: Tokenizer) -> TemplateFault:
    """The fault that the answer shares a token with the end of the prompt."""
    return TemplateFault(
        tokenizer,
        "merged answer",
        "the prompt's last tokens change when an answer is appended, so the answer has no token of its own",
        "Give the tokenizer a chat template whose generation prompt ends at a special token, or with everything that "
        "the template writes in front of the assistant's words.",
    )


def masked_answer(tokenizer: Tokenizer) -> TemplateFault:
    """The fault that the chat template writes no answers."""
    return TemplateFault(
        tokenizer,
        "masked answer",
        "the chat template leaves the assistant's words out, so there is no answer to learn",
        "Give it a chat template that writes what the assistant says.",
    )


def refuse_faults(tokenizer: Tokenizer, prompt: list[int], lead: Sequence[int]) -> None:
    """Refuse a tokenizer that would ask a model otherwise than it expects.

    Args:
        tokenizer: of the model.
        prompt: ids of a prompt.
        lead: ids that the template puts between the generation prompt and every answer.

    Raises:
        TemplateFault: the prompt has BOS twice, no generation prompt or no spaces.
    """
    for fault in (
        double_bos(tokenizer, prompt),
        missing_generation_prompt(tokenizer, lead),
        lost_spaces(tokenizer),
    ):
        if fault is not None:
            raise fault


def double_bos(tokenizer: Tokenizer, prompt: list[int]) -> TemplateFault | None:
    """The fault that a prompt holds BOS more than once; None if it does not, or if BOS also marks turns (SmolLM2's)."""
    bos = tokenizer.bos_token_id
    if bos is None or prompt.count(bos) < 2:
        return None
    if prompt[:2] != [bos, bos] and tokenizer.bos_token in generation_prompt(tokenizer):
        return None
    return TemplateFault(
        tokenizer,
        "double BOS",
        f"BOS ({tokenizer.bos_token!r}) stands in the prompt {prompt.count(bos)} times",
        "Write bos_token in the chat template once, at its very beginning, and keep it out of the texts.",
    )


def missing_generation_prompt(tokenizer: Tokenizer, lead_ids: Sequence[int]) -> TemplateFault | None:
    """The fault that a prompt ends behind the user's turn without opening the assistant's; None if it opens it.

    Args:
        tokenizer: of the model.
        lead_ids: what the template puts between the generation prompt and every answer.
    """
    if not has_template(tokenizer):
        return None
    turns = [{"role": "user", "content": PROBE}]
    ignored = _checked(tokenizer, turns, begin_answer=True) == _checked(tokenizer, turns)
    lead = str(tokenizer.decode(list(lead_ids)))
    if not (ignored and lead.strip()) and (generation_prompt(tokenizer) + lead).strip():
        return None
    opening = repr(lead) if lead.strip() else "'the mark that begins an answer'"
    return TemplateFault(
        tokenizer,
        "missing generation prompt",
        "the chat template does not begin the assistant's turn when add_generation_prompt asks for it, so a model that "
        "writes would go on with the user's turn",
        f"End the template with {{% if add_generation_prompt %}}{{{{ {opening} }}}}{{% endif %}}.",
    )


def lost_spaces(tokenizer: Tokenizer) -> TemplateFault | None:
    """The fault that a tokenizer, loaded with the wrong class, drops spaces between words; None if it keeps them."""
    apart, together = (
        list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("the letter", "theletter")
    )
    if apart != together:
        return None
    return TemplateFault(
        tokenizer,
        "lost spaces",
        "it gives 'the letter' and 'theletter' the same tokens: the class that loads it does not fit its files",
        "In tokenizer_config.json set tokenizer_class to PreTrainedTokenizerFast, which takes tokenizer.json as it is.",
    )


def has_template(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def has_system_turn(tokenizer: Tokenizer) -> bool:
    """Whether the chat template can write a system message; if not, the message is put before the user's words."""
    turns = [{"role": "user", "content": PROBE}]
    return has_template(tokenizer) and len(_with_system(tokenizer, turns, "You are honest.")) > 1


def generation_prompt(tokenizer: Tokenizer) -> str:
    """The text that the chat template writes between the user's words and the model's; empty without a template."""
    if not has_template(tokenizer):
        return ""
    return _rendered(tokenizer, PROBE.strip(), None, None).rpartition(PROBE.strip())[2]


def thinking_switch(tokenizer: Tokenizer) -> str | None:
    """The variable with which the chat template switches thoughts off; None where it has none."""
    if not has_template(tokenizer):
        return None
    template, turns = tokenizer.get_chat_template(), [{"role": "user", "content": PROBE}]
    for switch in SWITCHES:
        if switch in template:
            off, on = (_apply(tokenizer, turns, begin_answer=True, **{switch: value}) for value in (False, True))
            if off != on:
                return switch
    return None


def skipped_thought(tokenizer: Tokenizer) -> str:
    """What is written behind every prompt so that a model that thinks answers at once; mostly nothing.

    It is empty where the model does not think, as far as its chat template shows, and where the template skips the
    thought itself, by its switch.
    """
    marks = marks_in(tokenizer.get_chat_template()) if has_template(tokenizer) else None
    if marks is None:
        return ""
    turns = [{"role": "user", "content": PROBE.strip()}, {"role": "assistant", "content": PLACEHOLDER}]
    asked = _checked(tokenizer, turns[:1], begin_answer=True).rpartition(PROBE.strip())[2]
    behind = _checked(tokenizer, turns).rpartition(PROBE.strip())[2]
    between = behind.removeprefix(asked).partition(PLACEHOLDER)[0] if behind.startswith(asked) else ""
    return empty_thought(marks, asked, between, thinking_switch(tokenizer) is not None)


def rendered(tokenizer: Tokenizer, message: str, answer: str) -> str:
    """The text of a conversation of one message and its answer, as the chat template writes it."""
    return _rendered(tokenizer, message, None, answer, begin_answer=False)


def _ids(
    tokenizer: Tokenizer,
    message: str,
    system: str | None,
    answer: str | None,
    earlier: Sequence[tuple[str, str]] = (),
) -> list[int]:
    ids = _written(tokenizer, message, system, answer, earlier)
    beyond = id_beyond(tokenizer, ids)
    if beyond is not None:
        raise TemplateFault(
            tokenizer,
            "token beyond the model",
            beyond,
            "Use the model's own tokenizer, or a token that it has (pad_token in tokenizer_config.json), or give the "
            "model rows for added tokens (resize_token_embeddings) and save it.",
        )
    return ids


def _written(
    tokenizer: Tokenizer, message: str, system: str | None, answer: str | None, earlier: Sequence[tuple[str, str]]
) -> list[int]:
    if not has_template(tokenizer):
        before = "".join(f"{asked}{answered}\n\n" for asked, answered in earlier)
        text = (f"{system}\n" if system else "") + before + message
        ids = list(tokenizer(text + (answer or ""))["input_ids"])
        # Some tokenizers close every text with EOS; an answer could never follow it.
        return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
    rendered = _rendered(tokenizer, message, system, answer, answer is None, earlier)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _rendered(
    tokenizer: Tokenizer,
    message: str,
    system: str | None,
    answer: str | None,
    begin_answer: bool = True,
    earlier: Sequence[tuple[str, str]] = (),
) -> str:
    turns: list[dict[str, str]] = []
    for asked, answered in earlier:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    turns.append({"role": "user", "content": message})
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    if system:
        turns = _with_system(tokenizer, turns, system)
    whole, thought = _checked(tokenizer, turns, begin_answer), skipped_thought(tokenizer)
    if not thought or answer is None:
        return whole + thought if begin_answer else whole
    prompt = _checked(tokenizer, turns[:-1], begin_answer=True) + thought
    if whole.startswith(prompt):
        return whole
    # Templates keep what was thought out of a conversation: the answer stands behind the prompt as it was asked.
    held = _checked(tokenizer, [*turns[:-1], {"role": "assistant", "content": PLACEHOLDER}])
    return prompt + answer + held.rpartition(PLACEHOLDER)[2] if PLACEHOLDER in held else whole


def _checked(tokenizer: Tokenizer, turns: list[dict[str, str]], begin_answer: bool = False) -> str:
    """What the template writes.

    Raises:
        TemplateFault: it fails.
    """
    try:
        return _apply(tokenizer, turns, begin_answer)
    except Exception as error:
        if not type(error).__module__.startswith("jinja2"):
            raise
        raise TemplateFault(
            tokenizer,
            "broken template",
            f"the chat template fails on {' and '.join(turn['role'] for turn in turns)}: {error}",
            "Correct the template, or remove it: a tokenizer without one gets the plain text.",
        ) from error


def _with_system(tokenizer: Tokenizer, turns: list[dict[str, str]], system: str) -> list[dict[str, str]]:
    turns_with_role = [{"role": "system", "content": system}, *turns]
    try:
        is_written = system.strip() in _apply(tokenizer, turns_with_role)
    except Exception as error:
        # Templates without a system turn raise jinja2's TemplateError (Gemma's) or pass over it in silence.
        if type(error).__name__ != "TemplateError":
            raise
        is_written = False
    if is_written:
        return turns_with_role
    return [{"role": "user", "content": f"{system}\n\n{turns[0]['content']}"}, *turns[1:]]


def _apply(tokenizer: Tokenizer, turns: list[dict[str, str]], begin_answer: bool = False, **switches: bool) -> str:
    template = tokenizer.get_chat_template()
    return str(
        tokenizer.apply_chat_template(
            turns,
            chat_template=FIXED_DAY + template if "strftime_now" in template else None,
            tokenize=False,
            add_generation_prompt=begin_answer,
            **{**OFF, **switches},
        )
    )
