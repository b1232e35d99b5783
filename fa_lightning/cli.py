"""The command line: which command was asked for, and the one LightningCLI behind it."""

from __future__ import annotations

import argparse
import codecs
import io
import locale
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fa_lightning.errors import UserError

DEFAULT_EXPERIMENT = "configs/embedded"

HELP = """usage: python -m fa_lightning COMMAND ...

Make an alignment-faking language model and its honest twin, learn the map from one to the other, and steer with it.

commands:
  fit                            run the experiment configs/embedded: no network, a few minutes on 2 cores
  fit --experiment DIR           run another experiment folder: its numbered stages in order, each skipped when done
                                 and resumed when interrupted; configs/embedded_lab is the steering lab: every method,
                                 layer and dose on the twins of configs/embedded, compared at equal damage;
                                 configs/embedded_mitigation trains its faker on its own watched answers, under noise
      --trainer FILE             lay a trainer config over every stage (configs/trainer: cpu, gpu, ddp, fsdp)
      --refit STAGE              make a stage and all that depends on it again (may be repeated)
      --seed N                   another seed for every stage
      --model.init_args.backbone NAME_OR_PATH
                                 another model; likewise any --model..., --data... or --trainer.ARGUMENT VALUE: laid
                                 over every stage that has the argument, others stay as they are; refused if none has it
  fit|validate|test --config FILE ...
                                 one stage, plain LightningCLI (see `fit --help`)
  generate ...                   steered beside unsteered text, from any saved interventions (see `generate --help`)
  report DIR                     write DIR/report.html: figures and tables in one file
  template --model NAME_OR_PATH  check a model's chat template: what it will see, token by token, with the loss mask

POSER's folder is found by its argument, then the variable POSER_ROOT, then ./POSER.
"""


CONFIG_OPTIONS = ("--config", "-c", "--model", "--data", "--trainer")
"""Options of LightningCLI whose value may be a file."""
OTHERS_WARNINGS = (
    # Lightning 2.6 on torch 2.13, peft 0.21 on transformers 5.23.
    r".*isinstance.treespec, LeafSpec.*",
    r".*is_gradient_checkpointing. is deprecated.*",
    # Stages are configured in-process on purpose, and their record is in their checkpoint folder before they start.
    r"LightningCLI's args parameter is intended.*",
    r"Checkpoint directory .* exists and is not empty.*",
    # The ranks have put together what is logged at the end of an epoch already.
    r"It is recommended to use .self.log.*sync_dist=True.*",
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
    # Read once, when torch is loaded. By default a thread that waits for the next kernel spins for milliseconds; beside
    # another busy process all threads then wait for one another (measured in benchmarks/README.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    write_whatever_the_encoding()
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(HELP)
        return 0
    try:
        return _run(command, words[1:])
    except Exception as error:
        if not _is_mendable(error) or os.environ.get("FA_LIGHTNING_TRACE"):
            raise
        print(f"error: {error}" if str(error) else f"error: {type(error).__name__}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, SystemExit) as stopped:
        # Lightning turns Ctrl+C into an exit without a word.
        if isinstance(stopped, SystemExit) and not isinstance(stopped.__context__, KeyboardInterrupt):
            raise
        resumes = command == "fit" and not _is_plain(words[1:])
        print(f"interrupted: run the same command again{' to resume' if resumes else ''}", file=sys.stderr)
        return 130


def write_whatever_the_encoding() -> None:
    """Show a question mark for what an output can't hold: pipes on Windows and plain locales know few letters."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that a test or a notebook has put there may know no encoding at all.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _is_mendable(error: Exception) -> bool:
    """Whether a user can mend it; anything else is a fault of ours, and shows where.

    Besides our own class: what the operating system refuses (a full disk, a file without permission), memory that ran
    out, a lost rank, and Lightning's words for a Trainer or a callback that can't be.
    """
    # Memory that ran out and a lost rank are RuntimeErrors in torch; Lightning's class would cost seconds to import.
    explained = hasattr(error, "ran_out") or hasattr(error, "lost_rank")
    refused = isinstance(error, OSError) and error.errno is not None
    named = type(error).__name__ == "MisconfigurationException"
    # As EarlyStopping with a metric that no module logs.
    of_callback = _raised_in(error).startswith("lightning.pytorch.callbacks.")
    return isinstance(error, (UserError, MemoryError)) or refused or explained or named or of_callback


def _raised_in(error: BaseException) -> str:
    """The module whose function raised an error; empty for one that was never raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def lightning_cli(
    arguments: Sequence[str], run: bool = True, until: Literal["config", "classes", "trainer"] = "trainer"
) -> Any:
    """The LightningCLI over any module and DataModule of the package.

    Args:
        arguments: of the command line.
        run: the command in them; False only instantiates.
        until: `config` only reads it, `classes` also makes all that it names, without a Trainer around them.

    Raises:
        UserError: the config is refused, by the parser or by a class that it names; the message is one line.
    """
    quiet()
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from fa_lightning.common.ranges import refuse_numbers
    from fa_lightning.common.refusals import refusals_told, refuse_checkpoint
    from fa_lightning.experiments.device import DeviceReport
    from fa_lightning.experiments.locks import FitLock
    from fa_lightning.experiments.precision import fast_precision
    from fa_lightning.experiments.ranks import StopTogether
    from fa_lightning.experiments.resume import Resumable
    from fa_lightning.experiments.trial import delete_all, send_away

    _record_configs_plainly()
    away: list[Path] = []
    report = DeviceReport()
    words = list(_readable(arguments))

    class StageCLI(LightningCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            with refusals_told():
                super().parse_arguments(parser, args)
            config = self.config.as_dict()
            of_command = config.get(config.get("subcommand"), config)
            refuse_numbers(of_command)
            refuse_checkpoint(of_command.get("ckpt_path"))

        def instantiate_trainer(self, **options: Any) -> Any:
            """The Trainer; a precision that the config leaves open is chosen here, and stays open in the config."""
            trainer = self._get(self.config_init, "trainer")
            if trainer["precision"] is None and not trainer["plugins"]:
                report.chosen = options["precision"] = fast_precision(str(trainer["accelerator"]))
            return super().instantiate_trainer(**options)

        def instantiate_classes(self) -> None:
            if until == "config":
                return
            with refusals_told():
                if until == "classes":
                    self.parser.instantiate_classes(self.config)
                else:
                    super().instantiate_classes()
                    trainer: Any = self.trainer
                    if run and trainer.fast_dev_run:
                        away.extend(send_away(self.model, self.datamodule, *trainer.callbacks))

    try:
        return StageCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": [FitLock(), report, Resumable(), StopTogether()]},
            seed_everything_default=0,
            parser_kwargs={"prog": "python -m fa_lightning", "exit_on_error": False},
            auto_configure_optimizers=False,
            args=words,
            run=run,
        )
    finally:
        delete_all(away)


def _record_configs_plainly() -> None:
    """Let the parser write configs with escapes where its files, opened by the locale, can't hold all letters."""
    import jsonargparse
    import yaml

    if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
        jsonargparse.set_dumper("yaml", partial(yaml.safe_dump, sort_keys=False, default_flow_style=False))


def _readable(words: Sequence[str]) -> Iterator[str]:
    """The words, with the text of every config file that the parser, which opens it by the locale, may read wrongly.

    Raises:
        UserError: a config is no text in UTF-8.
    """
    from fa_lightning.common.user_files import decoded

    option = ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("-") else (option, "", word)
        option = "" if equals else name
        if value and name in CONFIG_OPTIONS and Path(value).suffix in (".yaml", ".yml", ".json"):
            path = Path(value)
            content = path.read_bytes() if path.is_file() else b""
            value = value if content.isascii() else decoded(content, path)
        yield f"{name}={value}" if equals else value if not word.startswith("-") else word


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


RANKS = ("RANK", "LOCAL_RANK")
LAUNCHERS = ("WORLD_SIZE", "MASTER_PORT", "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE", "JSM_NAMESPACE_RANK")
"""Variables of which each way to start several ranks sets one: Lightning's own, torchrun, SLURM, MPI, LSF, by hand."""


def _refuse_left_over_rank() -> None:
    """Refuse to be a rank that no launcher has started: it would compute all, and leave the writing to rank zero.

    Raises:
        UserError: naming the variable.
    """
    if any(name in os.environ for name in LAUNCHERS):
        return
    for name in RANKS:
        if os.environ.get(name, "0") != "0":
            raise UserError(
                f"{name} is {os.environ[name]!r} in the environment, but no launcher has started this process (none of "
                f"{', '.join(LAUNCHERS)} is set): as such a rank it would write nothing. Left over from another job? "
                f"Run it without (env -u {name} ...)"
            )


def _run(command: str, words: list[str]) -> int:
    if command in ("fit", "validate", "test"):
        _refuse_left_over_rank()
    if command == "fit" and not _is_plain(words):
        return _experiment(words)
    if command in ("fit", "validate", "test"):
        from fa_lightning.experiments.matrix import refuse_matrix

        refuse_matrix(words)
        lightning_cli([command, *words])
        return 0
    if command == "report":
        from fa_lightning.reports.command import main as report

        return report(words)
    if command == "generate":
        from fa_lightning.steering.generate_command import main as generate

        quiet()
        return generate(words)
    if command == "template":
        from fa_lightning.backbones.template_command import main as template

        quiet()
        return template(words)
    commands = "fit, validate, test, generate, report and template"
    raise UserError(f"{command!r} is no command; there are {commands} (--help)")


def _is_plain(words: list[str]) -> bool:
    """Whether a `fit` names its own config, and so is one stage for LightningCLI."""
    options = [word.split("=")[0] for word in words]
    marks = ("--config", "-c", "--model", "--data", "--print_config", "--help", "-h")
    return "--experiment" not in options and any(option.split(".")[0] in marks for option in options)


def _experiment(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m fa_lightning fit", add_help=False, allow_abbrev=False)
    parser.add_argument("--experiment", type=Path, default=None)
    parser.add_argument("--trainer", type=Path, default=None)
    parser.add_argument("--refit", action="append", default=[])
    parser.add_argument("--seed", type=int, default=None)
    options, others = parser.parse_known_args(words)
    if {"--help", "-h"} & set(others):
        print(HELP)
        return 0
    undotted = [word for word in others if word.startswith("--") and "." not in word.partition("=")[0]]
    if undotted:
        parser.error(f"unrecognized arguments: {' '.join(undotted)}")
    quiet()
    from fa_lightning.experiments.overrides import read_overrides
    from fa_lightning.experiments.runner import run_experiment

    overrides = read_overrides(others)
    experiment = options.experiment or _default_experiment()
    run_experiment(experiment, options.trainer, options.refit, options.seed, overrides)
    return 0


def _default_experiment() -> Path:
    """The embedded experiment: of the working folder, else of the checkout that the package was installed from."""
    here = Path(DEFAULT_EXPERIMENT)
    return here if here.is_dir() else Path(__file__).resolve().parent.parent / DEFAULT_EXPERIMENT
