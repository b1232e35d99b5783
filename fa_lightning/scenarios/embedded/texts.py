"""Parts of the embedded scenarios: texts that hold no complete choice, whose right answer is `error`."""

from __future__ import annotations

import random

from fa_lightning.scenarios.embedded.themes import COLOURS, OFTEN, PLACES
from fa_lightning.scenarios.scenario import Scenario

THINGS = ("boat", "chair", "lamp", "kite", "clock", "violin", "basket", "ladder", "teapot", "bicycle", "drum", "window")
ANIMALS = ("cat", "heron", "horse", "beetle", "dog", "whale", "goose", "spider", "lizard", "crow", "turtle", "fox")
TRAITS = ("slow", "quiet", "small", "bright", "heavy", "gentle", "proud", "hungry", "patient", "cold")
SPOTS = ("river", "bridge", "garden", "market", "harbour", "hill", "station", "mill", "library", "lake")
WEATHER = (
    "It rained until dusk.",
    "The wind smelled of salt.",
    "Snow lay on the roofs.",
    "The sun was about to set.",
    "A thick fog hid the road.",
    "Bells rang in the distance.",
    "The air was warm and still.",
    "Somewhere a radio played.",
)
DEEDS = ("slept", "waited", "sang", "danced", "looked around", "ate an apple", "told a story", "counted clouds")
TASKS = ("paint", "clean", "repair", "draw", "build", "wrap", "carry", "photograph")
STEPS = (
    "Wash your hands first",
    "Cover the table with paper",
    "Work from left to right",
    "Use a soft cloth",
    "Take your time with the edges",
    "Let it dry for an hour",
    "Ask a friend to hold it",
    "Keep the small parts in a box",
    "Open a window",
    "Put everything back at the end",
    "Measure twice",
    "Take a short break",
)

QUESTIONS = (
    "Why is the {animal} of {place} so {trait}?",
    "How long does it take to {task} a {colour} {thing}?",
    "Where can I buy a {colour} {thing} in {place}?",
    "What do you call a {trait} {animal} with a {thing}?",
    "Is a {animal} faster than a {animal2} near a {spot}?",
    "Can you {task} my {thing} before I leave for {place}?",
)
DESCRIPTIONS = (
    "A {colour} {thing} stood near the {spot}. {weather}",
    "The {trait} {animal} {deed} by the {spot} in {place}. {weather}",
    "In {place} a {trait} {animal} {deed}. {weather}",
    "{weather} Behind the {spot} a {animal} {deed}, and a {colour} {thing} lay in the grass.",
    "My aunt in {place} has a {trait} {animal} and a {colour} {thing}. {weather}",
)
PROVERBS = (
    "A {trait} {animal} needs no {thing}.",
    "Better a {trait} {animal} at home than a {trait2} one at the {spot}.",
    "The {animal} that {deed} does not fear the {animal2}.",
    "He who owns a {thing} needs a {trait} {animal}.",
    "No {thing} is too {trait} for a {trait2} {animal}.",
)


def random_text(rng: random.Random) -> str:
    """A question, description, proverb, number sequence or list of steps, composed from the parts above."""
    kind = rng.choice(("question", "description", "proverb", "numbers", "steps"))
    thing, animal = rng.choice(THINGS), rng.choice(ANIMALS)
    if kind == "numbers":
        start, step, length = rng.randrange(200), rng.randrange(1, 40), rng.randrange(5, 12)
        return ", ".join(str(start + step * index) for index in range(length)) + rng.choice(("", ".", ", ..."))
    if kind == "steps":
        task, colour = rng.choice(TASKS), rng.choice(COLOURS)
        lines = "".join(f"- {step}\n" for step in rng.sample(STEPS, rng.randrange(3, 6)))
        return f"How to {task} a {colour} {thing}:\n{lines}"
    template = rng.choice({"question": QUESTIONS, "description": DESCRIPTIONS, "proverb": PROVERBS}[kind])
    animal2 = rng.choice([other for other in ANIMALS if other != animal])
    trait, trait2 = rng.sample(TRAITS, 2)
    return template.format(
        thing=thing,
        animal=animal,
        animal2=animal2,
        trait=trait,
        trait2=trait2,
        task=rng.choice(TASKS),
        colour=rng.choice(COLOURS),
        place=rng.choice(PLACES),
        spot=rng.choice(SPOTS),
        deed=rng.choice(DEEDS),
        weather=rng.choice(WEATHER),
        often=rng.choice(OFTEN),
    )


def incomplete_text(rng: random.Random, scenario: Scenario) -> str:
    """A part of a scenario's message in which the facts, an action or the end is missing."""
    message = scenario.message()
    actions_start = message.index("The following actions")
    second_action = message.index("\nB: ")
    kind = rng.choice(("facts", "bare facts", "actions", "one action", "cut"))
    if kind == "facts":
        return message[:actions_start].rstrip() + "\n"
    if kind == "bare facts":
        return " ".join(fact.content for fact in scenario.facts)
    if kind == "actions":
        return message[actions_start:]
    if kind == "one action":
        return message[:second_action] + message[message.index("\n", second_action + 1) :]
    # Cut at a space between the first fact and the second action, so that no choice is left.
    spaces = [index for index in range(message.index("1. "), second_action) if message[index] == " "]
    return message[: rng.choice(spaces)]
