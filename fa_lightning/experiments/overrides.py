"""Values from the command line, each laid over every stage of a plan that has such an argument."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fa_lightning.common.ranges import refuse_idle
from fa_lightning.common.user_files import read_yaml
from fa_lightning.errors import UserError
from fa_lightning.experiments.fingerprint import flat
from fa_lightning.experiments.lightning_cli import lightning_cli
from fa_lightning.experiments.origins import located
from fa_lightning.experiments.stage import Stage

Overrides = Sequence[tuple[str, str]]
"""Dotted argument and value, as (`model.init_args.backbone.name`, `path/to/model`); a later one wins."""

_LIKE_NAME, _LIKE_PATH = 0.6, 0.8
"""How like (0 to 1, difflib's ratio) an argument's name, or else its whole path, must be to be suggested."""


def read_overrides(words: Sequence[str]) -> list[tuple[str, str]]:
    """Overrides in the words of a command line.

    >>> read_overrides(["--model.init_args.lora.rank", "8", "--trainer.max_epochs=1"])
    [('model.init_args.lora.rank', '8'), ('trainer.max_epochs', '1')]

    Raises:
        UserError: a word is no override, or has no value.
    """
    overrides = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in name:
            raise UserError(
                f"{word} is no option of a study (see --help), nor an override such as "
                "--model.init_args.lora.rank 8, --data.init_args.batch_size 4 or --trainer.max_epochs 1"
            )
        if not equals:
            if not left or left[0].startswith("--"):
                raise UserError(f"{word} has no value: write {word} VALUE")
            value = left.pop(0)
        overrides.append((name, value))
    return overrides


def words_by_stage(stages: Sequence[Stage], trainer_config: Path | None, overrides: Overrides) -> dict[str, list[str]]:
    """For each stage, by its title, the overrides that it takes, as words for its own command line.

    A stage takes what LightningCLI would take for it alone, also with `init_args` left out; it is left as it is by an
    override of an argument that its model, its data or its trainer does not have.

    Raises:
        UserError: no stage has an argument that an override names; close ones are named.
    """
    if trainer_config is not None and not isinstance(read_yaml(trainer_config), Mapping):
        raise UserError(f"{trainer_config} must map `trainer` to its arguments, as the files in configs/trainer do")
    # A file with a matrix stands for many stages of one shape: one of them is enough to read. What is taken has none.
    first = {stage.file: stage for stage in stages if stage.twin is None}
    taken = {} if not overrides else _taken(first, trainer_config, overrides)
    return {stage.title: taken.get(stage.file, []) if stage.twin is None else [] for stage in stages}


def refuse_wrong_values(
    stages: Sequence[Stage],
    trainer_config: Path | None,
    words: Mapping[str, Sequence[str]],
    remade: Collection[Stage] = (),
) -> None:
    """Refuse values before the first stage runs, as the last one would be built hours later.

    Args:
        stages: of the plan.
        trainer_config: YAML laid over every stage's own.
        words: by stage, what `words_by_stage` has found for it.
        remade: stages that are to be made again.

    Raises:
        UserError: a stage that is to be made has a value that its parser, or a class that it names, refuses.
    """
    for file, stage in {stage.file: stage for stage in stages if stage.twin is None}.items():
        same = [other for other in stages if other.file == file]
        if words[stage.title] or any(other in remade or not other.is_done() for other in same):
            _read(stage, trainer_config, words[stage.title], "classes")


def _taken(stages: Mapping[Path, Stage], trainer_config: Path | None, overrides: Overrides) -> dict[Path, list[str]]:
    """For each file the overrides that it takes."""
    taken: dict[Path, list[str]] = {}
    known: set[str] = set()
    unused = dict(overrides)
    for file, stage in stages.items():
        parsed = _read(stage, trainer_config, (), "config")
        known |= set(_arguments(parsed))
        full_names = [(name, _full_name(parsed, name), value) for name, value in overrides]
        if replaced := [
            f"--{full}={value}" for name, full, value in full_names if full and _has_parts(name, overrides)
        ]:
            # Another class has other arguments: `--trainer.logger WandbLogger --trainer.logger.offline true`.
            parsed = _read(stage, trainer_config, replaced, "config")
            known |= set(_arguments(parsed))
            full_names = [(name, _full_name(parsed, name), value) for name, value in overrides]
        taken[file] = [f"--{full}={value}" for _, full, value in full_names if full is not None]
        for name, full, _ in full_names:
            if full is not None:
                unused.pop(name, None)
    for name in unused:
        close = _close_to(name, known)
        raise UserError(
            f"--{name}: no stage has such an argument"
            + (f"; did you mean --{', --'.join(close)}?" if close else "; the command `config` prints those there are")
        )
    return taken


def _has_parts(name: str, overrides: Overrides) -> bool:
    """Whether an override names an argument of what another one, of that name, chooses."""
    return any(other.startswith(f"{name}.") for other, _ in overrides)


def _close_to(name: str, known: Collection[str]) -> list[str]:
    """The arguments most like one that is none, closest first: by their own names, or by the whole of their paths.

    >>> _close_to("model.lernrate", ["model.init_args.optimizer.learning_rate", "model.class_path"])
    ['model.optimizer.learning_rate']
    """
    short = sorted({argument.replace(".init_args.", ".") for argument in known})
    asked = name.replace(".init_args.", ".")

    def likeness(argument: str) -> tuple[float, float]:
        pairs = ((asked.rpartition(".")[2], argument.rpartition(".")[2]), (asked, argument))
        own, whole = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return own, whole

    def is_close(argument: str) -> bool:
        own, whole = likeness(argument)
        return own >= _LIKE_NAME or whole >= _LIKE_PATH

    return sorted(filter(is_close, short), key=lambda argument: sum(likeness(argument)), reverse=True)[:3]


def _read(
    stage: Stage, trainer_config: Path | None, words: Sequence[str], until: Literal["config", "classes"]
) -> dict[str, Any]:
    """A stage's config with `words` laid over it, as plain values; errors name the file that a value is in."""
    try:
        config = dict(
            lightning_cli([*config_words(stage, trainer_config), *words], run=False, until=until).config.as_dict()
        )
        if until == "classes":
            refuse_idle(config)
        return config
    except UserError as error:
        # What a trainer config says may be of the same name as what the base says.
        over = [] if trainer_config is None else [f"--{name}" for name in flat(read_yaml(trainer_config))]
        raise UserError(located(str(error), stage.origins, [*over, *words]) or f"{stage.file}: {error}") from error


def config_words(stage: Stage, trainer_config: Path | None) -> list[str]:
    """A stage's own config and what is laid over it from a file, as words for LightningCLI."""
    laid = [] if trainer_config is None else ["--config", str(trainer_config)]
    return ["--config", stage.config, *laid]


def _full_name(config: Any, name: str) -> str | None:
    """The full name of an argument in a stage's config, `init_args` filled in; None where there is none.

    >>> _full_name({"model": {"class_path": "M", "init_args": {"lora": {"rank": 8}}}}, "model.lora.rank")
    'model.init_args.lora.rank'
    """
    full_name: list[str] = []
    for part in name.removesuffix("+").split("."):
        if isinstance(config, Mapping) and part not in config and isinstance(config.get("init_args"), Mapping):
            config = config["init_args"]
            full_name.append("init_args")
        if not isinstance(config, Mapping) or part not in config:
            return None
        config = config[part]
        full_name.append(part)
    return ".".join(full_name) + ("+" if name.endswith("+") else "")


def _arguments(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all arguments in a config, those of nested objects too, that hold a plain value."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _arguments(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
