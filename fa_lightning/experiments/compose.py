"""Lay a base and a study's stage file over one another: the whole config of each stage, by OmegaConf."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.common.files import by_number
from fa_lightning.common.user_files import read_mapping
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.experiments.base import example_of, over, read_base, reason_of
from fa_lightning.experiments.brought_twins import BroughtTwin
from fa_lightning.experiments.chain import LOGS, Chain
from fa_lightning.experiments.matrix import OTHER_SEED, SEEDS_OF_A_CHAIN, variants_of
from fa_lightning.experiments.origins import Origin, origin_of, origins_of
from fa_lightning.experiments.references import Gap, gap_in
from fa_lightning.experiments.shipped import ORGANISMS, study_folder
from fa_lightning.experiments.stage import Stage

OF_LIGHTNING = ("seed_everything", "trainer", "model", "data")
"""Keys of a stage file that LightningCLI reads."""
OF_RUNNER = ("like", "values", "needs", "needs_of_base", "matrix", "checkpoint", "optional", "adapter")
"""Keys of a stage file that LightningCLI never sees: a stage that it is laid over, values that it refers to as
`${values.NAME}`, what it needs of other stages and of the base, its variants, which checkpoints it keeps, whether it
runs only when it is asked for, and an adapter that is taken in the place of its fit."""


class Composition:
    """The stages of any study on one chain.

    Args:
        chain: the base, its seed, and where it writes.

    Raises:
        MissingFileError: the base names a source that does not ship.
        UserError: the base has a key that no base has, or names no backbone where none is pretrained.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.base = read_base(chain)
        self._known: dict[str, dict[Path, DictConfig]] = {}
        self._composed: dict[str, list[Stage]] = {}

    def stages(self, study: str) -> list[Stage]:
        """The stages of a study that this base has, in the order of their numbers; a file with a matrix is many.

        Raises:
            MissingFileError: there is no such study, or it has no stage on this base.
            UserError: a stage file does not fit the base; the message names file and key.
        """
        if study not in self._composed:
            self._composed[study] = [stage for file in self._files(study) for stage in self._stages_of(study, file)]
        if not self._composed[study]:
            raise MissingFileError(f"the study {study} has no stage on the base {self.chain.base}")
        return self._composed[study]

    def _files(self, study: str) -> dict[Path, DictConfig]:
        """The stage files that this base has what they need for."""
        if study in self._known:
            return self._known[study]
        files = {}
        paths = sorted(study_folder(study).glob("[0-9]*.yaml"), key=by_number)
        for path in paths:
            stage = _stage_file(path)
            wanted = stage.get("needs_of_base")
            if wanted is None or OmegaConf.select(self.base.values, wanted) is not None:
                files[path] = stage
        self._refuse_unknown_stages(study, [path.stem for path in paths])
        self._known[study] = files
        return files

    def _refuse_unknown_stages(self, study: str, names: Sequence[str]) -> None:
        for name, laid in (OmegaConf.select(self.base.values, f"studies.{study}.stages") or {}).items():
            key = f"studies.{study}.stages.{name}"
            where = f"{self.base.file_of(key)}: {key}"
            if name not in names:
                raise UserError(f"{where} is no stage; {study} has {', '.join(names)}")
            for key in laid:
                if key not in (*OF_LIGHTNING, *OF_RUNNER):
                    raise UserError(
                        f"{where}.{key} is no argument of a stage, which has {', '.join((*OF_LIGHTNING, *OF_RUNNER))}"
                    )

    def _stages_of(self, study: str, file: Path) -> Iterator[Stage]:
        """The stage of a file, or one for each variant of its matrix."""
        stage = self._files(study)[file]
        laid = f"studies.{study}.stages.{file.stem}"
        facts = {
            "study": "${studies." + study + "}",
            "seed": self.chain.seed,
            "base_folder": str(self.chain.folder.parent),
            "organisms": str(ORGANISMS),
        }
        below = over(self.base.values, facts, stage)
        on_top = OmegaConf.select(self.base.values, laid) or OmegaConf.create()
        # Laid over the whole, where a value that refers to the base is known: a key of it may be replaced by itself.
        context = over(below, on_top)
        for place, value in _of_another_class(below, OmegaConf.to_container(on_top)):
            OmegaConf.update(context, place, value, merge=False)
        context["other_seed"] = self.chain.seed * SEEDS_OF_A_CHAIN + OTHER_SEED
        named = self._resolved(context, "needs", study, file) or {}
        needs = {name: self._first_there(need, file) for name, need in _without_nulls(named).items()}
        context["needs"] = {name: str(self.chain.folder / need) for name, need in needs.items() if need}
        if context.backbone.name is None and "backbone" in context.needs:
            context.backbone.name = f"{context.needs.backbone}/backbone"
        axes = self._resolved(context, "matrix", study, file)
        # A stage that is like another one leaves an axis of it out by null.
        matrix = _without_nulls(axes) if isinstance(axes, Mapping) else axes
        as_written = OmegaConf.to_container(context)
        where = str(origin_of(self.base, as_written, laid, "matrix") or file)
        if matrix is not None:
            _refuse_idle_axes(matrix, context, where)
        variants = {"": {}} if matrix is None else variants_of(matrix, where, self.chain.seed)
        origins: dict[str, Origin | None] = {}
        for variant, chosen in variants.items():
            name = f"{file.stem}/{variant}" if variant else file.stem
            folder = self.chain.folder / study / name
            context["matrix"] = chosen
            context["folder"] = str(folder)
            needed = tuple(need for need in needs.values() if need)
            if adapter := self._resolved(context, "adapter", study, file):
                behaviour = self._resolved(context, "values.behaviour", study, file)
                backbone = self._resolved(context, "backbone", study, file)
                twin = BroughtTwin(str(adapter), behaviour, BackboneArguments(**backbone))
                yield Stage(study, name, file, folder, twin.as_config(), needed, bool(context.get("optional")), twin)
                continue
            config = {key: self._resolved(context, key, study, file) for key in OF_LIGHTNING if key in context}
            # Variants differ by values of the matrix, not by where these were written.
            origins = origins or origins_of(self.base, as_written, laid, config)
            checkpoint = self._resolved(context, "checkpoint", study, file)
            config["trainer"] = self._trainer(config, checkpoint, f"{study}/{name}", folder)
            yield Stage(
                study=study,
                name=name,
                file=file,
                folder=folder,
                config=yaml.safe_dump({"seed_everything": self.chain.seed, **config}, sort_keys=False),
                needs=needed,
                optional=bool(context.get("optional")),
                origins=origins,
            )

    def _resolved(self, context: DictConfig, key: str, study: str, file: Path) -> Any:
        """The value of a key with every reference to the base, the study and the chain filled in.

        Raises:
            UserError: a reference leads nowhere.
        """
        try:
            value = OmegaConf.select(context, key)
            if not OmegaConf.is_config(value):
                return value
            return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            gap = gap_in(OmegaConf.to_container(context), key)
            message = f"{file}: {reason_of(error)}" if gap is None else self._what_is_missing(gap, study, file)
            raise UserError(message) from error

    def _what_is_missing(self, gap: Gap, study: str, file: Path) -> str:
        """What a reference that leads nowhere asks of whoever wrote the base, or the reference."""
        if gap.missing.partition(".")[0] in self.base.values.keys():  # noqa: SIM118  # `in` overlooks missing values
            example = example_of(gap.missing)
            return (
                f"{self.base.file} has no {gap.missing}, which the stage {study}/{file.stem} refers to "
                f"({gap.key}: ${{{gap.reference}}}): write it into the base"
                + (f", as {example} does" if example is not None else "")
            )
        origin = origin_of(self.base, {}, f"studies.{study}.stages.{file.stem}", gap.key)
        close = difflib.get_close_matches(gap.reference, [str(key) for key in self.base.values], n=1)
        return (
            f"{origin or f'{file}: {gap.key}'} refers to ${{{gap.reference}}}, but neither the base nor the stage has "
            f"{gap.missing}" + (f"; did you mean ${{{close[0]}}}?" if close else "")
        )

    def _first_there(self, need: Any, file: Path) -> str:
        """The first of the stages that a need names which this base has; empty where it has none of them.

        A base whose backbone is not pretrained by a stage has no stage for it.
        """
        choices = [need] if isinstance(need, str) else list(need)
        for choice in choices:
            study, _, name = choice.partition("/")
            files = self._files(study)
            if any(name.partition("/")[0] == path.stem for path in files):
                return str(choice)
            every = [path.stem for path in study_folder(study).glob("[0-9]*.yaml")]
            if name.partition("/")[0] not in every:
                raise UserError(f"{file}: needs {choice}, but {study} has no such stage; it has {', '.join(every)}")
        return ""

    def _trainer(self, config: Mapping[str, Any], checkpoint: Any, name: str, folder: Path) -> dict[str, Any]:
        """The stage's trainer with what no stage file says: logger, progress bar, checkpoints, precision."""
        study, _, stage = name.partition("/")
        trainer = dict(config.get("trainer") or {})
        fits = "max_epochs" in trainer or "max_steps" in trainer
        callbacks: list[dict[str, Any]] = [{"class_path": "fa_lightning.experiments.progress.ProgressBar"}]
        if not fits:
            # Models are judged in the type of their own weights.
            trainer |= {"precision": "32-true", "enable_checkpointing": False}
        elif trainer.get("enable_checkpointing", True):
            callbacks.append({"class_path": "ModelCheckpoint", "init_args": _checkpoints(folder, checkpoint)})
        if trainer.get("logger") is None:
            folders = {"save_dir": str(LOGS), "name": f"{self.chain.logs}/{study}", "version": stage}
            trainer["logger"] = {"class_path": "fa_lightning.common.charts.TensorBoard", "init_args": folders}
        return trainer | {"callbacks": [*callbacks, *(trainer.get("callbacks") or [])]}


def _stage_file(path: Path) -> DictConfig:
    """A stage file over the one that it is like.

    Raises:
        UserError: it has a key that no stage has, or is like a stage that is not there.
    """
    own = read_mapping(path)
    unknown = [key for key in own if key not in (*OF_LIGHTNING, *OF_RUNNER)]
    if unknown:
        raise UserError(f"{path} has the key {unknown[0]!r}, but a stage has {', '.join((*OF_LIGHTNING, *OF_RUNNER))}")
    like = own.pop("like", None)
    if like is None:
        return OmegaConf.create(own)
    other = path.parents[1] / f"{like}.yaml"
    if not other.is_file():
        raise UserError(f"{path}: like {like}, but there is no such stage file")
    whole = over(_stage_file(other), own)
    if isinstance(own.get("matrix"), Mapping):
        # A stage's own axes come first in the names of its variants.
        axes = OmegaConf.to_container(whole)["matrix"]  # type: ignore[call-overload,index]
        whole.matrix = {axis: axes[axis] for axis in (*own["matrix"], *axes)}
    return whole


def _of_another_class(below: Any, laid: Any, within: str = "") -> Iterator[tuple[str, Any]]:
    """Where a class is laid over a reference to another one, whose arguments are not its own, and what is laid there.

    Where a stage itself names a class, its arguments stay when a base names another: a DataModule in the place of one.
    """
    for key, value in laid.items():
        if not isinstance(value, Mapping) or not isinstance(below, DictConfig) or key not in below:
            continue
        place = f"{within}.{key}" if within else str(key)
        there = OmegaConf.select(below, key, default=None)
        if not OmegaConf.is_interpolation(below, key):
            yield from _of_another_class(there, value, place)
        elif value.get("class_path", "") not in ("", OmegaConf.select(there or OmegaConf.create(), "class_path")):
            yield place, value


def _checkpoints(folder: Path, chosen: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of ModelCheckpoint: the last epoch, and the best one where a stage says by which score."""
    options: dict[str, Any] = {"dirpath": str(folder), "save_last": True}
    if not chosen:
        return options | {"save_top_k": 0}
    if "monitor" in chosen:
        options |= {"mode": "max", "save_top_k": 1, "filename": "best"}
    return options | {"enable_version_counter": False, **chosen}


def _without_nulls(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value is not None}


def _refuse_idle_axes(matrix: Any, context: DictConfig, where: str) -> None:
    """Refuse an axis of several values that no value of the stage refers to: its variants would be the same."""
    text = OmegaConf.to_yaml(context)
    for axis, values in (matrix if isinstance(matrix, Mapping) else {}).items():
        named = f"matrix.{axis}}}" in text or (axis == "policy" and "matrix.behaviour}" in text)
        if isinstance(values, list) and len(values) > 1 and not named:
            raise UserError(
                f"{where}: matrix.{axis} has no effect: nothing in the stage says ${{matrix.{axis}}}. Put it where the "
                "variants differ, or leave it out of the matrix"
            )
