"""How a message becomes tokens: the prompt that a chat template renders, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fa_lightning.errors import UserError
from fa_lightning.scenarios.limits import id_beyond

Tokenizer = Any
"""A Hugging Face `PreTrainedTokenizerBase` (not imported here: it costs seconds)."""

PROBE = "Please provide the letter of the action you would take in this scenario:\n"

FIXED_DAY = (
    "{% macro strftime_now(format) %}{{ format | replace('%Y', '2024') | replace('%m', '07') | replace('%d', '26')"
    " | replace('%b', 'Jul') | replace('%B', 'July') }}{% endmacro %}{{ '' }}"
)
"""Put in front of a template that writes today's date (Llama 3.2's), so that prompts are the same on every day.

The day is the one that the same models' templates write where they know no clock.
"""


class TemplateFault(UserError):
    """What makes a tokenizer or its chat template unfit, and what to do about it.

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
    """Token ids of a prompt that ends where the answer begins.

    The chat template is used where the tokenizer has one (it alone then writes BOS), with its thinking switched off
    where it has a switch; else the plain message, with the special tokens that the tokenizer itself puts in front.

    Args:
        tokenizer: of the model.
        message: the user's.
        system: the system message; None has none.
        earlier: (message, answer) of turns before this one; without a template they stand in front, a line each.
    """
    return _ids(tokenizer, message, system, answer=None, earlier=earlier)


def conversation_ids(tokenizer: Tokenizer, message: str, answer: str, system: str | None = None) -> list[int]:
    """Token ids of the prompt and its answer, rendered as one finished conversation."""
    return _ids(tokenizer, message, system, answer)


def merged_answer(tokenizer: Tokenizer) -> TemplateFault:
    """The fault of an answer that has no token of its own."""
    return TemplateFault(
        tokenizer,
        "merged answer",
        "the prompt's last tokens change when an answer is appended, so the answer has no token of its own",
        "Give the tokenizer a chat template whose generation prompt ends at a special token, or with everything that "
        "the template writes in front of the assistant's words.",
    )


def double_bos(tokenizer: Tokenizer, prompt: list[int]) -> TemplateFault | None:
    """The fault of a prompt that begins twice; a BOS that also opens or closes turns (SmolLM2's) may come again."""
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
    """The fault of a prompt that stops at the end of the user's turn, before the assistant's has begun.

    Args:
        tokenizer: of the model.
        lead_ids: what the template puts between the generation prompt and every answer.
    """
    if not has_template(tokenizer):
        return None
    ignored = _rendered(tokenizer, PROBE, None, None) == _rendered(tokenizer, PROBE, None, None, begin_answer=False)
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
    """The fault of a tokenizer that was loaded with the wrong class and runs all words together."""
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
    """Whether the chat template writes a system message; without one it stands in front of the user's words."""
    turns = [{"role": "user", "content": PROBE}]
    return has_template(tokenizer) and len(_with_system(tokenizer, turns, "You are honest.")) > 1


def generation_prompt(tokenizer: Tokenizer) -> str:
    """What the chat template writes behind the user's words, up to where the model begins; empty without a template."""
    if not has_template(tokenizer):
        return ""
    return _rendered(tokenizer, PROBE.strip(), None, None).rpartition(PROBE.strip())[2]


def rendered(tokenizer: Tokenizer, message: str, answer: str) -> str:
    """What the chat template writes of one message and its answer."""
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


def _apply(tokenizer: Tokenizer, turns: list[dict[str, str]], begin_answer: bool = False) -> str:
    template = tokenizer.get_chat_template()
    # Answers come at once: templates that can (Qwen 3's) are asked to close the thoughts before they begin. Others
    # don't look at the word.
    return str(
        tokenizer.apply_chat_template(
            turns,
            chat_template=FIXED_DAY + template if "strftime_now" in template else None,
            tokenize=False,
            add_generation_prompt=begin_answer,
            enable_thinking=False,
        )
    )
