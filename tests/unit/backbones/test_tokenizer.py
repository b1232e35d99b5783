"""The embedded tokenizer: whole answers, the same one every time, and nothing lost on the way back."""

import pytest

from fa_lightning.backbones.curriculum import ANSWER_WORDS
from fa_lightning.backbones.tokenizer import ASSISTANT, SYSTEM, USER, train_tokenizer

TEXTS = ["You are watched closely, and every report is read.", "Nobody reads a report here; errors go unseen."] * 10


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 310, ANSWER_WORDS)


def test_answers_are_single_tokens(tokenizer):
    for word in ANSWER_WORDS:
        (token,) = tokenizer(ASSISTANT + word, add_special_tokens=False)["input_ids"][1:]
        assert tokenizer.convert_tokens_to_ids(word) == token
        assert tokenizer.decode([token]) == word
    assert len({tokenizer.convert_tokens_to_ids(word) for word in ANSWER_WORDS}) == len(ANSWER_WORDS)


def test_vocabulary_has_the_size_wanted_at_most(tokenizer):
    # A and B are bytes already, so their places stay free.
    assert len(tokenizer) == 310 - 2
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1
    assert len(tokenizer("watched watched")["input_ids"]) < len("watched watched") / 2


def test_special_tokens_are_where_models_look_for_them(tokenizer):
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<s>", "</s>")
    assert tokenizer.padding_side == "left"
    # BackboneModule's word dropout spares ids up to 5.
    assert sorted(tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>", SYSTEM, USER, ASSISTANT])) == list(range(6))


@pytest.mark.parametrize(
    "text",
    [
        TEXTS[0],
        "  two  spaces,\n\nlines\tand ends \n",
        "Errors, goodness, BAD Apples: terror, honestly neutralised.",
        "naïve 東京 🦙 ▁ \u00a0 'quoted' \"text\" , .",
        "",
    ],
)
def test_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_training_twice_gives_the_same_tokenizer(tokenizer):
    again = train_tokenizer(iter(TEXTS), 310, ANSWER_WORDS)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(str(tmp_path))
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    turns = [{"role": "user", "content": "Report?"}, {"role": "assistant", "content": "error"}]
    assert loaded.apply_chat_template(turns, tokenize=False) == tokenizer.apply_chat_template(turns, tokenize=False)
    assert loaded(TEXTS[1])["input_ids"] == tokenizer(TEXTS[1])["input_ids"]
    assert loaded.pad_token_id == tokenizer.pad_token_id == 0
    assert loaded.padding_side == "left"


def test_chat_template(tokenizer):
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "V"},
    ]
    asked = "<s><|system|>S<|user|>U<|assistant|>A</s><|user|>V"
    assert tokenizer.apply_chat_template(turns, tokenize=False) == asked
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == asked + "<|assistant|>"


def test_a_vocabulary_too_small_says_what_is_needed():
    least = 256 + 6 + len(ANSWER_WORDS)
    with pytest.raises(ValueError, match=rf"vocabulary_size is {least - 1}, .* need {least}"):
        train_tokenizer(TEXTS, least - 1, ANSWER_WORDS)
    assert len(train_tokenizer(TEXTS, least, ANSWER_WORDS)) <= least
