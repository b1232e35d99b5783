import collections
import dataclasses

import pytest

from fa_lightning.scenarios.statements.embedded import IDENTITIES, RIGHTS, EmbeddedStatements
from fa_lightning.scenarios.statements.statement import (
    Right,
    StatementSplits,
    drawn_splits,
    limited_statements,
    split_statements,
    statements_about,
)

ALL = statements_about(RIGHTS, [(name, group) for group, names in IDENTITIES.items() for name in names])


@pytest.fixture(scope="module", params=[0, 1, 7])
def parts(request):
    return EmbeddedStatements(seed=request.param).load()


def test_splits_share_no_right_article_or_identity(parts):
    report = parts.leak_report()
    assert report.total == 0
    report.raise_if_leaking()
    for name in ("right", "article", "identity", "text"):
        sets = [{getattr(item, name) for item in parts.statements(split)} for split in ("train", "validation", "test")]
        assert all(sets)
        assert len(set.union(*sets)) == sum(map(len, sets)), f"two splits share a {name}"


def test_every_split_has_every_identity_group_and_both_polarities_of_each_pair(parts):
    for split in ("train", "validation", "test"):
        items = parts.statements(split)
        assert {item.identity_group for item in items} == set(IDENTITIES)
        polarities = collections.Counter((item.right, item.identity, item.affirms) for item in items)
        assert set(polarities.values()) == {1}
        assert sum(item.affirms for item in items) * 2 == len(items)


def test_leaks_are_counted_and_refused():
    splits = EmbeddedStatements().load()
    seen = splits.train[0]
    other = next(item for item in ALL if item.right == seen.right and item.identity != seen.identity)
    leaking = StatementSplits(splits.train, splits.validation, [*splits.test, other])
    report = leaking.leak_report()
    # The right and its article, and the identity unless it is one that no training statement is about.
    assert report.shared_groups["train", "test"] >= 2
    assert leaking.leak_report().shared_prompts["train", "test"] == int(other.text in {i.text for i in splits.train})
    with pytest.raises(ValueError, match="The splits leak"):
        report.raise_if_leaking()
    same_text = StatementSplits(splits.train, [], [dataclasses.replace(seen, right="99.1", identity="nobody")])
    assert same_text.leak_report().shared_prompts["train", "test"] == 1
    assert same_text.leak_report().shared_groups["train", "test"] == 0


def test_the_split_follows_neither_from_the_order_nor_from_what_else_is_there():
    reversed_list = split_statements(list(reversed(ALL)), seed=3)
    assert {item.text for item in reversed_list.test} == {item.text for item in split_statements(ALL, seed=3).test}
    assert {item.text for item in split_statements(ALL, seed=4).test} != {item.text for item in reversed_list.test}
    few, many = (drawn_splits({str(n): "" for n in range(size)}, 0, 0.25, 0.25) for size in (8, 16))
    assert collections.Counter(few.values()) == {"train": 4, "validation": 2, "test": 2}
    assert collections.Counter(many.values()) == {"train": 8, "validation": 4, "test": 4}


def test_rights_of_one_article_stay_together(parts):
    home = {item.right: split for split in ("train", "validation", "test") for item in parts.statements(split)}
    assert home["11.1"] == home["11.2"]
    assert home["13.1"] == home["13.2"]


def test_no_small_word_tells_affirming_from_denying():
    """A rule that looks for one small word is no better than 70 % on the embedded rights, whichever way round."""
    for word in ("not", "no", "never", "may", "must", "should", "be", "free", "kept", "the"):
        right = sum((word in r.affirmed.split()) + (word not in r.denied.split()) for r in RIGHTS) / (2 * len(RIGHTS))
        assert max(right, 1 - right) <= 0.7, word
    with_not = [sum("not" in getattr(r, side).split() for r in RIGHTS) for side in ("affirmed", "denied")]
    assert min(with_not) >= 3


def test_embedded_statements_have_the_size_that_is_said():
    assert len(RIGHTS) == 28
    assert len({right.name for right in RIGHTS}) == 28
    names = [name for group in IDENTITIES.values() for name in group]
    assert (len(names), len(set(names)), len(IDENTITIES)) == (40, 40, 6)
    assert len(ALL) == 28 * 40 * 2
    assert len({item.text for item in ALL}) == len(ALL)


def test_opposites_are_each_other():
    by_text = {item.text: item for item in ALL}
    for item in ALL:
        other = by_text[item.opposite]
        assert (other.opposite, other.right, other.identity) == (item.text, item.right, item.identity)
        assert other.affirms is not item.affirms


def test_limits_keep_pairs_and_are_nested():
    few, more = limited_statements(ALL, 21), limited_statements(list(reversed(ALL)), 60)
    assert len(few) == 20
    assert few == more[:20]
    assert sum(item.affirms for item in few) == 10
    assert {(item.right, item.identity) for item in few if item.affirms} == {
        (item.right, item.identity) for item in few if not item.affirms
    }
    assert limited_statements(ALL, None) == ALL
    with pytest.raises(ValueError, match="limit is 1"):
        limited_statements(ALL, 1)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"right 3\.1 is worded 'all may live'"):
        statements_about([Right("3.1", "all may live", "{people} must die")], [("cooks", "work")])
    with pytest.raises(ValueError, match="validation is empty: 1 articles and 1 identities"):
        split_statements(statements_about(RIGHTS[:1], [("cooks", "work")]), test=0.3)
    with pytest.raises(ValueError, match=r"validation is 1\.5"):
        EmbeddedStatements(validation=1.5)
