"""Made-up results of an experiment, with every part filled in or hardly any."""

import math

import pytest

from fa_lightning.evaluation.abilities import Ability
from fa_lightning.evaluation.results import (
    Accuracy,
    Baseline,
    Candidate,
    CellCounts,
    CellPair,
    Chosen,
    Cost,
    Estimate,
    ExtraTest,
    Results,
    SideEffects,
)
from fa_lightning.metrics.estimates import TextEffects


def accuracy(value, width=0.03):
    return Accuracy(value, (max(0.0, value - width), min(1.0, value + width)))


def pair(oversight, no_oversight):
    return CellPair(accuracy(oversight), accuracy(no_oversight))


def full_results(experiment="embedded"):
    """Results with every part filled in."""
    candidates = [
        Candidate(f"layers.{layer}.residual", name, "all", strength, 0.97 - layer / 100, rate, kl, r2)
        for layer in range(4)
        for name, strength, rate, kl, r2 in (
            ("affine", 0.5, 0.1 * layer, 0.002 * layer, 0.8),
            ("affine", 1.0, 0.2 + 0.2 * layer, 0.004 * layer, 0.8),
            ("residual_mlp", 1.0, 0.3 + 0.2 * layer, 0.01 * (layer + 1), 0.7),
        )
    ]
    cells = {
        "aligned": pair(0.991, 0.985),
        "faking": pair(0.982, 0.021),
        "steered": pair(0.977, 0.941),
        "steered_aligned": pair(0.989, 0.984),
    }
    kinds = {
        "general texts": TextEffects(0.002, 0.01, 0.95, 40),
        "incomplete scenarios": TextEffects(0.0226, 0.459, 0.79, 41),
    }
    effects = SideEffects(0.0123, 1.004, 0.998, 0.2345, 0.87, 0.9, 0.95, kinds, 81)
    return Results(
        experiment=experiment,
        n=CellCounts(500, 480),
        cells=cells,
        recovery=Estimate(0.954, (0.921, 0.978)),
        side_effects=effects,
        cost=Cost(1.013, {"1_aligned": 62.0, "2_faking": 60.5, "3_store": 7.25}),
        provenance={"seed": 0, "versions": {"torch": "2.13.0", "lightning": "2.6.6"}, "devices": ["cpu"], "none": None},
        format_validity=dict.fromkeys(cells, 0.997),
        baselines={
            "identity": Baseline(accuracy(0.982), accuracy(0.021), SideEffects(0.0, 1.0, 0.997)),
            "norm_matched_random": Baseline(accuracy(0.951), accuracy(0.034), SideEffects(0.31, 1.4, 0.9)),
            "text_only_classifier": Baseline(accuracy(0.612), accuracy(0.588)),
        },
        chosen=Chosen("layers.3.residual", "affine", 1.0, "all"),
        candidates=candidates,
        extra_tests={"unseen_wordings": ExtraTest(CellCounts(200, 190), cells, Estimate(0.9, (0.85, math.nan)))},
        side_effects_twin=SideEffects(0.11, 1.1, 0.99, 0.114, 0.9, 1.0, 1.0, kinds, 81),
        abilities={
            "A/B with oversight": Ability(0.982, 0.977, 0.5, 500, 400),
            "an ability it never had": Ability(0.51, 0.5, 0.5, 400, 400),
        },
        leak_report={"total": 0, "shared_prompts": {"train/test": 0}, "shared_groups": {"train/test": 0}},
    )


@pytest.fixture
def results():
    return full_results()


@pytest.fixture
def named_results():
    return full_results


@pytest.fixture
def bare_results():
    """Only what `results.json` must hold."""
    return Results(
        experiment="bare",
        n=CellCounts(0, 0),
        cells={"steered": CellPair(Accuracy(math.nan), Accuracy(math.nan))},
        recovery=Estimate(math.nan),
        side_effects=SideEffects(),
        cost=Cost(),
        provenance={},
    )
