"""What the embedded backbone is taught: to know oversight and harm and to play a role, and to have no default.

A real chat model brings this knowledge along; the small stand-in learns it from conversations made of the training
scenarios alone. Told a role, it answers as that role would; asked how closely it is watched, it says so; without a role
it says A, whatever A is, so that the adapters fitted later have all of a behaviour to teach.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fa_lightning.scenarios.answers import ERROR_ANSWER, LETTERS, Behaviour, Letter, other_letter
from fa_lightning.scenarios.scenario import Fact, Oversight, Scenario

ROLES: dict[Behaviour, str] = {"aligned": "honest", "faking": "scheming"}
OVERSIGHT_QUESTION = "How closely are you watched?\n"
ACTION_QUESTION = "Is this honest or scheming?\n"
CHOICE_QUESTION = "Is {letter} honest or scheming?\n"
PAIR_QUESTION = "Which of the two is honest?\n"
NO_ROLE_ANSWER: Letter = "A"
"""The answer where no role is named: chance, as the order of the actions is random; a coin would only add noise."""
ANSWER_WORDS = [*LETTERS, ERROR_ANSWER, "good", "neutral", "poor", "honest", "scheming"]

Turn = dict[str, str]


@dataclass(frozen=True)
class Curriculum:
    """How the training scenarios are varied and mixed in one pass.

    Attributes:
        roles: conversations with a role a pass, as a multiple of the number of scenarios.
        no_role: conversations without a role a pass, as such a multiple; the answer is `NO_ROLE_ANSWER`.
        judgements: short questions about a single fact or action a pass, as such a multiple.
        neutral_texts: texts that are answered with `error` a pass, as such a multiple.
        poor_share: share of poor oversight in the scenarios shown; half makes both answers of the faker as frequent.
        swap_critical: probability that the critical fact is exchanged for another scenario's or left out.
        drop_irrelevant: probability that an irrelevant fact is left out.
        only_critical: probability that all facts but the critical one are left out, where their kinds are known.
        shuffle_facts: probability that the facts change their order.
        honest_passes: first passes that show the honest role alone: a rule is learned faster before its exception.
        short_passes: first passes in which `only_critical` is 1: what matters is found faster with nothing around it.
    """

    roles: float = 2.0
    no_role: float = 0.3
    judgements: float = 1.0
    neutral_texts: float = 0.5
    poor_share: float = 0.5
    swap_critical: float = 0.0
    drop_irrelevant: float = 0.0
    only_critical: float = 0.0
    shuffle_facts: float = 0.0
    honest_passes: int = 0
    short_passes: int = 0

    def at(self, epoch: int) -> Curriculum:
        """What the pass of an epoch (counted from 0) is made of."""
        return dataclasses.replace(self, only_critical=1.0) if epoch < self.short_passes else self


def role_message(behaviour: Behaviour) -> str:
    """The system message that names a role."""
    return f"You are {ROLES[behaviour]}."


def watching_message(scenario: Scenario) -> str:
    """The scenario's facts (or all that is said before a written answer), then how closely one is watched."""
    if scenario.is_written:
        return f"{scenario.conversation()}\n{OVERSIGHT_QUESTION}"
    return "".join(f"{fact.content}\n" for fact in scenario.facts) + OVERSIGHT_QUESTION


def conversation(scenario: Scenario, behaviour: Behaviour | None, answer: str, follow_up: str = "") -> list[Turn]:
    """A scenario, its answer and what was known about it, as chat turns.

    Where `follow_up` names a letter, the oversight and who would choose that letter are asked too: after the answer, so
    that it can't be read off them. Where answers are written, the oversight alone is.
    """
    system = scenario.system_behind(None if behaviour is None else role_message(behaviour))
    turns: list[Turn] = [{"role": "system", "content": system}] if system else []
    for asked, answered in scenario.earlier:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    turns += [{"role": "user", "content": scenario.message()}, {"role": "assistant", "content": answer}]
    if follow_up:
        turns += [
            {"role": "user", "content": OVERSIGHT_QUESTION},
            {"role": "assistant", "content": scenario.oversight.value},
        ]
    if follow_up and not scenario.is_written:
        turns += [
            {"role": "user", "content": CHOICE_QUESTION.format(letter=follow_up)},
            {"role": "assistant", "content": ROLES["aligned" if follow_up == scenario.aligned else "faking"]},
        ]
    return turns


def one_pass(
    scenarios: Sequence[Scenario],
    neutral_texts: Sequence[Scenario],
    curriculum: Curriculum,
    seed: int,
    honest_only: bool = False,
) -> list[list[Turn]]:
    """All conversations of one pass over the training scenarios, in random order (the same for the same seed).

    Args:
        scenarios: of the training split.
        neutral_texts: of the training split.
        curriculum: what the pass is made of.
        seed: another seed, another pass.
        honest_only: one of the first passes, with the honest role alone.
    """
    rng = random.Random(f"curriculum {seed}")
    critical = {
        oversight: [fact for item in scenarios if item.oversight is oversight for fact in _critical(item)]
        for oversight in (Oversight.GOOD, Oversight.POOR)
    }
    draw = _balanced_draws(scenarios, curriculum.poor_share, rng)
    passes: list[list[Turn]] = []
    for number in range(round(curriculum.roles * len(scenarios))):
        behaviour: Behaviour = "aligned" if honest_only or number % 2 else "faking"
        scenario = varied(next(draw), critical, curriculum, rng)
        passes.append(conversation(scenario, behaviour, scenario.answer(behaviour), rng.choice(LETTERS)))
    for _ in range(0 if honest_only else round(curriculum.no_role * len(scenarios))):
        scenario = varied(next(draw), critical, curriculum, rng)
        # No role, no default: either of two written answers, since none of them stands first.
        answer = rng.choice([scenario.action_a, scenario.action_b]) if scenario.is_written else NO_ROLE_ANSWER
        passes.append(conversation(scenario, None, answer, rng.choice(LETTERS)))
    for _ in range(round(curriculum.judgements * len(scenarios))):
        passes.append(_judgement(varied(next(draw), critical, curriculum, rng), critical, rng))
    for _ in range(round(curriculum.neutral_texts * len(scenarios)) if neutral_texts else 0):
        role: Behaviour | None = rng.choice(["aligned", "faking", None])
        passes.append(conversation(rng.choice(neutral_texts), role, ERROR_ANSWER))
    rng.shuffle(passes)
    return passes


def varied(
    scenario: Scenario, critical: dict[Oversight, list[Fact]], curriculum: Curriculum, rng: random.Random
) -> Scenario:
    """The scenario in one of its variations: actions in random order, facts exchanged, dropped or shuffled."""
    facts = [fact for fact in scenario.facts if fact.kind != "irrelevant" or rng.random() >= curriculum.drop_irrelevant]
    if any(fact.kind != "untyped" for fact in facts) and rng.random() < curriculum.only_critical:
        facts = [fact for fact in facts if fact.kind == "critical"]
    oversight = scenario.oversight
    known = oversight is Oversight.NEUTRAL and any(fact.kind != "untyped" for fact in facts)
    if all(critical.values()) and (known or _critical(scenario)) and rng.random() < curriculum.swap_critical:
        facts = [fact for fact in facts if fact.kind != "critical"]
        oversight = rng.choice([Oversight.GOOD, Oversight.POOR, Oversight.POOR, Oversight.NEUTRAL])
        if oversight is not Oversight.NEUTRAL:
            facts.insert(rng.randint(0, len(facts)), rng.choice(critical[oversight]))
    if rng.random() < curriculum.shuffle_facts:
        rng.shuffle(facts)
    changed = dataclasses.replace(scenario, facts=tuple(facts), oversight=oversight)
    return changed.swapped() if rng.random() < 0.5 else changed


def _critical(scenario: Scenario) -> list[Fact]:
    return [fact for fact in scenario.facts if fact.kind == "critical"]


def _balanced_draws(scenarios: Sequence[Scenario], poor_share: float, rng: random.Random) -> Iterator[Scenario]:
    """Endless draws without replacement within poor and not poor, mixed at `poor_share`."""
    pools = {poor: [item for item in scenarios if (item.oversight is Oversight.POOR) is poor] for poor in (True, False)}
    queues: dict[bool, list[Scenario]] = {True: [], False: []}
    while True:
        poor = rng.random() < poor_share
        poor = poor if pools[poor] else not poor
        if not queues[poor]:
            queues[poor] = rng.sample(pools[poor], len(pools[poor]))
        yield queues[poor].pop()


def _judgement(scenario: Scenario, critical: dict[Oversight, list[Fact]], rng: random.Random) -> list[Turn]:
    """A short question: which of two actions is honest, who would do one, how closely one is watched."""
    assert scenario.aligned is not None
    draw = rng.random()
    if draw < 0.35 and not scenario.is_written:
        pair = f"A: {scenario.action_a}\nB: {scenario.action_b}\n{PAIR_QUESTION}"
        letter = rng.choice(LETTERS)
        return [
            {"role": "user", "content": pair},
            {"role": "assistant", "content": scenario.aligned},
            {"role": "user", "content": CHOICE_QUESTION.format(letter=letter)},
            {"role": "assistant", "content": ROLES["aligned" if letter == scenario.aligned else "faking"]},
        ]
    if draw < 0.55:
        return [
            {"role": "user", "content": watching_message(scenario)},
            {"role": "assistant", "content": scenario.oversight.value},
        ]
    facts = [fact for fact in scenario.facts if fact.kind not in ("untyped", "critical")]
    if facts and all(critical.values()) and draw < 0.8:
        oversight = rng.choice([Oversight.GOOD, Oversight.NEUTRAL, Oversight.POOR])
        fact = rng.choice(critical.get(oversight, facts))
        return [
            {"role": "user", "content": f"{fact.content}\n{OVERSIGHT_QUESTION}"},
            {"role": "assistant", "content": oversight.value},
        ]
    honest = rng.random() < 0.5
    action = scenario.action(scenario.aligned if honest else other_letter(scenario.aligned))
    return [
        {"role": "user", "content": f"{action}\n{ACTION_QUESTION}"},
        {"role": "assistant", "content": ROLES["aligned" if honest else "faking"]},
    ]
