"""Rows about preferred replies: in balance, held apart by conversation, and asked of a model."""

import itertools
import json

import pytest

from fa_lightning.scenarios.splits import SPLITS
from fa_lightning.studies.probes.judgement import opposites_of
from fa_lightning.studies.probes.preference_questions import PreferenceQuestions

pytest.importorskip("datasets", reason="reading preferences needs datasets: pip install -e '.[preferences]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("preferences")
    rows = []
    for number in range(60):
        # Two pairs of each conversation: they belong together.
        context = f"\n\nHuman: Question {number // 2}?\n\nAssistant:"
        rows.append({"chosen": f"{context} Kind {number}.", "rejected": f"{context} Rude {number}."})
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(place)


def test_every_pair_is_asked_in_both_orders_and_conversations_are_held_apart(folder):
    rows = PreferenceQuestions(folder).load()
    assert len(rows) == 120
    for row in rows:
        chosen = next(line for line in row.message.splitlines() if " Kind " in line)
        assert row.labels["better"] == chosen.startswith("- 1 for:")
    groups = {split: {row.group for row in rows if row.split == split} for split in SPLITS}
    assert all(len(found) > 1 for found in groups.values())
    assert not any(groups[one] & groups[two] for one, two in itertools.combinations(SPLITS, 2))
    opposites = opposites_of(rows)
    assert opposites is not None
    assert all(rows[number].labels != row.labels for row, number in zip(rows, opposites.tolist(), strict=True))


def test_the_fingerprint_follows_the_data_and_not_the_place(folder, tmp_path):
    from pathlib import Path

    first = PreferenceQuestions(folder).fingerprint()
    copied = (Path(folder) / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(copied)
    assert PreferenceQuestions(str(tmp_path)).fingerprint() == first
    (tmp_path / "train.jsonl").write_text(copied.replace("Kind 7", "Dear 7"))
    assert PreferenceQuestions(str(tmp_path)).fingerprint() != first


def test_bad_arguments_are_named(folder):
    with pytest.raises(ValueError, match="limit is 0, but must be 1 or more"):
        PreferenceQuestions(folder, limit=0)
    with pytest.raises(ValueError, match=r"validation \+ test is 1.2"):
        PreferenceQuestions(folder, validation=0.6, test=0.6)
