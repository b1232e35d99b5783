"""Tokens that people may type, and texts of them that a tokenizer reads back as they are."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fa_lightning.errors import UserError
from fa_lightning.scenarios.limits import ids_within
from fa_lightning.scenarios.prompts import Tokenizer


def ordinary_tokens(tokenizer: Tokenizer) -> list[int]:
    """Ids of tokens that people may type: printable ASCII, no special ones, the same id when read again.

    Raises:
        UserError: the tokenizer has none.
    """
    # A template's own marks are special, but not all of them are listed with the tokenizer's.
    marks = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special = marks | set(tokenizer.all_special_ids)
    ordinary = []
    for token in ids_within(tokenizer):
        if token in special:
            continue
        text = tokenizer.decode([token])
        is_plain = bool(text.strip()) and text.isascii() and text.isprintable()
        if is_plain and list(tokenizer(text, add_special_tokens=False)["input_ids"]) == [token]:
            ordinary.append(token)
    if not ordinary:
        raise UserError("the tokenizer has no token of printable ASCII that reads back as itself")
    return ordinary


def random_text(tokenizer: Tokenizer, tokens: int, seed: int) -> str:
    """A text of random ordinary tokens that the tokenizer reads as exactly so many.

    Raises:
        UserError: no such text was found.
    """
    rng = random.Random(f"random prefix {seed}")
    ordinary = ordinary_tokens(tokenizer)
    kept: list[int] = []
    for _ in range(200 * tokens):
        longer = [*kept, rng.choice(ordinary)]
        if survives(tokenizer, longer):
            kept = longer
        if len(kept) == tokens:
            return str(tokenizer.decode(kept))
    raise UserError(f"no text of {tokens} random tokens that read back as themselves was found: ask for fewer")


def survives(tokenizer: Tokenizer, tokens: Sequence[int]) -> bool:
    """Whether these tokens come back from their own text, with the line break that follows a prefix."""
    text = tokenizer.decode(list(tokens))
    ids = list(tokenizer(f"{text}\n", add_special_tokens=False)["input_ids"])
    return ids[: len(tokens)] == list(tokens) and text.isprintable() and bool(text.strip())
