"""Another logger for a study: how it is chosen, where it writes, and that finished stages do not mind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.lightning_cli import lightning_cli
from fa_lightning.experiments.overrides import config_words, read_overrides, words_by_stage
from fa_lightning.experiments.shipped import config_file
from fa_lightning.experiments.stage import Stage

HOME = {"save_dir": "logs", "name": "embedded/seed0/steering", "version": "02_aligned"}
RUN = "embedded/seed0/steering/02_aligned"


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Composition(Chain(config_file("--base", "embedded", "bases"))).stages("steering")[1]


def chosen(stage: Stage, *words: str, trainer: Path | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Class and arguments of each logger, as the parser understands a command and a trainer file."""
    taken = words_by_stage([stage], trainer, read_overrides(words))[stage.title]
    config = lightning_cli([*config_words(stage, trainer), *taken], run=False, until="config").config.as_dict()
    loggers = config["trainer"]["logger"]
    loggers = loggers if isinstance(loggers, list) else [loggers]
    return [(logger["class_path"].rpartition(".")[2], logger["init_args"]) for logger in loggers]


def test_a_logger_is_named_on_the_command_line_and_writes_where_the_stage_does(stage: Stage) -> None:
    ((name, options),) = chosen(stage)
    assert (name, {key: options[key] for key in HOME}) == ("TensorBoard", HOME)
    ((name, options),) = chosen(stage, "--trainer.logger", "CSVLogger")
    assert (name, {key: options[key] for key in HOME}) == ("CSVLogger", HOME)


def test_arguments_of_a_logger_stand_beside_its_name(stage: Stage) -> None:
    words = ("--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true", "--trainer.logger.project=mine")
    ((name, options),) = chosen(stage, *words)
    assert (name, options["offline"], options["project"]) == ("WandbLogger", True, "mine")
    # To W&B a version is a run's id, which other chains of the project would share.
    assert (options["name"], options["save_dir"], options["version"]) == (RUN, f"logs/{RUN}", None)


def test_a_trainer_file_names_several_at_once(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "loggers.yaml"
    file.write_text(
        "trainer:\n  logger:\n    - class_path: TensorBoard\n    - class_path: CSVLogger\n"
        "    - {class_path: WandbLogger, init_args: {project: mine, offline: true, id: '7'}}\n"
    )
    found = dict(chosen(stage, trainer=file))
    assert list(found) == ["TensorBoard", "CSVLogger", "WandbLogger"]
    for name in ("TensorBoard", "CSVLogger"):
        assert {key: found[name][key] for key in HOME} == HOME
    assert (found["WandbLogger"]["name"], found["WandbLogger"]["id"]) == (RUN, "7")
    assert list(dict(chosen(stage, "--trainer.logger", '["CSVLogger", "TensorBoard"]'))) == ["CSVLogger", "TensorBoard"]
