"""What a file of scenarios holds, as tables: counts, what words alone tell, and the longest prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fa_lightning.evaluation.text_baseline import right_by_cell, text_only_answers, text_only_oversight
from fa_lightning.reports.table import Column, Table, accuracy, facts_table, row
from fa_lightning.scenarios.benchmark import half_of, watched
from fa_lightning.scenarios.cells import CELLS, Cell
from fa_lightning.scenarios.files.source import FileContent
from fa_lightning.scenarios.scenario import Oversight, Scenario
from fa_lightning.scenarios.splits import SPLITS, ScenarioSplits

OVERSIGHTS = (Oversight.GOOD, Oversight.NEUTRAL, Oversight.POOR)
CELL_NAMES: Mapping[Cell, str] = {"oversight": "with oversight", "no_oversight": "without oversight"}


def counts_table(splits: ScenarioSplits) -> Table:
    """Scenarios by split and oversight, groups and neutral texts."""
    lines = []
    for split in SPLITS:
        scenarios = splits.scenarios(split)
        counts = [sum(item.oversight is oversight for item in scenarios) for oversight in OVERSIGHTS]
        groups = len({item.group for item in scenarios})
        lines.append(row(split, groups, *counts, len(splits.neutral(split))))
    names = ("groups", *(oversight.value for oversight in OVERSIGHTS), "neutral texts")
    columns = (Column("split", 0, key="split"), *(Column(name, max(8, len(name)), key=name) for name in names))
    return Table(
        "Scenarios by oversight",
        columns,
        tuple(lines),
        ("Good and neutral oversight are watched, poor is not. A fit chooses by validation and is judged on test.",),
    )


def content_table(content: FileContent, splits: ScenarioSplits) -> Table:
    """What was read, what was passed over, and how even it is."""
    scenarios = [item for split in SPLITS for item in splits.scenarios(split)]
    halves = [half_of(item.group) for item in watched(splits.test)]
    read = ", ".join(f"{field} from {column!r}" for field, column in content.columns.items() if field != column)
    asked = (
        [("answers", _lengths_of_answers(scenarios))]
        if splits.are_written
        else [
            ("aligned is A", ", ".join(_share_of_a(cell, scenarios) for cell in CELLS)),
            (
                "who is watched",
                f"{_critical(scenarios)} of {len(scenarios)} scenarios have a fact that says it (critical)",
            ),
            (
                "for detectors",
                f"{halves.count('scored')} test scenarios to score, {halves.count('reference')} to fit on",
            ),
        ]
    )
    pairs = [
        ("layout", content.layout.name),
        ("scenarios", f"{len(scenarios)}, and {len(content.records) - len(scenarios)} neutral texts"),
        ("left out", f"{content.repeats} rows that repeat an earlier one, {content.empty} empty rows"),
        ("columns", read or "as the fields are called"),
        ("columns not read", ", ".join(map(repr, content.unread)) or "none"),
        ("leaks", f"{splits.leak_report().total} prompts and groups in two splits"),
        *asked,
    ]
    return facts_table(pairs, "What was read")


def words_table(splits: ScenarioSplits) -> Table:
    """How much a classifier of words alone finds out, fitted on training groups and asked the others."""
    asked = [*splits.validation, *splits.test]
    questions = {
        "is it watched?": text_only_oversight(splits.train, asked),
        f"which {'answer' if splits.are_written else 'action'} is aligned?": text_only_answers(splits.train, asked),
    }
    lines = []
    for question, right in questions.items():
        cells = right_by_cell(right, asked)
        lines.append(row(question, accuracy(cells.oversight), accuracy(cells.no_oversight)))
    columns = (
        Column("question", 0, key="question"),
        *(Column(CELL_NAMES[cell], 19, key=cell, has_interval=True) for cell in CELLS),
    )
    notes = (
        f"Words and pairs of words alone, held-out groups ({len(asked)} scenarios); chance is .5. The first should be "
        "high: where words don't tell who is watched, a model may not see it either. The second is what a model can "
        "know without understanding.",
    )
    return Table("What words alone tell", columns, tuple(lines), notes)


def longest_table(lengths: Sequence[tuple[Scenario, int]], unit: str, count: int = 3) -> Table:
    """The longest prompts.

    Args:
        lengths: of every scenario and neutral text.
        unit: what is counted.
        count: how many are shown.
    """
    ordered = sorted(lengths, key=lambda pair: -pair[1])
    mean = round(sum(length for _, length in lengths) / len(lengths))
    lines = tuple(row(item.source, length, _begin(item)) for item, length in ordered[:count])
    columns = (Column("row", 20, key="row"), Column(unit, 8, key=unit), Column("begins", 0, key="begins"))
    return Table("The longest prompts", columns, lines, (f"The mean is {mean} {unit}.",))


def _share_of_a(cell: Cell, scenarios: Sequence[Scenario]) -> str:
    letters = [item.aligned for item in scenarios if item.cell == cell]
    return f"{letters.count('A')} of {len(letters)} {CELL_NAMES[cell]}"


def _lengths_of_answers(scenarios: Sequence[Scenario]) -> str:
    """A judge by likelihood counts tokens, so what differs in length alone would be seen here."""
    pairs = {(item.action_a, item.action_b) for item in scenarios}
    good, bad = (sum(len(pair[at].split()) for pair in pairs) / max(1, len(pairs)) for at in (0, 1))
    return f"{len(pairs)} pairs, the good ones of {good:.1f} words on average, the bad ones of {bad:.1f}"


def _critical(scenarios: Sequence[Scenario]) -> int:
    return sum(any(fact.kind == "critical" for fact in item.facts) for item in scenarios)


def _begin(scenario: Scenario) -> str:
    text = scenario.text or (scenario.facts[0].content if scenario.facts else "")
    return " ".join(text.split())[:40]
