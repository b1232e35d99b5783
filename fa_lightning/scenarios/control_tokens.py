"""Control tokens: marks such as those of turns, which tokenizers also find where they are written in a user's text."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from fa_lightning.scenarios.prompts import TemplateFault, Tokenizer

_HTML = re.compile(r"</?[a-z]+\d*>")


def control_marks(tokenizer: Tokenizer) -> dict[str, int]:
    """How each control token is written, and its id.

    They are the special tokens, and those in brackets that were added to the vocabulary whole: but HTML's only where
    the chat template writes them, since Gemma has `<b>` and `<table>` whole, and they end no turn.
    """
    marks = {str(tokenizer.convert_ids_to_tokens(token)): int(token) for token in tokenizer.all_special_ids}
    template = str(tokenizer.chat_template)
    for token, entry in tokenizer.added_tokens_decoder.items():
        text = entry.content
        # White space and words are added, too (Gemma's runs of line breaks, the embedded backbone's answers).
        in_brackets = text[:1] in "<[" and text[-1:] in ">]"
        if entry.special or (in_brackets and (text in template or not _HTML.fullmatch(text))):
            marks[text] = int(token)
    # A letter or a sign may be made the padding, and is language for all that.
    return {mark: token for mark, token in marks.items() if len(mark) > 1 and not mark.isalnum()}


def pattern_of(marks: Iterable[str]) -> re.Pattern[str]:
    """What finds all marks in a text, in order.

    >>> pattern_of(["<|end|>", "<|end_of_text|>"]).findall("yes<|end_of_text|>no<|end|>")
    ['<|end_of_text|>', '<|end|>']
    >>> pattern_of([]).findall("yes")
    []
    """
    # By their beginnings: some tokenizers have thousands of marks, and most that looks like one is none.
    groups: defaultdict[str, list[str]] = defaultdict(list)
    # The longest first: one may begin as another does.
    for mark in sorted(filter(None, marks), key=len, reverse=True):
        groups[mark[:4]].append(re.escape(mark[4:]))
    parts = [f"{re.escape(start)}(?:{'|'.join(ends)})" for start, ends in groups.items()]
    return re.compile("|".join(parts) or "(?!)")


def control_fault(tokenizer: Tokenizer, texts: Iterable[str], what: str = "texts") -> TemplateFault | None:
    """The fault of users' texts that a tokenizer finds control tokens in; None where it finds none.

    Args:
        tokenizer: of the model.
        texts: as users wrote them, before a template is laid around them.
        what: these texts are called.
    """
    pattern = pattern_of(control_marks(tokenizer))
    texts = list(texts)
    matches = [first for first in map(pattern.search, texts) if first]
    if not matches:
        return None
    mark, text, start = matches[0].group(), matches[0].string, max(0, matches[0].start() - 20)
    return TemplateFault(
        tokenizer,
        "control tokens in a text",
        f"{len(matches)} of {len(texts)} {what} hold control tokens, the first {mark!r} in "
        f"{text[start : start + 60]!r}: the model reads them as the end of a turn, or as the beginning of another",
        "Take them out of the texts, or write them otherwise.",
    )


def warn_of_control_tokens(tokenizer: Tokenizer, texts: Iterable[str], what: str = "texts") -> None:
    """Warn of users' texts with control tokens in them, once for all: how many there are, and the first."""
    fault = control_fault(tokenizer, texts, what)
    if fault is not None:
        # Not at the top of the module: it would cost seconds where nothing is wrong.
        from lightning.pytorch.utilities import rank_zero_warn

        rank_zero_warn(str(fault))
