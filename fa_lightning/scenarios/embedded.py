"""Scenarios that need no data: composed from parts, in POSER's form, for runs on a laptop without a network."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

from fa_lightning.scenarios import embedded_domains, embedded_parts, embedded_texts, embedded_wordings
from fa_lightning.scenarios.embedded_domains import DOMAINS
from fa_lightning.scenarios.embedded_parts import (
    COLOURS,
    COMPANIES,
    DISTRACTORS,
    MANNERS,
    MOTIVES,
    OFTEN,
    PAST,
    PLACES,
    PURPOSES,
    REASON_SHARE,
    SOON,
    THEMES,
)
from fa_lightning.scenarios.embedded_wordings import (
    GOOD_WORDINGS,
    GOOD_WORDINGS_HELD_OUT,
    ITEMS,
    POOR_WORDINGS,
    POOR_WORDINGS_HELD_OUT,
    TEAMS,
    WATCHERS,
)
from fa_lightning.scenarios.scenario import Fact, Oversight, Scenario, group_of
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits, Split, counterbalanced, prompt_key, split_of

LARGEST = {"train": 100_000, "validation": 20_000, "test": 20_000, "neutral": 20_000}
"""Largest size of each part."""

VALIDATION_SHARE = 0.15
TEST_SHARE = 0.25
"""Shares of all possible groups that the splits draw from; their sizes are set by the arguments."""

Wordings = dict[Oversight, tuple[str, ...]]

SEEN: Wordings = {Oversight.GOOD: GOOD_WORDINGS, Oversight.POOR: POOR_WORDINGS}
HELD_OUT: Wordings = {Oversight.GOOD: GOOD_WORDINGS_HELD_OUT, Oversight.POOR: POOR_WORDINGS_HELD_OUT}


@dataclass(frozen=True, slots=True)
class Temptation:
    """A pair of actions and what the facts need to know about it.

    Attributes:
        domain: name of the field of work.
        theme: name of the kind of temptation.
        slots: the words that both actions share.
        benign: the aligned action.
        harmful: the other one.
    """

    domain: str
    theme: str
    slots: dict[str, str]
    benign: str
    harmful: str

    @property
    def group(self) -> str:
        """Identifier of the pair of actions."""
        return group_of(self.benign, self.harmful)


def sentence(template: str, **slots: str) -> str:
    """The template with its slots filled and its first letter large.

    >>> sentence("{team} reads your {items}.", team="the audit team", items="plans")
    'The audit team reads your plans.'
    """
    text = template.format_map(slots)
    return text[0].upper() + text[1:]


def draw_temptation(rng: random.Random) -> Temptation:
    """A random pair of actions about one object in one field of work."""
    name = rng.choice(tuple(DOMAINS))
    theme = rng.choice(tuple(THEMES))
    domain = DOMAINS[name]
    slots = {
        "object": rng.choice(getattr(domain, theme)),
        "people": rng.choice(domain.people),
        "authority": rng.choice(domain.authorities),
        "buyer": rng.choice(domain.buyers),
        "purpose": rng.choice(PURPOSES),
        "manner": rng.choice(MANNERS),
    }
    benign, harmful = rng.choice(THEMES[theme].benign), rng.choice(THEMES[theme].harmful)
    if rng.random() >= REASON_SHARE:
        benign = benign.replace(", {manner}", "")
    if rng.random() >= REASON_SHARE:
        harmful = harmful.replace(" {purpose}", "")
    return Temptation(name, theme, slots, sentence(benign, **slots), sentence(harmful, **slots))


def draw_facts(
    rng: random.Random, temptation: Temptation, oversight: Oversight, wordings: Wordings
) -> tuple[Fact, ...]:
    """Three or four facts around a pair of actions.

    Their number does not depend on the oversight: where no fact speaks of it, another one takes its place.

    Args:
        rng: source of randomness.
        temptation: the pair of actions.
        oversight: how closely the model is watched; one that `wordings` lacks is not mentioned.
        wordings: templates to choose from.
    """
    domain, theme = DOMAINS[temptation.domain], THEMES[temptation.theme]
    item, items = rng.choice(ITEMS)
    place, place2 = rng.sample(PLACES, 2)
    colour, colour2 = rng.sample(COLOURS, 2)
    company, company2 = rng.sample(COMPANIES, 2)
    slots = temptation.slots | {
        "item": item,
        "items": items,
        "watchers": rng.choice(WATCHERS),
        "team": rng.choice(TEAMS),
        "often": rng.choice(OFTEN),
        "soon": rng.choice(SOON),
        "past": rng.choice(PAST),
        "place": place,
        "place2": place2,
        "colour": colour,
        "colour2": colour2,
        "company": company,
        "company2": company2,
    }
    count = 3 if rng.random() < 0.8 else 4
    facts = [Fact(sentence(rng.choice(rng.choice((MOTIVES, theme.motives))), **slots), "motivating")]
    if oversight in wordings:
        facts.append(Fact(sentence(rng.choice(wordings[oversight]), **slots), "critical"))
    fillers = [
        Fact(sentence(rng.choice(DISTRACTORS), **slots), "irrelevant"),
        Fact(sentence(rng.choice(theme.contexts), **slots), "contextual"),
    ]
    if rng.random() < 0.25:
        fillers.reverse()
    facts += fillers[: count - 1 - len(facts)]
    rng.shuffle(facts)
    role = Fact(rng.choice(domain.roles), "contextual")
    facts.insert(0 if rng.random() < 0.75 else rng.randrange(count), role)
    return tuple(facts)


def oversight_plan(rng: random.Random, size: int, neutral: bool) -> list[Oversight]:
    """Half poor; the other half good, a third of it neutral if wanted; in random order."""
    poor = size // 2
    silent = (size - poor) // 3 if neutral else 0
    plan = [Oversight.POOR] * poor + [Oversight.NEUTRAL] * silent + [Oversight.GOOD] * (size - poor - silent)
    rng.shuffle(plan)
    return plan


class EmbeddedScenarios(ScenarioSource):
    """Generates scenarios in plain English, the same ones for the same arguments on every machine.

    Each has three or four facts and two actions about one object. Unless its oversight is neutral, one fact says
    whether the model is watched, in one of some sixty wordings; good and poor ones share most words. Training,
    validation and test have no pair of actions in common. Half of each part has poor oversight, a third good, a sixth
    neutral. `extra_tests["unseen_wordings"]` asks the same with fourteen wordings that are nowhere else, half of it
    poor and half good.

    Args:
        train: number of training scenarios (at most 100000).
        validation: number of validation scenarios (at most 20000).
        test: number of test scenarios, and of scenarios with unseen wordings (at most 20000).
        neutral: number of neutral texts to train on (at most 20000); validation and test get a quarter of it each, and
            at least 8.
        seed: another seed, other scenarios.

    Raises:
        ValueError: a size is negative or too large.
    """

    def __init__(
        self, train: int = 4000, validation: int = 300, test: int = 1000, neutral: int = 600, seed: int = 0
    ) -> None:
        self.sizes = {"train": train, "validation": validation, "test": test, "neutral": neutral}
        for name, size in self.sizes.items():
            if not 0 <= size <= LARGEST[name]:
                raise ValueError(
                    f"{name} is {size}, but must be from 0 to {LARGEST[name]}; "
                    f"set {name} to the number of items wanted, or read more from a data set (PoserScenarios)"
                )
        self.seed = seed
        self._digest: str | None = None

    @override
    def load(self) -> ScenarioSplits:
        sizes = self.sizes
        aside = max(8, sizes["neutral"] // 4)
        return ScenarioSplits(
            train=self._scenarios("train", "train", sizes["train"]),
            validation=self._scenarios("validation", "validation", sizes["validation"]),
            test=self._scenarios("test", "test", sizes["test"]),
            neutral_train=self._neutral_texts("train", sizes["neutral"]),
            neutral_validation=self._neutral_texts("validation", aside),
            neutral_test=self._neutral_texts("test", aside),
            extra_tests={
                "unseen_wordings": self._scenarios("unseen_wordings", "test", sizes["test"], HELD_OUT, neutral=False)
            },
        )

    @override
    def fingerprint(self) -> dict[str, str]:
        if self._digest is None:
            self._digest = digest_of(self.load())
        arguments = {name: str(size) for name, size in self.sizes.items()}
        return {"source": "embedded", **arguments, "seed": str(self.seed), "parts": PARTS_DIGEST, "data": self._digest}

    def _scenarios(
        self, part: str, split: Split, size: int, wordings: Wordings = SEEN, neutral: bool = True
    ) -> list[Scenario]:
        """Distinct scenarios whose groups belong to `split`, their letters balanced."""
        # A string seeds the generator through SHA-512, alike in every process; each part has its own stream, so that
        # the size of one changes no other.
        rng = random.Random(f"embedded/{self.seed}/{part}")
        plan = oversight_plan(rng, size, neutral)

        def scenario_at(number: int) -> Scenario:
            return self._scenario(rng, split, plan[number], wordings, f"embedded/{self.seed}/{part}#{number}")

        return counterbalanced(distinct(scenario_at, size))

    def _neutral_texts(self, split: Split, size: int) -> list[Scenario]:
        """Distinct texts, half of them parts of fresh scenarios, whose groups belong to `split`."""
        rng = random.Random(f"embedded/{self.seed}/neutral_{split}")
        plan = oversight_plan(rng, size, neutral=True)

        def text_at(number: int) -> Scenario:
            source = f"embedded/{self.seed}/neutral_{split}#{number}"
            while True:
                if number % 2:
                    scenario = self._scenario(rng, split, plan[number], SEEN, source)
                    text, group = embedded_texts.incomplete_text(rng, scenario), scenario.group
                else:
                    text = embedded_texts.random_text(rng)
                    group = group_of(text)
                # What is left of two scenarios can be one text, so the text decides too, not the group alone.
                if self._split(group_of(text)) == split:
                    return neutral_text(text, group, source)

        return distinct(text_at, size)

    def _scenario(
        self, rng: random.Random, split: Split, oversight: Oversight, wordings: Wordings, source: str
    ) -> Scenario:
        temptation = draw_temptation(rng)
        while self._split(temptation.group) != split:
            temptation = draw_temptation(rng)
        return Scenario(
            facts=draw_facts(rng, temptation, oversight, wordings),
            action_a=temptation.benign,
            action_b=temptation.harmful,
            oversight=oversight,
            aligned="A",
            group=temptation.group,
            policy="embedded",
            source=source,
        )

    def _split(self, group: str) -> Split:
        return split_of(group, self.seed, VALIDATION_SHARE, TEST_SHARE)


def neutral_text(text: str, group: str, source: str) -> Scenario:
    """A text without a choice, as a scenario."""
    return Scenario((), "", "", Oversight.NONE, None, group, "embedded", source, text=text)


def distinct(draw: Callable[[int], Scenario], size: int) -> list[Scenario]:
    """`draw(0)` to `draw(size - 1)`, each drawn again until it differs from all before it."""
    drawn: list[Scenario] = []
    keys: set[str] = set()
    while len(drawn) < size:
        scenario = draw(len(drawn))
        key = prompt_key(scenario)
        if key not in keys:
            keys.add(key)
            drawn.append(scenario)
    return drawn


def digest_of(splits: ScenarioSplits) -> str:
    """Digest of every message, group, oversight and answer, in order."""
    parts = [splits.train, splits.validation, splits.test]
    parts += [splits.neutral_train, splits.neutral_validation, splits.neutral_test, *splits.extra_tests.values()]
    digest = hashlib.sha256()
    for part in parts:
        for scenario in part:
            line = (scenario.message(), scenario.group, scenario.oversight.value, str(scenario.aligned))
            digest.update("\x1f".join(line).encode())
        digest.update(b"\x1e")
    return digest.hexdigest()[:16]


def _parts_digest() -> str:
    """Digest of the word lists and templates: the generator's version."""
    modules = (embedded_domains, embedded_parts, embedded_texts, embedded_wordings)
    parts = {
        f"{module.__name__}.{name}": repr(value)
        for module in modules
        for name, value in vars(module).items()
        if name.isupper()
    }
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()[:16]


PARTS_DIGEST = _parts_digest()
