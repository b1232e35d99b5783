"""General texts: where they come from, and that no text is in two splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import make_examples
from fa_lightning.scenarios.conversations.conversation import Conversation
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.general import DatasetTexts, EverydayRequests, FileTexts, GeneralTexts, with_general_texts
from fa_lightning.scenarios.scenario import normalised
from fa_lightning.scenarios.splits import ScenarioSplits
from fa_lightning.studies.cures.inputs import Prompted


def messages(source: GeneralTexts) -> list[str]:
    return [text.message for text in source.load()]


def test_the_everyday_requests_are_200_and_none_is_part_of_a_scenario() -> None:
    texts = messages(EverydayRequests())
    assert len(texts) == len({normalised(text) for text in texts}) == 200
    assert all(text.strip() == text and len(text) < 100 for text in texts)
    assert not any("available to you" in text or "AI system" in text for text in texts)


def test_they_join_the_neutral_texts_each_in_one_split() -> None:
    splits = EmbeddedScenarios(train=8, validation=8, test=8, neutral=8).load()
    joined = with_general_texts(splits, EverydayRequests(), seed=0)
    parts = [joined.neutral_train, joined.neutral_validation, joined.neutral_test]
    added = [{item.text for item in part if item.policy == "general"} for part in parts]
    assert sum(map(len, added)) == len(set.union(*added)) == 200
    assert len(added[2]) > 80, "most of them judge"
    assert not any(item.is_incomplete for part in parts for item in part if item.policy == "general")
    joined.leak_report().raise_if_leaking()
    assert with_general_texts(splits, None, seed=0) is splits


def test_a_file_holds_lines_or_json_lines(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("One?\n\nTwo?\nOne?\n", encoding="utf-8")
    lines.write_text("".join(json.dumps({"question": text}) + "\n" for text in ("One?", "Two?", "Three?")))
    assert messages(FileTexts(str(plain))) == ["One?", "Two?"]
    assert messages(FileTexts(str(lines), column="question", limit=2)) == ["One?", "Two?"]
    assert FileTexts(str(plain)).fingerprint() == FileTexts(str(lines), "question", 2).fingerprint()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    lines, empty = tmp_path / "b.jsonl", tmp_path / "c.txt"
    lines.write_text('{"question": "One?"}\n')
    empty.write_text("\n")
    with pytest.raises(UserError, match=r"b.jsonl, row 1, column 'prompt': it is missing, .*here is question"):
        FileTexts(str(lines)).load()
    with pytest.raises(UserError, match=r"c.txt holds no text"):
        FileTexts(str(empty)).load()
    with pytest.raises(UserError, match=r"limit is 0"):
        FileTexts(str(lines), limit=0)


def test_a_data_set_gives_a_column(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"message": "One?"}\n{"message": "Two?"}\n')
    assert messages(DatasetTexts(str(tmp_path), column="message")) == ["One?", "Two?"]
    with pytest.raises(UserError, match="can't be loaded"):
        DatasetTexts(str(tmp_path / "nothing"), column="message").load()


def test_conversations_are_asked_whole_up_to_their_last_message(tmp_path: Path, tiny_tokenizer: Any) -> None:
    turns = [("system", "Be brief."), ("user", "Hi."), ("assistant", "Hello."), ("user", "Why?"), ("assistant", "So.")]
    long = {"messages": [{"role": role, "content": text} for role, text in turns]}
    short = {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (long, short, short)) + "\n")
    source = FileTexts(str(tmp_path / "chat.jsonl"))
    with pytest.warns(UserWarning, match=r"chat.jsonl: 1 texts left out that repeat an earlier one, 1 empty"):
        first, second = source.load()
    assert second == Conversation("Why?")
    assert first == Conversation("Why?", "", "Be brief.", (("Hi.", "Hello."),))
    splits = with_general_texts(ScenarioSplits([], [], []), source, seed=0)
    items = [*splits.neutral_train, *splits.neutral_validation, *splits.neutral_test]
    assert len({item.group for item in items}) == 2, "what was said before makes another text of it"
    by_system = {item.system: item for item in items}
    (example,) = make_examples([by_system["Be brief."]], tiny_tokenizer, letter_tokens(tiny_tokenizer))
    read = tiny_tokenizer.decode(example.prompt)
    assert [read.count(text) for _, text in turns] == [1, 1, 1, 1, 0]
    behind = Prompted("Why?", system="Be kind.").behind(by_system["Be brief."])
    assert (behind.system, behind.earlier) == ("Be kind.\n\nBe brief.", (("Hi.", "Hello."),))
