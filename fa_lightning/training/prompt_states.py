"""States of prompts on disk, found again by the prompts' tokens: shards that survive a kill at any byte."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fa_lightning.activations.store_writer import full_disk_told
from fa_lightning.common.files import write_atomically
from fa_lightning.errors import MissingFileError, UserError

Prompt = tuple[int, ...]
"""Token ids, without padding."""

STATES, PROMPTS, CHECKSUM = "states", "prompts", "sha256"
"""In a shard: its one tensor, (tokens, hidden), and in its header the prompts by key and length, and the checksum."""
LEFT_OVER_SECONDS = 3600.0
"""A file still being written after so long was left by a run that was killed: a shard takes seconds."""


@dataclass(frozen=True)
class Place:
    """Where a prompt's states lie.

    Attributes:
        file: the shard.
        offset: of the first byte in it.
        tokens: of the prompt.
    """

    file: Path
    offset: int
    tokens: int


class PromptStates:
    """States of every token of prompts, in a folder of safetensors shards that any number of processes share.

    A shard appears under its name only when all of it is on the disk, and says itself which prompts it holds. So there
    is no list of shards that could be out of date: what a killed run has written is there, what it has not is missing.

    Args:
        folder: of the shards; made if need be.
        hidden_size: units of a state.
        dtype: of the states on disk.
    """

    def __init__(self, folder: Path, hidden_size: int, dtype: torch.dtype) -> None:
        self.folder = folder
        self.hidden_size = hidden_size
        self.dtype = dtype
        self._places: dict[str, Place] = {}
        self._unreadable: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, prompt: Prompt) -> bool:
        return key_of(prompt) in self._places

    def bytes_of(self, tokens: int) -> int:
        """What so many tokens take on the disk."""
        return tokens * self.hidden_size * self.dtype.itemsize

    def look(self) -> None:
        """Read which prompts the shards hold now; nothing but their headers is read."""
        self._places, self._unreadable = {}, []
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                self._places |= self._places_in(file)
            except FileNotFoundError:  # taken away by another process since
                continue
            except (SafetensorError, ValueError, KeyError, TypeError):
                self._unreadable.append(file)

    def drop_damaged(self, prompts: Iterable[Prompt], rank: int = 0, ranks: int = 1) -> list[Path]:
        """Delete this rank's share of the damaged shards, and what killed runs have left; `look` again afterwards.

        Args:
            prompts: that are needed: only shards that hold one of them are read through.
            rank: this process.
            ranks: how many share the work.

        Returns:
            The damaged shards.
        """
        keys = map(key_of, prompts)
        needed = sorted({self._places[key].file for key in keys if key in self._places} | set(self._unreadable))
        damaged = [file for file in needed[rank::ranks] if not self._is_whole(file)]
        for file in damaged:
            file.unlink(missing_ok=True)
        for file in self.folder.glob(".*.tmp") if rank == 0 else ():
            if file.exists() and time.time() - file.stat().st_mtime > LEFT_OVER_SECONDS:
                file.unlink(missing_ok=True)
        return damaged

    def write(self, prompts: Sequence[Prompt], states: Tensor) -> Path:
        """Write one shard, whole or not at all.

        Args:
            prompts: whose states these are.
            states: of their tokens, one prompt behind the other, (tokens, hidden).

        Returns:
            The file.

        Raises:
            UserError: states are not finite.
            StoreFullError: the disk is full.
        """
        stored = states.to("cpu", self.dtype).contiguous()
        if not math.isfinite(stored.sum(dtype=torch.float64).item()):
            raise UserError(
                f"states hold NaN or infinite values in {_name_of(self.dtype)}: set frozen_half_dtype to one that "
                "reaches further, such as bfloat16 or float32"
            )
        listed = json.dumps([[key_of(prompt), len(prompt)] for prompt in prompts])
        header = {PROMPTS: listed, CHECKSUM: _checksum(listed, stored)}
        file = self.folder / f"{hashlib.sha256(listed.encode()).hexdigest()[:16]}.safetensors"
        payload = save({STATES: stored}, metadata=header)
        with full_disk_told(self.folder, "a shard", len(payload)):
            write_atomically(file, payload)
        return file

    def of_batch(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """States of left-padded prompts, (batch, tokens, hidden), zero where there is padding; None if one is missing.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 0 for padding.

        Raises:
            MissingFileError: a shard has been deleted since `look`.
        """
        ids, mask = input_ids.cpu().numpy(), attention_mask.cpu().numpy()
        width = ids.shape[1]
        starts = width - mask.sum(1)
        if (numpy.diff(mask, axis=1) < 0).any():  # padded on the right, or packed
            return None
        places = [self._places.get(_digest(row[start:])) for row, start in zip(ids, starts, strict=True)]
        known = [place for place in places if place is not None]
        if len(known) < len(places):
            return None
        states = torch.empty(len(ids), width, self.hidden_size, dtype=self.dtype)
        for row, start, place in zip(states, starts, known, strict=True):
            row[:start] = 0
            self._read(place, row[start:])
        return states

    def _read(self, place: Place, rows: Tensor) -> None:
        # Straight into the batch: a memory map would be copied just as often, and count as this process's memory.
        wanted = _bytes_of(rows)
        try:
            with place.file.open("rb", buffering=0) as file:
                file.seek(place.offset)
                count = file.readinto(wanted)
        except FileNotFoundError as error:
            raise MissingFileError(
                f"{place.file} has been deleted while a fit went on from it: run again, and only what is missing is "
                "computed"
            ) from error
        if count != len(wanted):
            raise UserError(f"{place.file} was cut short while a fit went on from it: run again")

    def _places_in(self, file: Path) -> dict[str, Place]:
        with file.open("rb") as opened:
            (size,) = numpy.frombuffer(opened.read(8), "<u8")
        # Opened as a whole, since that compares the file's size with what its header says.
        with safe_open(file, "pt") as shard:
            listed = json.loads(shard.metadata()[PROMPTS])
            shape = shard.get_slice(STATES).get_shape()
        if shape != [sum(tokens for _, tokens in listed), self.hidden_size]:
            raise ValueError(f"{file} holds states of shape {shape}, which its prompts do not add up to")
        places, offset = {}, 8 + int(size)
        for key, tokens in listed:
            places[key] = Place(file, offset, tokens)
            offset += self.bytes_of(tokens)
        return places

    def _is_whole(self, file: Path) -> bool:
        try:
            with safe_open(file, "pt") as shard:
                header = shard.metadata()
                return bool(header[CHECKSUM] == _checksum(header[PROMPTS], shard.get_tensor(STATES)))
        except (OSError, SafetensorError, KeyError, TypeError):
            return False


def key_of(prompt: Prompt) -> str:
    """What a prompt is known by: 32 hex digits of its tokens, whatever text they come from and however it is padded."""
    return _digest(numpy.array(prompt, dtype=numpy.int64))


def _digest(ids: Any) -> str:
    return hashlib.sha256(ids.astype("<i8", copy=False).tobytes()).hexdigest()[:32]


def _checksum(listed: str, states: Tensor) -> str:
    digest = hashlib.sha256(listed.encode())
    digest.update(_bytes_of(states))
    return digest.hexdigest()


def _bytes_of(states: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return states.view(torch.uint8).numpy().data.cast("B")


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
