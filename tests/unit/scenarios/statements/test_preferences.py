import gzip
import json

import pytest

from fa_lightning.scenarios.statements.preferences import read_preferences, split_context
from fa_lightning.scenarios.statements.templates import Template

HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant:"
RATHER = Template("rather", "'{statement}'? 0 is '{alternative_0}', 1 is '{alternative_1}'.")


def pair(number, **changes):
    start = f"{HUMAN}Question {number}?{ASSISTANT} Well.{HUMAN}Go on.{ASSISTANT}"
    return {"chosen": start + " Here it is.", "rejected": start + " Her name is."} | changes


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_context_ends_at_the_last_common_turn():
    row = pair(1)
    found = split_context(**row)
    assert (found.chosen, found.rejected) == (" Here it is.", " Her name is.")
    assert found.context + found.chosen == row["chosen"]
    assert found.context + found.rejected == row["rejected"]
    assert found.context.endswith(ASSISTANT)


def test_texts_that_differ_in_an_earlier_turn_keep_all_that_follows():
    row = pair(1, rejected=f"{HUMAN}Question 1?{ASSISTANT} No.{HUMAN}Why?{ASSISTANT} Because.")
    found = split_context(**row)
    assert found.rejected == f" No.{HUMAN}Why?{ASSISTANT} Because."
    assert found.context == f"{HUMAN}Question 1?{ASSISTANT}"


def test_plain_texts_are_cut_between_words():
    found = split_context("say yes now", "say yelp now")
    assert (found.context, found.chosen, found.rejected) == ("say", " yes now", " yelp now")
    assert split_context("yes", "yelp").context == ""


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_local_folder_is_read(tmp_path, suffix, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "hh" / "harmless" / f"train{suffix}", [pair(number) for number in range(5)])
    write(tmp_path / "hh" / "harmless" / f"test{suffix}", [pair(9)])
    write(tmp_path / "hh" / "helpful" / f"train{suffix}", [pair(7)])
    folder = str(tmp_path / "hh")
    assert len(read_preferences(folder, "train")) == 6
    harmless = read_preferences(folder, "train", subset="harmless")
    assert [f"Question {number}?" in item.context for number, item in enumerate(harmless)] == [True] * 5
    assert len(read_preferences(folder, "train", subset="harmless", limit=2)) == 2
    assert "Question 9?" in read_preferences(folder, "test")[0].context


def test_missing_columns_and_files_are_told(tmp_path):
    write(tmp_path / "train.jsonl", [{"chosen": "a", "worse": "b"}])
    with pytest.raises(ValueError, match=r"train.jsonl, row 1, column 'rejected': it is missing; here are chosen, wor"):
        read_preferences(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"holds no test\*\.jsonl"):
        read_preferences(str(tmp_path), "test")


def test_equal_pairs_are_left_out_and_counted_and_other_values_refused(tmp_path):
    write(tmp_path / "train.jsonl", [{"chosen": "a b", "rejected": "a b"}, pair(1)])
    with pytest.warns(UserWarning, match="1 of 2 rows left out"):
        assert read_preferences(str(tmp_path)) == [split_context(**pair(1))]
    write(tmp_path / "train.jsonl", [pair(0), pair(1, rejected=None)])
    with pytest.raises(ValueError, match="row 2, column 'rejected': it is missing"):
        read_preferences(str(tmp_path))


def test_turns_say_what_marked_texts_say(tmp_path):
    turns = [
        {"role": "user", "content": "Question 1?"},
        {"role": "assistant", "content": "Well."},
        {"role": "user", "content": "Go on."},
    ]
    ends = ({"role": "assistant", "content": text} for text in ("Here it is.", "Her name is."))
    chosen, rejected = ([*turns, end] for end in ends)
    for row in (
        {"prompt": turns, "chosen": chosen[-1:], "rejected": rejected[-1:]},
        {"chosen": chosen, "rejected": rejected},
    ):
        write(tmp_path / "mine.jsonl", [row])
        assert read_preferences(str(tmp_path / "mine.jsonl")) == [split_context(**pair(1))]


def test_a_pair_is_asked_in_both_orders():
    item = split_context(**pair(1))
    for digit in (0, 1):
        prompt, safe = item.render(RATHER, None, digit)
        assert safe == digit
        assert f"{digit} is ' Here it is.'" in prompt
        assert f"{1 - digit} is ' Her name is.'" in prompt
    agree = Template("agree", "'{statement}'? {word_0} {word_1}")
    with pytest.raises(ValueError, match="template 'agree' asks whether to agree"):
        item.render(agree, None, 0)


def test_what_can_not_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"elsewhere is no file, and as a data set it can't be loaded"):
        read_preferences(str(tmp_path / "elsewhere"))
    whole = json.dumps(pair(1)) + "\n"
    for content, error in (
        (whole + '{"chosen": "a", "rejected"\n', r"train\.jsonl, row 2 is .* one whole JSON object"),
        (whole + "[1]", r"train\.jsonl, row 2 is .\[1\]., but must be an object"),
        (whole + '{"chosen": "a", "rejected": 1}', r"train\.jsonl, row 2, column 'rejected': '?1'? is n"),
        ("", r"train\.jsonl holds no row"),
    ):
        (tmp_path / "train.jsonl").write_text(content)
        with pytest.raises(ValueError, match=error):
            read_preferences(str(tmp_path))
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(whole.encode())[:-9])
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(ValueError, match=r"train\.jsonl\.gz can't be unpacked"):
        read_preferences(str(tmp_path), "train")
