"""Measure fa_lightning beside what one would use otherwise; README.md says what each row is."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
README = Path(__file__).resolve().parent / "README.md"
ROWS = ("capture", "generation", "finetuning", "ridge", "evaluation", "growth", "startup", "frozen_half", "gpu")
OLDEST = 5
"""Rounds that a figure in the README needs at least."""
LOGGERS = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric")

EXAMPLES = """\
python -m benchmarks                    all rows, at the sizes of README.md
python -m benchmarks --quick            all rows in some minutes, at small sizes: a first impression
python -m benchmarks capture ridge      some rows
python -m benchmarks --write            and put the tables into benchmarks/README.md
"""


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        SystemExit: it makes no sense.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"what to measure, of {', '.join(ROWS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds; never written to the README")
    parser.add_argument("--rounds", type=int, help="timed rounds of each side (default 5; 2 with --quick)")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md, in place of those there")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write everything to FILE; rows that it holds and this run leaves out stay",
    )
    told = parser.parse_args(words)
    unknown = [row for row in told.rows if row not in ROWS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no row; there are {', '.join(ROWS)}")
    told.rows = told.rows or list(ROWS)
    if told.quick and told.write:
        parser.error("--quick measures at small sizes, which the README must not hold: leave out --write or --quick")
    told.rounds = told.rounds or (2 if told.quick else OLDEST)
    if told.write and told.rounds < OLDEST:
        parser.error(f"--rounds is {told.rounds}, but figures in the README need at least {OLDEST}")
    if told.write and set(told.rows) != set(ROWS) and not (told.json and told.json.is_file()):
        parser.error("--write replaces all tables: measure all rows, or give --json a file that holds the others")
    return told


def measured(told: argparse.Namespace) -> Iterator[Any]:
    """Each row's table, as it is found."""
    from benchmarks import capture, evaluation, finetuning, frozen_half, generation, gpu, growth, ridge, startup
    from benchmarks.models import FULL, QUICK, build
    from benchmarks.timing import Size

    size = Size(told.quick, told.rounds)
    with_model: dict[str, Callable[..., Any]] = {
        "capture": capture.run,
        "generation": generation.run,
        "finetuning": finetuning.run,
        "evaluation": evaluation.run,
    }
    alone: dict[str, Callable[..., Any]] = {
        "ridge": ridge.run,
        "growth": growth.run,
        "startup": startup.run,
        "frozen_half": frozen_half.run,
        "gpu": gpu.run,
    }
    with tempfile.TemporaryDirectory() as folder:
        workshop = None
        for row in told.rows:
            if row in alone:
                yield alone[row](size)
                continue
            if workshop is None:
                workshop = build(Path(folder), QUICK if told.quick else FULL, 64 if told.quick else 700)
            yield with_model[row](workshop, size)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and write what is asked for; returns the exit status."""
    told = parsed(words)
    with quiet():
        return run(told)


def run(told: argparse.Namespace) -> int:
    """Measure what was asked for, row by row."""
    import torch

    from benchmarks.report import as_json, from_json, machine, markdown, show, write_readme

    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    options = " --quick" if told.quick else ""
    where = f"`python -m benchmarks{options}`, {told.rounds} rounds, on {machine(torch.get_num_threads())}{load}"
    tables = {}
    if told.json and told.json.is_file():
        tables = {table.row: table for table in from_json(json.loads(told.json.read_text(encoding="utf-8")))}
    start = before = time.perf_counter()
    with contextlib.closing(measured(told)) as found:
        for table in found:
            table.measured = where
            tables[table.row] = table
            show(table)
            now = time.perf_counter()
            print(f"{table.row}: {now - before:.0f} s\n")
            before = now
            if told.json:
                # After each row: what was measured survives a row that fails.
                told.json.write_text(json.dumps(as_json(list(tables.values())), indent=1), encoding="utf-8")
    print(f"{time.perf_counter() - start:.0f} s on {where}")
    if told.write:
        write_readme(README, markdown(list(tables.values())))
    return 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what the libraries say while they are timed."""
    from transformers.utils import logging as transformers_logging

    from fa_lightning.experiments.lightning_cli import quiet as quiet_lightning

    quiet_lightning()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
