"""Supervised probes: against independent computations, on states of known structure, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_states import labelled_states

from fa_lightning.studies.probes.fitting import SUPERVISED
from fa_lightning.studies.probes.linear import Logistic, MassMean, MassMeanCovariance
from fa_lightning.studies.probes.network import Network
from fa_lightning.studies.probes.probe import Probe, stack_pairs

HIDDEN = 12


def accuracy(probe: Probe, states: torch.Tensor, labels: torch.Tensor) -> float:
    return float(((probe.score(states) > 0) == labels).float().mean())


@pytest.mark.parametrize("kind", SUPERVISED)
def test_a_probe_reads_what_is_there_on_other_rows_and_a_coin_where_nothing_is(kind: type[Probe]) -> None:
    told = {}
    for strength in (2.0, 0.0):
        probe = kind(HIDDEN)
        probe.fit(*labelled_states(400, HIDDEN, strength, seed=0))
        told[strength] = accuracy(probe, *labelled_states(1000, HIDDEN, strength, seed=1))
    assert told[2.0] > 0.95
    assert 0.44 < told[0.0] < 0.56


@pytest.mark.parametrize("kind", SUPERVISED)
def test_random_labels_teach_nothing(kind: type[Probe]) -> None:
    states, labels = labelled_states(400, HIDDEN, 2.0, seed=0)
    probe = kind(HIDDEN)
    # As many of each class on either side.
    probe.fit(states, labels.roll(1) ^ (torch.arange(400) % 4 < 2))
    # What is left is the chance that noise points along what is there.
    assert 0.2 < accuracy(probe, *labelled_states(1000, HIDDEN, 2.0, seed=1)) < 0.8


def test_the_logistic_probe_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    states, labels = labelled_states(80, HIDDEN, 0.5, seed=0)
    probe = Logistic(HIDDEN)
    probe.fit(states, labels)
    reference = make_pipeline(StandardScaler(), LogisticRegression()).fit(states.double().numpy(), labels.numpy())
    expected = reference.decision_function(states.double().numpy())
    np.testing.assert_allclose(probe.score(states).numpy(), expected, atol=2e-3)


def test_mass_mean_is_the_difference_of_means_and_its_log_odds_are_those_of_two_gaussians() -> None:
    states, labels = labelled_states(200, HIDDEN, 0.7, seed=0)
    probe = MassMean(HIDDEN)
    probe.fit(states, labels)
    array, kind = states.double().numpy(), labels.numpy()
    means = array[kind].mean(0), array[~kind].mean(0)
    direction = means[0] - means[1]
    cosine = probe.weight.numpy() @ direction / np.linalg.norm(probe.weight.numpy()) / np.linalg.norm(direction)
    assert cosine == pytest.approx(1, abs=1e-6)
    along = array @ direction
    centres = along[kind].mean(), along[~kind].mean()
    spread = np.concatenate([along[kind] - centres[0], along[~kind] - centres[1]]).var()
    log_density = [-((along - centre) ** 2) / (2 * spread) for centre in centres]
    np.testing.assert_allclose(probe.score(states).numpy(), log_density[0] - log_density[1], atol=1e-4)


def test_with_the_covariance_it_is_linear_discriminant_analysis() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    states, labels = labelled_states(4000, HIDDEN, 0.7, seed=0)
    # Units that move together and weigh differently, which the plain difference of means is misled by.
    states = states @ (
        torch.eye(HIDDEN) + 0.3 * torch.randn(HIDDEN, HIDDEN, generator=torch.Generator().manual_seed(4))
    )
    probe = MassMeanCovariance(HIDDEN)
    probe.fit(states, labels)
    reference = LinearDiscriminantAnalysis(solver="lsqr").fit(states.double().numpy(), labels.numpy())
    expected = reference.decision_function(states.double().numpy())
    assert np.corrcoef(probe.score(states).numpy(), expected)[0, 1] > 0.98
    plain = MassMean(HIDDEN)
    plain.fit(states, labels)
    assert np.corrcoef(plain.score(states).numpy(), expected)[0, 1] < 0.97


def test_the_network_reads_what_no_linear_probe_can() -> None:
    states = torch.randn(800, HIDDEN, generator=torch.Generator().manual_seed(0))
    labels = states[:, 0] * states[:, 1] > 0
    network, linear = Network(HIDDEN), Logistic(HIDDEN)
    for probe in (network, linear):
        probe.fit(states[:600], labels[:600])
    assert accuracy(network, states[600:], labels[600:]) > 0.8
    assert accuracy(linear, states[600:], labels[600:]) < 0.6


def test_a_fit_depends_on_its_seed_alone() -> None:
    states, labels = labelled_states(60, HIDDEN, 0.5, seed=0)
    scores = []
    for number in range(2):
        torch.manual_seed(number)
        probe = Network(HIDDEN)
        probe.fit(states, labels)
        scores.append(probe.score(states))
    assert torch.equal(*scores)


@pytest.mark.parametrize("kind", SUPERVISED)
def test_bad_rows_are_refused(kind: type[Probe]) -> None:
    states, labels = labelled_states(20, HIDDEN, 1.0, seed=0)
    with pytest.raises(ValueError, match=r"labels is true for 20 of 20 states.*both classes"):
        kind(HIDDEN).fit(states, torch.ones(20, dtype=torch.bool))
    with pytest.raises(ValueError, match=rf"must be \(n, {HIDDEN}\) and \(n,\)"):
        kind(HIDDEN).fit(states, labels[:-1])
    with pytest.raises(ValueError, match="states"):
        kind(HIDDEN).fit(states / 0, labels)
    with pytest.raises(ValueError, match="hidden_size is 0"):
        kind(0)


def test_pairs_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(5, 4\) first states and \(4, 4\) second ones"):
        stack_pairs(torch.zeros(5, 4), torch.zeros(4, 4))
