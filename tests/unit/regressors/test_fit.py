"""A fit as a config holds it: any imported map by its class, with the options of its own."""

from __future__ import annotations

import functools
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from tiny_states import HIDDEN, moments_of, states

from fa_lightning.activations.sites import Site
from fa_lightning.common.refusals import parser_reason
from fa_lightning.errors import UserError
from fa_lightning.regressors.fit import Fit
from fa_lightning.regressors.linear import Affine, Identity
from fa_lightning.regressors.maps import build_regressor, map_classes
from fa_lightning.regressors.module import RegressorModule
from fa_lightning.steering.intervention import Intervention

MODULE = "fa_lightning.regressors.module.RegressorModule"
OWN_MAP = """
from fa_lightning.regressors.base import Regressor

class Scaled(Regressor):
    '''T(h) = factor * h.'''

    name = "scaled"

    def __init__(self, hidden_size: int, factor: float = 2.0) -> None:
        super().__init__(hidden_size)
        self.factor = factor

    def forward(self, h):
        return h.float() * self.factor

    def fit(self, moments):
        pass
"""


def fits_of(*regressors: dict[str, Any]) -> list[Fit]:
    """What a stage file's list of regressors becomes."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(RegressorModule, "model")
    parsed = parser.parse_object({"model": {"class_path": MODULE, "init_args": {"regressors": list(regressors)}}})
    module: RegressorModule = parser.instantiate(parsed).model
    return module.fits


def test_every_map_goes_by_its_class_alone_or_with_options() -> None:
    for path, kind in map_classes().items():
        if path.startswith("fa_lightning.") and not path.startswith("fa_lightning.regressors.wrappers."):
            (fit,) = fits_of({"map": kind.__name__})
            assert fit.map_class is kind
            assert fit.label == kind.name
            assert type(fit.build(hidden_size=16)) is kind
    ridge = {"class_path": "Affine", "init_args": {"ridge": 0.5}}
    plain, strong = fits_of({"map": "Affine"}, {"map": ridge, "keep": 1})
    assert strong.build(HIDDEN).config() == Affine(HIDDEN, ridge=0.5).config()
    assert (strong.keep, strong.options) == (1, {"ridge": 0.5})
    assert plain != strong
    assert plain == Fit(functools.partial(Affine, ridge=0.01))
    assert repr(plain) == repr(Fit(functools.partial(Affine, ridge=0.01)))


@pytest.mark.parametrize(
    ("regressor", "words"),
    [
        ({"map": "Spline"}, "regressors.init_args.map.class_path is Spline, but no class is called so"),
        (
            {"map": {"class_path": "Affine", "init_args": {"rank": 4}}},
            "map.init_args.rank is no argument of fa_lightning.regressors.linear.Affine",
        ),
        ({"map": {"class_path": "LowRank", "init_args": {"rank": "x"}}}, "map.init_args.rank is x, but must be int"),
        ({"map": "torch.nn.Linear"}, "map.class_path is torch.nn.Linear, but"),
        ({"map": "Affine", "ridge": 0.1}, "regressors.init_args.ridge is no argument of"),
        ({"method": "ridge"}, "map is missing or null, but must be a class_path with its init_args"),
    ],
)
def test_what_is_no_map_or_no_option_of_it_is_told_in_one_line(regressor: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        fits_of(regressor)
    line = parser_reason(refused.value.message)
    assert words in line
    assert "\n" not in line


def test_a_map_of_ones_own_is_a_class_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_maps.py").write_text(OWN_MAP)
    config = {"class_path": "my_maps.Scaled", "init_args": {"factor": 3.0}}
    with pytest.raises(UserError, match=r"class_path is 'my_maps.Scaled', but must be one of: .* import the module"):
        build_regressor(config, HIDDEN)
    monkeypatch.syspath_prepend(tmp_path)
    (fit,) = fits_of({"map": config})
    fitted = fit.build(HIDDEN)
    fitted.fit(moments_of(states(), states()))
    assert torch.equal(fitted(states()), states() * 3)
    Intervention(Site(1), fitted).save(tmp_path / "saved")
    assert Intervention.load(tmp_path / "saved").regressor.config() == config


def test_a_saved_config_names_no_code_but_maps() -> None:
    for path in ("os.system", "torch.nn.Linear", "fa_lightning.regressors.base.Regressor", "builtins.eval", None):
        with pytest.raises(UserError, match=r"class_path is .* but must be one of"):
            build_regressor({"class_path": path, "init_args": {}}, HIDDEN)


def test_first_weights_are_the_seeds_own() -> None:
    (fit,) = fits_of({"map": "ResidualMLP", "seed": 3})
    torch.manual_seed(0)
    first = fit.build(HIDDEN).state_dict()
    torch.manual_seed(1)
    again = fit.build(HIDDEN).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert Fit(Identity).is_identity
    assert Fit(Identity).is_twin_free
