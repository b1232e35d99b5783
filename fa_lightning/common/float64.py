"""Float64 wherever the numbers lie: Apple's GPUs have none, so there the CPU computes in it."""

from __future__ import annotations

import torch
from torch import Tensor


def float64_device(device: torch.device) -> torch.device:
    """Where float64 is computed for what lies on a device: there, or on the CPU where that knows no float64.

    >>> float64_device(torch.device("mps")), float64_device(torch.device("cuda", 1))
    (device(type='cpu'), device(type='cuda', index=1))
    """
    return torch.device("cpu") if device.type == "mps" else device


def in_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, on its own device or on the CPU (see `float64_device`)."""
    return tensor.to(float64_device(tensor.device)).double()
