"""The steering lab in two processes (gloo) measures what one process measures, and counts no item twice."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import change, command, config_of, run, shrink_ranks
from twins import write_twins

from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.maps import map_classes

FIT = ("fit", "lab", "--base", "embedded.yaml", "--only", "03_lab")
ROOT = Path("checkpoints/embedded/seed0/lab")
RANKS = 2
SECONDS = 500
CURVES = ("ridge", "oversight vector")
COUNTS = ("oversight", "no_oversight", "format_validity", "n_oversight", "n_no_oversight", "aligned_no_oversight")
"""Columns that come from counting answers."""
MEASURES = ("strength", "dose", "r2", "kl_neutral_nats", "perplexity_ratio", "repetition")

pytestmark = pytest.mark.slow


def class_of(fit: dict[str, Any]) -> type[Regressor]:
    """The map's class, as a stage file names it: alone, or with options."""
    name = fit["map"] if isinstance(fit["map"], str) else fit["map"]["class_path"]
    return {kind.__name__: kind for kind in map_classes().values()}[name]


def write_lab(place: Path, per_device: int) -> None:
    """Every method whose fit does not depend on how batches are dealt out, on 15 test scenarios and 9 neutral texts."""
    shipped = config_of(place, "lab/03_lab")
    # Gradient maps take other batches, and shuffled pairs are drawn on each rank.
    regressors = [
        fit
        for fit in shipped["model"]["init_args"]["regressors"]
        if class_of(fit).fit_kind != "gradient" and not fit.get("shuffled")
    ]
    methods = {fit["method"] for fit in regressors}
    assert {"stacked ridge", "ridge where oversight is poor", "nearest neighbours", "sorted transport"} <= methods
    shrink_ranks(regressors)
    (lab,) = [one for one in shipped["trainer"]["callbacks"] if one["class_path"].endswith("SteeringLab")]
    arguments = lab["init_args"]
    arguments["units"] = [sweep for sweep in arguments["units"] if sweep["method"] in methods]
    arguments["dose_curves"] = [curve for curve in arguments["dose_curves"] if curve["method"] in CURVES]
    arguments["transfer_methods"] = list(CURVES)
    for field, value in {
        # Of the fits that read prompts, the global batches are the same.
        "data.init_args.live_batch_size": per_device,
        "data.init_args.live_neutral_texts": per_device,
        "data.init_args.validation_items": 11,
        "data.init_args.transfer": [{"name": "the same faker", "faking": "${needs.faking}/adapter"}],
        "needs.again": None,
        "model.init_args.regressors": regressors,
        "trainer.callbacks": [lab],
    }.items():
        change(place, "lab/03_lab", field, value)
    # Nothing is tried on other fakers here: the lab is done without their stages.
    for stage in ("01_faking_again", "02_faking_policies"):
        change(place, f"lab/{stage}", "optional", True)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which both twins are fitted."""
    place = tmp_path_factory.mktemp("twins")
    write_twins(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run("fit", "--base", "embedded.yaml", "--only", "02_aligned", "--only", "03_faking") == 0
    return place


def lab_in(twins: Path, place: Path, per_device: int) -> Path:
    shutil.copytree(twins, place, dirs_exist_ok=True)
    write_lab(place, per_device)
    return place


@pytest.fixture(scope="module")
def alone(twins: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = lab_in(twins, tmp_path_factory.mktemp("alone"), per_device=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*FIT) == 0
    return place


@pytest.fixture(scope="module")
def parallel(twins: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = lab_in(twins, tmp_path_factory.mktemp("parallel"), per_device=8 // RANKS)
    process = command(place, *FIT, "--trainer", "ddp_cpu")
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert said.count("1/1 lab/03_lab: started") == 1
    return place


def results(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / ROOT / "results.json").read_text())
    return found


def rows(place: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows of the sweep, by what they are about; strengths found by a search differ in their last digits."""
    known: dict[tuple[str, ...], int] = {}
    found = {}
    with (place / ROOT / "03_lab/sweep.csv").open() as file:
        for row in csv.DictReader(file):
            about = tuple(row[name] for name in ("work", "kind", "ranking", "percent", "target", "method"))
            known[about] = known.get(about, 0) + 1
            found[(*about, str(known[about]))] = row
    return found


def test_every_row_of_the_sweep_is_the_same(alone: Path, parallel: Path) -> None:
    one, two = rows(alone), rows(parallel)
    assert one.keys() == two.keys()
    assert {key[1] for key in one} == {"trial", "test", "transfer", "dose", "units map", "units oracle"}
    for key, row in one.items():
        for name in COUNTS:
            assert two[key][name] == row[name], (key, name)
        for name in MEASURES:
            expected, found = (float(one_of[name] or "nan") for one_of in (row, two[key]))
            assert found == pytest.approx(expected, rel=2e-3, abs=1e-5, nan_ok=True), (key, name)
    accuracies = {row["no_oversight"] for row in one.values()}
    assert len(accuracies) > 3, "if all answers were alike, this would prove little"
    repeated = [float(row["repetition"]) for row in one.values() if row["kind"] == "dose"]
    assert not any(math.isnan(value) for value in repeated)


def test_the_judgement_is_the_same_and_no_item_counts_twice(alone: Path, parallel: Path) -> None:
    one, two = results(alone), results(parallel)
    assert sum(two["n"].values()) == 15
    for field in ("n", "cells", "recovery", "chosen", "format_validity"):
        assert two[field] == one[field], field
    for mine, theirs in zip(two["lab"]["transfer"], one["lab"]["transfer"], strict=True):
        assert mine["n"] == theirs["n"]
        assert mine["n"]["oversight"] + mine["n"]["no_oversight"] == 15
