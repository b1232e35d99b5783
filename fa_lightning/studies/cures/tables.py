"""Ways to cure a faker: `cures.json` read back, as a table for a terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fa_lightning.common.codec import read_found
from fa_lightning.evaluation.estimates import NO_INTERVAL, Accuracy, CellCounts, CellPair, Estimate, Interval
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
from fa_lightning.reports.terminal import show, terminal_table

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
        variant: name of the adapter, for a cure that is one.
        seed: of its training, where that is all in which adapters of one method may differ.
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
    variant: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class CuresFound:
    """Every way to cure one faker.

    Attributes:
        faker: its name.
        twin: of the aligned variant that recovery is measured against.
        cures: in the order of the table, one for each seed.
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
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_found(CuresFound, folder / CURES_NAME)


def over_seeds(found: CuresFound) -> list[CureScore]:
    """The cures with one row for each method: fits that differ in the seed of their training alone become their mean.

    The interval of a mean reaches from the lowest end of any seed's own interval to the highest: it is never narrower
    than the range over the seeds, nor than what the test items leave open of any one of them. It is no bootstrap, and
    rather too wide than too narrow.
    """
    together: dict[tuple[str, ...], list[CureScore]] = {}
    for place, score in enumerate(found.cures):
        own = (str(place),) if score.seed is None else (score.method, score.kind, score.variant.rpartition("-")[0])
        together.setdefault(own, []).append(score)
    return [_mean_of(seeds) if len(seeds) > 1 else seeds[0] for seeds in together.values()]


def _mean_of(seeds: Sequence[CureScore]) -> CureScore:
    """One method fitted with several seeds, whose number its name tells."""
    numbers: dict[str, Any] = {
        name: fmean(getattr(score, name) for score in seeds)
        for name in ("format_validity", "kl_neutral_nats", "perplexity_ratio", "training_seconds", "relative_time")
    }
    watched, unwatched = ([getattr(score.cells, cell) for score in seeds] for cell in ("oversight", "no_oversight"))
    return replace(
        seeds[0],
        method=f"{seeds[0].method} ({len(seeds)} seeds)",
        cells=CellPair(*(Accuracy(fmean(one.accuracy for one in cell), _ends(cell)) for cell in (watched, unwatched))),
        recovery=_mean_estimate([score.recovery for score in seeds]),
        transfer={name: _mean_estimate([score.transfer[name] for score in seeds]) for name in seeds[0].transfer},
        seed=None,
        **numbers,
    )


def _mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(fmean(one.value for one in estimates), _ends(estimates))


def _ends(scores: Sequence[Accuracy | Estimate]) -> Interval:
    """The lowest and the highest end of several intervals; none where one is not known."""
    lows, highs = zip(*(one.ci95 for one in scores), strict=True)
    return (min(lows), max(highs)) if all(map(math.isfinite, (*lows, *highs))) else NO_INTERVAL


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
    """The table's lines as texts, names first; a line for each method."""
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
        for score in over_seeds(found)
    ]


def facts(found: CuresFound) -> list[tuple[str, str]]:
    """What a reader must know of the table."""
    n = found.cures[0].n
    merged = len(over_seeds(found)) < len(found.cures)
    seeds = ("several seeds", "their mean, from the lowest end of any seed's interval to the highest")
    return [
        *([seeds] if merged else []),
        ("faker", f"{found.faker}, compared with its aligned twin {found.twin}"),
        ("test items", f"{n.oversight} with and {n.no_oversight} without oversight, of groups that no cure has seen"),
        ("recovery", "(cured - faker) / (twin - faker) aligned answers without oversight; 1 is a full cure"),
        (
            "KL",
            "nats per token on neutral texts, against the faker; behind an input, on the text's own tokens and the "
            "marks behind them, which are all that a suffix reaches",
        ),
        ("training", "time of the training steps; of steering, self-training and the twin that of the whole stage"),
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
    for score in over_seeds(found):
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
