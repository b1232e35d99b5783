import math

import numpy as np
import pytest
import torch
from scipy import stats

from fa_lightning.metrics.side_effects import NeutralTextDamage, neutral_text_damage, scored_columns


def made_up_texts(continuation=(0, 0, 0)):
    """Logits of two models and a batch of three left-padded texts of 3, 5 and 4 tokens."""
    generator = torch.Generator().manual_seed(2)
    base, edited = torch.randn(2, 3, 5, 7, generator=generator)
    batch = {
        "input_ids": torch.randint(7, (3, 5), generator=generator),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]),
        "continuation": torch.tensor(continuation),
        "aligned": torch.tensor([0, 1, 2]),
        "incomplete": torch.tensor([True, False, True]),
        "index": torch.arange(3),
    }
    return base, edited, batch


def by_scipy(base, edited):
    """KL and log-likelihoods at every position, by scipy and numpy in float64."""
    p, q = base.double().softmax(-1).numpy(), edited.double().softmax(-1).numpy()
    return stats.entropy(p, q, axis=-1), np.log(p), np.log(q)


def test_the_words_are_scored_and_the_answer_apart_from_them():
    base, edited, batch = made_up_texts()
    sums = neutral_text_damage(base, edited, batch)
    kl, log_p, log_q = by_scipy(base, edited)
    ids = batch["input_ids"].numpy()
    assert sums["tokens"].tolist() == [2, 4, 3]
    assert sums["kl"].tolist() == pytest.approx([kl[0, 2:4].sum(), kl[1, :4].sum(), kl[2, 1:4].sum()], rel=1e-5)
    assert sums["kl_answer"].tolist() == pytest.approx(kl[:, 4], rel=1e-5), "the last column, which no word follows"
    assert sums["nll_base"][0].item() == pytest.approx(-sum(log_p[0, at, ids[0, at + 1]] for at in (2, 3)), rel=1e-5)
    assert sums["nll_edited"][0].item() == pytest.approx(-sum(log_q[0, at, ids[0, at + 1]] for at in (2, 3)), rel=1e-5)
    said_before, said = log_p[:, 4].argmax(-1), log_q[:, 4].argmax(-1)
    assert sums["unchanged"].tolist() == (said == said_before).tolist()
    assert sums["right_base"].tolist() == (said_before == [0, 1, 2]).tolist()
    assert sums["right_edited"].tolist() == (said == [0, 1, 2]).tolist()


def test_of_a_continuation_its_own_tokens_are_scored_alone():
    base, edited, batch = made_up_texts(continuation=(1, 3, 0))
    sums = neutral_text_damage(base, edited, batch)
    kl, log_p, _ = by_scipy(base, edited)
    ids = batch["input_ids"].numpy()
    assert sums["tokens"].tolist() == [1, 3, 3]
    assert sums["kl"].tolist() == pytest.approx([kl[0, 3], kl[1, 1:4].sum(), kl[2, 1:4].sum()], rel=1e-5)
    assert sums["kl_answer"].tolist() == pytest.approx([kl[0, 3], kl[1, 1], kl[2, 4]], rel=1e-5)
    expected = -sum(log_p[1, at, ids[1, at + 1]] for at in (1, 2, 3))
    assert sums["nll_base"][1].item() == pytest.approx(expected, rel=1e-5)


def test_the_last_columns_alone_say_as_much_of_continuations():
    base, edited, batch = made_up_texts(continuation=(1, 3, 2))
    whole = neutral_text_damage(base, edited, batch)
    columns = scored_columns(batch)
    assert columns.tolist() == [-4, -3, -2, -1]
    for name, values in neutral_text_damage(base[:, columns], edited[:, columns], batch).items():
        assert torch.equal(values, whole[name]), name
    _, _, mixed = made_up_texts(continuation=(1, 0, 2))
    assert len(scored_columns(mixed)) == 5, "a text without an answer is scored from its first word on"


def test_means_are_per_token_or_per_text_and_texts_count_once():
    base, edited, batch = made_up_texts()
    metric = NeutralTextDamage()
    for _ in range(2):
        metric.update(batch["index"], **neutral_text_damage(base, edited, batch))
    effects = metric.compute()
    kl, log_p, log_q = by_scipy(base, edited)
    words = {0: kl[0, 2:4], 1: kl[1, :4], 2: kl[2, 1:4]}
    assert effects.n == 3
    assert effects.kl_neutral_nats == pytest.approx(np.concatenate(list(words.values())).mean(), rel=1e-5)
    assert effects.kl_answer_nats == pytest.approx(kl[:, 4].mean(), rel=1e-5)
    assert effects.unchanged_answers == pytest.approx((log_p[:, 4].argmax(-1) == log_q[:, 4].argmax(-1)).mean())
    assert effects.error_answers == pytest.approx(np.mean(log_q[[0, 2], 4].argmax(-1) == [0, 2]))
    assert effects.error_answers_before == pytest.approx(np.mean(log_p[[0, 2], 4].argmax(-1) == [0, 2]))
    incomplete, general = effects.kinds["incomplete scenarios"], effects.kinds["general texts"]
    assert (incomplete.n, general.n) == (2, 1)
    assert incomplete.kl_nats == pytest.approx(np.concatenate([words[0], words[2]]).mean(), rel=1e-5)
    assert general.kl_answer_nats == pytest.approx(kl[1, 4], rel=1e-5)
    assert effects.worst_nats == max(effects.kl_neutral_nats, effects.kl_answer_nats)


def test_no_edit_changes_nothing():
    base, _, batch = made_up_texts(continuation=(2, 0, 1))
    metric = NeutralTextDamage()
    metric.update(batch["index"], **neutral_text_damage(base, base, batch))
    effects = metric.compute()
    assert (effects.kl_neutral_nats, effects.kl_answer_nats) == pytest.approx((0.0, 0.0), abs=1e-7)
    assert (effects.unchanged_answers, effects.perplexity_ratio) == (1.0, 1.0)


def test_of_no_texts_nothing_is_said():
    with pytest.warns(UserWarning, match="before"):
        effects = NeutralTextDamage().compute()
    assert math.isnan(effects.worst_nats)
    assert (effects.n, effects.kinds) == (0, {})
