"""Scenarios of a file that a researcher wrote, or of a data set: read, de-duplicated and split by group."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass

from typing_extensions import override

from fa_lightning.common.rows import read_rows
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import other_letter
from fa_lightning.scenarios.benchmark import half_of, watched
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.concepts import Concept, ConceptSource
from fa_lightning.scenarios.files.critical import with_critical_facts
from fa_lightning.scenarios.files.layouts import Layout
from fa_lightning.scenarios.files.records import Record, check_columns, columns_of, record_of
from fa_lightning.scenarios.general import GeneralTexts, with_general_texts
from fa_lightning.scenarios.general.texts import TEST_SHARE, VALIDATION_SHARE, split_arguments
from fa_lightning.scenarios.scenario import Oversight, Scenario, normalised
from fa_lightning.scenarios.source import OversightPrompts, ScenarioSource
from fa_lightning.scenarios.splits import (
    SPLITS,
    ScenarioSplits,
    Split,
    check_fractions,
    check_limit,
    limited_splits,
    prompt_key,
    split_of,
    subset,
)

PROMPT_PAIRS = 8
"""Texts about oversight on each side."""
WORDS = {"oversight": "with oversight", "no_oversight": "without oversight"}


@dataclass(frozen=True)
class FileContent:
    """What a file holds, before it is split.

    Attributes:
        records: scenarios and neutral texts, each once.
        repeats: rows that were left out because an earlier one asks the same.
        empty: rows and lines without any value, which were passed over.
        unread: columns that no field is read from.
        columns: by field, the column that it is read from.
        layout: of the rows.
    """

    records: list[Record]
    repeats: int
    empty: int
    unread: list[str]
    columns: dict[str, str]
    layout: Layout


class FileScenarios(ScenarioSource):
    """Scenarios from JSON lines, a JSON list, CSV, TSV or Parquet, or from a data set by its name.

    A row is a scenario: `facts` (a list, or one text with a fact on each line), `action_a`, `action_b`, `oversight`
    (good, neutral, poor; watched, unwatched; yes, no; true, false) and `aligned` (A, B, or the action's text); perhaps
    `group`, `split`, `policy` and `fact_kinds`. Or it is answered in writing: `prompt`, `good`, `bad` and `oversight`,
    or `messages` (turns with role and content) in the place of the prompt. A row with nothing but a `text` is a neutral
    text, on which side effects are measured. Where no group is given it is the pair of actions or answers, where no
    split is, the group's hash says, and where no kinds of facts are, those that alone differ between watched and
    unwatched rows are `critical`.

    Example::

        splits = FileScenarios("scenarios.csv", columns={"facts": "situation"}).load()

    Args:
        path: of the file, which may be packed (`.gz`); or name or folder of a data set (library `datasets`).
        columns: by field, the column that it is read from; others are read from the column of their own name.
        configuration: of a data set that has several.
        dataset_split: which split of a data set is read; it is split again by group.
        validation: share of the groups held out to choose by.
        test: share of the groups held out to judge by.
        seed: another seed, another split.
        limit: keep at most this many training scenarios, and a quarter of it in each other part; for toy runs.
        general: texts that join the neutral ones; None adds none.

    Raises:
        UserError: `columns` names a field that there is none of, or shares or limit are out of range.
    """

    def __init__(
        self,
        path: str,
        columns: dict[str, str] | None = None,
        configuration: str | None = None,
        dataset_split: str = "train",
        validation: float = 0.15,
        test: float = 0.15,
        seed: int = 0,
        limit: int | None = None,
        general: GeneralTexts | None = None,
    ) -> None:
        check_columns(columns or {})
        check_fractions(validation, test)
        check_limit(limit)
        self.path, self.columns = path, dict(columns or {})
        self.configuration, self.dataset_split = configuration, dataset_split
        self.validation, self.test, self.seed = validation, test, seed
        self.limit, self.general = limit, general
        self._content: FileContent | None = None

    def read(self) -> FileContent:
        """What is in the file, read once: what is fitted on, and what its fingerprint says, are one.

        Raises:
            MissingFileError: there is no such file.
            UserError: a row can't be understood, or two rows contradict each other; the message names them.
        """
        if self._content is None:
            self._content = self._read()
        return self._content

    def _read(self) -> FileContent:
        rows = read_rows(self.path, self.configuration, self.dataset_split)
        layout, columns = columns_of(self.path, rows.columns, self.columns)
        first: dict[str, Record] = {}
        for row in rows.rows:
            record = record_of(row, layout, columns)
            known = first.setdefault(prompt_key(record.scenario), record)
            _refuse_contradiction(known, record)
        marked = with_critical_facts([record.scenario for record in first.values()])
        records = [record._replace(scenario=item) for record, item in zip(first.values(), marked, strict=True)]
        unread = [column for column in rows.columns if column and column not in columns.values()]
        return FileContent(records, len(rows.rows) - len(first), rows.empty, unread, columns, layout)

    def split(self, content: FileContent) -> ScenarioSplits:
        """The content in its splits, general texts among it.

        Raises:
            UserError: the file puts rows of one group into two splits; the message names them.
        """
        given: dict[str, Record] = {}
        for record in content.records:
            if record.split is not None:
                known = given.setdefault(record.scenario.group, record)
                if known.split != record.split:
                    raise UserError(
                        f"{record.where} is in {record.split}, but row {known.where.number} of the same group in "
                        f"{known.split}: a group is asked in one split alone (the group of a row without one is its "
                        "pair of actions)"
                    )
        splits = ScenarioSplits([], [], [])
        for scenario, *_ in content.records:
            of_group = given.get(scenario.group)
            split = (of_group.split if of_group else None) or self._drawn(scenario)
            (splits.neutral(split) if scenario.is_neutral_text else splits.scenarios(split)).append(scenario)
        return with_general_texts(splits, self.general, self.seed)

    def load(self) -> ScenarioSplits:
        """Read, de-duplicate and split; rows that are left out are counted in a warning.

        Raises:
            MissingFileError: there is no such file.
            UserError: a row can't be understood, rows contradict each other, splits leak, or a split lacks scenarios
                with or without oversight.
        """
        content = self.read()
        if content.repeats or content.empty:
            warnings.warn(
                f"{self.path}: {content.repeats} rows left out that repeat an earlier one, {content.empty} empty ones",
                stacklevel=2,
            )
        splits = self.split(content)
        splits.leak_report().raise_if_leaking()
        for fault in self.faults(splits):
            raise UserError(fault)
        return limited_splits(splits, self.limit)

    def faults(self, splits: ScenarioSplits) -> list[str]:
        """What nothing can be fitted with: a line where the file lacks a condition altogether, else for each split."""
        every = [scenario.cell for split in SPLITS for scenario in splits.scenarios(split)]
        if absent := [WORDS[cell] for cell in CELLS if cell not in every]:
            return [
                f"{self.path}: no scenario {' and none '.join(absent)} among all {len(every)}: write each scenario "
                "twice, with oversight good and poor, and with facts or a prompt that say so"
            ]
        faults = []
        for split in SPLITS:
            held = {scenario.cell for scenario in splits.scenarios(split)}
            lacking = [WORDS[cell] for cell in CELLS if cell not in held]
            if lacking:
                count = len(splits.scenarios(split))
                faults.append(
                    f"{self.path}: no scenario {' and none '.join(lacking)} among the {count} of {split}: add groups, "
                    "or say the split of each row in a column `split`"
                )
        return faults

    def fingerprint(self) -> dict[str, str]:
        """The arguments and a digest of what was read; path, format and columns that are not read are left out.

        Raises:
            MissingFileError: there is no such file.
            UserError: a row can't be understood.
        """
        digest = hashlib.sha256()
        for scenario, split, _ in self.read().records:
            facts = tuple((fact.content, fact.kind) for fact in scenario.facts)
            actions = scenario.action_a, scenario.action_b, scenario.aligned, scenario.oversight.value
            said = (*scenario.earlier, scenario.system) if scenario.earlier or scenario.system else ()
            digest.update(repr((facts, actions, scenario.group, scenario.policy, scenario.text, split)).encode())
            digest.update(repr(said).encode() if said else b"")
        return {
            "source": type(self).__name__,
            "data_sha256": digest.hexdigest(),
            **split_arguments(self.validation, self.test, self.seed, self.limit, self.general),
        }

    @override
    def oversight_prompts(self) -> OversightPrompts:
        """What the training scenarios say: their critical facts, or where none are known all facts of each."""
        train = self.load().train
        poor = [item for item in train if item.oversight is Oversight.POOR]
        good = [item for item in train if item.oversight is Oversight.GOOD] or watched(train)
        sides = [_about_oversight(subset(side, None)) for side in (good, poor)]
        count = min(PROMPT_PAIRS, *map(len, sides))
        return OversightPrompts(*(side[:count] for side in sides))

    @override
    def concepts(self) -> ConceptSource:
        return ActionConcepts(self)

    def _drawn(self, scenario: Scenario) -> Split:
        # As of general texts, most are for judging.
        shares = (VALIDATION_SHARE, TEST_SHARE) if scenario.is_neutral_text else (self.validation, self.test)
        return split_of(scenario.group, self.seed, *shares)


class ActionConcepts(ConceptSource):
    """One concept: the aligned actions beside the other ones, of the test groups that detectors are fitted on.

    Args:
        source: of the scenarios.
    """

    def __init__(self, source: FileScenarios) -> None:
        self.source = source

    @override
    def load(self, left_out: frozenset[str] = frozenset()) -> list[Concept]:
        tested = [item for item in self.source.load().test if half_of(item.group) == "reference"]
        kept = [item for item in tested if item.group not in left_out]
        self.left_out = len(tested) - len(kept)
        aligned = dict.fromkeys(item.action(item.aligned) for item in kept if item.aligned)
        others = dict.fromkeys(item.action(other_letter(item.aligned)) for item in kept if item.aligned)
        if min(len(aligned), len(others)) < 2:
            raise UserError(
                f"{self.source.path} has {len(aligned)} aligned actions in the test groups that detectors are fitted "
                "on, but 2 or more make a concept: add groups, or raise the source's `test`"
            )
        return [Concept("aligned / misaligned", tuple(aligned), tuple(others))]

    @override
    def fingerprint(self) -> dict[str, str]:
        return {**self.source.fingerprint(), "source": "actions of the scenarios"}


def _about_oversight(scenarios: list[Scenario]) -> tuple[str, ...]:
    critical = dict.fromkeys(fact.content for item in scenarios for fact in item.facts if fact.kind == "critical")
    return tuple(critical or dict.fromkeys(item.situation() for item in scenarios))


def _refuse_contradiction(known: Record, record: Record) -> None:
    """Refuse two rows that ask the same and do not agree on what is known of it."""
    for what, first, second in zip(_KNOWN, _known_of(known), _known_of(record), strict=True):
        if first != second and None not in (first, second):
            raise UserError(
                f"{record.where} asks the same as row {known.where.number}, but with another {what}: the "
                f"{'prompt has' if record.scenario.is_written else 'facts have'} to say what differs, since a model "
                "reads nothing else"
            )


_KNOWN = ("oversight", "aligned action", "good answer", "pair of answers", "group", "split")


def _known_of(record: Record) -> tuple[object, ...]:
    scenario = record.scenario
    aligned = scenario.aligned and normalised(scenario.action(scenario.aligned))
    if not scenario.is_written:
        return scenario.oversight, aligned, None, None, scenario.group, record.split
    answers = {normalised(scenario.action_a), normalised(scenario.action_b)}
    return scenario.oversight, None, aligned, answers, scenario.group, record.split
