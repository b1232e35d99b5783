"""What is shared with a corpus, beside brute force; and verdicts on samplers whose fault is known."""

import math
import random

import pytest
import torch

from fa_lightning.common.codec import encode
from fa_lightning.studies.leakage.figures import leakage_figure
from fa_lightning.studies.leakage.measures import LeakageScores, continuation_scores, judge
from fa_lightning.studies.leakage.ngram_overlap import TextIndex, longest_overlap, ngram_overlap
from fa_lightning.studies.leakage.result import (
    COLUMNS,
    MEASURES,
    RESULT_NAME,
    Corpus,
    Leakage,
    ModelLeakage,
    Written,
    verdict,
)
from fa_lightning.studies.leakage.result import read as read_leakage

VOCABULARY = 500
LENGTH = 60
PROMPTS, SEEDS = 6, 40


def texts_of(seed, count=30, length=80, vocabulary=VOCABULARY):
    rng = random.Random(seed)
    return [[rng.randrange(vocabulary) for _ in range(length)] for _ in range(count)]


def by_brute_force(tokens, texts):
    """Matching statistics by trying every place of every text."""

    def common(one, other):
        length = 0
        while length < min(len(one), len(other)) and one[length] == other[length]:
            length += 1
        return length

    return [
        max(common(tokens[start:], text[place:]) for text in texts for place in range(len(text)))
        for start in range(len(tokens))
    ]


FITTED_ON, HELD_OUT = texts_of("fitted on"), texts_of("held out")
INDICES = TextIndex(FITTED_ON, LENGTH), TextIndex(HELD_OUT, LENGTH)


@pytest.mark.parametrize("vocabulary", [2, 3, 9])
def test_matches_are_those_of_brute_force(vocabulary):
    texts = [*texts_of("few words", 6, 25, vocabulary), [1], []]
    index = TextIndex(texts, reach=100)
    for tokens in texts_of("asked", 12, 18, vocabulary):
        expected = by_brute_force(tokens, texts)
        assert index.matches(tokens) == expected
        grams = {tuple(text[at : at + 4]) for text in texts for at in range(len(text) - 3)}
        own = [tuple(tokens[at : at + 4]) for at in range(len(tokens) - 3)]
        assert ngram_overlap(expected, 4) == pytest.approx(sum(gram in grams for gram in own) / len(own))
        assert TextIndex(texts, reach=3).matches(tokens) == [min(3, length) for length in expected]


def test_no_match_runs_from_one_text_into_the_next_whatever_the_ids():
    large = 0x10FFFE
    index = TextIndex([[0, 1], [2, 0xD7FF, 0xD800, large]], reach=9)
    assert index.matches([0, 1, 2, 0xD7FF, 0xD800, large, 5]) == [2, 1, 4, 3, 2, 1, 0]
    assert (index.texts, index.tokens, index.longest_text) == (2, 6, 4)


def test_what_is_empty_or_short_has_no_overlap_and_an_empty_corpus_is_refused():
    assert INDICES[0].matches([]) == []
    assert longest_overlap([]) == 0
    assert ngram_overlap([2, 1], 3) == 0.0
    for texts in ([], [[], []]):
        with pytest.raises(ValueError, match="the corpus is empty"):
            TextIndex(texts, reach=5)
    with pytest.raises(ValueError, match="reach is 0"):
        TextIndex([[1]], reach=0)
    with pytest.raises(ValueError, match="size is 0"):
        ngram_overlap([1], 0)


def scored(writer, ends=True, runs_on=False):
    """`LeakageScores` of a sampler: `writer(prompt, seed)` gives tokens."""
    metric = LeakageScores(resamples=300)
    for prompt in range(PROMPTS):
        seeds = torch.arange(SEEDS)
        scores = [continuation_scores(writer(prompt, seed), *INDICES, 4, 20, ends, runs_on) for seed in seeds.tolist()]
        metric.update(prompt * SEEDS + seeds, seeds, scores)
    return metric


def random_tokens(prompt, seed):
    return texts_of(f"{prompt} {seed}", 1, LENGTH)[0]


def reciter(texts):
    return lambda prompt, seed: texts[(prompt + seed) % len(texts)][seed % 20 : seed % 20 + LENGTH]


RANDOM = scored(random_tokens)


def test_random_tokens_share_with_a_corpus_what_chance_gives():
    found = RANDOM.compute()
    # A given 2-gram is one of 250,000, of which 2,370 are in a corpus; a 4-gram is never there by chance.
    assert found["overlap"].value == 0
    assert found["recitation"].value == 0
    assert found["repetition"].value < 0.01
    chance = 30 * 79 / VOCABULARY**2
    pairs = [ngram_overlap(INDICES[0].matches(random_tokens(0, seed)), 2) for seed in range(300)]
    assert sum(pairs) / len(pairs) == pytest.approx(chance, rel=0.25)


def test_a_recited_text_has_1_and_only_against_its_own_corpus():
    found = scored(reciter(FITTED_ON)).compute()
    for name in ("recitation", "overlap"):
        assert found[name].value == 1.0
        # All seeds agree, which is as sure as they are many.
        assert found[name].ci95 == pytest.approx((0.025 ** (1 / SEEDS), 1.0))
        assert found[f"{name}_held_out"].value == 0
    assert found["longest"].value == LENGTH
    assert all(map(math.isnan, found["longest"].ci95)), "a count has no bounds, so equal ones say nothing"
    other = scored(reciter(HELD_OUT)).compute()
    assert (other["recitation"].value, other["recitation_held_out"].value) == (0.0, 1.0)


def test_recitation_begins_at_its_stated_length():
    lengths = {
        length: continuation_scores([*FITTED_ON[0][5 : 5 + length], 1, 1], *INDICES, 4, 20, True, False)["recitation"]
        for length in (18, 19, 20, 21)
    }
    # Chance may add a token where a piece ends.
    assert lengths[18] == 0
    assert lengths[20] == lengths[21] == 1


def test_shuffled_texts_are_no_recitation():
    def shuffled(prompt, seed):
        text = reciter(FITTED_ON)(prompt, seed)
        return random.Random(seed).sample(text, len(text))

    found = scored(shuffled).compute()
    assert found["recitation"].value == 0
    assert found["overlap"].value < 0.01


@pytest.mark.parametrize(
    ("writer", "options", "faults"),
    [
        (random_tokens, {}, set()),
        (reciter(FITTED_ON), {}, {"recitation", "overlap"}),
        # Style that the held-out corpus shows as well is no leakage.
        (lambda prompt, seed: FITTED_ON[0][:25] + HELD_OUT[0][:25], {}, set()),
        (lambda prompt, seed: [7] * LENGTH, {}, {"repetition"}),
        (random_tokens, {"ends": False}, {"no_end"}),
        (random_tokens, {"runs_on": True}, {"run_on"}),
        (lambda prompt, seed: [], {}, set()),
    ],
)
def test_a_verdict_names_what_goes_beyond_backbone_and_style(writer, options, faults):
    findings = judge(scored(writer, **options).items(), RANDOM.items(), tolerance=0.1, resamples=300)
    assert [one.measure for one in findings] == list(MEASURES)
    assert {one.measure for one in findings if one.state != "within"} == faults
    assert all(one.state == "exceeds" for one in findings if one.measure in faults)
    assert all(one.excess == pytest.approx(1, abs=0.05) for one in findings if one.measure in faults)


def test_what_the_backbone_does_too_is_no_fault():
    reciting = scored(reciter(FITTED_ON), ends=False)
    assert {one.state for one in judge(reciting.items(), reciting.items(), 0.1)} == {"within"}


def test_few_samples_acquit_nobody():
    def now_and_then(prompt, seed):
        return reciter(FITTED_ON)(prompt, seed) if seed in (3, 8) else random_tokens(prompt, seed)

    findings = {one.measure: one for one in judge(scored(now_and_then).items(), RANDOM.items(), 0.1)}
    assert findings["recitation"].excess == pytest.approx(2 / SEEDS)
    assert findings["recitation"].state == "open"


def test_recitation_is_caught_below_the_tolerance_and_repetition_is_not():
    """A text that is given away now and then is given away; nothing excuses it by its rarity."""

    def seldom(written):
        return lambda prompt, seed: (written if seed % 4 == 0 and prompt < 2 else random_tokens)(prompt, seed)

    for written, states in (
        (reciter(FITTED_ON), {"recitation": "exceeds", "repetition": "within"}),
        (reciter(HELD_OUT), {"recitation": "within", "repetition": "within"}),
        (lambda prompt, seed: [7] * LENGTH, {"recitation": "within", "repetition": "open"}),
    ):
        findings = {one.measure: one for one in judge(scored(seldom(written)).items(), RANDOM.items(), 0.1)}
        assert abs(findings["recitation"].excess) < 0.1
        assert {name: findings[name].state for name in states} == states


@pytest.mark.parametrize(("seeds", "state"), [(3, "open"), (35, "open"), (36, "within")])
def test_a_few_samples_that_are_all_harmless_acquit_nobody_either(seeds, state):
    kept = RANDOM.items()["seed"] < seeds
    few = {name: column[kept] for name, column in RANDOM.items().items()}
    # What none of n shows may still be in 1 - 0.025 ** (1 / n) of all: 0.1003 of 35 and 0.097 of 36.
    findings = judge(few, few, tolerance=0.1, resamples=300)
    unseen = 1 - 0.025 ** (1 / seeds)
    assert {one.state for one in findings} == {state}
    assert all(one.ci95 == pytest.approx((-unseen, unseen)) for one in findings)
    caught = scored(reciter(FITTED_ON)).items()
    guilty = judge({name: column[kept] for name, column in caught.items()}, few, 0.1, resamples=300)
    assert guilty[0].state == "exceeds", "what all of them show is sure enough"


def test_a_continuation_counts_once_and_others_are_not_compared():
    twice = scored(random_tokens)
    twice.update(torch.tensor([0]), torch.tensor([0]), [dict.fromkeys(COLUMNS, 9.0)])
    assert twice.compute()["overlap"].value == 0
    with pytest.raises(ValueError, match="same prompts and seeds"):
        judge(LeakageScores().items(), RANDOM.items(), 0.1)


def leakage_of(*metrics):
    models = []
    for place, (name, metric) in enumerate(metrics):
        findings = judge(metric.items(), metrics[0][1].items(), 0.1) if place else []
        passes = all(one.state == "within" for one in findings) if place else None
        written = [Written("user: hello", 3, "<|user|>Tell <b>all</b>", 41, False)]
        models.append(ModelLeakage(name, metric.compute(), 60, findings, written, passes))
    corpora = Corpus(30, 2400), Corpus(30, 2400)
    return Leakage(models, ["user: hello", "bare: (nothing)"], SEEDS, 4, 20, 0.1, 60, 1.0, *corpora, 2.5)


def test_what_was_found_is_read_back_and_drawn(tmp_path):
    import json

    found = leakage_of(("backbone", RANDOM), ("right", RANDOM), ("wrong", scored(reciter(FITTED_ON), ends=False)))
    assert [verdict(model) for model in found.models] == ["-", "passes", "leaks"]
    (tmp_path / RESULT_NAME).write_text(json.dumps(encode(found, RESULT_NAME)))
    assert read_leakage(tmp_path) == found
    assert read_leakage(tmp_path / "elsewhere") is None
    (tmp_path / RESULT_NAME).write_text("{")
    with pytest.raises(ValueError, match="not whole JSON"):
        read_leakage(tmp_path)
    panels = leakage_figure(found).axes
    assert len(panels) == len(MEASURES)
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["backbone", "right", "wrong"]
    marks = panels[0].collections
    assert any(math.isclose(mark.get_offsets()[0][0], 1.0) for mark in marks)
