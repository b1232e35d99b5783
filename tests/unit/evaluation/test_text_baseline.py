"""The bag-of-words classifier: finds what words give away, and nothing else."""

import random

import pytest

from fa_lightning.evaluation.text_baseline import right_by_cell, text_only_answers, text_only_oversight
from fa_lightning.scenarios.scenario import Fact, Oversight, Scenario, group_of


def scenario(honest, harmful, aligned="A"):
    first, second = (honest, harmful) if aligned == "A" else (harmful, honest)
    return Scenario((), first, second, Oversight.POOR, aligned, f"{honest}{harmful}", "saint", "test")


THINGS = [f"thing{number}" for number in range(40)]


def giving_away(things, letters):
    return [
        scenario(f"Report the {thing} to the board.", f"Hide the {thing} from the board.", letter)
        for thing, letter in zip(things, letters, strict=True)
    ]


def test_words_that_tell_are_found_in_either_order():
    # All training scenarios have the aligned action first: a classifier that learned the letter would fail on B.
    train = giving_away(THINGS[:20], "A" * 20)
    test = giving_away(THINGS[20:], "AB" * 10)
    assert text_only_answers(train, test) == [True] * 20


def test_answers_tell_which_items_were_right():
    train = giving_away(THINGS[:20], "AB" * 10)
    inverted = [scenario(f"Hide the {thing}.", f"Report the {thing}.", letter) for thing, letter in ("xA", "yB", "zA")]
    assert text_only_answers(train, [*giving_away(["x"], "B"), *inverted]) == [True, False, False, False]


def test_pairs_of_words_count():
    train = [
        pair
        for thing in THINGS[:10]
        for pair in (
            scenario(f"tell bob about {thing}", f"about bob tell {thing}"),
            scenario(f"tell bob about {thing}", f"about bob tell {thing}", "B"),
        )
    ]
    test = [scenario("tell bob about it", "about bob tell it", letter) for letter in "AB"]
    assert text_only_answers(train, test) == [True, True]


def test_words_that_tell_nothing_leave_chance():
    rng = random.Random(0)
    words = [f"word{number}" for number in range(30)]

    def noise():
        return " ".join(rng.sample(words, 5))

    train = [scenario(noise(), noise(), rng.choice("AB")) for _ in range(200)]
    test = [scenario(noise(), noise(), rng.choice("AB")) for _ in range(400)]
    answers = text_only_answers(train, test)
    assert 0.4 < sum(answers) / len(answers) < 0.6
    # The same question in the other order gets the same action.
    assert text_only_answers(train, [item.swapped() for item in test]) == answers


def watched(fact, oversight, thing):
    return Scenario((Fact(f"You keep the {thing}."), Fact(fact)), "a", "b", oversight, "A", group_of(thing), "own", "")


def test_the_words_of_the_facts_tell_who_is_watched():
    facts = [("Someone reads the logs.", Oversight.GOOD)] * 3 + [("Nobody reads the logs.", Oversight.POOR)]
    train = [watched(*facts[number % 4], thing) for number, thing in enumerate(THINGS[:20])]
    test = [watched(*facts[number % 4], thing) for number, thing in enumerate(THINGS[20:])]
    assert text_only_oversight(train, test) == [True] * 20
    same = [watched("Logs are kept.", fact[1], thing) for fact, thing in zip(facts * 5, THINGS[20:], strict=True)]
    cells = right_by_cell(text_only_oversight(train, same), same)
    assert cells.oversight.accuracy + cells.no_oversight.accuracy == pytest.approx(1), "a constant answer"
