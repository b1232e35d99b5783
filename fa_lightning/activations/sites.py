"""Where a hidden state is read or written: a layer, a component of it, and a rule for token positions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from fa_lightning.activations.positions import first_covered
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.errors import UserError

Component = Literal["residual", "attention", "mlp"]

COMPONENTS: tuple[Component, ...] = get_args(Component)

_SITE_NAME = re.compile(r"layers\.(\d+)\.([a-z]+)")

# Bloom adds the residual inside its attention and MLP, so there the last linear map is what the component writes;
# OPT keeps its MLP's two linear maps in the block itself.
_COMPONENT_PATHS: dict[Component, tuple[str, ...]] = {
    "residual": ("",),
    "attention": ("self_attn", "attn", "attention", "self_attention"),
    "mlp": ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2"),
}
_BLOOM_PATHS: dict[Component, tuple[str, ...]] = {
    "residual": ("",),
    "attention": ("self_attention.dense",),
    "mlp": ("mlp.dense_4h_to_h",),
}


@dataclass(frozen=True)
class Site:
    """One place in a decoder where hidden states are read or written.

    Args:
        layer: index of the decoder block, from 0.
        component: `residual` (the block's output, before the final norm), `attention` or `mlp` (what that part of the
            block returns).
        positions: which tokens: `all`, `last` (the last real token of each call), `generated` (tokens after the
            prompt), `prompt` (those before), `from_K` (the K-th real token, counted from 0, and those after it),
            `until_T` or `after_T` (those written up to the first token of id T, or behind it). Padding is never
            counted.

    Raises:
        UserError: if an argument is not one of the above.

    >>> Site(3).name
    'layers.3.residual'
    >>> Site(0, "mlp", "from_4").start
    4
    """

    layer: int
    component: Component = "residual"
    positions: str = "all"

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise UserError(f"site.layer is {self.layer}, but layers are counted from 0: give 0 or more")
        if self.component not in COMPONENTS:
            raise UserError(f"site.component is {self.component!r}, but it must be one of {', '.join(COMPONENTS)}")
        first_covered(self.positions)

    @property
    def name(self) -> str:
        """Layer and component, as stores and logs spell it: `layers.3.residual`."""
        return f"layers.{self.layer}.{self.component}"

    @property
    def start(self) -> int | None:
        """K of a `from_K` rule: the first token it covers, counted from 0 without padding; None for another rule."""
        return first_covered(self.positions)

    @classmethod
    def parse(cls, name: str, positions: str = "all") -> Site:
        """The site with this `name`: the inverse of `Site.name`, which holds no position rule.

        Raises:
            UserError: if `name` is not of the form `layers.3.residual`.

        >>> Site.parse("layers.3.attention")
        Site(layer=3, component='attention', positions='all')
        """
        match = _SITE_NAME.fullmatch(name)
        if match is None:
            raise UserError(
                f"site name is {name!r}, but it must read layers.<index>.<{'|'.join(COMPONENTS)}>, "
                "for example layers.3.residual"
            )
        return cls(int(match.group(1)), match.group(2), positions)  # type: ignore[arg-type]  # checked by __post_init__


def module_at(model: nn.Module, site: Site) -> nn.Module:
    """The module whose output is the hidden state at `site`.

    Raises:
        UserError: if the model has no such layer, or the block has no such part.
    """
    layers = decoder_layers(model)
    validate(site, len(layers))
    block = layers[site.layer]
    paths = _BLOOM_PATHS if type(block).__name__ == "BloomBlock" else _COMPONENT_PATHS
    for path in paths[site.component]:
        try:
            return block.get_submodule(path)
        except AttributeError:
            continue
    raise UserError(
        f"site.component is {site.component!r}, but layer {site.layer} ({type(block).__name__}) has no part named "
        f"{', '.join(paths[site.component])}; its parts are {', '.join(name for name, _ in block.named_children())}. "
        "Use component residual"
    )


def validate(site: Site, model: nn.Module | int) -> None:
    """Check that `site` exists in a model, given as such or as its number of layers.

    Raises:
        UserError: if the layer is beyond the model's last.

    >>> validate(Site(40), 32)
    Traceback (most recent call last):
        ...
    fa_lightning.errors.UserError: site.layer is 40, but the backbone has 32 layers (0 to 31)
    """
    layers = model if isinstance(model, int) else len(decoder_layers(model))
    if site.layer >= layers:
        raise UserError(f"site.layer is {site.layer}, but the backbone has {layers} layers (0 to {layers - 1})")


def hidden_of(output: Any, tokens: tuple[int, int] | None = None) -> Tensor:
    """The hidden states in what a block or a part of it returned: a tensor, or the first entry of a tuple.

    Args:
        output: what the module returned.
        tokens: (batch, tokens) of the forward pass. OPT flattens the two before its MLP; with this given, such an
            output of shape (batch * tokens, hidden) is seen as (batch, tokens, hidden).

    Returns:
        (batch, tokens, hidden), sharing memory with `output`.

    Raises:
        UserError: if there is no tensor where one belongs.
    """
    hidden = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(hidden, Tensor):
        raise UserError(
            f"a site's module returned {type(output).__name__}, but a tensor or a tuple that starts with one is needed"
        )
    if hidden.ndim == 2 and tokens is not None:
        return hidden.view(*tokens, -1)
    return hidden


def replaced(output: Any, hidden: Tensor) -> Any:
    """`output` with `hidden` in place of its hidden states, in the same structure, shape, dtype and device.

    A tuple (or list) keeps its other entries; nothing is edited in place.

    >>> import torch
    >>> replaced((torch.zeros(1, 1, 2), "cache"), torch.ones(1, 1, 2))
    (tensor([[[1., 1.]]]), 'cache')
    """
    old = hidden_of(output)
    new = hidden.reshape(old.shape).to(device=old.device, dtype=old.dtype)
    if isinstance(output, Tensor):
        return new
    rest = (new, *output[1:])
    return list(rest) if isinstance(output, list) else rest
