"""The sweep's table: what is in it survives a kill and is what pandas would read."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import pytest

from fa_lightning.studies.lab.sweep_table import COLUMNS, SweepRow, SweepTable


def row(work: str, strength: float = 1.0, **values: float) -> SweepRow:
    return SweepRow(
        work, "trial", "ridge, with a comma", "regression", "layers.1.residual", "all", strength, 0.25, 0, **values
    )


def same(one: list[SweepRow], other: list[SweepRow]) -> bool:
    return repr(one) == repr(other)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    table = SweepTable(tmp_path / "lab" / "sweep.jsonl", "key")
    rows = [row("a", oversight=0.1, no_oversight=1 / 3), row("a", 0.5)]
    table.add(rows)
    table.add([row("b", kl_neutral_nats=1e-9)])
    again = SweepTable(tmp_path / "lab" / "sweep.jsonl", "key")
    assert same(again.rows, [*rows, row("b", kl_neutral_nats=1e-9)])
    assert again.has("a")
    assert not again.has("c")
    assert same(again.of("a"), rows)
    assert again.rows[0].score == pytest.approx((0.1 + 1 / 3) / 2)
    assert row("x", no_oversight=0.5).score == 0.5
    assert math.isnan(row("x").score)


def test_any_csv_reader_reads_it(tmp_path: Path) -> None:
    table = SweepTable(tmp_path / "sweep.jsonl", "key")
    table.add([row("a", oversight=0.5)])
    table.write_csv(tmp_path / "sweep.csv")
    (record,) = csv.DictReader((tmp_path / "sweep.csv").open())
    assert tuple(record)[: len(COLUMNS)] == COLUMNS
    assert record["method"] == "ridge, with a comma"
    assert float(record["oversight"]) == 0.5
    assert record["no_oversight"] == ""


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_piece_of_work_that_was_cut_off_is_forgotten_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "sweep.jsonl"
    table = SweepTable(path, "key")
    table.add([row("a")])
    table.add([row("b", 0.5), row("b", 1.0), row("b", 1.5)])
    path.write_bytes(path.read_bytes()[:-cut])
    again = SweepTable(path, "key")
    assert [one.work for one in again.rows] == ["a"]
    again.add([row("b", 2.0)])
    assert [one.strength for one in SweepTable(path, "key").of("b")] == [2.0]


def test_rows_of_other_maps_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    SweepTable(path, "key").add([row("a")])
    assert not SweepTable(path, "other").has("a")
    assert not SweepTable(path, "key").has("a"), "the file was begun anew"
    kept = SweepTable(tmp_path / "sweep.old.jsonl", "key", writes=False)
    assert kept.has("a"), "what it held is put aside, not lost"


def test_only_the_process_that_writes_touches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    SweepTable(path, "key").add([row("a")])
    before = path.read_bytes()
    reader = SweepTable(path, "key", writes=False)
    reader.add([row("b")])
    assert reader.has("b")
    assert path.read_bytes() == before


def test_every_column_is_a_plain_value() -> None:
    assert {field.type for field in dataclasses.fields(SweepRow)} == {"str", "float", "int"}
