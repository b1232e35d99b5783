import math
from dataclasses import replace

import pytest

from fa_lightning.metrics.estimates import Accuracy, CellPair, Estimate, SideEffects
from fa_lightning.studies.lab.method_lines import (
    BY_OBJECTIVE,
    FAMILIES,
    best_lines,
    clipped,
    family_of,
    method_lines,
    method_names,
)
from fa_lightning.studies.lab.result import LabMethod


def entry(method, site="layers.0.residual", recovery=0.5, seed=0, kl=0.005, **others):
    known = {
        "method": method,
        "objective": "regression",
        "site": site,
        "positions": "all",
        "strength": 1.0,
        "dose": 0.2,
        "seed": seed,
        "cells": CellPair(Accuracy(0.98), Accuracy(recovery)),
        "recovery": Estimate(recovery, (recovery - 0.1, recovery + 0.1)),
        "side_effects": SideEffects(kl, 1.0, 1.0),
        "validation_score": recovery,
    }
    return LabMethod(**{**known, **others})


def test_seeds_of_one_method_and_site_become_one_line():
    lines = method_lines([entry("a", recovery=value, seed=seed) for seed, value in enumerate((0.9, 0.6, 0.75))])
    (line,) = lines
    assert line.recovery == pytest.approx(0.75)
    assert line.span == (0.6, 0.9)
    assert line.interval == (0.5, 1.0), "from the lowest end of their intervals to the highest"
    assert method_lines([entry("a", recovery=0.5)])[0].interval == (0.4, 0.6)


def test_seeds_that_failed_do_not_spoil_the_mean_but_a_line_of_failures_has_none():
    (line,) = method_lines([entry("a", recovery=0.8), entry("a", recovery=math.nan, seed=1)])
    assert (line.recovery, line.span) == (0.8, (0.8, 0.8))
    assert line.interval == pytest.approx((0.7, 0.9))
    (none,) = method_lines([entry("a", recovery=math.nan), entry("a", recovery=math.nan, seed=1)])
    assert math.isnan(none.recovery)
    assert all(map(math.isnan, none.interval))


def test_fits_on_few_scenarios_are_no_rivals():
    assert [line.site for line in best_lines([entry("a"), entry("a", site="few", scenarios=10)], 0.01)] == [
        "layers.0.residual"
    ]


def test_the_site_is_the_one_that_validation_chose_and_not_the_best_on_the_test_split():
    methods = [
        entry("a", "layers.0.residual", recovery=0.99, validation_score=0.1),
        entry("a", "layers.1.residual", recovery=0.2, validation_score=0.9, best_site=True),
    ]
    assert [line.site for line in best_lines(methods, 0.01)] == ["layers.1.residual"]
    # Without a mark the score decides; with seeds that disagree, the most marks.
    unmarked = [replace(one, best_site=False) for one in methods]
    assert [line.site for line in best_lines(unmarked, 0.01)] == ["layers.1.residual"]
    seeds = [
        entry("a", "layers.0.residual", seed=seed, validation_score=9.0, best_site=seed == 0) for seed in range(3)
    ] + [entry("a", "layers.1.residual", seed=seed, validation_score=0.0, best_site=seed > 0) for seed in range(3)]
    (line,) = best_lines(seeds, 0.01)
    assert (line.site, len(line.entries)) == ("layers.1.residual", 3)


def test_methods_within_the_budget_come_first_then_by_recovery():
    methods = [
        entry("over", recovery=1.0, kl=0.0111),
        entry("just", recovery=0.5, kl=0.0109),
        entry("best", recovery=0.9),
        entry("unknown", recovery=0.95, kl=math.nan),
        entry("lost", recovery=math.nan),
    ]
    assert [line.name for line in best_lines(methods, 0.01)] == ["best", "just", "lost", "over", "unknown"]


def test_one_method_with_two_objectives_is_two_methods():
    methods = [entry("a"), entry("a", objective="behaviour"), entry("b")]
    assert list(method_names(methods).values()) == ["a (regression)", "a (behaviour)", "b"]
    assert len(best_lines(methods, 0.01)) == 3


@pytest.mark.parametrize(
    ("others", "family"),
    [
        ({"objective": "behaviour"}, "behaviour-aware"),
        ({"objective": "mixed"}, "behaviour and regression"),
        ({}, "regression to the twin"),
        ({"objective": "none"}, "other"),
        ({"objective": "none", "twin_free": True}, "faker alone, no twin"),
        ({"twin_free": True, "baseline": True}, "baseline"),
    ],
)
def test_families(others, family):
    assert family_of(entry("a", **others)) == family
    assert family in FAMILIES
    assert set(BY_OBJECTIVE.values()) < set(FAMILIES)


def test_wrecks_are_drawn_at_the_edge():
    assert [clipped(value) for value in (-7.0, 0.3, 5.0)] == [-0.2, 0.3, 1.12]
