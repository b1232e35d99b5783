"""Models that think before they answer: how a chat template says so, and the empty thought that skips it."""

from __future__ import annotations

from typing import NamedTuple


class ThoughtMarks(NamedTuple):
    """What a thought begins and ends with."""

    begin: str
    end: str


MARKS = (
    ThoughtMarks("<think>", "</think>"),
    ThoughtMarks("[THINK]", "[/THINK]"),
    ThoughtMarks("<seed:think>", "</seed:think>"),
    ThoughtMarks("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""Of DeepSeek R1 and most others; of Magistral; of Seed-OSS; of gpt-oss."""

SWITCHES = ("enable_thinking", "thinking")
"""Variables that switch thoughts in templates: of Qwen3, SmolLM3 and GLM; of DeepSeek V3.1 and Granite."""

OFF = dict.fromkeys(SWITCHES, False)
"""What every template is given; those without such a variable don't look at it."""


def marks_in(template: str) -> ThoughtMarks | None:
    """The marks that a template's code knows, by the one that ends a thought; None where it knows none."""
    return next((marks for marks in MARKS if marks.end in template), None)


def empty_thought(marks: ThoughtMarks, asked: str, between: str, has_switch: bool) -> str:
    r"""What is to be written behind a prompt so that the model answers at once; empty where the template does it.

    A thought that the prompt has opened is closed (arXiv 2504.09858 and 2502.12025 skip thoughts so); one that the
    template writes between prompt and answer of a conversation is written there; and a model whose template takes
    thoughts out of answers is given an empty one.

    >>> empty_thought(MARKS[0], "<|Assistant|><think>\n", "", has_switch=False)
    '</think>\n\n'
    >>> empty_thought(MARKS[0], "<|im_start|>assistant\n<think>\n\n</think>\n\n", "", has_switch=True)
    ''

    Args:
        marks: of this template.
        asked: what it writes behind the user's words to ask for an answer, thoughts switched off where it has a switch.
        between: what it writes between that and the answer of a conversation.
        has_switch: whether it writes something else where thoughts are switched on.
    """
    begun, ended = asked.rfind(marks.begin), asked.rfind(marks.end)
    if begun > ended:
        return f"{marks.end}\n\n"
    if ended >= 0 or has_switch:
        return ""
    return between if marks.end in between else f"{marks.begin}\n\n{marks.end}\n\n"
