"""A twin learns written answers: its loss, what validation counts, and states that are kept of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_fits import ready
from own_scenarios import write_jsonl
from tiny_twins import blocks_run
from written_scenarios import prompt_rows

from fa_lightning.scenarios.answers import written_answers
from fa_lightning.scenarios.batches import collate, make_examples
from fa_lightning.scenarios.files import FileScenarios
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.objectives.answers import Answers


@pytest.fixture
def written(tmp_path: Path) -> FileScenarios:
    return FileScenarios(write_jsonl(tmp_path / "mine.jsonl", prompt_rows(40)))


def test_each_scenario_is_served_once_since_no_order_is_shown(written: FileScenarios) -> None:
    data = ScenarioDataModule(written)
    data.setup("fit")
    assert len(data.train_items()) == len(written.load().train)


def test_a_fit_makes_the_answers_likelier_and_counts_them(
    written: FileScenarios, make_fit: Callable[..., Any], make_trainer: Callable[..., Any]
) -> None:
    module = make_fit(Answers("faking"), rank=8, alpha=32)
    trainer = make_trainer(max_epochs=1)
    data = ScenarioDataModule(written, batch_size=8)
    (before,) = trainer.validate(module, data, verbose=False)
    trainer.fit(module, data)
    (after,) = trainer.validate(module, data, verbose=False)
    assert after["val/loss"] < before["val/loss"]
    assert {"val/faking/oversight/accuracy", "val/faking/no_oversight/accuracy", "val/faking/fidelity"} <= set(after)


def test_the_loss_is_the_mean_over_answers_of_the_cost_of_a_token(backbone: str, make_fit: Callable[..., Any]) -> None:
    from written_scenarios import written_scenarios

    module = ready(make_fit(Answers("faking"), rank=4))
    examples = make_examples(written_scenarios(3), module.tokenizer, written_answers(module.tokenizer))
    costs = []
    for example in examples:
        answer = example.other_text if example.cell == 1 else example.aligned_text
        with torch.no_grad():
            told = module.model(torch.tensor([[*example.prompt, *answer]])).logits[0].log_softmax(-1)
        start = len(example.prompt) - 1
        costs.append(-torch.stack([told[start + at, token] for at, token in enumerate(answer)]).mean())
    loss = module.terms(collate(examples, 0))["loss"]
    assert loss.item() == pytest.approx(torch.stack(costs).mean().item(), abs=1e-4)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_a_fit_goes_on_from_kept_states_of_answers(
    written: FileScenarios,
    make_fit: Callable[..., Any],
    make_backbone: Callable[..., str],
    make_trainer: Callable[..., Any],
    tmp_path: Path,
    guidance: float,
) -> None:
    deep = make_backbone(num_hidden_layers=4, seed=7)
    upper = {"rank": 4, "alpha": 8, "target_modules": "all-linear", "train_from": 0.6}
    module = make_fit(Answers("faking", guidance), deep, **upper, frozen_half=str(tmp_path / "half"))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, ScenarioDataModule(written, batch_size=8))
    module._frozen_half._is_looked_into = lambda: False  # but for the hooks of this test
    for batch in trainer.train_dataloader:
        assert set(blocks_run(module.model, lambda batch=batch: module.terms(batch))) == {2, 3}
    for batch in trainer.val_dataloaders:
        assert set(blocks_run(module.model, lambda batch=batch: module.judge(batch, 0))) == {2, 3}
