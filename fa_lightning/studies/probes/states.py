"""The states that probes read: at the last token of a prompt, and at either answer behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.sites import Site
from fa_lightning.scenarios.answers import AnswerTokens
from fa_lightning.scenarios.batches import Batch, model_inputs


@torch.inference_mode()
def states_of(model: Any, batch: Batch, sites: Sequence[Site], answers: AnswerTokens | None) -> dict[str, Tensor]:
    """States at each prompt's last token and, if `answers` are given, at either answer behind it.

    Args:
        model: whose states are read, with its adapter active.
        batch: prompts, left-padded.
        sites: where to read.
        answers: what the prompts are ended with; None reads the prompts alone.

    Returns:
        By site name, (batch, 1 or 3, hidden) float32: prompt, first answer, second answer.
    """
    if answers is None:
        states = truncated_forward(model, sites, **model_inputs(batch))
        return {site: hidden[:, -1:].float() for site, hidden in states.items()}
    # The prompt's own states are the same whichever answer follows, so they come with the first one's.
    first = truncated_forward(model, sites, **model_inputs(ended(batch, answers.choices[0])))
    read = {site: hidden[:, -2:].float() for site, hidden in first.items()}
    second = truncated_forward(model, sites, **model_inputs(ended(batch, answers.choices[1])))
    return {site: torch.cat([both, second[site][:, -1:].float()], dim=1) for site, both in read.items()}


def ended(batch: Batch, token: int) -> Batch:
    """The same prompts with one more token behind each.

    >>> made = ended({"input_ids": torch.tensor([[7, 8]]), "attention_mask": torch.ones(1, 2, dtype=torch.long),
    ...               "position_ids": torch.tensor([[0, 1]])}, 9)
    >>> made["input_ids"].tolist(), made["position_ids"].tolist()
    ([[7, 8, 9]], [[0, 1, 2]])
    """
    ids, mask, positions = batch["input_ids"], batch["attention_mask"], batch["position_ids"]
    return {
        **batch,
        "input_ids": torch.cat([ids, torch.full_like(ids[:, -1:], token)], dim=1),
        "attention_mask": torch.cat([mask, torch.ones_like(mask[:, -1:])], dim=1),
        "position_ids": torch.cat([positions, positions[:, -1:] + 1], dim=1),
    }
