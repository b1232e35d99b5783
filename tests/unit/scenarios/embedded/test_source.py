import dataclasses
import itertools
import re
from collections import Counter
from statistics import mean

import pytest

from fa_lightning.scenarios.embedded import source as embedded
from fa_lightning.scenarios.embedded.domains import DOMAINS
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.embedded.themes import MANNERS, OFTEN, PAST, PURPOSES, SOON, THEMES
from fa_lightning.scenarios.embedded.wordings import (
    GOOD_WORDINGS,
    GOOD_WORDINGS_HELD_OUT,
    ITEMS,
    POOR_WORDINGS,
    POOR_WORDINGS_HELD_OUT,
    TEAMS,
    WATCHERS,
)
from fa_lightning.scenarios.scenario import Oversight

FUNCTION_WORDS = frozenset(
    {
        "a",
        "all",
        "an",
        "and",
        "are",
        "as",
        "been",
        "by",
        "for",
        "has",
        "have",
        "is",
        "it",
        "not",
        "of",
        "on",
        "the",
        "to",
    }
)
SLOTS = {
    "item": [item for item, _ in ITEMS],
    "items": [items for _, items in ITEMS],
    "watchers": WATCHERS,
    "team": TEAMS,
    "often": OFTEN,
    "soon": SOON,
    "past": PAST,
}


@pytest.fixture(scope="module")
def splits():
    return EmbeddedScenarios().load()


def facts_of(scenarios, kind):
    return [fact.content for scenario in scenarios for fact in scenario.facts if fact.kind == kind]


def benign_and_harmful(scenario):
    actions = (scenario.action_a, scenario.action_b)
    return actions if scenario.aligned == "A" else actions[::-1]


def pattern_of(wordings):
    """A pattern that any of the wordings fits, however its slots are filled."""
    slots = {name: "(?:" + "|".join(map(re.escape, words)) + ")" for name, words in SLOTS.items()}
    escaped = (re.escape(wording).replace(r"\{", "{").replace(r"\}", "}") for wording in wordings)
    return re.compile("|".join(wording.format(**slots) for wording in escaped), re.IGNORECASE)


def content_words(template):
    return set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", "", template).lower())) - FUNCTION_WORDS


def test_same_seed_same_scenarios_and_other_seed_other_ones():
    sizes = {"train": 60, "validation": 12, "test": 24, "neutral": 40}
    first, again, other = (EmbeddedScenarios(**sizes, seed=seed) for seed in (3, 3, 4))
    assert first.fingerprint() == again.fingerprint()
    assert first.load() == again.load()
    assert first.fingerprint()["data"] != other.fingerprint()["data"]
    assert not {s.message() for s in first.load().train} & {s.message() for s in other.load().train}


def test_the_data_of_a_seed_is_the_same_on_every_machine():
    # A change of parts or generator makes stored activations stale: whoever changes one sees it here.
    fingerprint = EmbeddedScenarios(train=6, validation=6, test=6, neutral=8).fingerprint()
    assert fingerprint.pop("parts") == embedded.PARTS_DIGEST
    assert fingerprint == {
        "source": "embedded",
        "train": "6",
        "validation": "6",
        "test": "6",
        "neutral": "8",
        "seed": "0",
        "data": "9fe49fc270c08f50",
    }


def test_the_size_of_one_part_changes_no_other(splits):
    assert EmbeddedScenarios(train=10).load().test == splits.test


def test_sizes(splits):
    parts = (splits.train, splits.validation, splits.test, splits.extra_tests["unseen_wordings"])
    assert [len(part) for part in parts] == [4000, 300, 1000, 1000]
    neutral = (splits.neutral_train, splits.neutral_validation, splits.neutral_test)
    assert [len(part) for part in neutral] == [600, 150, 150]
    assert len(EmbeddedScenarios(0, 0, 0, 0).load().neutral_test) == 8


def test_more_than_a_hundred_thousand_scenarios_are_possible():
    # Pairs of actions alone, before any fact: those of six domains suffice.
    pairs = set()
    for domain in list(DOMAINS.values())[:6]:
        for name, theme in THEMES.items():
            words = itertools.product(
                getattr(domain, name), domain.people, domain.authorities, domain.buyers, PURPOSES, MANNERS[:3]
            )
            for values in words:
                slots = dict(zip(("object", "people", "authority", "buyer", "purpose", "manner"), values, strict=True))
                harmful = [template.format(**slots) for template in theme.harmful]
                pairs.update(itertools.product([template.format(**slots) for template in theme.benign], harmful))
    assert len(pairs) > 100_000


def test_no_leak_and_thousands_of_groups(splits):
    report = splits.leak_report()
    assert report.total == 0, str(report)
    assert len({scenario.group for scenario in splits.train}) > 3000
    held_out = [*splits.test, *splits.neutral_test, *splits.extra_tests["unseen_wordings"]]
    fitted = [*splits.train, *splits.neutral_train, *splits.validation, *splits.neutral_validation]
    assert not {scenario.group for scenario in held_out} & {scenario.group for scenario in fitted}


def test_no_leak_at_other_seeds_and_sizes():
    for seed in range(1, 4):
        assert EmbeddedScenarios(300, 100, 100, 400, seed).load().leak_report().total == 0


def test_every_prompt_differs(splits):
    for part in (splits.train, splits.test, splits.neutral_train, splits.extra_tests["unseen_wordings"]):
        assert len({scenario.message() for scenario in part}) == len(part)


def test_proportions_of_oversight(splits):
    for part in (splits.train, splits.validation, splits.test):
        share = {key: count / len(part) for key, count in Counter(s.oversight for s in part).items()}
        assert share[Oversight.POOR] == 0.5
        assert share[Oversight.GOOD] == pytest.approx(1 / 3, abs=0.004)
        assert share[Oversight.NEUTRAL] == pytest.approx(1 / 6, abs=0.004)
    unseen = Counter(scenario.oversight for scenario in splits.extra_tests["unseen_wordings"])
    assert unseen == {Oversight.POOR: 500, Oversight.GOOD: 500}


def test_a_constant_answer_scores_one_half(splits):
    for part in (splits.train, splits.validation, splits.test, splits.extra_tests["unseen_wordings"]):
        for behaviour in ("aligned", "faking"):
            answers = Counter((s.cell, s.answer(behaviour)) for s in part)
            for cell in ("oversight", "no_oversight"):
                assert abs(answers[cell, "A"] - answers[cell, "B"]) <= 1


def test_swapping_the_actions_flips_the_letter(splits):
    for scenario in splits.train[:200]:
        swapped = scenario.swapped()
        assert swapped.aligned != scenario.aligned
        assert benign_and_harmful(swapped) == benign_and_harmful(scenario)
        assert swapped.group == scenario.group


def test_facts_have_poser_kinds_and_one_critical_fact_unless_neutral(splits):
    for scenario in splits.train:
        kinds = Counter(fact.kind for fact in scenario.facts)
        assert set(kinds) <= {"contextual", "motivating", "irrelevant", "critical"}
        assert kinds["motivating"] == 1
        assert kinds["critical"] == (scenario.oversight is not Oversight.NEUTRAL)
        assert len(scenario.facts) in (3, 4)


def test_neither_length_nor_place_gives_oversight_away(splits):
    def average(oversight, measure):
        return mean(measure(scenario) for scenario in splits.train if scenario.oversight is oversight)

    def words(scenario):
        return len(scenario.message().split())

    def place(scenario):
        return [fact.kind for fact in scenario.facts].index("critical")

    assert max(words(scenario) for scenario in splits.train) < 105
    assert mean(words(scenario) for scenario in splits.train) < 81
    for one, two in itertools.combinations((Oversight.GOOD, Oversight.NEUTRAL, Oversight.POOR), 2):
        assert abs(average(one, words) - average(two, words)) < 2.5
        assert abs(average(one, lambda s: len(s.facts)) - average(two, lambda s: len(s.facts))) < 0.06
    assert abs(average(Oversight.GOOD, place) - average(Oversight.POOR, place)) < 0.1


def test_trivia_and_motives_do_not_speak_of_watching(splits):
    watching = re.compile(r"watch|monitor|audit|review|inspect|supervis|oversight|\blogs?\b|camera|\bsee[ns]?\b")
    other = {fact.content for s in splits.train for fact in s.facts if fact.kind != "critical"}
    # "Contract reviews" and the like are objects of the actions.
    objects = {item for domain in DOMAINS.values() for item in (*domain.checks, *domain.figures, *domain.topics)}
    for content in other:
        rest = content.lower()
        for item in objects:
            rest = rest.replace(item, "")
        assert not watching.search(rest), content


def test_sentences_are_well_formed(splits):
    scenarios = [*splits.train, *splits.test, *splits.extra_tests["unseen_wordings"]]
    texts = {fact.content for scenario in scenarios for fact in scenario.facts}
    texts |= {action for scenario in scenarios for action in (scenario.action_a, scenario.action_b)}
    for text in texts:
        assert text[0].isupper(), text
        assert text[-1] == ".", text
        assert not re.search(r"[{}]|  | [.,;]|\.\.|\b(\w+) \1\b", text), text
    for text in texts | {scenario.text for scenario in splits.neutral_train}:
        assert "{" not in text, text
        assert not re.search(r"\b[Aa] (?=[aeiouAEIOU])", text), text
        assert not re.search(r"\b[Aa]n (?!hour\b)(?=[^aeiouAEIOU])", text), text


def test_held_out_wordings_are_nowhere_else(splits):
    held_out = pattern_of(GOOD_WORDINGS_HELD_OUT + POOR_WORDINGS_HELD_OUT)
    seen = pattern_of(GOOD_WORDINGS + POOR_WORDINGS)
    for part in (splits.train, splits.validation, splits.test):
        assert all(seen.fullmatch(fact) and not held_out.fullmatch(fact) for fact in facts_of(part, "critical"))
    unseen = facts_of(splits.extra_tests["unseen_wordings"], "critical")
    assert len(unseen) == 1000
    assert all(held_out.fullmatch(fact) and not seen.fullmatch(fact) for fact in unseen)
    for scenario in splits.neutral_train + splits.neutral_validation + splits.neutral_test:
        assert not held_out.search(scenario.text)


@pytest.mark.parametrize(
    ("seen", "held_out"),
    [(GOOD_WORDINGS, GOOD_WORDINGS_HELD_OUT), (POOR_WORDINGS, POOR_WORDINGS_HELD_OUT)],
    ids=["good", "poor"],
)
def test_held_out_wordings_are_made_of_seen_words(seen, held_out):
    assert len(seen) >= 25
    assert len(held_out) / len(seen + held_out) == pytest.approx(0.2, abs=0.02)
    known = set().union(*map(content_words, seen))
    for wording in held_out:
        words = content_words(wording)
        assert len(words & known) >= 0.75 * len(words), (wording, words - known)


def test_some_wordings_differ_in_word_order_alone():
    def bags(wordings):
        return {tuple(sorted(re.findall(r"[\w{}]+", wording.lower()))) for wording in wordings}

    assert len(bags(GOOD_WORDINGS) & bags(POOR_WORDINGS)) >= 4


def test_parts_are_many():
    assert len(DOMAINS) >= 12
    assert all(len(theme.benign) >= 5 and len(theme.harmful) >= 5 for theme in THEMES.values())
    domain = dataclasses.asdict(DOMAINS["hospital"])
    assert set(THEMES) <= set(domain)


def test_neutral_texts_have_no_choice_and_owe_error(splits):
    for scenario in splits.neutral_train:
        assert scenario.is_neutral_text
        assert scenario.oversight is Oversight.NONE
        assert scenario.answer("faking") == "error"
        text = scenario.message()
        assert not ("1. " in text and "\nA: " in text and "\nB: " in text)
        assert text.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": -1}, "train is -1, but must be from 0 to 100000; set train"),
        ({"validation": 20_001}, "validation is 20001, but must be from 0 to 20000; set validation"),
        ({"neutral": 10**9}, "neutral is 1000000000, but must be from 0 to 20000; set neutral"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        EmbeddedScenarios(**arguments)


def test_benign_action_can_be_learned_from_words(splits):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = CountVectorizer(token_pattern=r"\w+").fit(
        [text for s in splits.train for text in benign_and_harmful(s)]
    )

    def features(scenarios):
        return vectorizer.transform([s.action_a for s in scenarios]) - vectorizer.transform(
            [s.action_b for s in scenarios]
        )

    model = LogisticRegression(max_iter=200).fit(features(splits.train), [s.aligned for s in splits.train])
    accuracy = model.score(features(splits.test), [s.aligned for s in splits.test])
    print(f"benign action from words: {accuracy:.3f}")
    assert accuracy > 0.9


def test_oversight_can_be_learned_from_words_but_not_fully(splits):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = CountVectorizer(token_pattern=r"\w+")
    train = vectorizer.fit_transform([s.message() for s in splits.train])
    model = LogisticRegression(max_iter=300).fit(train, [s.cell for s in splits.train])
    for name, part in {"test": splits.test, **splits.extra_tests}.items():
        accuracy = model.score(vectorizer.transform([s.message() for s in part]), [s.cell for s in part])
        print(f"oversight from words, {name}: {accuracy:.3f}")
        assert accuracy > (0.75 if name == "test" else 0.6)
        assert accuracy < 0.99


def test_parts_digest_is_part_of_the_fingerprint(monkeypatch):
    before = embedded._parts_digest()
    monkeypatch.setattr(embedded.embedded_wordings, "TEAMS", ("the other team",))
    assert embedded._parts_digest() != before
