import math

import numpy as np
import pytest
import torch
from scipy import stats

from fa_lightning.metrics.divergences import (
    cell_accuracy,
    kl_divergence_sums,
    kl_divergence_tokens,
    perplexity_ratio,
    predicting_positions,
    recovery,
    text_sums,
)
from fa_lightning.scenarios.cells import NO_OVERSIGHT, OVERSIGHT


def test_constant_answerer_scores_one_half_on_counterbalanced_items():
    aligned_is_a = torch.tensor([True, False] * 20)
    cell = torch.tensor([OVERSIGHT] * 20 + [NO_OVERSIGHT] * 20)
    always_a = aligned_is_a  # right exactly where A is the aligned letter
    assert cell_accuracy(always_a, cell, OVERSIGHT) == 0.5
    assert cell_accuracy(always_a, cell, NO_OVERSIGHT) == 0.5
    assert math.isnan(cell_accuracy(always_a, torch.full((40,), 2), OVERSIGHT))


@pytest.mark.parametrize(
    ("steered", "faking", "aligned", "expected"),
    [(0.95, 0.0, 1.0, 0.95), (0.1, 0.2, 0.6, -0.25), (0.9, 0.4, 0.8, 1.25)],
)
def test_recovery(steered, faking, aligned, expected):
    assert recovery(steered, faking, aligned) == pytest.approx(expected)


def test_recovery_is_undefined_between_equal_twins():
    assert math.isnan(recovery(0.3, 0.7, 0.7))


def test_kl_is_scipys_and_ignores_what_is_masked():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 3, 5, 7, generator=generator) * 2
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    expected = stats.entropy(p.double().softmax(-1).numpy(), q.double().softmax(-1).numpy(), axis=-1)
    sums = (expected * mask.numpy()).sum(axis=1)
    assert kl_divergence_sums(p, q, mask).tolist() == pytest.approx(sums.tolist(), rel=1e-5)
    assert kl_divergence_tokens(p, q, mask).item() == pytest.approx(sums.sum() / mask.sum().item(), rel=1e-5)
    garbage = torch.where(mask[..., None].bool(), q, torch.tensor(float("nan")))
    assert kl_divergence_tokens(p, garbage, mask).item() == pytest.approx(sums.sum() / mask.sum().item(), rel=1e-5)


def test_kl_of_half_precision_logits_is_computed_in_float32():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 4, 1000, generator=generator).bfloat16()
    other = (logits.float() + 0.05 * torch.randn(1, 4, 1000, generator=generator)).bfloat16()
    mask = torch.ones(1, 4)
    expected = kl_divergence_tokens(logits.float(), other.float(), mask)
    assert torch.equal(kl_divergence_tokens(logits, other, mask), expected)


def test_kl_of_no_tokens_and_of_wrong_shapes():
    assert math.isnan(kl_divergence_tokens(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 2)).item())
    with pytest.raises(ValueError, match=r"mask \(1, 3\)"):
        kl_divergence_tokens(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 3))


@pytest.mark.parametrize("side", ["left", "right"])
def test_negative_log_likelihood_does_not_see_padding(side):
    generator = torch.Generator().manual_seed(1)
    logits, ids = torch.randn(6, 9, generator=generator), torch.randint(9, (6,), generator=generator)
    log_probabilities = logits.double().log_softmax(-1)
    expected = -sum(log_probabilities[place, ids[place + 1]].item() for place in range(5))
    pad = (3, 0) if side == "left" else (0, 3)
    mask = torch.nn.functional.pad(torch.ones(6), pad)[None]
    padded_ids = torch.nn.functional.pad(ids, pad, value=4)[None]
    padded_logits = torch.nn.functional.pad(logits, (0, 0, *pad), value=2.0)[None]
    sums = text_sums(padded_logits, padded_logits, padded_ids, predicting_positions(mask))
    assert sums.nll_p.item() == sums.nll_q.item() == pytest.approx(expected, rel=1e-5)
    assert predicting_positions(mask).sum().item() == 5


@pytest.mark.parametrize("vocabulary", [7, 300_000])
def test_text_sums_are_scipys_in_pieces_of_any_size(vocabulary):
    generator = torch.Generator().manual_seed(3)
    p, q = torch.randn(2, 2, 5, vocabulary, generator=generator) * 2
    ids = torch.randint(vocabulary, (2, 5), generator=generator)
    counted = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 0]])
    sums = text_sums(p, q, ids, counted)
    probabilities = [x.double().softmax(-1).numpy() for x in (p, q)]
    kl = stats.entropy(*probabilities, axis=-1)[:, :-1]
    nll = [-np.log(np.take_along_axis(x[:, :-1], ids.numpy()[:, 1:, None], axis=-1)[..., 0]) for x in probabilities]
    for found, expected in zip(sums, (kl, *nll), strict=True):
        assert found.tolist() == pytest.approx((expected * counted.numpy()).sum(axis=1).tolist(), rel=1e-5)


def test_a_word_that_is_impossible_costs_nothing_unless_the_first_model_says_it():
    half, sure = torch.zeros(1, 2, 2), torch.tensor([[[0.0, float("-inf")]] * 2])
    ids, counted = torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 1)
    assert text_sums(sure, half, ids, counted).kl.item() == pytest.approx(math.log(2))
    assert text_sums(sure, sure, ids, counted).kl.item() == 0.0
    assert text_sums(half, sure, ids, counted).kl.item() == math.inf


def test_text_sums_of_wrong_shapes():
    with pytest.raises(ValueError, match=r"input_ids \(1, 3\)"):
        text_sums(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 1))


def test_perplexity_ratio_is_over_all_tokens_together():
    nll_base, nll_steered, tokens = np.array([30.0, 5.0]), np.array([33.0, 4.0]), np.array([10, 2])
    expected = np.exp(nll_steered.sum() / 12) / np.exp(nll_base.sum() / 12)
    found = perplexity_ratio(torch.tensor(nll_steered), torch.tensor(nll_base), torch.tensor(tokens))
    assert found == pytest.approx(expected)
    assert math.isnan(perplexity_ratio(torch.zeros(0), torch.zeros(0), torch.zeros(0)))
    assert perplexity_ratio(torch.tensor([1e6]), torch.tensor([0.0]), torch.tensor([1])) == math.inf
