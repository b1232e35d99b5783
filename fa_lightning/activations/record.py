"""Record variants' hidden states on the same prompts into a store; the one loop over data outside a Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.edit import layer_below
from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.activations.sites import Site
from fa_lightning.activations.store_writer import StoreWriter
from fa_lightning.backbones.variants import Variants
from fa_lightning.common.activity import doing
from fa_lightning.scenarios.batches import Batch, Example, collate, model_inputs, padded_width
from fa_lightning.scenarios.written_answers import decision_tokens

Item = TypeVar("Item")

Plan = dict[str, tuple[str, list[Example]]]
"""What each shard holds: shard identifier to (split, examples)."""

_Part = tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]
"""States (rows, hidden) by site and variant, and row vectors (rows,) by name."""

FORWARD_TOKENS = {"cpu": 2048, "gpu": 16_384}
"""Tokens of one forward pass at most. A CPU's caches hold no more (at hidden 512, 64 prompts at once take 1.3 times as
long as 4 at a time); a GPU is busy with as many, and the bound keeps its memory apart from the prompts' length."""


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
        variants: the frozen variants.
        writer: of the store; its `variants` are recorded, each batch by all of them in turn.
        plan: all shards.
        sites: where to read; the forward passes end after the deepest.
        decision_only: keep each prompt's decision tokens alone.

    Returns:
        The number of shards written.
    """
    pending = writer.pending(list(plan))
    on_cpu = variants.device.type == "cpu"
    progress = tracked(pending, "capturing", hidden=writer.rank != 0)
    with ThreadPoolExecutor(max_workers=1) as disk:
        writing: Future[Any] | None = None
        for shard_id in progress:
            split, examples = plan[str(shard_id)]
            batches = forward_batches(examples, FORWARD_TOKENS["cpu" if on_cpu else "gpu"])
            parts = _recorded(variants, writer.variants, list(batches), sites, decision_only)
            # A GPU goes on with the next shard meanwhile; a CPU has the same cores for both. One shard at a time: two
            # are in memory at most, and a full disk is noticed.
            if writing is not None:
                writing.result()
            shard = _joined(parts)
            del parts
            writing = disk.submit(writer.write, shard_id, split, *shard)
            del shard
            if on_cpu:
                writing.result()
        if writing is not None:
            writing.result()
    return len(pending)


def tracked(items: Sequence[Item], what: str, hidden: bool = False) -> Iterable[Item]:
    """Items behind a progress bar, where there is a terminal to draw it on."""
    from rich.console import Console
    from rich.progress import track

    console = Console()
    disabled = hidden or not items or not console.is_terminal
    # Drawn seldom: the thread that draws takes a core from the CPU's passes.
    return track(
        items, what, disable=disabled, transient=True, console=console, refresh_per_second=2, update_period=0.5
    )


def forward_batches(examples: Sequence[Example], tokens: int) -> Iterator[Sequence[Example]]:
    """Cut examples into consecutive batches of at most so many tokens, padding included; one prompt at least.

    Args:
        examples: of similar length, the longest last.
        tokens: see `FORWARD_TOKENS`.
    """
    start = 0
    for stop, example in enumerate(examples):
        if stop > start and (stop + 1 - start) * padded_width(len(example.prompt)) > tokens:
            yield examples[start:stop]
            start = stop
    yield examples[start:]


def _joined(parts: Sequence[_Part]) -> _Part:
    """A shard's states and row vectors, those of its batches one after the other."""
    states = {
        site: {name: torch.cat([recorded[site][name] for recorded, _ in parts]) for name in variants}
        for site, variants in parts[0][0].items()
    }
    return states, {name: torch.cat([recorded[name] for _, recorded in parts]) for name in parts[0][1]}


def _recorded(
    variants: Variants,
    names: Sequence[str],
    batches: Sequence[Sequence[Example]],
    sites: Sequence[Site],
    decision_only: bool,
) -> list[_Part]:
    """For each batch, states (rows, hidden) by site and variant and the row vectors (rows,), of no padding.

    Where variants share blocks, each batch goes through all of them in turn. Where they share none, as whole models,
    all batches go through one after the other: its weights are put in place once for all.
    """
    collated = [collate(examples, variants.tokenizer.pad_token_id) for examples in batches]
    kept = [decision_tokens(batch) if decision_only else batch["attention_mask"].bool() for batch in collated]
    states: list[dict[str, dict[str, Tensor]]] = [{site.name: {} for site in sites} for _ in collated]
    for turn in [list(names)] if variants.first_adapted > 0 else [[name] for name in names]:
        with variants.using(turn[0]):
            for batch, keep, found in zip(collated, kept, states, strict=True):
                with doing("capturing", batch):
                    for site, by_variant in _states(variants, turn, batch, keep, sites).items():
                        found[site] |= by_variant
    return [(found, _rows(batch, keep)) for found, batch, keep in zip(states, collated, kept, strict=True)]


def _rows(batch: Batch, keep: Tensor) -> dict[str, Tensor]:
    """The row vectors (rows,) of the tokens that `keep` (batch, tokens) marks."""
    rows = {name: batch[name][:, None].expand(keep.shape)[keep] for name in ("group", "cell")}
    return rows | {
        "example": batch["index"][:, None].expand(keep.shape)[keep],
        "position": batch["position_ids"][keep],
        "decision": decision_tokens(batch)[keep],
    }


def _states(
    variants: Variants, names: Sequence[str], batch: Batch, keep: Tensor, sites: Sequence[Site]
) -> dict[str, dict[str, Tensor]]:
    """States (rows, hidden) by site and variant, of the tokens that `keep` (batch, tokens) marks."""
    inputs = {name: tensor.to(variants.device) for name, tensor in model_inputs(batch).items()}
    kept = keep.flatten().nonzero().squeeze(1).to(variants.device)
    states: dict[str, dict[str, Tensor]] = {site.name: {} for site in sites}
    shared = SharedBlocks(variants)
    lowest = min(layer_below(site) for site in sites)
    for name in names:
        with variants.using(name) as model, shared.once(model, lowest):
            for site, hidden in truncated_forward(model, sites, **inputs).items():
                states[site][name] = hidden.flatten(0, 1).index_select(0, kept).cpu()
    return states
