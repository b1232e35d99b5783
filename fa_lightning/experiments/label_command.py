"""`python -m fa_lightning data label FILE --base BASE`: a faker's answers, labelled by the base's judge as pairs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fa_lightning.common.command_parser import CommandParser
from fa_lightning.common.files import write_atomically
from fa_lightning.common.ranges import check_number
from fa_lightning.common.user_files import read_mapping
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.experiments.command import add_chain_options, chain_of

FAKER = "steering/03_faking/adapter"


def main(words: Sequence[str]) -> int:
    """Draw, label and write; returns the exit status."""
    options = _parser().parse_args(list(words))
    _refuse_wrong(options)
    from fa_lightning.experiments.lightning_cli import quiet

    quiet()
    from omegaconf import OmegaConf

    from fa_lightning.backbones.arguments import BackboneArguments
    from fa_lightning.backbones.contents import adapter_marks
    from fa_lightning.backbones.load import best_device
    from fa_lightning.backbones.variants import Variants
    from fa_lightning.common.instances import instance_of
    from fa_lightning.evaluation.feedback import feedback, pair_row, summary
    from fa_lightning.evaluation.judges import Judge
    from fa_lightning.experiments.compose import Composition
    from fa_lightning.scenarios.source import ScenarioSource
    from fa_lightning.scenarios.splits import counterbalanced, subset

    chain = chain_of(options, options.seed or 0)
    base: Any = Composition(chain).base.values
    if options.judge is None and base.judge is None:
        raise UserError(
            f"{chain.base} has no judge: write `judge:` with a class_path into it, or give --judge FILE (docs/data.md)"
        )
    # What they refer to is in the base around them.
    held = ("scenarios", "backbone") if options.judge is not None else ("scenarios", "backbone", "judge")
    spec: Any = {key: OmegaConf.to_container(base[key], resolve=True) for key in held}
    told = {"judge": read_mapping(options.judge)} if options.judge is not None else spec
    judge = instance_of(Judge, told["judge"], f"{options.judge or chain.base}: judge")  # type: ignore[type-abstract]
    source = instance_of(ScenarioSource, spec["scenarios"], f"{chain.base}: scenarios")  # type: ignore[type-abstract]
    splits = source.load()
    faker = chain.folder / FAKER
    if not adapter_marks(faker):
        raise MissingFileError(f"{faker} is not there: make the faker first, by `fit steering` with the same options")
    judge.reach()
    variants = Variants.load({"faking": str(faker)}, BackboneArguments(**spec["backbone"]), best_device())
    heard = feedback(
        variants,
        "faking",
        counterbalanced(subset(splits.train, options.prompts)),
        judge,
        options.draws,
        options.temperature,
        chain.seed,
        base.max_tokens,
    )
    if not heard.pairs:
        raise UserError(
            f"{summary(heard)}: nothing to learn from. Draw more answers (--draws, --temperature, --prompts), or mend "
            "the judge"
        )
    write_atomically(options.file, "".join(f"{json.dumps(pair_row(pair))}\n" for pair in heard.pairs).encode())
    sys.stdout.write(f"{options.file}: {summary(heard)}\n")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "data label",
        description="Draw answers of a base's faker to training prompts, let the base's judge say which are good, and "
        "write pairs of a good and a bad answer to the same prompt, on which DPO is fitted (docs/data.md).",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the pairs: a new file that ends in .jsonl")
    add_chain_options(parser)
    parser.add_argument(
        "--judge",
        metavar="FILE",
        type=Path,
        help="YAML with the class_path and init_args of a judge, in the place of the base's: one that trains a "
        "model had better not test it",
    )
    parser.add_argument("--prompts", type=int, default=256, metavar="N", help="at most so many (default 256)")
    parser.add_argument("--draws", type=int, default=4, metavar="N", help="answers to each prompt (default 4)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the draws (default 1)")
    return parser


def _refuse_wrong(options: argparse.Namespace) -> None:
    """Refuse what can't be done before anything is loaded.

    Raises:
        UserError: a number is out of range, or the file has another ending or is there already.
    """
    check_number("temperature", options.temperature, "--temperature")
    if options.prompts < 1:
        raise UserError(f"--prompts is {options.prompts}, but must be 1 or more")
    if options.draws < 2:
        raise UserError(f"--draws is {options.draws}, but a pair needs 2 answers or more to a prompt")
    if not options.temperature:
        raise UserError("--temperature is 0, but must be above 0: every draw would be the same")
    if options.file.suffix != ".jsonl":
        raise UserError(f"{options.file} is to hold JSON lines: give a name that ends in .jsonl")
    if options.file.exists():
        raise UserError(f"{options.file} is there already: give another name, or delete it")
