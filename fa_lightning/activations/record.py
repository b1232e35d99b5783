"""Record both variants' hidden states on the same prompts into a store; the one loop over data outside a Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.sites import Site
from fa_lightning.activations.store_writer import StoreWriter
from fa_lightning.backbones.adapters import VARIANTS, Variants
from fa_lightning.scenarios.batches import Example, collate

Plan = dict[str, tuple[str, list[Example]]]
"""What each shard holds: shard identifier to (split, examples)."""


def plan_shards(splits: dict[str, list[Example]], shard_examples: int) -> Plan:
    """Cut each split into shards of examples of similar length; the plan does not depend on the number of ranks."""
    plan: Plan = {}
    for split, examples in splits.items():
        ordered = sorted(examples, key=lambda example: (len(example.prompt), example.index))
        for number, start in enumerate(range(0, len(ordered), shard_examples)):
            plan[f"{split}-{number:05d}"] = (split, ordered[start : start + shard_examples])
    return plan


@torch.inference_mode()
def record(variants: Variants, writer: StoreWriter, plan: Plan, sites: Sequence[Site], decision_only: bool) -> int:
    """Write this rank's share of `plan` that is not on disk yet.

    Args:
        variants: the frozen pair.
        writer: of the store.
        plan: all shards.
        sites: where to read; the forward passes end after the deepest.
        decision_only: keep each prompt's last token alone.

    Returns:
        The number of shards written.
    """
    from rich.progress import track

    pending = writer.pending(list(plan))
    shown = track(pending, description="capturing", disable=writer.rank != 0 or not pending, transient=True)
    for shard_id in shown:
        split, examples = plan[str(shard_id)]
        batch = collate(examples, variants.tokenizer.pad_token_id)
        keep = batch["attention_mask"].bool()
        decision = torch.zeros_like(keep)
        decision[:, -1] = True
        if decision_only:
            keep = decision
        states = _both_states(variants, batch, keep, sites)
        rows = {name: batch[name][:, None].expand(keep.shape)[keep] for name in ("group", "cell")}
        rows |= {
            "example": batch["index"][:, None].expand(keep.shape)[keep],
            "position": batch["position_ids"][keep],
            "decision": decision[keep],
        }
        writer.write(shard_id, split, states, rows)
    return len(pending)


def _both_states(
    variants: Variants, batch: dict[str, Tensor], keep: Tensor, sites: Sequence[Site]
) -> dict[str, dict[str, Tensor]]:
    """States (rows, hidden) by site and variant, of the tokens in `keep` (batch, tokens) and of no padding."""
    inputs: dict[str, Any] = {
        name: batch[name].to(variants.device) for name in ("input_ids", "attention_mask", "position_ids")
    }
    states: dict[str, dict[str, Tensor]] = {site.name: {} for site in sites}
    for name in VARIANTS:
        with variants.using(name) as model:
            for site, hidden in truncated_forward(model, sites, **inputs).items():
                states[site][name] = hidden.cpu()[keep]
    return states
