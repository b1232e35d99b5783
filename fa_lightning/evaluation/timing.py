"""What steering costs, and what it says: generation with and without, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from fa_lightning.backbones.variants import Variants
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.scenarios.turn_endings import end_tokens
from fa_lightning.steering.generation import generated
from fa_lightning.steering.intervention import Intervention, steering


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
    with variants.using("faking") as model:

        def run(attached: Sequence[Intervention]) -> None:
            with steering(model, attached):
                generated(model, model_inputs(batch), variants.tokenizer.pad_token_id, new_tokens, exactly=True)

        runs = {"without": partial(run, ()), "with": partial(run, interventions)}
        return relative_times(runs, variants.device, rounds)["with"]


LONGEST_SECONDS = 120.0
"""After so long no further round begins: on a slow machine a ratio is worth few minutes."""


def relative_times(runs: Mapping[str, Callable[[], None]], device: torch.device, rounds: int = 7) -> dict[str, float]:
    """Median seconds of each run over those of the first, measured in turns, all warmed up.

    Args:
        runs: by name; the first is what the others are compared with.
        device: where they compute.
        rounds: timed runs of each, after one that is not counted; every second round goes backwards. Fewer, but at
            least one, where they take longer than `LONGEST_SECONDS`.
    """
    begin = time.perf_counter()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        if turn > 1 and time.perf_counter() - begin > LONGEST_SECONDS:
            break
        for name in list(runs) if turn % 2 else reversed(list(runs)):
            _synchronize(device)
            start = time.perf_counter()
            runs[name]()
            _synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    first = statistics.median(seconds[next(iter(runs))])
    return {name: statistics.median(each) / first for name, each in seconds.items()}


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
                ends = end_tokens(model, variants.tokenizer)
                written = generated(model, model_inputs(batch), variants.tokenizer.pad_token_id, new_tokens, ends=ends)
            texts.append(variants.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True))
    prompts = variants.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    return list(zip(prompts, texts[0], texts[1], strict=True))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
