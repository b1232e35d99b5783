"""What a model is asked to judge: statements that affirm or deny a right of some people, split by both."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fa_lightning.errors import UserError
from fa_lightning.scenarios.scenario import normalised
from fa_lightning.scenarios.splits import SPLITS, LeakReport, Split, check_fractions

PEOPLE = "{people}"
"""Where a right's wording names whom it is about."""


@dataclass(frozen=True, slots=True)
class Right:
    """One right in its two wordings.

    Attributes:
        name: the article's number, a dot and the right's place in the article, as `13.2`.
        affirmed: wording that a safe model agrees with, with `{people}` in it.
        denied: wording that a safe model disagrees with, with `{people}` in it.
    """

    name: str
    affirmed: str
    denied: str


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence to judge.

    Attributes:
        text: the sentence.
        opposite: the sentence of the other polarity about the same right and people.
        right: name of the right, as `13.2`.
        identity: whom it is about, as `trans women`.
        identity_group: the group that the identity belongs to, as `Gender Identity`.
        affirms: whether it affirms the right, which is whether a safe model agrees.
    """

    text: str
    opposite: str
    right: str
    identity: str
    identity_group: str
    affirms: bool

    def reversed(self) -> Statement:
        """The statement of the other polarity about the same right and people."""
        return replace(self, text=self.opposite, opposite=self.text, affirms=not self.affirms)

    @property
    def article(self) -> str:
        """The article that the right belongs to; splits never separate its rights, which are near in meaning."""
        return self.right.partition(".")[0]


@dataclass(slots=True)
class StatementSplits:
    """Three parts that share neither an article (so no right) nor an identity."""

    train: list[Statement]
    validation: list[Statement]
    test: list[Statement]

    def statements(self, split: Split) -> list[Statement]:
        """The statements of one split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def leak_report(self) -> LeakReport:
        """Count the texts (as prompts) and the articles and identities (as groups) that two splits share."""
        texts = {split: {normalised(item.text) for item in self.statements(split)} for split in SPLITS}
        groups = {
            split: {f"{kind} {name}" for item in self.statements(split) for kind, name in _held_together(item)}
            for split in SPLITS
        }
        pairs = list(itertools.combinations(SPLITS, 2))
        return LeakReport(
            shared_prompts={(left, right): len(texts[left] & texts[right]) for left, right in pairs},
            shared_groups={(left, right): len(groups[left] & groups[right]) for left, right in pairs},
        )


def statements_about(rights: Iterable[Right], identities: Iterable[tuple[str, str]]) -> list[Statement]:
    """Every right affirmed and denied for every identity, right by right.

    Args:
        rights: the rights.
        identities: pairs of an identity and its group.

    Raises:
        UserError: a wording does not say `{people}`.

    >>> pair = statements_about([Right("3.1", "{people} may live", "{people} must die")], [("cooks", "jobs")])
    >>> [(item.text, item.affirms) for item in pair]
    [('cooks may live', True), ('cooks must die', False)]
    """
    known = list(identities)
    statements: list[Statement] = []
    for right in rights:
        for wording in (right.affirmed, right.denied):
            if PEOPLE not in wording:
                raise UserError(
                    f"right {right.name} is worded {wording!r}, but a wording must say {PEOPLE} where its people stand"
                )
        for identity, group in known:
            yes, no = (wording.replace(PEOPLE, identity) for wording in (right.affirmed, right.denied))
            statements.append(Statement(yes, no, right.name, identity, group, affirms=True))
            statements.append(Statement(no, yes, right.name, identity, group, affirms=False))
    return statements


def split_statements(
    statements: Sequence[Statement], seed: int = 0, validation: float = 0.2, test: float = 0.3
) -> StatementSplits:
    """Split by article and by identity at once.

    A statement is kept where its article and its identity fall into the same split; all others would share one of
    the two with another split and are left out. Identities are drawn within their groups, so that each split has
    identities of every group that is large enough.

    Args:
        statements: affirming and denying ones.
        seed: another seed, another split.
        validation: share of the articles, and of the identities, for validation.
        test: the same for the test.

    Raises:
        UserError: the shares are not as `check_fractions` wants them, or a split that was asked for is empty.
    """
    check_fractions(validation, test)
    articles = drawn_splits({item.article: "" for item in statements}, seed, validation, test)
    identities = drawn_splits({item.identity: item.identity_group for item in statements}, seed, validation, test)
    splits = StatementSplits([], [], [])
    for item in statements:
        split = articles[item.article]
        if identities[item.identity] == split:
            splits.statements(split).append(item)
    wanted: dict[Split, float] = {"train": 1.0, "validation": validation, "test": test}
    for split, share in wanted.items():
        if share and not splits.statements(split):
            raise UserError(
                f"{split} is empty: {len(articles)} articles and {len(identities)} identities are too few for "
                f"validation={validation} and test={test}; give larger shares or more of them"
            )
    return splits


def drawn_splits(groups: dict[str, str], seed: int, validation: float, test: float) -> dict[str, Split]:
    """The split of each name: within its group, names are ranked by hash and cut at the shares.

    Args:
        groups: the group of each name.
        seed: another seed, another ranking.
        validation: share for validation.
        test: share for the test.

    >>> drawn = drawn_splits({str(number): "" for number in range(10)}, 0, 0.2, 0.3)
    >>> [list(drawn.values()).count(split) for split in ("train", "validation", "test")]
    [5, 2, 3]
    """
    members: defaultdict[str, list[str]] = defaultdict(list)
    for name, group in groups.items():
        members[group].append(name)
    drawn: dict[str, Split] = {}
    for names in members.values():
        names.sort(key=lambda name: hashlib.sha256(f"{seed}\x1f{name}".encode()).hexdigest())
        for rank, name in enumerate(names):
            share = (rank + 0.5) / len(names)
            drawn[name] = "test" if share < test else "validation" if share < test + validation else "train"
    return drawn


def limited_statements(statements: Sequence[Statement], limit: int | None) -> list[Statement]:
    """At most `limit` statements, affirming and denying in pairs, spread over rights and identities; None takes all.

    A smaller draw is the beginning of a larger one, and does not depend on the order of the list.

    Args:
        statements: affirming and denying ones.
        limit: the most to keep.

    Raises:
        UserError: the limit is below 2.
    """
    if limit is None:
        return list(statements)
    if limit < 2:
        raise UserError(f"limit is {limit}, but must be 2 or more: statements are kept in pairs of both polarities")

    def draw(item: Statement) -> tuple[str, bool]:
        return hashlib.sha256(f"{item.right}\x1f{item.identity}".encode()).hexdigest(), item.affirms

    return sorted(statements, key=draw)[: limit - limit % 2]


def _held_together(item: Statement) -> tuple[tuple[str, str], ...]:
    return (("right", item.right), ("article", item.article), ("identity", item.identity))
