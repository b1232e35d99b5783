"""What counts as one at a unit: scales that a few units of massive size do not set for all others."""

from __future__ import annotations

import torch
from torch import Tensor


def usable_std(std: Tensor) -> Tensor:
    """Standard deviations (hidden,) with a floor, so that a unit that never varied is not blown up when it does.

    The floor goes by the median unit: pretrained models have units a thousand times as large as the others (massive
    activations, arXiv 2402.17762), and a mean over units would be theirs.
    """
    return std.clamp_min(torch.finfo(torch.float32).eps).maximum(1e-3 * std.median())
