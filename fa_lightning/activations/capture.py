"""Read hidden states while a model runs: forward hooks that live only inside a `with` block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fa_lightning.activations.sites import Site, hidden_of, module_at
from fa_lightning.backbones.attached import attached
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.errors import UserError


class StopForward(Exception):
    """Raised by `capture` once every site is read, so that the layers above never run; it never leaves its block."""


@contextmanager
def capture(model: nn.Module, sites: Sequence[Site], stop: bool = True) -> Iterator[dict[str, Tensor]]:
    """Record the hidden states at `sites` of every forward pass made inside the block.

    The states are what the block (or its part) returned, before the final norm, at every position: a site's position
    rule concerns edits, not reading. Enter this block after any steering block to read the steered states. The tensors
    are detached, not copied; steering never edits in place, so they stay as read. A later forward pass replaces them.

    Note:
        Stopping leaves the pass unfinished: use a KV cache, gradients or FSDP only with `stop=False`.

    Args:
        model: a causal LM, wrapped or not.
        sites: where to read; sites that differ only in their position rule are read once.
        stop: end the forward pass, and with it the block, as soon as every site is read.

    Yields:
        By site name, (batch, tokens, hidden); filled by the forward pass.

    Raises:
        ValueError: if `sites` is empty.
        UserError: if a site does not exist in `model`.
    """
    if not sites:
        raise ValueError("sites is empty, but capture needs at least one: give for example [Site(0)]")
    modules = {site.name: module_at(model, site) for site in sites}
    blocks = {decoder_layers(model)[site.layer] for site in sites if site.component == "mlp"}
    states: dict[str, Tensor] = {}
    unread = set(modules)
    tokens: tuple[int, int] | None = None
    # A mark of its own, because a kept exception would keep its frames, and with them the model's activations, alive.
    mark = object()

    def note_tokens(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal tokens
        hidden = args[0] if args else kwargs["hidden_states"]
        tokens = (hidden.shape[0], hidden.shape[1])

    def reader(name: str) -> Any:
        def read(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            states[name] = hidden_of(output, tokens).detach()
            unread.discard(name)
            if stop and not unread:
                unread.update(modules)
                raise StopForward(mark)

        return read

    # Only OPT's MLP needs the two sizes, but they are as cheap for all.
    before = [(block, note_tokens) for block in blocks]
    try:
        with attached([(module, reader(name)) for name, module in modules.items()], before):
            yield states
    except StopForward as raised:
        # An inner block's stop must not end an outer one's.
        if raised.args != (mark,):
            raise


def truncated_forward(model: nn.Module, sites: Sequence[Site], **inputs: Any) -> dict[str, Tensor]:
    """Run `model(**inputs)` up to the deepest of `sites` and no further.

    Args:
        model: a causal LM, wrapped or not.
        sites: where to read.
        **inputs: what the model is called with; the KV cache is off unless `use_cache` is given.

    Returns:
        By site name, (batch, tokens, hidden), detached.

    Raises:
        ValueError: if `sites` is empty.
        UserError: if a site does not exist in `model`, or the forward pass ended without reaching it.
    """
    inputs.setdefault("use_cache", False)
    with capture(model, sites, stop=True) as states:
        model(**inputs)
    missed = [site.name for site in sites if site.name not in states]
    if missed:
        raise UserError(
            f"the forward pass never reached {', '.join(missed)}: "
            f"{type(model).__name__} skips these modules (layer drop?); switch that off or choose other sites"
        )
    return states
