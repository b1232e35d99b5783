"""One state for each text: that of its last token, or the mean over its tokens; and how large states are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.massive import ordinary_tokens
from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Example, collate, model_inputs

Read = Literal["last", "mean"]
"""Where the state of a text is read: at its last token, or at all but the first, which is an attention sink."""


@torch.no_grad()
def text_states(
    model: Any,
    examples: Sequence[Example],
    sites: Sequence[Site],
    pad_token: int,
    batch_size: int = 64,
    read: Read = "last",
) -> dict[str, Tensor]:
    """States of texts by site name, (examples, hidden) float32 on the CPU, in the order of the examples.

    Args:
        model: a causal LM, in the condition that is asked about.
        examples: the texts; of one token, that token is read either way.
        sites: where to read.
        pad_token: id of the padding.
        batch_size: texts in a forward pass.
        read: which tokens.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be 1 or more")
    device = next(model.parameters()).device
    # Texts of similar length share a batch, for little padding.
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].prompt))
    parts: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    for start in range(0, len(order), batch_size):
        batch = collate([examples[index] for index in order[start : start + batch_size]], pad_token)
        inputs = {name: values.to(device) for name, values in model_inputs(batch).items()}
        for name, hidden in truncated_forward(model, sites, **inputs).items():
            parts[name].append(_summary(hidden.float(), inputs["attention_mask"].to(hidden.device), read).cpu())
    back = torch.tensor(order).argsort()
    return {name: torch.cat(states)[back] for name, states in parts.items()}


def _summary(hidden: Tensor, mask: Tensor, read: Read) -> Tensor:
    """(batch, tokens, hidden) of left-padded texts to (batch, hidden)."""
    if read == "last":
        return hidden[:, -1]
    place = mask.cumsum(1) - 1
    counted = (mask.bool() & ((place > 0) | (mask.sum(1, keepdim=True) == 1)))[..., None]
    return (hidden * counted).sum(1) / counted.sum(1)


@torch.no_grad()
def mean_norms(
    model: Any, examples: Sequence[Example], sites: Sequence[Site], pad_token: int, batch_size: int = 64
) -> dict[str, float]:
    """Mean norm of ordinary tokens' states by site name: neither first ones nor massive ones (see `ordinary_tokens`).

    Args:
        model: a causal LM.
        examples: texts.
        sites: where to read.
        pad_token: id of the padding.
        batch_size: texts in a forward pass.

    Raises:
        UserError: each text is a single token, which is an attention sink.
    """
    if all(len(example.prompt) < 2 for example in examples):
        raise UserError(
            "each text is a single token, the attention sink, so nothing shows how large states are: give longer texts"
        )
    device = next(model.parameters()).device
    sums, counts = dict.fromkeys((site.name for site in sites), 0.0), dict.fromkeys((site.name for site in sites), 0)
    for start in range(0, len(examples), batch_size):
        batch = collate(examples[start : start + batch_size], pad_token)
        inputs = {name: values.to(device) for name, values in model_inputs(batch).items()}
        for name, hidden in truncated_forward(model, sites, **inputs).items():
            real = inputs["attention_mask"].bool()
            states, place = hidden[real].float(), inputs["position_ids"][real]
            norm = states[ordinary_tokens(states, place)].norm(dim=-1)
            sums[name] += float(norm.double().sum())
            counts[name] += len(norm)
    return {name: sums[name] / counts[name] for name in sums}
