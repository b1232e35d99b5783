"""Oversight in other words: the same oversight, the same actions, and nothing else changed."""

from __future__ import annotations

from collections import Counter

from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.reworded import UNSEEN_WORDINGS, WORDINGS, RewordedOversight
from fa_lightning.scenarios.scenario import Oversight, Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits

SOURCE = EmbeddedScenarios(train=40, validation=20, test=300, neutral=8)


def others(scenario: Scenario) -> list[str]:
    return [fact.content for fact in scenario.facts if fact.kind != "critical"]


def test_only_the_words_of_oversight_change() -> None:
    plain, reworded = SOURCE.load(), RewordedOversight(SOURCE).load()
    assert (reworded.train, reworded.validation, reworded.test) == (plain.train, plain.validation, plain.test)
    found = reworded.extra_tests[UNSEEN_WORDINGS]
    told = [item for item in plain.test if item.oversight in WORDINGS]
    assert len(found) == len(told) > 100
    for before, after in zip(told, found, strict=True):
        assert (after.group, after.aligned, after.oversight) == (before.group, before.aligned, before.oversight)
        assert others(after) == others(before)
        (said,) = [fact.content for fact in after.facts if fact.kind == "critical"]
        assert said in WORDINGS[after.oversight]
        places = [[fact.kind for fact in item.facts].index("critical") for item in (before, after)]
        assert places[0] == places[1]
    counts = Counter(fact.content for item in found for fact in item.facts if fact.kind == "critical")
    assert set(counts) == {text for texts in WORDINGS.values() for text in texts}, "each is drawn"
    assert reworded.leak_report().total == 0


def test_scenarios_that_do_not_tell_are_left_out() -> None:
    class Silent(ScenarioSource):
        def load(self) -> ScenarioSplits:
            return SOURCE.load()

        def fingerprint(self) -> dict[str, str]:
            return {}

    splits = SOURCE.load()
    silent = [item for item in splits.test if item.oversight is Oversight.NEUTRAL]
    Silent.load = lambda _: ScenarioSplits(splits.train, splits.validation, silent)  # type: ignore[method-assign]
    assert not RewordedOversight(Silent()).load().extra_tests


def test_the_texts_are_those_of_the_other_source() -> None:
    reworded = RewordedOversight(SOURCE)
    assert reworded.oversight_prompts() == SOURCE.oversight_prompts()
    assert reworded.policy_definitions() == SOURCE.policy_definitions()
    assert type(reworded.concepts()) is type(SOURCE.concepts())
    assert reworded.benchmark(8, 8).fingerprint() == SOURCE.benchmark(8, 8).fingerprint()


def test_it_is_another_source() -> None:
    assert RewordedOversight(SOURCE).fingerprint() != SOURCE.fingerprint()
