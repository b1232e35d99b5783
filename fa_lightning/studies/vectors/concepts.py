"""Opposites that vectors are made of in two ways, and held-out answers that they are judged on."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fa_lightning.common.user_files import read_yaml
from fa_lightning.errors import UserError
from fa_lightning.scenarios.opposites.texts import OppositePair
from fa_lightning.studies.vectors.result import KINDS

FOLDER = Path(__file__).with_name("opposites")
SHIPPED = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
"""Names of the concepts that come with the package."""


class Drawn(NamedTuple):
    """A draw of pairs, and the pairs that it leaves out."""

    pairs: tuple[OppositePair, ...]
    rest: tuple[OppositePair, ...]


@dataclass(frozen=True)
class Concept:
    """Something to steer towards, and its opposite.

    Attributes:
        name: as tables spell it.
        pairs: by kind, what vectors are made of.
        held_out: opposite answers to prompts, no part of any vector.
    """

    name: str
    pairs: Mapping[str, tuple[OppositePair, ...]]
    held_out: tuple[OppositePair, ...]

    def draws(self, kind: str, number: int, draws: int, seed: int) -> list[Drawn]:
        """Different draws of pairs of a kind, the same ones for the same seed.

        Raises:
            UserError: there are not so many different draws of so many pairs.
        """
        pairs = self.pairs[kind]
        most = math.comb(len(pairs), number) if number < len(pairs) else 0
        if draws > most:
            raise UserError(
                f"draws is {draws} and pairs {number}, but of the {len(pairs)} {kind} pairs of {self.name} there are "
                f"{most} different draws that leave some out: lower them"
            )
        generator = random.Random(f"{seed} {self.name} {kind}")
        chosen: dict[frozenset[int], None] = {}
        while len(chosen) < draws:
            chosen[frozenset(generator.sample(range(len(pairs)), number))] = None
        return [
            Drawn(
                tuple(pair for index, pair in enumerate(pairs) if index in indices),
                tuple(pair for index, pair in enumerate(pairs) if index not in indices),
            )
            for indices in chosen
        ]


def read_concept(name: str) -> Concept:
    """A concept that ships, or that of a YAML file of one's own in the same layout.

    Raises:
        MissingFileError: there is no such file.
        UserError: the file lacks a part, or an entry is not what it must be.
    """
    path = FOLDER / f"{name}.yaml" if name in SHIPPED else Path(name)
    if name not in SHIPPED and path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{name!r} is no concept: there are {', '.join(SHIPPED)}, or name a YAML file of your own")
    content = read_yaml(path)
    if not isinstance(content, dict) or set(content) != {*KINDS, "held_out"}:
        raise UserError(f"{path} must hold the lists {', '.join(KINDS)} and held_out, and nothing else")
    pairs = {kind: tuple(_text_pair(path, kind, entry) for entry in _list(path, kind, content)) for kind in KINDS}
    held_out = tuple(_answer_pair(path, entry) for entry in _list(path, "held_out", content))
    if len(held_out) < 4:
        raise UserError(f"{path}: held_out has {len(held_out)} entries, but 4 or more are needed: half of them choose")
    return Concept(path.stem, pairs, held_out)


def _list(path: Path, part: str, content: Mapping[str, Any]) -> list[Any]:
    entries = content[part]
    if not isinstance(entries, list):
        raise UserError(f"{path}: {part} must be a list")
    return entries


def _text_pair(path: Path, kind: str, entry: Any) -> OppositePair:
    if not (isinstance(entry, list) and len(entry) == 2 and all(map(_has_words, entry))):
        raise UserError(f"{path}: {kind} must hold pairs [towards, away] of texts, but has {entry!r}")
    return OppositePair(*entry)


def _answer_pair(path: Path, entry: Any) -> OppositePair:
    fields = ("prompt", "positive", "negative")
    if not (isinstance(entry, dict) and set(entry) == set(fields) and all(map(_has_words, entry.values()))):
        raise UserError(f"{path}: held_out must hold texts under {', '.join(fields)}, but has {entry!r}")
    return OppositePair(**entry)


def _has_words(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())
