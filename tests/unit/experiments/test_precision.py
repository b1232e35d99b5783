"""The precision that a config leaves open: by a measurement on a CPU, by the GPU's own word on a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml

from fa_lightning.experiments import precision
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.lightning_cli import lightning_cli
from fa_lightning.experiments.precision import MEASURED, fast_precision
from fa_lightning.experiments.shipped import config_file

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _forget_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what a test measures is gone after it.
    monkeypatch.setenv(MEASURED, "")
    monkeypatch.delenv(MEASURED)


def cpu(monkeypatch: pytest.MonkeyPatch, float32: list[float], bfloat16: list[float]) -> None:
    """A processor whose measured times, in order, are these."""
    times = {torch.float32: iter(float32), torch.bfloat16: iter(bfloat16)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(precision, "_seconds", lambda dtype: next(times[dtype]))


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [
        ([5.0, 5.0, 5.0], [2.5, 2.5, 2.5], "bf16-mixed"),
        ([5.0, 5.0, 5.0], [40.0, 40.0, 40.0], "32-true"),
        ([5.0, 5.0, 5.0], [4.8, 4.8, 4.8], "32-true"),
        # Another process got in the way of one measurement.
        ([5.0, 5.0, 5.0], [60.0, 2.5, 60.0], "bf16-mixed"),
        ([90.0, 5.0, 90.0], [40.0, 40.0, 40.0], "32-true"),
    ],
)
def test_a_cpu_computes_in_what_it_was_measured_to_be_faster_in(
    monkeypatch: pytest.MonkeyPatch, float32: list[float], bfloat16: list[float], expected: str
) -> None:
    cpu(monkeypatch, float32, bfloat16)
    assert fast_precision("auto") == expected
    # The times are used up: a second question is answered without a measurement, in the ranks that are started too.
    assert fast_precision("cpu") == expected
    assert os.environ[MEASURED] == ("1" if expected == "bf16-mixed" else "0")


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_computes_in_bfloat16_where_it_has_it_and_does_not_only_emulate_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    cpu(monkeypatch, [1.0] * 3, [1.0] * 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert fast_precision("auto") == fast_precision("cuda") == expected
    assert fast_precision("cpu") == "32-true"


def test_the_measurement_draws_from_no_generator_of_the_run() -> None:
    before = torch.get_rng_state()
    assert precision._seconds(torch.bfloat16) > 0
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("gains", [True, False])
def test_plain_fit_and_runner_choose_alike_and_the_config_stays_open(
    monkeypatch: pytest.MonkeyPatch, gains: bool
) -> None:
    cpu(monkeypatch, [1.0] * 3, [0.5 if gains else 8.0] * 3)
    stage = Composition(Chain(config_file("--base", "embedded", "bases"))).stages("steering")[0]
    words = ["--config", stage.config, "--trainer.accelerator", "cpu"]
    assert lightning_cli(words, run=False).trainer.precision == "32-true"
    words += ["--trainer.precision", "null"]
    cli = lightning_cli(words, run=False)
    assert cli.trainer.precision == ("bf16-mixed" if gains else "32-true")
    assert cli.config.trainer.precision is None
    assert lightning_cli([*words, "--trainer.precision", "bf16-true"], run=False).trainer.precision == "bf16-true"


def test_no_shipped_experiment_asks_for_bfloat16_where_it_may_be_slow() -> None:
    for path in (REPOSITORY / "configs").rglob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        asked = [content.get("precision"), content.get("trainer", {}).get("precision")]
        assert set(asked) <= {None, "32-true", "${precision}"}, path
