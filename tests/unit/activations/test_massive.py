"""Massive tokens are found by their norm, sinks by their place."""

from __future__ import annotations

import pytest
import torch

from fa_lightning.activations.massive import massive_tokens, ordinary_tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1000.0, 25_000.0])
def test_one_massive_unit_gives_a_token_away(dtype: torch.dtype, size: float) -> None:
    states = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)) * 4
    # Its squares pass what float16 holds.
    states[[0, 17], 9] = torch.tensor([size, -size])
    massive = massive_tokens(states.to(dtype))
    assert massive.nonzero().squeeze(1).tolist() == [0, 17]
    position = torch.arange(40) % 20
    assert (~ordinary_tokens(states.to(dtype), position)).nonzero().squeeze(1).tolist() == [0, 17, 20]


def test_ordinary_tokens_of_many_sizes_are_none_of_them() -> None:
    states = torch.randn(500, 32, generator=torch.Generator().manual_seed(1)) * torch.linspace(1, 4, 500)[:, None]
    assert not massive_tokens(states).any()
    assert massive_tokens(torch.zeros(0, 4)).shape == (0,)
    assert not massive_tokens(torch.zeros(3, 4)).any()
