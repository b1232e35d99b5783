"""The concepts that ship, and files of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fa_lightning.errors import UserError
from fa_lightning.studies.vectors.concepts import SHIPPED, read_concept
from fa_lightning.studies.vectors.data import VectorsDataModule
from fa_lightning.studies.vectors.result import KINDS

ANSWERS = [{"prompt": f"Question {number}?", "positive": "Yes.", "negative": "No."} for number in range(4)]
OWN = {"short": [["up", "down"]] * 3, "long": [["It goes up.", "We went down."]] * 3, "held_out": ANSWERS}


def words_of(text: str) -> str:
    return f" {' '.join(re.findall('[a-z]+', text.lower()))} "


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_that_is_held_out_is_in_a_vector(name: str) -> None:
    concept = read_concept(name)
    texts = [text for kind in KINDS for pair in concept.pairs[kind] for text in (pair.positive, pair.negative)]
    assert len(set(texts)) == len(texts)
    said = [words_of(text) for text in texts]
    for pair in concept.held_out:
        assert not [one for one in said for answer in (pair.positive, pair.negative) if words_of(answer) in one]
    assert len({pair.prompt for pair in concept.held_out}) == len(concept.held_out) >= 16
    short, long = (max(len(pair.positive) for pair in concept.pairs[kind]) for kind in KINDS)
    assert short < long / 2


def test_draws_differ_and_are_the_same_for_a_seed() -> None:
    concept = read_concept("sentiment")
    drawn = [concept.draws("short", 6, 5, seed) for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    for pairs, rest in drawn[0]:
        assert {*pairs, *rest} == set(concept.pairs["short"])
        assert (len(pairs), len(rest)) == (6, 4)
    every = concept.draws("short", 9, 10, 3)
    assert len({frozenset(one.pairs) for one in every}) == 10, "all that there are"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"long": None}, "long must be a list"),
        ({"more": []}, "and nothing else"),
        ({"short": [["up"]]}, "pairs \\[towards, away\\]"),
        ({"short": [["up", " "]]}, "pairs \\[towards, away\\]"),
        ({"held_out": [{"prompt": "x", "positive": "y"}]}, "prompt, positive, negative"),
        ({"held_out": ANSWERS[:3]}, "4 or more are needed"),
    ],
)
def test_a_file_that_is_no_concept_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(OWN | change))
    with pytest.raises(UserError, match=message):
        read_concept(str(path))


def test_a_concept_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "height.yaml"
    path.write_text(yaml.safe_dump(OWN))
    data = VectorsDataModule([str(path), "genre"], draws=2, pairs=2)
    assert [concept.name for concept in data.read()] == ["height", "genre"]
    assert len(data.draws) == 2 * 2 * 2 + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concepts": ["love"]}, "is no concept: there are formality"),
        ({"concepts": []}, "name at least one"),
        ({"concepts": ["genre", "genre"]}, "each once"),
        ({"pairs": 10}, "0 different draws"),
        ({"pairs": 9, "draws": 11}, "10 different draws"),
        ({"draws": 0}, "1 or more"),
    ],
)
def test_wrong_values_are_refused_before_a_model_is_there(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VectorsDataModule(**options).read()
