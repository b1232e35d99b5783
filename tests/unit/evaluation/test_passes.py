"""A shared pass gives what each condition gives by itself, and runs the layers below an edit once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_twins import all_logits, answer_logits, hooks_on, layers_of, twins_above

from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.activations.sites import Component, Site
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.passes import SharedPass
from fa_lightning.regressors.linear import Identity
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, collate, make_examples
from fa_lightning.steering.intervention import Intervention

HIDDEN = 32


@pytest.fixture
def batch(twins: Any, splits: Any) -> Batch:
    examples = make_examples(splits.test[:5], twins.tokenizer, letter_tokens(twins.tokenizer))
    return collate(examples, twins.tokenizer.pad_token_id)


def push(layer: int, component: Component = "residual", positions: str = "all") -> Intervention:
    return Intervention(Site(layer, component, positions), 3 * torch.randn(HIDDEN, generator=torch.Generator()))


def conditions(variant: str) -> dict[str, Condition]:
    return {
        "plain": Condition(variant),
        "first layer": Condition(variant, (push(0),)),
        "first layer's attention": Condition(variant, (push(0, "attention"),)),
        "second layer, last token": Condition(variant, (push(1, positions="last"),)),
        "second layer's MLP": Condition(variant, (push(1, "mlp"),)),
        "stack": Condition(variant, (push(0), push(1))),
        "stack, the upper first": Condition(variant, (push(1), push(0))),
        "identity": Condition(variant, (Intervention(Site(1), Identity(HIDDEN)),)),
        "oracle": Condition(variant, oracle=Site(0, positions="last")),
        "oracle of the MLP": Condition(variant, oracle=Site(1, "mlp")),
    }


@pytest.mark.parametrize("variant", ["faking", "aligned"])
def test_every_condition_is_bitwise_what_it_is_by_itself(twins: Any, batch: Batch, variant: str) -> None:
    named = conditions(variant)
    answers = SharedPass(twins, variant, named.values(), batch, logits_to_keep=1)
    everywhere = {name: condition.everywhere() for name, condition in named.items()}
    texts = SharedPass(twins, variant, everywhere.values(), batch)
    for name, condition in named.items():
        assert torch.equal(answers.logits(condition)[:, -1], answer_logits(twins, condition, batch)), name
        assert torch.equal(texts.logits(everywhere[name]), all_logits(twins, condition, batch)), name
    assert not torch.equal(answers.logits(named["first layer"]), answers.unsteered)
    assert torch.equal(answers.logits(named["plain"]), answers.unsteered)


@pytest.mark.parametrize("variant", ["faking", "aligned"])
def test_edits_of_the_last_token_run_that_token_alone(
    twins: Any, batch: Batch, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_last = {
        "first layer": Condition(variant, (push(0, positions="last"),)),
        "first layer's attention": Condition(variant, (push(0, "attention", "last"),)),
        "second layer": Condition(variant, (push(1, positions="last"),)),
        "stack": Condition(variant, (push(0, positions="last"), push(1, positions="last"))),
    }
    others = {
        "one of a stack on all tokens": Condition(variant, (push(0), push(1, positions="last"))),
        "oracle": Condition(variant, oracle=Site(0, positions="last")),
    }
    expected = {name: answer_logits(twins, one, batch) for name, one in (at_last | others).items()}
    shared = SharedPass(twins, variant, (at_last | others).values(), batch, answers_only=True)
    widths: list[int] = []
    for block in layers_of(twins.model):

        def noted(states: Any, *arguments: Any, forward: Any = block.forward, **named: Any) -> Any:
            widths.append(states.shape[1])
            return forward(states, *arguments, **named)

        monkeypatch.setattr(block, "forward", noted)
    for _ in range(2):  # no edit leaves anything behind for the next
        for name, condition in at_last.items():
            torch.testing.assert_close(shared.logits(condition)[:, -1], expected[name], rtol=1e-4, atol=1e-5, msg=name)
    assert set(widths) == {1}
    for name, condition in others.items():
        torch.testing.assert_close(shared.logits(condition)[:, -1], expected[name], rtol=1e-4, atol=1e-5, msg=name)
    assert max(widths) == batch["input_ids"].shape[1]


def test_blocks_below_all_adapters_run_once_for_both_variants_and_the_oracle(
    make_backbone: Any, splits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = twins_above(make_backbone(seed=3), tmp_path)
    examples = make_examples(splits.test[:5], twins.tokenizer, letter_tokens(twins.tokenizer))
    batch = collate(examples, twins.tokenizer.pad_token_id)
    named = {
        "aligned": Condition("aligned"),
        "aligned, last token": Condition("aligned", (push(1, positions="last"),)),
        "faking": Condition("faking"),
        "faking, last token": Condition("faking", (push(1, positions="last"),)),
        "faking, all tokens": Condition("faking", (push(1),)),
        "oracle": Condition("faking", oracle=Site(1)),
    }
    expected = {name: answer_logits(twins, condition, batch) for name, condition in named.items()}
    runs = 0
    lowest = layers_of(twins.model)[0]

    def counted(*arguments: Any, forward: Any = lowest.forward, **options: Any) -> Any:
        nonlocal runs
        runs += 1
        return forward(*arguments, **options)

    monkeypatch.setattr(lowest, "forward", counted)
    shared = SharedBlocks(twins)
    for variant in ("aligned", "faking"):
        own = {name: condition for name, condition in named.items() if condition.variant == variant}
        one = SharedPass(twins, variant, own.values(), batch, answers_only=True, shared=shared)
        for name, condition in own.items():
            torch.testing.assert_close(one.logits(condition)[:, -1], expected[name], rtol=1e-4, atol=1e-5, msg=name)
    assert runs == 1
    below = Condition("faking", (push(0, positions="last"),))
    one = SharedPass(twins, "faking", [below], batch, answers_only=True, shared=SharedBlocks(twins))
    alone = answer_logits(twins, below, batch)
    torch.testing.assert_close(one.logits(below)[:, -1], alone, rtol=1e-4, atol=1e-5)


def test_layers_below_an_edit_run_once(twins: Any, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [0, 0]
    for number, block in enumerate(layers_of(twins.model)):

        def counted(*arguments: Any, number: int = number, forward: Any = block.forward, **named: Any) -> Any:
            calls[number] += 1
            return forward(*arguments, **named)

        monkeypatch.setattr(block, "forward", counted)
    edits = [Condition("faking", (push(1),)), Condition("faking", (push(1, "mlp"),)), Condition("faking", (push(0),))]
    shared = SharedPass(twins, "faking", edits, batch)
    for edit in edits:
        shared.logits(edit)
    # The pass itself; then the second block for its own MLP's edit and for the first block's.
    assert calls == [1, 3]


def test_nothing_is_left_behind_after_an_error(twins: Any, batch: Batch) -> None:
    before = hooks_on(twins.model)
    vector = torch.zeros(HIDDEN)
    vector[0] = 3e38
    broken = Condition("faking", (Intervention(Site(1), vector),))
    shared = SharedPass(twins, "faking", [broken], batch, logits_to_keep=1)
    with pytest.raises(FloatingPointError, match=r"layers.1.residual"):
        shared.logits(broken)
    assert hooks_on(twins.model) == before
    assert torch.equal(answer_logits(twins, Condition("faking"), batch), shared.unsteered[:, -1])
