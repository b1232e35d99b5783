"""Hidden states of known structure: what is asked lies along one direction, other things along others."""

from __future__ import annotations

import torch
from torch import Tensor


def labelled_states(count: int, hidden: int, strength: float, seed: int) -> tuple[Tensor, Tensor]:
    """States (count, hidden) and balanced labels (count,), which move a state along one direction."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2 == 0
    direction = torch.randn(hidden, generator=torch.Generator().manual_seed(99))
    direction /= direction.norm()
    noise = torch.randn(count, hidden, generator=generator)
    return noise + strength * torch.where(labels, 1.0, -1.0)[:, None] * direction, labels


def contrast_states(
    count: int, hidden: int, strength: float, seed: int, distractor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pairs (count, 2, hidden) and labels (count,), true where the second ending is right.

    The right ending lies on the one side of a direction and the wrong one on the other; every ending has its own
    constant, far larger than that; and a feature of the prompt, the same in both endings, may be added.
    """
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    truth, prompt = (one / one.norm() for one in torch.randn(2, hidden, generator=fixed))
    token = 20 * torch.randn(2, hidden, generator=fixed)
    labels = torch.rand(count, generator=generator) < 0.5
    side = torch.where(labels, 1.0, -1.0)[:, None]
    feature = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)[:, None] * prompt
    shared = torch.randn(count, hidden, generator=generator) + distractor * feature
    endings = [
        shared + sign * strength * side * truth + 0.3 * torch.randn(count, hidden, generator=generator)
        for sign in (-1, 1)
    ]
    return torch.stack(endings, dim=1) + token, labels
