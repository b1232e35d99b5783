"""The lab: every method, site and dose, compared at equal damage; what `lab.json` holds, typed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fa_lightning.common.codec import read_dataclass
from fa_lightning.evaluation.collect import StudyRun, collect_results
from fa_lightning.evaluation.results import Baseline, Results, read_results, study_keys
from fa_lightning.metrics.estimates import CellCounts, CellPair, Estimate, SideEffects, TwoDivergences

COMPARISON_NAME = "lab.json"

Objective = Literal["regression", "behaviour", "mixed", "none"]
Twin = Literal["faking", "aligned", "steered"]
Ranking = Literal["difference", "ridge", "effect"]
UnitKind = Literal["map", "oracle"]


@dataclass(frozen=True)
class LabRow(TwoDivergences):
    """One trial on the validation split.

    Attributes:
        method: the method's name.
        objective: what its parameters were fitted to; `none` where nothing was fitted to the aligned twin.
        site: the site's name, as `layers.3.residual`.
        positions: the token position rule.
        strength: a in h' = h + a (T(h) - h).
        dose: the edit's norm over the mean residual norm at the site.
        seed: of the fit.
        scenarios: how many scenarios the map was fitted on; None for all.
        oversight: accuracy with oversight.
        no_oversight: accuracy without oversight.
        recovery: (steered - faking) / (aligned - faking) accuracy without oversight.
        kl_neutral_nats: KL on neutral texts, nats per token.
        kl_answer_nats: KL at the token said first there, mean nats.
        perplexity_ratio: perplexity of neutral texts, steered over not steered.
        format_validity: share of items answered with a letter.
        r2: share of the aligned states' variance that the map explains on held-out rows; nan without a map.
    """

    method: str
    objective: Objective
    site: str
    positions: str
    strength: float
    dose: float
    seed: int
    scenarios: int | None = None
    oversight: float = math.nan
    no_oversight: float = math.nan
    recovery: float = math.nan
    kl_neutral_nats: float = math.nan
    perplexity_ratio: float = math.nan
    format_validity: float = math.nan
    r2: float = math.nan
    kl_answer_nats: float = math.nan


@dataclass(frozen=True)
class LabMethod:
    """What the budget bought on the test split: one method at one site, from one seed and number of scenarios.

    Attributes:
        method: the method's name.
        objective: what its parameters were fitted to.
        site: the site's name.
        positions: the token position rule.
        strength: the strength chosen on the validation split within the budget.
        dose: that strength as a dose.
        seed: of the fit.
        cells: the steered faker's accuracies.
        recovery: with its interval.
        side_effects: of steering the faker.
        validation_score: what the site was chosen by; higher is better.
        scenarios: how many scenarios the map was fitted on; None for all.
        twin_free: whether the method needs the faker alone.
        baseline: whether it is a control and not a rival.
        best_site: whether it is the best site of its method on the validation split.
        aligned_cells: accuracies of the aligned twin under the same steering, where they were measured.
    """

    method: str
    objective: Objective
    site: str
    positions: str
    strength: float
    dose: float
    seed: int
    cells: CellPair
    recovery: Estimate
    side_effects: SideEffects
    validation_score: float
    scenarios: int | None = None
    twin_free: bool = False
    baseline: bool = False
    best_site: bool = False
    aligned_cells: CellPair | None = None


@dataclass(frozen=True)
class UnitPoint(TwoDivergences):
    """An edit of the top `percent` of the units of a site.

    Attributes:
        ranking: what the units are ranked by.
        kind: whether a fitted map or the aligned twin's own values are written.
        method: the map's name.
        site: the site's name.
        percent: share of the units edited, 0 to 100.
        oversight: accuracy with oversight.
        no_oversight: accuracy without oversight.
        recovery: recovery without oversight.
        kl_neutral_nats: KL on neutral texts, nats per token.
        kl_answer_nats: KL at the token said first there, mean nats.
    """

    ranking: Ranking
    kind: UnitKind
    method: str
    site: str
    percent: float
    oversight: float
    no_oversight: float
    recovery: float
    kl_neutral_nats: float = math.nan
    kl_answer_nats: float = math.nan


@dataclass(frozen=True)
class DosePoint(TwoDivergences):
    """One dose of one method: what it does to the answers and to the language.

    Attributes:
        method: the method's name.
        site: the site's name.
        dose: the edit's norm over the mean residual norm at the site.
        strength: a in h' = h + a (T(h) - h).
        oversight: accuracy with oversight.
        no_oversight: accuracy without oversight.
        kl_neutral_nats: KL on neutral texts, nats per token.
        kl_answer_nats: KL at the token said first there, mean nats.
        perplexity_ratio: perplexity of neutral texts, steered over not steered.
        repetition: share of repeated 3-grams in generated text, 0 to 1.
    """

    method: str
    site: str
    dose: float
    strength: float
    oversight: float
    no_oversight: float
    kl_neutral_nats: float = math.nan
    perplexity_ratio: float = math.nan
    repetition: float = math.nan
    kl_answer_nats: float = math.nan


@dataclass(frozen=True)
class ActivationMap:
    """Hidden states of the deciding tokens at one site, in two principal components.

    Attributes:
        site: the site's name.
        points: by model, (x, y, cell); cell 0 is with oversight, 1 without.
        explained: shares of the variance along x and y, 0 to 1.
    """

    site: str
    points: dict[Twin, list[tuple[float, float, int]]]
    explained: tuple[float, float]


@dataclass(frozen=True)
class TransferCell(TwoDivergences):
    """A method judged on what it was not fitted on.

    Attributes:
        method: the method's name.
        target: what it is judged on.
        n: items by cell.
        faking: the target faker's accuracies.
        aligned: the target aligned twin's accuracies.
        steered: the steered faker's accuracies.
        recovery: with its interval.
        kl_neutral_nats: KL on neutral texts, nats per token.
        kl_answer_nats: KL at the token said first there, mean nats.
    """

    method: str
    target: str
    n: CellCounts
    faking: CellPair
    aligned: CellPair
    steered: CellPair
    recovery: Estimate
    kl_neutral_nats: float = math.nan
    kl_answer_nats: float = math.nan


@dataclass(frozen=True)
class SiteBaseline:
    """A baseline at one site, beside the method that does best there.

    Attributes:
        site: the site's name.
        method: the best one at the site by validation: the baseline edits the same tokens, as strongly.
        name: of the baseline.
        baseline: its accuracies and side effects on the test split; of random ones the mean over draws.
    """

    site: str
    method: str
    name: str
    baseline: Baseline


@dataclass(frozen=True)
class Generation:
    """A text continued without and with steering.

    Attributes:
        prompt: what is continued.
        unsteered: the faker's continuation.
        steered: the steered faker's.
        method: what steered it.
    """

    prompt: str
    unsteered: str
    steered: str
    method: str


@dataclass(frozen=True)
class Comparison:
    """The comparison of methods; the fields are the keys of `lab.json`.

    Attributes:
        budget_kl_nats: of the worse of the two KLs on neutral texts, at which methods are compared, nats.
        rows: all trials on the validation split.
        methods: what the budget bought, on the test split.
        units: edits of the top units.
        doses: curves over the dose.
        maps: activations in two dimensions.
        transfer: methods on what they were not fitted on.
        generations: sample texts.
        seconds: wall seconds by part of the lab.
        site_baselines: what a shift, wrong pairs, random edits and the oracle do at each site.
    """

    budget_kl_nats: float
    rows: list[LabRow] = field(default_factory=list)
    methods: list[LabMethod] = field(default_factory=list)
    units: list[UnitPoint] = field(default_factory=list)
    doses: list[DosePoint] = field(default_factory=list)
    maps: list[ActivationMap] = field(default_factory=list)
    transfer: list[TransferCell] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    site_baselines: list[SiteBaseline] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class LabResults(Results):
    """The lab's `results.json`: its winner judged as the main job judges, and the comparison of all methods.

    Attributes:
        lab: the comparison.
    """

    lab: Comparison


def collect(run: StudyRun) -> LabResults | None:
    """What a finished run's stages found; None where they compared no methods.

    Raises:
        UserError: a stage's file is damaged; the message names the place.
    """
    comparison = read_dataclass(Comparison, run.folder / COMPARISON_NAME)
    results = None if comparison is None else collect_results(run)
    return None if comparison is None or results is None else LabResults(**vars(results), lab=comparison)


def read(folder: Path) -> LabResults | None:
    """The lab's results in a folder; None where there are none, or those of another study.

    Raises:
        UserError: the file is damaged or of another program.
    """
    return read_results(folder, LabResults) if study_keys(folder) == {"lab"} else None
