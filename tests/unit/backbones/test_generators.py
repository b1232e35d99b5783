"""The states of the generators that everybody draws from, on every device."""

from __future__ import annotations

import io
import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from fa_lightning.backbones.generators import generator_states, restore_generators, seeded


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.Generator]:
    """Generators that stand for those of two GPUs, as torch.cuda and torch.manual_seed reach them."""
    gpus = [torch.Generator().manual_seed(device) for device in (5, 6)]
    seed_cpu = torch.default_generator.manual_seed

    def seed_all(seed: int) -> torch.Generator:
        for gpu in gpus:
            gpu.manual_seed(seed)
        return seed_cpu(seed)

    monkeypatch.setattr(torch, "manual_seed", seed_all)
    for name, found in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 2,
        "get_rng_state_all": lambda: [gpu.get_state() for gpu in gpus],
        "set_rng_state": lambda state, device: gpus[device].set_state(state),
    }.items():
        monkeypatch.setattr(torch.cuda, name, found)
    return gpus


def drawn(gpus: list[torch.Generator]) -> list[float]:
    own = [random.gauss(0, 1), np.random.standard_normal(), torch.randn(()).item()]
    return own + [torch.rand((), generator=gpu).item() for gpu in gpus]


def saved(content: Any) -> Any:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_every_generator_goes_on_from_where_it_was(two_gpus: list[torch.Generator]) -> None:
    drawn(two_gpus)
    states = saved(generator_states())
    expected = drawn(two_gpus)
    pl.seed_everything(3, verbose=False)
    assert not set(drawn(two_gpus)) & set(expected)
    restore_generators(states)
    assert drawn(two_gpus) == expected


def test_a_gpu_that_is_gone_is_left_out(two_gpus: list[torch.Generator], monkeypatch: pytest.MonkeyPatch) -> None:
    states = generator_states()
    expected = drawn(two_gpus)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    restore_generators(states)
    assert drawn(two_gpus)[:-1] == expected[:-1]


def test_a_seeded_block_leaves_every_generator_alone(two_gpus: list[torch.Generator]) -> None:
    states = generator_states()
    expected = drawn(two_gpus)
    restore_generators(states)
    with seeded(11):
        inside = torch.rand(3)
        assert torch.equal(
            torch.rand((), generator=two_gpus[1]), torch.rand((), generator=torch.Generator().manual_seed(11))
        )
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(11)))
    assert drawn(two_gpus) == expected
