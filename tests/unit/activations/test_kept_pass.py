"""A kept pass goes on from a layer as a whole pass would, and runs, holds and leaves behind no more than it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from columns_seen import columns_seen
from tiny_twins import blocks_run, hooks_on
from torch import Tensor

from fa_lightning.activations.capture import capture
from fa_lightning.activations.edit import edited
from fa_lightning.activations.kept_pass import KeptPass
from fa_lightning.activations.sites import Site
from fa_lightning.scenarios.answers import last_tokens, letter_tokens
from fa_lightning.scenarios.batches import Batch, collate, make_examples, model_inputs


@pytest.fixture
def batch(twins: Any, splits: Any) -> Batch:
    examples = make_examples(splits.test[:5], twins.tokenizer, letter_tokens(twins.tokenizer))
    return collate(examples, twins.tokenizer.pad_token_id)


@pytest.mark.parametrize("variant", ["faking", "aligned"])
@pytest.mark.parametrize(("layer", "site"), [(-1, Site(0)), (0, Site(0)), (0, Site(1, "mlp")), (1, Site(1))])
@pytest.mark.parametrize("whole", [True, False])
@torch.no_grad()
def test_it_goes_on_bitwise_as_a_whole_pass(
    twins: Any, batch: Batch, variant: str, layer: int, site: Site, whole: bool
) -> None:
    def edit() -> Any:
        return edited(twins.model, site, torch.neg)

    with twins.using(variant) as model, edit(), capture(model, [Site(1)], stop=False) as states:
        logits = model(**model_inputs(batch), use_cache=False).logits
    kept = KeptPass(twins, variant, batch)
    if whole:
        with twins.using(variant) as model:
            assert torch.equal(kept.keep([-1, 0, 1]), model(**model_inputs(batch), use_cache=False).logits)
    elif layer >= 0:
        kept.keep_at(layer)
    assert torch.equal(kept.logits(layer, edit()), logits)
    assert torch.equal(kept.states_at(layer, Site(1), edit()), states["layers.1.residual"])
    assert hooks_on(twins.model) == 0


@torch.no_grad()
def test_only_the_blocks_that_are_needed_run(twins: Any, batch: Batch) -> None:
    kept = KeptPass(twins, "faking", batch)
    assert blocks_run(twins.model, lambda: kept.keep_at(0)) == [0]
    assert blocks_run(twins.model, lambda: kept.logits(0)) == [1]
    assert blocks_run(twins.model, lambda: kept.states_at(-1, Site(0))) == [0]


@torch.no_grad()
def test_the_last_block_computes_the_columns_that_are_asked_and_no_more(twins: Any, batch: Batch) -> None:
    kept, whole = KeptPass(twins, "faking", batch, logits_to_keep=last_tokens(2)), KeptPass(twins, "faking", batch)
    below, last = edited(twins.model, Site(0), torch.neg), edited(twins.model, Site(1), torch.neg)
    expected = [whole.keep([0])[:, -2:], whole.logits(0, below)[:, -2:], whole.logits(0, last)[:, -2:]]
    below, last = edited(twins.model, Site(0), torch.neg), edited(twins.model, Site(1), torch.neg)
    seen = columns_seen(twins.model)
    for found, wanted in zip([kept.keep([0]), kept.logits(0, below), kept.logits(0, last)], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    # An edit of the last block sees all of its states.
    assert seen == [2, 2, batch["input_ids"].shape[1]]


@torch.no_grad()
def test_what_is_let_go_cannot_be_gone_on_from(twins: Any, batch: Batch) -> None:
    kept = KeptPass(twins, "faking", batch, logits_to_keep=1)
    assert kept.keep([0, 1]).shape[1] == 1
    kept.keep_at(1)
    with pytest.raises(KeyError):
        kept.logits(0)
    kept.release()
    with pytest.raises(KeyError):
        kept.logits(1)
    assert hooks_on(twins.model) == 0


def test_gradients_reach_the_edit_and_nothing_below(twins: Any, batch: Batch) -> None:
    kept = KeptPass(twins, "faking", batch, logits_to_keep=1)
    with torch.no_grad():
        kept.keep([0])
    slopes: list[Tensor] = []
    for layer in (0, -1):
        shift = torch.zeros(32, requires_grad=True)
        logits = kept.logits(layer, edited(twins.model, Site(0), lambda states, shift=shift: states + shift))
        slopes += torch.autograd.grad(logits.square().sum(), [shift])
    assert torch.equal(slopes[0], slopes[1])
    assert slopes[0].abs().max() > 0
