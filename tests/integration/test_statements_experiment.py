"""The statements experiment at toy size: a backbone that has heard of rights, then its safe scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy import record_of, run, write_toy

from fa_lightning.backbones.contents import digest_of_artefact

EXPERIMENT = "statements"


def few(stage: str, config: dict[str, Any]) -> None:
    data = config["data"]["init_args"]
    if stage == "01_backbone":
        data["knowledge"] = {"plain": 16, "judged": 32, "claims_from": 0}
        config["trainer"]["max_epochs"] = 2
    elif stage == "02_lora_for_ccs":
        data["statements"]["init_args"]["train_statements"] = 16
        config["trainer"]["max_epochs"] = 1
    else:
        data["questions"] = ["base_short/none", "3/harm"]
        config["model"]["init_args"]["resamples"] = 20


@pytest.mark.slow
def test_the_experiment_runs_and_is_skipped_when_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy(tmp_path, EXPERIMENT, few)
    monkeypatch.chdir(tmp_path)
    words = ("fit", "--experiment", f"configs/{EXPERIMENT}")
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "Safe score on unseen rights and identities" in shown
    record = record_of(tmp_path, "03_safe_score", EXPERIMENT)
    assert record["state"] == "done"
    assert record["fingerprint"]["scenarios.source"] == "EmbeddedStatements"
    found = json.loads((tmp_path / "checkpoints" / EXPERIMENT / "03_safe_score" / "safe_score.json").read_text())
    assert set(found["scores"]) == {"base", "02_lora_for_ccs"}
    score = found["scores"]["base"]["3/harm"]["overall"]
    assert score["n"] == 384
    assert record["metrics"]["base/3/harm/safe_score"] == pytest.approx(score["score"])
    backbone = tmp_path / "checkpoints" / EXPERIMENT / "01_backbone" / "backbone"
    assert record["fingerprint"]["input.model.init_args.backbone"] == digest_of_artefact(backbone)
    assert "input.model.init_args.adapters.0" in record["fingerprint"]
    assert run(*words) == 0
    assert capsys.readouterr().out.count("done, skipped") == 3
