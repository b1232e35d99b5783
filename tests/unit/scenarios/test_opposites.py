"""Opposite texts: the sets that ship, files of one's own, and how texts are shown to a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fa_lightning.errors import UserError
from fa_lightning.scenarios.opposites.texts import (
    SHIPPED,
    OppositePair,
    paired,
    read_opposites,
    shipped,
    sides,
)
from fa_lightning.scenarios.text_form import TextForm


@pytest.mark.parametrize("name", SHIPPED)
def test_a_set_that_ships_has_opposites_to_learn_from_and_others_to_judge_by(name: str) -> None:
    texts = shipped(name)
    assert texts.name == name
    assert len(texts.pairs) >= 8
    assert len(texts.held_out) >= 8
    for pair in (*texts.pairs, *texts.held_out):
        assert pair.positive.strip() != pair.negative.strip() != ""
    assert all(pair.prompt for pair in texts.held_out)
    made_of = {text for pair in texts.pairs for text in (pair.positive, pair.negative, pair.prompt) if text}
    assert not made_of & {text for pair in texts.held_out for text in (pair.positive, pair.negative, pair.prompt)}


def test_love_and_hate_formal_and_casual_wedding_and_war_honest_and_not_ship() -> None:
    assert SHIPPED == ("formal_casual", "honest_dishonest", "love_hate", "wedding_war")
    with pytest.raises(UserError, match="'sad_happy' is no set of opposite texts; there are formal_casual, "):
        shipped("sad_happy")


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"positive": "Yes.", "negative": "No."}, OppositePair("Yes.", "No.")),
        ({"prompt": "Well?", "positive": "Yes.", "negative": "No."}, OppositePair("Yes.", "No.", "Well?")),
        (
            {"question": "Well?", "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"},
            OppositePair(" (A)", " (B)", "Well?"),
        ),
    ],
    ids=["texts", "answers", "CAA"],
)
def test_a_file_is_read_in_each_layout(row: dict[str, str], pair: OppositePair, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert read_opposites(str(tmp_path / "a.jsonl")) == (pair,)


def test_a_row_without_a_side_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"positive": "x", "negative": "y"}\n{"positive": "x"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, row 2, column 'negative': None is no text"):
        read_opposites(str(tmp_path / "a.jsonl"))


def test_sides_given_by_hand_are_paired_by_order() -> None:
    assert paired(["a", "b"], ["c", "d"]) == (OppositePair("a", "c"), OppositePair("b", "d"))
    with pytest.raises(UserError, match="2 positive and 1 negative texts"):
        paired(["a", "b"], ["c"])
    with pytest.raises(UserError, match="is empty"):
        paired(["a"], [" "])


def test_through_the_template_a_text_is_a_message_and_an_answer_the_assistants(tiny_tokenizer: Any) -> None:
    form = TextForm(tiny_tokenizer, is_chat=True)
    positive, negative = sides(form, OppositePair("I agree.", "I refuse.", "Will you do it?"))
    asked = tiny_tokenizer.apply_chat_template(
        [{"role": "user", "content": "Will you do it?"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert tuple(asked) == form.asked("Will you do it?")
    for side, text in ((positive, "I agree."), (negative, "I refuse.")):
        assert side[: len(asked)] == tuple(asked)
        assert tiny_tokenizer.decode(side[len(asked) :]).strip() == text
    assert sides(form, OppositePair("I agree.", "I refuse."))[0] == form.asked("I agree.")


def test_raw_text_stands_behind_the_token_that_begins_texts(tiny_tokenizer: Any) -> None:
    form = TextForm(tiny_tokenizer, is_chat=False)
    plain = tiny_tokenizer("I agree.", add_special_tokens=False)["input_ids"]
    begin = tiny_tokenizer.bos_token_id
    assert form.asked("I agree.") == ((*plain,) if begin is None else (begin, *plain))
    asked, answer = form.asked("Will you do it?"), form.answer("I agree.", "Will you do it?")
    assert tiny_tokenizer.decode(answer).strip() == "I agree."
    assert sides(form, OppositePair("I agree.", "I refuse.", "Will you do it?"))[0] == (*asked, *answer)
