"""Tokens that are parts of a letter, as models with byte-level tokens write them: where they begin, their bytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fa_lightning.steering.serving.replies import Reply

WORDS = [b"\xf0\x9f", b"\x98\x8a", b"\xf0\x9f\x8e", b"\x89", b" hel", b"lo", b"\xc3\xa9"]


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return b"".join(WORDS[one] for one in ids).decode("utf-8", errors="replace")


def text_of(tokens: list[int]) -> Any:
    scores = [SimpleNamespace(token=token, logprob=-1.0, top=[]) for token in tokens]
    return SimpleNamespace(scores=scores, written=tokens, prompt_scores=[])


def test_offsets_are_places_in_the_text() -> None:
    reply = Reply("completion", "m", Bytes())  # type: ignore[arg-type]
    tokens = list(range(len(WORDS)))
    text = Bytes().decode(tokens)
    offsets = reply._listed(text_of(tokens))["text_offset"]
    assert offsets == [0, 0, 1, 1, 2, 6, 8]
    assert [text[start:].encode().startswith(WORDS[token]) for token, start in zip(tokens, offsets, strict=True)] == [
        True,
        False,  # the second part of a letter begins where that does
        True,
        False,
        True,
        True,
        True,
    ]


def test_a_part_of_a_letter_claims_no_bytes_that_are_not_its_own() -> None:
    content = Reply("chat", "m", Bytes())._of_chat(text_of([0, 1, 4, 6]))["content"]  # type: ignore[arg-type]
    assert [one["bytes"] for one in content] == [None, None, list(b" hel"), list("\u00e9".encode())]
