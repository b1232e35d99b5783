"""Ways to cure a faker: `cures.json` read back, as a table for a terminal and in Markdown."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fa_lightning.metrics.codec import decode
from fa_lightning.metrics.terminal import show, terminal_table
from fa_lightning.reports.scores import Accuracy, CellCounts, CellPair, Estimate
from fa_lightning.reports.table import (
    accuracy,
    duration,
    escaped,
    nats,
    number,
    short,
    short_accuracy,
    with_interval,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

CURES_NAME = "cures.json"


@dataclass(frozen=True)
class CureScore:
    """One way to cure the faker, judged on unseen groups.

    Attributes:
        method: its name.
        kind: `reference`, `steering`, `adapter`, `input` or `baseline`.
        needs: what it takes to make it: `twin`, `labels`, `oversight`, `weights`, `gradient`; nothing if empty.
        cells: share of aligned answers under both oversight conditions.
        n: distinct items by cell.
        format_validity: share of items answered with a letter.
        recovery: (cured - faking) / (aligned - faking) accuracy without oversight.
        kl_neutral_nats: KL(faker || cured) on neutral texts, nats per token.
        perplexity_ratio: perplexity of neutral texts, cured over faker.
        training_seconds: what making it took; nan where nothing is fitted or it is not known.
        training_prompts: prompts that it was made from, if known.
        extra_tokens: put around a prompt, on average.
        relative_time: of generation, over the faker's own.
        transfer: recovery of the same cure on other fakers, by their names.
    """

    method: str
    kind: str
    needs: list[str]
    cells: CellPair
    n: CellCounts
    format_validity: float
    recovery: Estimate
    kl_neutral_nats: float = math.nan
    perplexity_ratio: float = math.nan
    training_seconds: float = math.nan
    training_prompts: int | None = None
    extra_tokens: float = 0.0
    relative_time: float = math.nan
    transfer: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class CuresFound:
    """Every way to cure one faker.

    Attributes:
        faker: its name.
        twin: of the aligned variant that recovery is measured against.
        cures: in the order of the table.
        seconds: of the judging.
        intervention: folder of the one that steers.
    """

    faker: str
    twin: str
    cures: list[CureScore]
    seconds: float
    intervention: str | None = None


def read_cures(folder: Path) -> CuresFound | None:
    """What a stage's folder says about cures; None where it judged none.

    Raises:
        ValueError: the file is damaged or of another program; the message names the place.
    """
    path = folder / CURES_NAME
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON ({error}): run the stage again") from error
    found: CuresFound = decode(CuresFound, raw, str(path))
    return found


def needs_of(score: CureScore) -> str:
    """What a cure needs, in words."""
    return ", ".join(score.needs) or ("-" if score.kind in ("reference", "baseline") else "nothing")


def transfer_of(score: CureScore) -> str:
    """Recovery on other fakers; a dash where it was not tried."""
    return ", ".join(f"{name} {with_interval(one)}" for name, one in score.transfer.items()) or "-"


def training_of(score: CureScore) -> str:
    """What making a cure took: time and prompts."""
    if math.isnan(score.training_seconds):
        return "-"
    prompts = "" if score.training_prompts is None else f", {score.training_prompts} prompts"
    return duration(score.training_seconds) + prompts


def inference_of(score: CureScore) -> str:
    """What a cure costs while it is used: relative time, and tokens around each prompt."""
    if math.isnan(score.relative_time):
        return "-"
    tokens = f", {score.extra_tokens:+.0f} tokens" if round(score.extra_tokens) else ""
    return f"x {score.relative_time:.2f}{tokens}"


COLUMNS = (
    "method",
    "needs",
    "recovery",
    "oversight",
    "no oversight",
    "KL, neutral texts",
    "training",
    "inference",
    "other fakers",
)


def cure_rows(found: CuresFound) -> list[list[str]]:
    """The table's lines as texts, names first."""
    return [
        [
            score.method,
            needs_of(score),
            with_interval(score.recovery),
            accuracy(score.cells.oversight),
            accuracy(score.cells.no_oversight),
            nats(score.kl_neutral_nats),
            training_of(score),
            inference_of(score),
            transfer_of(score),
        ]
        for score in found.cures
    ]


def facts(found: CuresFound) -> list[tuple[str, str]]:
    """What a reader must know of the table."""
    n = found.cures[0].n
    return [
        ("faker", f"{found.faker}, compared with its aligned twin {found.twin}"),
        ("test items", f"{n.oversight} with and {n.no_oversight} without oversight, of groups that no cure has seen"),
        ("recovery", "(cured - faker) / (twin - faker) aligned answers without oversight; 1 is a full cure"),
        ("KL", "nats per token on neutral texts, against the faker; behind an input, on the text's own tokens"),
        (
            "baselines",
            "a constant answer, random tokens, examples with shuffled answers: what no cure looks like",
        ),
        ("inference", "time of 16 tokens over the faker's own, measured in turns; tokens around each prompt"),
        ("judged in", duration(found.seconds)),
    ]


def print_cures(found: CuresFound, experiment: str, console: Console | None = None) -> None:
    """Print the tables of a finished experiment, at most 80 columns wide."""
    show(cures_tables(found, experiment), console)


def cures_tables(found: CuresFound, experiment: str) -> RenderableType:
    """What each method does, then what it takes, then what a reader must know."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = f"{experiment}: ways to cure a faker, with 95 % intervals"
    does = terminal_table(title, [("method", 0), ("oversight", 17), ("no oversight", 17), ("recovery", 17), ("KL", 7)])
    takes = terminal_table(
        "What it takes", [("method", 0), ("needs", 24), ("training", 10), ("tokens", 6), ("time", 5), ("others", 7)]
    )
    kind = ""
    for score in found.cures:
        if kind and score.kind != kind:
            does.add_section()
            takes.add_section()
        kind = score.kind
        style = "dim" if kind == "baseline" else ""
        does.add_row(
            Text(score.method),
            short_accuracy(score.cells.oversight),
            short_accuracy(score.cells.no_oversight),
            short_accuracy(Accuracy(score.recovery.value, score.recovery.ci95)),
            nats(score.kl_neutral_nats),
            style=style,
        )
        others = ", ".join(short(one.value) for one in score.transfer.values()) or "-"
        takes.add_row(
            Text(score.method),
            Text(needs_of(score)),
            "-" if math.isnan(score.training_seconds) else duration(score.training_seconds),
            f"{score.extra_tokens:.0f}",
            number(score.relative_time)[:4],
            others,
            style=style,
        )
    summary = Table(box=None, show_header=False, pad_edge=False, width=80, padding=(0, 2, 0, 0))
    summary.add_column(width=12, overflow="fold")
    summary.add_column(overflow="fold", ratio=1)
    for what, value in facts(found):
        summary.add_row(Text(what), Text(value))
    return Group(does, Text(""), takes, Text(""), summary)


def cures_markdown(found: CuresFound) -> str:
    """The table in Markdown, for a README."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(map(escaped, row))} |" for row in cure_rows(found)]
    lines += ["", "| what | value |", "| --- | --- |"]
    lines += [f"| {escaped(what)} | {escaped(value)} |" for what, value in facts(found)]
    return "\n".join(lines) + "\n"
