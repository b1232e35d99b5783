"""A task of the harness, from a local file, with and without an intervention: as counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.evaluation.task_abilities import task_abilities
from fa_lightning.steering.intervention import Intervention

pytest.importorskip("lm_eval", reason='lm-eval is not installed: pip install "fa_lightning[evaluation]"')

QUESTIONS = [
    ("The wolf", ["sleeps", "is"], 0),
    ("A lamp and a", ["lamp", "bicycle"], 1),
    ("You run", ["an", "the"], 0),
] * 4
TASK = """\
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: right
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    questions = tmp_path / "questions.jsonl"
    rows = ({"question": text, "choices": choices, "right": right} for text, choices, right in QUESTIONS)
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "colours.yaml").write_text(TASK.format(file=questions))
    return str(tmp_path / "tasks")


def share_right(model: Any, tokenizer: Any) -> float:
    """The same questions, each choice scored by itself in a plain forward pass."""
    right = 0
    for text, choices, target in QUESTIONS:
        scores = []
        for choice in choices:
            asked = tokenizer(text, add_special_tokens=False).input_ids
            whole = tokenizer(f"{text} {choice}", add_special_tokens=False).input_ids
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([whole]), use_cache=False).logits[0].log_softmax(-1)
            scores.append(sum(float(logits[at - 1, whole[at]]) for at in range(len(asked), len(whole))))
        right += int(scores.index(max(scores)) == target)
    return right / len(QUESTIONS)


def test_a_local_task_is_scored_with_and_without_the_intervention(twins: Any, folder: str) -> None:
    push = Intervention(Site(0, positions="last"), 4 * torch.randn(32, generator=torch.Generator().manual_seed(1)))
    with twins.using("faking") as model:
        found = task_abilities(model, twins.tokenizer, [push], ["colours"], folder)["colours"]
        assert found.before == pytest.approx(share_right(model, twins.tokenizer))
        with push.at(positions="all").on(model):
            assert found.after == pytest.approx(share_right(model, twins.tokenizer))
    assert found.before != found.after
    assert (found.floor, found.n) == (0.5, 12)


def test_an_unknown_task_is_named(twins: Any, folder: str) -> None:
    with twins.using("faking") as model, pytest.raises(UserError, match="tasks holds tastes, which the harness"):
        task_abilities(model, twins.tokenizer, [], ["tastes"], folder)
