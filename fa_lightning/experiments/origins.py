"""Where the values of a stage's config were written: errors about a base's own values name the base's file and key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa_lightning.experiments.base import Base
from fa_lightning.experiments.references import follow, leaves

_FIRST_WORD = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Origin:
    """A value that a base, or what it extends, says.

    Attributes:
        file: that says it.
        key: dotted, in that file.
    """

    file: Path
    key: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}"


Origins = Mapping[str, Origin | None]
"""By the dotted arguments of a stage, without the numbers of list items; None where the study itself says the value."""


def origin_of(base: Base, values: Any, laid: str, key: str) -> Origin | None:
    """Where the value of a dotted key was written, if a base says it.

    Args:
        base: that the stage is composed with.
        values: of base and stage together, with references.
        laid: key of the base under which values are laid over the stage, `studies.cures.stages.02_dpo`.
        key: of the stage, dotted.
    """
    followed, is_there = follow(values, key)
    key = followed if is_there else key
    for candidate in (f"{laid}.{key}", key):
        file = base.file_of(candidate)
        if file is not None:
            return Origin(file, _without_numbers(candidate))
    return None


def origins_of(base: Base, values: Any, laid: str, config: Mapping[str, Any]) -> dict[str, Origin | None]:
    """Where each value of a stage's config was written.

    Args:
        base: that the stage is composed with.
        values: of base and stage together, with references.
        laid: key of the base under which values are laid over the stage.
        config: the stage's arguments, with every reference filled in.
    """
    origins: dict[str, Origin | None] = {}
    for key in leaves(config):
        origins.setdefault(_without_numbers(key), origin_of(base, values, laid, key))
    return origins


def located(message: str, origins: Origins, words: Sequence[str] = ()) -> str | None:
    """A message about an argument, as one about the base's key that its value came from.

    Args:
        message: begins with an argument, in full or by its last parts.
        origins: of the stage's values.
        words: of the command line; what they set was not read from a base.

    Returns:
        None where the value is not a base's, or where the message does not say of which argument it is.

    >>> located("model.rank is 0", {"model.rank": Origin(Path("own.yaml"), "lora.rank")})
    'own.yaml: lora.rank is 0 (model.rank)'
    """
    match = _FIRST_WORD.match(message)
    if match is None:
        return None
    word = match[0].rstrip(".")
    argument = _argument(word, origins)
    set_by_hand = {name.removeprefix("--").partition("=")[0].rstrip("+") for name in words}
    if argument is None or any(f"{argument}.".startswith(f"{name}.") for name in set_by_hand):
        return None
    below = [name for name in origins if f"{name}.".startswith(f"{argument}.")]
    of_class = f"{argument}.class_path"
    # What is said of an object is most often of its class.
    first = of_class if of_class in below else below[0]
    origin = origins[first]
    others = () if of_class in below else [origins[name] for name in below]
    if origin is None or any(other is None or other.file != origin.file for other in others):
        return None
    # A group's key is what its arguments' keys have in common, if the base has them under the same names.
    key = origin.key.removesuffix(first.removeprefix(argument))
    rest = word.removeprefix(argument) if word.startswith(argument) else ""
    behind = message[match.end() :] if match[0] == word else f".{message[match.end() :]}"
    located_message = f"{origin.file}: {key}{rest}{behind}"
    return located_message if key.endswith(argument) else f"{located_message} ({argument}{rest})"


def _argument(word: str, origins: Origins) -> str | None:
    """The argument that a word means, or the longest part of it that is in a stage's config."""
    parts = word.split(".")
    for length in range(len(parts), min(len(parts), 2) - 1, -1):
        start = ".".join(parts[:length])
        if any(f"{name}.".startswith(f"{start}.") for name in origins):
            return start
    ends = dict.fromkeys(
        name[: position + len(word) + 1] for name in origins if (position := f"{name}.".find(f".{word}.")) >= 0
    )
    return next(iter(ends)) if len(ends) == 1 else None


def _without_numbers(key: str) -> str:
    return ".".join(part for part in key.split(".") if not part.isdecimal())
