"""Run a model with its states at a site replaced, and from a layer on: what fits and evaluations through it share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.activations.forward_call import ForwardCall
from fa_lightning.activations.sites import Site, hidden_of, module_at, replaced
from fa_lightning.backbones.attached import attached, uncompiled
from fa_lightning.backbones.decoder import decoder_layers, text_config
from fa_lightning.scenarios.batches import Batch, model_inputs

Edit = Callable[[Tensor], Tensor]
"""States (batch, tokens, hidden) to states of the same shape."""


@contextmanager
def edited(model: nn.Module, site: Site, edit: Edit, tokens: tuple[int, int] | None = None) -> Iterator[None]:
    """Put `edit(states)` in the place of the states at `site` for as long as the block lasts; gradients flow.

    Which tokens it changes is the edit's own affair: interventions, which know prompts from padding, are for users.

    Args:
        model: a causal LM, wrapped or not.
        site: where; its position rule is not looked at.
        edit: the states' new values.
        tokens: (batch, tokens), needed where a part of a block flattens the two (see `hidden_of`).
    """

    def replace(_: nn.Module, __: Any, output: Any) -> Any:
        return replaced(output, edit(hidden_of(output, tokens)))

    with attached([(module_at(model, site), replace)]):
        yield


def swap_in(theirs: Tensor, site: Site, batch: Batch, units: Tensor | None = None) -> Edit:
    """The edit that puts another model's states of the same batch in the place of a model's own: the oracle swap.

    Args:
        theirs: the other model's states at the site, (batch, tokens, hidden).
        site: where; its position rule says which tokens are swapped.
        batch: that both models see.
        units: which units are swapped, (hidden,) booleans; None swaps all.
    """
    selected = ForwardCall.of(model_inputs(batch), batch.get("prompt_tokens")).select(site.positions)

    def swap(states: Tensor) -> Tensor:
        wanted = theirs if units is None else torch.where(units, theirs.to(states), states)
        if selected.everything:
            return wanted
        rows = selected.on(states.device)
        swapped = states.flatten(0, 1).clone()
        swapped[rows] = wanted.to(states).flatten(0, 1)[rows]
        return swapped.view_as(states)

    return swap


@contextmanager
def block_outputs(model: nn.Module, layers: Sequence[int]) -> Iterator[dict[int, Any]]:
    """Keep what the blocks `layers` return, as they return it, detached: what `resumed` needs.

    Yields:
        By layer, the block's output; filled by the forward pass, replaced by a later one.
    """
    blocks = decoder_layers(model)
    outputs: dict[int, Any] = {}

    def keeper(layer: int) -> Any:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            outputs[layer] = replaced(output, hidden_of(output).detach())

        return keep

    with attached([(blocks[layer], keeper(layer)) for layer in layers]):
        yield outputs


@contextmanager
def resumed(model: nn.Module, layer: int, output: Any) -> Iterator[None]:
    """Run the model from the output of block `layer` on: the blocks up to it do nothing and cost nothing.

    Many edits at one layer share everything below it. Call the model inside the block as one would without, with the
    same inputs, without a cache. Hooks at `layer` and above fire as ever, those below fire too, but to no effect. A
    model whose upper blocks need more of the lower ones than their states runs whole.

    Args:
        model: a causal LM, wrapped or not.
        layer: index of the last block that is left out, from 0; -1 leaves out none.
        output: of that block for the same inputs, from `block_outputs`.
    """
    # Where upper blocks use the keys and values of lower ones (Gemma 4's small models), those have to run.
    shared = getattr(text_config(model), "num_kv_shared_layers", None)
    skipped = [] if shared else list(decoder_layers(model))[: layer + 1]
    # Quantised and dispatched models keep a forward of their own in the instance.
    before = [block.__dict__.get("forward") for block in skipped]
    try:
        for block in skipped:
            block.forward = lambda *_, **__: output
        with uncompiled():
            yield
    finally:
        for block, forward in zip(skipped, before, strict=True):
            if forward is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = forward


def layer_below(site: Site) -> int:
    """The last block whose output an edit at `site` leaves alone; -1 if there is none.

    >>> layer_below(Site(3)), layer_below(Site(3, "mlp")), layer_below(Site(0, "attention"))
    (3, 2, -1)
    """
    return site.layer if site.component == "residual" else site.layer - 1
