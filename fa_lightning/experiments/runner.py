"""Run an experiment: its stages in order, each skipped when done and resumed when interrupted, then its results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from fa_lightning.experiments.collect import collect_results
from fa_lightning.experiments.resume import ResumePoint
from fa_lightning.experiments.stage import Stage, digest_of, find_stages, fingerprint_of, refuse_change
from fa_lightning.reports.results import write_results
from fa_lightning.reports.table import print_results

OUTPUTS = Path("checkpoints")
LOGS = Path("logs")


def run_experiment(
    experiment: Path, trainer_config: Path | None = None, refit: Sequence[str] = (), seed: int | None = None
) -> None:
    """Run the stages of `experiment` that are not done yet, then write and print its results.

    Args:
        experiment: folder of numbered stage files.
        trainer_config: YAML laid over every stage's own, as those of configs/trainer.
        refit: stages to make again, with all that depends on them.
        seed: replaces every stage's `seed_everything`.

    Raises:
        ValueError: a finished or begun stage was made from something else or has lost what it made, a folder is not the
            stage's, or `refit` names no stage.
        FileNotFoundError: the experiment has no stages.
    """
    stages = find_stages(experiment, OUTPUTS)
    remade = _with_dependents(stages, refit)
    # All at once and before anything runs: a kill in between must not leave an artefact made from a forgotten one.
    for stage in stages:
        stage.refuse_foreign_folder()
    for stage in remade:
        _forget(stage)
    console = Console()
    digests: dict[str, str] = {}
    for number, stage in enumerate(stages, start=1):
        title = f"[bold]{number}/{len(stages)} {stage.name}[/bold]"
        cli = build(stage, trainer_config, seed)
        _refuse_other_folder(stage, cli.trainer)
        inputs = {name: digests[name] for name in _inputs(stage, digests)}
        fingerprint = fingerprint_of(resolved(cli), cli.datamodule.scenarios.fingerprint(), inputs)
        digests[stage.name] = digest_of(fingerprint)
        # Ranks that are started together see the forgotten record for a moment longer than rank zero.
        recorded = None if stage in remade else stage.record()
        if recorded is not None:
            refuse_change(stage, recorded["fingerprint"], fingerprint)
            if recorded["state"] == "done":
                stage.refuse_loss(recorded)
                _say(console, f"{title}: done, skipped")
                continue
        checkpoint = None if stage in remade else _usable_checkpoint(stage, console, title)
        _say(console, f"{title}: {'started' if checkpoint is None else 'resumed'}")
        _run_stage(stage, cli, fingerprint, checkpoint)
    _finish(experiment, stages, cli.datamodule, console)


def build(stage: Stage, trainer_config: Path | None, seed: int | None) -> Any:
    """The stage's LightningCLI, instantiated and not run."""
    from fa_lightning.cli import lightning_cli

    arguments = ["--config", str(stage.config)]
    if trainer_config is not None:
        arguments += ["--config", str(trainer_config)]
    if seed is not None:
        arguments += ["--seed_everything", str(seed)]
    return lightning_cli(arguments, run=False)


def resolved(cli: Any) -> dict[str, Any]:
    """The config with all defaults, as plain values."""
    return dict(json.loads(cli.parser.dump(cli.config, format="json", skip_none=False)))


def _run_stage(stage: Stage, cli: Any, fingerprint: dict[str, Any], checkpoint: Path | None) -> None:
    trainer = cli.trainer
    # Last, so that what the best checkpoint's callback has just noted is saved too.
    trainer.callbacks.append(ResumePoint(stage.checkpoint))
    rank_zero_only(stage.write)("running", fingerprint)
    start = time.perf_counter()
    try:
        trainer.fit(
            cli.model,
            datamodule=cli.datamodule,
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
        trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    except SystemExit as stopped:
        # Lightning turns Ctrl+C into an exit without a word.
        if trainer.interrupted:
            raise KeyboardInterrupt from stopped
        raise
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    seconds = time.perf_counter() - start
    rank_zero_only(stage.write)(
        "done",
        fingerprint,
        metrics=metrics,
        seconds=seconds,
        resumed=checkpoint is not None,
        artefacts=stage.artefacts(),
    )
    trainer.strategy.barrier("stage done")


def _inputs(stage: Stage, earlier: Iterable[str]) -> list[str]:
    """The earlier stages whose folders a stage's config names."""
    text = stage.config.read_text()
    return [name for name in earlier if f"/{name}" in text]


def _with_dependents(stages: Sequence[Stage], refit: Sequence[str]) -> list[Stage]:
    """The stages to be made again and those made from them, in order.

    Raises:
        ValueError: `refit` names no stage.
    """
    unknown = sorted(set(refit) - {stage.name for stage in stages})
    if unknown:
        names = ", ".join(stage.name for stage in stages)
        raise ValueError(f"--refit {unknown[0]}: no such stage; {stages[0].config.parent} has {names}")
    remade: list[Stage] = []
    for stage in stages:
        if stage.name in refit or _inputs(stage, [other.name for other in remade]):
            remade.append(stage)
    return remade


def _refuse_other_folder(stage: Stage, trainer: Any) -> None:
    """Refuse a config that would write into another experiment, as a copied one does until its paths are changed.

    Raises:
        ValueError: naming the folder that the config writes to, and the one that it should.
    """
    written = getattr(trainer.checkpoint_callback, "dirpath", None)
    if written is not None and Path(written).resolve() != stage.folder.resolve():
        raise ValueError(
            f"{stage.config}: ModelCheckpoint's dirpath is {os.path.relpath(written)}, but this stage's folder is "
            f"{stage.folder}. Put the experiment's and the stage's own names into the paths of the file"
        )


def _usable_checkpoint(stage: Stage, console: Console, title: str) -> Path | None:
    """Where to resume; None to start, also where a file was cut short or altered, which is told and put away."""
    damaged = stage.damaged_checkpoints()
    if damaged:
        _say(console, f"{title}: {damaged[0]} is damaged, so the fit starts again")
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
    console.print(text)


@rank_zero_only
def _finish(experiment: Path, stages: list[Stage], data: Any, console: Console) -> None:
    root = stages[-1].folder.parent
    results = collect_results(experiment.resolve().name, stages)
    if results is None:
        return
    path = write_results(root, results)
    print_results(results, console)
    logs = LOGS / root.name
    console.print(f"\nresults: {path}\nlogs:    {logs}\n\nNext:")
    console.print(f"  python -m fa_lightning report {root}")
    console.print(f"  tensorboard --logdir {logs}")
    console.print(f"  python -m fa_lightning generate {_generation(stages[-1], data)}")


def _generation(last: Stage, data: Any) -> str:
    """The words that steer with what the last stage has chosen; a lab's twins are another experiment's."""
    home = Path(data.adapters["faking"]).parent.parent
    if home.resolve() == last.folder.parent.resolve():
        return f"--experiment {home}"
    return f"--experiment {home} --intervention {last.folder / 'intervention'}"
