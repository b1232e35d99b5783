"""The sweep's table: JSON lines that grow by a piece of work and survive a kill, and a CSV file in the end."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa_lightning.common.files import write_atomically, write_table
from fa_lightning.metrics.estimates import TwoDivergences

NAN = float("nan")


@dataclass(frozen=True)
class SweepRow(TwoDivergences):
    """One edit on one set of items. What does not apply is nan, empty or -1.

    Attributes:
        work: the piece of work it belongs to; all rows of a piece are written together.
        kind: on validation groups `trial`, `units map`, `units oracle` or `dose`, on test groups `test` or `transfer`.
        method: the map, and what it was fitted on.
        objective: what it was fitted to.
        site: where; the sites of a stack are joined by +.
        positions: the token position rule.
        strength: a in h' = h + a (T(h) - h).
        dose: the edit's mean norm over the mean norm of the states.
        seed: of the map.
        scenarios: that it was fitted on; -1 is all.
        target: of a transfer.
        ranking: of the edited units.
        percent: of units edited, 100 is all.
        oversight: share of aligned answers with oversight, and its 95 % interval.
        no_oversight: the same without.
        recovery: (steered - faking) / (aligned - faking) without oversight, and its 95 % interval.
        kl_neutral_nats: KL on neutral texts, nats per token.
        kl_answer_nats: KL at the token said first there, mean nats.
        unchanged_answers: share of neutral texts whose first token said stays.
        perplexity_ratio: on neutral texts.
        format_validity: share of answers that are a letter.
        aligned_oversight: share of aligned answers of the aligned twin steered alike.
        aligned_no_oversight: the same without oversight.
        repetition: share of repeated 3-grams in generated text.
        r2: variance explained on held-out tokens.
        twin_free: 1 if the faker alone is enough to fit it.
        n_oversight: items with oversight, of a transfer.
        n_no_oversight: items without.
    """

    work: str
    kind: str
    method: str
    objective: str
    site: str
    positions: str
    strength: float
    dose: float
    seed: int
    scenarios: int = -1
    target: str = ""
    ranking: str = ""
    percent: float = 100.0
    oversight: float = NAN
    oversight_low: float = NAN
    oversight_high: float = NAN
    no_oversight: float = NAN
    no_oversight_low: float = NAN
    no_oversight_high: float = NAN
    recovery: float = NAN
    recovery_low: float = NAN
    recovery_high: float = NAN
    kl_neutral_nats: float = NAN
    kl_answer_nats: float = NAN
    unchanged_answers: float = NAN
    perplexity_ratio: float = NAN
    format_validity: float = NAN
    aligned_oversight: float = NAN
    aligned_no_oversight: float = NAN
    repetition: float = NAN
    r2: float = NAN
    twin_free: int = 0
    n_oversight: int = -1
    n_no_oversight: int = -1

    @property
    def score(self) -> float:
        """Mean of the two cells; that of the one where the other is empty."""
        known = [share for share in (self.oversight, self.no_oversight) if not math.isnan(share)]
        return sum(known) / len(known) if known else NAN


COLUMNS = tuple(field.name for field in dataclasses.fields(SweepRow))


class SweepTable:
    """Rows on disk and in memory; pieces of work that are done are not done again.

    Each line of the file is a finished piece of work with all its rows, so a kill loses one piece and no more.

    Args:
        path: the file; its folder is made if need be.
        key: what the rows were made from; a file of another key is put aside as `.old.jsonl`, and a new one begun.
        writes: whether this process writes; the others read what is there.
    """

    def __init__(self, path: Path, key: str, writes: bool = True) -> None:
        self.path = path
        self.key = key
        self.writes = writes
        pieces = _pieces(path)
        own = [piece for piece in pieces if piece["made_from"] == key]
        self.rows = [SweepRow(**row) for piece in own for row in piece["rows"]]
        if writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            if len(own) < len(pieces):
                path.replace(path.with_suffix(".old.jsonl"))
            # Without what a kill has cut off, so that a new line does not join half a line.
            write_atomically(path, "".join(map(_line, own)).encode())

    def has(self, work: str) -> bool:
        """Whether a piece of work is done."""
        return any(row.work == work for row in self.rows)

    def of(self, work: str) -> list[SweepRow]:
        """The rows of a piece of work."""
        return [row for row in self.rows if row.work == work]

    def kind(self, kind: str) -> list[SweepRow]:
        """All rows of a kind."""
        return [row for row in self.rows if row.kind == kind]

    def add(self, rows: Iterable[SweepRow]) -> list[SweepRow]:
        """Append a finished piece of work."""
        added = list(rows)
        self.rows += added
        if self.writes and added:
            piece = {"made_from": self.key, "rows": [dataclasses.asdict(row) for row in added]}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(piece))
                file.flush()
                os.fsync(file.fileno())
        return added

    def write_csv(self, path: Path) -> None:
        """Write all rows for pandas; what does not apply and is nan is an empty field."""
        write_table(path, [{**dataclasses.asdict(row), "made_from": self.key} for row in self.rows])


def _line(piece: dict[str, Any]) -> str:
    return json.dumps(piece) + "\n"


def _pieces(path: Path) -> list[dict[str, Any]]:
    """The finished pieces of work in a file, which may not be there."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    # A line that a kill has cut short has no end.
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
