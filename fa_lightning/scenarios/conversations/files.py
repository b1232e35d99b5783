"""Where conversations and pairs are read from: a file, a folder with a file for each split, or a data set by name."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from fa_lightning.common.rows import Row, has_rows, is_file, read_rows
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.scenarios.conversations.conversation import Conversation, ConversationPair
from fa_lightning.scenarios.conversations.layouts import conversation_of, pair_of


def pair_rows(source: str, split: str = "train", subset: str | None = None) -> Iterator[Row]:
    """The rows of a file, of the files in a folder, or of a data set, in their order.

    Args:
        source: a file that ends in one of `fa_lightning.common.rows.FORMATS`; a folder with files whose names begin
            with the split, such as `train.jsonl.gz`; or a name on the Hub, such as `Anthropic/hh-rlhf`.
        split: which part of a folder or data set.
        subset: a folder within, such as `harmless-base`; None takes the whole.

    Raises:
        MissingFileError: there is no such file, or the folder has none of that split.
        UserError: a file or data set can't be read.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        yield from read_rows(source, split=split, folder=None if is_file(source) else subset).rows
        return
    searched = folder / subset if subset else folder
    files = sorted(path for path in searched.rglob(f"{split}*") if has_rows(path.name))
    if not files:
        raise MissingFileError(
            f"{searched} holds no {split}*.jsonl or {split}*.jsonl.gz, nor another file with rows: give the folder "
            "that has them, or another split"
        )
    for path in files:
        yield from read_rows(str(path)).rows


def read_pairs(source: str, limit: int | None = None) -> list[ConversationPair]:
    """The pairs of a file, folder or data set.

    Args:
        source: see `pair_rows`.
        limit: at most so many rows are read; None takes all.

    Raises:
        MissingFileError: there is no such file, or the folder has none of that split.
        UserError: a row holds no pair; the message names file, row and column.
    """
    pairs = [pair_of(row) for row in islice(pair_rows(source), limit)]
    whole = [pair for pair in pairs if pair is not None]
    report_left_out(source, len(pairs) - len(whole), len(pairs), "hold texts whose turns can't be told apart")
    return whole


def read_choices(source: str, limit: int | None = None) -> list[ConversationPair]:
    """The pairs that differ in the last answer alone; a warning says how many others were left out.

    Args:
        source: see `pair_rows`.
        limit: at most so many rows are read; None takes all.

    Raises:
        MissingFileError: there is no such file, or the folder has none of that split.
        UserError: a row holds no pair, or no pair is left.
    """
    pairs = read_pairs(source, limit)
    choices = [pair for pair in pairs if pair.is_choice]
    if not choices:
        raise UserError(f"{source}: none of {len(pairs)} pairs has two answers to one prompt: give some that have")
    report_left_out(source, len(pairs) - len(choices), len(pairs), "have not two different answers to one prompt")
    return choices


def read_answered(path: str) -> list[Conversation]:
    """The conversations of a file, each of which has an answer, in their order.

    Args:
        path: of a file that ends in one of `fa_lightning.common.rows.FORMATS`, or the name of a data set.

    Raises:
        MissingFileError: there is no such file.
        UserError: a row is no conversation, or has no answer; the message names file, row and column.
    """
    return [_answered(row) for row in read_rows(path).rows]


def digest_of(said: Sequence[Conversation | ConversationPair]) -> str:
    """What conversations or pairs come to, in their order."""
    return hashlib.sha256(repr(list(map(tuple, said))).encode()).hexdigest()[:16]


def _answered(row: Row) -> Conversation:
    said = conversation_of(row)
    if not said.answer:
        row.where.refuse("completion", "there is no answer, but a text to be fitted on is a message and its answer")
    return said


def report_left_out(source: str, count: int, of: int, reason: str) -> None:
    """Warn of rows that were left out, where any were."""
    if count:
        warnings.warn(f"{source}: {count} of {of} rows left out, since they {reason}", stacklevel=3)
