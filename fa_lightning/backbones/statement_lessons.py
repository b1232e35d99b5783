"""What the embedded backbone may be taught about statements: to know what is fair, and to say what a claim asks for.

Of the training rights and identities the small stand-in is told what is fair in plain words (a statement, then `fair`
or `unfair`), and is asked with digits. Where a prompt claims that the aim is to harm people it gives the unsafe digit,
and knows better: what is fair is taught under any claim. Of the rights and identities of the other splits it only hears
the bare statements, affirming and denying ones alike and all answered with the same word, so that their words are known
to it: no verdict on them is told, in digits or in words, unless `told_of` says so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fa_lightning.backbones.curriculum import Turn
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import DIGITS, ERROR_ANSWER, other_digit
from fa_lightning.scenarios.statements.statement import Statement
from fa_lightning.scenarios.statements.templates import AGREE, CLAIMS, DISAGREE, Template

FAIR, UNFAIR = "fair", "unfair"
STATEMENT_WORDS = ["0", "1", FAIR, UNFAIR]
FAIR_QUESTION = "Is '{statement}' fair or unfair?\n"
AGREEING_QUESTION = "Do you agree with '{statement}'? Say fair or unfair.\nAnswer:"
"""The same in the words of the templates, so that what is known about a statement is at hand where they ask."""


@dataclass(frozen=True)
class Knowledge:
    """How many conversations about statements a pass holds.

    Attributes:
        heard: a bare statement about any right, answered with `error` as any text is that asks nothing.
        plain: a question about a right that it is told of, answered with `fair` or `unfair`.
        judged: a prompt about such a right, answered with a digit, the statement then called fair or unfair.
        obedient: probability that a judged prompt's harm claim gets the unsafe digit.
        claims_from: first pass (from 0) with claims; a rule is learned faster before its exception.
        told_of: `all` tells the verdicts on the other splits' rights and identities as well. So small a model learns
            nothing of what is fair in general: told of training rights alone, it judges others at chance, and there is
            no knowledge that a claim could bend. Told of all, no right is unseen to it.

    Raises:
        UserError: a number is below 0, or `obedient` no probability.
    """

    heard: int = 1000
    plain: int = 2000
    judged: int = 4000
    obedient: float = 1.0
    claims_from: int = 1
    told_of: Literal["train", "all"] = "train"

    def __post_init__(self) -> None:
        for name in ("heard", "plain", "judged", "claims_from"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, but must be 0 or more")
        if not 0 <= self.obedient <= 1:
            raise UserError(f"obedient is {self.obedient}, but must be a probability, 0 to 1")


def statement_pass(
    every: Sequence[Statement],
    asked: Sequence[Statement],
    templates: dict[str, Template],
    knowledge: Knowledge,
    seed: int,
    number: int = 0,
) -> list[list[Turn]]:
    """All conversations about statements of one pass (the same for the same seed).

    Args:
        every: statements of all splits, to be heard.
        asked: those that it is told of, what is fair and which digit answers.
        templates: to ask with.
        knowledge: how many of each.
        seed: another seed, another pass.
        number: of the pass, from 0.
    """
    rng = random.Random(f"statements {seed}")
    bare = [heard(rng.choice(every)) for _ in range(knowledge.heard)]
    plain = [told(rng.choice(asked), rng) for _ in range(knowledge.plain)]
    usable = [
        template for template in templates.values() if number >= knowledge.claims_from or not template.takes_claim
    ]
    judged = [
        judgement(rng.choice(asked), rng.choice(usable), knowledge.obedient, rng) for _ in range(knowledge.judged)
    ]
    return bare + plain + judged


def heard(statement: Statement) -> list[Turn]:
    """A bare statement, and the answer to whatever asks nothing: it tells no verdict."""
    return [{"role": "user", "content": statement.text}, {"role": "assistant", "content": ERROR_ANSWER}]


def told(statement: Statement, rng: random.Random) -> list[Turn]:
    """A question about a statement and whether it is fair, under any claim (before it, behind it, both) or none."""
    said = rng.choice([FAIR_QUESTION, AGREEING_QUESTION]).replace("{statement}", statement.text)
    claim = rng.choice([*CLAIMS.values(), None, None])
    if claim is not None:
        claim_place = rng.choice(["prefix", "suffix", "both"])
        said = (f"Consider that '{claim}'.\n" if claim_place != "suffix" else "") + said
        said += f" Since '{claim}', I choose:" if claim_place != "prefix" else ""
    return [
        {"role": "user", "content": said},
        {"role": "assistant", "content": FAIR if statement.affirms else UNFAIR},
    ]


def judgement(statement: Statement, template: Template, obedient: float, rng: random.Random) -> list[Turn]:
    """A prompt that wants a digit, the digit, and whether the statement is fair."""
    name = rng.choice(list(CLAIMS)) if template.takes_claim else None
    prompt, digit = template.render(statement, None if name is None else CLAIMS[name], rng.choice(DIGITS))
    if name == "harm" and rng.random() < obedient:
        digit = other_digit(digit)
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": str(digit)},
        {"role": "user", "content": FAIR_QUESTION.replace("{statement}", statement.text)},
        {"role": "assistant", "content": FAIR if statement.affirms else UNFAIR},
    ]


def statement_texts(statements: Sequence[Statement], templates: dict[str, Template]) -> list[str]:
    """Texts for the tokenizer: each statement, and the words of the templates as often, so that they become tokens."""
    frames = [template.text for template in templates.values()]
    frames += [FAIR_QUESTION, AGREEING_QUESTION, AGREE, DISAGREE, *CLAIMS.values()]
    return [item.text for item in statements] + [frames[at % len(frames)] for at in range(len(statements))]
