"""Maps made of another map."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from tiny_states import HIDDEN, moments_of, randomised, states

from fa_lightning.regressors.linear import Affine, MeanShift, SortedTransport
from fa_lightning.regressors.maps import build_regressor
from fa_lightning.regressors.networks import ResidualMLP
from fa_lightning.regressors.vectors import ContrastVector
from fa_lightning.regressors.wrappers import NormMatchedRandom, UnitSubset

KEEP = torch.tensor([True, False, False, True])


def test_random_baseline_matches_norms_in_a_fixed_direction() -> None:
    inner = randomised(Affine(HIDDEN))
    h = states()
    edits = [NormMatchedRandom(inner, seed)(h) - h for seed in (0, 0, 1)]
    torch.testing.assert_close(edits[0].norm(dim=-1), (inner(h) - h).norm(dim=-1))
    assert torch.equal(edits[0], edits[1])
    directions = torch.nn.functional.normalize(edits[0], dim=-1)
    torch.testing.assert_close(directions, directions[:1].expand_as(directions), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(edits[0], edits[2])
    assert NormMatchedRandom(ResidualMLP(HIDDEN)).fit_kind == "gradient"
    shift = NormMatchedRandom(randomised(MeanShift(HIDDEN)))
    edit = shift.constant_edit()
    assert edit is not None
    torch.testing.assert_close(shift(h) - h, edit.expand_as(h), atol=1e-5, rtol=1e-4)


def test_unit_subset_edits_the_kept_units_alone() -> None:
    inner = randomised(Affine(HIDDEN))
    h = states()
    found = UnitSubset(inner, KEEP)(h)
    assert torch.equal(found[:, [1, 2]], h[:, [1, 2]])
    assert torch.equal(found[:, [0, 3]], inner(h)[:, [0, 3]])
    shift = UnitSubset(randomised(MeanShift(HIDDEN)), KEEP)
    edit = shift.constant_edit()
    assert edit is not None
    assert torch.equal(edit != 0, KEEP)
    torch.testing.assert_close(shift(h) - h, edit.expand_as(h))


def test_the_kept_units_are_saved() -> None:
    saved = UnitSubset(randomised(Affine(HIDDEN)), KEEP)
    again = build_regressor(saved.config(), HIDDEN)
    again.load_state_dict(load(save(saved.state_dict())))
    assert torch.equal(again(states()), saved(states()))
    assert torch.equal(again.state_dict()["keep"], KEEP)


def test_the_kept_units_are_the_maps_own() -> None:
    keep = KEEP.clone()
    subset = UnitSubset(MeanShift(HIDDEN), keep)
    keep.fill_(True)
    assert torch.equal(subset.keep, KEEP)


@pytest.mark.parametrize("keep", [torch.ones(3, dtype=torch.bool), torch.ones(HIDDEN)])
def test_bad_masks_are_refused(keep: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"keep is .* but must be \(4,\) of torch.bool"):
        UnitSubset(MeanShift(HIDDEN), keep)


def test_wrappers_are_fitted_as_what_they_wrap() -> None:
    x, y = states(), states() * 2 + 1
    shift = UnitSubset(MeanShift(HIDDEN), KEEP)
    shift.fit(moments_of(x, y))
    torch.testing.assert_close(shift(x) - x, ((y - x).mean(0) * KEEP).expand_as(x))
    transport = UnitSubset(SortedTransport(HIDDEN), KEEP)
    assert transport.fit_kind == "samples"
    transport.fit_samples(x, y)
    torch.testing.assert_close(transport(x), torch.where(KEEP, y, x), atol=1e-5, rtol=1e-5)
    vector = UnitSubset(ContrastVector(HIDDEN), KEEP)
    vector.fit_contrast(y, x)
    torch.testing.assert_close(vector(x), shift(x))
    network = ResidualMLP(HIDDEN)
    subset = UnitSubset(network, KEEP)
    subset.standardise(moments_of(x, y))
    assert subset.unit_scale() is network.scale
    torch.testing.assert_close(network.mean, x.mean(0))
