"""What a stage is made from: which settings count, and the content of the artefacts that they name."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from fa_lightning.errors import UserError
from fa_lightning.experiments.fingerprint import OF_ALL, changes, digest_of, fingerprint_of, flat, refuse_change

CONFIG: dict[str, Any] = {
    "config": ["a.yaml"],
    "seed_everything": 0,
    "trainer": {
        "max_epochs": 3,
        "devices": 1,
        "accelerator": "cpu",
        "precision": None,
        "limit_train_batches": None,
        "accumulate_grad_batches": 1,
        "logger": {"class_path": "TensorBoardLogger"},
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.RichProgressBar"},
            {"class_path": "Export", "init_args": {"folder": "out/toy/02_b/adapter"}},
        ],
    },
    "model": {"init_args": {"rank": 4}},
    "data": {"init_args": {"batch_size": 16, "num_workers": 0, "scenarios": {"init_args": {"root": "texts"}}}},
}
OWN = Path("out/toy/02_b")


def changed(**values: Any) -> dict[str, Any]:
    """The config with dotted arguments (`__` for a dot) set."""
    config = deepcopy(CONFIG)
    for name, value in values.items():
        *parents, last = name.split("__")
        inner = config
        for key in parents:
            inner = inner[key]
        inner[last] = value
    return config


def fingerprint(
    config: dict[str, Any], ranks: int = 1, step_sizes: tuple[str, ...] = ("batch_size",)
) -> dict[str, Any]:
    return fingerprint_of(config, {"seed": "0"}, OWN, ranks, step_sizes)


def test_it_holds_what_is_made() -> None:
    made = fingerprint(CONFIG)
    assert made["model.init_args.rank"] == 4
    assert made["trainer.max_epochs"] == 3
    assert made["scenarios.seed"] == "0"
    assert made["trainer.precision"] is None
    assert made["trainer.callbacks.0.init_args.folder"] == "adapter", (
        "its place in the stage's folder, wherever that is"
    )
    assert made["data.init_args.batch_size" + OF_ALL] == 16
    assert digest_of(fingerprint_of(CONFIG, {"seed": "1"}, OWN)) != digest_of(
        fingerprint_of(CONFIG, {"seed": "0"}, OWN)
    )


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"trainer__devices": 8, "trainer__strategy": "ddp", "trainer__accelerator": "cuda", "trainer__logger": None},
        {"config": ["a.yaml", "ddp.yaml"]},
        {"data__init_args__num_workers": 4},
        {"data__init_args__judge": {"init_args": {"cache": "elsewhere", "timeout": 5.0, "retries": 1}}},
        {"trainer__num_sanity_val_steps": 0, "trainer__log_every_n_steps": 7, "trainer__enable_progress_bar": False},
        {"model__init_args": {"rank": 4, "gradient_checkpointing": True, "trust_remote_code": True}},
        {"model__init_args": {"rank": 4, "frozen_half": "checkpoints/toy/frozen_half", "frozen_half_dtype": None}},
        {"trainer__callbacks": CONFIG["trainer"]["callbacks"][1:]},
        {"data__init_args__scenarios": {"init_args": {"root": "others"}}},
    ],
)
def test_what_changes_no_artefact_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("texts", "others"):
        (tmp_path / name).mkdir()
    refuse_change("02_b", fingerprint(CONFIG), fingerprint(changed(**elsewhere)))


def test_a_file_of_scenarios_counts_by_its_content_wherever_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.csv", "moved.csv", "other.csv"):
        (tmp_path / name).write_text("facts" if name == "other.csv" else "text")

    def made(path: str) -> dict[str, Any]:
        source = {"init_args": {"path": path}}
        return fingerprint({**CONFIG, "data": {"init_args": {"batch_size": 16, "fitted_on": [source]}}})

    refuse_change("02_b", made("mine.csv"), made("moved.csv"))
    with pytest.raises(UserError, match=r"input\.data\.init_args\.fitted_on\.0\.init_args\.path: was"):
        refuse_change("02_b", made("mine.csv"), made("other.csv"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Rounded states are other states.
        ("model__init_args__frozen_half_dtype", "bfloat16"),
        ("trainer__limit_train_batches", 2),
        ("trainer__max_steps", 5),
        ("trainer__overfit_batches", 1),
        ("trainer__fast_dev_run", True),
        ("trainer__precision", "32-true"),
        ("trainer__accumulate_grad_batches", 4),
        ("seed_everything", 1),
    ],
)
def test_limits_count(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"{name.replace('__', '.')}: was .*, is {value!r}"):
        refuse_change("02_b", fingerprint(CONFIG), fingerprint(changed(**{name: value})))


def test_ranks_must_make_the_same_global_batch() -> None:
    alone = fingerprint(CONFIG)
    refuse_change("02_b", alone, fingerprint(changed(data__init_args__batch_size=8), ranks=2))
    with pytest.raises(UserError, match=r"batch_size x ranks: was 16, is 32"):
        refuse_change("02_b", alone, fingerprint(CONFIG, ranks=2))
    # Where nothing is trained any number of ranks judges the same.
    judged = fingerprint(CONFIG, step_sizes=())
    refuse_change("02_b", judged, fingerprint(CONFIG, ranks=8, step_sizes=()))
    assert judged["data.init_args.batch_size"] == 16
    # A step of two accumulated halves holds other items than one of a whole batch: each is shuffled by itself.
    halves = changed(data__init_args__batch_size=8, trainer__accumulate_grad_batches=2)
    with pytest.raises(UserError, match=r"accumulate_grad_batches: was 1, is 2"):
        refuse_change("02_b", alone, fingerprint(halves))


def adapter(folder: Path, weights: bytes, **config: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, **config}))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return os.path.relpath(folder)


def test_an_artefact_counts_by_its_content_and_not_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = adapter(Path("a/03_faking/adapter"), b"one")
    same = adapter(Path("b/adapter"), b"one", base_model_name_or_path="elsewhere")
    other = adapter(Path("c/adapter"), b"other")

    def made(place: Any) -> dict[str, Any]:
        return fingerprint(changed(model={"init_args": {"start_from": place}}))

    before = made(one)
    assert set(before) - set(made("nowhere")) == {"input.model.init_args.start_from"}
    refuse_change("02_b", before, made(same))
    with pytest.raises(UserError, match=r"input\.model\.init_args\.start_from: was '\w{16}', is '\w{16}'"):
        refuse_change("02_b", before, made(other))
    # By its path where nothing is known of the content: a model of the Hub before it is fetched, a folder that is gone.
    refuse_change("02_b", before, {key: value for key, value in before.items() if not key.startswith("input.")})
    with pytest.raises(UserError, match=r"model\.init_args\.start_from: was .*03_faking.*, is 'nowhere'"):
        refuse_change("02_b", before, made("nowhere"))
    # A stage's folder, or that of many, stands for the adapters in it.
    population = made("a")
    assert "input.model.init_args.start_from" in population
    adapter(Path("a/04_other/adapter"), b"new")
    with pytest.raises(UserError, match=r"input\.model\.init_args\.start_from"):
        refuse_change("02_b", population, made("a"))


def test_the_backbone_that_adapters_name_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = tmp_path / "backbone"
    backbone.mkdir()
    (backbone / "config.json").write_text('{"hidden_size": 8}')
    place = adapter(Path("x/03_faking/adapter"), b"one", base_model_name_or_path=str(backbone))
    config = changed(data={"init_args": {"faking": place}})
    before = fingerprint(config)
    refuse_change("02_b", before, fingerprint(config))
    (backbone / "config.json").write_text('{"hidden_size": 16}')
    with pytest.raises(UserError, match=r"input\.data\.init_args\.faking\.backbone: was"):
        refuse_change("02_b", before, fingerprint(config))


def test_a_change_is_refused_by_name_with_both_values_and_the_way_out() -> None:
    refuse_change("02_b", {"rank": 4, "weight": float("inf")}, {"rank": 4, "weight": float("inf")})
    with pytest.raises(UserError, match=r"stage 02_b") as refused:
        refuse_change("02_b", {"rank": 4, "gone": 1}, {"rank": 8, "new": "x", "same": None})
    message = str(refused.value)
    assert "rank: was 4, is 8" in message
    assert "gone: was 1, is None" in message
    assert "new: was None, is 'x'" in message
    assert "same" not in message
    assert "--refit 02_b" in message


def test_of_many_changes_the_first_eight_are_shown_and_the_rest_counted() -> None:
    with pytest.raises(UserError, match="and 4 more"):
        refuse_change("02_b", {}, {f"field{number:02}": number for number in range(12)})


def test_empty_lists_and_mappings_flatten_to_nothing() -> None:
    assert flat({"a": [], "b": {}, "c": [[1], 2]}) == {"c.0.0": 1, "c.1": 2}


def test_a_backbone_in_a_gguf_file_counts_by_its_content(tmp_path: Path) -> None:
    for name, content in (("one.gguf", b"GGUF 1"), ("copy.gguf", b"GGUF 1"), ("other.gguf", b"GGUF 2")):
        (tmp_path / name).write_bytes(content)

    def of(name: str) -> dict[str, Any]:
        return fingerprint(changed(model__init_args={"backbone": {"name": str(tmp_path / name)}}))

    refuse_change("02_b", of("one.gguf"), of("copy.gguf"))
    with pytest.raises(UserError, match=r"input\.model\.init_args\.backbone\.name: was"):
        refuse_change("02_b", of("one.gguf"), of("other.gguf"))
    gone = of("gone.gguf")
    assert "input.model.init_args.backbone.name" not in gone


def test_a_switch_that_is_new_and_off_is_no_change() -> None:
    before = fingerprint(CONFIG)
    after = fingerprint(changed(model__init_args={"rank": 4, "use_rslora": False, "revision": None, "excluded": []}))
    assert changes(before, after) == changes(after, before) == {}
    on = fingerprint(
        changed(model__init_args={"rank": 4, "use_rslora": True, "revision": "v2", "excluded": ["q_proj"]})
    )
    assert set(changes(before, on)) == {
        "model.init_args.use_rslora",
        "model.init_args.revision",
        "model.init_args.excluded.0",
    }
    # What a record says to be null is not what is off.
    null = fingerprint(changed(model__init_args={"rank": 4, "use_rslora": None}))
    off = fingerprint(changed(model__init_args={"rank": 4, "use_rslora": False}))
    assert set(changes(null, off)) == {"model.init_args.use_rslora"}


def test_a_backbone_counts_in_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fa_lightning.experiments.fingerprint.digest_of_backbone", lambda name, revision: str(revision))
    for revision in ("v2", None):
        backbone = {"name": "some/model", "revision": revision}
        made = fingerprint(changed(model__init_args={"backbone": backbone}))
        assert made["input.model.init_args.backbone.name"] == str(revision)
