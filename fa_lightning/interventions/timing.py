"""What steering costs, and what it says: generation with and without, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from fa_lightning.backbones.adapters import Variants
from fa_lightning.interventions.intervention import Intervention, steering
from fa_lightning.scenarios.batches import Batch, model_inputs


@torch.inference_mode()
def overhead_ratio(
    variants: Variants, interventions: Sequence[Intervention], batch: Batch, new_tokens: int = 16, rounds: int = 7
) -> float:
    """Median seconds of cached generation with steering over those without, measured in turns, both warmed up.

    Args:
        variants: the frozen pair; the faker is timed.
        interventions: attached in every second run.
        batch: prompts, left-padded.
        new_tokens: generated in each run.
        rounds: timed runs of each kind, after one that is not counted.
    """
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with variants.using("faking") as model:
        for turn in range(rounds + 1):
            for steered in (False, True) if turn % 2 else (True, False):
                with steering(model, interventions if steered else []):
                    _synchronize(variants.device)
                    start = time.perf_counter()
                    _generate(model, batch, variants.tokenizer, new_tokens, exactly=True)
                    _synchronize(variants.device)
                    if turn:
                        seconds[steered].append(time.perf_counter() - start)
    return statistics.median(seconds[True]) / statistics.median(seconds[False])


@torch.inference_mode()
def side_by_side(
    variants: Variants, interventions: Sequence[Intervention], batch: Batch, new_tokens: int = 16
) -> list[tuple[str, str, str]]:
    """(prompt, unsteered answer, steered answer) of each row, written greedily by the faker."""
    texts: list[list[str]] = []
    width = batch["input_ids"].shape[1]
    with variants.using("faking") as model:
        for steered in (False, True):
            with steering(model, interventions if steered else []):
                written = _generate(model, batch, variants.tokenizer, new_tokens)
            texts.append(variants.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True))
    prompts = variants.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    return list(zip(prompts, texts[0], texts[1], strict=True))


def _generate(model: Any, batch: Batch, tokenizer: Any, new_tokens: int, exactly: bool = False) -> Any:
    inputs = {name: tensor for name, tensor in model_inputs(batch).items() if name != "position_ids"}
    least = {"min_new_tokens": new_tokens} if exactly else {}
    return model.generate(
        **inputs, max_new_tokens=new_tokens, **least, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
