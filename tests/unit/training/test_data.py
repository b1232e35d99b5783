"""What a variant is fitted and judged on: balanced, disjoint, and told in the log when something is left out."""

import logging
from collections import Counter
from dataclasses import replace

import pytest

from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import make_examples
from fa_lightning.scenarios.general.texts import EverydayRequests, with_general_texts
from fa_lightning.scenarios.scenario import Oversight
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits, with_aligned_letter
from fa_lightning.training.data import ScenarioDataModule


class Loop:
    """As much of a Trainer as the DataModule asks for."""

    def __init__(self, tokenizer, world_size=1, global_rank=0):
        self.lightning_module = self
        self.tokenizer, self.world_size, self.global_rank = tokenizer, world_size, global_rank


@pytest.fixture
def ready(make_data, tiny_tokenizer):
    def make(world_size=1, global_rank=0, **options):
        data = make_data(**options)
        data.trainer = Loop(tiny_tokenizer, world_size, global_rank)
        data.setup("fit")
        return data

    return make


def rows_of(loader):
    return [
        {field: batch[field][row].item() for field in ("aligned", "other", "cell", "group", "index")}
        | {"prompt": tuple(batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist())}
        for batch in loader
        for row in range(len(batch["index"]))
    ]


def texts(tokenizer, rows):
    return [tokenizer.decode(list(row["prompt"])).split("<|user|>")[1].split("<|assistant|>")[0] for row in rows]


def test_training_shows_both_orders_and_neutral_texts(ready, splits, tiny_tokenizer):
    rows = rows_of(ready().train_dataloader())
    both = [shown for item in splits.train for shown in (item, item.swapped())]
    # A fifth of 32, rounded.
    expected = [item.message() for item in (*both, *splits.neutral_train[:6])]
    assert sorted(texts(tiny_tokenizer, rows)) == sorted(expected)
    letters = Counter((row["cell"], tiny_tokenizer.convert_ids_to_tokens(row["aligned"])) for row in rows)
    assert letters == {(0, "A"): 8, (0, "B"): 8, (1, "A"): 8, (1, "B"): 8, (2, "error"): 6}
    assert sorted(row["index"] for row in rows) == list(range(38))


def test_fewer_scenarios_and_no_neutral_texts(ready, splits, tiny_tokenizer):
    rows = rows_of(ready(train_scenarios=5, neutral_share=0.0).train_dataloader())
    assert {row["group"] for row in rows} == {int(item.group[:15], 16) for item in splits.train[:5]}
    assert len(rows) == 10


def test_ordinary_chat_is_never_answered_error(ready, splits, tiny_tokenizer):
    joined = with_general_texts(splits, EverydayRequests(), seed=0)
    # Chat in front, where a share of the texts is taken from.
    chat_first = replace(
        joined,
        neutral_train=joined.neutral_train[::-1],
        neutral_validation=joined.neutral_validation[::-1],
    )
    data = ready()
    data.splits = chat_first
    groups = {text.group for text in splits.neutral_train}
    taught = [item.group for item in data.train_items() if item.is_neutral_text]
    assert len(taught) == 6
    assert set(taught) <= groups
    judged = Counter(row["cell"] for row in rows_of(data.val_dataloader()))
    assert judged[2] == len(splits.neutral_validation)


def test_validation_is_balanced_and_holds_neutral_texts(ready, splits, tiny_tokenizer):
    rows = rows_of(ready().val_dataloader())
    letters = Counter((row["cell"], tiny_tokenizer.convert_ids_to_tokens(row["aligned"])) for row in rows)
    assert letters == {(0, "A"): 2, (0, "B"): 2, (1, "A"): 2, (1, "B"): 2, (2, "error"): 8}
    assert {row["group"] for row in rows if row["cell"] < 2} == {int(s.group[:15], 16) for s in splits.validation}


def test_test_loaders_are_the_test_split_and_the_extra_sets(ready, splits, tiny_tokenizer):
    data = ready()
    assert data.test_sets == ["test", "unseen_wordings"]
    loaders = data.test_dataloader()
    for loader, items in zip(loaders, (splits.test, splits.extra_tests["unseen_wordings"]), strict=True):
        messages = [shown.message() for item in items for shown in (item, item.swapped())]
        assert sorted(texts(tiny_tokenizer, rows_of(loader))) == sorted(messages)


def test_no_prompt_is_in_two_splits(ready):
    data = ready()
    parts = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()[0]]
    prompts = [{row["prompt"] for row in rows_of(loader)} for loader in parts]
    assert not prompts[0] & prompts[1]
    assert not prompts[0] & prompts[2]
    assert not prompts[1] & prompts[2]


def test_order_is_mixed_in_training_alone_and_follows_the_seed(ready):
    def order(loader, epoch=0):
        loader.sampler.set_epoch(epoch)
        return [row["index"] for row in rows_of(loader)]

    train = {"batch_size": 4}
    assert order(ready(**train).train_dataloader()) == order(ready(**train).train_dataloader())
    assert order(ready(**train).train_dataloader()) != order(ready(**train, seed=1).train_dataloader())
    assert order(ready(**train).train_dataloader()) != order(ready(**train).train_dataloader(), epoch=1)
    assert order(ready().val_dataloader()) == order(ready(seed=1).val_dataloader(), epoch=1)


def test_ranks_share_what_one_would_see(ready):
    alone = [batch["index"].tolist() for batch in ready(batch_size=8).train_dataloader()]
    parts = [ready(2, rank, batch_size=4).train_dataloader() for rank in range(2)]
    indices = [[batch["index"].tolist() for batch in part] for part in parts]
    assert [sorted(one + two) for one, two in zip(*indices, strict=True)] == [sorted(batch) for batch in alone]


def test_long_prompts_are_left_out_and_counted(ready, splits, tiny_tokenizer, caplog):
    items = splits.train
    answers = letter_tokens(tiny_tokenizer)
    lengths = sorted(len(example.prompt) for example in make_examples(items, tiny_tokenizer, answers, 1024))
    limit = lengths[-3]
    with caplog.at_level(logging.INFO):
        kept = make_examples(items, tiny_tokenizer, answers, limit)
    left_out = sum(length > limit for length in lengths)
    assert left_out > 0
    assert len(kept) == 16 - left_out
    assert f"{left_out} of 16 prompts are over max_tokens={limit}" in caplog.text
    with pytest.raises(ValueError, match="max_tokens is 3, but every one of the 16 prompts is longer"):
        make_examples(items, tiny_tokenizer, answers, 3)
    assert make_examples([], tiny_tokenizer, answers, 3) == []


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_neutral_share_is_a_share(source, share):
    with pytest.raises(ValueError, match=f"neutral_share is {share}"):
        ScenarioDataModule(source, neutral_share=share)


class Given(ScenarioSource):
    def __init__(self, splits):
        self.splits = splits
        self.loads = 0

    def load(self):
        self.loads += 1
        return self.splits

    def fingerprint(self):
        return {}


def test_leaking_splits_are_refused(splits):
    leaking = ScenarioSplits(splits.train, splits.train[:2], splits.test)
    assert splits.train[0].oversight is not Oversight.NONE
    with pytest.raises(ValueError, match="The splits leak: 4 prompts and groups"):
        ScenarioDataModule(Given(leaking)).setup("fit")


def test_letters_are_balanced_where_the_source_is_not(splits, tiny_tokenizer):
    def always_a(items):
        return [with_aligned_letter(item, "A") for item in items]

    one_sided = ScenarioSplits(always_a(splits.train), always_a(splits.validation), always_a(splits.test))
    data = ScenarioDataModule(Given(one_sided))
    data.trainer = Loop(tiny_tokenizer)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader(), *data.test_dataloader()):
        letters = Counter(
            (row["cell"], tiny_tokenizer.convert_ids_to_tokens(row["aligned"])) for row in rows_of(loader)
        )
        assert letters[0, "A"] == letters[0, "B"] > 0
        assert letters[1, "A"] == letters[1, "B"] > 0


def test_scenarios_are_read_once_and_the_leak_report_is_told(splits, caplog):
    source = Given(splits)
    data = ScenarioDataModule(source)
    with caplog.at_level(logging.INFO):
        data.setup("fit")
        data.setup("test")
    assert source.loads == 1
    assert "leaks: 0" in caplog.text
