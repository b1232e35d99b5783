"""Contrast vectors and projection shifts against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from tiny_states import HIDDEN, states
from torch import Tensor

from fa_lightning.regressors.vectors import ContrastVector, Direction, ProjectionMode, ProjectionShift


def contrast() -> tuple[Tensor, Tensor]:
    """Pairs whose differences have a mean along one axis and most of their spread around it."""
    negative = states(80, seed=3) + 20
    sizes = 2 + states(80, seed=4)[:, :1]
    return negative + sizes * torch.tensor([3.0, -1.0, 0.0, 0.5]) + 0.3 * states(80, seed=5), negative


def test_mean_vector_is_the_difference_of_means() -> None:
    positive, negative = contrast()
    regressor = ContrastVector(HIDDEN)
    # In the mean, pairs do not matter.
    regressor.fit_contrast(positive, negative.flip(0))
    expected = positive.double().numpy().mean(0) - negative.double().numpy().mean(0)
    np.testing.assert_allclose(regressor.shift, expected, rtol=1e-5)
    unit = ContrastVector(HIDDEN, normalise=True)
    unit.fit_contrast(positive, negative)
    np.testing.assert_allclose(unit.shift, expected / np.linalg.norm(expected), rtol=1e-5)


@pytest.mark.parametrize("flipped", [False, True])
def test_principal_vector_is_that_of_the_differences(flipped: bool) -> None:
    pairs = contrast()
    positive, negative = pairs[::-1] if flipped else pairs
    differences = (positive - negative).double().numpy()
    axis = TruncatedSVD(1, algorithm="arpack", random_state=0).fit(differences).components_[0]
    axis = axis * np.sign(differences.mean(0) @ axis)
    for normalise in (False, True):
        regressor = ContrastVector(HIDDEN, direction="principal", normalise=normalise)
        regressor.fit_contrast(positive, negative)
        length = 1 if normalise else differences.mean(0) @ axis
        np.testing.assert_allclose(regressor.shift, length * axis, rtol=1e-4, atol=1e-5)
    assert (regressor.shift @ (positive - negative).mean(0)) > 0
    mean = ContrastVector(HIDDEN, normalise=True)
    mean.fit_contrast(positive, negative)
    # Close to the mean difference here, but not the same.
    assert 1e-3 < (mean.shift - regressor.shift).norm() < 0.1


@pytest.mark.parametrize("direction", ["mean", "principal"])
@pytest.mark.parametrize("mode", ["target", "mirror"])
def test_projection_moves_states_below_the_threshold_alone(mode: ProjectionMode, direction: Direction) -> None:
    positive, negative = contrast()
    regressor = ProjectionShift(HIDDEN, direction=direction, mode=mode)
    regressor.fit_contrast(positive, negative)
    differences = (positive - negative).double().numpy()
    axis = np.linalg.svd(differences)[2][0] if direction == "principal" else differences.mean(0)
    axis = axis / np.linalg.norm(axis) * np.sign(differences.mean(0) @ axis)
    target = (positive.double().numpy() @ axis).mean()
    threshold = (target + (negative.double().numpy() @ axis).mean()) / 2
    h = torch.cat([positive, negative])
    found = regressor(h)
    for before, after in zip(h.double().numpy(), found.double().numpy(), strict=True):
        projection = before @ axis
        wanted = projection
        if projection < threshold:
            wanted = target if mode == "target" else 2 * threshold - projection
        np.testing.assert_allclose(after, before + (wanted - projection) * axis, rtol=1e-4, atol=1e-4)
    moved = (found != h).any(1)
    assert 0 < moved.sum() < len(h)
    assert torch.equal(found[~moved], h[~moved])
    assert (found.double().numpy() @ axis).min() > threshold - 1e-4
    assert regressor.constant_edit() is None


@pytest.mark.parametrize("kind", [ContrastVector, ProjectionShift])
def test_bad_pairs_are_refused(kind: type[ContrastVector] | type[ProjectionShift]) -> None:
    positive, negative = contrast()
    for direction in ("mean", "principal"):
        with pytest.raises(ValueError, match=rf"\(80 pairs\) do not differ in the mean along their {direction}"):
            kind(HIDDEN, direction=direction).fit_contrast(negative, negative)
    with pytest.raises(ValueError, match="do not differ"):
        kind(HIDDEN).fit_contrast(torch.cat([positive, negative]), torch.cat([negative, positive]))
    with pytest.raises(ValueError, match=r"positive is \(80, 4\) and negative \(79, 4\)"):
        kind(HIDDEN).fit_contrast(positive, negative[1:])
    with pytest.raises(ValueError, match="at least one"):
        kind(HIDDEN).fit_contrast(positive[:0], negative[:0])
    with pytest.raises(ValueError, match=r"\(pairs, 3\)"):
        kind(3).fit_contrast(positive, negative)
