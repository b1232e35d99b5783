"""Names of sites as tables and figures show them."""

from __future__ import annotations

import re
from typing import Any

LAYER = re.compile(r"^layers\.(\d+)\.(\w+)$")


def layer_of(site: str) -> tuple[int, str] | None:
    """Layer and component of a site's name; None for another name, as that of several sites.

    >>> layer_of("layers.3.residual"), layer_of("layers.1.residual + layers.2.residual")
    ((3, 'residual'), None)
    """
    match = LAYER.match(site)
    return (int(match[1]), match[2]) if match else None


def short_site(site: str) -> str:
    """A site as a table shows it; those of a stack by their layers.

    >>> short_site("layers.3.residual"), short_site("layers.1.mlp"), short_site("layers.1.residual+layers.2.residual")
    ('layer 3', 'layer 1 mlp', 'layers 1, 2')
    """
    layers = [layer_of(name) for name in site.split("+")]
    known = [layer for layer in layers if layer is not None]
    if len(known) < len(layers):
        return site
    components = list(dict.fromkeys(component for _, component in known if component != "residual"))
    numbers = ", ".join(str(layer) for layer, _ in known)
    return " ".join([f"layer{'s' if len(known) > 1 else ''} {numbers}", *components])


def site_order(site: str) -> tuple[Any, ...]:
    """Sorts the names of sites by component and layer, those of several sites last."""
    layer = layer_of(site)
    return (1, site, 0) if layer is None else (0, layer[1] != "residual", layer[1], layer[0])
