"""The frozen-LLM DataModule: what it captures, what it serves, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import torch
from tiny_twins import trainer_stub

from fa_lightning.activations.data import BlockDataset, shareable
from fa_lightning.activations.store import ActivationStore, StoreMismatchError
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.splits import counterbalanced

Make = Callable[..., Any]


def set_up(data: Any, rank: int = 0, ranks: int = 1, stage: str = "fit") -> Any:
    data.trainer = trainer_stub(rank, ranks)
    data.setup(stage)
    return data


def indices(loader: Any) -> list[int]:
    return [index for batch in loader for index in batch["index"].tolist()]


def test_all_that_was_asked_for_is_captured_at_every_layer(make_data: Make) -> None:
    data = set_up(make_data())
    store = data.store
    assert store.sites == ("layers.0.residual", "layers.1.residual")
    assert store.variants == ("faking", "aligned")
    cells = {split: Counter(store.cell(split)[store.decision(split)].tolist()) for split in ("train", "validation")}
    assert cells["train"].total() == 12 + 4
    assert cells["train"][2] == 4, "neutral texts"
    assert cells["validation"].total() == 6
    assert cells["validation"][2] == 0


def test_other_variants_are_captured_beside_the_pair_which_alone_is_served(
    make_data: Make, adapters: dict[str, str], tmp_path: Path
) -> None:
    for name, of in (("saint-0", "aligned"), ("saint-1", "aligned"), ("money-0", "faking")):
        copytree(adapters[of], tmp_path / "01_variants" / name / "adapter")
    data = set_up(make_data(others=[str(tmp_path / "01_variants")]))
    assert data.variants.names == ["faking", "aligned", "money-0", "saint-0", "saint-1"]
    assert data.store.variants == ("faking", "aligned")
    states = next(iter(data.train_dataloader()["states"]))["layers.1.residual"]
    assert len(states) == 2
    whole = ActivationStore.open(tmp_path / "store")
    assert whole.variants == ("faking", "aligned", "money-0", "saint-0", "saint-1")
    faking, aligned, *others = whole.block("train", 0, whole.rows("train"))["layers.1.residual"]
    for found, expected in zip(others, (faking, aligned, aligned), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(StoreMismatchError):
        set_up(make_data(others=[str(tmp_path / "01_variants" / "saint-0")]))
    (tmp_path / "01_variants" / "money-0").rename(tmp_path / "01_variants" / "faking")
    with pytest.raises(ValueError, match="others holds an adapter called 'faking', as one of the pair is"):
        set_up(make_data(others=[str(tmp_path / "01_variants")]))


def test_prompts_are_captured_in_balanced_order(make_data: Make, splits: Any) -> None:
    data = set_up(make_data())
    planned = [example for split, shard in data._plan(data.variants).values() if split == "train" for example in shard]
    letters = Counter(example.aligned for example in planned if example.cell != 2)
    assert sorted(letters.values()) == [6, 6]


def test_test_scenarios_are_not_even_tokenised_for_the_capture(make_data: Make, splits: Any) -> None:
    data = set_up(make_data())
    seen = set(data.store.group("train").tolist()) | set(data.store.group("validation").tolist())
    held_out = {int(item.group[:15], 16) for item in [*splits.test, *splits.neutral_test]}
    assert not seen & held_out


def test_prompts_that_are_too_long_are_told_where_states_are_captured_and_where_they_are_judged(
    make_data: Make, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    data = set_up(make_data())
    planned = [example for _, shard in data._plan(data.variants).values() for example in shard]
    limit = sorted(len(example.prompt) for example in planned)[-2]
    rmtree(tmp_path / "store")
    data = make_data(max_tokens=limit)
    with caplog.at_level("INFO"):
        set_up(data)
    assert f"prompts are over max_tokens={limit}: left out" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        data._examples([*data.splits.train, *data.splits.validation, *data.splits.test])
    assert f"prompts are over max_tokens={limit}: left out" in caplog.text
    rmtree(tmp_path / "store")
    with pytest.raises(ValueError, match="max_tokens is 3, but every one of the 16 prompts is longer: raise it"):
        set_up(make_data(max_tokens=3))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_row_is_served_once_whatever_the_number_of_ranks(make_data: Make, ranks: int) -> None:
    data = set_up(make_data(block_rows=100))
    for split, loader_of in (("train", "train_dataloader"), ("validation", "val_dataloader")):
        served: list[tuple[int, int]] = []
        lengths = []
        for rank in range(ranks):
            data.trainer = trainer_stub(rank, ranks)
            loader = getattr(data, loader_of)()
            loader = loader[0] if isinstance(loader, list) else loader["states"]
            blocks = list(loader)
            lengths.append(len(blocks))
            for block in blocks:
                assert len(block["decision"]) <= 100
                assert block["layers.0.residual"][0].shape == (len(block["decision"]), 32)
                served += zip(block["example"].tolist(), block["position"].tolist(), strict=True)
        assert len(set(lengths)) == 1, "or a rank would wait for ever"
        everything = zip(data.store.example(split).tolist(), data.store.position(split).tolist(), strict=True)
        assert sorted(served) == sorted(everything)


def test_blocks_come_in_another_order_each_epoch_and_the_same_for_a_seed(make_data: Make) -> None:
    def first_rows(data: Any, epoch: int) -> list[tuple[int, int]]:
        loader = data.train_dataloader()["states"]
        loader.sampler.set_epoch(epoch)
        return [(int(block["example"][0]), int(block["position"][0])) for block in loader]

    data = set_up(make_data(block_rows=64))
    assert first_rows(data, 0) == first_rows(data, 0)
    assert first_rows(data, 0) != first_rows(data, 1)
    assert sorted(first_rows(data, 0)) == sorted(first_rows(data, 1))


def test_the_validation_loaders_are_states_scenarios_and_neutral_texts(make_data: Make, splits: Any) -> None:
    data = set_up(make_data())
    _, scenarios, neutral = data.val_dataloader()
    assert sorted(indices(scenarios)) == list(range(len(splits.validation)))
    assert sorted(indices(neutral)) == list(range(len(splits.neutral_validation)))
    _, _, few = set_up(make_data(validation_texts=2)).val_dataloader()
    assert len(indices(few)) == 2
    assert {cell for batch in neutral for cell in batch["cell"].tolist()} == {2}


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7])
def test_few_validation_items_are_still_balanced(make_data: Make, count: int) -> None:
    data = set_up(make_data(validation_items=count))
    (answers,) = ([*zip(batch["cell"].tolist(), batch["aligned"].tolist(), strict=True)] for batch in _whole(data))
    assert len(answers) == count
    for cell in (0, 1):
        letters = Counter(answer for of, answer in answers if of == cell)
        assert max(letters.values()) - min(letters.values()) <= letters.total() % 2 or letters.total() == 1


def _whole(data: Any) -> Any:
    data.batch_size = 100
    return data.val_dataloader()[1]


@pytest.mark.parametrize("both_orders", [True, False])
def test_the_test_loaders_are_scenarios_neutral_texts_and_each_extra_set(
    make_data: Make, splits: Any, both_orders: bool
) -> None:
    data = set_up(make_data(both_orders=both_orders), stage="test")
    assert data.store is None, "a test needs no store"
    scenarios, neutral, *extra = data.test_dataloader()
    assert len(indices(scenarios)) == len(splits.test) * (2 if both_orders else 1)
    assert len(indices(neutral)) == len(splits.neutral_test)
    expected = [len(counterbalanced(items, both_orders=both_orders)) for items in splits.extra_tests.values()]
    assert [len(indices(loader)) for loader in extra] == expected
    answers = Counter(answer for batch in scenarios for answer in batch["aligned"].tolist())
    assert len(set(answers.values())) == 1, "a constant answerer scores one half"


def test_two_ranks_serve_every_scenario_and_fill_up_with_repeats(make_data: Make, splits: Any) -> None:
    data = set_up(make_data(validation_items=7, batch_size=3))
    served = []
    for rank in range(2):
        data.trainer = trainer_stub(rank, 2)
        served.append(indices(data.val_dataloader()[1]))
    assert len(served[0]) == len(served[1]) == 4
    assert set(served[0]) | set(served[1]) == set(range(7))


def test_a_second_set_up_captures_nothing(make_data: Make, tmp_path: Path) -> None:
    set_up(make_data())
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("shard*")}
    set_up(make_data())
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("shard*")} == before


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"capture_scenarios": 8}, "capture.train is 12 .* but 8"),
        ({"max_tokens": 400}, "max_tokens is 1024 .* but 400"),
        ({"tokens": "decision"}, "tokens is 'all' .* but 'decision'"),
        ({"sites": ["layers.0.residual"]}, "sites"),
        ({"store_dtype": "float16"}, "dtype is 'float32' .* but 'float16'"),
        ({"scenarios": EmbeddedScenarios(train=16, validation=8, test=8, neutral=8, seed=1)}, "scenarios.seed"),
    ],
)
def test_a_store_of_something_else_is_refused_by_name(make_data: Make, options: dict[str, Any], field: str) -> None:
    set_up(make_data())
    with pytest.raises(StoreMismatchError, match=field):
        set_up(make_data(**options))


def test_a_store_of_other_adapters_is_refused_by_name(make_data: Make, adapters: dict[str, str]) -> None:
    set_up(make_data())
    with pytest.raises(StoreMismatchError, match=r"adapters\.\w+ is"):
        set_up(make_data(aligned=adapters["faking"], faking=adapters["aligned"]))


@pytest.mark.parametrize(("sites", "layers"), [(1, [1]), (2, [0, 1]), (8, [0, 1]), (None, [0, 1])])
def test_a_number_of_sites_is_spread_over_the_layers(make_data: Make, sites: int | None, layers: list[int]) -> None:
    store = set_up(make_data(sites=sites)).store
    assert store.sites == tuple(f"layers.{layer}.residual" for layer in layers)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (0, "sites is 0, but must be 1 or more layers, a list of site names, or null for all"),
        (["layers.2.residual"], r"layer is 2, but the backbone has 2 layers \(0 to 1\)"),
        (["layers.0.soul"], "soul"),
        (["third"], "third"),
    ],
)
def test_a_site_that_there_is_not_is_refused_before_anything_is_captured(
    make_data: Make, tmp_path: Path, sites: list[str] | int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        set_up(make_data(sites=sites))
    assert not (tmp_path / "store").exists()


def test_an_adapter_of_another_backbone_is_refused(make_data: Make, make_backbone: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match=r"was made for another backbone: its weights is"):
        set_up(make_data(backbone=BackboneArguments(make_backbone(seed=8, tie_word_embeddings=False))))


@pytest.mark.parametrize("name", ["capture_scenarios", "capture_validation", "shard_examples", "block_rows"])
def test_a_size_of_nothing_is_refused_at_the_door(make_data: Make, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, but must be 1 or more"):
        make_data(**{name: 0})


def test_leaking_splits_stop_everything(make_data: Make, splits: Any) -> None:
    class Leaking(EmbeddedScenarios):
        def load(self) -> Any:
            found = super().load()
            found.test.append(found.train[0])
            return found

    with pytest.raises(ValueError, match="The splits leak"):
        set_up(make_data(scenarios=Leaking(train=16, validation=8, test=8, neutral=8)))


def test_too_few_rows_for_the_ranks_are_told(make_data: Make) -> None:
    with pytest.raises(ValueError, match="2 rows, too few for 3 ranks"):
        shareable([(0, 1), (1, 2)], ranks=3)
    assert shareable([(0, 1), (1, 2)], ranks=2) == [(0, 1), (1, 2)]


def test_blocks_are_read_from_disk_in_the_stores_dtype(make_data: Make) -> None:
    data = set_up(make_data(store_dtype="bfloat16"))
    blocks = BlockDataset(data.store, "train", 64, 1)
    assert len(blocks) == len(blocks.ranges)
    assert blocks[0]["layers.1.residual"][0].dtype == torch.bfloat16
