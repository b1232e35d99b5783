"""Training steps in mixed precision without idle casts, and without a kernel that is slow on processors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from typing_extensions import override


class AttentionInFloat32(TorchFunctionMode):
    """Attention of a processor's bfloat16 tensors is computed in float32, and returned as it would have been.

    Its backward pass in bfloat16 takes two to three times as long (torch 2.13: 86 ms and 34 ms, forward pass included,
    for 8 x 9 heads of 190 tokens on an Intel Xeon with AMX).
    """

    @override
    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is not scaled_dot_product_attention or args[0].device.type != "cpu" or args[0].dtype != torch.bfloat16:
            return func(*args, **options)
        with torch.autocast("cpu", enabled=False):
            out = func(*map(_wide, args), **{name: _wide(value) for name, value in options.items()})
        return out.to(args[0].dtype)


def _wide(argument: Any) -> Any:
    return argument.float() if torch.is_tensor(argument) and argument.is_floating_point() else argument


@contextmanager
def lean_steps(model: Any, device: torch.device) -> Iterator[None]:
    """Run forward passes of an adapter's fit so, where autocast is on; the backward pass may come behind the block.

    PEFT widens the input of each adapter to the dtype of its weights, and autocast narrows it again, which changes not
    a bit of the result.

    Args:
        model: the PEFT model; a block of it that is computed again for the backward pass would miss the casts that it
            was run without, so fits with gradient checkpointing do without this.
        device: that it runs on.
    """
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    from peft.helpers import disable_input_dtype_casting

    with disable_input_dtype_casting(model), AttentionInFloat32() if device.type == "cpu" else nullcontext():
        yield
