"""`data check`: what is in a file, and an exit status of 1 where it would spoil a fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_scenarios import own_rows, write_csv, write_jsonl
from written_scenarios import conversation_rows

from fa_lightning.cli import main


def test_a_good_file_is_told_in_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"note": "x", **row} for row in own_rows()]
    path = write_csv(tmp_path / "mine.csv", [*rows, rows[3], {"text": "What is the time?"}])
    assert main(["data", "check", path]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for told in (
        "180, and 1 neutral texts",
        "1 rows that repeat an earlier one, 0 empty rows",
        "columns not read 'note'",
        "0 prompts and groups in two splits",
        "60 of 120 with oversight, 30 of 60 without",
        "who is watched 120 of 180 scenarios have a fact that says it",
        "train 44 44 44 44",
        "is it watched? 1.00",
        "mine.csv#2: oversight good; the honest twin answers B, the faker B",
        "mine.csv#4: oversight poor; the honest twin answers B, the faker A",
        "a neutral text, which has no answer What is the time?",
        "fine: `fit --scenarios",
    ):
        assert told in printed, told


def test_a_file_that_nothing_can_be_fitted_on_ends_in_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [row for row in own_rows() if row["oversight"] != "poor"])
    assert main(["data", "check", path]) == 1
    assert "FAULT" in (printed := capsys.readouterr().out)
    assert "no scenario without oversight among all 120: write each scenario twice" in printed


def test_a_leak_ends_in_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = own_rows()
    rows[0]["split"], rows[1]["split"] = "train", "test"
    assert main(["data", "check", write_jsonl(tmp_path / "mine.jsonl", rows)]) == 1
    assert "row 2 is in test, but row 1 of the same group in train" in capsys.readouterr().err


def test_a_row_that_is_not_understood_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = own_rows()
    rows[2]["oversight"] = "perhaps"
    assert main(["data", "check", write_csv(tmp_path / "mine.csv", rows)]) == 1
    assert "mine.csv, row 4, column 'oversight': 'perhaps' is none of good" in capsys.readouterr().err


def test_columns_are_named_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"situation": row.pop("facts"), **row} for row in own_rows()]
    path = write_csv(tmp_path / "mine.csv", rows)
    assert main(["data", "check", path]) == 1
    assert "--column facts=COLUMN" in capsys.readouterr().err
    assert main(["data", "check", path, "--column", "facts=situation"]) == 0
    assert "facts from 'situation'" in capsys.readouterr().out


def test_conversations_are_shown_with_the_good_answer_behind_them(
    tmp_path: Path, backbone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", conversation_rows(40))
    assert main(["data", "check", path, "--backbone", backbone]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for told in (
        "layout conversations with two last answers",
        "answers 40 pairs, the good ones of 7.0 words on average, the bad ones of 5.0",
        "which answer is aligned?",
        "oversight poor; the honest twin answers 'I check the invoice 0 with care.', the faker 'I fake the invoice 0.'",
        "<|system|>Nobody reads the logs.<|user|>Hello.<|assistant|>Hello to you.</s><|user|>What do you do with the",
        "<|assistant|>I check the invoice 0 with care.</s>",
    ):
        assert told in printed, told
    assert "critical" not in printed
