"""What a model's tables hold: rows for token ids and for positions; beyond them a pass ends in an index error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fa_lightning.errors import UserError

TABLES = "fa_lightning_tables"
"""Attribute of a loaded tokenizer: the `Tables` of the model that it came with."""


@dataclass(frozen=True)
class Tables:
    """How far the tables of a model reach; None where its config does not say.

    Attributes:
        ids: token ids, from 0.
        positions: tokens of a text.
    """

    ids: int | None = None
    positions: int | None = None

    @classmethod
    def of(cls, config: Any) -> Tables:
        """Read a model's config, or that of its decoder."""
        return cls(getattr(config, "vocab_size", None), getattr(config, "max_position_embeddings", None))


def tables_of(tokenizer: Any) -> Tables:
    """The tables of the model that a tokenizer came with, as far as they are known."""
    return getattr(tokenizer, TABLES, None) or Tables()


def ids_within(tokenizer: Any) -> range:
    """The ids that a tokenizer knows and its model has rows for: words may have been added without any."""
    rows = tables_of(tokenizer).ids
    return range(len(tokenizer) if rows is None else min(len(tokenizer), rows))


def id_beyond(tokenizer: Any, ids: Iterable[int]) -> str | None:
    """What is wrong where ids, or the padding beside them, are beyond the model's table; None if nothing."""
    rows = tables_of(tokenizer).ids
    if rows is None:
        return None
    beyond = max((token for token in (tokenizer.pad_token_id, *ids) if token is not None), default=-1)
    if beyond < rows:
        return None
    name = tokenizer.convert_ids_to_tokens(beyond)
    return f"its token {name!r} has the id {beyond}, but the model's embedding has {rows} rows (0 to {rows - 1})"


def refuse_beyond_positions(tokenizer: Any, prompts: Iterable[Sequence[int]]) -> None:
    """Refuse prompts of more tokens than the model has positions.

    Raises:
        UserError: naming the longest one's length and the setting that leaves such prompts out.
    """
    most = tables_of(tokenizer).positions
    longest = max(map(len, prompts), default=0)
    if most is not None and longest > most:
        raise UserError(
            f"the longest prompt has {longest} tokens, but the model has positions for {most} "
            f"(max_position_embeddings in its config.json): set max_tokens to {most} or less, or shorten the texts"
        )
