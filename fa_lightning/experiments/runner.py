"""Run an experiment: its stages in order, each skipped when done, resumed when interrupted, and its results at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from fa_lightning.experiments.collect import collect_results
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
        ValueError: a finished or begun stage was made from something else, or `refit` names no stage.
        FileNotFoundError: the experiment has no stages.
    """
    stages = find_stages(experiment, OUTPUTS)
    unknown = sorted(set(refit) - {stage.name for stage in stages})
    if unknown:
        names = ", ".join(stage.name for stage in stages)
        raise ValueError(f"--refit {unknown[0]}: no such stage; {experiment} has {names}")
    console = Console()
    digests: dict[str, str] = {}
    remade: set[str] = set()
    for number, stage in enumerate(stages, start=1):
        title = f"[bold]{number}/{len(stages)} {stage.name}[/bold]"
        cli = build(stage, trainer_config, seed)
        inputs = {name: digest for name, digest in digests.items() if f"/{name}" in stage.config.read_text()}
        fingerprint = fingerprint_of(resolved(cli), cli.datamodule.scenarios.fingerprint(), inputs)
        digests[stage.name] = digest_of(fingerprint)
        if stage.name in refit or remade & set(inputs):
            remade.add(stage.name)
            _forget(stage)
        recorded = stage.record()
        if recorded is not None:
            refuse_change(stage, recorded["fingerprint"], fingerprint)
            if recorded["state"] == "done":
                _say(console, f"{title}: done, skipped")
                continue
        _say(console, f"{title}: {'resumed' if stage.checkpoint.is_file() else 'started'}")
        _run_stage(stage, cli, fingerprint)
    _finish(experiment, stages, console)


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
    import yaml

    return dict(yaml.safe_load(cli.parser.dump(cli.config, skip_none=False)))


def _run_stage(stage: Stage, cli: Any, fingerprint: dict[str, Any]) -> None:
    trainer = cli.trainer
    rank_zero_only(stage.write)("running", fingerprint)
    start = time.perf_counter()
    checkpoint = str(stage.checkpoint) if stage.checkpoint.is_file() else None
    trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    seconds = time.perf_counter() - start
    rank_zero_only(stage.write)("done", fingerprint, metrics=metrics, seconds=seconds, resumed=checkpoint is not None)
    trainer.strategy.barrier("stage done")


@rank_zero_only
def _forget(stage: Stage) -> None:
    stage.forget()


@rank_zero_only
def _say(console: Console, text: str) -> None:
    console.print(text)


@rank_zero_only
def _finish(experiment: Path, stages: list[Stage], console: Console) -> None:
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
    console.print(f"  python -m fa_lightning generate --experiment {root}")
