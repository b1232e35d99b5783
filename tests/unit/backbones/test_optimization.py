"""The optimizer, its schedule and the guard against NaN, against numbers worked out by hand."""

import itertools
import math
from contextlib import suppress

import pytest
import torch

from fa_lightning.backbones.arguments import OptimizerArguments
from fa_lightning.backbones.optimization import adamw_with_warmup, check_finite, evaluating


def rates(total, fraction, peak=0.4):
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    made = adamw_with_warmup([parameter], OptimizerArguments(peak, 0.0, fraction), total)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    seen = []
    for _ in range(total + 3):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_rate_rises_then_falls_along_a_cosine():
    seen = rates(total=20, fraction=0.2)
    assert seen[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    # Half way down (step 4 + 16 / 2) the cosine is at the middle of 1 and 0.01; it ends at 0.01 and stays there.
    assert seen[4] == pytest.approx(0.4)
    assert seen[8] == pytest.approx(0.4 * (0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2))
    assert seen[12] == pytest.approx(0.4 * 0.505)
    assert seen[20:] == pytest.approx([0.004] * 3)
    assert all(one >= two for one, two in itertools.pairwise(seen[4:]))


@pytest.mark.parametrize(("total", "fraction"), [(1, 0.0), (2, 0.05), (1, 1.0), (3, 1.0)])
def test_shortest_fits_start_with_a_rate_above_zero(total, fraction):
    seen = rates(total, fraction)
    assert all(0 < rate <= 0.4 for rate in seen)
    assert max(seen[:total]) == pytest.approx(0.4)


def test_rate_changes_every_step():
    made = adamw_with_warmup([torch.nn.Parameter(torch.ones(1))], OptimizerArguments(0.1, 0.0, 0.1), 10)
    assert made["lr_scheduler"]["interval"] == "step"


def test_decay_is_for_matrices_and_frozen_parameters_are_left_out():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    model[2].requires_grad_(False)
    optimizer = adamw_with_warmup(model.parameters(), OptimizerArguments(0.1, 0.5, 0.1), 10)["optimizer"]
    matrices, others = optimizer.param_groups
    assert matrices["weight_decay"] == 0.5
    assert [id(parameter) for parameter in matrices["params"]] == [id(model[0].weight)]
    assert others["weight_decay"] == 0.0
    assert {id(parameter) for parameter in others["params"]} == {
        id(model[0].bias),
        id(model[1].weight),
        id(model[1].bias),
    }


def test_an_adapter_of_matrices_alone_makes_one_group():
    optimizer = adamw_with_warmup([torch.nn.Parameter(torch.ones(2, 2))], OptimizerArguments(0.1, 0.0, 0.1), 10)[
        "optimizer"
    ]
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_loss_that_is_no_number_stops_with_step_and_batch(value):
    with pytest.raises(FloatingPointError, match=rf"loss is {value} at step 12 \(batch 5 of the epoch\)"):
        check_finite(torch.tensor(float(value)), step=12, batch=5)


def test_a_finite_loss_passes():
    check_finite(torch.tensor(3.4e38), step=0, batch=0)


def test_each_part_gets_its_own_mode_back_even_after_an_error():
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2)))
    module[1].eval()
    module[1][0].train()
    before = [part.training for part in module.modules()]
    assert before == [True, True, False, True, False]
    with suppress(KeyError), evaluating(module):
        assert not any(part.training for part in module.modules())
        raise KeyError
    assert [part.training for part in module.modules()] == before
