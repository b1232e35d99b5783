"""What a run found, as a table in the terminal and as Markdown between two marks in README.md."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Spread

START, END = "<!-- benchmarks: start -->", "<!-- benchmarks: end -->"
LIBRARIES = ("torch", "transformers", "peft", "lightning", "scikit-learn", "nnsight", "pyvene", "trl")


@dataclass(frozen=True)
class Goal:
    """What is asked of a figure: at least `value`, or at most."""

    value: float
    at_most: bool = False

    def met(self, figure: float) -> bool:
        """Whether the figure reaches it."""
        return figure <= self.value if self.at_most else figure >= self.value


@dataclass(frozen=True)
class Line:
    """One comparison.

    Attributes:
        what: what is compared with what.
        figure: the ratio (or what `unit` says); None leaves the cell empty, and `note` says why.
        note: the medians behind it, or the reason why there is none.
        goal: what is asked, if anything.
        unit: `x` for a ratio.
    """

    what: str
    figure: Spread | None
    note: str = ""
    goal: Goal | None = None
    unit: str = "x"

    @property
    def value(self) -> str:
        """The figure as it is shown, with its quartiles where they differ."""
        if self.figure is None:
            return ""
        shown = f"{self.figure.median:.{digits(self.figure.median)}f} {self.unit}"
        if self.figure.low == self.figure.high:
            return shown
        return f"{shown} [{', '.join(f'{end:.{digits(end)}f}' for end in (self.figure.low, self.figure.high))}]"

    @property
    def asked(self) -> str:
        """The goal as it is shown."""
        if self.goal is None:
            return ""
        return f"{'<=' if self.goal.at_most else '>='} {self.goal.value:g} {self.unit}"

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing."""
        if self.goal is None or self.figure is None:
            return ""
        return "met" if self.goal.met(self.figure.median) else "missed"


@dataclass
class Table:
    """One row of the issue: its comparisons, and what both sides did.

    Attributes:
        row: its name on the command line.
        title: in words.
        setting: model, data, sizes, what is held equal, and what was checked before timing.
        lines: the comparisons.
        measured: by which command, on what machine.
    """

    row: str
    title: str
    setting: str
    lines: list[Line] = field(default_factory=list)
    measured: str = ""


def digits(value: float) -> int:
    """Decimals that leave three significant figures, and at least two.

    >>> digits(0.00123), digits(12.3)
    (5, 2)
    """
    places = 2
    while abs(value) * 10 ** (places - 2) < 1 and places < 6 and value:
        places += 1
    return places


def machine(threads: int) -> str:
    """Where it was measured, in one paragraph."""
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} -")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    return (
        f"{processor()}, {os.cpu_count()} cores, {threads} threads, {memory:.0f} GiB, {gpu}; Python "
        f"{platform.python_version()}, {', '.join(versions)}"
    )


def processor() -> str:
    """The CPU's name."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def markdown(tables: list[Table]) -> str:
    """The section of README.md; a machine that measured several rows is described once."""
    parts = [
        "A figure is the median over the rounds of one run, sides in turns after a warm-up, with quartiles in "
        "brackets; a ratio is taken within each round. Seconds behind a figure are medians, fa_lightning's first."
    ]
    before = ""
    for table in sorted(tables, key=lambda table: table.title):
        if table.measured != before:
            parts.append(f"Measured by {table.measured}.")
            before = table.measured
        parts.append(f"### {table.title}\n\n{table.setting}")
        rows = [
            f"| {escaped(line.what)} | {line.value} | {line.asked} | {line.verdict} | {escaped(line.note)} |"
            for line in table.lines
        ]
        parts.append("\n".join(["| what | figure | goal | | behind it |", "| --- | --- | --- | --- | --- |", *rows]))
    return "\n\n".join(parts)


def escaped(text: str) -> str:
    """Text that cannot end a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def write_readme(path: Path, section: str) -> None:
    """Put the section between the marks, in place of what is there; nothing else changes.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"{path} must hold the lines {START} and {END}, once each and in this order: put them back")
    before, rest = text.split(START)
    _, after = rest.split(END)
    path.write_text(f"{before}{START}\n\n{section}\n\n{END}{after}", encoding="utf-8")


def show(table: Table) -> None:
    """Print one table."""
    from rich.console import Console
    from rich.table import Table as Grid

    grid = Grid("what", "figure", "goal", "", "behind it", title=table.title, caption=table.setting, show_lines=False)
    for line in table.lines:
        grid.add_row(line.what, line.value, line.asked, line.verdict, line.note)
    console = Console()
    # Lines as long as they need be where nobody looks at a terminal.
    Console(width=console.width if console.is_terminal else 200).print(grid)


def as_json(tables: list[Table]) -> list[dict[str, Any]]:
    """Everything, for a file; a goal's verdict is written along."""
    return [
        {**asdict(table), "lines": [{**asdict(line), "verdict": line.verdict} for line in table.lines]}
        for table in tables
    ]


def from_json(written: list[dict[str, Any]]) -> list[Table]:
    """The tables that `as_json` wrote."""
    tables = []
    for table in written:
        lines = [
            Line(
                line["what"],
                None if line["figure"] is None else Spread(**line["figure"]),
                line["note"],
                None if line["goal"] is None else Goal(**line["goal"]),
                line["unit"],
            )
            for line in table["lines"]
        ]
        tables.append(Table(table["row"], table["title"], table["setting"], lines, table["measured"]))
    return tables
