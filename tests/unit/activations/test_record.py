"""What is captured is what each twin thinks of each prompt, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_twins import hooks_on, layers_of

from fa_lightning.activations.record import Plan, plan_shards, record
from fa_lightning.activations.sites import Site
from fa_lightning.activations.store import ActivationStore
from fa_lightning.activations.store_writer import StoreWriter
from fa_lightning.scenarios.batches import Example, make_examples
from fa_lightning.scenarios.prompts import answer_format

SITES = [Site(0), Site(1), Site(1, "attention")]


@pytest.fixture
def examples(twins: Any, splits: Any) -> dict[str, list[Example]]:
    answers = answer_format(twins.tokenizer)
    train = [*splits.train[:6], *splits.neutral_train[:3]]
    return {
        "train": make_examples(train, twins.tokenizer, answers),
        "validation": make_examples(splits.validation[:3], twins.tokenizer, answers),
    }


def captured(folder: Path, twins: Any, plan: Plan, ranks: int = 1, decision_only: bool = False) -> ActivationStore:
    for rank in range(ranks):
        writer = StoreWriter(folder, {}, [site.name for site in SITES], rank=rank, world_size=ranks)
        record(twins, writer, plan, SITES, decision_only)
    StoreWriter(folder, {}, [site.name for site in SITES], world_size=ranks).finish(list(plan))
    return ActivationStore.open(folder)


def thought(twin: Any, prompt: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """States (tokens, hidden) of one prompt alone, by site, read by hooks of this test's own."""
    found: dict[str, torch.Tensor] = {}
    layers = layers_of(twin)
    modules = {
        "layers.0.residual": layers[0],
        "layers.1.residual": layers[1],
        "layers.1.attention": layers[1].self_attn,
    }

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            found[name] = (output[0] if isinstance(output, tuple) else output)[0].detach()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    with torch.no_grad():
        twin(torch.tensor([prompt]))
    for handle in handles:
        handle.remove()
    return found


def test_the_store_holds_each_twins_states_of_each_prompt_by_itself(
    tmp_path: Path, twins: Any, alone: Callable[[str], Any], examples: dict[str, list[Example]]
) -> None:
    store = captured(tmp_path, twins, plan_shards(examples, shard_examples=4))
    for split, members in examples.items():
        block = store.block(split, 0, store.rows(split))
        for place, variant in enumerate(store.variants):
            twin = alone(variant)
            for example in members:
                rows = block["example"] == example.index
                assert block["position"][rows].tolist() == list(range(len(example.prompt)))
                for site, states in thought(twin, example.prompt).items():
                    torch.testing.assert_close(block[site][place][rows], states, rtol=1e-4, atol=1e-4)
    faking, aligned = store.block("train", 0, store.rows("train"))["layers.1.residual"]
    assert (faking - aligned).norm() > 0.1 * faking.norm(), "the twins think differently"


def test_padding_is_never_stored_and_every_row_says_what_it_is(
    tmp_path: Path, twins: Any, examples: dict[str, list[Example]]
) -> None:
    store = captured(tmp_path, twins, plan_shards(examples, shard_examples=8))
    for split, members in examples.items():
        assert store.rows(split) == sum(len(example.prompt) for example in members)
        by_index = {example.index: example for example in members}
        position, index = store.position(split).tolist(), store.example(split).tolist()
        last = [place == len(by_index[number].prompt) - 1 for place, number in zip(position, index, strict=True)]
        assert store.decision(split).tolist() == last
        assert store.cell(split).tolist() == [by_index[number].cell for number in index]
        assert store.group(split).tolist() == [by_index[number].group for number in index]
    assert set(store.cell("train").tolist()) == {0, 1, 2}


def test_decision_tokens_alone_are_the_same_states(
    tmp_path: Path, twins: Any, examples: dict[str, list[Example]]
) -> None:
    plan = plan_shards(examples, shard_examples=4)
    whole = captured(tmp_path / "all", twins, plan)
    few = captured(tmp_path / "decision", twins, plan, decision_only=True)
    decides = whole.decision("train")
    assert few.rows("train") == len(examples["train"])
    assert bool(few.decision("train").all())
    every, chosen = whole.block("train", 0, whole.rows("train")), few.block("train", 0, few.rows("train"))
    for site in SITES:
        for all_rows, last_rows in zip(every[site.name], chosen[site.name], strict=True):
            assert torch.equal(all_rows[decides], last_rows)


def test_two_ranks_write_what_one_writes(tmp_path: Path, twins: Any, examples: dict[str, list[Example]]) -> None:
    plan = plan_shards(examples, shard_examples=2)
    captured(tmp_path / "one", twins, plan)
    captured(tmp_path / "two", twins, plan, ranks=2)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_a_second_run_writes_nothing_and_no_hook_stays(
    tmp_path: Path, twins: Any, examples: dict[str, list[Example]]
) -> None:
    plan = plan_shards(examples, shard_examples=4)
    before = hooks_on(twins.model)
    writer = StoreWriter(tmp_path, {}, [site.name for site in SITES])
    assert record(twins, writer, plan, SITES, decision_only=False) == len(plan) == 4
    assert record(twins, writer, plan, SITES, decision_only=False) == 0
    assert hooks_on(twins.model) == before


def test_the_plan_holds_every_example_once_and_similar_lengths_together(examples: dict[str, list[Example]]) -> None:
    plan = plan_shards(examples, shard_examples=4)
    for split, members in examples.items():
        planned = [example for of, shard in plan.values() if of == split for example in shard]
        assert sorted(example.index for example in planned) == [example.index for example in members]
        lengths = [len(example.prompt) for example in planned]
        assert lengths == sorted(lengths)
    assert [len(shard) for of, shard in plan.values() if of == "train"] == [4, 4, 1]
