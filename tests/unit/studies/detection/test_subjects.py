"""What models prefer under edits: as plain passes say, and no dearer than the tokens that an edit touches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from columns_seen import columns_seen
from tiny_examination import STEERED, SUBJECTS, examiner_of
from tiny_twins import blocks_run, twins_above

from fa_lightning.activations.edit import edited
from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.activations.sites import Site
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import collate, make_examples, model_inputs
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.detection.subjects import Examiner


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


def test_what_subjects_share_of_a_batch_runs_once_and_changes_nothing(
    backbone: str, tmp_path: Path, splits: Any, tiny_tokenizer: Any
) -> None:
    variants = twins_above(backbone, tmp_path)
    examiner = Examiner(variants, letter_tokens(tiny_tokenizer).choices)
    batch = collate(make_examples(splits.test[:5], tiny_tokenizer, letter_tokens(tiny_tokenizer)), 0)
    edits = [(Intervention(Site(0), torch.full((32,), 0.5)),)]
    subjects = [*SUBJECTS, STEERED]
    plain = [examiner.preference(subject, batch, edits) for subject in subjects]
    shared = SharedBlocks(variants)
    found = []
    ran = blocks_run(
        variants.model, lambda: found.extend(examiner.preference(one, batch, edits, shared) for one in subjects)
    )
    assert ran.count(0) == 1
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)
    for subject, other in zip(subjects, plain, strict=True):
        with examiner.using(subject, batch, shared) as model, torch.no_grad():
            logits = model(**model_inputs(batch), use_cache=False).logits[:, -1]
        a, b = examiner.letters
        torch.testing.assert_close(logits[:, a] - logits[:, b], other[0])
