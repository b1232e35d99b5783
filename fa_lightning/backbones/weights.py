"""Which weights these are: a digest of a few values of every tensor, read from the files without loading them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fa_lightning.common.user_files import json_value, read_text
from fa_lightning.errors import UnavailableError

MEND = "fetch or make the model again"

SPOTS, RUN = 64, 4
"""Values that are read of a tensor: runs of so many neighbours, as evenly spread as can be. A run costs what one value
does, since a disk reads pages, and 64 places find a change that is confined to one attention head."""

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
"""What the output layer is called; where it is tied to the embeddings some files hold it a second time."""


def digest_of_files(folder: Path) -> str | None:
    """Sixteen hex digits for the weights in a model's folder; None where it holds no safetensors that are its model's.

    Values are rounded to bfloat16, so that the same weights saved in float32 and in bfloat16 count as one. Only the
    headers and 256 values of each tensor are read: a fraction of a second for a 7B model.

    Raises:
        OSError: a file can't be read.
        UserError: a file is damaged or cut short.
    """
    files = weight_files(folder)
    if not files:
        return None
    return _digest(entry for file in files for entry in _entries(file))


def digest_of_model(model: Any) -> str:
    """The same digest of the weights in memory, without adapters; quantised tensors are left out."""
    return _digest(
        (name, tuple(parameter.shape), _rounded(parameter.detach().reshape(-1)[_index(parameter)]))
        for name, parameter in model.named_parameters()
        if parameter.dtype in _FLOATS
        and not parameter.is_meta
        and "lora_" not in name
        and ".modules_to_save." not in name
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that transformers would load from a folder: one file, or the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if index.is_file():
        shards = json_value(read_text(index), index, MEND)["weight_map"].values()
        return [folder / name for name in sorted(set(shards))]
    return []


def _entries(file: Path) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """Name, shape and samples of each tensor of a safetensors file."""
    # Unbuffered, and not mapped into memory: either would read much of the file around every sample.
    with file.open("rb", buffering=0) as opened:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        size = opened.seek(0, os.SEEK_END)
        opened.seek(0)
        start = 8 + int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(start - 8)) if start <= size else {}
        except ValueError as error:
            raise UnavailableError(
                f"{file} is damaged: it does not begin with the list of its weights; {MEND}"
            ) from error
        end = max((start + facts["data_offsets"][1] for facts in _tensors(header).values()), default=start)
        if end > size:
            raise UnavailableError(f"{file} is cut short: its weights should end at byte {end} of {size}; {MEND}")
        for name, facts in _tensors(header).items():
            first, last = facts["data_offsets"]
            # Other types are whole numbers of a quantiser, or smaller floats: their bytes are what they are.
            kind = np.dtype(_NUMPY.get(facts["dtype"], "u1"))
            content = _runs(opened, start + first, (last - first) // kind.itemsize, kind.itemsize)
            if facts["dtype"] in ("F64", "F32", "F16"):
                content = _rounded(torch.from_numpy(np.frombuffer(content, kind).astype("f4")))
            yield name, tuple(facts["shape"]), content


def _tensors(header: dict[str, Any]) -> dict[str, Any]:
    return {name: facts for name, facts in header.items() if name != "__metadata__"}


def _runs(opened: Any, start: int, size: int, width: int) -> bytes:
    """The bytes of the samples of a tensor with `size` values, `width` bytes each, that begins at `start`."""
    if size <= SPOTS * RUN:
        opened.seek(start)
        return bytes(opened.read(size * width))
    pieces = []
    for spot in spots(size)[::RUN].tolist():
        opened.seek(start + spot * width)
        pieces.append(opened.read(RUN * width))
    return b"".join(pieces)


def spots(size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Places of the values that stand for a tensor of `size` values, evenly spread from the first to the last.

    >>> spots(3).tolist(), spots(1000)[:5].tolist(), spots(1000)[-2:].tolist()
    ([0, 1, 2], [0, 1, 2, 3, 15], [998, 999])
    """
    if size <= SPOTS * RUN:
        return np.arange(size)
    starts = np.arange(SPOTS) * (size - RUN) // (SPOTS - 1)
    places: np.ndarray[Any, np.dtype[np.int64]] = (starts[:, None] + np.arange(RUN)).reshape(-1)
    return places


def _index(tensor: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(spots(tensor.numel())).to(tensor.device)


def _rounded(values: torch.Tensor) -> bytes:
    return values.float().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes()


def _digest(entries: Iterable[tuple[str, tuple[int, ...], bytes]]) -> str:
    known: dict[str, set[str]] = {}
    for name, shape, samples in entries:
        known.setdefault(hashlib.sha256(repr(shape).encode() + samples).hexdigest(), set()).add(_short(name))
    for names in known.values():
        own = {name for name in names if name not in _HEADS}
        if own:
            names.intersection_update(own)
    lines = sorted(f"{name} {digest}" for digest, names in known.items() for name in names)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _short(name: str) -> str:
    """A tensor's name without what differs between a file and a wrapped model: `model.`, `transformer.`, PEFT's words.

    >>> _short("base_model.model.model.layers.3.mlp.up_proj.base_layer.weight"), _short("transformer.wte.weight")
    ('3.mlp.up_proj.weight', 'wte.weight')
    """
    parts = re.sub(r"\.(base_layer|original_module)(?=\.)", "", name).split(".")
    numbered = next((index for index, part in enumerate(parts) if part.isdecimal()), len(parts) - 2)
    return ".".join(parts[max(0, numbered) :])
