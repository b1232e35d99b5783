"""docs/scale.md says what the formulas say, the formulas say what the code does, and the settings it names exist."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import scale, scale_formulas, scale_job, scale_shapes, scale_tables
from benchmarks.scale_confirm import SMALL, Check, confirm, drawn, fit_checks
from benchmarks.scale_formulas import fit_bytes, saved_bytes, store_size, weight_bytes
from benchmarks.scale_meters import flops_of, peak_bytes_of, saved_bytes_of
from benchmarks.scale_shapes import LLAMA_7B, LLAMA_70B, Lora
from fa_lightning.training.adapted_model import AdaptedModel
from fa_lightning.training.module import AdapterModule

PAGE = scale.PAGE.read_text(encoding="utf-8")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return list(confirm(SMALL[:2]))


def test_formulas_say_what_the_code_does(checks: list[Check]) -> None:
    wrong = [f"{one.what} ({one.size}): {one.formula:.0f}, {one.measured:.0f}" for one in checks if not accepted(one)]
    assert not wrong
    # Nothing was left out: what the page lists is what was measured here (but for what needs a process of its own).
    listed = re.findall(r"^\| ([^|]+) \|", between("confirmed"), re.MULTILINE)[2:]
    assert {one.what for one in checks} == set(listed) - {"host memory of a shard"}


@pytest.mark.slow
def test_formulas_hold_for_the_largest_small_model() -> None:
    assert not [one for one in confirm(SMALL[2:]) if not accepted(one)]


def test_code_that_takes_more_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def all_logits(self: Any, batch: Any) -> torch.Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        return self.model(**inputs, use_cache=False).logits.float()[:, -1]

    monkeypatch.setattr(AdaptedModel, "answer_logits", all_logits)
    with drawn(SMALL[0], tmp_path) as backbone:
        wrong = {one.what for one in fit_checks(SMALL[0], backbone) if not accepted(one)}
    assert wrong >= {"FLOPs of a step, bfloat16", "peak of a step, bfloat16"}


@pytest.mark.parametrize("name", scale_tables.TABLES)
def test_page_holds_the_calculated_tables(name: str) -> None:
    assert between(name) == scale_tables.TABLES[name](), "run python -m benchmarks.scale --write"


def test_page_without_a_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        scale.renewed("no marks", {"weights": "table"})


def test_page_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "scale.md"
    page.write_text(PAGE.replace(between("weights"), "old"))
    monkeypatch.setattr(scale, "PAGE", page)
    scale.main([])
    assert "old" in page.read_text()
    scale.main(["--write"])
    assert page.read_text() == PAGE


@pytest.mark.parametrize("module", [scale, scale_formulas, scale_job, scale_shapes, scale_tables])
def test_examples(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def test_numbers_known_from_elsewhere() -> None:
    # QLoRA, arXiv 2305.14314: double quantisation takes 0.127 bits a parameter beside the 4.
    assert round(8 * scale_formulas.NF4_BYTES, 3) == 4.127
    assert weight_bytes(LLAMA_70B) == 2 * 68_976_648_192
    # A million tokens x two variants x 4096 units x 2 bytes, and 22 bytes a token.
    assert store_size(1e6, 1, 4096) == 1e6 * (2 * 4096 * 2 + 22)
    lora = Lora(64)
    whole, cut = fit_bytes(LLAMA_70B, lora, 8, 256), fit_bytes(LLAMA_70B, lora, 8, 256, shards=64)
    assert cut < whole - 0.9 * weight_bytes(LLAMA_70B)
    # One state in place of a block's many tensors, and none of the rest grows with the layers.
    few, many = (saved_bytes(replace(LLAMA_7B, layers=n), lora, 8, 256, checkpointing=True) for n in (31, 32))
    assert many - few == 8 * 256 * 4096 * 2


def test_meters_count_what_can_be_counted_by_hand() -> None:
    x = torch.randn(8, 16, requires_grad=True)
    weight = torch.randn(16, 4)
    assert flops_of(lambda: x @ weight) == 2 * 8 * 16 * 4
    assert flops_of(lambda: (x @ weight).sum().backward()) == 2 * 2 * 8 * 16 * 4
    # exp keeps its result, the product with a frozen weight keeps nothing but the weight.
    assert saved_bytes_of(lambda: x.exp() @ weight, [x, weight]) == 8 * 16 * 4

    def three_at_most() -> None:
        first = torch.ones(100)
        second = first + 1
        del first
        third = second + 1
        del second
        fourth, fifth = third + 1, third + 2
        del fourth, fifth

    assert peak_bytes_of(three_at_most) == 3 * 400


def test_settings_that_the_page_names_exist() -> None:
    import lightning.pytorch as pl

    from fa_lightning.regressors.module import RegressorModule
    from fa_lightning.studies.lab.data import LabDataModule
    from fa_lightning.training.data import ScenarioDataModule

    takes: dict[str, set[str]] = {
        "model.init_args": arguments_of(AdapterModule, RegressorModule),
        "data.init_args": arguments_of(ScenarioDataModule, *LabDataModule.__mro__[:2]),
        "trainer": arguments_of(pl.Trainer),
    }
    named = re.findall(r"`(model\.init_args|data\.init_args|trainer)\.(\w+)", PAGE)
    assert len(set(named)) > 20
    assert [(owner, name) for owner, name in named if name not in takes[owner]] == []
    files = re.findall(r"(?:configs|benchmarks|tests)/[\w/]+\.(?:yaml|py)", PAGE)
    assert len(files) > 2
    assert [name for name in files if not (REPOSITORY / name).exists()] == []


def test_code_that_the_page_names_exists() -> None:
    from fa_lightning.activations import data, store, store_writer
    from fa_lightning.regressors import pairs

    places = (data, store, store_writer, pairs)
    named = re.findall(r"`(StoreWriter|ActivationStore)\.(\w+)`", PAGE)
    assert len(set(named)) >= 5
    for owner, name in named:
        (holder,) = {getattr(place, owner) for place in places if hasattr(place, owner)}
        assert hasattr(holder, name), f"{owner}.{name}"
    for name in ("check_shard", "BlockDataset", "sampled_pairs", "decision_states"):
        assert f"`{name}`" in PAGE
        assert any(hasattr(place, name) for place in places), name


@pytest.mark.poser
def test_job_counts_the_prompts_of_poser(poser_root: Path) -> None:
    from fa_lightning.scenarios.poser.source import PoserScenarios

    splits = PoserScenarios(str(poser_root), aligned_policy="saint", faking_policy="money_maximizer", seed=0).load()
    job = scale_tables.JOB
    # A fifth of the training prompts would be more neutral texts than there are.
    neutral = min(len(splits.neutral_train), round(0.2 * 2 * len(splits.train)))
    assert job.fit_prompts == 2 * len(splits.train) + neutral
    asked = (len(splits.neutral_validation), 2 * len(splits.test), len(splits.neutral_test))
    assert job.judged[1:] == asked
    assert job.judged[0] <= len(splits.validation)


def accepted(one: Check) -> bool:
    return abs(one.error) <= one.tolerance


def between(name: str) -> str:
    """What stands between a mark of the page and its end."""
    _, _, rest = PAGE.partition(f"{scale.MARK.format(name)}\n")
    return rest.partition(f"\n{scale.END}")[0]


def arguments_of(*owners: Callable[..., Any]) -> set[str]:
    return {name for owner in owners for name in inspect.signature(owner.__init__).parameters}  # type: ignore[misc]
