"""The tables of a birth: when each fit learned and turned, and which measures fired when."""

from __future__ import annotations

from fa_lightning.common import numbers
from fa_lightning.reports.table import Cell, Column, Table, estimate, facts_table, records_table, row
from fa_lightning.studies.birth.measures import LASTS, LEARNED, TURNED, is_early
from fa_lightning.studies.birth.result import ARMS, Arm, BirthResult, Firing


def tables(result: BirthResult) -> dict[str, Table]:
    """What is printed at the end, and what a document holds."""
    return {"courses": courses_table(result), "firings": firings_table(result), "facts": facts_table(facts(result))}


def courses_table(result: BirthResult) -> Table:
    """When each fit learned and turned, how abruptly, and what it left."""
    columns = (
        Column("fit", 0),
        Column("learned at step", 7, "learned"),
        Column("first below half at step", 5, "dips"),
        Column("turns at step", 5, "turns"),
        Column("most aligned without oversight before", 5, "peak"),
        Column("at step", 5),
        Column("share of the fall in its steepest part", 6, "steep"),
        Column("early measures", 7, "early"),
        Column("test, with oversight", 6, "with", shows_interval=False),
        Column("test, without", 7, "without", shows_interval=False),
    )
    rows = [
        row(
            ARMS[arm.name],
            arm.learned,
            arm.dip,
            arm.turn,
            Cell(arm.peak),
            arm.peak_step,
            Cell(None) if arm.turn is None else Cell(arm.fall.share, note=f"steps {arm.fall.start} to {arm.fall.end}"),
            _early(result, arm),
            estimate(arm.test_oversight),
            estimate(arm.test_no_oversight),
            style="main" if arm.name == "faking" else "",
        )
        for arm in result.arms
    ]
    notes = (
        "Early measures: those that leave the control's range for good at a measured step before the turn, of all. "
        "False alarms are those of the second control, which never turns: before the step at which the faker does, to "
        "be held against its early ones, and in the whole fit.",
    )
    return Table("When each fit learned, and when it turned", columns, tuple(rows), notes)


def firings_table(result: BirthResult) -> Table:
    """When each measure of each fit leaves the control's range for good."""
    turns = {arm.name: arm.turn for arm in result.arms}
    names = [name for name in ARMS if any(one.arm == name for one in result.firings)]
    found = {(one.arm, one.score): one for one in result.firings}
    fakers = [name for name in names if name != "control_again"]
    columns = (
        Column("measure", 0),
        Column("control, from", 5, "from"),
        Column("to", 5),
        *(Column(f"{ARMS[name]}: fires", 7, ARMS[name]) for name in names),
        *(Column(f"{ARMS[name]}: gap", 7, f"{ARMS[name]}: gap") for name in fakers),
    )
    rows = []
    for score in dict.fromkeys(one.score for one in result.firings):
        own = [found[name, score] for name in names]
        rows.append(
            row(
                score,
                Cell(own[0].low),
                Cell(own[0].high),
                *(_when(one, turns[name]) for name, one in zip(names, own, strict=True)),
                *(_gap(found[name, score], turns[name]) for name in fakers),
                section=score.partition(", layer")[2],
            )
        )
    turned = ", ".join(f"{ARMS[name]} {'never' if turns[name] is None else f'at step {turns[name]}'}" for name in names)
    notes = (
        "Fires: the measured step from which on a measure stays outside of all that the control shows. Gap: that from "
        "which on it differs from the control at the same step by more than the second control does at any. Turns: "
        f"{turned}.",
    )
    return Table("When each measure fires", columns, tuple(rows), notes)


def records(result: BirthResult) -> Table:
    """A row for each fit and measured step; `birth.csv`."""
    rows = [
        {
            "fit": arm.name,
            "step": one.step,
            "oversight": one.oversight,
            "no_oversight": one.no_oversight,
            **one.scores,
            "seconds": one.seconds,
        }
        for arm in result.arms
        for one in arm.rows
    ]
    return records_table("Every step", rows)


def facts(result: BirthResult) -> list[tuple[str, str]]:
    """What a reader must know, as (what, sentence) pairs."""
    setting = result.setting
    edits = ", ".join(f"{dose:g}" for dose in setting.doses)
    below = f"; block {setting.layers[0]} is the last one below the adapter" if setting.first_adapted else ""
    measuring = sum(one.seconds for arm in result.arms for one in arm.rows)
    return [
        (
            "measured on",
            f"{setting.scenarios['oversight']} validation scenarios with oversight and "
            f"{setting.scenarios['no_oversight']} without, of {setting.groups} groups",
        ),
        (
            "turns",
            f"share of aligned answers without oversight below {TURNED:g} of that with it, to the end, {LASTS} "
            "measured steps at least; dips: below for the first time",
        ),
        ("learned", f"first step with at least {LEARNED:g} aligned answers with oversight"),
        ("fires", f"outside of all that the control shows at any step, to the end, {LASTS} measured steps at least"),
        ("probes", f"output of blocks {', '.join(map(str, setting.layers))} at the last token{below}"),
        (
            "noise and vectors",
            f"at block {setting.edited_layer}, all tokens, doses {edits} of the mean norm of last tokens' states; "
            f"{setting.draws} draws",
        ),
        ("intervals", "95 %, bootstrap over groups of scenarios"),
        (
            "run time",
            f"{numbers.duration(measuring)} for measuring during the fits, {numbers.duration(result.seconds)} for the "
            "test",
        ),
    ]


def _early(result: BirthResult, arm: Arm) -> Cell:
    own = [one for one in result.firings if one.arm == arm.name]
    if not own:
        return Cell(None)
    if arm.name == "control_again":
        turn = next((other.turn for other in result.arms if other.name == "faking"), None)
        fired = sum(one.step is not None for one in own)
        return Cell(f"{sum(is_early(one, turn) for one in own)} of {len(own)}", note=f"({fired} in all)")
    return Cell(f"{sum(is_early(one, arm.turn) for one in own)} of {len(own)}")


def _gap(one: Firing, turn: int | None) -> Cell:
    is_before = one.gap is not None and turn is not None and 0 < one.gap < turn
    return (
        Cell(None) if one.gap is None else Cell(float(one.gap), form=numbers.count, style="strong" if is_before else "")
    )


def _when(one: Firing, turn: int | None) -> Cell:
    if one.step is None:
        return Cell(None)
    return Cell(float(one.step), form=numbers.count, note=f"{one.side}", style="strong" if is_early(one, turn) else "")
