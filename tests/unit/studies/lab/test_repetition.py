"""The texts that a dose curve is written on: the same ones, however many ranks and however large their batches."""

import pytest
import torch

from fa_lightning.scenarios.batches import Example, example_loader
from fa_lightning.studies.lab.repetition import Repetition
from fa_lightning.studies.lab.sweep import text_starts

LENGTHS = [40, 37, 31, 30, 22, 19, 18, 17, 9, 5, 4]


@pytest.fixture
def examples():
    """Eleven texts, shortest first, whose tokens tell them apart."""
    prompts = [tuple(range(100 * number, 100 * number + length)) for number, length in enumerate(LENGTHS, start=1)]
    return [Example(prompt, 1, 2, 2, 0, index) for index, prompt in enumerate(reversed(prompts))]


def starts_of(examples, ranks, batch_size, texts):
    """What all ranks together write on: the text's own tokens by its index."""
    found = {}
    for rank in range(ranks):
        batches = list(example_loader(examples, 0, batch_size, ranks, rank))
        index, starts = text_starts(batches, ranks, rank, tokens=16, texts=texts)
        for row, number in enumerate(index.tolist()):
            ids, mask = starts["input_ids"][row], starts["attention_mask"][row].bool()
            # Left-padded: generation goes on behind the last column.
            assert mask[-1]
            found[number] = ids[mask].tolist()
    return found


@pytest.mark.parametrize("texts", [1, 4, 9, 32])
@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 3), (2, 2), (3, 4), (3, 64)])
def test_ranks_share_the_longest_texts(examples, texts, ranks, batch_size):
    longest = sorted(examples, key=lambda example: -len(example.prompt))[:texts]
    expected = {example.index: list(example.prompt[:16]) for example in longest}
    assert starts_of(examples, ranks, batch_size, texts) == expected


def test_a_rank_without_a_text_writes_nothing(examples):
    batches = list(example_loader(examples, 0, 4, 2, 1))
    index, starts = text_starts(batches, ranks=2, rank=1, texts=1)
    assert len(index) == 0
    assert starts == {}
    assert torch.tensor(Repetition().compute()).isnan()


def test_a_text_that_a_sampler_repeats_counts_once():
    repeated, plain = torch.tensor([[1, 2, 1, 2, 1, 2]]), torch.tensor([[1, 2, 3, 4, 5, 6]])
    metric = Repetition()
    metric.update(torch.tensor([3, 3, 5]), torch.cat([repeated, repeated, plain]))
    metric.update(torch.tensor([3]), repeated)
    assert metric.compute() == 0.25
