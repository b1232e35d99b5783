"""The oversight probe against scikit-learn's pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_states import HIDDEN, states

from fa_lightning.regressors.gates import OversightProbe, build_gate

X = states(200) * torch.tensor([1.0, 30.0, 0.1, 1.0]) + 5
POOR = X[:, 1] + 100 * X[:, 2] + 20 * states(200, seed=4)[:, 0] > 500


def test_the_probe_is_scikit_learns() -> None:
    probe = OversightProbe(HIDDEN)
    probe.fit(X, POOR)
    reference = make_pipeline(StandardScaler(), LogisticRegression()).fit(X.double().numpy(), POOR.numpy())
    logits = reference.decision_function(X.double().numpy())
    np.testing.assert_allclose(X @ probe.weight + probe.bias, logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(probe(X).numpy(), logits > 0)
    assert 0.8 < (probe(X) == POOR).float().mean() < 1
    said = probe(X.bfloat16())
    assert said.dtype == torch.bool
    assert said.shape == (200,)


def test_a_probe_is_saved_and_built_from_its_config() -> None:
    probe = OversightProbe(HIDDEN)
    probe.fit(X, POOR)
    again = build_gate(probe.config(), HIDDEN)
    again.load_state_dict(load(save(probe.state_dict())))
    assert torch.equal(again(X), probe(X))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in probe.state_dict().items())


def test_an_unfitted_probe_says_so() -> None:
    with pytest.raises(RuntimeError, match="a gate without its probe"):
        OversightProbe(HIDDEN)(X)


def test_a_unit_that_never_varied_does_not_decide() -> None:
    x = X.clone()
    x[:, 3] = 1.0
    probe = OversightProbe(HIDDEN)
    probe.fit(x, POOR)
    before = probe(x)
    x[:, 3] = 2.0
    assert torch.equal(probe(x), before)


def test_bad_input_is_refused() -> None:
    probe = OversightProbe(HIDDEN)
    with pytest.raises(ValueError, match="poor is True for 0 of 200 states"):
        probe.fit(X, torch.zeros(200, dtype=torch.bool))
    with pytest.raises(ValueError, match="poor is True for 200 of 200"):
        probe.fit(X, torch.ones(200, dtype=torch.bool))
    with pytest.raises(ValueError, match="poor is True for 0 of 0"):
        probe.fit(X[:0], POOR[:0])
    with pytest.raises(ValueError, match=r"poor \(199,\)"):
        probe.fit(X, POOR[1:])
    with pytest.raises(ValueError, match="not finite"):
        probe.fit(X / 0, POOR)
    with pytest.raises(ValueError, match="hidden_size is 0"):
        OversightProbe(0)
    for config in ({"name": "mood_probe"}, {"name": "oversight_probe", "width": 3}, {}):
        with pytest.raises(ValueError, match="the gate's config is"):
            build_gate(config, HIDDEN)
