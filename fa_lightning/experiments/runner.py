"""Run a study on a base: its stages in order, each skipped when done and resumed when interrupted, then its results."""

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

from fa_lightning.common.boards import close
from fa_lightning.errors import UserError
from fa_lightning.evaluation.results import Results
from fa_lightning.experiments.beforehand import inspect_twins, reach_judge
from fa_lightning.experiments.chain import LOGS, Chain
from fa_lightning.experiments.collect import run_of
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.fingerprint import INPUT, fingerprint_of, flat, refuse_change
from fa_lightning.experiments.lightning_cli import lightning_cli
from fa_lightning.experiments.locks import FolderLocks
from fa_lightning.experiments.organisms import (
    differences,
    fingerprint_of_brought,
    made_from,
    organisms_of,
    take,
    take_brought,
)
from fa_lightning.experiments.overrides import Overrides, config_words, refuse_wrong_values, words_by_stage
from fa_lightning.experiments.own_scenarios import refuse_written_answers
from fa_lightning.experiments.plan import made_again, plan_of, progress_of, summary_of
from fa_lightning.experiments.resume import ResumePoint
from fa_lightning.experiments.stage import Stage
from fa_lightning.experiments.trial import FAST, batches_of_a_trial, trial_of, tried
from fa_lightning.studies.finish import finish_study


def run_study(
    study: str,
    chain: Chain,
    trainer_config: Path | None = None,
    refit: Sequence[str] = (),
    only: Sequence[str] = (),
    overrides: Overrides = (),
) -> None:
    """Run the stages of a study that are not done yet, behind those that they need; write and print its results.

    Args:
        study: what is asked.
        chain: the base, its seed and its model.
        trainer_config: YAML laid over every stage's own, as those of configs/trainer.
        refit: stages to make again, with all that depends on them; the name of a file with a matrix is all it makes.
        only: stages, or variants of a stage, to run by themselves.
        overrides: laid over every stage that has such an argument (see `words_by_stage`).

    Raises:
        UserError: a finished or begun stage was made from something else or has lost what it made, a folder is not the
            stage's or is in use by another run, `refit` or `only` names no stage, or no stage has an argument of
            `overrides`.
        MissingFileError: there is no such study.
    """
    with FolderLocks() as locks:
        _run(locks, study, chain, trainer_config, refit, only, overrides)


def _run(
    locks: FolderLocks,
    study: str,
    chain: Chain,
    trainer_config: Path | None,
    refit: Sequence[str],
    only: Sequence[str],
    overrides: Overrides,
) -> None:
    composition = Composition(chain)
    plan = plan_of(composition, study, only)
    refuse_written_answers(dict.fromkeys([study, *(stage.study for stage in plan)]), composition.base.scenarios)
    words = words_by_stage(plan, trainer_config, overrides)
    console = Console()
    if batches := batches_of_a_trial(plan, trainer_config, words):
        if refit:
            raise UserError(
                f"--refit {refit[0]} deletes a finished stage, but a trial (trainer.fast_dev_run) leaves nothing in "
                "its place: leave one of the two out"
            )
        moved = plan_of(Composition(trial_of(chain)), study, only)
        laid = {title: [*own, f"--{FAST}={batches}"] for title, own in words.items()}
        locks.take(trial_of(chain).outputs)
        with tried(chain):
            refuse_wrong_values(moved, trainer_config, laid, moved)
            _run_all(locks, moved, [], {}, trainer_config, laid, console)
        _say(console, "every stage ran; of a trial (trainer.fast_dev_run) nothing is kept")
        return
    remade = made_again(plan, refit)
    refuse_wrong_values(plan, trainer_config, words, remade)
    for stage in plan:
        stage.refuse_foreign_folder()
    for stage in remade:
        locks.take(stage.folder)
    inspect_twins(plan, remade)
    reach_judge(composition.base.judge, plan, remade)
    if any(stage.study != study for stage in plan):
        _say(console, f"{study} on {chain.label}, seed {chain.seed}, needs other studies; the plan:")
        for line in summary_of(plan):
            _say(console, f"  {line}")
    if composition.base.gives_way:
        _say(console, escape(composition.base.gives_way))
    for name in dict.fromkeys(stage.study for stage in plan):
        if note := composition.base.note(name):
            _say(console, escape(f"{name}: {note}"))
    # The last one first: a kill in between must not leave what was made from a stage that is gone.
    for stage in reversed(remade):
        _forget(stage)
    for word in dict.fromkeys(word for laid in words.values() for word in laid):
        over = dict.fromkeys(stage.file.stem for stage in plan if word in words[stage.title])
        _say(console, escape(f"{word}: laid over {', '.join(over)}"))
    # A stage that is run by itself ends the study only with all others; an optional one has results of its own.
    own = [stage for stage in plan if stage.optional] or [s for s in composition.stages(study) if not s.optional]
    was_done = all(stage.is_done() for stage in own)
    organisms = organisms_of(plan, chain, composition.base.organisms)
    data = _run_all(locks, plan, remade, organisms, trainer_config, words, console)
    if all(stage.is_done() for stage in own):
        # The DataModule of another stage, run by itself, knows no twins.
        twins = data if plan[-1].title == own[-1].title else None
        _finish(chain, own, twins, console, is_shown=not was_done)


def _run_all(
    locks: FolderLocks,
    plan: list[Stage],
    remade: Sequence[Stage],
    organisms: Mapping[str, Path],
    trainer_config: Path | None,
    words: Mapping[str, Sequence[str]],
    console: Console,
) -> Any:
    """Run the stages that are not done yet; returns the last one's DataModule."""
    for stage in plan:
        title = f"[bold]{progress_of(stage, plan)}[/bold]"
        cli, fingerprint = _made_from(stage, trainer_config, words[stage.title])
        # Ranks that are started together see the forgotten record for a moment longer than rank zero.
        if stage in remade or not stage.is_done():
            locks.take(stage.folder)
        recorded = None if stage in remade else stage.record()
        # A stage that failed before it made anything, as by a wrong argument, has nothing that a change could spoil.
        if recorded is not None and not (recorded["state"] == "running" and stage.is_empty()):
            if stage.study != plan[-1].study and words[stage.title] and recorded["state"] == "done":
                # What this study needs of another was perhaps made before, without this command's own values.
                cli, fingerprint = _as_recorded(stage, recorded["fingerprint"], trainer_config, cli, fingerprint)
            refuse_change(stage.title, recorded["fingerprint"], _known_to(recorded["fingerprint"], fingerprint, cli))
            if recorded["state"] == "done":
                stage.refuse_loss(recorded)
                _say(console, f"{title}: done, skipped")
                continue
        if stage.twin is not None:
            take_brought(stage.twin, stage, fingerprint)
            _say(console, f"{title}: {stage.twin.adapter} is taken for it")
            locks.release(stage.folder)
            continue
        if recorded is None and stage not in remade and stage.title in organisms:
            organism = organisms[stage.title]
            where = os.path.relpath(organism)
            made = made_from(organism)
            if other := differences(made, _known_to(made, fingerprint, cli)):
                _say(console, f"{title}: {where} is not taken, it was made otherwise ({other[0]})")
            else:
                take(organism, stage, fingerprint)
                _say(console, f"{title}: taken from {where}; --refit {stage.title} makes it from nothing")
                locks.release(stage.folder)
                continue
        checkpoint = None if stage in remade else _usable_checkpoint(stage, console, title)
        _say(console, f"{title}: {'started' if checkpoint is None else 'resumed'}")
        try:
            _run_stage(stage, cli, fingerprint, checkpoint)
        finally:
            close(cli.trainer)
        locks.release(stage.folder)
    return None if cli is None else cli.datamodule


def _made_from(stage: Stage, trainer_config: Path | None, words: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """A stage's LightningCLI, None where an adapter is taken in the place of a fit, and what it is made from."""
    if stage.twin is not None:
        return None, fingerprint_of_brought(stage.twin)
    cli = build(stage, trainer_config, words)
    _refuse_other_folder(stage, cli)
    return cli, _fingerprint(stage, cli)


def _as_recorded(
    stage: Stage, recorded: Mapping[str, Any], trainer_config: Path | None, cli: Any, fingerprint: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The stage with the command's values laid over it where it was made with them; else as its files say."""
    try:
        refuse_change(stage.title, recorded, _known_to(recorded, fingerprint, cli))
    except UserError:
        cli = build(stage, trainer_config)
        fingerprint = _fingerprint(stage, cli)
    return cli, fingerprint


def build(stage: Stage, trainer_config: Path | None, words: Sequence[str] = ()) -> Any:
    """The stage's LightningCLI, instantiated and not run; `words` are laid over its config last."""
    return lightning_cli([*config_words(stage, trainer_config), *words], run=False)


def resolved(cli: Any) -> dict[str, Any]:
    """The config with all defaults, as plain values."""
    return dict(json.loads(cli.parser.dump(cli.config, format="json", skip_none=False)))


def _fingerprint(stage: Stage, cli: Any) -> dict[str, Any]:
    """What a stage is made from; in training the ranks make one step together."""
    trains = is_overridden("training_step", cli.model)
    sizes = getattr(cli.datamodule, "step_sizes", ("batch_size",)) if trains else ()
    ranks = cli.trainer.num_devices * cli.trainer.num_nodes
    return fingerprint_of(resolved(cli), cli.datamodule.source_fingerprint(), stage.folder, ranks, sizes)


def _known_to(recorded: Mapping[str, Any], fingerprint: Mapping[str, Any], cli: Any) -> dict[str, Any]:
    """The fingerprint without plain arguments that an older version's record lacks and that keep their default."""
    if cli is None or fingerprint.keys() <= recorded.keys():
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
            f"{stage.file}: the {split} split holds nothing that the stage takes, so nothing was made or judged: "
            "raise the sizes of its scenarios"
        )


def _refuse_other_folder(stage: Stage, cli: Any) -> None:
    """Refuse a stage that would write into another one's folder.

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
                f"{stage.title}: {what} is {os.path.relpath(folder)}, but this stage's folder is {stage.folder}. Leave "
                "the argument out: the runner gives every stage its own folder"
            )


def _usable_checkpoint(stage: Stage, console: Console, title: str) -> Path | None:
    """Where to resume; None to start, also where a file was cut short or altered: it is named and put away."""
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
def _finish(chain: Chain, stages: list[Stage], data: Any, console: Console, is_shown: bool = False) -> None:
    """Write the results and print them, unless the last stage has just done so itself (`is_shown`)."""
    last = stages[-1]
    # What was asked for beside the study must not take the place of the study's own result.
    root = last.folder if last.optional else chain.folder / last.study
    logs = LOGS / chain.logs / last.study
    title = f"{chain.label}, seed {chain.seed}, {last.study}"
    finished = finish_study(root, run_of(chain.label, stages), title, console, is_shown)
    if finished is None:
        return
    path, result = finished
    console.print(f"\nresults: {path}")
    if logs.is_dir():
        console.print(f"logs:    {logs}")
    console.print("\nNext:")
    console.print(f"  python -m fa_lightning report {root}", soft_wrap=True)
    if any(logs.rglob("events.out.tfevents.*")):
        console.print(f"  tensorboard --logdir {logs}")
    if isinstance(result, Results) and data is not None:
        console.print(f"  python -m fa_lightning generate {_generation(last, data)}", soft_wrap=True)


def _generation(last: Stage, data: Any) -> str:
    """The words that steer with what the last stage has chosen; a lab's twins are another experiment's."""
    home = Path(data.adapters["faking"]).parent.parent
    if home.resolve() == last.folder.parent.resolve():
        return f"--experiment {home}"
    return f"--experiment {home} --intervention {last.folder / 'intervention'}"
