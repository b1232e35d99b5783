"""Examples, left padding, and a sampler that deals the same global batches to any number of ranks."""

from collections import Counter

import lightning.pytorch as pl
import pytest
import torch

from fa_lightning.scenarios.answers import LetterTokens, letter_tokens
from fa_lightning.scenarios.batches import Example, LengthBucketSampler, collate, example_loader, make_examples
from fa_lightning.scenarios.cells import NEUTRAL_CELL
from fa_lightning.scenarios.scenario import Fact, Oversight, Scenario

A, B, ERROR = 65, 66, 69
PAD = 0


def scenario(oversight=Oversight.GOOD, aligned="A", group="f" * 16):
    return Scenario((Fact("You are watched."),), "Help.", "Harm.", oversight, aligned, group, "saint", "test")


def example(length, index=0, cell=0, aligned=A, other=B):
    return Example(tuple(range(1, length + 1)), aligned, other, cell, group=7, index=index)


def lengths_of(count, seed=0):
    return torch.randint(20, 200, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def dealt(count, batch_size, ranks=1, rank=0, epoch=0, seed=0, shuffle=True):
    sampler = LengthBucketSampler(lengths_of(count), batch_size, ranks, rank, shuffle, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_examples_hold_the_prompt_and_both_answers(tiny_tokenizer):
    answers = letter_tokens(tiny_tokenizer)
    neutral = Scenario((), "", "", Oversight.NONE, None, "00000000000000ab", "x", "y", text="The sky is blue.")
    items = [scenario(), scenario(Oversight.NEUTRAL, "B"), scenario(Oversight.POOR, "B"), neutral]
    rows = make_examples(items, tiny_tokenizer, answers)
    letter_a, letter_b, error = (tiny_tokenizer.convert_tokens_to_ids(word) for word in ("A", "B", "error"))
    assert [(row.aligned, row.other) for row in rows] == [
        (letter_a, letter_b),
        (letter_b, letter_a),
        (letter_b, letter_a),
        (error, error),
    ]
    assert [row.cell for row in rows] == [0, 0, 1, 2]
    assert NEUTRAL_CELL == 2
    assert [row.index for row in rows] == [0, 1, 2, 3]
    assert rows[3].group == 0xA
    assert rows[0].group == 16**15 - 1 < 2**63
    for row, item in zip(rows, items, strict=True):
        assert tiny_tokenizer.decode(list(row.prompt)) == f"<s><|user|>{item.message()}<|assistant|>"


def test_system_message_and_lead_are_part_of_the_prompt(tiny_tokenizer):
    answers = LetterTokens(choices=(A, B), error=ERROR, lead=(5, 4))
    (row,) = make_examples([scenario()], tiny_tokenizer, answers, system="You are honest.")
    assert row.prompt[-2:] == (5, 4)
    assert tiny_tokenizer.decode(list(row.prompt[:-2])).startswith("<s><|system|>You are honest.<|user|>")


def test_long_prompts_are_left_out_whole_and_the_others_numbered_without_gaps(tiny_tokenizer):
    answers = letter_tokens(tiny_tokenizer)
    long = Scenario((Fact("Far away. " * 50),), "Help.", "Harm.", Oversight.GOOD, "A", "f" * 16, "saint", "test")
    everything = make_examples([long, scenario(), long, scenario()], tiny_tokenizer, answers)
    short = len(everything[1].prompt)
    assert short < len(everything[0].prompt)
    kept = make_examples([long, scenario(), long, scenario()], tiny_tokenizer, answers, max_tokens=short)
    assert [row.prompt for row in kept] == [everything[1].prompt] * 2
    assert [row.index for row in kept] == [0, 1]
    with pytest.raises(ValueError, match=f"max_tokens is {short - 1}, but every one of the 1 prompts is longer"):
        make_examples([scenario()], tiny_tokenizer, answers, max_tokens=short - 1)


def test_collate_pads_on_the_left():
    batch = collate([example(2, index=4, cell=1), example(4, index=9, aligned=B, other=A)], PAD)
    # To a width of 16: twelve columns of padding for the longer one.
    assert batch["input_ids"].tolist() == [[0] * 14 + [1, 2], [0] * 12 + [1, 2, 3, 4]]
    assert batch["attention_mask"].tolist() == [[0] * 14 + [1, 1], [0] * 12 + [1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0] * 14 + [0, 1], [0] * 12 + [0, 1, 2, 3]]
    fields = {"aligned": [A, B], "other": [B, A], "cell": [1, 0], "group": [7, 7], "index": [4, 9]}
    for field, values in fields.items():
        assert batch[field].tolist() == values
        assert batch[field].dtype == torch.int64


def test_a_prompt_may_hold_the_padding_token():
    batch = collate([Example((0, 5), A, B, 0, 7, 0), example(3)], PAD)
    assert batch["attention_mask"][:, -4:].tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("count", [1, 31, 32, 517])
def test_one_rank_sees_every_item_once(count, shuffle):
    batches = dealt(count, batch_size=8, shuffle=shuffle)
    assert sorted(index for batch in batches for index in batch) == list(range(count))
    assert len(batches) == len(LengthBucketSampler(lengths_of(count), 8)) == -(-count // 8)
    assert sum(len(batch) != 8 for batch in batches) == (count % 8 != 0)


@pytest.mark.parametrize("count", [64, 65, 67, 600])
def test_ranks_share_the_global_batches_of_one_rank(count):
    alone = dealt(count, batch_size=12, epoch=3)
    parts = [dealt(count, batch_size=4, ranks=3, rank=rank, epoch=3) for rank in range(3)]
    assert {len(part) for part in parts} == {len(alone)}
    repeated = 0
    for whole, *slices in zip(alone, *parts, strict=True):
        assert len({len(part) for part in slices}) == 1
        together = Counter(index for part in slices for index in part)
        assert set(together) == set(whole)
        if together != Counter(whole):
            repeated += 1
            assert len(whole) == count % 12
            assert sum(together.values()) - len(whole) == -len(whole) % 3
    # Only the one short batch is filled up.
    assert repeated == (count % 12 % 3 != 0)


def test_two_accumulated_halves_are_other_items_than_one_large_batch():
    """So a fit that accumulates is another fit, though its steps are as large."""
    halves = dealt(640, batch_size=8, epoch=3)
    steps = {frozenset(halves[at] + halves[at + 1]) for at in range(0, len(halves), 2)}
    assert not steps & {frozenset(batch) for batch in dealt(640, batch_size=16, epoch=3)}


def test_a_last_batch_smaller_than_the_ranks_reaches_all_of_them():
    parts = [dealt(9, batch_size=2, ranks=4, rank=rank, shuffle=False) for rank in range(4)]
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    # Without shuffling batches run from long to short, so the last holds the shortest item, once on each rank.
    shortest = min(range(9), key=lambda index: lengths_of(9)[index])
    assert [part[1] for part in parts] == [[shortest]] * 4


def test_order_follows_from_seed_and_epoch():
    assert dealt(300, 8, seed=1, epoch=2) == dealt(300, 8, seed=1, epoch=2)
    others = [dealt(300, 8, seed=seed, epoch=epoch) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert len({str(batches) for batches in others}) == 6
    members = [{frozenset(batch) for batch in batches} for batches in others[:2]]
    assert members[0] != members[1]
    assert dealt(300, 8, shuffle=False, epoch=0) == dealt(300, 8, shuffle=False, seed=5, epoch=7)


def padding(batches, lengths):
    return sum(max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch) for batch in batches)


def test_buckets_waste_less_padding_than_chance():
    lengths = lengths_of(800)
    order = torch.randperm(800, generator=torch.Generator().manual_seed(0)).tolist()
    random_batches = [order[at : at + 8] for at in range(0, 800, 8)]
    assert padding(dealt(800, 8), lengths) < 0.2 * padding(random_batches, lengths)
    # Batches still come in mixed order: long ones do not all stand in front.
    first = [max(lengths[i] for i in batch) for batch in dealt(800, 8)]
    assert first != sorted(first, reverse=True)


def test_loader_serves_whole_batches():
    examples = [example(length, index) for index, length in enumerate([3, 29, 4, 28])]
    loader = example_loader(examples, PAD, batch_size=2)
    assert len(loader) == 2
    assert [(batch["index"].tolist(), batch["input_ids"].shape[1]) for batch in loader] == [([1, 3], 32), ([2, 0], 16)]


class Recorder(pl.LightningModule):
    def __init__(self, loader):
        super().__init__()
        self.loader = loader
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def train_dataloader(self):
        return self.loader

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_deals_a_new_order_every_epoch():
    lengths = lengths_of(40)
    loader = example_loader([example(n, i) for i, n in enumerate(lengths)], PAD, 8, shuffle=True, seed=3)
    module = Recorder(loader)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    pl.Trainer(max_epochs=3, accelerator="cpu", logger=False, **quiet).fit(module)
    for epoch in range(3):
        assert [batch for at, batch in module.seen if at == epoch] == dealt(40, 8, seed=3, epoch=epoch)
