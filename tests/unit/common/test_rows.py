"""How files are read: odd ones rightly, or refused with file and row."""

from __future__ import annotations

import builtins
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fa_lightning.common.rows import Rows, read_rows
from fa_lightning.errors import MissingFileError, MissingPackageError, UserError


def rows_of(folder: Path, name: str, content: str | bytes) -> Rows:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_rows(str(path))


def values(rows: Rows) -> list[dict[str, Any]]:
    return [row.values for row in rows.rows]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"a": "x", "b": "1"}\n{"a": "y", "b": "2"}\n'),
        ("a.ndjson", '{"a": "x", "b": "1"}\n{"a": "y", "b": "2"}'),
        ("a.json", '[{"a": "x", "b": "1"}, {"a": "y", "b": "2"}]'),
        ("lines.json", '{"a": "x", "b": "1"}\n{"a": "y", "b": "2"}\n'),
        ("a.csv", "a,b\nx,1\ny,2\n"),
        ("a.CSV", "a,b\nx,1\ny,2\n"),
        ("semicolons.csv", "a;b\nx;1\ny;2\n"),
        ("a.tsv", "a\tb\nx\t1\ny\t2\n"),
        ("pandas.csv", ",a,b\n0,x,1\n1,y,2\n"),
        ("crlf.csv", "a,b\r\nx,1\r\ny,2\r\n"),
        ("crlf.jsonl", '{"a": "x", "b": "1"}\r\n{"a": "y", "b": "2"}\r\n'),
        ("mark.csv", b"\xef\xbb\xbfa,b\nx,1\ny,2\n"),
        ("mark.jsonl", b'\xef\xbb\xbf{"a": "x", "b": "1"}\n{"a": "y", "b": "2"}\n'),
        ("mark.json", b'\xef\xbb\xbf[{"a": "x", "b": "1"}, {"a": "y", "b": "2"}]'),
        # mtime: a test's name holds these bytes, and parallel workers must collect the same names.
        ("a.csv.gz", gzip.compress(b"a,b\nx,1\ny,2\n", mtime=0)),
        ("a.jsonl.gz", gzip.compress(b'{"a": "x", "b": "1"}\n{"a": "y", "b": "2"}\n', mtime=0)),
    ],
)
def test_every_format_says_the_same(tmp_path: Path, name: str, content: str | bytes) -> None:
    read = rows_of(tmp_path, name, content)
    assert [{key: row[key] for key in ("a", "b")} for row in values(read)] == [
        {"a": "x", "b": "1"},
        {"a": "y", "b": "2"},
    ]
    assert read.empty == 0


def test_parquet_and_a_data_set_say_it_too(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    for path in (tmp_path / "a.parquet", folder / "train.parquet"):
        pandas.DataFrame({"a": [["x", "y"], ["z"]], "b": [True, None]}).to_parquet(path)
    expected = [{"a": ["x", "y"], "b": True}, {"a": ["z"]}]
    assert values(read_rows(str(tmp_path / "a.parquet"))) == expected
    assert values(read_rows(str(folder))) == expected
    with pytest.raises(UserError, match=r"nothing is no file, and as a data set it can't be loaded"):
        read_rows(str(tmp_path / "nothing"))
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"b\.parquet can't be read as Parquet"):
        read_rows(str(tmp_path / "b.parquet"))


def test_a_data_set_needs_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name in ("datasets", "pyarrow"):
            raise ImportError(name)
        return found(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for name in ("org/name", str(tmp_path / "a.parquet")):
        with pytest.raises(MissingPackageError, match=r"`pip install datasets`"):
            read_rows(name)


def test_empty_rows_are_counted_and_numbers_go_on(tmp_path: Path) -> None:
    table = rows_of(tmp_path, "a.csv", "a,b\n\nx,1\n,\n \ny,2\n\n")
    assert ([row.where.number for row in table.rows], table.empty) == ([3, 6], 4)
    lines = rows_of(tmp_path, "a.jsonl", '\n{"a": "x"}\n\n{"a": null}\n{"a": "y"}\n\n')
    assert ([row.where.number for row in lines.rows], lines.empty) == ([2, 5], 4)


def test_texts_stay_as_they_are(tmp_path: Path) -> None:
    text = "one\u2028still one\u0085and, one"
    assert values(rows_of(tmp_path, "a.jsonl", json.dumps({"a": text}, ensure_ascii=False))) == [{"a": text}]
    assert values(rows_of(tmp_path, "a.csv", f'a,b\n"{text}",None\n007,2024-01-01\n')) == [
        {"a": text, "b": "None"},
        {"a": "007", "b": "2024-01-01"},
    ]
    assert values(rows_of(tmp_path, "b.csv", 'a,b\n"two\nlines","a ""quote"""\n')) == [
        {"a": "two\nlines", "b": 'a "quote"'}
    ]


def test_nan_is_missing(tmp_path: Path) -> None:
    assert values(rows_of(tmp_path, "a.jsonl", '{"a": NaN, "b": 1}\n')) == [{"b": 1}]
    assert values(rows_of(tmp_path, "a.csv", "a,b\nNaN,1\n")) == [{"b": "1"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"a": "x"}\n{"a": 1, "b": 2, "a": 3}',
            r"a\.jsonl, row 2, column 'a': it is there twice in the row",
        ),
        ("a.json", '[{"a": 1}, {"a": 1, "a": 1}]', r"a\.json, row 2, column 'a': it is there twice"),
        ("a.jsonl", '{"a": 1}\n{"a": ', r"a\.jsonl, row 2 is '\{\"a\": ', but must be one whole JSON object"),
        ("a.jsonl", '"text"\n', r"a\.jsonl, row 1 is 'text', but must be an object of columns and values"),
        ("a.json", '[{"a": 1},', r"a\.json is no valid JSON"),
        ("a.json", '{\n"a": {"0": 1}}', r"a\.json, row 1 is '\{', but must be one whole JSON object \(or the file one"),
        ("a.csv", "a,b\nx,1\nx,y,z\n", r"a\.csv, row 3 has 3 cells, but the header has 2: put texts that hold ','"),
        ("a.csv", "a,b\nx\n", r"a\.csv, row 2 has 1 cells, but the header has 2"),
        ("a.csv", 'a,b\nx,1\n"x,2\n', r"a\.csv, row 3 \(line 3\) is no row of a table .*unexpected end of data"),
        ("a.csv", "a,b,a\n1,2,3\n", r"a\.csv, row 1: the column 'a' is there twice"),
        ("a.csv", b"a,b\nx,caf\xe9\n", r"a\.csv, line 2 is no text in UTF-8"),
        ("a.csv", "a,b\nx,1\n".encode("utf-16"), r"a\.csv, line 1 is no text in UTF-8"),
        ("a.jsonl.gz", b"no", r"a\.jsonl\.gz can't be unpacked"),
        ("a.csv", "", r"a\.csv holds no row with a value"),
        ("a.csv", "a,b\n", r"a\.csv holds no row with a value"),
        ("a.jsonl", "\n\n", r"a\.jsonl holds no row with a value"),
        ("a.json", "[]", r"a\.json holds no row with a value"),
        ("a.xlsx", b"PK", r"a\.xlsx is no file of a known kind: save it as CSV or JSON lines \(names end in \.jsonl"),
        ("a.csv", '{"a": 1, "b": 2}\n', r"a\.csv holds JSON, and no table: give it a name that ends in \.jsonl"),
        ("a.csv", '[\n  {"a": 1}]', r"a\.csv holds JSON"),
    ],
)
def test_what_is_odd_is_refused_by_name(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path, name, content)


def test_a_missing_file_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"a\.csv is no file"):
        read_rows(str(tmp_path / "a.csv"))


def test_the_mark_between_cells_is_read_off_the_header(tmp_path: Path) -> None:
    for name, mark in (("a.csv", ","), ("b.csv", ";"), ("c.csv", "\t"), ("d.tsv", "\t")):
        text = f'one{mark}two\n"x;y,z"{mark}1\n'
        assert values(rows_of(tmp_path, name, text)) == [{"one": "x;y,z", "two": "1"}]


def test_a_folder_that_is_no_data_set_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "data" / "b.csv").write_text("c\n1\n")
    with pytest.raises(
        UserError, match=r"data is no file, .*: give the path of a file that ends in \.jsonl"
    ) as refused:
        read_rows(str(tmp_path / "data"))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 700


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    long = "a" * 140_000
    (tmp_path / "long.csv").write_text(f"text,note\n{long},b\n")
    ((_, values),) = ((row.where, row.values) for row in read_rows(str(tmp_path / "long.csv")).rows)
    assert values["text"] == long
