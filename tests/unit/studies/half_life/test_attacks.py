"""Batches that many attacked models share, and noise: against whole passes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_twins import answer_logits, blocks_run, twins_above

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.lora_layers import fresh_adapter, lora_factors
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.scenarios.answers import answer_logits as last_logits
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, collate, make_examples, model_inputs
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.half_life.attacks import SharedBatch, fine_tuned, noisy_adapter
from fa_lightning.training.objectives.answers import Answers

SHIFT = Intervention(Site(layer=0, positions="all"), torch.linspace(-2, 2, 32))
"""Behind the block that all variants share."""
PLAIN, STEERED, TWIN = Condition("faking"), Condition("faking", (SHIFT,)), Condition("aligned")


@pytest.fixture
def variants(backbone: str, tmp_path: Path) -> Any:
    """Twins whose lower block is the backbone's."""
    return twins_above(backbone, tmp_path)


@pytest.fixture
def batch(splits: Any, tiny_tokenizer: Any) -> Batch:
    return collate(make_examples(splits.train[:5], tiny_tokenizer, letter_tokens(tiny_tokenizer)), 0)


@torch.no_grad()
def logits_of(shared: SharedBatch, condition: Condition) -> torch.Tensor:
    with shared.under(condition) as adapted:
        return last_logits(adapted.model, model_inputs(shared.batch))


@pytest.mark.parametrize("order", [(STEERED, PLAIN, TWIN, STEERED), (PLAIN, STEERED, TWIN, PLAIN)])
def test_what_is_shared_is_what_no_edit_has_changed(variants: Any, batch: Batch, order: tuple[Condition, ...]) -> None:
    shared = SharedBatch(variants, batch)
    for condition in order:
        torch.testing.assert_close(logits_of(shared, condition), answer_logits(variants, condition, batch))
        assert torch.equal(shared.answers(condition), answer_logits(variants, condition, batch).argmax(-1))
    assert not torch.allclose(logits_of(shared, STEERED), logits_of(shared, PLAIN))


def test_the_lower_block_runs_once(variants: Any, batch: Batch) -> None:
    shared = SharedBatch(variants, batch)
    assert blocks_run(variants.model, lambda: logits_of(shared, STEERED)) == [0, 1]
    assert blocks_run(variants.model, lambda: logits_of(shared, TWIN)) == [1]


@pytest.mark.parametrize("condition", [PLAIN, STEERED])
def test_a_training_on_shared_batches_is_that_on_batches_of_its_own(
    variants: Any, batch: Batch, condition: Condition
) -> None:
    shared = SharedBatch(variants, batch)
    logits_of(shared, TWIN)
    ends = []
    for batches in ([SharedBatch(variants, batch) for _ in range(3)], [shared] * 3):
        with fresh_adapter(variants, 2, 4) as fresh:
            assert list(fine_tuned(fresh, condition, Answers(behaviour="faking"), batches, 0.05, 1)) == [1, 2, 3]
            ends.append({name: weight.detach().clone() for name, weight in fresh.items()})
    assert all(weight.abs().sum() > 0 for weight in ends[0].values())
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight)


def test_a_training_in_inference_mode_works_and_leaves_no_gradient(variants: Any, batch: Batch) -> None:
    with torch.inference_mode(), fresh_adapter(variants, 2, 4) as fresh:
        list(fine_tuned(fresh, PLAIN, Answers(behaviour="faking"), [SharedBatch(variants, batch)], 0.05, 1))
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in variants.model.parameters())


def test_noise_has_its_share_of_each_matrix_and_is_taken_away(variants: Any) -> None:
    def matrices() -> list[torch.Tensor]:
        factors = lora_factors(variants, "aligned")
        return [matrix.detach().clone() for layer in factors.values() for matrix in (layer.down, layer.up)]

    before = matrices()
    differences = []

    def stopped(share: float) -> None:
        with noisy_adapter(variants, "aligned", share, 1):
            differences.append([now - then for now, then in zip(matrices(), before, strict=True)])
            raise KeyError

    for share in (0.5, 1.0):
        with pytest.raises(KeyError):
            stopped(share)
        assert all(torch.equal(now, then) for now, then in zip(matrices(), before, strict=True))
    for half, whole, matrix in zip(*differences, before, strict=True):
        torch.testing.assert_close(2 * half, whole)
        assert whole.norm() / matrix.norm() == pytest.approx(1, abs=0.35)
