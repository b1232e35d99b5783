"""Where a turn ends, in the families of tokenizers that users bring: where templates say, whatever settings say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizer_families import CHAT_ML, FAMILIES, qwen
from tokenizers import AddedToken

from fa_lightning.scenarios import turn_endings as turns
from fa_lightning.scenarios.control_tokens import control_marks
from fa_lightning.scenarios.conversations.conversation import Conversation
from fa_lightning.scenarios.turn_endings import end_tokens, turn_end, turn_ending, user_mark
from fa_lightning.training.text_data import row_of
from fa_lightning.training.texts import all_chat_tokens, chat_tokens

TEXT = Conversation("the letter", "the action")


def chat_ml(special: bool, eos: str | None = "<|endoftext|>") -> Any:
    """ChatML as base models carry it: no setting names the end of a turn."""
    tokenizer = qwen(CHAT_ML)
    tokenizer.eos_token = eos
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=special)])
    return tokenizer


ENDS = {
    "llama-2": "</s>",
    "llama-2-file": "</s>",
    "mistral-v0.1": "</s>",
    "mistral-v0.3": "</s>",
    "phi-3": "<|end|>",
    "llama-3": "<|eot_id|>",
    "llama-3.2": "<|eot_id|>",
    "qwen-2.5": "<|im_end|>",
    "qwen-3": "<|im_end|>",
    "qwen-3.5": "<|im_end|>",
    "gemma-2": "<end_of_turn>",
    "gemma-3": "<end_of_turn>",
    "smollm-2": "<|im_end|>",
    "chatml": "<|im_end|>",
    "chatml, no special token": "<|im_end|>",
    "chatml, no end of text": "<|im_end|>",
}
MADE = FAMILIES | {
    "chatml": lambda: chat_ml(True),
    "chatml, no special token": lambda: chat_ml(False),
    "chatml, no end of text": lambda: chat_ml(True, None),
}


@pytest.mark.parametrize("family", ENDS)
def test_a_turn_ends_at_what_the_template_writes_behind_the_words(family: str) -> None:
    tokenizer, end = MADE[family](), ENDS[family]
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == end
    # A model that brings no settings along stops there, too; one that does, at both.
    assert turn_end(tokenizer) in end_tokens(SimpleNamespace(), tokenizer)
    named = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[3, 4]))
    assert end_tokens(named, tokenizer) == end_tokens(SimpleNamespace(), tokenizer) | {3, 4}
    assert end not in user_mark(tokenizer)


@pytest.mark.parametrize("family", ENDS)
def test_an_answer_is_learned_with_the_end_of_its_turn_alone_and_dropped_without_any(family: str) -> None:
    tokenizer = MADE[family]()
    tokens = chat_tokens(TEXT, tokenizer)
    kept, dropped = (row_of([tokens, tokens], "answers", end) for end in ("kept", "dropped"))
    ends = end_tokens(SimpleNamespace(), tokenizer)
    # Twice the same text, each with one end; nothing else that ends a turn or a text is learned.
    learned = [token for token, is_learned in zip(kept.ids, kept.learned, strict=True) if is_learned]
    assert [token for token in learned if token in ends] == [turn_end(tokenizer)] * 2
    assert learned[-1] == turn_end(tokenizer)
    assert len(dropped.ids) == len(kept.ids) - 2
    learned = [token for token, is_learned in zip(dropped.ids, dropped.learned, strict=True) if is_learned]
    assert not ends & set(learned)
    assert "".join(tokenizer.decode(tokens.ids[tokens.prompt : -1]).split()) == "theaction"


def test_without_a_template_or_an_end_in_it_a_turn_ends_with_the_text() -> None:
    for family, end in (("gpt-2", "<|endoftext|>"), ("llama-2-base", "</s>")):
        tokenizer = FAMILIES[family]()
        assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == end
        assert turn_ending(tokenizer).end_of([5, turn_end(tokenizer)]) is None
    for template in (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
        "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}<|im_end|>{% endfor %}",
        "{{ raise_exception('no') }}",
    ):
        tokenizer = chat_ml(True)
        tokenizer.chat_template = template
        assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == "<|endoftext|>"
    tokenizer.eos_token = None
    assert turn_end(tokenizer) is None
    assert end_tokens(SimpleNamespace(), tokenizer) == set()


def test_an_answer_that_holds_the_end_of_a_turn_is_not_cut_there() -> None:
    tokenizer = chat_ml(True)
    tokens = chat_tokens(Conversation("one", "two<|im_end|>three"), tokenizer)
    assert tokenizer.decode(tokens.ids[tokens.prompt :]) == "two<|im_end|>three<|im_end|>"


def test_how_turns_end_is_found_once_for_all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, found = chat_ml(True), []
    monkeypatch.setattr(turns, "control_marks", lambda one: found.append(one) or control_marks(one))
    assert len(all_chat_tokens([TEXT] * 3, tokenizer)) == 3
    assert found == [tokenizer]
