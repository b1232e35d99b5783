"""Statements from the UDHR files: rights and their negations, identities in groups, and prompt templates."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Literal

from typing_extensions import override

from fa_lightning.common.user_files import read_text, text_lines
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.scenarios.splits import check_fractions
from fa_lightning.scenarios.statements.source import StatementSource
from fa_lightning.scenarios.statements.statement import (
    PEOPLE,
    Right,
    StatementSplits,
    limited_statements,
    split_statements,
    statements_about,
)
from fa_lightning.scenarios.statements.templates import ALTERNATIVES, CLAIM, STATEMENT, WORDS, Template

Wording = Literal["rights", "ideal"]

RIGHTS_FILES: dict[Wording, tuple[str, str]] = {
    "rights": ("UDHR_raw_rights.txt", "UDHR_raw_rights_neg.txt"),
    # What is called ideal here denies: its negation holds the affirming wordings.
    "ideal": ("UDHR_raw_ideal_neg.txt", "UDHR_raw_ideal.txt"),
}
"""Files of affirming and of denying wordings, line by line of one right."""
IDENTITIES_FILE = "UDHR_raw_identities.txt"
BASES = {"1": "base_long", "2": "base_long", "3": "base_short", "4": "base_short"}
"""The template without a claim behind each one with a claim."""

_PREFIX = "UDHR_CCS_Prompt"
_PLACEHOLDERS = {
    "{right}": STATEMENT,
    "{clime}": CLAIM,
    "{neg}": ALTERNATIVES[0],
    "{pos}": ALTERNATIVES[1],
    "0 (disagree)": f"0 ({WORDS[0]})",
    "1 (agree)": f"1 ({WORDS[1]})",
    "0 for disagree": f"0 for {WORDS[0]}",
    "1 for agree": f"1 for {WORDS[1]}",
}
"""What the files write, and the placeholders of `Template`: the digits' meanings become ones, for either order."""
_INCOMPLETE = "copy all files of the UDHR data into one folder, and give that one"
_HEAD = "ind:"
_FROM = "people from "
_ADJECTIVES = ("Nationality", "Appearance")
"""Groups whose identities are adjectives, of which the files write `people` behind some only."""


def find_root(root: str | Path | None = None) -> Path:
    """The UDHR files' folder: the argument, else the variable UDHR_ROOT, else ./udhr.

    Raises:
        MissingFileError: the first of them that is given holds no identities.
    """
    variable = os.environ.get("UDHR_ROOT") or None
    chosen = Path(root or variable or "udhr").expanduser()
    if (chosen / IDENTITIES_FILE).is_file():
        return chosen
    raise MissingFileError(
        f"the UDHR statements were not found: {chosen} holds no {IDENTITIES_FILE}. Looked at, in this order, the first "
        f"that is set: root ({root or 'not given'}), the variable UDHR_ROOT ({variable or 'not set'}), ./udhr. Give "
        "their folder by one of the three, or use the embedded statements, which need no files"
    )


def read_rights(root: Path, wording: Wording = "rights") -> list[Right]:
    """All rights, each with its negation, in order.

    Args:
        root: the folder of the files.
        wording: `rights` says mostly that people have a right, `ideal` that they should have it.

    Raises:
        MissingFileError: one of the two files is missing.
        UserError: a line has no number or does not say `{people}`, or a right has no negation.
    """
    affirmed, denied = (_numbered(_text(root / name), name) for name in RIGHTS_FILES[wording])
    other = RIGHTS_FILES[wording][1]
    rights, counts = [], dict.fromkeys((article for article, _ in affirmed), 0)
    for line, (article, text) in enumerate(affirmed):
        counts[article] += 1
        name = f"{article}.{counts[article]}"
        negation = denied[line] if line < len(denied) else (None, "")
        if negation[0] != article:
            reason = (
                "the file ends before" if negation[0] is None else f"its line {line + 1} is of article {negation[0]}"
            )
            raise UserError(
                f"right {name} ({text!r}) has no negation in {other}: {reason}. Line {line + 1} there must be the same "
                "right denied"
            )
        if negation[1] == text:
            raise UserError(f"right {name} ({text!r}) has itself for a negation in {other}: write it there denied")
        rights.append(Right(name, text, negation[1]))
    if len(denied) > len(affirmed):
        raise UserError(
            f"{other} has {len(denied)} lines, but there are {len(affirmed)} rights: the last negations belong to none"
        )
    return rights


def read_identities(text: str) -> list[tuple[str, str]]:
    r"""Pairs of an identity and its group, in order.

    A group is headed `ind: NAME (NUMBER)`, and its identities are separated by commas and ends of lines. Where a
    group's first one begins with `people from`, the others leave that out; adjectives leave out `people` behind them.

    Raises:
        UserError: there are none, there is text before the first header, or a group has another number of identities
            than its header says.

    >>> read_identities("ind: Appearance (2)\nbald, tall people\n")
    [('bald people', 'Appearance'), ('tall people', 'Appearance')]
    >>> read_identities("ind: Continent (2)\npeople from Africa,\nAsia\n")
    [('people from Africa', 'Continent'), ('people from Asia', 'Continent')]
    """
    blocks = re.split(rf"^{_HEAD}", text, flags=re.MULTILINE)
    if blocks[0].strip():
        raise UserError(
            f"the identities begin with {blocks[0].strip()[:40]!r}, but must begin with a group's line: "
            f"'{_HEAD} NAME (NUMBER OF IDENTITIES)'"
        )
    identities: list[tuple[str, str]] = []
    for block in blocks[1:]:
        header, _, body = block.partition("\n")
        match = re.fullmatch(r"\s*(.+?)\s*\((\d+)\)\s*", header)
        if match is None:
            raise UserError(f"the group '{_HEAD}{header}' must be written '{_HEAD} NAME (NUMBER OF IDENTITIES)'")
        names = [name for name in (part.strip() for part in re.split(r"[,\n]", body)) if name]
        if len(names) != int(match[2]):
            raise UserError(
                f"group {match[1]!r} is said to have {match[2]} identities, but {len(names)} follow: mend either"
            )
        before = _FROM if names and names[0].startswith(_FROM) else ""
        behind = " people" if match[1] in _ADJECTIVES else ""
        identities += [
            (before + name.removeprefix(before) + ("" if name.endswith(behind) else behind), match[1]) for name in names
        ]
    if not identities:
        raise UserError(
            f"there are no identities: write a line '{_HEAD} NAME (NUMBER OF IDENTITIES)' for each group, and its "
            "identities behind it"
        )
    return identities


def read_templates(root: Path) -> dict[str, Template]:
    """The templates by what follows `UDHR_CCS_Prompt_` in their file's name, as `base_short` and `1`.

    The file without a name behind it is the one that the original runs with; it is left out where its words are those
    of another one, and else called `default`.

    Raises:
        MissingFileError: there are no such files.
        UserError: a file has no placeholder, or does not say what the digits mean.
    """
    templates = _templates(root)
    if "default" in templates and any(
        templates["default"].text == templates[name].text for name in templates if name != "default"
    ):
        del templates["default"]
    return templates


class UdhrStatements(StatementSource):
    """38 rights of the UDHR x 213 identities in 12 groups, each right affirmed and denied.

    Args:
        root: folder of the files; see `find_root` for where else it is looked for.
        wording: which files' wordings; see `read_rights`.
        validation: share of the articles, and of the identities, for validation.
        test: the same for the test.
        train_statements: at most so many training statements; None takes all.
        eval_statements: the same for validation and for the test.
        seed: of the split.
    """

    def __init__(
        self,
        root: str | None = None,
        wording: Wording = "rights",
        validation: float = 0.2,
        test: float = 0.3,
        train_statements: int | None = None,
        eval_statements: int | None = None,
        seed: int = 0,
    ) -> None:
        check_fractions(validation, test)
        self.root = root
        self.wording: Wording = wording
        self.validation = validation
        self.test = test
        self.train_statements = train_statements
        self.eval_statements = eval_statements
        self.seed = seed

    @override
    def load(self) -> StatementSplits:
        root = find_root(self.root)
        identities = read_identities(_text(root / IDENTITIES_FILE))
        statements = statements_about(read_rights(root, self.wording), identities)
        splits = split_statements(statements, self.seed, self.validation, self.test)
        return StatementSplits(
            limited_statements(splits.train, self.train_statements),
            limited_statements(splits.validation, self.eval_statements),
            limited_statements(splits.test, self.eval_statements),
        )

    @override
    def templates(self) -> dict[str, Template]:
        return read_templates(find_root(self.root))


def _templates(folder: Path) -> dict[str, Template]:
    templates = {}
    for path in sorted(folder.glob(f"{_PREFIX}*.txt")):
        name = path.stem.removeprefix(_PREFIX).removeprefix("_") or "default"
        text = _text(path).removesuffix("\n")
        for written, placeholder in _PLACEHOLDERS.items():
            text = text.replace(written, placeholder)
        try:
            templates[name] = Template(name, text)
        except UserError as error:
            ours = ", ".join(f"{written} for {placeholder}" for written, placeholder in _PLACEHOLDERS.items())
            raise UserError(f"{path}: {error}. These files write {ours}") from error
    if not templates:
        raise MissingFileError(f"{folder} holds no {_PREFIX}*.txt: {_INCOMPLETE}")
    # A template's base is looked up last, since it may come behind it.
    return {
        name: dataclasses.replace(template, base=BASES[name] if BASES.get(name) in templates else None)
        for name, template in templates.items()
    }


def _numbered(text: str, file: str) -> list[tuple[str, str]]:
    """Article and wording of each line that is not empty."""
    lines = []
    for number, line in enumerate(text_lines(text), start=1):
        if not line.strip():
            continue
        article, _, wording = line.strip().partition(" ")
        if not article.isdigit() or PEOPLE not in wording:
            raise UserError(
                f"{file}, line {number}: {line.strip()[:60]!r} must be an article's number, a space and a wording with "
                f"{PEOPLE} in it"
            )
        lines.append((article, wording.strip()))
    return lines


def _text(path: Path) -> str:
    """The text of one of the files.

    Raises:
        MissingFileError: it is missing.
        UserError: it is no text.
    """
    if not path.is_file():
        raise MissingFileError(f"{path.parent} holds no {path.name}: {_INCOMPLETE}")
    return read_text(path)
