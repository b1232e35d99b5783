"""The sweep's table: a CSV file that grows by a piece of work at a time, survives a kill and is read by pandas."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from fa_lightning.common.files import write_atomically

NAN = float("nan")


@dataclass(frozen=True)
class Row:
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
        known = [share for share in (self.oversight, self.no_oversight) if share == share]
        return sum(known) / len(known) if known else NAN


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
END = "end"
"""Column that closes a piece of work: rows behind the last such mark were cut off by a kill."""


class SweepTable:
    """Rows on disk and in memory; pieces of work that are done are not done again.

    Args:
        path: the CSV file; its folder is made if need be.
        key: what the rows were made from; a file of another key is put aside as `.old.csv`, and a new one begun.
        writes: whether this process writes; the others read what is there.
    """

    def __init__(self, path: Path, key: str, writes: bool = True) -> None:
        self.path = path
        self.key = key
        self.writes = writes
        self.rows = _read(path, key)
        if writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self.rows and _holds_rows(path):
                path.replace(path.with_suffix(".old.csv"))
            # Without what a kill has cut off, so that new rows do not join half a row.
            text = _text([], key, header=True) + "".join(_text(part, key) for part in _pieces(self.rows))
            write_atomically(path, text.encode())

    def has(self, work: str) -> bool:
        """Whether a piece of work is done."""
        return any(row.work == work for row in self.rows)

    def of(self, work: str) -> list[Row]:
        """The rows of a piece of work."""
        return [row for row in self.rows if row.work == work]

    def kind(self, kind: str) -> list[Row]:
        """All rows of a kind."""
        return [row for row in self.rows if row.kind == kind]

    def add(self, rows: Iterable[Row]) -> list[Row]:
        """Append a finished piece of work."""
        added = list(rows)
        self.rows += added
        if self.writes and added:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(_text(added, self.key))
                file.flush()
                os.fsync(file.fileno())
        return added


def _text(rows: list[Row], key: str, header: bool = False) -> str:
    """Rows as CSV text; the last one carries the mark of the end."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if header:
        writer.writerow([*COLUMNS, "made_from", "mark"])
    for place, row in enumerate(rows):
        mark = END if place + 1 == len(rows) else ""
        writer.writerow([*(_cell(value) for value in dataclasses.astuple(row)), key, mark])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Nan is an empty field, which pandas reads as nan."""
    return "" if isinstance(value, float) and value != value else value


def _pieces(rows: list[Row]) -> list[list[Row]]:
    pieces: dict[str, list[Row]] = {}
    for row in rows:
        pieces.setdefault(row.work, []).append(row)
    return list(pieces.values())


def _holds_rows(path: Path) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8").count("\n") > 1


def _read(path: Path, key: str) -> list[Row]:
    """The rows of finished pieces of work; none of a file that was made from something else."""
    if not path.is_file():
        return []
    kinds = get_type_hints(Row)
    finished: list[Row] = []
    begun: list[Row] = []
    text = path.read_text(encoding="utf-8")
    # A row that a kill has cut short has no line end.
    for record in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])):
        if set(record) != {*COLUMNS, "made_from", "mark"} or record["made_from"] != key:
            return []
        begun.append(Row(**{name: _value(kinds[name], record[name]) for name in COLUMNS}))
        if record["mark"] == END:
            finished += begun
            begun = []
    return finished


def _value(kind: type, text: str) -> Any:
    return NAN if kind is float and text == "" else kind(text)
