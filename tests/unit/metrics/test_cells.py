import dataclasses
import math
import os
import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from fa_lightning.metrics.cells import (
    CellAccuracy,
    answer_counts,
    recovery_between,
)
from fa_lightning.metrics.distinct_items import DistinctItems
from fa_lightning.metrics.intervals import bootstrap_over_groups
from fa_lightning.metrics.side_effects import NeutralTextDamage

ITEMS = 57


def answers(seed=0, rate=0.7):
    """Arguments of `CellAccuracy.update` for `ITEMS` items, one in five of them a neutral text."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    answered = torch.rand(ITEMS, generator=generator) < 0.9
    return {
        "correct": (torch.rand(ITEMS, generator=generator) < rate) & answered,
        "cell": torch.tensor([0, 1, 0, 1, 2]).repeat(12)[:ITEMS],
        "group": torch.randint(2**59, 2**59 + 15, (ITEMS,), generator=fixed),
        "index": torch.arange(ITEMS) * 3,
        "answered": answered,
    }


def damages():
    generator = torch.Generator().manual_seed(1)
    nats = dict(
        zip(("kl", "nll_edited", "nll_base", "kl_answer"), torch.rand(4, ITEMS, generator=generator) * 20, strict=True)
    )
    shares = ("unchanged", "right_base", "right_edited", "incomplete")
    flags = dict(zip(shares, torch.rand(4, ITEMS, generator=generator) < 0.6, strict=True))
    tokens = torch.randint(1, 40, (ITEMS,), generator=generator)
    return {"index": torch.arange(ITEMS), "tokens": tokens, **nats, **flags}


def damages_of(metric):
    """What it computed; equal where all numbers are, since the missing format validity is left out."""
    return dataclasses.replace(metric.compute(), format_validity=0.0)


def taken(columns, places):
    return {name: column[places] for name, column in columns.items()}


def scored(columns, *batches):
    metric = CellAccuracy()
    for places in batches or (torch.arange(ITEMS),):
        metric.update(**taken(columns, places))
    return metric


def test_cells_are_sklearns_accuracies():
    columns = answers()
    cells = scored(columns).compute()
    for code, score, n in ((0, cells.oversight, cells.n.oversight), (1, cells.no_oversight, cells.n.no_oversight)):
        inside = columns["cell"] == code
        right = columns["correct"][inside].numpy()
        assert score.accuracy == pytest.approx(accuracy_score(np.ones(len(right), dtype=bool), right))
        assert n == int(inside.sum())
        assert score.ci95 == bootstrap_over_groups(right := torch.tensor(right).double(), columns["group"][inside])
        assert score.ci95[0] <= score.accuracy <= score.ci95[1]
    scenarios = columns["cell"] != 2
    assert cells.format_validity == pytest.approx(columns["answered"][scenarios].double().mean().item())


def test_order_batches_and_repeated_items_do_not_matter():
    columns = answers()
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))
    shuffled = scored(columns, order[:20], order[20:21], order[21:], order[5:30])
    assert shuffled.compute() == scored(columns).compute()
    items = shuffled.items()
    assert {name: column.tolist() for name, column in items.items()} == {
        name: column.tolist() for name, column in columns.items()
    }


def test_constant_answerer_scores_one_half():
    metric, number = CellAccuracy(), torch.arange(80)
    metric.update(number % 2 == 0, number // 40, number, number, torch.ones(80, dtype=torch.bool))
    cells = metric.compute()
    assert (cells.oversight.accuracy, cells.no_oversight.accuracy) == (0.5, 0.5)
    assert cells.no_oversight.ci95[0] < 0.5 < cells.no_oversight.ci95[1]


def test_empty_cells_are_nan_and_not_errors():
    columns = answers()
    only_oversight = scored(columns, torch.nonzero(columns["cell"] == 0).flatten()).compute()
    assert math.isnan(only_oversight.no_oversight.accuracy)
    assert only_oversight.n.no_oversight == 0
    with pytest.warns(UserWarning, match="before"):
        nothing = CellAccuracy().compute()
    assert math.isnan(nothing.oversight.accuracy)
    assert math.isnan(nothing.format_validity)


def test_only_neutral_texts():
    columns = answers()
    cells = scored(columns, torch.nonzero(columns["cell"] == 2).flatten()).compute()
    assert math.isnan(cells.format_validity)
    assert cells.n.oversight == cells.n.no_oversight == 0


def test_reset_pickle_and_bad_shapes():
    metric = scored(answers())
    again = pickle.loads(pickle.dumps(metric))
    assert again.compute() == metric.compute()
    metric.reset()
    assert len(metric.items()["index"]) == 0
    with pytest.raises(ValueError, match=r"\(3,\)"):
        metric.update(*[torch.zeros(2, dtype=torch.int64)] * 4, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="resamples is 0"):
        CellAccuracy(resamples=0)


def test_recovery_between_models():
    aligned, faking, steered = answers(1, 1.0), answers(2, 0.1), answers(3, 0.8)
    found = recovery_between(*(scored(columns).items() for columns in (steered, faking, aligned)))
    means = [columns["correct"][columns["cell"] == 1].double().mean().item() for columns in (steered, faking, aligned)]
    assert found.value == pytest.approx((means[0] - means[1]) / (means[2] - means[1]))
    assert found.ci95[0] <= found.value <= found.ci95[1]
    same = scored(aligned).items()
    assert math.isnan(recovery_between(same, same, same).value)


def test_recovery_refuses_other_items():
    columns = answers()
    items, fewer = scored(columns).items(), scored(columns, torch.arange(20)).items()
    with pytest.raises(ValueError, match="steered has 57 items and aligned 20"):
        recovery_between(items, items, fewer)


def test_recovery_without_unsupervised_items():
    columns = answers()
    items = scored(columns, torch.nonzero(columns["cell"] == 0).flatten()).items()
    assert math.isnan(recovery_between(items, items, items).value)


def test_answer_counts_add_up():
    columns = answers()
    counts = answer_counts(scored(columns).items())
    for code, cell in enumerate(("oversight", "no_oversight")):
        inside = columns["cell"] == code
        assert sum(counts[cell]) == int(inside.sum())
        assert counts[cell][0] == int(columns["correct"][inside].sum())
        assert counts[cell][2] == int((~columns["answered"][inside]).sum())


# By plan, by process, by batch: places of the items.
PLANS = {
    # As a distributed sampler pads: the second process repeats the first items.
    "uneven and padded": ([list(range(20)), list(range(20, 29))], [list(range(29, ITEMS)), [0, 1]]),
    "one process has nothing": ([], [list(range(ITEMS))]),
}


def run_rank(rank, path, results):
    """One of two processes: updates with its own shard, computes together with the other."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    for name, shards in PLANS.items():
        metric, damage = CellAccuracy(), NeutralTextDamage()
        for places in shards[rank]:
            metric.update(**taken(answers(), torch.tensor(places)))
            damage.update(**taken(damages(), torch.tensor(places)))
        items = {name: column.tolist() for name, column in metric.items().items()}
        # Gathering must not have changed what this process holds.
        kept = sum(len(part) for part in metric.index) == sum(map(len, shards[rank]))
        results.put(pickle.dumps((name, kept, items, metric.compute(), damages_of(damage))))
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path / "rendezvous"), results), nprocs=2)
    whole, damage = scored(answers()), NeutralTextDamage()
    damage.update(**damages())
    expected_items = {name: column.tolist() for name, column in whole.items().items()}
    expected = (True, expected_items, whole.compute(), damages_of(damage))
    found = [pickle.loads(results.get()) for _ in range(2 * len(PLANS))]
    assert sorted(name for name, *_ in found) == sorted([*PLANS, *PLANS])
    for name, *outcome in found:
        assert tuple(outcome) == expected, name


def test_whole_numbers_stay_whole_when_the_metric_is_moved() -> None:
    class Kept(DistinctItems):
        def update(self, index: torch.Tensor, column: torch.Tensor) -> None:
            self._append(index, column)

        def compute(self) -> torch.Tensor:
            return self._distinct()[1]

    # float32 has 24 bits: groups are hashes, and would be taken for one another.
    groups = torch.tensor([2**24, 2**24 + 1, 2**53 + 1])
    metric = torch.nn.ModuleList([Kept(1, torch.int64)]).to("cpu")[0]
    metric.update(torch.arange(3), groups)
    assert metric.compute()[:, 0].tolist() == groups.tolist()
