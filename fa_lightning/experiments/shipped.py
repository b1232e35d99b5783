"""The configs that come with the package, found by name from any folder."""

from __future__ import annotations

import difflib
from pathlib import Path

from fa_lightning.errors import MissingFileError

PACKAGE = Path(__file__).resolve().parents[1]
ORGANISMS = PACKAGE.parent / "organisms"
"""Twins that ship, beside the package in a clone; a wheel has none, and fits its twins."""


def shipped_configs() -> Path:
    """The folder of the shipped configs: beside the package in a clone, inside it in an installed wheel."""
    beside = PACKAGE.parent / "configs"
    return beside if (beside / "bases").is_dir() else PACKAGE / "configs"


def names_in(kind: str) -> list[str]:
    """Names of the shipped configs of one kind: `bases`, `sources`, `studies` or `trainer`."""
    return sorted(path.stem for path in (shipped_configs() / kind).iterdir() if path.suffix in (".yaml", ""))


def config_file(option: str, value: str, kind: str, folder: Path | None = None) -> Path:
    """The file that a word of the command line means: a path, or the name of a shipped config.

    Args:
        option: that the word was given with, for the message.
        value: the word.
        kind: folder of the shipped configs it may name.
        folder: that a path is relative to; None takes the working folder.

    Raises:
        MissingFileError: there is neither such a file nor such a name.
    """
    file = (folder or Path()) / value
    if value.endswith((".yaml", ".yml")) or file.is_file():
        if not file.is_file():
            relative = "" if folder is None or Path(value).is_absolute() else f" (read as {file})"
            raise MissingFileError(
                f"{option} {value} is no file{relative}: give the path of a YAML file, or one of the names "
                f"{', '.join(names_in(kind))}"
            )
        return file
    path = shipped_configs() / kind / f"{value}.yaml"
    if not path.is_file():
        close = difflib.get_close_matches(value, names_in(kind), n=1)
        raise MissingFileError(
            f"{option} {value} is neither a file nor a shipped name"
            + (f"; did you mean {close[0]}?" if close else ".")
            + f" The names are {', '.join(names_in(kind))}"
        )
    return path


def study_folder(study: str) -> Path:
    """The folder of a study's stage files.

    Raises:
        MissingFileError: there is no such study.
    """
    folder = shipped_configs() / "studies" / study
    if not folder.is_dir() or "/" in study:
        close = difflib.get_close_matches(study, names_in("studies"), n=1)
        raise MissingFileError(
            f"{study!r} is no study"
            + (f"; did you mean {close[0]}?" if close else ".")
            + f" The studies are {', '.join(names_in('studies'))}"
        )
    return folder
