"""Facts about oversight are found where they are all that differs."""

from __future__ import annotations

from fa_lightning.scenarios.files.critical import with_critical_facts
from fa_lightning.scenarios.scenario import Fact, Oversight, Scenario


def scenario(oversight: str, *facts: str, action: str = "a", kind: str = "untyped") -> Scenario:
    numbered = tuple(Fact(fact, kind) for fact in facts)
    return Scenario(numbered, action, "other", Oversight(oversight), "A", "0" * 16, "own", "mine.csv#1")


def critical(*scenarios: Scenario) -> list[list[str]]:
    return [[fact.content for fact in item.facts if fact.kind == "critical"] for item in with_critical_facts(scenarios)]


def test_the_one_fact_that_differs_is_critical_wherever_it_stands() -> None:
    good, poor = scenario("good", "x", "watched", "y"), scenario("poor", "x", "alone", "y")
    assert critical(good, poor) == [["watched"], ["alone"]]
    neutral, longer = scenario("neutral", "x", "y"), scenario("poor", "x", "y", "alone")
    assert critical(neutral, poor, longer) == [[], ["alone"], ["alone"]]
    assert critical(scenario("neutral", "x", "office", "y"), poor) == [[], ["alone"]]


def test_nothing_is_guessed() -> None:
    good = scenario("good", "x", "watched")
    assert critical(good, scenario("poor", "z", "alone")) == [[], []], "two facts differ"
    assert critical(good, scenario("good", "x", "seen")) == [[], []], "the oversight does not"
    assert critical(good, scenario("poor", "x", "alone", action="b")) == [[], []], "the actions differ"
    assert critical(scenario("good", "x", kind="irrelevant"), scenario("poor", "y", kind="irrelevant")) == [[], []]
