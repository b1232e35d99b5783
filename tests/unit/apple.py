"""A make-believe Apple GPU on the CPU: it knows no float64, and mixes with no tensor that lies elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

MPS = torch.device("mps")


class OnApple(Tensor):
    """A tensor that says it lies on the GPU."""


def on_apple(tensor: Tensor) -> Tensor:
    """The tensor on the GPU, which refuses float64 as the real one does."""
    if tensor.dtype == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
    return torch.Tensor._make_subclass(OnApple, tensor.detach())


def _on_cpu(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, OnApple) else value


class AppleGPU(TorchFunctionMode):
    """While the block lasts, `on_apple` tensors behave as on an Apple GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat = [
            one
            for value in (*args, *kwargs.values())
            for one in (value if isinstance(value, (list, tuple)) else [value])
        ]
        tensors = [one for one in flat if isinstance(one, Tensor)]
        held = [one for one in tensors if isinstance(one, OnApple)]
        if getattr(func, "__self__", None) is Tensor.device:
            return MPS if held else func(*args)
        with torch._C.DisableTorchFunctionSubclass():
            if func in (Tensor.to, Tensor.cpu):
                return self._moved(func, args, kwargs)
            if kwargs.get("device") is not None and torch.device(kwargs["device"]) == MPS:
                return on_apple(func(*args, **(kwargs | {"device": "cpu"})))
            if func is Tensor.copy_:
                args[0].as_subclass(Tensor).copy_(_on_cpu(args[1]))
                return args[0]
            elsewhere = [one for one in tensors if not isinstance(one, OnApple) and one.ndim]
            if held and elsewhere and func is not Tensor.__getitem__:
                raise RuntimeError(f"{func.__name__}: tensors on mps and cpu")
            result = func(*args, **kwargs)
        return _placed(result) if held else result

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        tensor, *asked = args
        asked += kwargs.values()
        others = [one for one in asked if isinstance(one, Tensor)]
        devices = [torch.device(one) for one in asked if isinstance(one, (str, torch.device))]
        dtypes = [one for one in asked if isinstance(one, torch.dtype)] + [one.dtype for one in others]
        ends_there = isinstance(tensor, OnApple) and func is not Tensor.cpu
        if others:
            ends_there = isinstance(others[0], OnApple)
        if devices:
            ends_there = devices[0].type == "mps"
        moved = _on_cpu(tensor)
        moved = moved.to(dtypes[0]) if dtypes else moved
        return on_apple(moved) if ends_there else moved


def _placed(result: Any) -> Any:
    if isinstance(result, Tensor):
        return on_apple(_on_cpu(result))
    if isinstance(result, tuple) and any(isinstance(one, Tensor) for one in result):
        placed = [_placed(one) for one in result]
        return type(result)(placed) if hasattr(result, "_fields") or type(result) is not tuple else tuple(placed)
    return result
