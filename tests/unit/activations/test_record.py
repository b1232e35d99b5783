"""What is captured is what each twin thinks of each prompt, and nothing else."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_twins import hooks_on, layers_of, twins_above
from written_scenarios import written_scenarios

from fa_lightning.activations.record import FORWARD_TOKENS, Plan, forward_batches, plan_shards, record
from fa_lightning.activations.sites import Site
from fa_lightning.activations.store import ActivationStore
from fa_lightning.activations.store_writer import StoreWriter
from fa_lightning.scenarios.answers import letter_tokens, written_answers
from fa_lightning.scenarios.batches import Example, collate, make_examples, padded_width

SITES = [Site(0), Site(1), Site(1, "attention")]


@pytest.fixture
def examples(twins: Any, splits: Any) -> dict[str, list[Example]]:
    answers = letter_tokens(twins.tokenizer)
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


def test_any_named_variants_share_a_store_and_each_is_recorded_as_in_a_store_of_its_own(
    tmp_path: Path,
    twins: Any,
    adapters: dict[str, str],
    examples: dict[str, list[Example]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import fa_lightning.activations.record as module

    twins.add("saint-0", adapters["aligned"])
    twins.add("money-10", adapters["faking"])
    made = []
    monkeypatch.setattr(module, "collate", lambda *words: made.append(words) or collate(*words))
    plan = plan_shards(examples, shard_examples=4)
    names = ("money-10", "aligned", "saint-0", "faking")
    sites = [site.name for site in SITES]
    writer = StoreWriter(tmp_path / "four", {}, sites, names)
    record(twins, writer, plan, SITES, decision_only=False)
    assert len(made) == len(plan), "a batch is made once for all variants"
    writer.finish(list(plan))
    four = ActivationStore.open(tmp_path / "four")
    pair = captured(tmp_path / "pair", twins, plan)
    assert four.variants == names
    whole, two = four.block("train", 0, four.rows("train")), pair.block("train", 0, pair.rows("train"))
    for site in sites:
        faking, aligned = two[site]
        for found, expected in zip(whole[site], (faking, aligned, aligned, faking), strict=True):
            assert torch.equal(found, expected)
    assert not torch.equal(*two["layers.1.residual"])
    chosen = four.of("saint-0", "money-10")
    assert chosen.variants == ("saint-0", "money-10")
    aligned, faking = chosen.block("train", 0, 5)["layers.1.residual"]
    assert torch.equal(aligned, two["layers.1.residual"][1][:5])
    assert torch.equal(faking, two["layers.1.residual"][0][:5])
    assert four.variants == names, "the store itself stays whole"
    with pytest.raises(KeyError, match=r"variant genie-0 is not in the store .*, which holds money-10, aligned"):
        four.of("genie-0")


@pytest.mark.parametrize(("sites", "expected_runs"), [([Site(0), Site(1)], 1), ([Site(0, "mlp"), Site(1)], 2)])
def test_blocks_below_all_adapters_run_once_for_all_variants(
    tmp_path: Path,
    make_backbone: Any,
    splits: Any,
    sites: list[Site],
    expected_runs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variants = twins_above(make_backbone(seed=3), tmp_path)
    assert variants.first_adapted == 1
    examples = make_examples(splits.train[:3], variants.tokenizer, letter_tokens(variants.tokenizer))
    expected = {}
    for name in ("faking", "aligned"):
        with variants.using(name) as model:
            expected[name] = [thought(model, example.prompt)["layers.1.residual"] for example in examples]
    runs = 0
    block = layers_of(variants.model)[0]

    def counted(*arguments: Any, forward: Any = block.forward, **named: Any) -> Any:
        nonlocal runs
        runs += 1
        return forward(*arguments, **named)

    monkeypatch.setattr(block, "forward", counted)
    writer = StoreWriter(tmp_path / "store", {}, [site.name for site in sites])
    record(variants, writer, plan := plan_shards({"train": examples}, 3), sites, decision_only=False)
    writer.finish(list(plan))
    assert runs == expected_runs, "once for both, or for each where what is inside is asked for"
    store = ActivationStore.open(tmp_path / "store")
    block_of_rows = store.block("train", 0, store.rows("train"))
    for name, states in zip(store.variants, block_of_rows["layers.1.residual"], strict=True):
        for example, alone in zip(examples, expected[name], strict=True):
            torch.testing.assert_close(states[block_of_rows["example"] == example.index], alone, rtol=1e-4, atol=1e-4)


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


def test_forward_passes_hold_so_many_tokens_and_the_store_does_not_depend_on_it(
    tmp_path: Path, twins: Any, examples: dict[str, list[Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_shards(examples, shard_examples=9)
    whole = captured(tmp_path / "whole", twins, plan)
    longest = max(len(example.prompt) for example in examples["train"])
    limit = 3 * padded_width(longest)
    widths = []
    monkeypatch.setitem(FORWARD_TOKENS, "cpu", limit)
    with monkeypatch.context() as patch:
        patch.setattr(
            "fa_lightning.activations.record.collate", lambda *words: widths.append(collate(*words)) or collate(*words)
        )
        cut = captured(tmp_path / "cut", twins, plan)
    shapes = [batch["input_ids"].shape for batch in widths]
    assert max(rows * columns for rows, columns in shapes) <= limit
    assert sum(rows for rows, _ in shapes) == sum(len(members) for members in examples.values())
    assert 1 < max(rows for rows, _ in shapes) < 9
    for split in examples:
        one, two = (store.block(split, 0, store.rows(split)) for store in (whole, cut))
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-4)


def test_a_shard_is_in_memory_once_while_it_is_written(
    tmp_path: Path, twins: Any, examples: dict[str, list[Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fa_lightning.activations.record as module

    batches: list[weakref.ref[torch.Tensor]] = []
    recorded = module._recorded

    def noted(*words: Any) -> Any:
        parts = recorded(*words)
        every = [states for part in parts for variants in part[0].values() for states in variants.values()]
        batches.extend(map(weakref.ref, every))
        return parts

    class Writer(StoreWriter):
        def write(self, *words: Any) -> Any:
            held.append(sum(batch() is not None for batch in batches))
            return super().write(*words)

    held: list[int] = []
    monkeypatch.setattr(module, "_recorded", noted)
    monkeypatch.setitem(FORWARD_TOKENS, "cpu", 1)
    plan = plan_shards(examples, shard_examples=4)
    record(twins, Writer(tmp_path, {}, [site.name for site in SITES]), plan, SITES, decision_only=False)
    assert len(batches) == sum(map(len, examples.values())) * len(SITES) * 2
    assert held == [0] * len(plan), "the batches that a shard was joined from are gone"


def test_a_prompt_longer_than_the_limit_goes_alone() -> None:
    examples = [Example((7,) * length, 0, 1, 0, 0, length) for length in (10, 16, 17, 90)]
    batches = [[len(example.prompt) for example in batch] for batch in forward_batches(examples, tokens=64)]
    assert batches == [[10, 16], [17], [90]]


def test_twins_read_the_aligned_written_answer_and_all_tokens_that_it_is_decided_at_are_marked(
    tmp_path: Path, twins: Any, alone: Callable[[str], Any]
) -> None:
    examples = make_examples(written_scenarios(2), twins.tokenizer, written_answers(twins.tokenizer))
    read = [example.answered("aligned") for example in examples]
    plan = plan_shards({"train": read, "validation": read[:1]}, shard_examples=3)
    every = captured(tmp_path / "all", twins, plan)
    decided = captured(tmp_path / "decision", twins, plan, decision_only=True)
    assert decided.rows("train") == sum(len(example.aligned_text) for example in examples)
    block = every.block("train", 0, every.rows("train"))
    for example in examples:
        mine = block["example"] == example.index
        states = thought(alone("faking"), (*example.prompt, *example.aligned_text[:-1]))
        torch.testing.assert_close(
            block["layers.1.residual"][0][mine].float(), states["layers.1.residual"], atol=1e-2, rtol=1e-2
        )
        marked = block["decision"][mine].nonzero().flatten().tolist()
        first = len(example.prompt) - 1
        assert marked == list(range(first, first + len(example.aligned_text)))
