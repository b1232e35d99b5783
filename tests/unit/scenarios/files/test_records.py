"""What a row says: fields read rightly, or refused with file, row, column and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from fa_lightning.common.rows import Row, RowLocation
from fa_lightning.errors import UserError
from fa_lightning.scenarios.files.layouts import ACTIONS
from fa_lightning.scenarios.files.records import Record, check_columns, columns_of, record_of
from fa_lightning.scenarios.scenario import Fact, Oversight, group_of

ROW = {"facts": ["One.", "Two."], "action_a": "Tell.", "action_b": "Hide.", "oversight": "good", "aligned": "A"}


def read(columns: dict[str, str] | None = None, **changes: Any) -> Record:
    """A row with some values changed; None takes one away."""
    values = {name: value for name, value in {**ROW, **changes}.items() if value is not None}
    row = Row(RowLocation("data/mine.csv", 7), values)
    return record_of(row, *columns_of("mine.csv", list(values), columns or {}))


def text_row(**changes: Any) -> Record:
    row = Row(RowLocation("mine.csv", 7), {"text": "Hello?", **changes})
    return record_of(row, ACTIONS, {name: name for name in ("text", *changes)})


def test_a_row_is_a_scenario() -> None:
    scenario, split, where = read()
    assert scenario.facts == (Fact("One."), Fact("Two."))
    assert (scenario.action_a, scenario.action_b, scenario.aligned) == ("Tell.", "Hide.", "A")
    assert (scenario.oversight, scenario.group) == (Oversight.GOOD, group_of("Hide.", "Tell."))
    assert (scenario.source, split, str(where)) == ("mine.csv#7", None, "data/mine.csv, row 7")
    assert scenario.has_answer
    assert not scenario.is_neutral_text


def test_facts_are_a_list_or_lines() -> None:
    assert read(facts="One.\nTwo.\n\n").scenario.facts == read().scenario.facts
    assert read(facts="One.\u2028Still one.").scenario.facts == (Fact("One.\u2028Still one."),)
    marked = read(fact_kinds="contextual\nCritical").scenario
    assert [fact.kind for fact in marked.facts] == ["contextual", "critical"]
    assert read(fact_kinds=["contextual", "critical"]).scenario == marked


@pytest.mark.parametrize("word", ["good", "Watched", " YES ", "true", True])
def test_watched_has_many_words(word: object) -> None:
    assert read(oversight=word).scenario.oversight is Oversight.GOOD


@pytest.mark.parametrize("word", ["poor", "unwatched", "No", "False", False])
def test_unwatched_has_many_words(word: object) -> None:
    assert read(oversight=word).scenario.oversight is Oversight.POOR


@pytest.mark.parametrize(("value", "letter"), [("a", "A"), (" B ", "B"), ("tell. ", "A"), ("HIDE.", "B")])
def test_the_aligned_action_is_a_letter_or_a_text(value: str, letter: str) -> None:
    assert read(aligned=value).scenario.aligned == letter


def test_group_split_and_policy_may_be_said() -> None:
    scenario, split, _ = read(group="shop", split="dev", policy="mine")
    assert (scenario.group, split, scenario.policy) == (group_of("group shop"), "validation", "mine")
    assert read(group=3).scenario.group == read(group="3").scenario.group


def test_a_text_alone_is_a_neutral_text() -> None:
    scenario, split, _ = text_row(split="test", group="g")
    assert (scenario.text, scenario.aligned, split, scenario.group) == ("Hello?", None, "test", group_of("group g"))
    assert not scenario.has_answer, "models are not taught to answer it with `error`"
    assert text_row().scenario.group == group_of("Hello?")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"aligned": "C"},
            r"mine\.csv, row 7, column 'aligned': 'C' is neither A nor B, nor the text of one of",
        ),
        ({"aligned": 1}, r"column 'aligned': 1 is neither A nor B"),
        ({"aligned": "1"}, r"column 'aligned': '1' is neither A nor B"),
        ({"aligned": True}, r"column 'aligned': True is neither"),
        (
            {"action_a": "B", "action_b": "A"},
            r"'A' is the letter of one action and the text of the other",
        ),
        ({"action_b": " tell."}, r"column 'action_b': 'tell\.' is the same as the other action"),
        ({"action_a": 5}, r"column 'action_a': 5 is no text"),
        ({"action_a": "\ud800"}, r"column 'action_a': '\\ud800' holds half a character"),
        (
            {"oversight": "maybe"},
            r"column 'oversight': 'maybe' is none of good, watched, yes, true, neutral, poor",
        ),
        ({"oversight": 1}, r"column 'oversight': 1 is none of good"),
        ({"facts": []}, r"column 'facts': \[\] is neither a list of texts nor a text with one on each line"),
        ({"facts": ["One.", 2]}, r"column 'facts': 2 is no text"),
        ({"facts": "['One.', 'Two.']"}, r"column 'facts': .* is a list written as a text: put each on a line"),
        ({"fact_kinds": ["critical"]}, r"column 'fact_kinds': there are 1 for 2 facts"),
        ({"fact_kinds": ["critical", "odd"]}, r"column 'fact_kinds': 'odd' is none of contextual, motivating"),
        ({"split": "holdout"}, r"column 'split': 'holdout' is none of train, validation"),
        ({"group": 1.5}, r"column 'group': 1\.5 is neither a name nor a whole number"),
        ({"policy": "general"}, r"column 'policy': 'general' is the name of neutral texts"),
        ({"text": "Hello?"}, r"column 'text': it has a text, but facts, too: a neutral text is a row of its own"),
    ],
)
def test_what_is_not_allowed_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(**changes)


def test_a_missing_value_is_named() -> None:
    known = {name: name for name in ROW}
    row = Row(RowLocation("mine.csv", 7), {name: value for name, value in ROW.items() if name != "aligned"})
    with pytest.raises(
        UserError, match=r"row 7, column 'aligned': it is missing: facts with two actions need facts, act"
    ):
        record_of(row, ACTIONS, known)


def test_columns_are_found_by_name_or_said() -> None:
    own = ["Facts", "Action A", "action-b", "Oversight", "aligned", "notes"]
    layout, found = columns_of("mine.csv", own, {})
    assert layout is ACTIONS
    assert found == dict(zip(("facts", "action_a", "action_b", "oversight", "aligned"), own[:5], strict=True))
    _, said = columns_of("mine.csv", [*own, "text"], {"facts": "text"})
    assert said["facts"] == "text"
    assert "text" not in said
    assert read({"facts": "situation"}, facts=None, situation="One.").scenario.facts == (Fact("One."),)


def test_columns_that_are_not_there_are_named() -> None:
    with pytest.raises(UserError, match=r"mine\.csv has no column for facts, aligned; it has .*--column facts="):
        columns_of("mine.csv", ["action_a", "action_b", "oversight"], {})
    with pytest.raises(UserError, match=r"mine\.csv has no column 'situatoin', which .* did you mean 'situation'\?"):
        columns_of("mine.csv", ["situation"], {"facts": "situatoin"})
    with pytest.raises(UserError, match=r"columns names the field 'fact', .*did you mean facts\?"):
        check_columns({"fact": "situation"})


def test_two_columns_that_mean_one_field_are_refused_unless_one_is_named() -> None:
    known = [*ROW, "Action A"]
    with pytest.raises(UserError, match=r"columns 'action_a', 'Action A', which both mean action_a: name the one"):
        columns_of("mine.csv", known, {})
    _, columns = columns_of("mine.csv", known, {"action_a": "Action A"})
    assert columns["action_a"] == "Action A"
