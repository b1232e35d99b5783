"""Hooks on a model are attached in one place, and texts written in one, so that no caller forgets what they guard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fa_lightning
from fa_lightning.backbones.attached import attached, uncompiled


def test_hooks_see_a_compiled_module_and_are_gone_whatever_happens() -> None:
    module = nn.Linear(2, 2)
    x = torch.ones(1, 2)
    module.compile(backend="eager")
    plain = module(x)
    calls: list[str] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append("before")

    def after(_: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append("after")
        return output + 1

    with attached([(module, after)], before=[(module, before)]):
        assert torch.equal(module(x), plain + 1)
    with pytest.raises(KeyError), attached([(module, after)], before=[(module, before)]):
        raise KeyError("inside")
    assert calls == ["before", "after"]
    assert torch.equal(module(x), plain)
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def counted() -> tuple[Any, list[Any]]:
    """A compiled module, and the graphs that are made of it."""
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    return torch.compile(nn.Linear(2, 2), backend=backend), graphs


def test_nothing_is_compiled_in_the_block_and_after_it_all_is_as_before() -> None:
    compiled, graphs = counted()
    with uncompiled(), uncompiled():
        compiled(torch.ones(1, 2))
    assert not graphs
    compiled(torch.ones(1, 2))
    assert len(graphs) == 1


def test_blocks_that_overlap_as_those_of_two_threads_do_leave_no_trace() -> None:
    compiled, graphs = counted()
    first, second = uncompiled(), uncompiled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    compiled(torch.ones(1, 2))
    assert not graphs
    second.__exit__(None, None, None)
    compiled(torch.ones(1, 2))
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("call", "place"),
    [(r"\.register_forward_(pre_)?hook\(", "backbones/attached.py"), (r"model\.generate\(", "steering/generation.py")],
)
def test_one_place_attaches_and_one_writes(call: str, place: str) -> None:
    root = Path(fa_lightning.__file__).parent
    lines = [(path, line) for path in sorted(root.rglob("*.py")) for line in path.read_text("utf-8").splitlines()]
    # An example in a docstring or a card is indented text.
    found = {
        path.relative_to(root).as_posix() for path, line in lines if re.search(call, line) and "**prompts" not in line
    }
    assert found == {place}
