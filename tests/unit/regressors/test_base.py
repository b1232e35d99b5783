"""What every map has in common: the way back from tensors and words, its dtype, its refusals."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from tiny_states import HIDDEN, described, moments_of, randomised, states
from torch import Tensor

from fa_lightning.regressors.linear import Identity, MeanShift
from fa_lightning.regressors.maps import build_regressor, map_classes
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.regressors.neighbours import NearestNeighbours

PRINCIPAL = {"direction": "principal"}
CONFIGS: list[dict[str, Any]] = [
    described("Identity"),
    described("MeanShift"),
    described("DiagonalAffine"),
    described("SortedTransport"),
    described("Affine", ridge=0.5),
    described("LowRank", rank=2, ridge=0.5),
    described("ResidualMLP", width=8, depth=2, dropout=0.1, on_ridge=False, ridge=0.5),
    described("ResidualMLP", width=8, depth=1, dropout=0.0, on_ridge=True, ridge=0.5),
    described("PlainMLP", width=8, depth=2, dropout=0.1),
    described("LowRankResidual", rank=2, on_ridge=False, ridge=0.5),
    described("LowRankResidual", rank=2, on_ridge=True, ridge=0.5),
    described("Loreft", rank=3),
    described("NearestNeighbours", neighbours=3, memory=16, residual=True),
    described("NearestNeighbours", neighbours=3, memory=16, residual=False),
    described("ContrastVector", **PRINCIPAL, normalise=True),
    described("ProjectionShift", **PRINCIPAL, mode="mirror"),
    described("ProjectionShift", **PRINCIPAL, mode="target"),
    described("NormMatchedRandom", seed=7, inner=described("Affine", ridge=0.1)),
    described("UnitSubset", inner=described("NormMatchedRandom", seed=7, inner=described("MeanShift"))),
]
CONSTANT = ("Identity", "MeanShift", "ContrastVector", "UnitSubset")


def name_of(config: dict[str, Any]) -> str:
    return str(config["class_path"]).rpartition(".")[2]


every_map = pytest.mark.parametrize("config", CONFIGS, ids=name_of)


def random_map(config: dict[str, Any]) -> Any:
    """A map with all it may learn set at random; one that remembers states remembers some."""
    regressor = build_regressor(config, HIDDEN)
    if isinstance(regressor, NearestNeighbours):
        regressor.fit_samples(states(10), states(10, seed=1))
    return randomised(regressor)


def test_every_map_is_tested() -> None:
    assert {config["class_path"] for config in CONFIGS} == {path for path in map_classes() if path.startswith("fa_")}


@every_map
def test_config_and_tensors_round_trip(config: dict[str, Any]) -> None:
    regressor = random_map(config)
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
    regressor = random_map(config)
    h = states().bfloat16()
    assert regressor(h).dtype == torch.float32
    assert regressor(h).shape == h.shape
    torch.testing.assert_close(regressor(h)[3:4], regressor(h[3:4]))
    assert regressor(h[:0]).shape == (0, HIDDEN)


@every_map
def test_constant_edit_is_the_edit(config: dict[str, Any]) -> None:
    regressor = random_map(config)
    edit = regressor.constant_edit()
    assert (edit is not None) == (name_of(config) in CONSTANT)
    if edit is not None:
        torch.testing.assert_close(regressor(states()) - states(), edit.expand(64, HIDDEN))


@every_map
def test_gradients_flow_to_states_and_parameters(config: dict[str, Any]) -> None:
    regressor = random_map(config)
    h = states().requires_grad_()
    if name_of(config) == "NearestNeighbours" and not config["init_args"]["residual"]:
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
    if name_of(config) == "PlainMLP":
        pytest.skip("it has no skip connection")
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
    regressor = build_regressor(config, HIDDEN).eval()
    fit(regressor, x, y)
    # The unit varies for the first time, by a hundredth of what the others do.
    h = x.clone()
    h[:, 1] += 0.1 * states(seed=3)[:, 0]
    assert torch.isfinite(regressor(h)).all()
    # A projection moves states along its direction, however little one unit varied.
    if name_of(config) != "ProjectionShift":
        assert (regressor(h) - h)[:, 1].abs().max() < 3


@every_map
def test_a_map_on_another_floating_point_default_stays_float32(config: dict[str, Any]) -> None:
    x = states()
    regressor = build_regressor(config, HIDDEN).eval()
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


@pytest.mark.parametrize("name", ["SortedTransport", "NearestNeighbours"])
def test_bad_samples_are_refused(name: str) -> None:
    regressor, x = build_regressor({"class_path": name}, HIDDEN), states()
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
        (
            described("spline"),
            r"path is 'spline', but must be one of: fa_.*linear\.Identity, .*; import the module of",
        ),
        ({}, "the regressor's class_path is None"),
        (described("Affine", width=3), "options of regressor fa_lightning.regressors.linear.Affine"),
        (described("Affine", ridge=-1.0), "ridge is -1.0"),
        (described("LowRank", rank=5), "rank is 5, but must be from 1 to 4"),
        (described("LowRank", rank=0), "rank is 0"),
        (described("LowRank", rank=1, ridge=float("nan")), "ridge is nan"),
        (described("LowRankResidual", rank=9), "rank is 9, but must be from 1 to 4"),
        (described("Loreft", rank=9), "rank is 9, but must be from 1 to 4"),
        (described("ResidualMLP", width=0), "width is 0"),
        (described("ResidualMLP", dropout=1.0), "dropout is 1.0"),
        (described("ResidualMLP", on_ridge=True, ridge=-2.0), "ridge is -2.0"),
        (described("PlainMLP", depth=0), "depth 0"),
        (described("NearestNeighbours", neighbours=0), "neighbours is 0"),
        (described("NearestNeighbours", memory=0), "memory 0"),
        (described("ContrastVector", contrast="answers"), "unexpected keyword argument 'contrast'"),
        (described("ContrastVector", direction="median"), "direction is 'median'"),
        (described("ProjectionShift", mode="half"), "mode is 'half', but must be one of: target, mirror"),
        (described("NormMatchedRandom"), "the regressor's class_path is None"),
        (described("UnitSubset"), "the regressor's class_path is None"),
    ],
)
def test_bad_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_regressor(config, HIDDEN)
    with pytest.raises(ValueError, match="hidden_size is 0"):
        Identity(0)
