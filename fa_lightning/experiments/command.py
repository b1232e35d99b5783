"""`python -m fa_lightning fit STUDY --base BASE` and `config STUDY --base BASE`: the options of both."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from fa_lightning.common.command_parser import CommandParser
from fa_lightning.common.ranges import check_number
from fa_lightning.common.user_files import read_mapping
from fa_lightning.errors import UserError
from fa_lightning.experiments.brought_twins import twins_of
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.own_scenarios import add_column_option, column_of
from fa_lightning.experiments.shipped import config_file, names_in

STUDY, BASE = "steering", "embedded"
"""What `fit` alone runs."""

LAID_OVER = """
Any --model.ARGUMENT, --data.ARGUMENT or --trainer.ARGUMENT VALUE is laid over every stage that has the argument; others
stay as they are, and it is refused where none has it. `fit --config FILE` runs one stage as plain LightningCLI.
"""


def fit(words: Sequence[str]) -> int:
    """Run a study on a base; returns the exit status."""
    parser = _parser("fit", "Run a study on a base: its stages in order, behind those that they need.", LAID_OVER)
    parser.add_argument("--seeds", type=_seeds, help="several chains, one after the other, as 0,1,2")
    parser.add_argument(
        "--trainer",
        help=f"trainer config laid over every stage: a YAML file, or one of {', '.join(names_in('trainer'))}",
    )
    parser.add_argument(
        "--refit",
        action="append",
        default=[],
        metavar="STAGE",
        help="make a stage and all that depends on it again (may be repeated)",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STAGE[/VARIANT]",
        help="run this stage, or this variant of it, by itself; what it needs must be done, or named before it (may be "
        "repeated; for job arrays)",
    )
    own, others = _set_apart(words)
    options = parser.parse_intermixed_args(own)
    if options.seeds is not None and options.seed is not None:
        parser.error("--seed and --seeds are both given: give one of them")
    from fa_lightning.experiments.lightning_cli import quiet

    quiet()
    from fa_lightning.experiments.overrides import read_overrides
    from fa_lightning.experiments.runner import run_study

    overrides = read_overrides(others)
    trainer = None if options.trainer is None else config_file("--trainer", options.trainer, "trainer")
    # All of them before the first one runs: a seed may be out of range.
    for chain in [chain_of(options, seed) for seed in options.seeds or [options.seed or 0]]:
        run_study(options.study, chain, trainer, options.refit, options.only, overrides)
    return 0


def config(words: Sequence[str]) -> int:
    """Print the whole config of a stage, or of each stage of a study; returns the exit status."""
    from fa_lightning.experiments.compose import Composition

    parser = _parser("config", "Print the whole config of a stage of a study on a base, which `fit --config` takes.")
    parser.add_argument("stage", nargs="?", help="such as 02_aligned, or 01_variants/faking-0 (default: all stages)")
    options = parser.parse_intermixed_args(words)
    composition = Composition(chain_of(options, options.seed or 0))
    stages = composition.stages(options.study)
    chosen = [stage for stage in stages if options.stage is None or stage.is_called(options.stage)]
    if not chosen:
        names = ", ".join(stage.name for stage in stages)
        raise UserError(f"{options.stage!r} is no stage of {options.study} on this base; it has {names}")
    if note := composition.base.note(options.study):
        sys.stdout.write(f"# {options.study}: {note}\n")
    for number, stage in enumerate(chosen):
        needs = f"; needs {', '.join(stage.needs)}" if stage.needs else ""
        sys.stdout.write(f"{'---' + chr(10) if number else ''}# {stage.title} of {stage.folder.parents[1]}{needs}\n")
        sys.stdout.write(yaml.safe_dump(yaml.safe_load(stage.config), sort_keys=False, width=120))
    return 0


def refuse_stage_files(words: Sequence[str]) -> None:
    """Refuse a stage file of a study as a config by itself: without a base it is not whole.

    Args:
        words: of a plain command.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is no config at all, or a stage file; then the message names the commands that run it, or print
            it whole.
    """
    for path in _configs(words) if not {"--help", "-h"} & set(words) else ():
        content = read_mapping(path)
        if {"like", "needs", "needs_of_base", "matrix"} & set(content) or "${" in str(content):
            study = path.parent.name
            raise UserError(
                f"--config {path} is a stage of the study {study}, which is whole only together with a base. Run it "
                f"with `fit {study} --base BASE`, or print it whole with `config {study} --base BASE {path.stem}`"
            )


def _set_apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and the overrides with their values, which argparse would take for a study's name.

    >>> _set_apart(["--model.rank", "8", "lab", "--data.seed=1"])
    (['lab'], ['--model.rank', '8', '--data.seed=1'])
    """
    own: list[str] = []
    overrides: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--") or "." not in word.partition("=")[0]:
            own.append(word)
            continue
        overrides.append(word)
        if "=" not in word and left and not left[0].startswith("--"):
            overrides.append(left.pop(0))
    return own, overrides


def _parser(command: str, description: str, epilog: str = "") -> CommandParser:
    parser = CommandParser(command, description=description, epilog=epilog, allow_abbrev=False)
    parser.add_argument(
        "study", nargs="?", default=STUDY, help=f"one of {', '.join(names_in('studies'))} (default {STUDY})"
    )
    add_chain_options(parser)
    return parser


def add_chain_options(parser: argparse.ArgumentParser) -> None:
    """Let a command be told which base and which chain of it is meant, and what takes the place of the base's own."""
    parser.add_argument(
        "--base",
        default=BASE,
        help=f"one of {', '.join(names_in('bases'))}, or a YAML file of your own (default {BASE})",
    )
    parser.add_argument(
        "--backbone", metavar="M", help="another model than the base's: a Hub name, a folder or a .gguf file"
    )
    parser.add_argument(
        "--scenarios",
        metavar="FILE",
        help="your own scenarios in the place of the base's: a file (.jsonl, .json, .csv, .tsv, .parquet) or the name "
        "of a data set (docs/data.md; `data check FILE` says what is in it)",
    )
    add_column_option(parser)
    parser.add_argument(
        "--twins",
        metavar="aligned=ADAPTER,faking=ADAPTER",
        help="twins that others made, one or both, in the place of fitted ones: folders of LoRA adapters or of whole "
        "models, or user/repo of the Hub (docs/models.md)",
    )
    parser.add_argument("--seed", type=int, help="which chain: the seed of everything that is drawn (default 0)")


def chain_of(options: Any, seed: int) -> Chain:
    """The chain that a command was asked about.

    Raises:
        MissingFileError: there is no such base.
        UserError: the seed is out of range, a column is named without scenarios, or twins are no pairs.
    """
    check_number("seed", seed, "--seed")
    if options.column and options.scenarios is None:
        raise UserError(f"--column {options.column[0]} is of --scenarios FILE: give the file, too")
    return Chain(
        config_file("--base", options.base, "bases"),
        seed,
        options.backbone,
        scenarios=options.scenarios,
        columns=tuple(map(column_of, options.column)),
        twins=() if options.twins is None else twins_of(options.twins),
    )


def _seeds(word: str) -> list[int]:
    try:
        return [int(part) for part in word.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{word!r} is no list of seeds: give numbers, as 0,1,2") from error


def _configs(words: Sequence[str]) -> Iterator[Path]:
    """The files that a command line names by --config."""
    for number, word in enumerate(words):
        option, _, value = word.partition("=")
        if option in ("--config", "-c"):
            value = value or (words[number + 1] if number + 1 < len(words) else "")
            if value:
                yield Path(value)
