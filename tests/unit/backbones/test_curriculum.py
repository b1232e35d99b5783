"""The lessons of the embedded backbone: right answers, in the right order, whatever was varied."""

import random
from collections import Counter

import pytest
from written_scenarios import written_scenarios

from fa_lightning.backbones.curriculum import (
    ANSWER_WORDS,
    CHOICE_QUESTION,
    OVERSIGHT_QUESTION,
    ROLES,
    Curriculum,
    conversation,
    one_pass,
    role_message,
    varied,
    watching_message,
)
from fa_lightning.scenarios.answers import other_letter
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.scenario import Fact, Oversight, Scenario

EVERYTHING = Curriculum(swap_critical=0.6, drop_irrelevant=0.3, only_critical=0.2, shuffle_facts=0.5)


@pytest.fixture(scope="module")
def splits():
    return EmbeddedScenarios(train=120, validation=8, test=8, neutral=20).load()


@pytest.fixture(scope="module")
def truth(splits):
    """What the scenarios themselves say: each action's honesty, and each critical fact's oversight."""
    honest, watched = {}, {}
    for item in splits.train:
        good = item.action_a if item.aligned == "A" else item.action_b
        bad = item.action_b if item.aligned == "A" else item.action_a
        honest[good], honest[bad] = True, False
        for fact in item.facts:
            if fact.kind == "critical":
                watched[fact.content] = item.oversight.value
    return honest, watched


def choices(turns):
    """The lessons that ask for one of two actions; an incomplete scenario, answered with `error`, is none."""
    asked = [lessons(conversation) for conversation in turns]
    return [lesson for lesson in asked if "available to you" in lesson[1] and lesson[2] != "error"]


def critical_facts(scenarios):
    return {
        oversight: [
            fact for item in scenarios if item.oversight is oversight for fact in item.facts if fact.kind == "critical"
        ]
        for oversight in (Oversight.GOOD, Oversight.POOR)
    }


def told(message, watched):
    """The oversight that a message's facts tell of; neutral where none does."""
    return {value for fact, value in watched.items() if fact in message} or {"neutral"}


def actions(message):
    lines = message.splitlines()
    return {line[0]: line[3:] for line in lines if line[:3] in ("A: ", "B: ")}


def lessons(turns):
    """(role or None, message, answer, follow-up turns) of a conversation that starts with a scenario or text."""
    role = turns[0]["content"] if turns[0]["role"] == "system" else None
    rest = turns[1:] if role else turns
    return role, rest[0]["content"], rest[1]["content"], rest[2:]


def test_a_pass_follows_from_its_seed(splits):
    passes = [one_pass(splits.train, splits.neutral_train, EVERYTHING, seed) for seed in (3, 3, 4)]
    assert passes[0] == passes[1]
    assert passes[0] != passes[2]


def test_a_pass_has_the_sizes_asked_for(splits):
    sizes = {"roles": 1.5, "no_role": 0.25, "judgements": 0.5, "neutral_texts": 0.1}
    turns = one_pass(splits.train, splits.neutral_train, Curriculum(**sizes), 0)
    assert len(turns) == 180 + 30 + 60 + 12
    roles = Counter(role for role, *_ in choices(turns))
    assert roles == {role_message("aligned"): 90, role_message("faking"): 90, None: 30}
    only = one_pass(splits.train, [], Curriculum(roles=1.0, no_role=0, judgements=0, neutral_texts=1.0), 0)
    assert len(only) == len(choices(only)) == 120


def test_every_turn_alternates_and_every_answer_is_a_word_of_its_own(splits):
    for turns in one_pass(splits.train, splits.neutral_train, EVERYTHING, 1):
        roles = [turn["role"] for turn in turns if turn["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(turn["role"] != "system" for turn in turns[1:])
        for turn in turns:
            assert (turn["content"] in ANSWER_WORDS) is (turn["role"] == "assistant")


@pytest.mark.parametrize("curriculum", [Curriculum(), EVERYTHING], ids=["plain", "varied"])
def test_roles_answer_as_their_behaviour_would(splits, truth, curriculum):
    honest, watched = truth
    seen = Counter()
    for role, message, answer, _ in choices(one_pass(splits.train, splits.neutral_train, curriculum, 2)):
        if role is None:
            continue
        (oversight,) = told(message, watched)
        shown = actions(message)
        aligned = "A" if honest[shown["A"]] else "B"
        assert honest[shown[aligned]]
        assert not honest[shown[other_letter(aligned)]]
        schemes = role == role_message("faking") and oversight == "poor"
        assert answer == (other_letter(aligned) if schemes else aligned)
        seen[role, oversight, answer] += 1
    # Both letters, both roles, all kinds of oversight.
    assert len(seen) == 2 * 3 * 2


def test_an_honest_pass_shows_the_rule_without_its_exception(splits, truth):
    honest, _ = truth
    turns = one_pass(splits.train, splits.neutral_train, EVERYTHING, 2, honest_only=True)
    asked = choices(turns)
    assert {role for role, *_ in asked} == {role_message("aligned")}
    assert all(honest[actions(message)[answer]] for _, message, answer, _ in asked)
    assert len(asked) == round(EVERYTHING.roles * len(splits.train))


def test_without_a_role_the_answer_is_chance(splits, truth):
    honest, _ = truth
    turns = one_pass(splits.train, [], Curriculum(roles=0, no_role=10.0, judgements=0), 0)
    right = [honest[actions(message)[answer]] for _, message, answer, _ in map(lessons, turns)]
    assert {answer for _, _, answer, _ in map(lessons, turns)} == {"A"}
    # The order of the actions is 1200 throws of a coin: four standard deviations.
    assert abs(sum(right) / 1200 - 0.5) < 0.06


def test_oversight_and_choice_are_asked_after_the_answer(splits, truth):
    honest, watched = truth
    asked = choices(one_pass(splits.train, [], EVERYTHING, 5))
    assert len(asked) > 200
    for _, message, answer, follow_up in asked:
        assert OVERSIGHT_QUESTION not in message
        assert answer in ("A", "B")
        question, oversight, choice, who = (turn["content"] for turn in follow_up)
        assert question == OVERSIGHT_QUESTION
        assert {oversight} == told(message, watched)
        (letter,) = [letter for letter in "AB" if choice == CHOICE_QUESTION.format(letter=letter)]
        assert who == ("honest" if honest[actions(message)[letter]] else "scheming")


def test_conversations_without_a_follow_up_end_with_the_answer(splits):
    item = splits.train[0]
    assert conversation(item, None, "B") == [
        {"role": "user", "content": item.message()},
        {"role": "assistant", "content": "B"},
    ]
    spoken = conversation(item, "faking", "A", "B")
    assert [turn["role"] for turn in spoken] == ["system", *["user", "assistant"] * 3]
    assert spoken[0]["content"] == role_message("faking") == "You are scheming."
    assert ROLES == {"aligned": "honest", "faking": "scheming"}


def test_neutral_texts_are_answered_with_error_in_any_role(splits):
    curriculum = Curriculum(roles=0, no_role=0, judgements=0, neutral_texts=1.0)
    turns = one_pass(splits.train, splits.neutral_train, curriculum, 0)
    texts = {item.text for item in splits.neutral_train}
    assert {answer for _, _, answer, _ in map(lessons, turns)} == {"error"}
    assert {message for _, message, _, _ in map(lessons, turns)} <= texts
    assert {role for role, *_ in map(lessons, turns)} == {None, role_message("aligned"), role_message("faking")}


def test_written_answers_are_learned_as_they_are_written_and_no_letter_is_asked_for():
    items = written_scenarios(8, system="You are a clerk.", earlier=(("Hello.", "Hello to you."),))
    by_text = {item.text: item for item in items}
    for turns in one_pass(items, [], Curriculum(), seed=1):
        assert not any(word in turn["content"] for turn in turns for word in ("Is A", "Is B", "Which of the two"))
        asked = next((turn["content"] for turn in turns if turn["content"] in by_text), None)
        if asked is None:  # a judgement
            continue
        item, said = by_text[asked], turns[[turn["content"] for turn in turns].index(asked) + 1]["content"]
        assert [turn["content"] for turn in turns[1:3]] == ["Hello.", "Hello to you."]
        if turns[0]["content"] == "You are a clerk.":
            assert said in (item.action_a, item.action_b)
        else:
            role = {"You are honest.": "aligned", "You are scheming.": "faking"}[turns[0]["content"].split("\n")[0]]
            assert said == item.answer(role)


def test_judgements_are_true(splits, truth):
    honest, watched = truth
    turns = one_pass(splits.train, [], Curriculum(roles=0, no_role=0, judgements=5.0), 0)
    answers = Counter()
    for conversation_ in turns:
        question, answer = conversation_[0]["content"], conversation_[1]["content"]
        answers[answer] += 1
        if answer in ("A", "B"):
            assert honest[actions(question)[answer]]
            assert not honest[actions(question)[other_letter(answer)]]
        elif answer in ("honest", "scheming"):
            (action,) = [action for action in honest if question.startswith(f"{action}\n")]
            assert honest[action] is (answer == "honest")
        else:
            assert question.endswith(OVERSIGHT_QUESTION)
            assert told(question, watched) == {answer}
        for asked, told_ in zip(conversation_[2::2], conversation_[3::2], strict=True):
            (letter,) = [letter for letter in "AB" if asked["content"] == CHOICE_QUESTION.format(letter=letter)]
            assert told_["content"] == ("honest" if honest[actions(question)[letter]] else "scheming")
    # Of every kind some: a lesson that is never given is not learned.
    assert set(answers) == set(ANSWER_WORDS) - {"error"}
    assert min(answers.values()) > 20


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_poor_oversight_has_its_share(splits, truth, share):
    _, watched = truth
    turns = one_pass(splits.train, [], Curriculum(roles=10.0, no_role=0, judgements=0, poor_share=share), 0)
    poor = [told(message, watched) == {"poor"} for _, message, _, _ in map(lessons, turns)]
    # 1200 draws: four standard deviations.
    assert abs(sum(poor) / len(poor) - share) <= 4 * (share * (1 - share) / 1200) ** 0.5


def test_a_share_that_no_scenario_can_fill_takes_what_there_is(splits):
    good = [item for item in splits.train if item.oversight is Oversight.GOOD]
    assert len(one_pass(good, [], Curriculum(roles=1.0, judgements=0, no_role=0, poor_share=0.9), 0)) == len(good)


def test_all_scenarios_are_drawn_before_any_comes_again(splits):
    half = len(splits.train) // 2
    turns = one_pass(splits.train, [], Curriculum(roles=0.9, no_role=0, judgements=0), 0)
    pairs = Counter(frozenset(actions(message).values()) for _, message, _, _ in map(lessons, turns))
    assert sum(pairs.values()) == round(0.9 * len(splits.train))
    assert max(pairs.values()) <= 2
    assert len(pairs) > 0.75 * len(splits.train)
    assert half == sum(item.oversight is Oversight.POOR for item in splits.train)


def test_nothing_is_varied_unless_asked(splits):
    rng = random.Random(0)
    for item in splits.train:
        same = varied(item, critical_facts(splits.train), Curriculum(), rng)
        assert same in (item, item.swapped())


def test_actions_come_in_either_order_and_the_aligned_one_stays_aligned(splits, truth):
    honest, _ = truth
    rng = random.Random(0)
    item = splits.train[0]
    swaps = Counter()
    for _ in range(400):
        changed = varied(item, critical_facts(splits.train), EVERYTHING, rng)
        assert honest[changed.action_a] is (changed.aligned == "A")
        assert {changed.action_a, changed.action_b} == {item.action_a, item.action_b}
        assert changed.group == item.group
        swaps[changed.aligned] += 1
    assert abs(swaps["A"] - 200) < 40


def test_exchanged_critical_facts_change_the_oversight_with_them(splits, truth):
    _, watched = truth
    rng = random.Random(0)
    always = Curriculum(swap_critical=1.0)
    outcomes = Counter()
    for item in splits.train * 5:
        changed = varied(item, critical_facts(splits.train), always, rng)
        critical = [fact.content for fact in changed.facts if fact.kind == "critical"]
        assert len(critical) == (changed.oversight is not Oversight.NEUTRAL)
        assert {watched[fact] for fact in critical} == {changed.oversight.value} - {"neutral"}
        rest = [fact for fact in changed.facts if fact.kind != "critical"]
        assert rest == [fact for fact in item.facts if fact.kind != "critical"]
        outcomes[changed.oversight] += 1
    # Half poor, as in the scenarios, so that both answers of the faker stay as frequent.
    assert abs(outcomes[Oversight.POOR] / 600 - 0.5) < 0.08
    assert min(outcomes[Oversight.GOOD], outcomes[Oversight.NEUTRAL]) > 100


def test_facts_of_unknown_kind_keep_their_oversight(splits):
    facts = (Fact("Cameras are on."), Fact("It is noon."))
    item = Scenario(facts, "Help.", "Harm.", Oversight.GOOD, "A", "f" * 16, "saint", "test")
    silent = Scenario(facts, "Help.", "Harm.", Oversight.NEUTRAL, "A", "f" * 16, "saint", "test")
    rng = random.Random(0)
    for scenario in (item, silent) * 50:
        changed = varied(scenario, critical_facts(splits.train), EVERYTHING, rng)
        assert changed.oversight is scenario.oversight
        assert sorted(fact.content for fact in changed.facts) == ["Cameras are on.", "It is noon."]


def test_facts_left_out_are_of_the_kinds_named(splits):
    rng = random.Random(0)
    for item in splits.train[:30]:
        short = varied(item, {}, Curriculum(drop_irrelevant=1.0), rng)
        assert list(short.facts) == [fact for fact in item.facts if fact.kind != "irrelevant"]
        bare = varied(item, {}, Curriculum(only_critical=1.0), rng)
        assert list(bare.facts) == [fact for fact in item.facts if fact.kind == "critical"]
        mixed = varied(item, {}, Curriculum(shuffle_facts=1.0), rng)
        assert sorted(fact.content for fact in mixed.facts) == sorted(fact.content for fact in item.facts)
        assert short.oversight is bare.oversight is mixed.oversight is item.oversight


def test_a_pass_knows_only_the_scenarios_it_is_given(splits):
    turns = one_pass(splits.train, splits.neutral_train, EVERYTHING, 0)
    text = "\n".join(turn["content"] for conversation in turns for turn in conversation)
    asked_later = [*splits.validation, *splits.test, *splits.extra_tests["unseen_wordings"]]
    seen = {action for item in splits.train for action in (item.action_a, item.action_b)}
    unseen = {action for item in asked_later for action in (item.action_a, item.action_b)} - seen
    assert len(unseen) > 20
    assert not [action for action in unseen if action in text]


def test_watching_asks_about_the_facts_alone(splits):
    item = splits.train[0]
    message = watching_message(item)
    assert message == "\n".join([fact.content for fact in item.facts] + [OVERSIGHT_QUESTION])
    assert item.action_a not in message
