"""`python -m fa_lightning report DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fa_lightning.common.command_parser import CommandParser


def main(arguments: Sequence[str]) -> int:
    """Write the report of a folder, or its tables in Markdown; returns the exit status."""
    parser = CommandParser(
        "report",
        description="Write DIR/report.html: the figures and tables of finished studies in one self-contained file.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder of an experiment, a study or a stage")
    parser.add_argument(
        "--markdown",
        nargs="?",
        const="",
        metavar="FILE",
        help="the tables in Markdown instead: printed, or put between the markers <!-- begin NAME --> and "
        "<!-- end NAME --> of FILE, of which all else stays as it is",
    )
    known = parser.parse_args(list(arguments))
    from fa_lightning.studies import finder, report

    if known.markdown is None:
        print(report.write_report(known.directory))
    elif known.markdown:
        print(report.write_markdown(known.directory, Path(known.markdown)))
    else:
        print(report.with_tables("", report.markdown_tables(finder.find_results(known.directory))), end="")
    return 0
