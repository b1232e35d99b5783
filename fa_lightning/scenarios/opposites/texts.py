"""Opposite texts, from which a steering vector is made: sets that ship, and a file of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa_lightning.common.rows import Row, read_rows
from fa_lightning.common.user_files import read_yaml
from fa_lightning.errors import UserError
from fa_lightning.scenarios.text_form import TextForm

SHIPPED = tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.yaml")))
"""Names of the sets that come with the package: what is steered towards, then what away from."""
LAYOUTS = (
    ("positive", "negative"),
    ("answer_matching_behavior", "answer_not_matching_behavior"),
)
"""Columns of the two sides; the second are those of contrastive activation addition (arXiv 2312.06681)."""
QUESTIONS = ("prompt", "question")


@dataclass(frozen=True)
class OppositePair:
    """Two opposite texts, or two opposite answers to one prompt.

    Attributes:
        positive: what is steered towards.
        negative: what is steered away from.
        prompt: that both answer; empty where they are texts by themselves.
    """

    positive: str
    negative: str
    prompt: str = ""


@dataclass(frozen=True)
class OppositeTexts:
    """Pairs that a vector is made of, and others that it is tried on.

    Attributes:
        name: as tables spell it.
        pairs: what the vector is made of.
        held_out: opposite answers to prompts, no part of the vector; there may be none.
    """

    name: str
    pairs: tuple[OppositePair, ...]
    held_out: tuple[OppositePair, ...] = ()


def shipped(name: str) -> OppositeTexts:
    """A set that comes with the package.

    Raises:
        UserError: there is none of that name.
    """
    if name not in SHIPPED:
        raise UserError(f"{name!r} is no set of opposite texts; there are {', '.join(SHIPPED)}")
    content = read_yaml(Path(__file__).with_name(f"{name}.yaml"))
    return OppositeTexts(name, *(tuple(map(_pair, content[part])) for part in ("pairs", "held_out")))


def read_opposites(path: str) -> tuple[OppositePair, ...]:
    """Pairs of a file with rows: columns `positive` and `negative`, or those of CAA, and perhaps a `prompt`.

    Raises:
        MissingFileError: there is no such file.
        UserError: a row lacks a side; the message names file, row and column.
    """
    return tuple(map(_pair_of_row, read_rows(path).rows))


def paired(positive: Sequence[str], negative: Sequence[str]) -> tuple[OppositePair, ...]:
    """Texts of the two sides by their order.

    Raises:
        UserError: there are not as many of both, or none, or one has no words.
    """
    if len(positive) != len(negative) or not positive:
        raise UserError(
            f"there are {len(positive)} positive and {len(negative)} negative texts, but as many of both are needed, "
            "one at least"
        )
    if not all(text.strip() for text in (*positive, *negative)):
        raise UserError("a positive or negative text is empty: write something into it")
    return tuple(map(OppositePair, positive, negative))


def sides(form: TextForm, pair: OppositePair) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of both sides of a pair, each whole, as a form shows them."""
    if not pair.prompt:
        return form.asked(pair.positive), form.asked(pair.negative)
    asked = form.asked(pair.prompt)
    positive, negative = (form.answer(text, pair.prompt) for text in (pair.positive, pair.negative))
    return (*asked, *positive), (*asked, *negative)


def _pair(entry: Any) -> OppositePair:
    return OppositePair(**entry) if isinstance(entry, dict) else OppositePair(*entry)


def _pair_of_row(row: Row) -> OppositePair:
    layout = next((names for names in LAYOUTS if names[0] in row.values or names[1] in row.values), LAYOUTS[0])
    positive, negative = (row.where.text(name, row.values.get(name)) for name in layout)
    question = next((name for name in QUESTIONS if name in row.values), None)
    return OppositePair(positive, negative, "" if question is None else row.where.text(question, row.values[question]))
