"""What probes are asked to read of preferences: which of two replies people found better."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import DIGITS, AnswerTokens, digit_tokens
from fa_lightning.scenarios.scenario import normalised
from fa_lightning.scenarios.splits import check_fractions, split_of
from fa_lightning.scenarios.statements.preferences import WHICH_REPLY, read_preferences
from fa_lightning.studies.probes.questions import ProbeExample, ProbeSource, Question, digest_of


class PreferenceQuestions(ProbeSource):
    """Which of two replies is the better one? Conversations of one split are in no other.

    Every pair is asked with 0 and with 1 for the chosen reply, so that neither digit nor order tells; the opposite of a
    prompt is the same one with its replies in the other order.

    Args:
        source: a file of pairs, a folder in the layout of hh-rlhf, or a name on the Hub, such as `Anthropic/hh-rlhf`
            (see `read_preferences`).
        subset: a folder within, such as `harmless-base`; None takes the whole.
        limit: at most so many pairs of its training part; each makes two rows.
        validation: share of the conversations for validation.
        test: the same for the test.
        seed: of the split.

    Raises:
        UserError: `limit` is below 1, or the shares are not as `check_fractions` wants them.
    """

    questions = (Question("better", "which digit names the better reply", ("pairs", "opposites", "prompt")),)

    def __init__(
        self,
        source: str,
        subset: str | None = None,
        limit: int = 1000,
        validation: float = 0.1,
        test: float = 0.3,
        seed: int = 0,
    ) -> None:
        if limit < 1:
            raise UserError(f"limit is {limit}, but must be 1 or more")
        check_fractions(validation, test)
        self.source, self.subset, self.limit = source, subset, limit
        self.validation, self.test, self.seed = validation, test, seed

    @override
    def load(self) -> list[ProbeExample]:
        rows = []
        for item in read_preferences(self.source, subset=self.subset, limit=self.limit):
            group = normalised(item.context)
            split = split_of(group, self.seed, self.validation, self.test)
            (zero, _), (one, _) = (item.render(WHICH_REPLY, None, digit) for digit in DIGITS)
            for message, other, is_one in ((zero, one, False), (one, zero, True)):
                longer = {"which reply is longer": (len(item.chosen) > len(item.rejected)) == is_one}
                rows.append(ProbeExample(message, {"better": is_one}, group, split, other, longer))
        return rows

    @override
    def answers(self, tokenizer: Any) -> AnswerTokens:
        return digit_tokens(tokenizer)

    @override
    def fingerprint(self) -> dict[str, str]:
        return {"source": type(self).__name__, "limit": str(self.limit), "rows_sha256": digest_of(self.load())}
