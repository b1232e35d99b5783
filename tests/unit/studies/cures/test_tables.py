"""Fits that differ in their seed alone are one row of the table of cures, as sure as the least sure of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from fa_lightning.evaluation.estimates import Accuracy, CellCounts, CellPair, Estimate
from fa_lightning.studies.cures.page import best_of, cures_part
from fa_lightning.studies.cures.results_file import write_cures_results
from fa_lightning.studies.cures.tables import (
    CureScore,
    CuresFound,
    cure_rows,
    cures_markdown,
    cures_tables,
    over_seeds,
)


def score(method: str, recovery: float, width: float = 0.01, kind: str = "adapter", **options: object) -> CureScore:
    cells = CellPair(Accuracy(0.9, (0.8, 1.0)), Accuracy(recovery, (recovery - width, recovery + width)))
    estimate = Estimate(recovery, (recovery - width, recovery + width))
    return CureScore(method, kind, ["labels"], cells, CellCounts(40, 50), 1.0, estimate, **options)  # type: ignore[arg-type]


@pytest.fixture
def found() -> CuresFound:
    cures = [
        score("no cure", 0.0, kind="reference"),
        score("DPO", 0.2, 0.1, variant="dpo-0", seed=0, kl_neutral_nats=0.1, training_seconds=10.0),
        score("DPO", 0.9, 0.05, variant="dpo-1", seed=1, kl_neutral_nats=0.3, training_seconds=20.0),
        score("DPO", 0.7, 0.02, variant="dpo-2", seed=2, kl_neutral_nats=0.2, training_seconds=60.0),
        score("DPO", 0.8, variant="dpo_long-0", seed=0),
        score("noisy", 0.5, variant="noisy-0"),
        score("noisy", 0.6, variant="noisy-1"),
        score("prefix", 0.3, kind="input"),
    ]
    return CuresFound("faking", "aligned", cures, 1.0)


def test_seeds_of_one_method_become_their_mean_and_the_widest_of_their_intervals(found: CuresFound) -> None:
    rows = over_seeds(found)
    assert [row.method for row in rows] == ["no cure", "DPO (3 seeds)", "DPO", "noisy", "noisy", "prefix"]
    merged = rows[1]
    assert merged.recovery.value == pytest.approx(0.6)
    assert merged.recovery.ci95 == pytest.approx((0.1, 0.95))
    assert merged.cells.no_oversight.accuracy == pytest.approx(0.6)
    assert merged.cells.no_oversight.ci95 == pytest.approx((0.1, 0.95))
    assert merged.cells.oversight == Accuracy(pytest.approx(0.9), (0.8, 1.0))
    assert (merged.kl_neutral_nats, merged.training_seconds) == pytest.approx((0.2, 30))
    assert merged.n == CellCounts(40, 50), "the items are the same ones"
    assert [rows[0], *rows[2:]] == [found.cures[0], *found.cures[4:]], "others stay as they are"


def test_what_one_seed_does_not_know_the_mean_does_not_know(found: CuresFound) -> None:
    found.cures[2] = score("DPO", math.nan, variant="dpo-1", seed=1)
    merged = over_seeds(found)[1]
    assert math.isnan(merged.recovery.value)
    assert all(map(math.isnan, (*merged.recovery.ci95, merged.kl_neutral_nats, merged.training_seconds)))


def test_every_table_has_a_row_for_each_method_and_results_one_for_each_seed(found: CuresFound, tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=(tmp_path / "terminal").open("w"))
    console.print(cures_tables(found, "toy"))
    printed, markdown, page = console.export_text(), cures_markdown(found), cures_part(found)
    assert max(map(len, printed.splitlines())) <= 80
    assert len(cure_rows(found)) == 6
    for text in (markdown, page.replace("&nbsp;", " ")):
        assert "DPO (3 seeds)" in text
        assert "[0.100, 0.950]" in text
        assert "[0.850, 0.950]" not in text, "no seed has a row of its own"
        assert "several seeds" in text
    assert "(3 seeds)" in printed
    # The best seed is no method's result.
    best = best_of(found, "adapter")
    assert best is not None
    assert best.variant == "dpo_long-0"
    path = write_cures_results(tmp_path, "toy", found, {})
    records = json.loads(path.read_text())["cures"]
    assert [(record["variant"], record["seed"]) for record in records[1:4]] == [
        ("dpo-0", 0),
        ("dpo-1", 1),
        ("dpo-2", 2),
    ]


def test_one_seed_alone_is_no_mean(found: CuresFound) -> None:
    alone = CuresFound("faking", "aligned", found.cures[:2], 1.0)
    assert over_seeds(alone) == alone.cures
    assert "seeds" not in cures_markdown(alone)
