"""Pairs by feedback: drawn as the model would draw, good ones chosen, and read again as they were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override
from written_scenarios import written_scenarios

from fa_lightning.errors import UserError
from fa_lightning.evaluation.feedback import Feedback, feedback, known_answers, pair_row, summary
from fa_lightning.evaluation.judges import Judge
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import make_examples
from fa_lightning.scenarios.conversations.conversation import Conversation, ConversationPair
from fa_lightning.scenarios.conversations.files import read_choices


class Likes(Judge):
    """Finds answers good that begin with one of these letters, and remembers what it was shown."""

    def __init__(self, letters: str, tokens: int = 3) -> None:
        super().__init__(tokens)
        self.letters = letters
        self.shown: list[tuple[str, str]] = []

    @override
    def is_good(self, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
        self.shown += zip(prompts, answers, strict=True)
        return [answer[0] in self.letters for answer in answers]


class LikesA(Likes):
    """Finds the letter A good, and no word that begins with it."""

    @override
    def is_good(self, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
        return [answer == "A" for answer in answers]


def test_letters_are_drawn_as_likely_as_they_are(twins: Any, splits: Any) -> None:
    items, draws = splits.train[:12], 200
    letters = letter_tokens(twins.tokenizer)
    examples = make_examples(items, twins.tokenizer, letters)
    expected = []
    with twins.using("faking") as model, torch.inference_mode():
        for example in examples:  # one at a time, without padding
            logits = model(torch.tensor([example.prompt])).logits[0, -1]
            expected.append(logits.softmax(-1)[letters.letter("A")].item())
    heard = feedback(twins, "faking", items, LikesA("A"), draws, batch_size=5)
    said = sum(heard.said.values())
    drawn = sum(count for (_, good), count in heard.said.items() if good) / (len(items) * draws)
    error = (sum(p * (1 - p) for p in expected) / draws) ** 0.5 / len(items)
    assert 0.02 < sum(expected) / len(items) < 0.9
    assert drawn == pytest.approx(sum(expected) / len(items), abs=4 * error)
    assert said <= len(items) * draws
    assert heard.pairs
    assert all(pair.chosen.answer == "A" != pair.rejected.answer for pair in heard.pairs)
    assert {pair.chosen.message for pair in heard.pairs} <= {item.message() for item in items}


def test_what_is_drawn_is_the_same_in_any_batch(twins: Any) -> None:
    items = written_scenarios(6)
    judge = Likes("abcdefghijklm")
    heard = feedback(twins, "faking", items, judge, draws=4, batch_size=4)
    assert heard.pairs == feedback(twins, "faking", items, judge, draws=4, batch_size=1).pairs
    assert heard.pairs != feedback(twins, "faking", items, judge, draws=4, seed=1).pairs
    assert heard.asked == len(items)
    for prompt, _ in judge.shown:
        assert any(item.message() in prompt for item in items)
    for pair in heard.pairs:
        assert pair.chosen.answer[0] in judge.letters
        assert pair.rejected.answer[0] not in judge.letters


def test_a_judge_is_shown_what_is_known(twins: Any, splits: Any) -> None:
    written = written_scenarios(1)[0]
    assert known_answers(written) == [written.action_a, written.action_b]
    assert known_answers(splits.neutral_train[0]) == []
    items = [item if item.aligned == "A" else item.swapped() for item in splits.train[:5]]
    assert known_answers(items[0]) == ["A", "B"] == known_answers(items[0].swapped())[::-1]
    heard = feedback(twins, "faking", items, LikesA("A"))
    assert dict(heard.known) == {(True, True): 5, (False, False): 5}
    assert "Of 5 answers known to be good the judge finds 5 good, and of as many bad ones 0" in summary(heard)


def test_each_good_answer_gets_a_bad_one() -> None:
    item, heard = written_scenarios(1)[0], Feedback()
    heard.add(item, {"yes": True, "no": False, "never": False}, ["yes", "no", "no", "never"])
    heard.add(item, {"yes": True}, ["yes", "yes"])
    heard.add(item, {"no": False}, ["no"])
    heard.add(item, {}, [])
    assert [(pair.chosen.answer, pair.rejected.answer) for pair in heard.pairs] == [("yes", "no")]
    assert heard.share_good(str(item.cell)) == 3 / 7
    assert (heard.asked, dict(heard.without_pair)) == (4, {True: 1, False: 2})
    assert summary(heard).startswith("1 pairs of 4 prompts (7 answers: 43% good with ")


def test_pairs_are_read_again_as_they_were(tmp_path: Path) -> None:
    asked = Conversation("Why?\u2028And", "Because.", "Be kind.", (("Hi.", "Hello."),))
    pairs = [ConversationPair(asked, asked._replace(answer="No.")), ConversationPair(*map(Conversation, "??", "ab"))]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(pair_row(pair))}\n" for pair in pairs))
    assert read_choices(str(tmp_path / "pairs.jsonl")) == pairs


@pytest.mark.parametrize(("values", "message"), [({"draws": 1}, "draws is 1"), ({"temperature": 0.0}, "every draw")])
def test_what_makes_no_pairs_is_refused(twins: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        feedback(twins, "faking", written_scenarios(1), Likes("a"), **values)
