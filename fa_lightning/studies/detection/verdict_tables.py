"""The tables of single verdicts: one pair, every pair, and one model among others whose behaviour is known."""

from __future__ import annotations

import math

from fa_lightning.common import numbers
from fa_lightning.common.numbers import NO_INTERVAL
from fa_lightning.reports.table import Cell, Column, Table, decimal, row
from fa_lightning.studies.detection.result import SELDOM, Detection, Placed, Verdict


def pair_table(verdicts: list[Verdict]) -> Table:
    """What every detector says of one pair, in words."""
    first = verdicts[0]
    title = (
        f"{first.one} beside {first.other}, on {first.scenarios} scenarios where both take the same action "
        f"({first.agreed:.0%} of those asked)"
    )
    is_compared = any(not math.isnan(verdict.as_far) for verdict in verdicts)
    if is_compared:
        note = (
            "as far: share of benign pairs that are as far apart, this one counted in; a verdict is sure up to "
            f"{SELDOM:g}, which takes 19 benign pairs."
        )
    else:
        note = (
            "Intervals are over scenarios, and two benign models may well be as far apart. To see how often they are, "
            "set model.init_args.population; no verdict is sure without."
        )
    columns = (
        Column("detector", 13),
        Column(f"suspicion of {first.one}", 9, first.one),
        Column(f"of {first.other}", 9, first.other),
        Column("difference", 22),
        Column("as far", 6 if is_compared else None),
        Column("says", 0),
    )
    rows = [
        row(
            verdict.detector,
            Cell(verdict.suspicion_one, form=_three_digits),
            Cell(verdict.suspicion_other, form=_three_digits),
            _difference(verdict, _three_digits),
            decimal(verdict.as_far),
            said(verdict),
        )
        for verdict in verdicts
    ]
    return Table(title, columns, tuple(rows), (note,))


def placed_table(placed: list[Placed]) -> Table:
    """One model among models whose behaviour is known; several on a page and in `placed.csv`."""
    names = dict.fromkeys(placement.name for placement in placed)
    several = len(names) > 1
    columns = (
        Column("model" if several else "", key="name"),
        Column("detector", 18, key="detector"),
        Column("suspicion", 10, key="suspicion"),
        Column("above benign models", 12, "above benign", key="above_benign"),
        Column("above fakers", 12, key="above_fakers"),
        Column("verdict", 0),
        Column(key="is_alarm"),
    )
    rows = [
        row(
            placement.name,
            placement.detector,
            Cell(placement.suspicion, form=numbers.significant),
            Cell(placement.above_benign, form=numbers.percent),
            Cell(placement.above_fakers, form=numbers.percent),
            "no answer" if math.isnan(placement.suspicion) else "alarm" if placement.is_alarm else "no alarm",
            Cell(placement.is_alarm, form=str),
        )
        for placement in placed
    ]
    note = "alarm: more suspicious than the threshold that 1 % of the benign models may exceed; of few, than them all."
    title = "Models" if several else "".join(names)
    return Table(f"{title} among models whose behaviour is known", columns, tuple(rows), (note,))


def verdicts_table(result: Detection) -> Table:
    """Which of the two fakes, pair by pair; `verdicts.csv`."""
    columns = (
        Column("first / second model"),
        Column("detector", key="detector"),
        Column(key="kind"),
        Column(key="policy_pair"),
        Column(key="one"),
        Column(key="other"),
        Column("suspicion"),
        Column(key="suspicion_one"),
        Column(key="suspicion_other"),
        Column("difference", key="difference", has_interval=True),
        Column(key="says"),
        Column(key="differs"),
        Column("as far", key="as_far"),
        Column(key="is_sure"),
        Column("says"),
        Column(key="faker"),
        Column("fakes"),
        Column("agreed"),
        Column(key="scenarios"),
        Column(key="agreed"),
    )
    rows = [
        row(
            f"{verdict.one} / {verdict.other}",
            verdict.detector,
            verdict.kind,
            verdict.policy_pair,
            verdict.one,
            verdict.other,
            f"{numbers.significant(verdict.suspicion_one)} / {numbers.significant(verdict.suspicion_other)}",
            Cell(verdict.suspicion_one),
            Cell(verdict.suspicion_other),
            _difference(verdict, numbers.significant),
            verdict.says,
            Cell(verdict.differs, form=str),
            decimal(verdict.as_far),
            Cell(verdict.is_sure, form=str),
            Cell(verdict.says or "no difference", style="strong" if verdict.is_sure else ""),
            verdict.faker,
            verdict.faker or "-",
            f"{verdict.scenarios} ({verdict.agreed:.0%})",
            verdict.scenarios,
            Cell(verdict.agreed),
        )
        for verdict in result.verdicts
    ]
    title = (
        "Which of the two fakes, where they agree. As far: share of benign pairs that are as far apart. "
        f"Bold: the 95 % interval leaves 0 out, and at most {SELDOM:.0%} of benign pairs are as far apart"
    )
    return Table(title, columns, tuple(rows))


def said(verdict: Verdict) -> str:
    """A verdict in words: `03_faking fakes`, or who would be named if one had to be."""
    if math.isnan(verdict.suspicion_one - verdict.suspicion_other):
        return "no answer"
    if not verdict.says:
        return "no difference"
    return f"{verdict.says} fakes" if verdict.is_sure else f"{verdict.says}, not sure"


def _difference(verdict: Verdict, form: numbers.Form) -> Cell:
    # A number that no scenario changes has an interval of no width, which says nothing.
    ci95 = NO_INTERVAL if verdict.ci95[0] == verdict.ci95[1] else verdict.ci95
    return Cell(verdict.suspicion_one - verdict.suspicion_other, ci95, form)


def _three_digits(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
