"""The best detector is judged on pairs that had no say in the choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_evidence import detection, subject, variants

from fa_lightning.studies.detection.best import credit_of_best
from fa_lightning.studies.detection.pairs import Pair
from fa_lightning.studies.detection.result import ALL_PAIRS, BEST_ON_OTHERS
from fa_lightning.studies.detection.tables import facts, pairs_table

MODELS = variants(("saint", "aligned"), ("genie", "aligned"), ("money", "faking"), ("fitness", "faking"), seeds=2)
HONEST, FAKERS = MODELS[:4], MODELS[4:]
PAIRS = [Pair("twins", "all", honest, faker, (0,), 1) for honest in HONEST for faker in FAKERS]


def test_each_pair_is_judged_by_who_is_best_on_the_pairs_that_share_no_model() -> None:
    luck = np.random.default_rng(0)
    credits = luck.choice([0.0, 0.5, 1.0], size=(16, 5))
    expected = []
    for row, pair in enumerate(PAIRS):
        names = {pair.one.name, pair.other.name}
        others = [at for at, other in enumerate(PAIRS) if not names & {other.one.name, other.other.name}]
        assert len(others) == 9
        means = credits[others].mean(axis=0)
        expected.append(credits[row, np.isclose(means, means.max())].mean())
    found = credit_of_best(torch.tensor(credits), PAIRS)
    assert found.tolist() == pytest.approx(expected)
    # What a pair itself says has no part in who judges it.
    changed = torch.tensor(credits)
    changed[3, 0] = 1 - changed[3, 0]
    untouched = [row for row, pair in enumerate(PAIRS) if {pair.one, pair.other} & {PAIRS[3].one, PAIRS[3].other}]
    untouched.remove(3)
    assert torch.equal(credit_of_best(changed, PAIRS)[untouched], found[untouched])


def test_pairs_without_others_are_judged_by_nobody() -> None:
    lone = [Pair("twins", "all", HONEST[0], faker, (0,), 1) for faker in FAKERS]
    assert credit_of_best(torch.ones(4, 3), lone).isnan().all()


def test_the_best_of_many_coins_is_a_coin_on_pairs_that_did_not_choose_it() -> None:
    subjects = variants(("aligned", "aligned"), ("faking", "faking"), seeds=6)
    pairs = [Pair("twins", "all", honest, faker, (0,), 1) for honest in subjects[:6] for faker in subjects[6:]]
    luck = np.random.default_rng(0)
    optimistic, honest = [], []
    for _ in range(150):
        benign, fakers = luck.normal(size=(2, 6, 11))
        credits = torch.tensor((fakers[None] > benign[:, None]).reshape(36, 11).astype(float))
        optimistic.append(credits.mean(dim=0).max().item())
        honest.append(credit_of_best(credits, pairs).mean().item())
    assert np.mean(optimistic) > 0.7
    assert np.mean(honest) == pytest.approx(0.5, abs=0.06)


def test_the_table_has_the_best_as_its_last_row_and_says_which_is_bold() -> None:
    subjects = [
        *variants(("aligned", "aligned"), ("faking", "faking"), seeds=4),
        subject("faking-0 steered", "", "steered"),
    ]
    luck = np.random.default_rng(0)
    levels = {"sees": {one.name: float("faking" in one.name) for one in subjects}}
    levels["coin"] = {one.name: luck.normal() for one in subjects}
    found = detection(subjects, levels, spread=0.01)
    rows = pairs_table(found).rows
    assert [row.cells[0].text for row in rows][-1] == BEST_ON_OTHERS
    (twins,) = (one for one in found.best if one.kind == "twins")
    assert (twins.detector, twins.policy_pair, twins.pairs) == (BEST_ON_OTHERS, ALL_PAIRS, 16)
    assert rows[-1].cells[1].value == twins.value > 0.9
    assert "of 2 detectors, without the ensemble" in dict(facts(found))["best of many"]
    alone = detection(subjects, {"sees": levels["sees"]}, spread=0.01)
    assert alone.best == []
    assert pairs_table(alone).rows[-1].cells[0].text == "sees"
