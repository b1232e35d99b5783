"""How a config names sites: one of a model's own, as `layers.3.residual`, or one relative to the depth of any model.

| name | site, in a model of n decoder blocks |
| --- | --- |
| `layers.3.attention` | the attention of block 3 |
| `0.6` | the output of block round(0.6 * (n - 1)) |
| `0`, `0.0` | the output of the first block |
| `last`, `1.0` | the output of the last block |
| `0.6.attention`, `last.mlp` | that part of the same block |
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError

SiteName = str | int | float
"""As a config holds it: YAML reads an unquoted 0.6 as a number."""

_RELATIVE = re.compile(r"(?P<depth>last|-?\d+(?:\.\d+)?|-?\.\d+)(?:\.(?P<component>[a-z]+))?")


def check_sites(sites: Sequence[SiteName] | int | None, argument: str = "sites") -> None:
    """Refuse what can name no sites, before any model is there to look for them in.

    Args:
        sites: names, a number of blocks, or None for all.
        argument: that holds them, for the error.

    Raises:
        UserError: there are none, or a name is no site's.
    """
    if sites == [] or (isinstance(sites, int) and sites < 1):
        raise UserError(f"{argument} is {sites}, but must be 1 or more layers, a list of site names, or null for all")
    if sites is not None and not isinstance(sites, int):
        for name in sites:
            check_site(name, argument)


def check_site(name: SiteName, argument: str = "site") -> None:
    """Refuse what can name no site, before any model is there to look for it in.

    Raises:
        UserError: naming the argument.
    """
    if _depth_and_component(name, argument) is None:
        Site.parse(str(name))


def is_absolute(name: SiteName) -> bool:
    """Whether a name is of the form `layers.3.residual`, which means the same in every model."""
    return _depth_and_component(name, "site") is None


def resolve_site(name: SiteName, layers: int, positions: str = "all", argument: str = "site") -> Site:
    """The site of a model that a config's name means.

    Args:
        name: see the module.
        layers: number of the model's decoder blocks.
        positions: the site's position rule.
        argument: that holds the name, for the error.

    Raises:
        UserError: the name is no site's, or the model has no such block.

    >>> resolve_site(0.6, 32).name, resolve_site("last.mlp", 32).name, resolve_site("layers.3.residual", 4).name
    ('layers.19.residual', 'layers.31.mlp', 'layers.3.residual')
    >>> [resolve_site(fraction, 4).layer for fraction in (0, 0.33, 0.67, 1.0)]
    [0, 1, 2, 3]
    """
    relative = _depth_and_component(name, argument)
    if relative is None:
        site = Site.parse(str(name), positions)
        if site.layer >= layers:
            raise UserError(
                f"{argument} holds {name}, whose layer is {site.layer}, but the backbone has {layers} layers "
                f"(0 to {layers - 1})"
            )
        return site
    depth, component = relative
    return Site(round(depth * (layers - 1)), component, positions)  # type: ignore[arg-type]  # checked by Site


def resolve_sites(
    names: Sequence[SiteName] | int | None, layers: int, positions: str = "all", argument: str = "sites"
) -> list[Site]:
    """The sites of a model that a config names, in its order; a site named twice is taken once.

    Args:
        names: see the module; a number alone means so many blocks, evenly spread, and None means all.
        layers: number of the model's decoder blocks.
        positions: the sites' position rule.
        argument: that holds the names, for the error.

    Raises:
        UserError: a name is no site's, the model has no such block, or the number is below 1.

    >>> [site.name for site in resolve_sites([0.33, 0.67, "last"], 2)]
    ['layers.0.residual', 'layers.1.residual']
    """
    if names is None or isinstance(names, int):
        return [Site(layer, positions=positions) for layer in spread(layers, layers if names is None else names)]
    return list(dict.fromkeys(resolve_site(name, layers, positions, argument) for name in names))


def resolve_layers(names: Sequence[SiteName], layers: int, argument: str = "layers") -> list[int]:
    """The decoder blocks that a config names, where only the output of a block will do.

    Args:
        names: of sites, see the module.
        layers: number of the model's decoder blocks.
        argument: that holds the names, for the error.

    Raises:
        UserError: a name is no site's, or it names a part of a block.

    >>> resolve_layers([0, 0.67, "last"], 4)
    [0, 2, 3]
    """
    sites = resolve_sites(names, layers, argument=argument)
    for site in sites:
        if site.component != "residual":
            raise UserError(
                f"{argument} names {site.name}, but must name whole decoder blocks: leave out {site.component}"
            )
    return [site.layer for site in sites]


def spread(layers: int, number: int) -> list[int]:
    """So many of the layers, evenly spread and the last among them; all where there are no more.

    >>> spread(32, 4), spread(28, 8), spread(2, 8)
    ([7, 15, 23, 31], [3, 6, 10, 13, 17, 20, 24, 27], [0, 1])

    Raises:
        UserError: `number` is below 1.
    """
    check_sites(number)
    return sorted({-(-layers * step // number) - 1 for step in range(1, number + 1)})


def _depth_and_component(name: SiteName, argument: str) -> tuple[float, str] | None:
    """A relative name's depth, from 0 to 1, and component; None for an absolute name.

    Raises:
        UserError: the depth is not from 0 to 1, or is a number that may as well be meant as a block's index.
    """
    match = _RELATIVE.fullmatch(str(name))
    if match is None:
        return None
    component = match["component"] or "residual"
    Site(0, component)  # type: ignore[arg-type]  # refuses an unknown component
    if match["depth"] == "last":
        return 1.0, component
    depth = float(match["depth"])
    if depth != 0 and "." not in match["depth"]:
        raise UserError(
            f"{argument} holds {name}, which could be a block's index or a share of the depth: write "
            f"layers.{abs(int(depth))}.{component}, or a fraction such as 0.6 or 1.0"
        )
    if not 0 <= depth <= 1:
        raise UserError(
            f"{argument} holds {name}, but a share of the depth is from 0.0, the first block, to 1.0, the last"
        )
    return depth, component
