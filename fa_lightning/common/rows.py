r"""A file's rows, whatever its format, each with the number that a reader finds it by.

Text formats are read by Python's own csv and json. The library `datasets` (through pandas and pyarrow) can't be
trusted with them: it reads the action `None` as missing, `007` as 7 and `2024-01-01` as a date, moves the cells of rows
that are longer than the header, takes the last of two equal keys, and drops empty lines uncounted. It reads Parquet and
data sets by name, which have types of their own.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple, NoReturn

from fa_lightning.common.user_files import decoded, json_value, read_bytes, text_lines
from fa_lightning.errors import MissingFileError, MissingPackageError, UserError

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


class RowLocation(NamedTuple):
    """Where a row stands.

    Attributes:
        file: as the user named it.
        number: of the row, from 1, with everything counted that stands before it: in JSON lines the line, in a table
            the row of a spreadsheet, whose first one is the header.
    """

    file: str
    number: int

    def refuse(self, column: str, what: str) -> NoReturn:
        """Raise a UserError that names file, row and column."""
        raise UserError(f"{self}, column {column!r}: {what}")

    def text(self, column: str, value: Any) -> str:
        """The value, which has to be a text with something in it.

        Raises:
            UserError: it is none, or holds half a character (a surrogate), which no file can be written with.
        """
        if not isinstance(value, str) or not value.strip():
            self.refuse(column, f"{value!r} is no text")
        if re.search("[\ud800-\udfff]", value):
            self.refuse(column, f"{value!r} holds half a character (a surrogate): write the text again in UTF-8")
        return value

    def __str__(self) -> str:
        return f"{self.file}, row {self.number}"


class Row(NamedTuple):
    """One row.

    Attributes:
        where: it stands.
        values: by column; what is missing (an empty cell, null, NaN) has no entry.
    """

    where: RowLocation
    values: dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """What a file holds.

    Attributes:
        rows: with at least one value each, in their order.
        columns: of all rows, in the order that they come in.
        empty: rows and lines without any value, which are passed over.
    """

    rows: list[Row]
    columns: list[str]
    empty: int


class _Repeated(dict[str, Any]):
    """A JSON object in which `key` stands twice."""

    key = ""


def has_rows(name: str) -> bool:
    """Whether a file's name says that it holds rows: it ends in one of `FORMATS`, perhaps with `.gz` behind."""
    return _ending(name) in FORMATS


def is_file(name: str) -> bool:
    """Whether a name is meant as a file's: by its ending, or because there is one."""
    return has_rows(name) or Path(name).is_file()


def read_rows(name: str, configuration: str | None = None, split: str = "train", folder: str | None = None) -> Rows:
    """The rows of a file, or of a data set.

    Args:
        name: of a file that ends in one of `FORMATS`, perhaps packed (`.gz`); of anything else, a data set's name on
            the Hub or its folder.
        configuration: of a data set that has several.
        split: of a data set.
        folder: within a data set; None takes the whole.

    Raises:
        MissingFileError: there is no such file.
        MissingPackageError: the library `datasets` is needed, and is not installed.
        UserError: it can't be read as what its name says, a key or column is there twice, a row has more or fewer cells
            than the header, or nothing is in it.
    """
    if not is_file(name):
        records: Iterable[tuple[int, Any]] = enumerate(
            _records_of_data_set(name, configuration, split, folder), start=1
        )
    elif not Path(name).is_file():
        raise MissingFileError(f"{name} is no file: give the path of one, or the name of a data set")
    elif _ending(name) == ".parquet":
        records = enumerate(_parquet(name), start=1)
    elif _ending(name) in (".csv", ".tsv"):
        records = _table(decoded(read_bytes(name), name), name)
    elif _ending(name) in FORMATS:
        records = _json_records(decoded(read_bytes(name), name), name)
    else:
        raise UserError(
            f"{name} is no file of a known kind: save it as CSV or JSON lines (names end in {', '.join(FORMATS)}, or "
            ".gz behind)"
        )
    rows, columns, empty = [], dict[str, None](), 0
    for number, record in records:
        where = RowLocation(name, number)
        if record is None:
            empty += 1
            continue
        if not isinstance(record, Mapping):
            raise UserError(f"{where} is {str(record)[:60]!r}, but must be an object of columns and values")
        if isinstance(record, _Repeated):
            where.refuse(record.key, "it is there twice in the row: leave one of the two out")
        columns |= dict.fromkeys(record)
        values = {column: value for column, value in record.items() if not _is_missing(value)}
        if values:
            rows.append(Row(where, values))
        else:
            empty += 1
    if not rows:
        raise UserError(f"{name} holds no row with a value in it: write some into it")
    return Rows(rows, list(columns), empty)


def _ending(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        # What pandas writes for a missing number; `None` and `NA` may be actions.
        return not value.strip() or value.strip().lower() == "nan"
    return value is None or (isinstance(value, float) and math.isnan(value))


def _json_records(text: str, name: str) -> Iterable[tuple[int, Any]]:
    """A list of records, or a record on each line: files that end in .json hold either."""
    if text.lstrip()[:1] == "[":
        return enumerate(json_value(text, name, "mend it there", object_pairs_hook=_object), start=1)
    return [(number, _json_line(line, number, name)) for number, line in enumerate(text_lines(text), start=1)]


def _json_line(line: str, number: int, name: str) -> Any:
    if not line.strip():
        return None
    try:
        return json.loads(line, object_pairs_hook=_object)
    except ValueError as error:
        raise UserError(
            f"{RowLocation(name, number)} is {line[:60]!r}, but must be one whole JSON object (or the file one list of "
            f"them): {error}"
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    names = [key for key, _ in pairs]
    repeated = _Repeated(values)
    repeated.key = next(key for key in names if names.count(key) > 1)
    return repeated


def _table(text: str, name: str) -> list[tuple[int, dict[str, str] | None]]:
    """The rows of a CSV or TSV file; None for an empty one. Some spreadsheets write semicolons or tabs for commas."""
    first = text.partition("\n")[0]
    if re.match(r"\s*(\[\s*)?\{", text):
        raise UserError(f"{name} holds JSON, and no table: give it a name that ends in .jsonl")
    mark = "\t" if _ending(name) == ".tsv" else next((mark for mark in ",;\t" if mark in first), ",")
    # No cell is longer than the text; the reader's own limit is 131,072 letters.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    # Without `newline`, a line would also end inside a quoted text.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    rows: list[tuple[int, dict[str, str] | None]] = []
    number = 0
    try:
        # A column without a name is passed over: pandas writes one, of row numbers.
        header = [column.strip() for column in next(reader, [])]
        repeated = next((column for column in header if column and header.count(column) > 1), None)
        if repeated is not None:
            raise UserError(f"{name}, row 1: the column {repeated!r} is there twice: give each a name of its own")
        for number, cells in enumerate(reader, start=2):
            if not any(cell.strip() for cell in cells):
                rows.append((number, None))
            elif len(cells) != len(header):
                raise UserError(
                    f"{RowLocation(name, number)} has {len(cells)} cells, but the header has {len(header)}: put texts "
                    f"that hold {mark!r} or a line's end into double quotes"
                )
            else:
                rows.append((number, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise UserError(
            f"{name}, row {max(number, 1) + 1} (line {reader.line_num}) is no row of a table ({error}): write a double "
            "quote inside a quoted text twice, and close each one"
        ) from error
    return rows


def _parquet(name: str) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise MissingPackageError(f"reading {name} needs pyarrow: install it with `pip install datasets`") from error
    try:
        records: list[dict[str, Any]] = read_table(io.BytesIO(read_bytes(name))).to_pylist()
    except ArrowException as error:
        raise UserError(f"{name} can't be read as Parquet ({error}): write it again") from error
    return records


def _records_of_data_set(name: str, configuration: str | None, split: str, folder: str | None) -> Iterable[Any]:
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise MissingPackageError(
            f"{name} is no file, and loading a data set needs the library datasets: install it with `pip install "
            "datasets`, or give the path of a file"
        ) from error
    try:
        records: Iterable[Any] = load_dataset(name, configuration, data_dir=folder, split=split)
    except (ValueError, OSError, DatasetsError) as error:
        reason = shorten(str(error), 300, placeholder=" ...")
        raise UserError(
            f"{name} is no file, and as a data set it can't be loaded ({reason}): give the path of a file that ends in "
            f"{', '.join(FORMATS)}, or mend the data set's name"
        ) from error
    return records
