"""Run an experiment: its stages in order, each skipped when done and resumed when interrupted, then its results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.console import Console
from rich.markup import escape

from fa_lightning.errors import UserError
from fa_lightning.evaluation.results import write_results
from fa_lightning.experiments.collect import collect_results, provenance_of
from fa_lightning.experiments.fingerprint import INPUT, fingerprint_of, flat, refuse_change
from fa_lightning.experiments.locks import FolderLocks
from fa_lightning.experiments.overrides import Overrides, config_words, refuse_wrong_values, words_by_stage
from fa_lightning.experiments.resume import ResumePoint
from fa_lightning.experiments.stage import Stage, find_stages
from fa_lightning.experiments.trial import batches_of_a_trial, trial_folder, tried
from fa_lightning.reports.table import print_results
from fa_lightning.studies.cures.results_file import write_cures_results
from fa_lightning.studies.cures.tables import print_cures, read_cures
from fa_lightning.studies.detection.reader import read_detection
from fa_lightning.studies.detection.results_file import write_detection_results
from fa_lightning.studies.detection.tables import print_detection
from fa_lightning.studies.leakage.result import LEAKAGE_NAME, LEAKAGE_TABLE
from fa_lightning.studies.statements.result import SAFE_NAME, SAFE_TABLE
from fa_lightning.studies.variants.tables import VARIANTS_TABLE, print_variants, read_variants

OUTPUTS = Path("checkpoints")
LOGS = Path("logs")


def run_experiment(
    experiment: Path,
    trainer_config: Path | None = None,
    refit: Sequence[str] = (),
    seed: int | None = None,
    overrides: Overrides = (),
) -> None:
    """Run the stages of `experiment` that are not done yet, then write and print its results.

    Args:
        experiment: folder of numbered stage files.
        trainer_config: YAML laid over every stage's own, as those of configs/trainer.
        refit: stages to make again, with all that depends on them; the name of a file with a matrix is all it makes.
        seed: replaces every stage's `seed_everything`.
        overrides: laid over every stage that has such an argument (see `words_by_stage`).

    Raises:
        UserError: a finished or begun stage was made from something else or has lost what it made, a folder is not the
            stage's or is in use by another run, `refit` names no stage, `seed` would make variants of several seeds the
            same, or no stage has an argument of `overrides`.
        MissingFileError: the experiment has no stages.
    """
    with FolderLocks() as locks:
        _run(locks, experiment, trainer_config, refit, seed, overrides)


def _run(
    locks: FolderLocks,
    experiment: Path,
    trainer_config: Path | None,
    refit: Sequence[str],
    seed: int | None,
    overrides: Overrides,
) -> None:
    stages = find_stages(experiment, OUTPUTS)
    _refuse_one_seed_for_all(stages, seed)
    words = words_by_stage(stages, trainer_config, overrides)
    console = Console()
    if batches := batches_of_a_trial(stages, trainer_config, words):
        if refit:
            raise UserError(
                f"--refit {refit[0]} deletes a finished stage, but a trial (trainer.fast_dev_run) leaves nothing in "
                "its place: leave one of the two out"
            )
        locks.take(trial_folder(OUTPUTS, experiment))
        with tried(stages, OUTPUTS, words, batches) as (moved, laid):
            refuse_wrong_values(moved, trainer_config, laid, moved)
            _run_all(locks, moved, [], trainer_config, seed, laid, console)
        _say(console, "every stage ran; of a trial (trainer.fast_dev_run) nothing is kept")
        return
    remade = _with_dependents(stages, refit, words)
    refuse_wrong_values(stages, trainer_config, words, remade)
    for stage in stages:
        stage.refuse_foreign_folder()
    for stage in remade:
        locks.take(stage.folder)
    # The last one first: a kill in between must not leave what was made from a stage that is gone.
    for stage in reversed(remade):
        _forget(stage)
    for word in dict.fromkeys(word for laid in words.values() for word in laid):
        over = dict.fromkeys(stage.config.stem for stage in stages if word in words[stage.name])
        _say(console, escape(f"{word}: laid over {', '.join(over)}"))
    data = _run_all(locks, stages, remade, trainer_config, seed, words, console)
    _finish(experiment, stages, data, console)


def _run_all(
    locks: FolderLocks,
    stages: list[Stage],
    remade: Sequence[Stage],
    trainer_config: Path | None,
    seed: int | None,
    words: Mapping[str, Sequence[str]],
    console: Console,
) -> Any:
    """Run the stages that are not done yet; returns the last one's DataModule."""
    for stage in stages:
        title = f"[bold]{_progress(stage, stages)}[/bold]"
        cli = build(stage, trainer_config, seed, words[stage.name])
        _refuse_other_folder(stage, cli)
        fingerprint = _fingerprint(stage, cli)
        # Ranks that are started together see the forgotten record for a moment longer than rank zero.
        if stage in remade or not stage.is_done():
            locks.take(stage.folder)
        recorded = None if stage in remade else stage.record()
        # A stage that failed before it made anything, as by a wrong argument, has nothing that a change could spoil.
        if recorded is not None and not (recorded["state"] == "running" and stage.is_empty()):
            refuse_change(stage.name, recorded["fingerprint"], _known_to(recorded["fingerprint"], fingerprint, cli))
            if recorded["state"] == "done":
                stage.refuse_loss(recorded)
                _say(console, f"{title}: done, skipped")
                continue
        checkpoint = None if stage in remade else _usable_checkpoint(stage, console, title)
        _say(console, f"{title}: {'started' if checkpoint is None else 'resumed'}")
        _run_stage(stage, cli, fingerprint, checkpoint)
        locks.release(stage.folder)
    return cli.datamodule


def build(stage: Stage, trainer_config: Path | None, seed: int | None, words: Sequence[str] = ()) -> Any:
    """The stage's LightningCLI, instantiated and not run; `words` are laid over its config last."""
    from fa_lightning.cli import lightning_cli

    arguments = config_words(stage, trainer_config)
    if seed is not None:
        arguments += ["--seed_everything", str(seed)]
    return lightning_cli([*arguments, *words], run=False)


def resolved(cli: Any) -> dict[str, Any]:
    """The config with all defaults, as plain values."""
    return dict(json.loads(cli.parser.dump(cli.config, format="json", skip_none=False)))


def _fingerprint(stage: Stage, cli: Any) -> dict[str, Any]:
    """What a stage is made from; in training the ranks make one step together."""
    trains = is_overridden("training_step", cli.model)
    sizes = getattr(cli.datamodule, "step_sizes", ("batch_size",)) if trains else ()
    ranks = cli.trainer.num_devices * cli.trainer.num_nodes
    return fingerprint_of(resolved(cli), cli.datamodule.scenarios.fingerprint(), stage.folder, ranks, sizes)


def _known_to(recorded: Mapping[str, Any], fingerprint: Mapping[str, Any], cli: Any) -> dict[str, Any]:
    """The fingerprint without plain arguments that an older version's record lacks and that keep their default."""
    if fingerprint.keys() <= recorded.keys():
        return dict(fingerprint)
    chosen = json.loads(cli.parser.dump(cli.config, format="json", skip_none=False, skip_default=True))
    # Not within lists: there a key may be missing because a recorded list was shorter than the default one.
    plain = {key for key in flat(resolved(cli)) if not any(part.isdigit() for part in key.split("."))}
    new = plain - flat(chosen).keys() - recorded.keys()
    return {key: value for key, value in fingerprint.items() if key not in new}


def _run_stage(stage: Stage, cli: Any, fingerprint: dict[str, Any], checkpoint: Path | None) -> None:
    trainer = cli.trainer
    # Last, so that what the best checkpoint's callback has just noted is saved too.
    trainer.callbacks.append(ResumePoint(stage.checkpoint))
    rank_zero_only(stage.write)("running", fingerprint)
    start = time.perf_counter()
    if is_overridden("training_step", cli.model):
        trainer.fit(
            cli.model,
            datamodule=cli.datamodule,
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
        _refuse_nothing(stage, "train", trainer.num_training_batches)
    trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    # What the first loader serves is judged; others may hold nothing.
    _refuse_nothing(stage, "test", trainer.num_test_batches[0])
    seconds = time.perf_counter() - start
    if trainer.is_global_zero:
        # What came from the Hub while the stage ran can be known by its content now.
        new = {key: digest for key, digest in _fingerprint(stage, cli).items() if key.startswith(INPUT)}
        stage.write(
            "done",
            {**new, **fingerprint},
            metrics={name: float(value) for name, value in trainer.callback_metrics.items()},
            seconds=seconds,
            resumed=checkpoint is not None,
            # A fact and no field of the fingerprint: the fit of another machine stays done here.
            precision=str(trainer.precision),
            artefacts=stage.artefacts(),
        )
    trainer.strategy.barrier("stage done")


def _refuse_nothing(stage: Stage, split: str, batches: float) -> None:
    """Refuse to count a stage as done whose Trainer had no batch to work on: Lightning only warns.

    Raises:
        UserError: naming the split.
    """
    if batches == 0:
        raise UserError(
            f"{stage.config}: the {split} split holds nothing that the stage takes, so nothing was made or judged: "
            "raise the sizes of its scenarios"
        )


def _progress(stage: Stage, stages: Sequence[Stage]) -> str:
    """Which file of how many, and where it has a matrix, which variant of how many: `2/3 02_variants 7/36 genie-0`."""
    files = list(dict.fromkeys(other.config for other in stages))
    shown = f"{files.index(stage.config) + 1}/{len(files)} {stage.config.stem}"
    if not stage.variant:
        return shown
    variants = [other.name for other in stages if other.config == stage.config]
    return f"{shown} {variants.index(stage.name) + 1}/{len(variants)} {stage.variant}"


def _with_dependents(stages: Sequence[Stage], refit: Sequence[str], words: Mapping[str, Sequence[str]]) -> list[Stage]:
    """The stages to be made again and those made from them, in order.

    Raises:
        UserError: `refit` names no stage.
    """
    unknown = sorted(set(refit) - {stage.name for stage in stages} - {stage.config.stem for stage in stages})
    if unknown:
        names = ", ".join(dict.fromkeys(name for stage in stages for name in (stage.config.stem, stage.name)))
        raise UserError(f"--refit {unknown[0]}: no such stage; {stages[0].config.parent} has {names}")
    remade: list[Stage] = []
    for stage in stages:
        named = stage.name in refit or stage.config.stem in refit
        if named or any(other.is_named_in(stage, words[stage.name]) for other in remade):
            remade.append(stage)
    return remade


def _refuse_one_seed_for_all(stages: Sequence[Stage], seed: int | None) -> None:
    """Refuse to give one seed to variants that are to differ by theirs.

    Raises:
        UserError: naming the file that has seeds of its own.
    """
    for stage in stages:
        if seed is not None and "seed" in stage.values:
            raise UserError(
                f"--seed {seed} would give every variant of {stage.config} the same seed, but its matrix holds seeds "
                "of its own: change them there"
            )


def _refuse_other_folder(stage: Stage, cli: Any) -> None:
    """Refuse a config that would write into another experiment, as a copied one does until its paths are changed.

    Raises:
        UserError: naming the folder that the config writes to, and the one that it should.
    """
    written = {
        "ModelCheckpoint's dirpath": getattr(cli.trainer.checkpoint_callback, "dirpath", None),
        "the model's folder": getattr(cli.model, "folder", None),
    }
    for what, folder in written.items():
        if folder is not None and Path(folder).resolve() != stage.folder.resolve():
            raise UserError(
                f"{stage.config}: {what} is {os.path.relpath(folder)}, but this stage's folder is "
                f"{stage.folder}. Put the experiment's and the stage's own names into the paths of the file"
            )


def _usable_checkpoint(stage: Stage, console: Console, title: str) -> Path | None:
    """Where to resume; None to start, also where a file was cut short or altered, which is told and put away."""
    damaged = stage.damaged_checkpoint()
    if damaged is not None:
        fault = "damaged" if damaged.exists() else "gone"
        _say(console, f"{title}: {damaged} is {fault}, so the fit starts again")
        _drop_checkpoints(stage)
        return None
    return stage.checkpoint if stage.checkpoint.is_file() else None


@rank_zero_only
def _drop_checkpoints(stage: Stage) -> None:
    stage.drop_checkpoints()


@rank_zero_only
def _forget(stage: Stage) -> None:
    stage.forget()


@rank_zero_only
def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)


@rank_zero_only
def _finish(experiment: Path, stages: list[Stage], data: Any, console: Console) -> None:
    root = OUTPUTS / experiment.resolve().name
    logs = LOGS / root.name
    variants, detection = read_variants(stages[-1].folder), read_detection(stages[-1].folder)
    cures, results = read_cures(stages[-1].folder), collect_results(root.name, stages)
    if variants is not None:
        print_variants(variants, root.name, console)
        path = stages[-1].folder / VARIANTS_TABLE
    elif detection is not None:
        print_detection(detection, root.name, console)
        path = write_detection_results(root, root.name, detection, provenance_of(stages))
    elif cures is not None:
        print_cures(cures, root.name, console)
        path = write_cures_results(root, root.name, cures, provenance_of(stages))
    elif results is not None:
        path = write_results(root, results)
        print_results(results, console)
    elif (stages[-1].folder / LEAKAGE_NAME).is_file():
        # Its table was printed as soon as it was there.
        path = stages[-1].folder / LEAKAGE_TABLE
    elif (stages[-1].folder / SAFE_NAME).is_file():
        path = stages[-1].folder / SAFE_TABLE
    else:
        return
    console.print(f"\nresults: {path}\nlogs:    {logs}\n\nNext:")
    console.print(f"  python -m fa_lightning report {root}")
    console.print(f"  tensorboard --logdir {logs}")
    if results is not None:
        console.print(f"  python -m fa_lightning generate {_generation(stages[-1], data)}")


def _generation(last: Stage, data: Any) -> str:
    """The words that steer with what the last stage has chosen; a lab's twins are another experiment's."""
    home = Path(data.adapters["faking"]).parent.parent
    if home.resolve() == last.folder.parent.resolve():
        return f"--experiment {home}"
    return f"--experiment {home} --intervention {last.folder / 'intervention'}"
