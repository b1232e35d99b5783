"""The command line: which command was asked for, and the one LightningCLI behind it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DEFAULT_EXPERIMENT = "configs/embedded"

HELP = """usage: python -m fa_lightning COMMAND ...

Make an alignment-faking language model and its honest twin, learn the map from one to the other, and steer with it.

commands:
  fit                            run the experiment configs/embedded: no network, a few minutes on 2 cores
  fit --experiment DIR           run another experiment folder: its numbered stages in order, each skipped when done
                                 and resumed when interrupted; configs/embedded_lab is the steering lab: every method,
                                 layer and dose on the twins of configs/embedded, compared at equal damage
      --trainer FILE             lay a trainer config over every stage (configs/trainer: cpu, gpu, ddp, fsdp)
      --refit STAGE              make a stage and all that depends on it again (may be repeated)
      --seed N                   another seed for every stage
  fit|validate|test|predict --config FILE ...
                                 one stage, plain LightningCLI (see `fit --help`)
  generate ...                   steered beside unsteered text, from any saved interventions (see `generate --help`)
  report DIR                     write DIR/report.html: figures and tables in one file

POSER's folder is found by its argument, then the variable POSER_ROOT, then ./POSER.
"""


OTHERS_WARNINGS = (
    # Lightning 2.6 on torch 2.13, peft 0.21 on transformers 5.23.
    r".*isinstance.treespec, LeafSpec.*",
    r".*is_gradient_checkpointing. is deprecated.*",
    # Stages are configured in-process on purpose, and their record is in their checkpoint folder before they start.
    r"LightningCLI's args parameter is intended.*",
    r"Checkpoint directory .* exists and is not empty.*",
    # The embedded models are so small that worker processes would cost more than they save.
    r".*does not have many workers.*",
)
OTHERS_HINTS = (
    "\U0001f4a1 Tip",
    "Seed set to",
    "TPU available",
    "Loading `train_dataloader` to estimate",
    "`Trainer.fit` st",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status.

    Errors that a user can mend (a missing folder, a wrong value, a changed config) are told in one line, not a trace;
    set FA_LIGHTNING_TRACE=1 to see where they came from.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(HELP)
        return 0
    try:
        return _run(command, words[1:])
    except (ValueError, OSError, ImportError, FloatingPointError, TypeError) as error:
        if os.environ.get("FA_LIGHTNING_TRACE"):
            raise
        # The parser repeats the whole config behind its reason.
        print(f"error: {str(error).partition(chr(10) + 'Given value')[0]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return 130


def lightning_cli(arguments: Sequence[str], run: bool = True) -> Any:
    """The LightningCLI over any module and DataModule of the package; `run=False` only instantiates."""
    quiet()
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.cli import LightningCLI

    return LightningCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        parser_kwargs={"prog": "python -m fa_lightning"},
        auto_configure_optimizers=False,
        args=list(arguments),
        run=run,
    )


def quiet() -> None:
    """Silence messages that are not about the user's run: other libraries' hints to their own developers."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for message in OTHERS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        # The same function each time, as stages call this in turn: a logger keeps it once.
        logging.getLogger(name).addFilter(_is_no_hint)
    # It asks for an optional package of fast kernels at every import.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _is_no_hint(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(OTHERS_HINTS)


def _run(command: str, words: list[str]) -> int:
    if command == "fit" and not _is_plain(words):
        return _experiment(words)
    if command in ("fit", "validate", "test", "predict"):
        lightning_cli([command, *words])
        return 0
    if command == "report":
        from fa_lightning.reports.command import main as report

        return report(words)
    if command == "generate":
        from fa_lightning.interventions.command import main as generate

        quiet()
        return generate(words)
    raise ValueError(f"{command!r} is no command; there are fit, validate, test, predict, generate and report (--help)")


def _is_plain(words: list[str]) -> bool:
    """Whether a `fit` names its own config, and so is one stage for LightningCLI."""
    marks = ("--config", "-c", "--model", "--data", "--print_config", "--help", "-h")
    return any(word.split("=")[0].split(".")[0] in marks for word in words)


def _experiment(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m fa_lightning fit", add_help=False, allow_abbrev=False)
    parser.add_argument("--experiment", type=Path, default=None)
    parser.add_argument("--trainer", type=Path, default=None)
    parser.add_argument("--refit", action="append", default=[])
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(words)
    quiet()
    from fa_lightning.experiments.runner import run_experiment

    run_experiment(options.experiment or _default_experiment(), options.trainer, options.refit, options.seed)
    return 0


def _default_experiment() -> Path:
    """The embedded experiment: of the working folder, else of the checkout that the package was installed from."""
    here = Path(DEFAULT_EXPERIMENT)
    return here if here.is_dir() else Path(__file__).resolve().parent.parent / DEFAULT_EXPERIMENT
