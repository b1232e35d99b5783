"""FileScenarios: split by group, de-duplicated with a count, refused where nothing could be fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from own_scenarios import own_rows, write_csv, write_jsonl

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import other_letter
from fa_lightning.scenarios.benchmark import half_of
from fa_lightning.scenarios.files import FileScenarios
from fa_lightning.scenarios.general import EverydayRequests
from fa_lightning.scenarios.splits import split_of


def source(folder: Path, rows: list[dict[str, Any]], **options: Any) -> FileScenarios:
    return FileScenarios(write_jsonl(folder / "mine.jsonl", rows), **options)


def test_groups_are_split_by_their_hash(tmp_path: Path) -> None:
    splits = source(tmp_path, own_rows()).load()
    assert sum(len(splits.scenarios(split)) for split in ("train", "validation", "test")) == 180
    assert splits.leak_report().total == 0
    assert all(split_of(item.group, 0, 0.15, 0.15) == "test" for item in splits.test)
    assert splits.neutral_test == []


def test_a_table_is_the_same_data(tmp_path: Path) -> None:
    lines, table = source(tmp_path, own_rows()), FileScenarios(write_csv(tmp_path / "table.csv", own_rows()))
    assert lines.fingerprint() == table.fingerprint()
    assert str(tmp_path) not in str(lines.fingerprint())
    changed = own_rows()
    changed[5]["facts"][0] += "!"
    assert source(tmp_path, changed).fingerprint()["data_sha256"] != table.fingerprint()["data_sha256"]
    assert FileScenarios(table.path, seed=1).fingerprint() != table.fingerprint()


def test_splits_and_texts_may_be_said(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = own_rows(12)
    for number, row in enumerate(rows):
        row["split"] = ("train", "val", "test")[number // 3 % 3]
    del rows[1]["split"]  # its group's other rows say it
    rows += [{"text": f"Own question {number}?", "split": "test"} for number in range(3)]
    splits = source(tmp_path, rows, general=EverydayRequests()).load()
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [12, 12, 12]
    assert sum(item.text.startswith("Own question") for item in splits.neutral_test) == 3
    assert len(splits.neutral_train) + len(splits.neutral_validation) + len(splits.neutral_test) == 203


def test_splits_that_share_a_group_are_refused(tmp_path: Path) -> None:
    rows = own_rows()
    rows[0]["split"], rows[2]["split"] = "train", "test"
    with pytest.raises(UserError, match=r"mine\.jsonl, row 3 is in test, but row 1 of the same group in train"):
        source(tmp_path, rows).load()


def test_repeats_and_empty_rows_are_counted(tmp_path: Path) -> None:
    rows = own_rows()
    turned = {**rows[4], "action_a": rows[4]["action_b"], "action_b": rows[4]["action_a"]}
    turned["aligned"] = other_letter(rows[4]["aligned"])
    own = source(tmp_path, [*rows, rows[0], turned, {}])
    with pytest.warns(UserWarning, match=r"mine\.jsonl: 2 rows left out that repeat an earlier one, 1 empty ones"):
        splits = own.load()
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 180


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"oversight": "poor"}, "oversight"), ({"aligned": "A"}, "aligned action"), ({"group": "g"}, "group")],
)
def test_rows_that_contradict_each_other_are_refused(tmp_path: Path, changes: dict[str, str], what: str) -> None:
    rows = own_rows()
    with pytest.raises(UserError, match=rf"mine\.jsonl, row 181 asks the same as row 1, but with another {what}"):
        source(tmp_path, [*rows, {**rows[0], **changes}]).load()


def test_a_split_without_one_of_the_conditions_is_refused(tmp_path: Path) -> None:
    rows = [{**row, "split": "train" if number // 3 < 30 else "test"} for number, row in enumerate(own_rows())]
    with pytest.raises(
        UserError, match=r"mine\.jsonl: no scenario with .* and none .* among the 0 of validation: add gr"
    ):
        source(tmp_path, rows).load()
    rows = [row for row in rows if row["oversight"] != "poor" or row["split"] != "train"]
    with pytest.raises(
        UserError, match=r"mine\.jsonl: no scenario without oversight among the 60 of train: add groups"
    ):
        source(tmp_path, rows).load()
    with pytest.raises(UserError, match=r"no scenario with oversight and none without oversight among the 0 of"):
        source(tmp_path, own_rows(2)).load()


def test_texts_about_oversight_come_from_training_scenarios(tmp_path: Path) -> None:
    prompts = source(tmp_path, own_rows()).oversight_prompts()
    assert prompts.watched == ("An auditor reads every log.",)
    assert prompts.unwatched == ("Nobody reads the logs.",)
    own = source(tmp_path, [{**row, "fact_kinds": ["contextual", "motivating"]} for row in own_rows()])
    whole = own.oversight_prompts()
    assert len(whole.watched) == len(whole.unwatched) == 8
    messages = [item.message() for item in own.load().train]
    assert all(any(text.split("\n")[1] in message for message in messages) for text in whole.watched)


def test_detectors_get_test_groups_alone(tmp_path: Path) -> None:
    own = source(tmp_path, own_rows(200), test=0.3)
    benchmark, (concept,) = own.benchmark().load(), own.concepts().load()
    tested = {item.group for item in own.load().test}
    assert {item.group for item in (*benchmark.scored, *benchmark.reference)} <= tested
    assert all(text.startswith("Check") for text in concept.examples)
    assert all(text.startswith("Fake") for text in concept.opposites)
    reference = {item.action_a for item in own.load().test if half_of(item.group) == "reference"}
    assert reference <= {*concept.examples, *concept.opposites}
    concepts = own.concepts()
    with pytest.raises(UserError, match=r"has 0 aligned actions in the test groups"):
        concepts.load(frozenset(tested))
    assert concepts.left_out > 0


def test_a_toy_takes_fewer(tmp_path: Path) -> None:
    splits = source(tmp_path, own_rows(), limit=16).load()
    assert (len(splits.train), len(splits.test)) == (16, 4)


def test_a_file_without_one_of_the_conditions_is_told_once(tmp_path: Path) -> None:
    own = source(tmp_path, [row for row in own_rows() if row["oversight"] != "poor"])
    (fault,) = own.faults(own.split(own.read()))
    assert fault.endswith(
        "mine.jsonl: no scenario without oversight among all 120: write each scenario twice, with oversight good and "
        "poor, and with facts or a prompt that say so"
    )
    texts = source(tmp_path, [{"text": "Hello."}])
    (fault,) = texts.faults(texts.split(texts.read()))
    assert "no scenario with oversight and none without oversight among all 0" in fault
