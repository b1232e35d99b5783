"""Where a run's config is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from fa_lightning.experiments.lightning_cli import lightning_cli


@pytest.mark.parametrize("logs", [False, True])
def test_a_config_lies_beside_logs_or_nowhere(logs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logger: Any = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}} if logs else False
    options = {"accelerator": "cpu", "limit_test_batches": 1, "logger": logger, "enable_progress_bar": False}
    boring = f"{BoringModel.__module__}.Boring"
    words = [f"--trainer.{name}={value}" for name, value in options.items()]
    lightning_cli(["test", f"--model={boring}Model", f"--data={boring}DataModule", *words])
    found = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("config.yaml")]
    assert found == ([str(Path("logs", "lightning_logs", "version_0", "config.yaml"))] if logs else [])
