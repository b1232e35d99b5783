"""Which precision a stage computes in when its config leaves that open: the faster one of the device at hand."""

from __future__ import annotations

import os
import time
from typing import Literal

import torch
from torch import nn

Precision = Literal["bf16-mixed", "32-true"]

MEASURED = "FA_LIGHTNING_CPU_BFLOAT16"
"""Environment variable that hands a measurement on to the ranks that this process starts, so that all compute alike."""

_ROWS, _WIDTH = 768, 128
"""A batch of the embedded experiments, in tokens, and their hidden size."""


def fast_precision(accelerator: str) -> Precision:
    """bfloat16 where the device has units for it, float32 elsewhere.

    Args:
        accelerator: as the Trainer is given it: `auto`, `cpu`, `gpu`, `cuda`, `mps`.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true"
    return "bf16-mixed" if cpu_gains_by_bfloat16() else "32-true"


def cpu_gains_by_bfloat16() -> bool:
    """Whether this processor trains faster in bfloat16, by a measurement of 0.1 to 0.6 s, made once.

    Not by what the processor says of itself: a virtual machine may hide its units, and a library may not use them.
    Where they are used, a step takes about half as long (AVX512-BF16); where they are not, eight times as long (AVX2
    alone), so the noise of a busy machine does not change the answer.
    """
    if MEASURED not in os.environ:
        rounds = [(_seconds(torch.float32), _seconds(torch.bfloat16)) for _ in range(3)]
        gains = min(half for _, half in rounds) < 0.9 * min(full for full, _ in rounds)
        os.environ[MEASURED] = "1" if gains else "0"
    return os.environ[MEASURED] == "1"


def _seconds(dtype: torch.dtype) -> float:
    """Of three forward and backward passes through a block's MLP."""
    # Nothing here may move the generators that a seeded run draws from.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        network = nn.Sequential(nn.Linear(_WIDTH, 3 * _WIDTH), nn.SiLU(), nn.Linear(3 * _WIDTH, _WIDTH))
        states = torch.randn(_ROWS, _WIDTH)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = network(states).float().square().mean()
            loss.backward()

        step()
        start = time.perf_counter()
        for _ in range(3):
            step()
        return time.perf_counter() - start
