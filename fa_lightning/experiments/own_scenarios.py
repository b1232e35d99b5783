"""`--scenarios FILE`: a researcher's scenarios in the place of a base's own."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fa_lightning.common.user_files import read_mapping
from fa_lightning.errors import UserError
from fa_lightning.experiments.shipped import shipped_configs

Layer = tuple[Path, dict[str, Any]]
"""A file of a base, and what it says itself."""

SOURCE = "file_scenarios"
FILE_SOURCE = "fa_lightning.scenarios.files.FileScenarios"
OF_SOURCE = ("scenarios", "variant_scenarios", "all_scenarios", "twin", "other_pair", "other_policies")
"""Keys of a base that speak of its own scenarios."""
_ENDING = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet)$", re.IGNORECASE)


def with_own_scenarios(layers: Sequence[Layer], scenarios: str, columns: Mapping[str, str]) -> list[Layer]:
    """The layers of a base, of which a file's scenarios are the lowest, and whose own source is left out.

    A shipped source is left out whole; of any other file the keys that speak of scenarios are, and variants that have
    policies.

    Args:
        layers: of the base, the furthest first.
        scenarios: file of the scenarios, or the name of a data set.
        columns: by field, the column that it is read from.
    """
    path = shipped_configs() / "sources" / f"{SOURCE}.yaml"
    own = read_mapping(path)
    own["scenarios"]["init_args"] |= {"path": scenarios, "columns": dict(columns)}
    kept = []
    for file, layer in layers:
        if not _is_source(file, layer):
            rest = {key: value for key, value in layer.items() if key not in OF_SOURCE}
            if "policy" in (rest.get("variants") or {}):
                del rest["variants"]
            kept.append((file, rest))
    return [(path, own), *kept]


def what_gives_way(layers: Sequence[Layer], scenarios: str) -> str:
    """What a researcher's own base says of its scenarios, none of which holds beside a file; empty where nothing.

    Args:
        layers: of the base, the furthest first.
        scenarios: file of the scenarios, or the name of a data set.
    """
    said: dict[str, Path] = {}
    source = None
    for file, layer in layers:
        named = layer.get("scenarios")
        source = (named or {}).get("class_path", source) if isinstance(named, Mapping) else source
        if not file.resolve().is_relative_to(shipped_configs().resolve()):
            said |= {name: file for key in OF_SOURCE if key in layer for name in _leaves(key, layer[key])}
    if not said:
        return ""
    files = ", ".join(map(str, dict.fromkeys(said.values())))
    kept = f"; to keep them, write scenarios.init_args.path: {scenarios} there" if source == FILE_SOURCE else ""
    return f"{files}: {', '.join(said)} speak of the base's own scenarios, and do not hold for {scenarios}{kept}"


def refuse_written_answers(studies: Iterable[str], scenarios: Mapping[str, Any]) -> None:
    """Refuse studies that ask for letters, before anything runs, where a file's scenarios are answered in writing.

    Args:
        studies: that would run.
        scenarios: `class_path` and `init_args` of the base's source; of others than files nothing is known.

    Raises:
        MissingFileError: there is no such file.
        UserError: naming the study, and those that can do without letters; or a row can't be understood.
    """
    from fa_lightning.scenarios.files import FileScenarios
    from fa_lightning.studies.registry import STUDIES

    refused = [name for name in studies if name not in STUDIES or STUDIES[name].needs_letters]
    if not refused or scenarios.get("class_path") != FILE_SOURCE:
        return
    known = ("path", "columns", "configuration", "dataset_split")
    source = FileScenarios(**{name: value for name, value in scenarios["init_args"].items() if name in known})
    content = source.read()
    if any(record.scenario.is_written for record in content.records):
        able = ", ".join(name for name, study in STUDIES.items() if not study.needs_letters)
        raise UserError(
            f"{refused[0]} asks for letters, but {source.path} holds {content.layout.name}, which are answered in "
            f"writing: run one of {able} on it, or write facts with two actions (docs/data.md)"
        )


def stem_of(scenarios: str) -> str:
    """The name of a file or data set without folder and ending, as paths have it.

    >>> stem_of("data/my own.jsonl.gz"), stem_of("org/name-1.5")
    ('my_own', 'name-1.5')
    """
    name = _ENDING.sub("", re.split(r"[/\\]", scenarios.rstrip("/\\"))[-1].removesuffix(".gz"))
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def add_column_option(parser: argparse.ArgumentParser) -> None:
    """Let a command be told from which columns the fields of `--scenarios` or of its file are read."""
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="of the scenarios: the column that a field is read from, as facts=situation (may be repeated)",
    )


def column_of(word: str) -> tuple[str, str]:
    """A field and its column, from FIELD=COLUMN on the command line.

    Raises:
        UserError: there is no such sign in it.

    >>> column_of("facts=the situation")
    ('facts', 'the situation')
    """
    field, sign, column = word.partition("=")
    if not (field and sign and column):
        raise UserError(f"--column {word}: give a field and the column that it is read from, as facts=situation")
    return field, column


def _leaves(key: str, value: Any) -> list[str]:
    """Names of the arguments that a key of a base sets, `scenarios.init_args.seed` and so on."""
    inner = value.get("init_args") if isinstance(value, Mapping) else None
    return [f"{key}.init_args.{name}" for name in inner] if inner else [key]


def _is_source(file: Path, layer: Mapping[str, Any]) -> bool:
    source = layer.get("scenarios")
    return file.parent == shipped_configs() / "sources" and isinstance(source, Mapping) and "class_path" in source
