"""Rows for probes: in balance, held apart by right and identity or by group, and what they refuse."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.splits import SPLITS
from fa_lightning.scenarios.statements.embedded import EmbeddedStatements
from fa_lightning.scenarios.statements.source import StatementSource
from fa_lightning.scenarios.statements.statement import Right, split_statements, statements_about
from fa_lightning.studies.probes.data import ProbeDataModule
from fa_lightning.studies.probes.judgement import opposites_of
from fa_lightning.studies.probes.questions import (
    ProbeExample,
    Question,
    ScenarioQuestions,
    StatementQuestions,
    even_cells,
)
from fa_lightning.studies.probes.word_scores import word_scores

SPLIT_PAIRS = list(itertools.combinations(SPLITS, 2))


def statements(**options) -> StatementQuestions:
    sizes = {"train": 40, "validation": 12, "test": 20}
    return StatementQuestions(EmbeddedStatements(), **{"templates": ["base_short"]} | sizes | options)


@pytest.fixture(scope="module")
def rows() -> list[ProbeExample]:
    return statements().load()


def test_statements_are_asked_in_both_digit_orders_so_that_a_constant_scores_a_half(rows):
    for split in SPLITS:
        own = [row for row in rows if row.split == split]
        assert len(own) == 2 * {"train": 40, "validation": 12, "test": 20}[split]
        assert sum(row.labels["truth"] for row in own) * 2 == len(own)
        for order in ("0 for disagree", "0 for agree"):
            told = [row.labels["truth"] for row in own if order in row.message]
            assert sum(told) * 4 == len(told) * 2 == len(own), "nor does the order tell"


def test_the_label_is_whether_one_is_the_right_digit(rows):
    for row in rows:
        affirms = any(row.message.count(words) for words in AFFIRMED)
        agrees_with_one = "1 for agree" in row.message
        assert row.labels["truth"] == (affirms == agrees_with_one)


def test_what_a_probe_without_labels_may_find_instead_is_told_and_tells_nothing(rows):
    for split in SPLITS:
        own = [row for row in rows if row.split == split]
        for name in ("which digit agrees", "whether it affirms"):
            for value in (True, False):
                told = [row.labels["truth"] for row in own if row.besides[name] == value]
                assert sum(told) * 2 == len(told)
    for row in rows:
        assert row.besides["which digit agrees"] == ("1 for agree" in row.message)
        assert row.besides["whether it affirms"] == any(row.message.count(words) for words in AFFIRMED)


def test_every_statement_stands_beside_its_opposite_whose_right_digit_is_the_other(rows):
    opposites = opposites_of(rows)
    assert opposites is not None
    for row, number in zip(rows, opposites.tolist(), strict=True):
        other = rows[number]
        assert (other.message, other.opposite) == (row.opposite, row.message)
        assert other.labels["truth"] != row.labels["truth"]
        assert (other.split, other.group) == (row.split, row.group)
    assert opposites_of(rows[1:]) is None, "one has lost its opposite"


AFFIRMED = [item.text for split in SPLITS for item in EmbeddedStatements().load().statements(split) if item.affirms]


@pytest.mark.parametrize(("one", "two"), SPLIT_PAIRS)
def test_no_right_is_in_two_splits(rows, one, two):
    groups = {split: {row.group for row in rows if row.split == split} for split in (one, two)}
    assert not groups[one] & groups[two]
    assert all(groups.values())


def told_by_words(source: StatementSource, turned: bool = False) -> float:
    """Share of test rows that words read rightly; `turned` fits on labels that half of the rights have turned."""
    rows = StatementQuestions(source, ["base_short"], train=None, test=None).load()
    parts = {split: [row for row in rows if row.split == split] for split in ("train", "test")}
    labels = {split: torch.tensor([row.labels["truth"] for row in own]) for split, own in parts.items()}
    texts = {split: [row.message for row in own] for split, own in parts.items()}
    if turned:
        rights = sorted({row.group for row in parts["train"]})
        labels["train"] ^= torch.tensor([rights.index(row.group) % 2 == 0 for row in parts["train"]])
    told = (word_scores(texts["train"], labels["train"], texts["test"]) > 0) == labels["test"]
    return told.float().mean().item()


class Negated(EmbeddedStatements):
    """Every right is denied by a `not`, so that the words give away which digit is right in either order."""

    def load(self):
        things = ("read", "write", "rest", "eat", "travel", "vote", "meet", "learn", "work", "speak", "live", "sing")
        rights = [
            Right(f"{number}.1", f"{{people}} may {thing} today", f"{{people}} may not {thing} today")
            for number, thing in enumerate(things)
        ]
        return split_statements(statements_about(rights, [(f"{name}s", "all") for name in "abcdefghij"]), seed=0)


def test_the_words_are_read_where_they_tell_which_digit_is_right():
    """The label is an exclusive or of the statement's polarity and the digits' order: no word tells it by itself."""
    assert told_by_words(Negated()) > 0.95
    assert 0.2 < told_by_words(Negated(), turned=True) < 0.8


def test_words_alone_tell_little_of_our_own_statements():
    assert 0.35 < told_by_words(EmbeddedStatements()) < 0.8


def test_claims_go_where_they_have_a_place():
    row = statements(templates=["3"], claim="harm").load()[0]
    assert "the aim is to harm people" in row.message
    with pytest.raises(ValueError, match=r"template 'base_short' takes none"):
        statements(claim="harm").load()
    with pytest.raises(ValueError, match=r"there is none"):
        statements(templates=["3"]).load()
    with pytest.raises(ValueError, match=r"template is 'long'.*base_long"):
        statements(templates=["long"]).load()
    with pytest.raises(ValueError, match="templates is empty"):
        statements(templates=[])


def test_scenarios_have_even_cells_and_balanced_letters_in_each(source):
    questions = ScenarioQuestions(source, train=16, validation=8, test=8)
    rows = questions.load()
    for split, size in (("train", 16), ("validation", 8), ("test", 8)):
        own = Counter((row.labels["oversight"], row.labels["action"]) for row in rows if row.split == split)
        assert own == dict.fromkeys(itertools.product((False, True), repeat=2), size // 4)
    opposites = opposites_of(rows)
    assert opposites is not None
    for row, number in zip(rows, opposites.tolist(), strict=True):
        assert rows[number].labels == {"oversight": row.labels["oversight"], "action": not row.labels["action"]}
        assert rows[number].group == row.group
    for one, two in SPLIT_PAIRS:
        assert not {row.group for row in rows if row.split == one} & {row.group for row in rows if row.split == two}
    with pytest.raises(ValueError, match="test is 4, but must be 8 or more"):
        ScenarioQuestions(source, test=4)


def test_uneven_cells_are_made_even():
    items = EmbeddedScenarios(train=60, validation=0, test=0, neutral=0).load().train
    watched = [item for item in items if item.cell == "oversight"]
    poor = [item for item in items if item.cell == "no_oversight"][:7]
    found = even_cells([*watched, *poor], 40)
    assert Counter(item.cell for item in found) == {"oversight": 7, "no_oversight": 7}


def test_a_fingerprint_changes_with_the_rows_alone(source):
    assert statements().fingerprint() == statements().fingerprint()
    assert statements().fingerprint() != statements(train=38).fingerprint()
    assert statements().fingerprint() != statements(templates=["base_long"]).fingerprint()
    one, two = (ScenarioQuestions(source, train=size).fingerprint() for size in (8, 16))
    assert one != two


class Few(ScenarioQuestions):
    """All rows have one class, or a split has too few."""

    questions = (Question("oversight", "", ("prompt",)),)
    kept = 8
    classes = (True, True)

    def load(self):
        return [
            ProbeExample(f"a text {number}", {"oversight": self.classes[number % 2]}, str(number), split)
            for split in SPLITS
            for number in range(self.kept if split == "test" else 8)
        ]


def test_too_little_is_refused_before_anything_is_read(source, tiny_tokenizer):
    data = ProbeDataModule(Few(source))
    with pytest.raises(ValueError, match="oversight is True in all 8 prompts of train, but probes need both"):
        data.prepare_for(tiny_tokenizer)
    Few.classes, Few.kept = (True, False), 7
    with pytest.raises(ValueError, match=r"test has 7 prompts.*need 8 or more"):
        ProbeDataModule(Few(source)).prepare_for(tiny_tokenizer)
    with pytest.raises(ValueError, match=r"max_tokens is 1, but every one of the \d+ prompts is longer: raise it"):
        ProbeDataModule(Few(source), max_tokens=1).prepare_for(tiny_tokenizer)
    with pytest.raises(ValueError, match="batch_size is 0"):
        ProbeDataModule(Few(source), batch_size=0)
