"""Hooks on a model while a block lasts, whatever the model was compiled to before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

Hooks = Iterable[tuple[nn.Module, Callable[..., Any]]]
"""Modules and what is called at each."""


def uncompiled() -> AbstractContextManager[Any]:
    """Run compiled models eagerly while the block lasts, and compile none.

    A compiled graph holds what its modules did when it was made: hooks added since never fire, in silence, and those
    of a graph made inside the block would outlive it. So it is with `torch.compile(model)` and `model.compile()`, whole
    or by layers, and with the graph that `generate` makes by itself for a static cache.
    """
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def attached(after: Hooks, before: Hooks = ()) -> Iterator[None]:
    """Forward hooks that fire while the block lasts, and are gone when it ends, however it does.

    Args:
        after: called with (module, arguments, output); what a hook returns takes the output's place.
        before: called with (module, arguments, keyword arguments), whose place what a hook returns takes.
    """
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        for module, hook in before:
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for module, hook in after:
            stack.callback(module.register_forward_hook(hook).remove)
        yield
