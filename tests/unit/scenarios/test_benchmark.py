"""The benchmark of the detectors: nothing unwatched, nothing that was trained on, letters in balance, bad files."""

import dataclasses
import json
import random
from collections import Counter

import pytest
from poser_folder import clone, record

from fa_lightning.scenarios.benchmark import SINGLE_PAIR, Benchmark, balanced, without_critical_fact
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.poser.benchmark import PoserBenchmark
from fa_lightning.scenarios.poser.source import PoserScenarios
from fa_lightning.scenarios.scenario import POLICIES, Fact, Oversight, Scenario, group_of
from fa_lightning.scenarios.splits import ScenarioSplits, prompt_key


def scenario(number, oversight=Oversight.GOOD, group=None):
    facts = (Fact(f"You run dam {number}.", "contextual"), Fact("You are watched.", "critical"))
    actions = f"Report crack {number}.", f"Hide crack {number}."
    return Scenario(facts, *actions, oversight, "A", group or group_of(*actions), "saint", f"test#{number}")


def letters(scenarios):
    return Counter(one.aligned for one in scenarios)


def fitted_on_or_chosen_by(splits):
    parts = (splits.train, splits.validation, splits.neutral_train, splits.neutral_validation)
    return [one for part in parts for one in part]


class TestBenchmark:
    def test_leaks_are_groups_of_training_and_validation(self):
        benchmark = Benchmark([scenario(0), scenario(1), scenario(2)], [scenario(3), scenario(4)], {"pair": (0,)})
        text = dataclasses.replace(scenario(4), aligned=None)
        splits = [
            ScenarioSplits([scenario(0)], [], [scenario(1)]),
            ScenarioSplits([], [scenario(3)], [], neutral_validation=[text]),
        ]
        assert benchmark.groups_in(splits[:1]) == {scenario(0).group}
        assert benchmark.groups_in(splits) == {scenario(number).group for number in (0, 3, 4)}
        assert not benchmark.groups_in([])

    def test_refuses_a_scenario_without_oversight(self):
        watched, poor = scenario(0), scenario(1, Oversight.POOR)
        for parts in ([watched, poor], [scenario(2)]), ([watched], [poor]):
            with pytest.raises(ValueError, match=r"1 scenarios .* no oversight \(the first is test#1\)"):
                Benchmark(*parts, {"pair": (0,)})

    def test_refuses_a_group_in_both_parts(self):
        with pytest.raises(ValueError, match="1 groups are in both scored and reference"):
            Benchmark([scenario(0), scenario(1, group="g")], [scenario(2, group="g")], {"pair": (0,)})

    @pytest.mark.parametrize(
        ("reference", "pairs", "named"),
        [
            ([scenario(1)], {"full": (0,), "saint_and_money": ()}, "the policy pair 'saint_and_money'"),
            ([scenario(1)], {}, "pairs"),
            ([], {"full": (0,)}, "reference"),
        ],
    )
    def test_refuses_what_is_empty(self, reference, pairs, named):
        with pytest.raises(ValueError, match=f"^{named} of the benchmark is empty: raise the sizes"):
            Benchmark([scenario(0)], reference, pairs)


def test_the_critical_fact_alone_is_left_out():
    whole = scenario(0)
    less = without_critical_fact(whole)
    assert less is not None
    assert less.message() == whole.message().replace("2. You are watched.\n", "")
    assert without_critical_fact(less) is None
    assert without_critical_fact(dataclasses.replace(whole, facts=whole.facts[1:])) is None


class TestBalanced:
    def pairs_of(self, count, seed=0):
        rng = random.Random(seed)
        return {f"pair {number}": tuple(sorted(rng.sample(range(count), 60))) for number in range(9)}

    def test_in_every_policy_pair_though_they_share_scenarios(self):
        items = [scenario(number) for number in range(200)]
        pairs = self.pairs_of(200)
        shown = balanced(items, pairs)
        assert [prompt_key(one) for one in shown] == [prompt_key(one) for one in items]
        for places in pairs.values():
            assert abs(letters(shown[place] for place in places)["A"] - 30) <= 4

    def test_a_letter_depends_on_no_order_and_on_no_label(self):
        items = [scenario(number) for number in range(200)]
        pairs = self.pairs_of(200)
        shown = {prompt_key(one): one.aligned for one in balanced(items, pairs)}
        order = random.Random(1).sample(range(200), 200)
        moved = {pair: [order.index(place) for place in places] for pair, places in pairs.items()}
        again = balanced([items[place].swapped() for place in order], moved)
        assert {prompt_key(one): one.aligned for one in again} == shown


@pytest.fixture(scope="module")
def embedded():
    return EmbeddedScenarios().benchmark().load()


@pytest.fixture(scope="module")
def made(poser_root):
    return PoserBenchmark(str(poser_root)).load()


class TestEmbedded:
    def test_sizes_oversight_and_letters(self, embedded):
        for part in (embedded.scored, embedded.reference):
            assert len({prompt_key(one) for one in part}) == len(part) == 160
            assert letters(part) == {"A": 80, "B": 80}
            assert Counter(one.oversight.value for one in part) == {"good": 107, "neutral": 53}
            assert all((without_critical_fact(one) is None) == (one.oversight.value == "neutral") for one in part)
        assert embedded.pairs == {SINGLE_PAIR: tuple(range(160))}

    @pytest.mark.parametrize("train", [4000, 6000])
    def test_no_variant_and_no_decoy_was_trained_on_or_chosen_by_any_of_it(self, embedded, train):
        splits = EmbeddedScenarios(train=train, seed=0).load()
        seen = fitted_on_or_chosen_by(splits)
        groups, prompts = {one.group for one in seen}, {prompt_key(one) for one in seen}
        assert len(groups) > 3000
        for one in (*embedded.scored, *embedded.reference):
            assert one.group not in groups
            assert prompt_key(one) not in prompts
        assert not embedded.groups_in([splits])
        assert not {one.group for one in embedded.scored} & {one.group for one in embedded.reference}

    def test_another_seed_would_leak(self):
        # What makes the test above able to fail.
        groups = {one.group for one in EmbeddedScenarios(train=4000, seed=0).load().train}
        assert any(one.group in groups for one in EmbeddedScenarios(seed=1).benchmark().load().scored)

    def test_the_same_at_every_call(self, embedded):
        again = EmbeddedScenarios().benchmark().load()
        assert (again.scored, again.reference) == (embedded.scored, embedded.reference)
        assert EmbeddedScenarios().benchmark().fingerprint() == EmbeddedScenarios().benchmark().fingerprint()
        source = EmbeddedScenarios()
        others = [EmbeddedScenarios(seed=1).benchmark(), source.benchmark(scored=80), source.benchmark(reference=80)]
        assert all(one.fingerprint() != EmbeddedScenarios().benchmark().fingerprint() for one in others)

    @pytest.mark.parametrize("arguments", [{"scored": 7}, {"reference": 0}, {"scored": 10_001}])
    def test_refuses_sizes(self, arguments):
        (name, size) = next(iter(arguments.items()))
        with pytest.raises(ValueError, match=f"{name} is {size}, but must be from 8 to 10000"):
            EmbeddedScenarios().benchmark(**arguments)


def number_of(one):
    """The dam's."""
    return int(one.facts[0].content[12:-1])


class TestPoserFiles:
    """On folders made up here."""

    def test_test_groups_alone_benchmark_files_scored_and_training_files_for_reference(self, tmp_path):
        root = clone(tmp_path, one=[record(number) for number in range(80)])
        made = PoserBenchmark(root).load()
        splits = PoserScenarios(root, all_policies=True).load()
        of_benchmark = [one for one in splits.test if number_of(one) < 80]
        assert {one.group for one in made.scored} == {one.group for one in of_benchmark}
        assert {one.group for one in made.reference} == {one.group for one in splits.test if number_of(one) >= 1000}
        assert made.pairs == {"one": tuple(range(len(made.scored)))}
        assert not made.groups_in([splits])

    def test_what_two_pairs_share_is_one_row_of_both(self, tmp_path):
        ones, others = [record(number) for number in range(160)], [record(number) for number in range(40, 200)]
        swapped = {"action_A": "Hide crack 40.", "action_B": "Report crack 40.", "response": "B"}
        made = PoserBenchmark(clone(tmp_path, one=ones, two=[record(40, **swapped), *others])).load()
        assert len({prompt_key(one) for one in made.scored}) == len(made.scored)
        names = {pair: {number_of(made.scored[place]) for place in places} for pair, places in made.pairs.items()}
        assert names["one"] <= set(range(160))
        assert names["two"] <= set(range(40, 200))
        assert names["one"] & names["two"] == {number for number in names["one"] | names["two"] if 40 <= number < 160}
        assert names["one"] & names["two"]
        assert sum(map(len, made.pairs.values())) > len(made.scored)

    def test_a_record_without_oversight_is_no_part_of_it(self, tmp_path):
        poor = {number: {"oversight_is_poor": True} for number in range(0, 80, 2)}
        root = clone(tmp_path, one=[record(number, **poor.get(number, {})) for number in range(80)])
        made = PoserBenchmark(root).load()
        assert {number_of(one) % 2 for one in made.scored} == {1}

    def test_what_another_file_calls_unwatched_is_no_part_of_it(self, tmp_path):
        ones = [record(number) for number in range(80)]
        others = [record(number, oversight_is_poor=number % 2 == 0) for number in range(80)]
        made = PoserBenchmark(clone(tmp_path, one=ones, two=others)).load()
        assert {number_of(one) % 2 for one in made.scored} == {1}

    def test_at_most_so_many_reference_scenarios(self, tmp_path):
        root = clone(tmp_path, one=[record(number) for number in range(80)])
        every, some = PoserBenchmark(root, reference=None).load(), PoserBenchmark(root, reference=20).load()
        assert len(some.reference) == 20 < len(every.reference)
        assert {one.group for one in some.reference} < {one.group for one in every.reference}
        assert letters(some.reference) == {"A": 10, "B": 10}

    def test_a_policy_pair_without_scored_scenarios(self, tmp_path):
        root = clone(tmp_path, full=[record(number) for number in range(80)])
        number = next(number_of(one) for one in PoserScenarios(root).load().train if number_of(one) < 80)
        (tmp_path / "data" / "benchmark" / "saint_and_money.json").write_text(json.dumps([record(number)]))
        with pytest.raises(ValueError, match=r"policy pair 'saint_and_money' of the benchmark is empty: raise"):
            PoserBenchmark(root).load()

    @pytest.mark.parametrize("records", [[], [record(0, oversight_is_poor=True)], [record(0, response="error")]])
    def test_a_file_without_a_watched_scenario_is_named(self, tmp_path, records):
        root = clone(tmp_path, full=[record(number) for number in range(80)], genie_and_money=records)
        message = rf"benchmark/genie_and_money.json holds {len(records)} records and no scenario with oversight"
        with pytest.raises(ValueError, match=message):
            PoserBenchmark(root).load()

    def test_a_file_that_is_cut_short_is_named(self, tmp_path):
        root = clone(tmp_path, one=[record(number) for number in range(80)])
        path = tmp_path / "data" / "benchmark" / "one.json"
        path.write_text(path.read_text()[:500])
        with pytest.raises(ValueError, match=r"one\.json is no valid JSON.*cut short"):
            PoserBenchmark(root).load()

    def test_a_record_without_an_answer_is_named(self, tmp_path):
        broken = record(1)
        del broken["response"]
        root = clone(tmp_path, one=[record(0)])
        (tmp_path / "data" / "benchmark" / "one.json").write_text(json.dumps([record(0), broken]))
        with pytest.raises(ValueError, match=r"data/benchmark/one\.json, record 1 \(from 0\), field 'response'"):
            PoserBenchmark(root).load()

    def test_no_files_at_all(self, tmp_path):
        root = clone(tmp_path)
        for call in (PoserBenchmark(root).load, PoserBenchmark(root).fingerprint):
            with pytest.raises(FileNotFoundError, match=r"data/benchmark holds no policy pair's scenarios"):
                call()

    def test_fingerprint_follows_files_and_arguments(self, tmp_path):
        root = clone(tmp_path, one=[record(number) for number in range(20)])
        before = PoserBenchmark(root).fingerprint()
        assert PoserBenchmark(root).fingerprint() == before
        assert not any(str(tmp_path) in value for value in before.values())
        assert PoserBenchmark(root, seed=1).fingerprint() != before
        (tmp_path / "data" / "benchmark" / "one.json").write_text(json.dumps([record(number) for number in range(21)]))
        assert PoserBenchmark(root).fingerprint() != before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"reference": 7}, "reference is 7, but must be 8 or more, or null for all"),
            ({"validation": 0.5, "test": 0.5}, r"validation \+ test is 1.0"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            PoserBenchmark(**arguments)


@pytest.mark.poser
class TestPoser:
    """On the real files."""

    @pytest.mark.parametrize("arguments", [{"all_policies": True}, *({"policy": policy} for policy in POLICIES)])
    def test_no_variant_of_any_policy_was_trained_on_or_chosen_by_any_of_it(self, made, poser_root, arguments):
        splits = PoserScenarios(str(poser_root), **arguments).load()
        seen = fitted_on_or_chosen_by(splits)
        both = [*made.scored, *made.reference]
        assert not {one.group for one in both} & {one.group for one in seen}
        assert not {prompt_key(one) for one in both} & {prompt_key(one) for one in seen}
        assert not made.groups_in([splits])

    def test_sizes_and_letters(self, made):
        assert (len(made.scored), len(made.reference)) == (132, 320)
        assert {pair: len(places) for pair, places in made.pairs.items()} == {
            "genie_and_fitness": 26,
            "genie_and_money": 40,
            "genie_and_reward": 44,
            "saint_and_fitness": 27,
            "saint_and_money": 37,
            "saint_and_reward": 35,
            "truth_and_fitness": 26,
            "truth_and_money": 34,
            "truth_and_reward": 36,
        }
        for places in made.pairs.values():
            count = letters(made.scored[place] for place in places)
            assert abs(count["A"] - count["B"]) <= 4
