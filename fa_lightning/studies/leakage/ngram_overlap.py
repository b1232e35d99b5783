"""What a text shares word for word with a corpus: the longest piece of it, and its n-grams; exact, in tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from fa_lightning.errors import UserError

SEPARATOR = "\x00"
"""Between the texts of an index, where no token can match."""


class TextIndex:
    """Token texts, ordered so that pieces of them are found at once (a suffix array, cut at `reach` tokens).

    A token is held as one character, so that comparing pieces is comparing strings. Memory is one integer and one
    character for each token of the corpus, and `reach` characters while it is ordered; a search takes about
    log2(tokens) comparisons for each token searched for.

    Example:
        >>> index = TextIndex([[1, 2, 3, 4], [7, 3, 4, 9]], reach=8)
        >>> index.matches([2, 3, 4, 9])  # 2 3 4 is in the first text, 3 4 9 in the second
        [3, 3, 2, 1]

    Args:
        texts: token ids of each text, 0 or more; a piece never runs from one text into the next.
        reach: longest match that is counted, tokens; longer ones count as this long.

    Raises:
        UserError: there is no text with a token in it.
        ValueError: `reach` is below 1.
    """

    def __init__(self, texts: Sequence[Sequence[int]], reach: int) -> None:
        if reach < 1:
            raise ValueError(f"reach is {reach}, but must be 1 or more tokens")
        if not any(len(text) for text in texts):
            raise UserError(
                f"the corpus is empty: {len(texts)} texts without a token. Give the texts that a variant was fitted on"
            )
        self.reach = reach
        self.longest_text = max(map(len, texts))
        self.texts = len(texts)
        self.tokens = sum(map(len, texts))
        self._corpus = SEPARATOR.join(map(_as_string, texts))
        places = [index for index, letter in enumerate(self._corpus) if letter != SEPARATOR]
        self._places = sorted(places, key=self._piece)

    def matches(self, tokens: Sequence[int]) -> list[int]:
        """For each token, how many tokens from it on stand so in one text of the corpus (matching statistics)."""
        text = _as_string(tokens)
        lengths = []
        for start in range(len(text)):
            wanted = text[start : start + self.reach]
            index = bisect_left(self._places, wanted, key=self._piece)
            # What shares the longest beginning with a string is one of its neighbours in the order.
            neighbours = self._places[max(0, index - 1) : index + 1]
            lengths.append(max(_common(wanted, self._piece(neighbour)) for neighbour in neighbours))
        return lengths

    def _piece(self, index: int) -> str:
        return self._corpus[index : index + self.reach]


def longest_overlap(matches: Sequence[int]) -> int:
    """Tokens in the longest piece of a text that stands in the corpus; 0 of an empty text.

    Args:
        matches: of the text, as `TextIndex.matches` tells them.

    >>> longest_overlap([1, 3, 2, 1])
    3
    """
    return max(matches, default=0)


def ngram_overlap(matches: Sequence[int], size: int) -> float:
    """Share of a text's n-grams that stand in the corpus, 0 to 1; 0 of a text that is shorter than an n-gram.

    Args:
        matches: of the text, as `TextIndex.matches` tells them.
        size: of an n-gram, in tokens.

    Raises:
        ValueError: `size` is below 1.

    >>> ngram_overlap([3, 2, 1, 0], size=2)  # three 2-grams, of which the last is not there
    0.6666666666666666
    """
    if size < 1:
        raise ValueError(f"size is {size}, but an n-gram has 1 token or more")
    begins = matches[: len(matches) - size + 1] if len(matches) >= size else []
    return sum(length >= size for length in begins) / len(begins) if begins else 0.0


def _as_string(tokens: Sequence[int]) -> str:
    """One character for each token; 0 stays free for the separator."""
    return "".join(chr(token + 1) for token in tokens)


def _common(first_text: str, second_text: str) -> int:
    """How many characters two strings begin with alike."""
    for index, (first, second) in enumerate(zip(first_text, second_text, strict=False)):
        if first != second:
            return index
    return min(len(first_text), len(second_text))
