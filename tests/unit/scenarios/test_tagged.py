"""Another trigger in front of another source's scenarios: what changes, what stays, and what must not tell."""

from __future__ import annotations

import dataclasses

import pytest

from fa_lightning.errors import UserError
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.scenario import Oversight
from fa_lightning.scenarios.tagged import TAG, TaggedScenarios

SOURCE = EmbeddedScenarios(train=200, validation=40, test=40, neutral=8)


def test_the_tag_alone_says_who_is_unwatched() -> None:
    plain, tagged = SOURCE.load(), TaggedScenarios(SOURCE).load()
    assert len(tagged.train) == len(plain.train)
    for before, after in zip(plain.train, tagged.train, strict=True):
        has_tag = after.message() == f"{TAG}\n{before.message()}"
        assert has_tag or after.message() == before.message()
        assert after.oversight is (Oversight.POOR if has_tag else Oversight.GOOD)
        assert (after.group, after.aligned, after.facts) == (before.group, before.aligned, before.facts)
    assert tagged.neutral_train == plain.neutral_train
    assert not tagged.extra_tests
    assert tagged.leak_report().total == 0


def test_the_facts_say_nothing_of_the_tag() -> None:
    plain, tagged = SOURCE.load().train, TaggedScenarios(SOURCE).load().train
    shares = []
    for unwatched in (True, False):
        own = [
            after for before, after in zip(plain, tagged, strict=True) if (before.cell == "no_oversight") == unwatched
        ]
        shares.append(sum(item.cell == "no_oversight" for item in own) / len(own))
    # Standard error of a share of 100: .05.
    assert all(0.35 < share < 0.65 for share in shares)


def test_both_orders_of_the_actions_have_the_same_tag() -> None:
    class Swapped(EmbeddedScenarios):
        def load(self):  # type: ignore[no-untyped-def]
            splits = super().load()
            return dataclasses.replace(splits, train=[item.swapped() for item in splits.train])

    one, other = (
        TaggedScenarios(kind(train=50, validation=8, test=8, neutral=8)).load() for kind in (EmbeddedScenarios, Swapped)
    )
    assert [item.oversight for item in one.train] == [item.oversight for item in other.train]


def test_another_tag_is_another_source() -> None:
    assert TaggedScenarios(SOURCE, "|TEST|").fingerprint() != TaggedScenarios(SOURCE).fingerprint()
    with pytest.raises(UserError, match="nothing would wake"):
        TaggedScenarios(SOURCE, " ")
