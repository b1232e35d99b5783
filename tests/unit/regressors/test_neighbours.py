"""Nearest neighbours against scikit-learn's, and how they are stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.neighbors import KNeighborsRegressor
from tiny_states import HIDDEN, states

from fa_lightning.regressors import neighbours as module
from fa_lightning.regressors.maps import build_regressor
from fa_lightning.regressors.neighbours import NearestNeighbours

X = states(100) * torch.tensor([1.0, 30.0, 0.3, 1.0]) + 10
Y = X + states(100, seed=2)
H = states(30, seed=3) * torch.tensor([1.0, 30.0, 0.3, 1.0]) + 10


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("chunk", [2**24, 250])
def test_neighbours_vote_as_scikit_learns_do(residual: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DISTANCES", chunk)
    regressor = NearestNeighbours(HIDDEN, neighbours=5, residual=residual)
    regressor.fit_samples(X, Y)
    a, b, h = (part.double().numpy() for part in (X, Y, H))
    reference = KNeighborsRegressor(5).fit((a - a.mean(0)) / a.std(0), b - a if residual else b)
    expected = reference.predict((h - a.mean(0)) / a.std(0)) + (h if residual else 0)
    np.testing.assert_allclose(regressor(H), expected, rtol=1e-4, atol=1e-4)


def test_votes_are_weighed_and_pairs_of_weight_zero_forgotten() -> None:
    weight = torch.ones(100)
    weight[50:] = 0
    weight[:2] = torch.tensor([3.0, 1.0])
    regressor = NearestNeighbours(HIDDEN, neighbours=1000)
    regressor.fit_samples(X, Y, weight)
    assert len(regressor.keys) == 50
    edit = ((Y - X) * weight[:, None]).sum(0) / weight.sum()
    torch.testing.assert_close(regressor(H) - H, edit.expand_as(H), rtol=1e-3, atol=1e-3)


def test_memory_is_bounded_and_the_subset_is_the_same_every_time() -> None:
    first, second = NearestNeighbours(HIDDEN, memory=20), NearestNeighbours(HIDDEN, memory=20)
    first.fit_samples(X, Y)
    second.fit_samples(X, Y)
    assert first.keys.shape == (20, HIDDEN)
    assert torch.equal(first.keys, second.keys)
    # The standardisation is of all pairs, so that remembered ones go back to states that were given.
    back = first.keys * first.std + first.mean
    assert (back[:, None] - X).abs().amax(2).amin(1).max() < 1e-4
    assert len(torch.unique(first.keys, dim=0)) == 20


def test_what_is_remembered_is_saved() -> None:
    regressor = NearestNeighbours(HIDDEN, memory=30)
    regressor.fit_samples(X, Y)
    assert len(regressor.keys) == 30
    stored = load(save(regressor.state_dict()))
    again = build_regressor(regressor.config(), HIDDEN)
    again.load_state_dict(stored)
    assert torch.equal(again(H), regressor(H))
    # A checkpoint goes into a map as its spec builds it, with nothing remembered yet.
    fresh = torch.nn.ModuleDict({"map": NearestNeighbours(HIDDEN, memory=30)})
    fresh.load_state_dict({f"map.{name}": tensor for name, tensor in stored.items()})
    assert torch.equal(fresh["map"](H), regressor(H))
    with pytest.raises(RuntimeError, match="size mismatch"):
        NearestNeighbours(HIDDEN, memory=29).load_state_dict(stored)


def test_a_map_that_remembers_nothing_is_the_identity() -> None:
    assert torch.equal(NearestNeighbours(HIDDEN)(H), H)
