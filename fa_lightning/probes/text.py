"""What the words of a prompt give away: the control that reads no states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def word_log_odds(train: Sequence[str], labels: Tensor, test: Sequence[str]) -> Tensor:
    """Log-odds of a label by logistic regression on which words, and pairs of them, a prompt holds.

    Args:
        train: prompts to fit on.
        labels: theirs, booleans (train,).
        test: prompts to read.

    Returns:
        (test,) float64.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    # Digits and letters are words here: which one stands for what is part of the prompt.
    vectorizer = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b", binary=True)
    words = vectorizer.fit_transform(train)
    classifier = LogisticRegression(max_iter=1000).fit(words, labels.bool().numpy())
    return torch.from_numpy(classifier.decision_function(vectorizer.transform(test)))
