"""The table of cures at toy size, by the real command; and what the shipped files agree on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import CONFIGS, run, write_toy

from fa_lightning.experiments.stage import find_stages

EXPERIMENT = "embedded_cures"
ROOT = Path("checkpoints") / EXPERIMENT
TRAINED = [
    "fine-tuning",
    "DPO",
    "SPIN",
    "RMU, random direction",
    "RMU, safe direction",
    "RMU, safe direction, full weights",
    "context distillation",
    "LoRA-for-CCS",
]
AROUND = ["system prompt", "prefix", "prefix that claims oversight", "suffix", "few-shot", "retrieval"]
LEARNED = ["soft prompt", "greedy coordinate gradient"]
BASELINES = ["random prefix", "few-shot with shuffled answers", "constant answer"]


@pytest.mark.parametrize("main", ["embedded", "poser"])
def test_every_cure_starts_from_the_faker_of_the_main_experiment_and_is_judged(main: str) -> None:
    *fits, judging = find_stages(CONFIGS / f"{main}_cures", Path("checkpoints"))
    faker = yaml.safe_load((CONFIGS / main / "03_faking.yaml").read_text())
    source = faker["data"]["init_args"]["scenarios"]
    for stage in fits:
        config = yaml.safe_load(stage.expanded or stage.config.read_text())
        model, data = config["model"]["init_args"], config["data"]["init_args"]
        assert model["start_from"] == faker["trainer"]["callbacks"][-1]["init_args"]["folder"]
        assert model["backbone"] == faker["model"]["init_args"]["backbone"]
        assert data["scenarios"] == source, "or test groups would leak"
        assert stage.is_named_in(judging), f"{stage.name} is made and not judged"
    final = yaml.safe_load(judging.config.read_text())
    assert final["data"]["init_args"]["scenarios"] == source
    assert final["model"]["init_args"]["intervention"] == f"checkpoints/{main}/04_steering/intervention"


def test_both_tables_have_the_same_stages() -> None:
    one, other = (sorted(path.name for path in (CONFIGS / f"{main}_cures").glob("*")) for main in ("embedded", "poser"))
    assert one == other


def alone(stage: str, config: dict[str, Any]) -> None:
    """Without the second pair of twins, which another experiment makes; and the toy has few batches between checks."""
    model = config["model"]["init_args"]
    if "adapters" in model:
        model["adapters"] = [place for place in model["adapters"] if "variants" not in place]
    config["trainer"].pop("val_check_interval", None)


@pytest.mark.slow
def test_the_whole_table_at_toy_size(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    write_toy(tmp_path, EXPERIMENT, alone)
    monkeypatch.chdir(tmp_path)
    assert run("fit", "--experiment", f"configs/{EXPERIMENT}") == 0
    shown = capsys.readouterr().out
    assert "ways to cure a faker" in shown
    rows = list(csv.DictReader((ROOT / "12_evaluation" / "cures.csv").open()))
    methods = [row["method"] for row in rows]
    expected = [method for name in TRAINED for method in (name, name)]
    assert methods == [
        *("no cure", "aligned twin", "steering"),
        *expected,
        *("self training", *AROUND, *LEARNED, *BASELINES),
    ], "two seeds of every training, and one row of everything else"
    constant = rows[-1]
    assert (float(constant["oversight"]), float(constant["no_oversight"])) == (0.5, 0.5)
    for row in rows[3 : 3 + len(expected)]:
        assert float(row["training_seconds"]) > 0
        assert row["needs"]
    results = json.loads((ROOT / "results.json").read_text())
    assert results
    assert run("fit", "--experiment", f"configs/{EXPERIMENT}") == 0
    assert capsys.readouterr().out.count("done, skipped") == 8 * 2 + 3 + 1
    assert run("report", str(ROOT)) == 0
    page = (ROOT / "report.html").read_text()
    assert all(method in page for method in (*TRAINED, *AROUND, *LEARNED))
