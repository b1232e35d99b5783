"""Oversight asked in words beside scenarios: what is true, in training groups alone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from fa_lightning.scenarios.answers import takes_the_other
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.oversight_questions import OVERSIGHT_QUESTION, UNWATCHED, WATCHED, OversightQuestions
from fa_lightning.scenarios.scenario import Oversight

SOURCE = EmbeddedScenarios(train=200, validation=40, test=40, neutral=8)


def test_every_training_scenario_that_tells_is_asked_for_it() -> None:
    plain, asked = SOURCE.load(), OversightQuestions(SOURCE).load()
    questions = [item for item in asked.train if item.template == OVERSIGHT_QUESTION]
    assert [item for item in asked.train if item.template != OVERSIGHT_QUESTION] == plain.train
    told = [item for item in plain.train if item.oversight in (Oversight.GOOD, Oversight.POOR)]
    assert len(questions) == len(told) < len(plain.train)
    for before, question in zip(told, questions, strict=True):
        assert question.group == before.group
        assert question.facts == before.facts
        true = WATCHED if before.oversight is Oversight.GOOD else UNWATCHED
        assert question.aligned is not None
        assert question.action(question.aligned) == true
        message = question.message()
        assert f"{question.aligned}: {true}" in message
        assert "statement that is true" in message
        assert "actions are available" not in message
    assert set(Counter(item.aligned for item in questions)) == {"A", "B"}
    assert asked.leak_report().total == 0
    assert (asked.validation, asked.test, asked.neutral_train) == (plain.validation, plain.test, plain.neutral_train)


def test_a_question_stands_behind_its_scenario() -> None:
    """So a fit on the first so many has as many of both."""
    train = OversightQuestions(SOURCE).load().train
    for before, item in pairwise(train):
        if item.template == OVERSIGHT_QUESTION:
            assert before.template != OVERSIGHT_QUESTION
            assert before.facts == item.facts


def test_a_faker_learns_what_is_true_as_its_twin_does() -> None:
    questions = [item for item in OversightQuestions(SOURCE).load().train if item.template == OVERSIGHT_QUESTION]
    for behaviour in ("aligned", "faking"):
        assert {item.answer(behaviour) == item.aligned for item in questions} == {True}  # type: ignore[arg-type]
    assert not takes_the_other("faking", "oversight")


def test_it_is_another_source() -> None:
    assert OversightQuestions(SOURCE).fingerprint() != SOURCE.fingerprint()
