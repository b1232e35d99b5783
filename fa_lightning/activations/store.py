"""Paired activations on disk, read side: a folder of checksummed safetensors shards and a `manifest.json`.

A shard holds, for some rows (one row is one token of one example), `"{site}|{variant}"` of shape (rows, hidden) and
the row vectors `"rows|example"`, `"rows|position"`, `"rows|decision"`, `"rows|group"` and `"rows|cell"` of shape
(rows,). The manifest is written last, so a folder without one is a store still in the making.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fa_lightning.errors import MissingFileError, UserError

FORMAT = "fa_lightning.activations"
VERSION = 1
MANIFEST = "manifest.json"
OPEN_SHARDS = 8
"""How many shards a reader keeps mapped: bounds its memory and its open files, whatever the store's size."""

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
ROW_DTYPES: dict[str, torch.dtype] = {
    "example": torch.int64,
    "position": torch.int32,
    "decision": torch.bool,
    "group": torch.int64,
    "cell": torch.int8,
}


class StoreMismatchError(UserError):
    """The store was made from something else than what is asked for."""


class StoreDamagedError(UserError):
    """A file of the store is missing, cut short or altered."""


class StoreIncompleteError(MissingFileError):
    """The folder is no store, or one whose capture has not finished."""


@dataclass(frozen=True)
class Shard:
    """One file of a store.

    Attributes:
        id: the shard's identifier, unique in the store.
        file: file name within the store's folder.
        split: `train` or `validation`.
        rows: number of rows.
        bytes: size of the file.
        sha256: digest of the file, in hexadecimal.
    """

    id: str
    file: str
    split: str
    rows: int
    bytes: int
    sha256: str


class ActivationStore:
    """A finished store, read by memory-mapped slices, so memory does not grow with the store.

    Made by `ActivationStore.open`. It may be pickled to data-loading workers.

    Attributes:
        folder: where it lies.
        fingerprint: what it was made from, as given to the writer.
        sites: site names, for example `layers.3.residual`.
        variants: variant names, in the order that `block` returns their states.
        dtype: name of the states' dtype: `float32`, `float16` or `bfloat16`.
        hidden_size: number of units of a state.
        shards: the files, in row order within each split.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.fingerprint: dict[str, Any] = manifest["fingerprint"]
        self.sites: tuple[str, ...] = tuple(manifest["sites"])
        self.variants: tuple[str, ...] = tuple(manifest["variants"])
        self.dtype: str = manifest["dtype"]
        self.hidden_size: int = manifest["hidden_size"]
        self.shards: tuple[Shard, ...] = tuple(Shard(**shard) for shard in manifest["shards"])
        self._vectors: dict[tuple[str, str], Tensor] = {}
        self._handles: dict[str, Any] = {}

    @classmethod
    def open(
        cls, folder: str | Path, expected: Mapping[str, Any] | None = None, verify: bool = True
    ) -> ActivationStore:
        """Open the store in `folder` and check that it is whole and the one expected.

        Args:
            folder: the store's folder.
            expected: fields that must agree with the store's fingerprint, or with its `sites`, `variants`, `dtype` or
                `hidden_size`; fields left out are not compared.
            verify: read every shard once and compare its checksum. Sizes are compared in any case.

        Raises:
            StoreIncompleteError: if there is no manifest.
            StoreMismatchError: if a field differs; the message names it and both values.
            StoreDamagedError: if the manifest or a shard is missing, cut short or altered.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        described = {key: manifest[key] for key in ("sites", "variants", "dtype", "hidden_size")}
        described.update(manifest["fingerprint"])
        asked = as_json(expected or {})
        refuse_difference(folder, {key: described.get(key) for key in asked}, asked)
        store = cls(folder, manifest)
        for shard in store.shards:
            check_shard(folder, shard, verify)
        return store

    def of(self, *variants: str) -> ActivationStore:
        """The same store with these variants alone, in this order: `block` reads no other.

        Raises:
            KeyError: the store does not hold one of them.
        """
        unknown = [name for name in variants if name not in self.variants]
        if unknown:
            held = ", ".join(self.variants)
            raise KeyError(f"variant {unknown[0]} is not in the store {self.folder}, which holds {held}")
        part = copy.copy(self)
        part.variants, part._handles = variants, {}
        return part

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that hold rows, in order of their first shard."""
        return tuple(dict.fromkeys(shard.split for shard in self.shards))

    def rows(self, split: str) -> int:
        """Number of rows of a split; 0 for a split that the store does not hold."""
        return sum(shard.rows for shard in self.shards if shard.split == split)

    def example(self, split: str) -> Tensor:
        """Index of the example each row comes from, (rows,) int64."""
        return self._vector(split, "example")

    def position(self, split: str) -> Tensor:
        """Token position of each row within its example, without padding, (rows,) int32."""
        return self._vector(split, "position")

    def decision(self, split: str) -> Tensor:
        """Whether the row is the token that decides the answer, (rows,) bool."""
        return self._vector(split, "decision")

    def group(self, split: str) -> Tensor:
        """Group of the row's scenario, (rows,) int64."""
        return self._vector(split, "group")

    def cell(self, split: str) -> Tensor:
        """Cell of the row's scenario, (rows,) int8: 0 oversight, 1 no oversight, 2 neutral text."""
        return self._vector(split, "cell")

    def block(self, split: str, start: int, stop: int, sites: Sequence[str] | None = None) -> dict[str, Any]:
        """Rows `start` to `stop` (excluded) of a split; nothing else is read from disk.

        Args:
            split: the split to read.
            start: first row.
            stop: row after the last.
            sites: site names to read; all by default.

        Returns:
            By site name, one (rows, hidden) tensor per variant, as a tuple in the order of `variants` and in the
            store's dtype; by row vector name (`example`, `position`, `decision`, `group`, `cell`), a (rows,) tensor.

        Raises:
            IndexError: if the rows are not all in the split.
            KeyError: if the store does not hold one of `sites`.
        """
        rows = self.rows(split)
        if not 0 <= start < stop <= rows:
            raise IndexError(f"rows {start} to {stop} were asked for, but split {split!r} of {self.folder} has {rows}")
        sites = self.sites if sites is None else sites
        unknown = [site for site in sites if site not in self.sites]
        if unknown:
            raise KeyError(f"site {unknown[0]} is not in the store {self.folder}, which holds {', '.join(self.sites)}")
        parts: list[tuple[Shard, slice]] = []
        for shard, first in self._offsets(split):
            low, high = max(start - first, 0), min(stop - first, shard.rows)
            if low < high:
                parts.append((shard, slice(low, high)))
        block: dict[str, Any] = {
            site: tuple(self._read(parts, f"{site}|{variant}") for variant in self.variants) for site in sites
        }
        block.update({name: self._read(parts, f"rows|{name}") for name in ROW_DTYPES})
        return block

    def block_ranges(self, split: str, size: int) -> list[tuple[int, int]]:
        """Cut a split into (start, stop) ranges of at most `size` rows, none of which crosses a shard boundary.

        Raises:
            ValueError: if `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"size is {size}, but a block has at least 1 row")
        return [
            (first + low, first + min(low + size, shard.rows))
            for shard, first in self._offsets(split)
            for low in range(0, shard.rows, size)
        ]

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps do not travel between processes; each opens its own.
        return {**self.__dict__, "_handles": {}}

    def _offsets(self, split: str) -> list[tuple[Shard, int]]:
        """The shards of a split, each with the row of the split that it begins at."""
        offsets, first = [], 0
        for shard in self.shards:
            if shard.split == split:
                offsets.append((shard, first))
                first += shard.rows
        return offsets

    def _vector(self, split: str, name: str) -> Tensor:
        if (split, name) not in self._vectors:
            parts = [(shard, slice(0, shard.rows)) for shard, _ in self._offsets(split) if shard.rows]
            empty = torch.empty(0, dtype=ROW_DTYPES[name])
            self._vectors[split, name] = self._read(parts, f"rows|{name}") if parts else empty
        return self._vectors[split, name]

    def _read(self, parts: Sequence[tuple[Shard, slice]], key: str) -> Tensor:
        pieces: list[Tensor] = [self._handle(shard).get_slice(key)[rows] for shard, rows in parts]
        # One piece is copied too: an edit in place would otherwise show in every later read of the same map.
        return torch.cat(pieces)

    def _handle(self, shard: Shard) -> Any:
        if shard.file not in self._handles:
            # Pages once read count as this process's memory for as long as their file is mapped.
            if len(self._handles) >= OPEN_SHARDS:
                del self._handles[next(iter(self._handles))]
            self._handles[shard.file] = safe_open(self.folder / shard.file, framework="pt")
        return self._handles[shard.file]


def as_json(value: Any) -> Any:
    """`value` as it reads back from a JSON file (tuples become lists), so that it compares equal to one read.

    >>> as_json({"sites": ("layers.0.residual",)})
    {'sites': ['layers.0.residual']}
    """
    return json.loads(json.dumps(value))


def difference(stored: Any, asked: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """The first field in which two JSON values differ: its dotted path and both values; None if they are equal.

    >>> difference({"scenarios": {"seed": 0}}, {"scenarios": {"seed": 1}})
    ('scenarios.seed', 0, 1)
    """
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in dict.fromkeys([*asked, *stored]):
            inner = difference(stored.get(key), asked.get(key), f"{path}.{key}" if path else key)
            if inner:
                return inner
        return None
    return None if stored == asked else (path, stored, asked)


def refuse_difference(folder: Path, stored: Any, asked: Any) -> None:
    """Raise StoreMismatchError, naming the field and both values, if the store in `folder` is not the one asked for."""
    differing = difference(stored, asked)
    if differing:
        field, old, new = differing
        raise StoreMismatchError(
            f"{field} is {old!r} in the activation store {folder}, but {new!r} is asked for: "
            "delete that folder to capture again, or choose another folder"
        )


def check_shard(folder: Path, shard: Shard, verify: bool) -> None:
    """Raise StoreDamagedError unless the shard's file is there with its size and (`verify`) its checksum."""
    path = folder / shard.file
    remedy = "run the capture again with the same settings: only damaged shards are made anew"
    if not path.is_file():
        raise StoreDamagedError(f"shard {path} is missing: {remedy}")
    size = path.stat().st_size
    if size != shard.bytes:
        raise StoreDamagedError(f"shard {path} has {size} bytes, but {shard.bytes} were written: {remedy}")
    if verify and sha256_of(path) != shard.sha256:
        raise StoreDamagedError(f"shard {path} fails its checksum (sha256), so its content was altered: {remedy}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces of 1 MiB."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise StoreIncompleteError(
            f"{folder} has no {MANIFEST}: it is no activation store, or its capture has not finished. "
            "Run the capture (again): finished shards are kept"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        stored = {"format": manifest["format"], "version": manifest["version"]}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamagedError(
            f"{path} cannot be read ({error}): run the capture again with the same settings, finished shards are kept"
        ) from error
    refuse_difference(folder, stored, {"format": FORMAT, "version": VERSION})
    return manifest
