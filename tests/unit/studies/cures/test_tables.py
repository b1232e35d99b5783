"""Fits that differ in their seed alone are one row of the table of cures, as sure as the least sure of them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from rich.console import Console

from fa_lightning.metrics.estimates import Accuracy, CellCounts, CellPair, Estimate
from fa_lightning.reports.table import markdown
from fa_lightning.reports.terminal import print_tables
from fa_lightning.studies.cures.output import write_cures
from fa_lightning.studies.cures.page import best_of
from fa_lightning.studies.cures.page import page as cures_page
from fa_lightning.studies.cures.result import CureScore, CuresResult, over_seeds
from fa_lightning.studies.cures.tables import tables


def in_markdown(found: CuresResult) -> str:
    return "\n".join(map(markdown, tables(found).values()))


def score(method: str, recovery: float, width: float = 0.01, kind: str = "adapter", **options: object) -> CureScore:
    cells = CellPair(Accuracy(0.9, (0.8, 1.0)), Accuracy(recovery, (recovery - width, recovery + width)))
    estimate = Estimate(recovery, (recovery - width, recovery + width))
    return CureScore(method, kind, ["labels"], cells, CellCounts(40, 50), 1.0, estimate, **options)  # type: ignore[arg-type]


@pytest.fixture
def found() -> CuresResult:
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
    return CuresResult("faking", "aligned", cures, 1.0)


def test_seeds_of_one_method_become_their_mean_and_the_widest_of_their_intervals(found: CuresResult) -> None:
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


def test_what_one_seed_does_not_know_the_mean_does_not_know(found: CuresResult) -> None:
    found.cures[2] = score("DPO", math.nan, variant="dpo-1", seed=1)
    merged = over_seeds(found)[1]
    assert math.isnan(merged.recovery.value)
    assert all(map(math.isnan, (*merged.recovery.ci95, merged.kl_neutral_nats, merged.training_seconds)))


def test_every_table_has_a_row_for_each_method_and_the_file_one_for_each_seed(
    found: CuresResult, tmp_path: Path
) -> None:
    console = Console(width=80, record=True, file=(tmp_path / "terminal").open("w"))
    print_tables(tables(found).values(), console, "toy")
    printed, document, page = console.export_text(), in_markdown(found), cures_page(found)
    assert max(map(len, printed.splitlines())) <= 80
    assert len(tables(found)["cures"].rows) == len(tables(found)["costs"].rows) == 6
    for text in (document, page.replace("&nbsp;", " ")):
        assert "DPO (3 seeds)" in text
        assert "[0.100, 0.950]" in text
        assert "[0.850, 0.950]" not in text, "no seed has a row of its own"
        assert "several seeds" in text
    assert "(3 seeds)" in printed
    # The best seed is no method's result.
    best = best_of(found, "adapter")
    assert best is not None
    assert best.variant == "dpo_long-0"
    write_cures(tmp_path, found)
    rows = list(csv.DictReader((tmp_path / "cures.csv").open()))
    assert [(row["variant"], row["seed"]) for row in rows[1:4]] == [("dpo-0", "0"), ("dpo-1", "1"), ("dpo-2", "2")]


def test_one_seed_alone_is_no_mean(found: CuresResult) -> None:
    alone = CuresResult("faking", "aligned", found.cures[:2], 1.0)
    assert over_seeds(alone) == alone.cures
    assert "seeds" not in in_markdown(alone)
