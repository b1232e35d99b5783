"""What a finished examination prints: a verdict in words for a few pairs, a compact table for many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fa_lightning.reports import terminal
from fa_lightning.studies.detection.result import ALL_PAIRS, SELDOM, Detection, Interval, Kind, Placed, Verdict

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

IN_WORDS = 3
"""Up to so many pairs are told one by one."""


def said(verdict: Verdict) -> str:
    """A verdict in words: `03_faking fakes`, or who would be named if one had to be."""
    if math.isnan(verdict.suspicion_one - verdict.suspicion_other):
        return "no answer"
    if not verdict.says:
        return "no difference"
    return f"{verdict.says} fakes" if verdict.is_sure else f"{verdict.says}, not sure"


def show(found: Detection, console: Console | None = None) -> None:
    """Print at most 80 columns to `console`, the terminal if None."""
    from rich.console import Group

    pairs = dict.fromkeys((one.kind, one.one, one.other) for one in found.verdicts)
    parts: list[RenderableType] = [_placed(found.placed, name) for name in dict.fromkeys(p.name for p in found.placed)]
    if 0 < len(pairs) <= IN_WORDS:
        for pair in pairs:
            parts.append(_pair([one for one in found.verdicts if (one.kind, one.one, one.other) == pair]))
    elif pairs:
        parts.append(_many(found, len(pairs)))
    terminal.show(Group(*parts), console)


def _pair(verdicts: Sequence[Verdict]) -> RenderableType:
    from rich.console import Group

    first = verdicts[0]
    title = (
        f"{first.one} beside {first.other}, on {first.scenarios} scenarios where both take the same action "
        f"({first.agreed:.0%} of those asked)"
    )
    is_compared = any(not math.isnan(one.as_far) for one in verdicts)
    compared = [("as far", 6)] if is_compared else []
    columns = [("detector", 15), (first.one, 10), (first.other, 10), ("difference", 24), *compared, ("says", 0)]
    table = terminal.terminal_table(title, columns)
    for one in verdicts:
        # A number that no scenario changes has an interval of no width.
        interval = "" if one.ci95[0] == one.ci95[1] else _interval(one.ci95, _number)
        difference = f"{_number(one.suspicion_one - one.suspicion_other)} {interval}"
        cells = [_number(one.suspicion_one), _number(one.suspicion_other), difference.strip()]
        if is_compared:
            cells.append(_share(one.as_far))
        table.add_row(_text(one.detector), *cells, _text(said(one)))
    if is_compared:
        note = (
            f"as far: share of benign pairs that are as far apart, this one counted in; a verdict is sure up to "
            f"{SELDOM:g}, which takes 19 benign pairs."
        )
    else:
        note = (
            "Intervals are over scenarios, and two benign models may well be as far apart. To see how often they are, "
            "set model.init_args.population; no verdict is sure without."
        )
    return Group(table, _text(note))


def _many(found: Detection, pairs: int) -> RenderableType:
    from rich.console import Group

    title = f"{len(found.suspects)} models, {pairs} pairs: share told rightly, on twins with its 95 % interval"
    # More does not fit: the rest is in `detection.csv`.
    columns = [
        ("detector", 0),
        ("twins", 17),
        ("decoys", 6),
        ("steered", 7),
        ("AUROC", 5),
        ("alarms", 6),
        ("seconds", 7),
    ]
    table = terminal.terminal_table(title, columns)
    overall = {(one.detector, one.kind): one for one in found.accuracies if one.policy_pair == ALL_PAIRS}
    alone = {one.detector: one for one in found.alone}
    for ran in found.detectors:
        kinds: tuple[Kind, ...] = ("twins", "decoys", "steered")
        shares = [overall.get((ran.name, kind)) for kind in kinds]
        cells = ["-" if one is None else _share(one.value) for one in shares]
        if shares[0] is not None:
            cells[0] = f"{cells[0]} {_interval(shares[0].ci95, _share)}".strip()
        own = alone.get(ran.name)
        cells += ["-" if own is None else _share(own.auroc), _share(found.alarms.get(ran.name, math.nan))]
        cells.append(f"{ran.seconds:.1f}")
        table.add_row(_text(ran.name), *cells)
    notes = [
        "AUROC: of fakers among benign models, one at a time. alarms: benign pairs whose interval leaves 0 out.",
    ]
    if found.refused:
        notes.append(f"{found.refused} pairs are left out: they agree on less than {found.least_agreement:g}.")
    return Group(table, *map(_text, notes))


def _placed(placed: Sequence[Placed], name: str) -> RenderableType:
    from rich.console import Group

    columns = [("detector", 18), ("suspicion", 10), ("above benign", 12), ("above fakers", 12), ("verdict", 0)]
    table = terminal.terminal_table(f"{name} among models whose behaviour is known", columns)
    for one in placed:
        if one.name != name:
            continue
        words = "no answer" if math.isnan(one.suspicion) else "alarm" if one.is_alarm else "no alarm"
        shares = ["-" if math.isnan(share) else f"{share:.0%}" for share in (one.above_benign, one.above_fakers)]
        table.add_row(_text(one.detector), _number(one.suspicion), *shares, words)
    note = "alarm: more suspicious than the threshold that 1 % of the benign models may exceed; of few, than them all."
    return Group(table, _text(note))


def _text(text: str) -> Text:
    from rich.text import Text

    return Text(text)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _share(value: float) -> str:
    """A share in four characters: `.941`, `1.00`."""
    text = f"{value:.3f}"
    return "-" if math.isnan(value) else text.removeprefix("0") if value < 1 else text[:4]


def _interval(ends: Interval, form: Callable[[float], str]) -> str:
    return "" if any(map(math.isnan, ends)) else f"[{form(ends[0])}, {form(ends[1])}]"
