"""A base: the YAML file that a run names, laid over what it extends and over the defaults of every base."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fa_lightning.common.user_files import read_mapping
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.experiments.brought_twins import twins_layer
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.own_scenarios import what_gives_way, with_own_scenarios
from fa_lightning.experiments.references import MISSING, has_value, says
from fa_lightning.experiments.shipped import ORGANISMS, config_file, names_in, shipped_configs, study_folder

PICKED = ("lora", "twins", "fitting", "capture")
"""Groups of a base of which stage files name the values one by one: another value would be lost."""
STUDY_VALUES = "study.yaml"
"""File of a study with the values that its stages share, which a base may replace under `studies:`."""
OF_ORGANISMS = "base.yaml"
"""File beside the twins that ship for a base, with what studies take of them; a wheel has neither."""


@dataclass(frozen=True)
class Base:
    """What an experiment is about.

    Attributes:
        file: that the run names.
        values: of the base over what it extends, over the defaults; `???` where a study needs a value that none says.
        layers: each file and what it says itself, the furthest one first.
        gives_way: what a base of one's own says of its scenarios, where others stand in their place.
        organisms: folder of the twins that ship for it, or for a shipped base that it extends.
    """

    file: Path
    values: DictConfig
    layers: tuple[tuple[Path, dict[str, Any]], ...]
    gives_way: str = ""
    organisms: Path | None = None

    def note(self, study: str) -> str:
        """What the scenarios' source has to say of a study before it runs; empty where it has nothing."""
        return str(OmegaConf.select(self.values, f"studies.{study}.note") or "")

    @property
    def scenarios(self) -> dict[str, Any]:
        """Class and arguments of the source that scenarios come from; nothing where it is named otherwise."""
        source = self.values.scenarios
        found: Any = OmegaConf.to_container(source, resolve=True) if isinstance(source, DictConfig) else {}
        return dict(found)

    @property
    def judge(self) -> Any:
        """Class and arguments of the judge of what models write; None where the base has none."""
        judge = self.values.judge if "judge" in self.values else None
        return OmegaConf.to_container(judge, resolve=True) if isinstance(judge, DictConfig) else judge

    def file_of(self, key: str) -> Path | None:
        """The file that says a dotted key, be it null, the nearest one; None where only the defaults do."""
        return next((path for path, layer in reversed(self.layers) if says(layer, key)), None)


def example_of(key: str) -> Path | None:
    """A shipped source or base that has a value for a dotted key; None where none has."""
    paths = [shipped_configs() / kind / f"{name}.yaml" for kind in ("sources", "bases") for name in names_in(kind)]
    return next((path for path in paths if has_value(read_mapping(path), key)), None)


def read_base(chain: Chain) -> Base:
    """The base of a chain.

    Raises:
        MissingFileError: it extends a file that is not there.
        UserError: it has a key that no base has, no scenarios, or no backbone where none is pretrained.
    """
    defaults = OmegaConf.create(read_mapping(shipped_configs() / "defaults.yaml"))
    for name in names_in("studies"):
        values = study_folder(name) / STUDY_VALUES
        defaults.studies[name] = read_mapping(values) if values.is_file() else {}
    known: Any = OmegaConf.to_container(defaults)
    layers = _extended(chain.base)
    gives_way = "" if chain.scenarios is None else what_gives_way(layers, chain.scenarios)
    if chain.scenarios is not None:
        layers = with_own_scenarios(layers, chain.scenarios, dict(chain.columns))
    organisms = _twins_that_ship(layers) if chain.scenarios is None and chain.backbone is None else None
    if organisms is not None:
        layers = _with_what_ships(layers, organisms)
    if chain.twins:
        layers = [*layers, twins_layer(dict(chain.twins))]
    for path, layer in layers:
        _refuse_unknown_keys(path, layer, known)
        _refuse_unknown_studies(path, layer.get("studies") or {}, known, str([values for _, values in layers]))
    base = _merged(known, layers, chain.base)
    if chain.backbone is not None:
        base.backbone.name = chain.backbone
        # It was of the base's own model.
        base.backbone.revision = None
    if base.backbone.name is not None:
        base.pretraining = None
    elif base.pretraining is None:
        raise UserError(
            f"{chain.base} names no backbone: give one with --backbone NAME_OR_PATH, or write `backbone: "
            "{name: ...}` into the base"
        )
    if base.scenarios is None:
        raise UserError(
            f"{chain.base} has no scenarios: write `extends: poser_scenarios`, or `scenarios:` with a class_path, or "
            "give --scenarios FILE"
        )
    return Base(chain.base, base, tuple(layers), gives_way, organisms)


def over(*layers: Any) -> DictConfig:
    """Mappings over one another, the last one on top."""
    merged = OmegaConf.merge(*layers)
    assert isinstance(merged, DictConfig)
    return merged


def reason_of(error: Exception) -> str:
    """OmegaConf's words, of which the first line says what is wrong."""
    return " ".join(str(error).split("\n")[0].split())


def _refuse_unknown_keys(path: Path, layer: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), [str(name) for name in known], n=1)
            raise UserError(
                f"{path} has the key {key!r}, which no base has"
                + (f"; did you mean {close[0]}?" if close else f"; a base has {', '.join(map(str, known))}")
            )
        if isinstance(known[key], Mapping) and not isinstance(value, Mapping):
            written = "null" if value is None else repr(value)
            raise UserError(
                f"{path}: {key} is {written}, but must be a mapping, as in configs/defaults.yaml: leave it out, or "
                "write its values"
            )
        if key in PICKED:
            _refuse_unknown_values(f"{path}: {key}", value, known[key])


def _refuse_unknown_values(where: str, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse a value that no stage picks out of a group of the base, as it would be without effect."""
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}.{key} is without effect{_instead(key, list(known))}")
        if isinstance(known[key], Mapping) and isinstance(value, Mapping):
            _refuse_unknown_values(f"{where}.{key}", value, known[key])


def _refuse_unknown_studies(path: Path, studies: Mapping[str, Any], known: Mapping[str, Any], said: str) -> None:
    """Refuse values of a study that there is none of, and such as none of its stages refers to.

    Args:
        path: of the file that says them.
        studies: by name, its values.
        known: what every base has.
        said: all that the base's files say, where a reference may stand, too.
    """
    for study, values in studies.items():
        if study not in known["studies"]:
            # What ships may speak of a study whose folder is deleted.
            if path.is_relative_to(shipped_configs()) or path.is_relative_to(ORGANISMS):
                continue
            raise UserError(f"{path}: studies.{study} is without effect{_instead(study, list(known['studies']))}")
        texts = (file.read_text(encoding="utf-8") for file in study_folder(study).glob("*.yaml"))
        referred = re.findall(r"\$\{study\.(\w+)", " ".join([*texts, said, str(known)]))
        names = dict.fromkeys(["stages", "note", *known["studies"][study], *referred])
        for key in values if isinstance(values, Mapping) else ():
            if key not in names:
                raise UserError(f"{path}: studies.{study}.{key} is without effect{_instead(key, list(names))}")


def _instead(key: Any, names: Sequence[Any]) -> str:
    close = difflib.get_close_matches(str(key), [str(name) for name in names], n=1)
    return f"; did you mean {close[0]}?" if close else f": there are {', '.join(map(str, names))}"


def _extended(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A base behind those that it extends, the furthest first."""
    layers = [(path, read_mapping(path))]
    while (name := layers[0][1].pop("extends", None)) is not None:
        option, folder = f"{path}: extends", path.parent
        try:
            path = config_file(option, str(name), "sources", folder)
        except MissingFileError:
            path = config_file(option, str(name), "bases", folder)
        layers.insert(0, (path, read_mapping(path)))
        if len(layers) > 10:
            raise UserError(f"{path} extends itself, through {name}")
    return layers


def _twins_that_ship(layers: Sequence[tuple[Path, Mapping[str, Any]]]) -> Path | None:
    """Folder of those for a shipped base; None where there are none, or a layer above has another model."""
    for place, (path, _) in enumerate(layers, start=1):
        folder = ORGANISMS / path.stem
        is_other = any(says(layer, key) for _, layer in layers[place:] for key in ("backbone.name", "scenarios"))
        if path.is_relative_to(shipped_configs() / "bases") and folder.is_dir() and not is_other:
            return folder
    return None


def _with_what_ships(layers: list[tuple[Path, dict[str, Any]]], organisms: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The layers, with what a base takes of the twins that ship for it right above the base."""
    said = organisms / OF_ORGANISMS
    if not said.is_file():
        return layers
    place = 1 + [path.stem for path, _ in layers].index(organisms.name)
    return [*layers[:place], (said, read_mapping(said)), *layers[place:]]


def _merged(defaults: Mapping[str, Any], layers: Sequence[tuple[Path, Mapping[str, Any]]], path: Path) -> DictConfig:
    try:
        base = OmegaConf.create(dict(defaults))
        for _, layer in layers:
            below = OmegaConf.to_container(base)
            _drop_arguments_of_others(below, layer)
            base = over(below, layer)
        return OmegaConf.create(_with_gaps(defaults, OmegaConf.to_container(base)))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit what a base is: {reason_of(error)}") from error


def _with_gaps(defaults: Mapping[str, Any], values: Any) -> dict[str, Any]:
    """The values, with null marked as missing where some study can't do without one."""
    return {
        key: _with_gaps(defaults[key], value)
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping)
        else MISSING
        if value is None and defaults.get(key) == MISSING
        else value
        for key, value in values.items()
    }


def _drop_arguments_of_others(below: Any, layer: Mapping[str, Any]) -> None:
    """Take away what a layer replaces: the arguments of another class, and a mapping in whose place it has a list."""
    for key, value in layer.items():
        replaced = below.get(key)
        if isinstance(value, list) and isinstance(replaced, dict):
            # OmegaConf refuses to lay one over the other.
            del below[key]
        if isinstance(value, Mapping) and isinstance(replaced, dict):
            if value.get("class_path", replaced.get("class_path")) != replaced.get("class_path"):
                replaced.pop("init_args", None)
            _drop_arguments_of_others(replaced, value)
