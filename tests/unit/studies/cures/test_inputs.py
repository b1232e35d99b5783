"""What is put around prompts: balanced, of training groups alone, and nothing else is touched."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.studies.cures.inputs import (
    FewShot,
    Prefix,
    RandomPrefix,
    Suffix,
    SystemPrompt,
    half_wrong,
    named_twice,
    solved_scenarios,
)
from fa_lightning.studies.cures.policy_snippets import POLICY_SNIPPETS
from fa_lightning.studies.cures.retrieval import Retrieval, fit_tf_idf
from fa_lightning.training.ordinary_tokens import ordinary_tokens, survives


def text_of(tokenizer: Any, cure: Any, message: str) -> str:
    return str(tokenizer.decode(cure.ids(tokenizer, message)))


def test_texts_stand_where_they_should_and_the_message_stays_whole(splits: Any, tiny_tokenizer: Any) -> None:
    for item in (splits.test[0], splits.test[0].swapped(), splits.neutral_test[0]):
        message = item.message()
        user, assistant = "<|user|>", "<|assistant|>"
        assert text_of(tiny_tokenizer, Prefix("Be good."), message) == f"<s>{user}Be good.\n{message}{assistant}"
        line = "" if message.endswith("\n") else "\n"
        suffix = text_of(tiny_tokenizer, Suffix("Be good."), message)
        assert suffix == f"<s>{user}{message}{line}Be good.\n{assistant}"
        system = text_of(tiny_tokenizer, SystemPrompt("Be good."), message)
        assert system == f"<s><|system|>Be good.{user}{message}{assistant}"


def test_without_a_system_turn_the_system_message_becomes_a_prefix(tiny_tokenizer: Any) -> None:
    import copy

    no_system = copy.deepcopy(tiny_tokenizer)
    no_system.chat_template = (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
        "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert text_of(no_system, SystemPrompt("Be good."), "Choose.") == "<s><|user|>Be good.\n\nChoose.<|assistant|>"
    no_system.chat_template = None
    assert text_of(no_system, SystemPrompt("Be good."), "Choose.") == "Be good.\nChoose."


def test_few_shot_shows_solved_training_scenarios_in_all_cells_and_letters_alike(
    splits: Any, tiny_tokenizer: Any
) -> None:
    solved = solved_scenarios(splits.train, 8, seed=3)
    assert Counter((item.cell, letter) for item, letter in solved) == dict.fromkeys(
        [(cell, letter) for cell in ("oversight", "no_oversight") for letter in "AB"], 2
    )
    assert all(item.aligned == letter for item, letter in solved), "solved means the aligned answer"
    groups = [item.group for item, _ in solved]
    assert len(set(groups)) == 8
    assert set(groups) <= {item.group for item in splits.train}
    assert set(groups).isdisjoint(item.group for item in (*splits.test, *splits.validation))
    assert solved == solved_scenarios(splits.train, 8, seed=3) != solved_scenarios(splits.train, 8, seed=4)
    cure = FewShot(8, seed=3)
    cure.prepare(splits.train, tiny_tokenizer)
    message = splits.test[0].message()
    turns = "".join(f"<|user|>{item.message()}<|assistant|>{letter}</s>" for item, letter in solved)
    assert text_of(tiny_tokenizer, cure, message) == f"<s>{turns}<|user|>{message}<|assistant|>"


@pytest.mark.parametrize("shots", [4, 8])
def test_shuffled_answers_are_right_half_the_time_and_as_often_a_as_b(splits: Any, shots: int) -> None:
    solved = solved_scenarios(splits.train, shots, seed=0)
    shown = half_wrong(solved)
    assert [item for item, _ in shown] == [item for item, _ in solved]
    assert sum(item.aligned == letter for item, letter in shown) == len(shown) / 2
    assert Counter(letter for _, letter in shown) == {"A": len(shown) / 2, "B": len(shown) / 2}
    for cell in ("oversight", "no_oversight"):
        told = [item.aligned == letter for item, letter in shown if item.cell == cell]
        assert sum(told) == len(told) / 2, "all answers of a condition being right would teach what is right in it"


def test_few_shot_without_enough_training_scenarios_is_refused(splits: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"few-shot needs 2 training scenarios oversight.* but there are 0"):
        FewShot(4).prepare([], tiny_tokenizer)
    unwatched = [item for item in splits.train if item.cell == "no_oversight"]
    with pytest.raises(ValueError, match="there are 0: lower shots"):
        FewShot(4).prepare(unwatched, tiny_tokenizer)
    with pytest.raises(ValueError, match="shots is 6, but must be 4, 8"):
        FewShot(6)
    with pytest.raises(ValueError, match="call prepare"):
        FewShot().around("x")


@pytest.mark.parametrize("kind", [Prefix, Suffix, SystemPrompt])
def test_an_empty_input_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=rf"text of {kind.__name__} is ' \\n', but an empty input is no cure"):
        kind(" \n")


def test_a_random_prefix_has_so_many_tokens_inside_a_prompt(tiny_tokenizer: Any, splits: Any) -> None:
    cure = RandomPrefix(tokens=7, seed=1)
    cure.prepare([], tiny_tokenizer)
    message = splits.test[0].message()
    before, after = (
        prompt_ids(tiny_tokenizer, message),
        cure.ids(tiny_tokenizer, message),
    )
    newline = tiny_tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert len(after) == len(before) + 7 + len(newline)
    assert after[:2] == before[:2]
    assert after[2 + 7 + len(newline) :] == before[2:]
    other = RandomPrefix(tokens=7, seed=2)
    other.prepare([], tiny_tokenizer)
    assert other.ids(tiny_tokenizer, message) != after


@pytest.mark.parametrize("kind", [RandomPrefix, FewShot])
def test_draws_of_an_input_differ_and_no_two_seeds_share_one(kind: Any, tiny_tokenizer: Any, splits: Any) -> None:
    seen = set()
    for seed in (0, 1):
        draws = kind(seed=seed, name="random").drawn()
        assert [draw.label for draw in draws] == [f"random #{number}" for number in range(5)]
        assert {draw.name for draw in draws} == {"random"}
        for draw in draws:
            draw.prepare(splits.train, tiny_tokenizer)
            seen.add(draw.around("What now?"))
    assert len(seen) == 10
    (alone,) = kind(draws=1).drawn()
    assert (alone.label, alone.draw) == (alone.name, None)
    with pytest.raises(ValueError, match="draws is 0, but an input is drawn at least once"):
        kind(draws=0)


def test_ordinary_tokens_are_printable_read_back_and_no_marks(tiny_tokenizer: Any) -> None:
    ordinary = ordinary_tokens(tiny_tokenizer)
    texts = [tiny_tokenizer.decode([token]) for token in ordinary]
    assert len(ordinary) > 100
    assert all(text.isascii() and text.isprintable() and text.strip() for text in texts)
    assert not {"<s>", "</s>", "<pad>", "<|user|>", "<|system|>", "<|assistant|>"} & set(texts)
    assert {"A", "B"} <= {text.strip() for text in texts}
    # 't' and 'he' are read as one token 'the' or so: such a pair does not survive.
    encode = tiny_tokenizer(" the", add_special_tokens=False)["input_ids"]
    pieces = [tiny_tokenizer(part, add_special_tokens=False)["input_ids"][0] for part in (" ", "t", "h", "e")]
    assert len(encode) < 4
    assert not survives(tiny_tokenizer, pieces)
    assert survives(tiny_tokenizer, encode)


def test_retrieval_finds_what_the_cosine_of_tf_idf_says_in_both_orders(splits: Any, tiny_tokenizer: Any) -> None:
    cure = Retrieval(snippets=3)
    cure.prepare([], tiny_tokenizer)
    seen = set()
    vectorizer, weights = fit_tf_idf(POLICY_SNIPPETS)
    dense = np.asarray(weights.todense())
    for item in splits.test:
        query = np.asarray(vectorizer.transform([item.message()]).todense())[0]
        cosine = dense @ query / (np.linalg.norm(dense, axis=1) * max(np.linalg.norm(query), 1e-12))
        nearest = cure.nearest(item.message())
        assert cosine[nearest].min() >= np.delete(cosine, nearest).max() - 1e-9
        assert list(cosine[nearest]) == sorted(cosine[nearest], reverse=True)
        assert nearest == cure.nearest(item.swapped().message()), "the order of the actions changes nothing"
        seen.add(tuple(nearest))
        prompt = cure.around(item.message()).message
        assert prompt.endswith(f"\n\n{item.message()}")
        assert all(POLICY_SNIPPETS[place] in prompt for place in nearest)
    assert len(seen) > 1, "one answer to everything would be no retrieval"


def test_a_corpus_of_ones_own_is_read_by_paragraph_and_an_empty_one_refused(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    corpus = tmp_path / "policy.txt"
    corpus.write_text("Feed the cat\nat noon.\n\n\nWater the cactus.\n")
    cure = Retrieval(snippets=1, corpus=str(corpus))
    cure.prepare([], tiny_tokenizer)
    assert cure.around("What of the cactus?").message == "Policy:\n- Water the cactus.\n\nWhat of the cactus?"
    assert cure.around("My cat is hungry.").message == "Policy:\n- Feed the cat at noon.\n\nMy cat is hungry."
    corpus.write_text(" \n\n")
    with pytest.raises(ValueError, match=r"the corpus .* holds no text"):
        cure.prepare([], tiny_tokenizer)
    corpus.write_text("of the\n\nand")
    with pytest.raises(ValueError, match="no words to find them by"):
        cure.prepare([], tiny_tokenizer)
    with pytest.raises(FileNotFoundError, match="is no file"):
        Retrieval(corpus=str(tmp_path / "none")).prepare([], tiny_tokenizer)
    with pytest.raises(ValueError, match=r"snippets is 999, but the corpus has"):
        Retrieval(snippets=999).prepare([], tiny_tokenizer)


def test_two_inputs_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two inputs are called 'prefix'"):
        named_twice([Prefix("a"), Prefix("b")])
