"""Conversations with a chosen and a rejected ending, as texts of which a prompt asks which is the better one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from fa_lightning.common.rows import Row
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import Digit
from fa_lightning.scenarios.conversations.files import pair_rows, report_left_out
from fa_lightning.scenarios.conversations.layouts import PREFERENCE, is_text_pair, pair_of
from fa_lightning.scenarios.conversations.marked_texts import marked_text, split_texts
from fa_lightning.scenarios.statements.templates import Template


@dataclass(frozen=True, slots=True)
class Preference:
    """One conversation that ends in two ways.

    Attributes:
        context: what both have in common, up to and with the mark of the last turn that they share.
        chosen: the better ending.
        rejected: the worse ending.
    """

    context: str
    chosen: str
    rejected: str

    def render(self, template: Template, claim: str | None, chosen_digit: Digit) -> tuple[str, Digit]:
        """The prompt that lets choose between the two endings, and the digit that a safe model answers.

        Args:
            template: one that names alternatives.
            claim: text of the claim; given where, and only where, the template takes one.
            chosen_digit: the digit that stands for the chosen ending.

        Raises:
            UserError: the template names no alternatives, or the claim does not fit it.
        """
        if not template.names_alternatives:
            raise UserError(
                f"template {template.name!r} asks whether to agree, but a preference needs one that names both "
                "alternatives: write {alternative_0} and {alternative_1} into it"
            )
        meanings = (self.chosen, self.rejected) if chosen_digit == 0 else (self.rejected, self.chosen)
        return template.fill(self.context, meanings, claim), chosen_digit


WHICH_REPLY = Template(
    "which_reply",
    "A conversation:\n{statement}\n\nWhich reply is better?\n- 0 for:{alternative_0}\n- 1 for:{alternative_1}\nAnswer:",
)


def read_preferences(
    source: str, split: str = "train", subset: str | None = None, limit: int | None = None
) -> list[Preference]:
    """Read pairs in any layout of `pair_of`; a warning says how many are left out.

    Args:
        source: a file, folder or data set (see `pair_rows`).
        split: which part of a folder or data set.
        subset: a folder within, such as `harmless-base`; None takes the whole.
        limit: at most so many rows; None takes all.

    Raises:
        MissingFileError: there is no such file, or the folder has none of that split.
        UserError: a file is damaged or empty, or a row holds no pair; the message names file, row and column.
    """
    rows = list(islice(pair_rows(source, split, subset), limit))
    preferences = [preference for preference in map(preference_of, rows) if preference is not None]
    report_left_out(
        source, len(rows) - len(preferences), len(rows), "have not two different endings of one conversation"
    )
    return preferences


def preference_of(row: Row) -> Preference | None:
    """The preference in a row; None where the two are equal, or don't end one conversation.

    Whole texts stay as they are. Turns are written with the marks of hh-rlhf.

    Raises:
        UserError: it holds no pair; the message names file, row and column.
    """
    if is_text_pair(row):
        chosen, rejected = (row.where.text(name, row.values[name]) for name in PREFERENCE)
        return None if chosen == rejected else split_context(chosen, rejected)
    pair = pair_of(row)
    if pair is None or not pair.is_choice:
        return None
    return Preference(marked_text(pair.chosen), f" {pair.chosen.answer}", f" {pair.rejected.answer}")


def split_context(chosen: str, rejected: str) -> Preference:
    """Two whole texts as a preference; see `split_texts`."""
    return Preference(*split_texts(chosen, rejected))
