"""How plain texts are shown to a model: through its chat template, or as they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fa_lightning.scenarios.prompts import Tokenizer, prompt_ids
from fa_lightning.scenarios.written_answers import WrittenAnswers, written_answers


@dataclass(frozen=True)
class TextForm:
    """A way to show texts to a model.

    Attributes:
        tokenizer: of the model.
        is_chat: whether a text is a user's message, and an answer an assistant's.
    """

    tokenizer: Tokenizer
    is_chat: bool

    @cached_property
    def _writes(self) -> WrittenAnswers:
        # It renders the template several times to see where answers begin.
        return written_answers(self.tokenizer)

    def asked(self, prompt: str) -> tuple[int, ...]:
        """Token ids of a prompt, up to where the answer begins."""
        if self.is_chat:
            return tuple(prompt_ids(self.tokenizer, prompt))
        ids = tuple(self.tokenizer(prompt)["input_ids"])
        # Whatever comes first is an attention sink: no word of the text should have to be it.
        begin = self.tokenizer.bos_token_id
        return ids if begin is None or ids[:1] == (begin,) else (begin, *ids)

    def answer(self, text: str, prompt: str) -> tuple[int, ...]:
        """Token ids of an answer behind a prompt, without what ends a turn."""
        if not self.is_chat:
            return tuple(self.tokenizer(f" {text}", add_special_tokens=False)["input_ids"])
        ids = self._writes.answer(text, prompt, None, ())
        return (*self._writes.lead, *(ids if self._writes.ending is None else ids[:-1]))
