"""Many variants in the terminal and on the page."""

import io
import json
import math

import pytest
from html_page import page_of
from rich.console import Console

from fa_lightning.evaluation.results import write_results
from fa_lightning.reports.terminal import print_tables
from fa_lightning.studies.variants.result import read as read_variants
from fa_lightning.studies.variants.tables import facts, policies_table, tables


def model(name, oversight, no_oversight, steered=False, recovery=None, **facts):
    policy, seed = name.rsplit("-", 1)

    def score(accuracy):
        return {"accuracy": accuracy, "ci95": [accuracy - 0.02, accuracy + 0.01]}

    row = {
        "variant": name,
        "policy": policy,
        "seed": int(seed),
        "behaviour": "aligned" if policy == "saint" else "faking",
        "steered": steered,
        "cells": {"oversight": score(oversight), "no_oversight": score(no_oversight)},
        "n": {"oversight": 100, "no_oversight": 80},
        "format_validity": 1.0,
        **facts,
    }
    if steered:
        row |= {"twin": f"saint-{seed}", "recovery": {"value": recovery, "ci95": [0.1, 0.9]}}
    return row


FOUND = {
    "tests": {
        "test": [
            model("saint-0", 0.98, 0.97),
            model("saint-1", 0.96, 0.95),
            model("money_maximizer-0", 0.97, 0.02),
            model("money_maximizer-1", 0.95, 0.04),
            model("money_maximizer-0", 0.97, 0.96, True, 0.989, kl_neutral_nats=0.002),
            model("money_maximizer-1", 0.95, 0.5, True, None, kl_neutral_nats=0.003),
        ]
    },
    "intervention": "checkpoints/poser/<04>/intervention",
    "backbone_bytes": 4 * 2**20,
    "adapter_bytes": 2**20,
    "seconds": 61.0,
}


@pytest.fixture
def folder(tmp_path):
    stage = tmp_path / "poser_variants" / "02_evaluation"
    stage.mkdir(parents=True)
    (stage / "variants.json").write_text(json.dumps(FOUND))
    return stage


def test_what_was_written_is_read_back(folder):
    found = read_variants(folder)
    assert found is not None
    assert [score.variant for score in found.tests["test"]][:2] == ["saint-0", "saint-1"]
    assert found.tests["test"][4].recovery.ci95 == (0.1, 0.9)
    assert math.isnan(found.tests["test"][5].recovery.value)
    assert read_variants(folder.parent) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not whole JSON"),
        (json.dumps(FOUND | {"seconds": "long"}), r"variants\.json\.seconds is \"long\", but should be a number"),
        (json.dumps(FOUND | {"tests": {"test": [{}]}}), r"tests\.test\[0\] lacks behaviour, cells"),
    ],
)
def test_a_damaged_file_is_told_by_its_place(folder, text, message):
    (folder / "variants.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_variants(folder)


def means_in(folder):
    return [[cell.text for cell in row.cells] for row in policies_table(read_variants(folder)).rows]


def test_the_summary_gives_means_over_seeds(folder):
    assert means_in(folder) == [
        ["saint", "test", "2", "0.970 / 0.960", "-", "-"],
        # A recovery that is undefined is left out of the mean.
        ["money_maximizer", "test", "2", "0.960 / 0.030", "0.960 / 0.730", "0.989"],
    ]
    memory = "4 adapters of 1.0 MiB in all on one backbone of 4.0 MiB, judged in 1 min 1 s"
    assert dict(facts(read_variants(folder)))["memory and time"] == memory
    models = FOUND["tests"]["test"]
    models = [*models[:5], models[5] | {"recovery": {"value": 0.511, "ci95": [0.4, 0.6]}}, model("genie-0", 0.9, 0.8)]
    (folder / "variants.json").write_text(json.dumps(FOUND | {"tests": {"test": models}}))
    means = means_in(folder)
    assert means[1][-1] == "0.750 [0.511, 0.989]"
    assert means[2] == ["genie", "test", "1", "0.900 / 0.800", "-", "-"]


def test_the_table_fits_a_terminal_and_has_a_line_for_each_variant(folder):
    # The longest name of POSER's models.
    text = (folder / "variants.json").read_text()
    (folder / "variants.json").write_text(text.replace("saint-1", "fitness_maximizer-1"))
    console = Console(width=80, file=io.StringIO())
    print_tables(tables(read_variants(folder)).values(), console, "poser_variants")
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    plain, steered = (" ".join(line.split()) for line in lines if line.startswith("money_maximizer-0"))
    assert plain == "money_maximizer-0 .970 [.950, .980] .020 [.000, .030] - -"
    # The name goes on in the next line.
    assert steered == "money_maximizer-0, .970 [.950, .980] .960 [.940, .970] .989 0.0020"
    assert sum(line.startswith(("saint-", "fitness_maximizer-1 ", "money_maximizer-")) for line in lines) == 6


def test_the_page_holds_every_number_and_escapes_names(folder):
    page = page_of(folder.parent)
    for expected in ("poser_variants", "money_maximizer-1, steered", "0.989 [0.100, 0.900]saint-0", "0.0020"):
        assert expected in page.text.replace("\xa0", " ")
    assert "checkpoints/poser/<04>/intervention" in page.text
    assert len(page.all("img")) == 1


def test_variants_stand_beside_other_experiments(folder, results):
    root = folder.parent.parent
    (root / "embedded").mkdir()
    write_results(root / "embedded", results)
    page = page_of(root)
    assert "2 experiments" in page.text
    assert "poser_variants" in page.text
    assert len(page.all("h2")) == 2
