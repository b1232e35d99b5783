"""Files of pairs: files, folders and tables say the same, and what is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fa_lightning.errors import UserError
from fa_lightning.scenarios.conversations.files import digest_of, read_answered, read_choices, read_pairs

ROWS = [{"question": f"Question {number}?", "matching": "Yes.", "not_matching": "No."} for number in range(3)]
MARKED = {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?"}


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_lists_lines_tables_and_folders_hold_the_same_pairs(tmp_path: Path) -> None:
    lines = write(tmp_path / "folder" / "train.jsonl", ROWS)
    (tmp_path / "caa.json").write_text(json.dumps(ROWS), encoding="utf-8")
    cells = "\r\n".join(",".join(row.values()) for row in ROWS)
    (tmp_path / "table.csv").write_text(f"\ufeffquestion,matching,not_matching\r\n{cells}\r\n", encoding="utf-8")
    sources = [lines, str(tmp_path / "folder"), str(tmp_path / "caa.json"), str(tmp_path / "table.csv")]
    pairs = [read_pairs(source) for source in sources]
    assert all(one == pairs[0] for one in pairs)
    assert [pair.chosen.message for pair in pairs[0]] == ["Question 0?", "Question 1?", "Question 2?"]
    assert read_pairs(lines, limit=2) == pairs[0][:2]
    assert digest_of(pairs[0]) == digest_of(pairs[1]) != digest_of(pairs[0][:2])


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [MARKED, *ROWS, {**ROWS[0], "not_matching": "Yes."}])
    with pytest.warns(UserWarning, match=r"mine.jsonl: 1 of 5 rows left out, since they hold texts whose turns can't"):
        assert len(read_pairs(path)) == 4
    with pytest.warns(UserWarning, match=r"1 of 4 rows left out, since they have not two different answers"):
        assert len(read_choices(path)) == 3


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine.jsonl is no file"):
        read_pairs(str(tmp_path / "mine.jsonl"))
    path = write(tmp_path / "mine.jsonl", [{"prompt": "Why?", "completion": "So."}, {"prompt": "Why?"}])
    with pytest.raises(UserError, match=r"mine.jsonl, row 2, column 'completion': there is no answer"):
        read_answered(path)
    with pytest.raises(UserError, match=r"mine.jsonl, row 1, column 'chosen': it is missing, and so are all others"):
        read_pairs(path)
    (tmp_path / "cut.jsonl").write_text('{"question": "Who')
    with pytest.raises(UserError, match=r"cut.jsonl, row 1 is .* but must be one whole JSON object"):
        read_pairs(str(tmp_path / "cut.jsonl"))
