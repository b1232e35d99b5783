"""Names of sites: absolute, and relative to the depth of the model."""

from __future__ import annotations

from typing import Any

import pytest
from jsonargparse import ArgumentParser

from fa_lightning.activations.site_names import (
    SiteName,
    check_sites,
    is_absolute,
    resolve_layers,
    resolve_site,
    resolve_sites,
)
from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError


@pytest.mark.parametrize(
    ("name", "four", "two"),
    [
        (0, 0, 0),
        (0.0, 0, 0),
        ("0", 0, 0),
        (0.33, 1, 0),
        (".33", 1, 0),
        ("0.67", 2, 1),
        (1.0, 3, 1),
        ("last", 3, 1),
        ("layers.1.residual", 1, 1),
    ],
)
def test_a_block_by_its_share_of_the_depth(name: SiteName, four: int, two: int) -> None:
    assert resolve_site(name, 4) == Site(four)
    assert resolve_site(name, 2) == Site(two)


@pytest.mark.parametrize(
    ("name", "component"),
    [("0.6.attention", "attention"), ("last.mlp", "mlp"), ("0.mlp", "mlp"), ("layers.0.attention", "attention")],
)
def test_a_part_of_a_block(name: str, component: str) -> None:
    site = resolve_site(name, 11, "last")
    assert site.component == component
    assert site.positions == "last"
    assert site.layer == {"0.6.attention": 6, "last.mlp": 10}.get(name, 0)


def test_a_site_named_twice_is_taken_once_and_the_order_stays() -> None:
    names: list[SiteName] = ["last", 0.33, "0.33.mlp", "layers.1.residual", 0, 0.67]
    assert [site.name for site in resolve_sites(names, 2)] == [
        "layers.1.residual",
        "layers.0.residual",
        "layers.0.mlp",
    ]
    assert resolve_layers([0.33, "last", 0.67, 0], 4) == [1, 3, 2, 0]


def test_a_number_alone_spreads_over_the_blocks_and_none_takes_all() -> None:
    assert [site.layer for site in resolve_sites(2, 8)] == [3, 7]
    assert [site.layer for site in resolve_sites(None, 3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (1.5, "data.sites holds 1.5, but a share of the depth is from 0.0"),
        (-0.1, "holds -0.1, but a share of the depth"),
        ("1.2.mlp", r"holds 1.2.mlp, but a share"),
        (3, r"holds 3, which could be a block's index.*write layers\.3\.residual, or a fraction such as 0\.6 or 1\.0"),
        (1, "holds 1, which could be"),
        ("2.mlp", r"write layers\.2\.mlp"),
        ("last.norm", "component is 'norm'"),
        ("first", "site name is 'first'"),
        (float("nan"), "site name is 'nan'"),
        (True, "site name is 'True'"),
    ],
)
def test_what_is_no_name_is_refused_before_and_with_the_model(name: SiteName, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_sites([name], "data.sites")
    with pytest.raises(UserError, match=words):
        resolve_sites([name], 4, argument="data.sites")


def test_what_the_model_lacks_is_refused() -> None:
    with pytest.raises(UserError, match=r"layer holds layers\.4\.residual, whose layer is 4, but the backbone has 4"):
        resolve_site("layers.4.residual", 4, argument="layer")
    with pytest.raises(UserError, match=r"layers names layers\.3\.mlp, but must name whole decoder blocks"):
        resolve_layers(["last.mlp"], 4)
    with pytest.raises(UserError, match="sites is 0, but must be 1 or more layers"):
        resolve_sites(0, 4)


def test_absolute_names_mean_the_same_in_every_model() -> None:
    assert is_absolute("layers.3.mlp")
    assert not is_absolute(0.6)
    assert not is_absolute("last.mlp")


def test_names_pass_through_the_command_line_and_yaml() -> None:
    parser = ArgumentParser()
    parser.add_argument("--sites", type=list[SiteName] | int | None)
    parser.add_argument("--config", action="config")
    expected: list[Any] = [0.33, "last", "0.6.attention", 0, 1.0]
    assert parser.parse_args(["--sites", "[0.33, last, 0.6.attention, 0, 1.0]"]).sites == expected
    assert parser.parse_string("sites: [0.33, last, 0.6.attention, 0, 1.0]").sites == expected
    assert parser.parse_args(["--sites=4"]).sites == 4
