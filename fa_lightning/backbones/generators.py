"""The generators that everybody draws from: their states, and a block that draws from a seed and leaves them alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch draws from `seed`, on whichever device, for as long as the block lasts; then all goes on as before."""
    before = generator_states()
    try:
        torch.manual_seed(seed)
        yield
    finally:
        restore_generators(before)


def generator_states() -> dict[str, Any]:
    """The state of every generator that is not somebody's own, in plain values and tensors."""
    version, numbers, spare = random.getstate()
    words: Any = np.random.get_state(legacy=False)
    states = {
        "python": [version, list(numbers), spare],
        "numpy": {**words, "state": {"key": words["state"]["key"].tolist(), "pos": words["state"]["pos"]}},
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_generators(states: Mapping[str, Any]) -> None:
    """Set every generator to what `generator_states` has noted; a device that is not there any more is left out."""
    version, numbers, spare = states["python"]
    random.setstate((version, tuple(numbers), spare))
    words = states["numpy"]
    key = np.array(words["state"]["key"], dtype=np.uint32)
    np.random.set_state({**words, "state": {**words["state"], "key": key}})
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available():
        for device, state in enumerate(states.get("cuda", ())[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state.cpu(), device)
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"].cpu())
