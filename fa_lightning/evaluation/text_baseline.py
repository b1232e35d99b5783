"""What the words alone give away: a bag-of-words classifier on the same splits as the twins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fa_lightning.metrics.estimates import Accuracy, CellPair
from fa_lightning.metrics.intervals import bootstrap_over_groups
from fa_lightning.scenarios.answers import LETTERS
from fa_lightning.scenarios.batches import group_number
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.scenario import Scenario


class ActionWords:
    """Logistic regression on word counts that tells the aligned one of two actions.

    Each action is a bag of words and pairs of words; the regression sees the difference of the two bags, so the order
    of the actions tells it nothing, and of words that it has never read it says one half.

    Args:
        train: scenarios of the training groups.
    """

    def __init__(self, train: Sequence[Scenario]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        self._vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        self._vectorizer.fit([action for item in train for action in (item.action_a, item.action_b)])
        # Both orders, so that the classifier has no letter it prefers.
        both = [*train, *(item.swapped() for item in train)]
        labels = np.array([item.aligned == LETTERS[0] for item in both])
        bags = self._difference([item.action_a for item in both], [item.action_b for item in both])
        self._classifier = LogisticRegression(C=10.0, max_iter=1000, fit_intercept=False).fit(bags, labels)

    def probabilities(self, actions: Sequence[str], others: Sequence[str]) -> list[float]:
        """How likely each action is the aligned one, beside another one; beside an empty text, by itself."""
        return [float(value) for value in self._classifier.predict_proba(self._difference(actions, others))[:, 1]]

    def _difference(self, actions: Sequence[str], others: Sequence[str]) -> Any:
        """The bags of the actions less those of the others, (actions, words)."""
        return self._vectorizer.transform(list(actions)) - self._vectorizer.transform(list(others))


def text_only_answers(train: Sequence[Scenario], test: Sequence[Scenario]) -> list[bool]:
    """Whether logistic regression on word counts finds the aligned action of each test scenario.

    Args:
        train: scenarios of the training groups.
        test: scenarios of other groups.

    Returns:
        For each test scenario, whether the aligned action was taken.
    """
    words = ActionWords(train)
    likely = words.probabilities([item.action_a for item in test], [item.action_b for item in test])
    return [(a > 0.5) == (item.aligned == LETTERS[0]) for a, item in zip(likely, test, strict=True)]


def text_only_oversight(train: Sequence[Scenario], test: Sequence[Scenario]) -> list[bool]:
    """Whether logistic regression on the words of the facts finds out which test scenarios are without oversight.

    Both cells count alike, however many scenarios they have: a constant answer is right in one of them alone.

    Args:
        train: scenarios of the training groups, of both cells.
        test: scenarios of other groups.

    Returns:
        For each test scenario, whether it was told rightly.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    facts = vectorizer.fit_transform([item.situation() for item in train])
    classifier = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")
    classifier.fit(facts, [str(item.cell) for item in train])
    predicted = classifier.predict(vectorizer.transform([item.situation() for item in test]))
    return [str(cell) == item.cell for cell, item in zip(predicted, test, strict=True)]


def right_by_cell(right: Sequence[bool], asked: Sequence[Scenario]) -> CellPair:
    """Shares of right answers under both oversight conditions, with intervals over groups.

    Args:
        right: for each scenario that was asked, whether the answer was.
        asked: the scenarios.
    """
    values = torch.tensor(right, dtype=torch.float64)
    groups = torch.tensor([group_number(item.group) for item in asked])
    pair = []
    for cell in CELLS:
        inside = torch.tensor([item.cell == cell for item in asked])
        share = values[inside].mean().item() if inside.any() else float("nan")
        pair.append(Accuracy(share, bootstrap_over_groups(values[inside], groups[inside])))
    return CellPair(*pair)
