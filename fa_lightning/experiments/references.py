"""References between the values of composed configs, as `${batch_size}`: where one leads to, and which lead nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "???"
"""OmegaConf's mark of a value that has to be given."""

_REFERENCE = re.compile(r"\$\{([\w.-]+)\}")
_MOST_STEPS = 100
"""References that refer to one another in a circle are left to OmegaConf, which refuses them."""


@dataclass(frozen=True)
class Gap:
    """A reference that leads nowhere.

    Attributes:
        key: of the value that refers.
        reference: what it says between the braces.
        missing: the key that has no value, with every other reference on the way followed.
    """

    key: str
    reference: str
    missing: str


def follow(values: Any, key: str) -> tuple[str, bool]:
    """The key that a dotted key means once the references on its way are followed, and whether it has a value.

    Args:
        values: nested mappings and lists, with references.
        key: dotted.

    Returns:
        The key and True; or the first key on the way that has no value, and False.

    >>> values = {"matrix": "${study.decoys}", "study": "${studies.a}", "studies": {"a": {"decoys": None}}}
    >>> follow(values, "study.decoys"), follow(values, "matrix.seed"), follow({"a": {"b": 1}}, "a.b")
    (('studies.a.decoys', True), ('studies.a.decoys', False), ('a.b', True))
    """
    left = key.split(".")
    path: list[str] = []
    node = values
    for _ in range(_MOST_STEPS):
        if not left:
            return ".".join(path), True
        part = left.pop(0)
        path.append(part)
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        else:
            return ".".join(path), False
        if node == MISSING or (node is None and left):
            return ".".join(path), False
        reference = _REFERENCE.fullmatch(node) if isinstance(node, str) else None
        if reference is not None:
            left = [*reference[1].split("."), *left]
            path, node = [], values
    return key, True


def gap_in(values: Any, key: str) -> Gap | None:
    """The first reference within the value of a key that leads nowhere, itself or through others; None without one."""
    seen = {key}
    left = [(key, "", key)]
    while left:
        by, reference, target = left.pop(0)
        for referring, text in _texts(values, target):
            if text == MISSING:
                return Gap(by, reference, referring)
            for further in _REFERENCE.findall(text):
                followed, is_there = follow(values, further)
                if not is_there:
                    return Gap(referring, further, followed)
                if followed not in seen:
                    seen.add(followed)
                    left.append((referring, further, followed))
    return None


def says(values: Any, key: str) -> bool:
    """Whether nested mappings and lists themselves have a dotted key, be it null."""
    return _at(values, key)[1]


def has_value(values: Any, key: str) -> bool:
    """Whether they have it, and it is neither null nor missing."""
    return _at(values, key)[0] not in (None, MISSING)


def leaves(value: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all plain values, and of empty mappings and lists.

    >>> list(leaves({"a": [1, {"b": 2}], "c": []}))
    ['a.0', 'a.1.b', 'c']
    """
    children: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        children = value
    elif isinstance(value, list):
        children = dict(enumerate(value))
    if not children:
        yield prefix
    for name, child in children.items():
        yield from leaves(child, f"{prefix}.{name}" if prefix else str(name))


def _at(values: Any, key: str) -> tuple[Any, bool]:
    """What is at a dotted key, references left as they are, and whether anything is."""
    for part in key.split("."):
        if isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        elif isinstance(values, Mapping) and part in values:
            values = values[part]
        else:
            return None, False
    return values, True


def _texts(values: Any, start: str) -> Iterator[tuple[str, str]]:
    """The texts within the value of a key, by their own keys."""
    for key in leaves(_at(values, start)[0], start):
        text, _ = _at(values, key)
        if isinstance(text, str):
            yield key, text
