"""`python -m fa_lightning report DIR`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Write the report of a folder; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fa_lightning report",
        description="Write DIR/report.html: the figures and tables of finished experiments in one self-contained file.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder of an experiment, or of several")
    from fa_lightning.reports.page import write_report

    print(write_report(parser.parse_args(list(arguments)).directory))
    return 0
