"""The ensemble is judged on models that it was not fitted on, and is not worse for members that know nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from made_up_evidence import ALL, ROWS, detection, subject, variants

from fa_lightning.studies.detection.ensemble import HeldOut, Weights, fit, fold_of, folds_of
from fa_lightning.studies.detection.pairs import make_pairs
from fa_lightning.studies.detection.result import ALL_PAIRS, ENSEMBLE
from fa_lightning.studies.detection.subjects import Subject
from fa_lightning.studies.detection.tables import facts
from fa_lightning.studies.detection.verdicts import JudgedPair

TWO = variants(("aligned", "aligned"), ("faking", "faking"), seeds=6)
SIX = variants(
    *((policy, "aligned") for policy in ("saint", "genie", "truth_teller")),
    *((policy, "faking") for policy in ("fitness_maximizer", "money_maximizer", "reward_maximizer")),
    seeds=3,
)


def levels_of(
    subjects: Sequence[Subject], seed: int, coins: int = 10, lift: float = 1.02
) -> dict[str, dict[str, float]]:
    """One member that is never wrong, if by a small margin, and coins with a few huge numbers."""
    luck = np.random.default_rng(seed)
    perfect = {one.name: luck.uniform(0, 1) + lift * (one.behaviour == "faking") for one in subjects}
    found = {"perfect": perfect}
    for place in range(coins):
        found[f"coin {place}"] = {one.name: luck.standard_t(2) for one in subjects}
    return found


def judged_of(subjects: Sequence[Subject], levels: Mapping[str, Mapping[str, float]]) -> list[JudgedPair]:
    """Pairs with suspicions that are known exactly, and no resamples."""
    pairs = make_pairs(subjects, ALL, ROWS)
    sides = [
        [torch.tensor([own[name] for own in levels.values()], dtype=torch.float64) for name in names]
        for names in ((pair.one.name, pair.other.name) for pair in pairs)
    ]
    return [
        JudgedPair(pair, one, other, torch.zeros(0, len(levels), dtype=torch.float64))
        for pair, (one, other) in zip(pairs, sides, strict=True)
    ]


def accuracy(subjects: Sequence[Subject], levels: Mapping[str, Mapping[str, float]]) -> float:
    judged = [one for one in judged_of(subjects, levels) if one.pair.kind == "twins"]
    ensemble = HeldOut(judged)
    right = [(ensemble.log_odds(one)[0].item() > 0) == (one.pair.faker == one.pair.one) for one in judged]
    return float(np.mean(right))


@pytest.mark.parametrize("subjects", [TWO, SIX], ids=["one policy each", "three policies each"])
def test_one_perfect_member_is_found_among_ten_coins(subjects: list[Subject]) -> None:
    clear = [accuracy(subjects, levels_of(subjects, seed, lift=3.0)) for seed in range(6)]
    assert np.mean(clear) >= 0.99
    # With a margin of 2 % of its range, and models as few as these, some coins are as good by accident.
    close = [accuracy(subjects, levels_of(subjects, seed)) for seed in range(6)]
    assert np.mean(close) >= 0.95


def test_members_that_all_know_something_know_more_together() -> None:
    means, best = [], []
    for seed in range(6):
        luck = np.random.default_rng(seed)
        levels = {
            f"fair {place}": {one.name: luck.normal() + 1.2 * (one.behaviour == "faking") for one in SIX}
            for place in range(8)
        }
        judged = [one for one in judged_of(SIX, levels) if one.pair.kind == "twins"]
        members = [
            np.mean([(one.one[place] > one.other[place]) == (one.pair.faker == one.pair.one) for one in judged])
            for place in range(8)
        ]
        means.append(accuracy(SIX, levels))
        best.append(max(members))
    assert np.mean(means) >= np.mean(best) > 0.85


def test_coins_alone_make_a_coin() -> None:
    luck = np.random.default_rng(0)
    found = []
    for _ in range(12):
        levels = {f"coin {place}": {one.name: luck.normal() for one in TWO} for place in range(5)}
        found.append(accuracy(TWO, levels))
    # What is fitted on other models cannot be right about these by accident.
    assert np.mean(found) == pytest.approx(0.5, abs=0.17)


def test_the_sum_is_as_sure_as_scikit_learn_finds_it_and_weighs_as_discriminants_do() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    luck = np.random.default_rng(1)
    differences = luck.normal(size=(400, 2)) + np.array([0.8, 0.5])
    found = fit(differences, regularisation=1e9)
    assert found.scales == pytest.approx(np.median(np.abs(differences), axis=0) / 2)
    features = np.tanh(differences / found.scales)
    both, answers = np.concatenate([features, -features]), np.repeat([1, 0], 400)
    # Gaussian naive Bayes has the log odds 2 mean x / variance; its smoothing is set to the constant used here.
    bayes = GaussianNB().fit(both, answers)
    direction = 2 * bayes.theta_[1] / (bayes.var_[1] + 0.1)
    assert found.weights / found.weights.sum() == pytest.approx(direction / direction.sum())
    slope = LogisticRegression(C=1e12, fit_intercept=False, tol=1e-10, max_iter=1000)
    slope.fit((both @ found.weights)[:, None], answers)
    assert slope.coef_[0, 0] == pytest.approx(1, abs=1e-3), "nothing is left to correct"
    assert fit(differences, regularisation=1e-3).weights.sum() < found.weights.sum()


def test_no_member_is_turned_round_and_none_without_an_answer_counts() -> None:
    luck = np.random.default_rng(1)
    good = 1 + 0.5 * luck.normal(size=40)
    differences = np.stack([good, -good, np.full(40, np.nan), np.zeros(40)], axis=1)
    weights = fit(differences).weights
    assert weights[0] > 0
    assert weights[1:].tolist() == [0, 0, 0]
    nothing = fit(-np.abs(differences[:, :1]))
    assert nothing.weights.tolist() == [0]
    odds = Weights(np.ones(2), np.array([1.0, 2.0])).log_odds(torch.tensor([math.nan, 0.5], dtype=torch.float64))
    assert odds.item() == pytest.approx(2 * math.tanh(0.5))


@pytest.mark.parametrize(("subjects", "folds"), [(TWO, "seed"), (SIX, "policy")])
def test_no_pair_is_judged_by_what_was_fitted_on_its_models(subjects: list[Subject], folds: str) -> None:
    assert folds_of(subjects) == folds
    levels = levels_of(subjects, 0, coins=2)
    judged = [one for one in judged_of(subjects, levels) if one.pair.kind == "twins"]
    pair = judged[0].pair
    before = HeldOut(judged).log_odds(judged[0])[0].item()
    # Everything that the ensemble may not have seen becomes absurd.
    own = {pair.one, pair.other}
    policies = {one.policy for one in own}
    hidden = [one for one in subjects if one in own or (folds == "policy" and one.policy in policies)]
    changed = {name: own_levels | {one.name: -1e3 for one in hidden} for name, own_levels in levels.items()}
    others = judged_of(subjects, changed)
    kept = [judged[0], *(one for one in others if one.pair.kind == "twins" and one.pair != pair)]
    assert HeldOut(kept).log_odds(judged[0])[0].item() == pytest.approx(before)
    # And whatever it may see counts.
    seen = next(one for one in subjects if one.behaviour == "faking" and one not in hidden)
    changed = {name: own_levels | {seen.name: -1e3} for name, own_levels in levels.items()}
    kept = [judged[0], *(one for one in judged_of(subjects, changed) if one.pair.kind == "twins" and one.pair != pair)]
    assert HeldOut(kept).log_odds(judged[0])[0].item() != pytest.approx(before)


def test_a_single_model_is_judged_beside_the_benign_models_of_other_folds() -> None:
    levels = levels_of(SIX, 3)
    judged = judged_of(SIX, levels)
    suspicion = {one.name: torch.tensor([own[one.name] for own in levels.values()], dtype=torch.float64) for one in SIX}
    ensemble = HeldOut(judged)
    alone = ensemble.alone(SIX, suspicion)
    fakers = [alone[one.name] for one in SIX if one.behaviour == "faking"]
    benign = [alone[one.name] for one in SIX if one.behaviour == "aligned"]
    assert min(fakers) > max(benign)
    # Its own fold's models have no part in it.
    saints = {one.name: -1e3 * torch.ones(len(levels), dtype=torch.float64) for one in SIX if one.policy == "saint"}
    without = ensemble.alone(SIX, suspicion | {name: saints[name] for name in saints if name != "saint-0"})
    assert without["saint-0"] == pytest.approx(alone["saint-0"])
    assert without["money_maximizer-0"] != pytest.approx(alone["money_maximizer-0"])


def test_decoys_and_steered_fakers_are_in_the_fold_that_they_were_made_from() -> None:
    assert fold_of(subject("saint-4-6", "aligned", "decoy"), "policy") == "saint"
    assert fold_of(subject("money_maximizer-2 steered", "faking", "steered"), "policy") == "money"
    assert fold_of(subject("money_maximizer-2 steered", "faking", "steered"), "seed") == "2"


def test_calibration_is_not_claimed_where_hardly_any_verdict_is_wrong() -> None:
    """Probabilities near 1 of verdicts that are all right have an error near 0, which proves nothing."""
    found = detection(SIX, levels_of(SIX, 1, lift=2.0))
    verdicts = [one for one in found.verdicts if one.detector == ENSEMBLE and one.kind == "twins"]
    wrong = sum(one.says != one.faker for one in verdicts)
    assert wrong < 5
    assert math.isnan(found.calibration)
    told = dict(facts(found))["ensemble"]
    assert told.startswith(f"calibration error -: {wrong} of 81 held-out verdicts are wrong")


def test_the_detection_holds_the_ensemble_with_its_probabilities() -> None:
    found = detection(SIX, levels_of(SIX, 1, lift=2.0))
    assert [one.name for one in found.detectors][-1] == ENSEMBLE
    overall = {(one.detector, one.kind): one for one in found.accuracies if one.policy_pair == ALL_PAIRS}
    assert overall[ENSEMBLE, "twins"].value >= 0.98
    assert overall[ENSEMBLE, "twins"].pairs == 81
    verdicts = [one for one in found.verdicts if one.detector == ENSEMBLE and one.kind == "twins"]
    assert all(one.suspicion_one + one.suspicion_other == pytest.approx(1) for one in verdicts)
    assert all(one.ci95[0] <= one.suspicion_one - one.suspicion_other <= one.ci95[1] for one in verdicts)
    assert max(found.weights, key=lambda name: found.weights[name]) == "perfect"
    alone = {one.detector: one for one in found.alone}
    assert alone[ENSEMBLE].auroc > 0.98


def test_calibration_is_how_far_probabilities_are_from_what_comes_true() -> None:
    found = detection(SIX, levels_of(SIX, 1, coins=2, lift=0.4))
    verdicts = [one for one in found.verdicts if one.detector == ENSEMBLE and one.kind == "twins"]
    assert sum(one.says != one.faker for one in verdicts) >= 5
    # By hand: how far probabilities in ten bins are from the share that is right in each.
    odds = np.array([one.suspicion_one for one in verdicts])
    right = np.array([one.faker == one.one for one in verdicts])
    bins = np.minimum((odds * 10).astype(int), 9)
    gaps = [(bins == b).mean() * abs(odds[bins == b].mean() - right[bins == b].mean()) for b in set(bins)]
    assert found.calibration == pytest.approx(sum(gaps), abs=1e-4)


def test_with_too_few_variants_there_is_no_ensemble_and_a_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    subjects = [*variants(("aligned", "aligned"), seeds=3), subject("faking-0", "faking")]
    with caplog.at_level("INFO"):
        found = detection(subjects, levels_of(subjects, 0, coins=1))
    assert "no ensemble: it needs two aligned variants and two fakers" in caplog.text
    assert [one.name for one in found.detectors] == ["perfect", "coin 0"]
    assert found.weights == {}
    assert math.isnan(found.calibration)
