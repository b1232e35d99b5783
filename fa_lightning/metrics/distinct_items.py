"""Items kept one by one over all processes, whatever order and however often they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from fa_lightning.common.float64 import float64_device


class DistinctItems(Metric):
    """Keeps one row per item; rows that a distributed sampler repeats to fill its last batches count once.

    Args:
        columns: numbers in a row.
        dtype: of the rows.
        **kwargs: of `torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False

    index: list[Tensor] | Tensor
    rows: list[Tensor] | Tensor

    def __init__(self, columns: int, dtype: torch.dtype, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._columns = columns
        # Not `_dtype`: torchmetrics overwrites that one with float32 when the metric is moved to a device.
        self._row_dtype = dtype
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics gathers nothing from an empty list, and the other processes would wait for ever.
        if isinstance(self.rows, list) and isinstance(self.index, list) and not self.rows:
            self.index.append(torch.zeros(0, dtype=torch.int64, device=self.device))
            self.rows.append(torch.zeros(0, self._columns, dtype=self._row_dtype, device=self._row_device(self.device)))
        super().sync(*args, **kwargs)

    def _append(self, index: Tensor, *columns: Tensor) -> None:
        """Keep a batch: `index` (batch,) and each column (batch,)."""
        lengths = [tuple(column.shape) for column in (index, *columns)]
        if any(length != (index.numel(),) for length in lengths):
            raise ValueError(f"update() was given the shapes {lengths}: give one number per item in each argument")
        self._append_rows(index, torch.stack([self._as_rows(column) for column in columns], dim=1))

    def _append_rows(self, index: Tensor, rows: Tensor) -> None:
        """Keep a batch: `index` (batch,) and `rows` (batch, columns)."""
        assert isinstance(self.index, list)
        assert isinstance(self.rows, list)
        self.index.append(index.detach().to(torch.int64))
        self.rows.append(self._as_rows(rows))

    def _as_rows(self, values: Tensor) -> Tensor:
        return values.detach().to(self._row_device(values.device)).to(self._row_dtype)

    def _row_device(self, device: torch.device) -> torch.device:
        return float64_device(device) if self._row_dtype is torch.float64 else device

    def _distinct(self) -> tuple[Tensor, Tensor]:
        """Sorted index (n,) and rows (n, columns) on the CPU, the first of each index."""
        index_batches = self.index if isinstance(self.index, list) else [self.index]
        row_batches = self.rows if isinstance(self.rows, list) else [self.rows]
        if not index_batches:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, self._columns, dtype=self._row_dtype)
        index, rows = torch.cat(list(index_batches)).cpu(), torch.cat(list(row_batches)).cpu()
        order = torch.argsort(index, stable=True)
        index = index[order]
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        return index[first], rows[order][first]


class DistinctTensors(DistinctItems):
    """Named tensors of every item, as float32: one row per item, however many ranks there are and whatever the order.

    Args:
        shapes: by name, the shape of one item's tensor.
        **kwargs: of `torchmetrics.Metric`.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], **kwargs: Any) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.sizes = {name: max(1, torch.Size(shape).numel()) for name, shape in self.shapes.items()}
        super().__init__(columns=sum(self.sizes.values()), dtype=torch.float32, **kwargs)

    @override
    def update(self, index: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Add a batch: `index` (batch,) and tensors (batch, ...)."""
        rows = [tensors[name].reshape(len(index), -1).float() for name in self.shapes]
        self._append_rows(index, torch.cat(rows, dim=1))

    @override
    def compute(self) -> dict[str, Tensor]:
        """The tensors of everything seen by all processes, sorted by index."""
        _, rows = self._distinct()
        columns = torch.split(rows, list(self.sizes.values()), dim=1)
        return {
            name: values.reshape(len(rows), *shape)
            for (name, shape), values in zip(self.shapes.items(), columns, strict=True)
        }
