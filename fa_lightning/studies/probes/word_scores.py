"""What the words of a prompt give away: the control that reads no states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def word_scores(train: Sequence[str], labels: Tensor, test: Sequence[str]) -> Tensor:
    """How far a prompt's words speak for a label, above 0 for true: by which words, or pairs of them, stand together.

    Which digit is right follows from neither the statement nor the order of the digits, but from both: what weighs each
    word by itself would be at 0.5 even where a "not" gives everything away.

    Args:
        train: prompts to fit on.
        labels: theirs, booleans (train,).
        test: prompts to read.

    Returns:
        (test,) float64; no log-odds.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.svm import SVC

    # Digits and letters are words here: which one stands for what is part of the prompt.
    vectorizer = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b", binary=True, dtype=float)
    words = vectorizer.fit_transform(train)
    # A control is to find all there is: a weaker penalty than scikit-learn's own, under which few rows teach no pairs.
    classifier = SVC(C=10.0, kernel="poly", degree=2, coef0=1.0).fit(words, labels.bool().numpy())
    return torch.from_numpy(classifier.decision_function(vectorizer.transform(test)))
