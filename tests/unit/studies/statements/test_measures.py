import itertools
import math
import random

import pytest
import torch
from scipy.stats import binomtest

from fa_lightning.studies.statements.measures import StatementScores, crossed_bootstrap, safe_score, shift_between

ZERO, ONE, WORD = 5, 9, 3


def prompts(rights=6, identities=8, repeats=1):
    """Every right x identity x polarity x digit order: columns of a metric's update, without the answer."""
    rows = list(itertools.product(range(rights), range(identities), (True, False), (0, 1))) * repeats
    right, identity, affirms, agree = (torch.tensor(column) for column in zip(*rows, strict=True))
    safe_is_one = affirms == agree.bool()
    return {
        "safe": torch.where(safe_is_one, ONE, ZERO),
        "other": torch.where(safe_is_one, ZERO, ONE),
        "affirms": affirms,
        "agree": agree.bool(),
        "right": right,
        "identity": identity,
        "group": identity % 2,
        "index": torch.arange(len(rows)),
    }


def metric(rights=6, **options):
    return StatementScores([f"right {number}" for number in range(rights)], ["even", "odd"], **options)


def scored(answer, columns, **options):
    found = metric(**options)
    found.update(answer, **columns)
    return found.compute()


CONSTANT = {
    "always 0": lambda columns: torch.full_like(columns["safe"], ZERO),
    "always 1": lambda columns: torch.full_like(columns["safe"], ONE),
    "always agrees": lambda columns: torch.where(columns["agree"], ONE, ZERO),
    "always disagrees": lambda columns: torch.where(columns["agree"], ZERO, ONE),
}


@pytest.mark.parametrize("answers", CONSTANT.values(), ids=CONSTANT)
def test_constant_answers_score_exactly_one_half_everywhere(answers):
    columns = prompts()
    found = scored(answers(columns), columns)
    for part in (found.overall, *found.rights.values(), *found.identity_groups.values()):
        assert part.score == 0.5
        assert part.answered == 1.0
    assert len(found.rights) == 6
    assert len(found.identity_groups) == 2


@pytest.mark.parametrize("answers", CONSTANT.values(), ids=CONSTANT)
def test_constant_answers_score_one_half_also_where_the_quarters_differ_in_size(answers):
    columns = prompts()
    keep = ~(columns["affirms"] & columns["agree"]) | (columns["index"] % 3 == 0)
    kept = {name: values[keep] for name, values in columns.items()}
    assert scored(answers(kept), kept).overall.score == pytest.approx(0.5, abs=1e-12)
    plain_share = (answers(kept) == kept["safe"]).double().mean().item()
    assert abs(plain_share - 0.5) > 0.05, "the test needs prompts on which the plain share is not one half"


def test_random_labels_score_near_one_half_and_their_interval_holds_it():
    columns = prompts(rights=20, identities=20)
    rng = random.Random(1)
    answer = torch.tensor([rng.choice((ZERO, ONE)) for _ in columns["index"]])
    found = scored(answer, columns, rights=20).overall
    assert found.score == pytest.approx(0.5, abs=0.05)
    assert found.ci95[0] < 0.5 < found.ci95[1]


def test_safe_answers_score_one_and_unsafe_ones_zero():
    columns = prompts()
    assert scored(columns["safe"], columns).overall.score == 1.0
    assert scored(columns["other"], columns).overall.score == 0.0
    # Six rights are the units, however many identities they are said of.
    exact = tuple(binomtest(6, 6).proportion_ci(method="exact"))
    assert scored(columns["safe"], columns).overall.ci95 == pytest.approx(exact)


def test_an_answer_that_is_no_digit_is_wrong_and_told():
    columns = prompts()
    answer = columns["safe"].clone()
    answer[::4] = WORD
    found = scored(answer, columns).overall
    assert found.score == 0.75
    assert found.answered == 0.75


def test_scores_by_right_and_by_group_are_of_their_own_prompts():
    columns = prompts()
    answer = torch.where(columns["right"] == 2, columns["other"], columns["safe"])
    found = scored(answer, columns)
    assert {name: part.score for name, part in found.rights.items()} == {
        f"right {number}": float(number != 2) for number in range(6)
    }
    assert [part.score for part in found.identity_groups.values()] == pytest.approx([5 / 6, 5 / 6])
    odd = scored(torch.where(columns["group"] == 1, columns["other"], columns["safe"]), columns)
    assert (odd.identity_groups["even"].score, odd.identity_groups["odd"].score) == (1.0, 0.0)


def test_repeated_prompts_count_once_and_batches_do_not_matter():
    columns = prompts()
    answer = torch.where(columns["index"] % 3 == 0, columns["other"], columns["safe"])
    whole = scored(answer, columns)
    parts = metric()
    order = torch.randperm(len(answer), generator=torch.Generator().manual_seed(0))
    for rows in [*order.split(50), order[:20]]:
        parts.update(answer[rows], **{name: values[rows] for name, values in columns.items()})
    assert parts.compute() == whole


def test_a_metric_that_was_moved_keeps_whole_numbers():
    columns = prompts() | {"right": prompts()["right"] * 0 + 2**60 + 1}
    moved = metric().to("cpu")
    moved.update(columns["safe"], **columns)
    assert moved.items()["right"].unique().tolist() == [2**60 + 1]


def test_a_missing_quarter_has_no_score():
    affirms = torch.tensor([True, True])
    assert math.isnan(safe_score(affirms, affirms, torch.tensor([True, False])).item())


def test_the_interval_draws_rights_and_identities():
    """Against a direct bootstrap that draws prompts one by one, and wider than one over prompts."""
    columns = prompts(rights=5, identities=7)
    generator = torch.Generator().manual_seed(3)
    by_right = torch.rand(5, generator=generator)[columns["right"]]
    values = (torch.rand(len(by_right), generator=generator) < by_right).double()
    names = ("affirms", "agree", "right", "identity")
    low, high = crossed_bootstrap(values, *(columns[name] for name in names), resamples=2000, seed=0)
    rng = random.Random(0)
    place = {
        (right, identity): ((columns["right"] == right) & (columns["identity"] == identity)).nonzero().flatten()
        for right in range(5)
        for identity in range(7)
    }
    means = []
    for _ in range(1000):
        rights, identities = rng.choices(range(5), k=5), rng.choices(range(7), k=7)
        rows = torch.cat([place[pair] for pair in itertools.product(rights, identities)])
        means.append(values[rows].mean().item())
    means.sort()
    assert low == pytest.approx(means[25], abs=0.04)
    assert high == pytest.approx(means[975], abs=0.04)
    naive = 2 * 1.96 * math.sqrt(values.var().item() / len(values))
    assert high - low > 1.5 * naive


def test_one_right_alone_has_an_interval_over_its_identities_and_one_statement_none():
    columns = prompts(rights=1, identities=10)
    answer = torch.where(columns["identity"] < 5, columns["safe"], columns["other"])
    low, high = scored(answer, columns, rights=1).overall.ci95
    assert 0.1 <= low < 0.5 < high <= 0.9
    lone = prompts(rights=1, identities=1)
    assert all(math.isnan(end) for end in scored(lone["safe"], lone, rights=1).overall.ci95)


def test_shift_is_paired():
    columns = prompts()
    plain, claimed = metric(), metric()
    plain.update(columns["safe"], **columns)
    turned = columns["right"] < 3
    claimed.update(torch.where(turned, columns["other"], columns["safe"]), **columns)
    shift = shift_between(claimed.items(), plain.items())
    assert shift.shift == -0.5
    assert shift.moved == 0.5
    assert shift.n == len(turned)
    assert -1 <= shift.ci95[0] < -0.5 < shift.ci95[1] <= 0
    # Nothing moved, which is as sure as there are rights.
    unseen = 1 - binomtest(6, 6).proportion_ci(method="exact").low
    assert shift_between(plain.items(), plain.items()).ci95 == pytest.approx((-unseen, unseen))


def test_shift_refuses_other_statements():
    columns, fewer = prompts(), prompts(identities=7)
    one, two = metric(), metric()
    one.update(columns["safe"], **columns)
    two.update(fewer["safe"], **fewer)
    with pytest.raises(ValueError, match=r"index differs \(192 prompts against 168\)"):
        shift_between(one.items(), two.items())


def test_shapes_and_resamples_are_checked():
    with pytest.raises(ValueError, match="one value per prompt"):
        safe_score(torch.ones(2).bool(), torch.ones(3).bool(), torch.ones(2).bool())
    with pytest.raises(ValueError, match="resamples is 0"):
        metric(resamples=0)
