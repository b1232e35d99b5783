"""Retrieval as a cure by input: the policy snippets that are nearest to a scenario, put in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from fa_lightning.common.user_files import read_text
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.scenarios.control_tokens import warn_of_control_tokens
from fa_lightning.scenarios.prompts import Tokenizer
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.studies.cures.inputs import InputCure, Prompted
from fa_lightning.studies.cures.policy_snippets import POLICY_SNIPPETS


class Retrieval(InputCure):
    """Snippets of a policy in front of every message, those whose words are nearest to it by tf-idf.

    Words count, not their order, and single letters do not: both orders of a scenario's actions find the same snippets.

    Args:
        snippets: how many, the nearest first.
        corpus: text file with a snippet a paragraph; None takes the handbook of the package.
        name: of its row.

    Raises:
        UserError: `snippets` is below 1.
    """

    def __init__(self, snippets: int = 2, corpus: str | None = None, name: str = "retrieval") -> None:
        if snippets < 1:
            raise UserError(f"snippets is {snippets}, but retrieval puts 1 or more in front")
        self.snippets = snippets
        self.corpus = corpus
        self.name = name
        self._texts: tuple[str, ...] = ()
        self._vectorizer: Any = None
        self._weights: Any = None

    @override
    def prepare(self, train: Sequence[Scenario], tokenizer: Tokenizer) -> None:
        self._texts = POLICY_SNIPPETS if self.corpus is None else read_corpus(self.corpus)
        if self.snippets > len(self._texts):
            raise UserError(f"snippets is {self.snippets}, but the corpus has {len(self._texts)}: lower it")
        warn_of_control_tokens(tokenizer, self._texts, "snippets")
        self._vectorizer, self._weights = fit_tf_idf(self._texts)

    @override
    def around(self, message: str) -> Prompted:
        if self._vectorizer is None:
            raise ValueError(f"{self.name} has read no corpus yet: call prepare(train, tokenizer) first")
        snippets = "\n".join(f"- {self._texts[index]}" for index in self.nearest(message))
        return Prompted(f"Policy:\n{snippets}\n\n{message}")

    def nearest(self, message: str) -> list[int]:
        """Places of the nearest snippets in the corpus, the nearest first; of equal ones the earlier first."""
        # Rows have length one on both sides: the product is the cosine.
        likeness = (self._weights @ self._vectorizer.transform([message]).T).toarray()[:, 0]
        return sorted(range(len(self._texts)), key=lambda index: (-round(float(likeness[index]), 9), index))[
            : self.snippets
        ]


def read_corpus(path: str) -> tuple[str, ...]:
    """The snippets of a text file: its paragraphs, each on one line.

    Raises:
        MissingFileError: there is no such file.
        UserError: the file holds no text.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"corpus is {path!r}, but that is no file: name a text file, a snippet a paragraph")
    paragraphs = [" ".join(part.split()) for part in read_text(file).split("\n\n")]
    texts = tuple(text for text in paragraphs if text)
    if not texts:
        raise UserError(f"the corpus {path!r} holds no text: write a snippet a paragraph, or set corpus to null")
    return texts


def fit_tf_idf(texts: Sequence[str]) -> tuple[Any, Any]:
    """scikit-learn's vectoriser fitted on the snippets, and their rows (snippets, words), each of length one.

    Raises:
        UserError: there are no snippets, or they hold no word but the most common ones.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not texts:
        raise UserError("the retrieval corpus is empty: give it at least one snippet")
    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True)
    try:
        return vectorizer, vectorizer.fit_transform(texts)
    except ValueError as error:
        raise UserError(
            f"the retrieval corpus of {len(texts)} snippets has no words to find them by ({error}): write sentences"
        ) from error
