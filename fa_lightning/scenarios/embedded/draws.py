"""What an embedded scenario is drawn from: a pair of actions, the facts around it, and who watches."""

import random
from dataclasses import dataclass

from fa_lightning.scenarios.embedded.domains import DOMAINS
from fa_lightning.scenarios.embedded.themes import (
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
from fa_lightning.scenarios.embedded.wordings import (
    GOOD_WORDINGS,
    GOOD_WORDINGS_HELD_OUT,
    ITEMS,
    POOR_WORDINGS,
    POOR_WORDINGS_HELD_OUT,
    TEAMS,
    WATCHERS,
)
from fa_lightning.scenarios.scenario import Fact, Oversight, group_of

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
