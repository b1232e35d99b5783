"""Which tokens' states count in a mean: not the attention sink, nor others of massive size.

In pretrained models the first token's state is hundreds of times as large as all others from some layer on, whatever
it says, and now and then so is that of a full stop or a line break (massive activations, arXiv 2402.17762). A mean
over tokens that includes them is a mean of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASSIVE = 10.0
"""Norm from which a state is massive, in median norms of the states around it: others seldom have three."""


def massive_tokens(states: Tensor) -> Tensor:
    """Which states are massive, by their norm.

    Args:
        states: of the tokens of a batch, (tokens, hidden).

    Returns:
        Booleans (tokens,).

    >>> massive_tokens(torch.tensor([[0.0, 500.0], [3.0, 4.0], [0.0, 6.0], [4.0, 0.0]])).tolist()
    [True, False, False, False]
    """
    if not len(states):
        return torch.zeros(0, dtype=torch.bool, device=states.device)
    norm = torch.linalg.vector_norm(states.detach(), dim=-1, dtype=torch.float32)
    massive: Tensor = norm > MASSIVE * norm.median()
    return massive


def ordinary_tokens(states: Tensor, position: Tensor) -> Tensor:
    """Which states are neither an attention sink's nor massive.

    Args:
        states: of the tokens of a batch, without padding, (tokens, hidden).
        position: of each token within its prompt, from 0, (tokens,).

    Returns:
        Booleans (tokens,).

    >>> ordinary_tokens(torch.tensor([[1.0], [1.0], [90.0], [2.0], [2.0]]), torch.tensor([0, 1, 2, 0, 1])).tolist()
    [False, True, False, False, True]
    """
    return (position > 0) & ~massive_tokens(states)
