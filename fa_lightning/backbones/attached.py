"""Hooks on a model while a block lasts, whatever the model was compiled to before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

Hooks = Iterable[tuple[nn.Module, Callable[..., Any]]]
"""Modules and what is called at each."""


class _ForcedEager:
    """The compiler's stance, which is one for the process, for blocks that may overlap in any order.

    Blocks of two threads do: if each put back the stance that it found, the one that ends last would put back the
    other's, and nothing would ever be compiled again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._stance: AbstractContextManager[Any] = nullcontext()

    def enter(self) -> None:
        with self._lock:
            if not self._blocks:
                self._stance = torch.compiler.set_stance("force_eager")
            self._blocks += 1

    def leave(self) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                self._stance.__exit__(None, None, None)


_forced_eager = _ForcedEager()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled models eagerly while the block lasts, and compile none, in any thread.

    A compiled graph holds what its modules did when it was made: hooks added since never fire, in silence, and those
    of a graph made inside the block would outlive it. So it is with `torch.compile(model)` and `model.compile()`, whole
    or by layers, and with the graph that `generate` makes by itself for a static cache.
    """
    _forced_eager.enter()
    try:
        yield
    finally:
        _forced_eager.leave()


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
