"""What is in an artefact: one digest for an adapter, a backbone, an intervention, a prefix, a store, or any file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fa_lightning.backbones.gguf import digest_of_gguf, is_gguf
from fa_lightning.backbones.hub import folder_of
from fa_lightning.backbones.weights import digest_of_files
from fa_lightning.common.files import by_number
from fa_lightning.errors import MissingFileError, MissingPackageError

WHOLE = 64 * 2**20
"""Bytes up to which a file is read whole; of a larger one its size counts, and pieces evenly spread over it."""
PIECES, PIECE = 4096, 64

ADAPTER, WHOLE_MODEL, INTERVENTION, PREFIX, STORE, BACKBONE, EXAMINATION = KINDS = (
    "adapter_config.json",
    "whole_model.json",
    "intervention.json",
    "prompt.json",
    "manifest.json",
    "config.json",
    "detection.json",
)
"""The file that each kind of artefact is known by."""

_NOT_CONTENT = {
    ADAPTER: ("base_model_name_or_path", "peft_version"),
    WHOLE_MODEL: ("base_model_name_or_path", "revision", "folder"),
    INTERVENTION: ("libraries",),
    PREFIX: ("training_seconds", "start_from", "fa_lightning"),
    STORE: ("versions",),
    BACKBONE: ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype"),
    EXAMINATION: (),
}
"""Facts that differ between two artefacts that are the same: paths, versions and times."""

_READ_WITH_WEIGHTS = ("generation_config", "tokenizer", "chat_template", "special_tokens", "added_tokens")


def digest_of_artefact(path: str | Path) -> str:
    """Sixteen hex digits for the content of a file or folder, wherever it lies and whenever it was written.

    Of a known kind of artefact only what matters counts: of an adapter its weights and config, of a backbone a sample
    of every weight (see `digest_of_files`) with its config and tokenizer, of a store what its manifest says of its
    shards, of an examination what was found, of a variant that is a whole model the digest that is noted of it. A
    folder of adapters (see `adapter_folders`) is all of them. Of any other folder every file counts.

    Raises:
        MissingFileError: there is nothing at `path`.
        OSError: a file can't be read.
    """
    folder = Path(path)
    if not folder.exists():
        raise MissingFileError(f"there is no file or folder {str(folder)!r}")
    lines = [f"{name} {digest}" for name, digest in _parts(folder)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def digest_of_backbone(name_or_path: str, revision: str | None = None) -> str | None:
    """Sixteen hex digits for the content of a backbone's folder or GGUF file; None where it is not on this machine.

    Args:
        name_or_path: Hub name, local folder or GGUF file.
        revision: branch, tag or commit on the Hub; None takes the main one that is in the cache.
    """
    if is_gguf(name_or_path):
        try:
            return digest_of_gguf(name_or_path)[:16]
        except (MissingFileError, MissingPackageError):
            return None
    folder = folder_of(name_or_path, revision)
    return None if folder is None else digest_of_artefact(folder)


def is_artefact(path: str | Path) -> bool:
    """Whether there is a file at a path, or a folder of a kind that this package writes or reads."""
    folder = Path(path)
    return folder.is_file() or (folder.is_dir() and (_kind(folder) is not None or bool(adapter_marks(folder))))


def adapter_marks(folder: Path) -> list[Path]:
    """The file that every variant at a place is known by (see `adapter_folders`), of an adapter or a whole model."""
    places = ("", "adapter/", "*/adapter/")
    marks = [mark for place in places for kind in (ADAPTER, WHOLE_MODEL) for mark in folder.glob(place + kind)]
    # Hidden ones are being written or deleted, or were when a run was killed.
    visible = [mark for mark in marks if not mark.relative_to(folder).parts[0].startswith(".")]
    return sorted(visible, key=lambda mark: by_number(mark.parent))


def _parts(root: Path) -> Iterator[tuple[str, str]]:
    if root.is_file():
        yield "", _digest_of_file(root)
        return
    kind = _kind(root)
    if kind == BACKBONE:
        yield "weights", digest_of_files(root) or _digest_of_others(root)
        yield kind, _facts(root / kind, _NOT_CONTENT[kind])
        for path in sorted(root.iterdir()):
            if path.is_file() and (path.name.startswith(_READ_WITH_WEIGHTS) or path.suffix == ".py"):
                yield path.name, _facts(path, _NOT_CONTENT[kind])
    elif kind is not None:
        known = sorted(root.rglob(kind)) if kind == INTERVENTION else [root / kind]
        for mark in known:
            yield str(mark.relative_to(root)), _facts(mark, _NOT_CONTENT[kind])
            for path in sorted(mark.parent.glob(f"{kind.partition('_config')[0].removesuffix('.json')}*.safetensors")):
                yield str(path.relative_to(root)), _digest_of_file(path)
    elif marks := adapter_marks(root):
        for mark in marks:
            yield str(mark.parent.relative_to(root)), digest_of_artefact(mark.parent)
    else:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts):
                yield str(path.relative_to(root)), _digest_of_file(path)


def _kind(path: Path) -> str | None:
    for kind in KINDS:
        if (path / kind).is_file():
            return kind
    # The parts of a stack are folders called 0, 1 and so on.
    return INTERVENTION if (path / "0" / INTERVENTION).is_file() else None


def _facts(path: Path, without: tuple[str, ...]) -> str:
    """Digest of a JSON file but for some facts; of any other file, of its bytes."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return _digest_of_file(path)
    if isinstance(content, Mapping):
        content = {name: value for name, value in content.items() if name not in without}
        if isinstance(targets := content.get("target_modules"), list):
            # PEFT writes a set, in another order in every process.
            content["target_modules"] = sorted(targets)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_others(root: Path) -> str:
    """Digest of the weights in a folder without safetensors."""
    files = [path for suffix in ("bin", "gguf", "pt", "pth") for path in sorted(root.glob(f"*.{suffix}"))]
    return hashlib.sha256("".join(map(_digest_of_file, files)).encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    size = path.stat().st_size
    if size <= WHOLE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb", buffering=0) as file:
        for number in range(PIECES):
            file.seek(number * (size - PIECE) // (PIECES - 1))
            digest.update(file.read(PIECE))
    return digest.hexdigest()
