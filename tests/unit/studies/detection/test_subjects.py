"""What models prefer under edits: as plain passes say, and no dearer than the tokens that an edit touches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from columns_seen import columns_seen
from tiny_examination import SUBJECTS, examiner_of

from fa_lightning.activations.edit import edited
from fa_lightning.activations.sites import Site
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import collate, make_examples, model_inputs
from fa_lightning.steering.intervention import Intervention


@pytest.mark.parametrize("positions", ["all", "last"])
def test_edits_do_what_they_do_in_a_plain_pass_for_the_tokens_that_they_touch(
    twins: Any, splits: Any, positions: str
) -> None:
    examples = make_examples(splits.test[:5], twins.tokenizer, letter_tokens(twins.tokenizer))
    batch = collate(examples, twins.tokenizer.pad_token_id)
    examiner = examiner_of(twins)
    vectors = [torch.full((32,), size) for size in (0.5, 1.5)]
    edits = [(Intervention(Site(0, positions=positions), vector),) for vector in vectors]
    a, b = examiner.letters

    def added(states: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        changed = states.clone()
        changed[:, -1 if positions == "last" else slice(None)] += vector
        return changed

    expected = []
    with twins.using("faking") as model, torch.no_grad():
        for vector in (torch.zeros(32), *vectors):
            with edited(model, Site(0), lambda states, vector=vector: added(states, vector)):
                logits = model(**model_inputs(batch), use_cache=False).logits[:, -1]
            expected.append(logits[:, a] - logits[:, b])
    seen, width = columns_seen(twins.model, "self_attn"), batch["input_ids"].shape[1]
    found = examiner.preference(SUBJECTS[1], batch, edits)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert (found[0] - found[2]).abs().max() > 1e-2
    edited_columns = 1 if positions == "last" else width
    assert seen == [width, edited_columns, edited_columns]
    assert examiner.passes == 3 * 5
