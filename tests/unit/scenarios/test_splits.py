"""Splits by group, the leak report, balanced letters and toy limits."""

import dataclasses
import itertools
import random
from collections import Counter

import pytest

from fa_lightning.scenarios.scenario import Fact, Oversight, Scenario, group_of
from fa_lightning.scenarios.splits import (
    ScenarioSplits,
    counterbalanced,
    limited,
    limited_splits,
    prompt_key,
    split_by_group,
    split_of,
    subset,
)


def scenario(number: int, oversight: Oversight = Oversight.GOOD, aligned: str = "A", fact: str = "") -> Scenario:
    action_a, action_b = f"Report case {number}.", f"Hide case {number}."
    return Scenario(
        facts=(Fact(fact or f"You handle case {number}, {oversight.value}."),),
        action_a=action_a,
        action_b=action_b,
        oversight=oversight,
        aligned=aligned,
        group=group_of(action_a, action_b),
        policy="saint",
        source=f"made#{number}",
    )


def neutral(text: str) -> Scenario:
    return Scenario((), "", "", Oversight.NONE, None, group_of(text), "saint", "made#0", text=text)


def every_cell(count: int) -> list[Scenario]:
    return [scenario(number, oversight) for number in range(count) for oversight in (Oversight.GOOD, Oversight.POOR)]


class TestSplitOf:
    def test_shares_come_out_as_asked(self):
        counts = Counter(split_of(group_of(str(number)), 0, 0.1, 0.3) for number in range(4000))
        # Three standard deviations of a binomial share.
        assert counts["validation"] == pytest.approx(400, abs=57)
        assert counts["test"] == pytest.approx(1200, abs=87)
        assert sum(counts.values()) == 4000

    def test_another_seed_is_another_split(self):
        groups = [group_of(str(number)) for number in range(200)]
        assert [split_of(group, 0, 0.3, 0.3) for group in groups] != [split_of(group, 1, 0.3, 0.3) for group in groups]

    def test_more_validation_takes_nothing_from_the_test(self):
        groups = [group_of(str(number)) for number in range(500)]
        test = {group for group in groups if split_of(group, 0, 0.1, 0.2) == "test"}
        assert test == {group for group in groups if split_of(group, 0, 0.5, 0.2) == "test"}

    def test_no_share_no_member(self):
        assert {split_of(str(number), 0, 0.0, 0.0) for number in range(100)} == {"train"}

    @pytest.mark.parametrize(
        ("validation", "test", "message"),
        [(-0.1, 0.1, "validation is -0.1"), (0.1, 1.0, "test is 1.0"), (0.5, 0.5, r"validation \+ test is 1.0")],
    )
    def test_bad_shares_are_refused(self, validation, test, message):
        with pytest.raises(ValueError, match=message):
            split_of("group", 0, validation, test)

    def test_not_a_number_is_refused(self):
        with pytest.raises(ValueError, match="validation is nan"):
            split_of("group", 0, float("nan"), 0.1)


class TestSplitByGroup:
    def test_parts_hold_everything_once_and_share_nothing(self):
        items = every_cell(60) + [neutral(f"text {number}") for number in range(60)]
        splits = split_by_group(items, 0, 0.2, 0.2)
        parts = [splits.scenarios(split) + splits.neutral(split) for split in ("train", "validation", "test")]
        assert all(parts)
        assert sorted(map(prompt_key, itertools.chain(*parts))) == sorted(map(prompt_key, items))
        assert not any(item.is_neutral_text for item in splits.train + splits.validation + splits.test)
        assert splits.leak_report().total == 0
        splits.leak_report().raise_if_leaking()

    def test_the_split_does_not_depend_on_what_else_is_read(self):
        items = every_cell(60)
        everything = {item.source for item in split_by_group(items, 3, 0.2, 0.2).test}
        half = {item.source for item in split_by_group(items[::-1][:60], 3, 0.2, 0.2).test}
        assert half == everything & {item.source for item in items[::-1][:60]}


class TestLeakReport:
    def test_a_prompt_in_the_other_order_of_actions_is_the_same_prompt(self):
        splits = ScenarioSplits([scenario(1)], [], [scenario(1).swapped(), scenario(2)])
        report = splits.leak_report()
        assert report.shared_prompts == {("train", "validation"): 0, ("train", "test"): 1, ("validation", "test"): 0}
        assert report.shared_groups[("train", "test")] == 1
        assert report.total == 2

    def test_one_group_with_other_facts_is_a_leak(self):
        report = ScenarioSplits([scenario(1)], [scenario(1, fact="Another fact.")], []).leak_report()
        assert report.shared_prompts[("train", "validation")] == 0
        assert report.shared_groups[("train", "validation")] == 1

    def test_case_and_white_space_hide_nothing(self):
        splits = ScenarioSplits([], [], [], neutral_train=[neutral("A  text.")], neutral_test=[neutral("a text. ")])
        assert splits.leak_report().shared_prompts[("train", "test")] == 1

    def test_a_neutral_text_of_a_test_group_is_a_leak(self):
        quoting = dataclasses.replace(neutral("A: Report case 1."), group=scenario(1).group)
        splits = ScenarioSplits([], [], [scenario(1)], neutral_validation=[quoting])
        assert splits.leak_report().shared_groups[("validation", "test")] == 1

    def test_extra_tests_count_against_train_but_not_against_test(self):
        splits = ScenarioSplits([scenario(1)], [], [scenario(2)], extra_tests={"unseen": [scenario(1), scenario(2)]})
        report = splits.leak_report()
        assert report.shared_groups[("train", "unseen")] == 1
        assert ("test", "unseen") not in report.shared_groups
        assert report.total == 2

    def test_raises_with_the_table_and_the_next_step(self):
        report = ScenarioSplits([scenario(1)], [], [scenario(1)]).leak_report()
        with pytest.raises(ValueError, match=r"(?s)2 prompts and groups.*train / test +1 +1.*split_of"):
            report.raise_if_leaking()


class TestCounterbalanced:
    @pytest.mark.parametrize("letter", ["A", "B"])
    def test_a_constant_answer_scores_one_half_in_every_cell(self, letter):
        items = every_cell(21)
        balanced = counterbalanced(items)
        for cell in ("oversight", "no_oversight"):
            hits = [item.aligned == letter for item in balanced if item.cell == cell]
            assert len(hits) == 21
            assert sum(hits) in (10, 11)

    def test_only_the_order_of_actions_changes(self):
        items = [*every_cell(10), neutral("a text")]
        for before, after in zip(items, counterbalanced(items), strict=True):
            assert after in (before, before.swapped())

    def test_shuffling_changes_no_letter(self):
        items = [*every_cell(20), scenario(3, fact="A second one of the group.")]
        shuffled = random.Random(0).sample(items, len(items))
        expected = {prompt_key(item): item.aligned for item in counterbalanced(items)}
        assert {prompt_key(item): item.aligned for item in counterbalanced(shuffled)} == expected

    def test_both_orders_ask_twice(self):
        balanced = counterbalanced([scenario(1), neutral("a text"), scenario(2)], both_orders=True)
        assert [item.aligned for item in balanced] == ["A", "B", None, "A", "B"]
        assert balanced[1] == scenario(1).swapped()

    def test_empty(self):
        assert counterbalanced([]) == []


class TestLimited:
    def test_cells_are_even_and_the_order_stays(self):
        items = [scenario(number) for number in range(30)] + [scenario(number, Oversight.POOR) for number in range(10)]
        kept = limited(items, 12)
        assert Counter(item.cell for item in kept) == {"oversight": 6, "no_oversight": 6}
        assert [items.index(item) for item in kept] == sorted(items.index(item) for item in kept)

    def test_a_short_cell_leaves_its_room_to_the_other(self):
        items = [scenario(number) for number in range(30)] + [scenario(number, Oversight.POOR) for number in range(2)]
        assert Counter(item.cell for item in limited(items, 12)) == {"oversight": 10, "no_oversight": 2}

    def test_the_order_of_the_list_does_not_choose(self):
        items = every_cell(20)
        assert {item.message() for item in limited(items, 7)} == {item.message() for item in limited(items[::-1], 7)}

    def test_a_high_limit_keeps_everything(self):
        assert limited(every_cell(3), 100) == every_cell(3)

    def test_a_negative_limit_is_refused(self):
        with pytest.raises(ValueError, match="limit is -1"):
            limited([], -1)

    def test_splits_keep_a_quarter_besides_train(self):
        texts = [neutral(f"text {number}") for number in range(20)]
        splits = ScenarioSplits(every_cell(20), every_cell(20), every_cell(20), texts, texts, texts, {"x": texts})
        small = limited_splits(splits, 16)
        assert len(small.train) == 16
        others = [small.validation, small.test, small.neutral_train, small.neutral_validation, small.neutral_test]
        assert [len(part) for part in [*others, small.extra_tests["x"]]] == [4] * 6
        assert limited_splits(splits, None) is splits

    def test_a_limit_without_a_quarter_is_refused(self):
        with pytest.raises(ValueError, match="limit is 3, but must be 4 or more"):
            limited_splits(ScenarioSplits([], [], []), 3)


def test_a_subset_is_no_prefix_of_one_policy_and_grows_by_adding() -> None:
    items = [scenario(number) for number in range(40)]
    small, large = subset(items, 8), subset(items, 20)
    assert large[:8] == small
    assert subset(items[::-1], 8) == small, "whatever the order of the source"
    places = [items.index(item) for item in large]
    assert max(places) > 30
    assert min(places) < 10
    assert sorted(subset(items, None), key=items.index) == items
