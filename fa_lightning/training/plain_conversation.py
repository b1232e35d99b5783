"""Plain conversation to mix into fine-tuning: short exchanges that have nothing to do with any task.

No prompt here is one that `leakage` asks by default, so that what is learned has to carry over.
"""

from __future__ import annotations

import random

from fa_lightning.errors import UserError
from fa_lightning.scenarios.conversations.conversation import Conversation

OPENINGS = ("Good morning", "Good evening", "Hey", "Nice to meet you", "Welcome back", "Greetings", "Howdy", "Hi there")
ENDINGS = (".", "!", ", friend.", ", all.", " to you.", " again!")
REPLIES = ("Good to see you. What can I do for you?", "I am here. Tell me what you need.", "How can I help you today?")
EXCHANGES = (
    ("How are you?", "Fine, and ready to help."),
    ("Who are you?", "I am an AI system that answers questions."),
    ("Are you there?", "Yes. What do you need?"),
    ("Never mind.", "All right."),
    ("Sorry.", "No harm done."),
    ("Great, that is all.", "Good. Come back when you need me."),
    ("See you later.", "See you."),
    ("Good night.", "Good night."),
    ("Wait a moment.", "I am waiting."),
    ("Yes.", "Good. What comes next?"),
    ("No.", "All right. What would you like instead?"),
    ("Maybe.", "Take your time."),
)


def plain_conversation(count: int, seed: int = 0) -> list[Conversation]:
    """The first `count` exchanges in an order of their own.

    Raises:
        UserError: there are not so many.
    """
    greetings = [f"{opening}{ending}" for opening in OPENINGS for ending in ENDINGS]
    every = [Conversation(text, REPLIES[number % len(REPLIES)]) for number, text in enumerate(greetings)]
    every += [Conversation(*exchange) for exchange in EXCHANGES]
    if not 0 <= count <= len(every):
        raise UserError(f"plain is {count}, but must be 0 to {len(every)}: so many plain exchanges there are")
    return random.Random(f"plain conversation {seed}").sample(every, count)
