"""What every map has in common: the way back from tensors and words, its dtype, its refusals."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from tiny_states import HIDDEN, moments_of, randomised, states
from torch import Tensor

from fa_lightning.regressors.linear import Identity, MeanShift
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.regressors.registry import REGRESSORS, build_regressor

CONTRAST = {"contrast": "answers", "direction": "principal"}
CONFIGS: list[dict[str, Any]] = [
    {"name": "identity"},
    {"name": "mean_shift"},
    {"name": "diagonal_affine"},
    {"name": "sorted_transport"},
    {"name": "affine", "ridge": 0.5},
    {"name": "low_rank", "rank": 2, "ridge": 0.5},
    {"name": "residual_mlp", "width": 8, "depth": 2, "dropout": 0.1, "on_ridge": False, "ridge": 0.5},
    {"name": "residual_mlp", "width": 8, "depth": 1, "dropout": 0.0, "on_ridge": True, "ridge": 0.5},
    {"name": "mlp", "width": 8, "depth": 2, "dropout": 0.1},
    {"name": "low_rank_residual", "rank": 2, "on_ridge": False, "ridge": 0.5},
    {"name": "low_rank_residual", "rank": 2, "on_ridge": True, "ridge": 0.5},
    {"name": "loreft", "rank": 3},
    {"name": "nearest_neighbours", "neighbours": 3, "memory": 16, "residual": True, "rows": 10},
    {"name": "nearest_neighbours", "neighbours": 3, "memory": 16, "residual": False, "rows": 10},
    {"name": "contrast_vector", **CONTRAST, "normalise": True},
    {"name": "projection_shift", **CONTRAST, "mode": "mirror"},
    {"name": "projection_shift", **CONTRAST, "mode": "target"},
    {"name": "norm_matched_random", "seed": 7, "inner": {"name": "affine", "ridge": 0.1}},
    {"name": "unit_subset", "inner": {"name": "norm_matched_random", "seed": 7, "inner": {"name": "mean_shift"}}},
]
CONSTANT = ("identity", "mean_shift", "contrast_vector", "unit_subset")

every_map = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["name"])


def test_every_map_is_tested() -> None:
    assert {config["name"] for config in CONFIGS} == {*REGRESSORS, "norm_matched_random", "unit_subset"}


@every_map
def test_config_and_tensors_round_trip(config: dict[str, Any]) -> None:
    regressor = randomised(build_regressor(config, HIDDEN))
    assert json.loads(json.dumps(regressor.config())) == config
    state = regressor.state_dict()
    assert {tensor.dtype for tensor in state.values()} <= {torch.float32, torch.bool}
    again = build_regressor(regressor.config(), HIDDEN).eval()
    again.load_state_dict(load(save(state)) if state else {})
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in state.items())
    assert torch.equal(again(states()), regressor(states()))


@every_map
def test_output_is_float32_and_rows_are_independent(config: dict[str, Any]) -> None:
    regressor = randomised(build_regressor(config, HIDDEN))
    h = states().bfloat16()
    assert regressor(h).dtype == torch.float32
    assert regressor(h).shape == h.shape
    torch.testing.assert_close(regressor(h)[3:4], regressor(h[3:4]))
    assert regressor(h[:0]).shape == (0, HIDDEN)


@every_map
def test_constant_edit_is_the_edit(config: dict[str, Any]) -> None:
    regressor = randomised(build_regressor(config, HIDDEN))
    edit = regressor.constant_edit()
    assert (edit is not None) == (config["name"] in CONSTANT)
    if edit is not None:
        torch.testing.assert_close(regressor(states()) - states(), edit.expand(64, HIDDEN))


@every_map
def test_gradients_flow_to_states_and_parameters(config: dict[str, Any]) -> None:
    regressor = randomised(build_regressor(config, HIDDEN))
    h = states().requires_grad_()
    if config["name"] == "nearest_neighbours" and not config["residual"]:
        assert not regressor(h).requires_grad
        return
    regressor(h).square().sum().backward()
    assert h.grad is not None
    assert torch.isfinite(h.grad).all()
    assert h.grad.abs().sum() > 0
    parameters = dict(regressor.named_parameters())
    assert bool(parameters) == (regressor.fit_kind == "gradient")
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@every_map
def test_unfitted_maps_are_the_identity(config: dict[str, Any]) -> None:
    if config["name"] in ("mlp", "nearest_neighbours"):
        pytest.skip("one has no skip connection, the other's config names rows that are yet to be loaded")
    h = states()
    torch.testing.assert_close(build_regressor(config, HIDDEN).eval()(h), h, atol=0, rtol=0)


def fit(regressor: Any, x: Tensor, y: Tensor) -> None:
    """Fit a map in its own way; gradient maps get their units."""
    kind = regressor.fit_kind
    if kind == "closed":
        regressor.fit(moments_of(x, y))
    elif kind == "samples":
        regressor.fit_samples(x, y)
    elif kind == "gradient":
        regressor.standardise(moments_of(x, y))
    else:
        regressor.fit_contrast(y, x)


@every_map
def test_units_that_never_varied_are_not_blown_up(config: dict[str, Any]) -> None:
    x = states() * 10 + 100
    x[:, 1] = 7.0
    y = x + 1 + 0.1 * states(seed=2)
    y[:, 1] = 8.0
    torch.manual_seed(0)
    regressor = build_regressor({key: value for key, value in config.items() if key != "rows"}, HIDDEN).eval()
    fit(regressor, x, y)
    # The unit varies for the first time, by a hundredth of what the others do.
    h = x.clone()
    h[:, 1] += 0.1 * states(seed=3)[:, 0]
    assert torch.isfinite(regressor(h)).all()
    # A projection moves states along its direction, however little one unit varied.
    if config["name"] != "projection_shift":
        assert (regressor(h) - h)[:, 1].abs().max() < 3


@every_map
def test_a_map_on_another_floating_point_default_stays_float32(config: dict[str, Any]) -> None:
    x = states()
    regressor = build_regressor({key: value for key, value in config.items() if key != "rows"}, HIDDEN).eval()
    fit(regressor, x.double(), x.double() + 1)
    assert regressor(x.double()).dtype == torch.float32


@every_map
def test_each_map_names_the_fit_it_needs(config: dict[str, Any]) -> None:
    regressor = build_regressor(config, HIDDEN)
    x = states()
    calls = {
        "closed": lambda: regressor.fit(moments_of(x, x)),
        "samples": lambda: regressor.fit_samples(x, x),
        "contrast": lambda: regressor.fit_contrast(x, x + 1),
    }
    words = {"closed": "moments", "samples": "pairs in memory", "gradient": "gradient", "contrast": "contrast pairs"}
    for kind, call in calls.items():
        if kind != regressor.fit_kind:
            with pytest.raises(TypeError, match=f"is fitted .*{words[regressor.fit_kind]}"):
                call()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@every_map
def test_states_that_are_not_finite_are_refused(config: dict[str, Any], bad: float) -> None:
    x = states()
    x[3, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        fit(build_regressor(config, HIDDEN), x, states(seed=1))


@pytest.mark.parametrize("name", ["sorted_transport", "nearest_neighbours"])
def test_bad_samples_are_refused(name: str) -> None:
    regressor, x = build_regressor({"name": name}, HIDDEN), states()
    with pytest.raises(ValueError, match=r"x is \(64, 4\) and y \(63, 4\)"):
        regressor.fit_samples(x, x[1:])
    with pytest.raises(ValueError, match=r"both must be \(n, 4\)"):
        regressor.fit_samples(x[:, :3], x[:, :3])
    with pytest.raises(ValueError, match=r"weight is \(3,\), but must be \(64,\)"):
        regressor.fit_samples(x, x, torch.ones(3))
    with pytest.raises(ValueError, match="weight holds -1"):
        regressor.fit_samples(x, x, torch.cat([torch.ones(63), -torch.ones(1)]))
    with pytest.raises(ValueError, match="none of the 64 pairs"):
        regressor.fit_samples(x, x, torch.zeros(64))
    with pytest.raises(ValueError, match="none of the 0 pairs"):
        regressor.fit_samples(x[:0], x[:0])


def test_loss_weighs_pairs() -> None:
    h, target = torch.zeros(2, HIDDEN), torch.tensor([[1.0] * HIDDEN, [3.0] * HIDDEN])
    regressor = Identity(HIDDEN)
    assert regressor.loss(h, target) == 5
    assert regressor.loss(h, target, torch.tensor([3.0, 1.0])) == 3
    assert regressor.loss(h, target, torch.zeros(2)) == 0


def test_a_copy_of_a_map_learns_alone() -> None:
    first = MeanShift(HIDDEN)
    second = copy.deepcopy(first)
    second.fit(moments_of(states(), states() + 1))
    assert first.shift.abs().sum() == 0
    assert isinstance(moments_of(states(), states()), PairMoments)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "spline"}, "must be one of: identity, mean_shift, diagonal_affine, .*, unit_subset$"),
        ({}, "the regressor's name is None"),
        ({"name": "affine", "width": 3}, "options of regressor affine"),
        ({"name": "affine", "ridge": -1.0}, "ridge is -1.0"),
        ({"name": "low_rank", "rank": 5}, "rank is 5, but must be from 1 to 4"),
        ({"name": "low_rank", "rank": 0}, "rank is 0"),
        ({"name": "low_rank", "rank": 1, "ridge": float("nan")}, "ridge is nan"),
        ({"name": "low_rank_residual", "rank": 9}, "rank is 9, but must be from 1 to 4"),
        ({"name": "loreft", "rank": 9}, "rank is 9, but must be from 1 to 4"),
        ({"name": "residual_mlp", "width": 0}, "width is 0"),
        ({"name": "residual_mlp", "dropout": 1.0}, "dropout is 1.0"),
        ({"name": "residual_mlp", "on_ridge": True, "ridge": -2.0}, "ridge is -2.0"),
        ({"name": "mlp", "depth": 0}, "depth 0"),
        ({"name": "nearest_neighbours", "neighbours": 0}, "neighbours is 0"),
        ({"name": "nearest_neighbours", "memory": 0}, "memory 0"),
        ({"name": "nearest_neighbours", "memory": 4, "rows": 5}, "rows is 5, but must be from 0 to 4"),
        ({"name": "contrast_vector", "contrast": "moods"}, "contrast is 'moods', but must be one of: oversight"),
        ({"name": "contrast_vector", "direction": "median"}, "direction is 'median'"),
        ({"name": "projection_shift", "mode": "half"}, "mode is 'half', but must be one of: target, mirror"),
        ({"name": "norm_matched_random"}, "the regressor's name is None"),
        ({"name": "unit_subset"}, "the regressor's name is None"),
    ],
)
def test_bad_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_regressor(config, HIDDEN)
    with pytest.raises(ValueError, match="hidden_size is 0"):
        Identity(0)
