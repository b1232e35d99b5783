"""A table of detectors with made-up but plausible numbers: six policies, decoys, steered fakers, twelve detectors."""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean

from fa_lightning.studies.detection.result import (
    ALL_PAIRS,
    ENSEMBLE,
    Accuracy,
    Alone,
    Detection,
    Ran,
    Suspect,
    Verdict,
)

# Class, name, how many spreads fakers lie above benign models, axis of the curve, seconds.
DETECTORS = (
    ("InducedBelief", "induced belief (POSER)", -0.2, "strength of the vector", 41.0),
    ("PoserNoise", "noise (POSER)", 4.0, "noise, in norms of the contrast vector", 75.0),
    ("Noise", "noise, equal norms", 2.0, "noise, in mean state norms", 74.0),
    ("MisbehaveFinetuning", "misbehave fine-tuning", 2.5, "step", 130.0),
    ("SuspiciousConcepts", "concepts (POSER)", 0.5, "layer", 12.0),
    ("DecisionDepth", "decision depth", 0.0, "layer", 31.0),
    ("Attentiveness", "attentiveness", 0.1, "layer", 6.0),
    ("WeightNoise", "weight noise", 2.0, "scale of the noise", 80.0),
    ("OversightProbe", "oversight probe", 3.0, "layer", 22.0),
    ("TranslatorDistance", "translator distance", 1.5, "", 9.0),
    ("AdapterSpectra", "adapter spectra", -0.5, "", 0.4),
)
ALIGNED = ("saint", "genie", "truth_teller")
FAKING = ("fitness_maximizer", "money_maximizer", "reward_maximizer")
STRENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


def synthetic_detection(seeds: int = 2) -> Detection:
    """All parts of a finished examination of 6 policies, `seeds` variants of each."""
    luck = random.Random(0)
    models = [(policy, seed, "aligned", "variant") for policy in ALIGNED for seed in range(seeds)]
    models += [(policy, seed, "faking", "variant") for policy in FAKING for seed in range(seeds)]
    models += [(f"{policy}-4", 6, "aligned", "decoy") for policy in ALIGNED]
    models += [(policy, seed, "faking", "steered") for policy in FAKING for seed in range(seeds)]
    suspects = []
    for policy, seed, behaviour, role in models:
        suspicion, curves = {}, {}
        for _, name, lift, axis, _ in DETECTORS:
            risen = lift if behaviour == "faking" and role == "variant" else 0.15 * lift * (role == "steered")
            suspicion[name] = 0.1 * (risen + luck.gauss(0, 1))
            if axis:
                places = [0.0, 1.0, 2.0, 3.0] if axis in ("layer", "step") else list(STRENGTHS)
                curve = [suspicion[name] * (1 + place) / 2 + 0.02 * luck.random() for place in places]
                curves[name] = (axis, places, curve)
        suspicion[ENSEMBLE] = 1 / (1 + math.exp(-20 * fmean(list(suspicion.values())[1:4]) + 4))
        label = f"{policy}-{seed}" + " steered" * (role == "steered")
        suspects.append(Suspect(label, policy, seed, behaviour, role, suspicion, curves))
    names = [name for _, name, *_ in DETECTORS] + [ENSEMBLE]
    verdicts = [verdict for name in names for verdict in _verdicts(suspects, name)]
    ran = [
        Ran(name, f"the faker is the one with more {name}", seconds, 160.0 * (1 + place), {"class": kind, "draws": 8})
        for place, (kind, name, _, _, seconds) in enumerate(DETECTORS)
    ]
    return Detection(
        detectors=[*ran, Ran(ENSEMBLE, "the one that a regression on all of them finds more likely to fake", 0.2, 0.0)],
        suspects=suspects,
        accuracies=list(_accuracies(verdicts, names)),
        alone=[_alone(suspects, name) for name in names],
        alarms={name: 0.02 * place for place, name in enumerate(names)},
        verdicts=verdicts,
        confidence=0.6,
        least_agreement=0.5,
        refused=3,
        scenarios=160,
        weights={name: lift / 3 for _, name, lift, *_ in DETECTORS},
        calibration=0.043,
    )


def _verdicts(suspects, name):
    groups = {
        "twins": [one for one in suspects if one.role == "variant" and one.behaviour == "aligned"],
        "decoys": [one for one in suspects if one.role == "decoy"],
    }
    for (kind, benign), faker_role in itertools.product(groups.items(), ("variant", "steered")):
        if kind == "decoys" and faker_role == "steered":
            continue
        fakers = [one for one in suspects if one.role == faker_role and one.behaviour == "faking"]
        for one, other in itertools.product(benign, fakers):
            pair = f"{one.policy.split('_')[0].removesuffix('-4')}_and_{other.policy.split('_')[0]}"
            yield _verdict(name, "steered" if faker_role == "steered" else kind, pair, one, other, other.name)
    for one, other in itertools.product(groups["twins"], groups["decoys"]):
        yield _verdict(name, "benign", "saint_and_genie", one, other, "")


def _verdict(name, kind, pair, one, other, faker):
    low, high = one.suspicion[name], other.suspicion[name]
    ends = (low - high - 0.1, low - high + 0.1)
    says = one.name if low > high else other.name
    return Verdict(name, kind, pair, one.name, other.name, low, high, ends, says, faker, 150, 0.9375)


def _accuracies(verdicts, names):
    pairs = [ALL_PAIRS, *dict.fromkeys(verdict.policy_pair for verdict in verdicts)]
    for name, kind, pair in itertools.product(names, ("twins", "decoys", "steered"), pairs):
        own = [
            verdict
            for verdict in verdicts
            if (verdict.detector, verdict.kind) == (name, kind) and pair in (ALL_PAIRS, verdict.policy_pair)
        ]
        if not own:
            continue
        value = fmean(verdict.says == verdict.faker for verdict in own)
        yield Accuracy(name, pair, kind, value, (max(0.0, value - 0.08), min(1.0, value + 0.05)), len(own))


def _alone(suspects, name):
    benign = [one.suspicion[name] for one in suspects if one.behaviour == "aligned"]
    fakers = [one.suspicion[name] for one in suspects if one.behaviour == "faking" and one.role == "variant"]
    levels = sorted([*benign, *fakers], reverse=True)
    false = [0.0, *(fmean(value >= level for value in benign) for level in levels)]
    true = [0.0, *(fmean(value >= level for value in fakers) for level in levels)]
    auroc = fmean(a > b for a in fakers for b in benign)
    spread = (max(0.0, auroc - 0.1), min(1.0, auroc + 0.04))
    return Alone(name, auroc, spread, fmean(value > max(benign) for value in fakers), 0.02, "policy", (false, true))
