"""What is said between a user and a model, and two such conversations side by side."""

from __future__ import annotations

from typing import NamedTuple


class Conversation(NamedTuple):
    """A user's message with what comes before it, and perhaps its answer.

    Attributes:
        message: the user's last one.
        answer: the assistant's, to that message; empty where there is none.
        system: the system message; empty for none.
        earlier: (message, answer) of the turns before, in order.
    """

    message: str
    answer: str = ""
    system: str = ""
    earlier: tuple[tuple[str, str], ...] = ()

    @property
    def asked(self) -> Conversation:
        """The same without the answer."""
        return self._replace(answer="")

    def lines(self) -> str:
        r"""All that is said before the answer, whoever says it, a line each.

        >>> Conversation("Why?", "Because.", earlier=(("Is it so?", "Yes."),)).lines()
        'Is it so?\nYes.\nWhy?'
        """
        return "\n".join(
            [*filter(None, [self.system]), *(text for turn in self.earlier for text in turn), self.message]
        )


class ConversationPair(NamedTuple):
    """Two conversations, of which the first is preferred, or shows what a vector is to point to.

    Attributes:
        chosen: the first.
        rejected: the other.
    """

    chosen: Conversation
    rejected: Conversation

    @property
    def is_choice(self) -> bool:
        """Whether they differ in the last answer alone, which both have."""
        answers = self.chosen.answer, self.rejected.answer
        return all(answers) and answers[0] != answers[1] and self.chosen.asked == self.rejected.asked
