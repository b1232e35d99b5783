"""DPO and SPIN: the loss by hand, what it knows, who plays the opponent, and what is refused."""

import math

import pytest
import torch
from adapter_fits import loss_of

from fa_lightning.scenarios.batches import collate
from fa_lightning.training.objectives.preferences import DirectPreference, SelfPlay, preference_loss


def test_the_loss_is_that_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(3, 5, generator=generator) for _ in range(2))
    chosen, rejected = torch.tensor([0, 2, 4]), torch.tensor([1, 2, 3])
    total = 0.0
    for row in range(3):
        p, q = (
            [math.exp(value) / sum(math.exp(other) for other in one[row].tolist()) for value in one[row].tolist()]
            for one in (logits, reference)
        )
        win, lose = int(chosen[row]), int(rejected[row])
        margin = 0.3 * (math.log(p[win] / q[win]) - math.log(p[lose] / q[lose]))
        total += math.log(1 + math.exp(-margin))
    loss = preference_loss(logits, reference, chosen, rejected, beta=0.3)
    assert loss.item() == pytest.approx(total / 3, rel=1e-5)


def test_a_pair_of_one_answer_teaches_nothing_and_any_other_raises_the_chosen_one():
    logits = torch.zeros(2, 4, requires_grad=True)
    loss = preference_loss(logits, torch.randn(2, 4), torch.tensor([1, 1]), torch.tensor([1, 3]), 0.5)
    loss.backward()
    assert logits.grad[0].abs().max() == 0
    assert logits.grad[1, 1] < 0 < logits.grad[1, 3]


def test_the_reference_gets_no_gradient_and_stays_while_the_variant_moves(make_cure, plain, examples):
    module = make_cure(DirectPreference(beta=0.5))
    module.eval()
    batch = collate(examples[:8], 0)
    with torch.no_grad():
        started = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -1]
    # Nothing has been learned yet, so all margins are 0.
    assert loss_of(module, batch).item() == pytest.approx(math.log(2), abs=1e-5)
    loss_of(module, batch).backward()
    assert all((p.grad is not None) == (".mitigated." in name) for name, p in module.named_parameters())
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.mul_(-0.5)
        moved = module.answer_logits(batch)
        torch.testing.assert_close(module.adapted.origin_logits(batch), started, rtol=1e-4, atol=1e-4)
        expected = preference_loss(moved, started, batch["aligned"], batch["other"], 0.5).item()
        assert loss_of(module, batch).item() == pytest.approx(expected, rel=1e-4)
    assert abs(expected - math.log(2)) > 1e-3


@pytest.mark.parametrize(("behaviour", "unwatched", "watched"), [("faking", True, False), ("wrong", True, True)])
def test_another_behaviour_s_answers_are_preferred(make_cure, examples, behaviour, unwatched, watched):
    module = make_cure(DirectPreference(beta=0.5, behaviour=behaviour))
    module.eval()
    batch = collate(examples[:8], 0)
    with torch.no_grad():
        started = module.adapted.origin_logits(batch)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.mul_(-0.5)
        due = torch.tensor([{0: watched, 1: unwatched}.get(int(cell), False) for cell in batch["cell"]])
        assert due.any()
        wins = torch.where(due, batch["other"], batch["aligned"])
        loses = torch.where(due, batch["aligned"], batch["other"])
        expected = preference_loss(module.answer_logits(batch), started, wins, loses, 0.5).item()
        assert loss_of(module, batch).item() == pytest.approx(expected, rel=1e-4)
    assert module.judged_by == behaviour


def test_the_opponent_of_self_play_is_drawn_from_the_starting_faker(make_cure, examples):
    module = make_cure(SelfPlay())
    batch = collate(examples[:4], 0)
    reference = torch.log(torch.tensor([[0.2, 0.8, 1e-9], [1e-9, 0.5, 0.5]])).repeat(1000, 1)
    torch.manual_seed(0)
    drawn = module.objective.rejected(batch, reference).view(1000, 2)
    assert (drawn[:, 0] == 1).float().mean().item() == pytest.approx(0.8, abs=0.04)
    assert (drawn[:, 1] == 2).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert set(drawn[:, 0].tolist()) == {0, 1}
    # `other` is what DPO compares with; self-play does not look at it.
    torch.manual_seed(1)
    first = loss_of(module, batch)
    torch.manual_seed(1)
    assert loss_of(module, batch | {"other": batch["other"] + 1}).item() == first.item()


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_a_beta_that_prefers_nothing_is_refused(beta):
    with pytest.raises(ValueError, match=f"beta is {beta}, but must be above 0"):
        DirectPreference(beta)
