"""Paired activations on disk, write side: shards that survive a kill at any byte, and resume where they stopped."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from fa_lightning.activations.store import (
    DTYPES,
    FORMAT,
    MANIFEST,
    ROW_DTYPES,
    VERSION,
    Shard,
    StoreDamagedError,
    StoreIncompleteError,
    as_json,
    check_shard,
    refuse_difference,
)
from fa_lightning.common.files import whole_file
from fa_lightning.errors import UnavailableError, UserError

_TEMPORARY = re.compile(r"\.writing-rank(\d+)-.+")


class StoreFullError(UnavailableError):
    """The disk is full; what was written before is kept, and the same run resumes from there."""


@contextmanager
def full_disk_told(folder: Path, what: str, size: int) -> Iterator[None]:
    """Say of a disk that is full what was to be written to it.

    Args:
        folder: that is written to.
        what: is written.
        size: of it, bytes.

    Raises:
        StoreFullError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreFullError(
            errno.ENOSPC,
            f"the disk of {folder} is full: {what} needs {size} bytes, {shutil.disk_usage(folder).free} are free. "
            "Nothing lost: make room and run again to resume",
        ) from error


class StoreWriter:
    """Writes one store, alone or as one of several ranks that share the folder.

    A shard is a fixed part of the data that the caller names. It appears under its own name only when all of it is on
    the disk, and counts as done only when its sidecar, written after it, agrees with it. So after a kill the same
    calls made again write what is missing and nothing else.

    Example::

        writer = StoreWriter(folder, fingerprint, sites=["layers.3.residual"], rank=rank, world_size=world_size)
        for shard_id in writer.pending(range(20)):
            writer.write(shard_id, "train", tensors, rows)
        ...  # wait for the other ranks
        writer.finish(range(20))

    Args:
        folder: the store's folder; made if need be. Left-overs of a killed writer are removed.
        fingerprint: what the store is made from (backbone, adapters, scenarios, seed, ...), as JSON values.
        sites: site names.
        variants: names of the paired models.
        dtype: dtype of the states on disk: `float32`, `float16` or `bfloat16`.
        rank: index of this process among those that write.
        world_size: number of processes that write.

    Raises:
        ValueError: if an argument is not allowed.
        StoreMismatchError: if the folder holds shards made from something else; the message names what differs.
    """

    def __init__(
        self,
        folder: str | Path,
        fingerprint: Mapping[str, Any],
        sites: Sequence[str],
        variants: Sequence[str] = ("faking", "aligned"),
        dtype: str = "float32",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}, but a store holds one of {', '.join(DTYPES)}")
        if not sites:
            raise ValueError("sites is empty, but a store needs at least one site name")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}, but with world_size {world_size} it must be 0 to {world_size - 1}")
        self.folder = Path(folder)
        self.rank, self.world_size = rank, world_size
        self._sites, self.variants, self._dtype = tuple(sites), tuple(variants), dtype
        self._header: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": as_json(dict(fingerprint)),
            "sites": list(sites),
            "variants": list(variants),
            "dtype": dtype,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_left_overs()
        self._refuse_other_stores()

    def pending(self, shard_ids: Sequence[int | str]) -> list[int | str]:
        """This rank's share of `shard_ids` (every `world_size`-th) that is not done yet.

        Raises:
            ValueError: if two identifiers name the same file.
        """
        _check_distinct(shard_ids)
        return [shard_id for shard_id in shard_ids[self.rank :: self.world_size] if not self.is_done(shard_id)]

    def is_done(self, shard_id: int | str) -> bool:
        """Whether the shard is on disk, whole: its sidecar is there and agrees with its size and checksum."""
        sidecar = self._sidecar(shard_id)
        if sidecar is None:
            return False
        try:
            check_shard(self.folder, Shard(**sidecar["shard"]), verify=True)
        except StoreDamagedError:
            return False
        return True

    def write(
        self,
        shard_id: int | str,
        split: str,
        tensors: Mapping[str, Mapping[str, Tensor]],
        rows: Mapping[str, Tensor],
    ) -> Shard:
        """Write one shard, whole or not at all.

        Args:
            shard_id: its identifier: an int, or a string of letters, digits, `_` and `-`.
            split: `train` or `validation`.
            tensors: by site name and variant, the hidden states, (rows, hidden).
            rows: by name, the row vectors, (rows,): `example`, `position`, `decision`, `group` and `cell`.

        Raises:
            UserError: if states are not finite.
            ValueError: if names or shapes do not fit.
            StoreFullError: if the disk is full.
        """
        name = _file_stem(shard_id)
        flat, count, hidden_size = self._flattened(tensors, rows)
        payload = save(flat, metadata={"format": "pt"})
        digest = hashlib.sha256(payload).hexdigest()
        shard = Shard(_identifier(shard_id), f"{name}.safetensors", split, count, len(payload), digest)
        # From here until `finish` the store is incomplete, also where it was finished before.
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self._write_file(shard.file, payload)
        self._write_json(f"{name}.json", {**self._header, "hidden_size": hidden_size, "shard": asdict(shard)})
        return shard

    def finish(self, shard_ids: Sequence[int | str]) -> None:
        """Check that all shards are there and write the manifest, which makes the folder a store.

        Call it on every rank after a barrier: rank 0 works, the others return at once.

        Args:
            shard_ids: all shards of the store, whoever wrote them, in the order their rows shall have.

        Raises:
            StoreIncompleteError: if a shard is missing.
            UserError: if shards differ in hidden size.
            ValueError: if two identifiers name the same file.
        """
        if self.rank != 0:
            return
        _check_distinct(shard_ids)
        sidecars = {shard_id: self._sidecar(shard_id) for shard_id in shard_ids}
        missing = [str(shard_id) for shard_id, sidecar in sidecars.items() if sidecar is None]
        listing = ", ".join(missing[:5]) or "none given"
        if missing or not sidecars:
            raise StoreIncompleteError(
                f"{self.folder} lacks {len(missing)} of {len(sidecars)} shards ({listing}): "
                "run the capture again with the same settings, finished shards are kept"
            )
        present = [sidecar for sidecar in sidecars.values() if sidecar is not None]
        shards = [Shard(**sidecar["shard"]) for sidecar in present]
        for shard in shards:
            check_shard(self.folder, shard, verify=False)
        sizes = sorted({sidecar["hidden_size"] for sidecar in present})
        if len(sizes) > 1:
            raise UserError(
                f"hidden_size is {sizes} across the shards of {self.folder}, but a store has one: delete it"
            )
        totals: dict[str, int] = {}
        for shard in shards:
            totals[shard.split] = totals.get(shard.split, 0) + shard.rows
        manifest = {
            **self._header,
            "hidden_size": sizes[0],
            "rows": totals,
            "shards": [asdict(shard) for shard in shards],
            "versions": {"torch": torch.__version__, "safetensors": safetensors.__version__},
        }
        self._write_json(MANIFEST, manifest)

    def _flattened(
        self, tensors: Mapping[str, Mapping[str, Tensor]], rows: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], int, int]:
        """The shard's tensors by their name on disk, its number of rows and its hidden size."""
        _check_names("tensors", tensors, self._sites)
        _check_names("rows", rows, tuple(ROW_DTYPES))
        for site in self._sites:
            _check_names(f"tensors[{site!r}]", tensors[site], self.variants)
        first = tensors[self._sites[0]][self.variants[0]]
        if first.ndim != 2:
            raise ValueError(f"states have shape {tuple(first.shape)}, but (rows, hidden) is needed")
        flat: dict[str, Tensor] = {}
        for site in self._sites:
            for variant in self.variants:
                states = tensors[site][variant]
                if states.shape != first.shape:
                    raise ValueError(
                        f"states of {site} ({variant}) have shape {tuple(states.shape)}, "
                        f"but the shard's first have {tuple(first.shape)}"
                    )
                # A copy of its own each: safetensors refuses tensors that share memory.
                stored = states.detach().to("cpu", DTYPES[self._dtype], copy=True).contiguous()
                # A sum is finite if every number is; a look at each would cost as much as all the rest of writing.
                if not math.isfinite(stored.sum(dtype=torch.float64).item()):
                    raise UserError(
                        f"states of {site} ({variant}) hold NaN or infinite values in {self._dtype}"
                        + ("; use dtype bfloat16 or float32, which reach further" if self._dtype == "float16" else "")
                    )
                flat[f"{site}|{variant}"] = stored
        for name, dtype in ROW_DTYPES.items():
            if rows[name].shape != first.shape[:1]:
                raise ValueError(f"rows[{name!r}] has shape {tuple(rows[name].shape)}, but ({len(first)},) is needed")
            flat[f"rows|{name}"] = rows[name].detach().to("cpu", dtype, copy=True).contiguous()
        return flat, first.shape[0], first.shape[1]

    def _sidecar(self, shard_id: int | str) -> dict[str, Any] | None:
        """The shard's sidecar; None if there is none, or none that can be read."""
        return _read_sidecar(self.folder / f"{_file_stem(shard_id)}.json")

    def _refuse_other_stores(self) -> None:
        for path in sorted(self.folder.glob("shard-*.json")):
            sidecar = _read_sidecar(path)
            if sidecar is not None:
                # The fingerprint's fields are named as they are, without a `fingerprint.` before them.
                refuse_difference(self.folder, sidecar["fingerprint"], self._header["fingerprint"])
                refuse_difference(self.folder, {key: sidecar.get(key) for key in self._header}, self._header)

    def _remove_left_overs(self) -> None:
        for path in self.folder.iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            # Another rank may be writing right now; ranks of an earlier, larger world are shared out.
            if match and int(match.group(1)) % self.world_size == self.rank:
                path.unlink(missing_ok=True)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._write_file(name, (json.dumps(content, indent=1) + "\n").encode())

    def _write_file(self, name: str, payload: bytes) -> None:
        """Put a file under its final name only once all its bytes are on the disk."""
        with (
            full_disk_told(self.folder, name, len(payload)),
            whole_file(self.folder / name, temporary=f".writing-rank{self.rank}-{name}") as file,
        ):
            file.write(payload)


def _identifier(shard_id: int | str) -> str:
    return f"{int(shard_id):05d}" if str(shard_id).isdecimal() else str(shard_id)


def _file_stem(shard_id: int | str) -> str:
    identifier = _identifier(shard_id)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", identifier):
        raise ValueError(f"shard_id is {shard_id!r}, but only letters, digits, _ and - may be in it")
    return f"shard-{identifier}"


def _check_distinct(shard_ids: Sequence[int | str]) -> None:
    if len({_file_stem(shard_id) for shard_id in shard_ids}) != len(shard_ids):
        raise ValueError(f"shard_ids names a shard twice: {list(shard_ids)[:20]}")


def _check_names(argument: str, named: Mapping[str, Any], needed: Sequence[str]) -> None:
    if set(named) != set(needed):
        raise ValueError(f"{argument} holds {sorted(named)}, but exactly {sorted(needed)} are needed")


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    try:
        sidecar: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Shard(**sidecar["shard"])
        return {**sidecar, "fingerprint": dict(sidecar["fingerprint"]), "hidden_size": int(sidecar["hidden_size"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
