"""`vector`: what it prints, saves and refuses, on random models with and without a chat template."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from refused_commands import error_of

from fa_lightning import cli
from fa_lightning.activations.sites import Site
from fa_lightning.experiments.vector_command import DOSES
from fa_lightning.steering.intervention import Intervention


def run(*words: Any) -> int:
    return cli.main(["vector", *map(str, words)])


@pytest.fixture
def gpt2(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """A random model in the shape of GPT-2, without a chat template."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "initializer_range": 0.3}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tiny_tokenizer), pad_token_id=0, **sizes)).save_pretrained(tmp_path / "m")
    tiny_tokenizer.save_pretrained(tmp_path / "m")
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = tmp_path / "m" / name
        if path.suffix == ".json":
            path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
        elif path.exists():
            path.unlink()
    return tmp_path / "m"


def test_a_vector_is_made_tried_at_every_layer_and_dose_and_saved(
    gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "vector"
    words = ["--backbone", gpt2, "--set", "love_hate", "--layer", "all", "--max-new-tokens", 4, "--output", folder]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "love_hate: 10 pairs, as raw text" in shown
    with (folder / "doses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["layer"], float(row["dose"])) for row in rows[1:]] == [
        (str(layer), dose) for layer in range(3) for dose in DOSES
    ]
    assert all(float(row["effect_low"]) < float(row["effect"]) < float(row["effect_high"]) for row in rows[1:])
    saved = Intervention.load(folder)
    norm = saved.fingerprint["vector"]["norm"]
    length = float(saved.regressor.constant_edit().norm())  # type: ignore[union-attr]
    at_site = [row for row in rows[1:] if int(row["layer"]) == saved.site.layer]
    for row in at_site:
        assert float(row["multiplier"]) * length == pytest.approx(float(row["dose"]) * norm, rel=1e-4)

    asked = ["--backbone", str(gpt2), "--intervention", str(folder), "--prompt", "Hello.", "--max-new-tokens", "3"]
    assert cli.main(["generate", *asked, "--dose", "-0.5", "--output", str(tmp_path / "texts.jsonl")]) == 0
    (strength,) = json.loads((tmp_path / "texts.jsonl").read_text())["strengths"]
    assert strength == pytest.approx(-0.5 * norm / length)


def test_what_is_read_and_steered_is_shown_token_by_token(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"prompt": "Well?", "positive": "I agree.", "negative": "I refuse."}) + "\n")
    words = [
        "--backbone",
        backbone,
        "--file",
        file,
        "--doses",
        "0.2",
        "--max-new-tokens",
        3,
        "--positions",
        "generated",
    ]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "read at the last token of the answer" in shown
    read = next(line for line in shown.splitlines() if line.startswith("read, towards"))
    assert read.count("[") == 1
    assert read.rstrip().endswith("]")
    steered = next(line for line in shown.splitlines() if line.startswith("steered"))
    assert "agree" in steered[steered.index("[") :]
    assert "Well" in steered[: steered.index("[")]


def test_a_rule_for_thoughts_is_drawn_and_tried(backbone: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--backbone", backbone, "--set", "love_hate", "--doses", "0.2", "--max-new-tokens", 3]
    assert run(*words, "--positions", "until_7") == 0
    assert "steered (until_7)" in capsys.readouterr().out


def test_a_file_is_no_place_for_a_vector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("--backbone", "x", "--set", "love_hate", "--output", tmp_path / "file") == 1
    assert "is a file, but must be a folder" in error_of(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "love_hate"], "vector needs a model: give --backbone"),
        (["--backbone", "x"], "name the opposite texts once"),
        (["--backbone", "x", "--set", "love_hate", "--positive", "a"], "name the opposite texts once"),
        (["--backbone", "x", "--positive", "a"], "there are 1 positive and 0 negative texts"),
        (["--backbone", "x", "--file", "none.jsonl"], "none.jsonl"),
        (
            ["--backbone", "x", "--set", "love_hate", "--doses", "0.1,x"],
            "argument --doses: '0.1,x' is no list of doses",
        ),
        (["--backbone", "x", "--set", "sad"], "argument --set: invalid choice"),
        (["--backbone", "x", "--set", "love_hate", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["--backbone", "x", "--set", "love_hate", "--positions", "first"], "site.positions is 'first'"),
    ],
)
def test_mistakes_are_told_in_one_line_before_a_model_is_loaded(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 1
    assert message in error_of(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "2"], "--layer 2: the model has blocks 0 to 1"),
        (["--layer", "top"], "--layer is 'top', but must be numbers"),
    ],
)
def test_a_layer_that_is_not_there_is_told(
    words: list[str], message: str, backbone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--backbone", backbone, "--set", "love_hate", *words) == 1
    assert message in error_of(capsys)


def test_a_dose_and_a_strength_are_not_both_taken(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Intervention(Site(0), torch.ones(32)).save(tmp_path / "v")
    words = ["--backbone", backbone, "--intervention", str(tmp_path / "v"), "--prompt", "Hello."]
    assert cli.main(["generate", *words, "--dose", "0.5", "--strength", "1"]) == 1
    assert "--strength and --dose say the same twice" in error_of(capsys)
    assert cli.main(["generate", *words, "--dose", "0.5"]) == 1
    assert "error: dose needs the mean norm of states at the vector's site" in error_of(capsys)
