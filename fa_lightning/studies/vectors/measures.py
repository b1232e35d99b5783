"""From what each draw did to the odds of held-out answers: points, sweet spots, and short pairs beside long ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fa_lightning.common.numbers import NO_INTERVAL
from fa_lightning.evaluation.vector_sweep import FLUENT, REPEATED, is_fluent
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.metrics.intervals import bootstrap_over_groups
from fa_lightning.studies.vectors.concepts import Concept
from fa_lightning.studies.vectors.data import Draw
from fa_lightning.studies.vectors.result import KINDS, RANDOM, Pairs, Point, Spot, VectorsResult


@dataclass(frozen=True)
class Measured:
    """What the draws of a concept and kind did.

    Attributes:
        added: to the log-odds of all held-out answers, nats, (draws, layers, doses, prompts of all concepts).
        ratio: perplexity ratio, geometric mean over draws, (layers, doses).
        repeated: share of repeated 3-grams, (layers, doses).
        fluent: booleans, (layers, doses).
        direction: unit vectors, (draws, layers, hidden).
        rest: those of the pairs that each draw leaves out, likewise.
    """

    added: Tensor
    ratio: Tensor
    repeated: Tensor
    fluent: Tensor
    direction: Tensor
    rest: Tensor


def judged(
    tensors: Mapping[str, Tensor],
    draws: Sequence[Draw],
    concepts: Sequence[Concept],
    layers: Sequence[int],
    doses: Sequence[float],
    repeated: float,
    positions: str,
    pairs_drawn: int,
    measured_on: dict[str, str],
    seconds: float,
) -> VectorsResult:
    """All that the study says.

    Args:
        tensors: of each draw, `added` (layers, doses, prompts), `fluency` (layers, doses, 2: log of the perplexity
            ratio, repeated 3-grams), `direction` and `rest` (layers, hidden; see `Measured`).
        draws: what each is of.
        concepts: whose held-out prompts stand one behind the other.
        layers: of the vectors.
        doses: from the lowest to the highest.
        repeated: without a vector.
        positions: tokens that were steered.
        pairs_drawn: in a draw.
        measured_on: what the result depends on.
        seconds: that it took.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    for number, draw in enumerate(draws):
        rows.setdefault((draw.concept, draw.kind), []).append(number)
    measured = {key: _measured(tensors, own, repeated) for key, own in rows.items()}
    sizes = [len(concept.held_out) for concept in concepts]
    owner = torch.repeat_interleave(torch.arange(len(concepts)), torch.tensor(sizes))
    points, spots, pairs = [], [], []
    for number, concept in enumerate(concepts):
        own = owner == number
        of_kind = {kind: measured[concept.name, kind] for kind in KINDS} | {RANDOM: measured["", RANDOM]}
        for kind, found in of_kind.items():
            points += _points(concept.name, kind, found, own, layers, doses)
        chosen = {}
        for kind in KINDS:
            spot, chosen[kind] = _spot(concept.name, kind, of_kind[kind], of_kind[RANDOM], own, layers, doses)
            spots.append(spot)
        middle = len(layers) // 2
        short, long = (of_kind[kind] for kind in KINDS)
        pairs.append(
            Pairs(
                concept.name,
                _estimate(chosen["short"] - chosen["long"]),
                layers[middle],
                _cosine(short, middle),
                _cosine(long, middle),
                float((short.direction[:, middle] @ long.direction[:, middle].T).mean()),
            )
        )
    return VectorsResult(
        points,
        spots,
        pairs,
        repeated,
        FLUENT,
        repeated + REPEATED,
        len(measured["", RANDOM].added),
        pairs_drawn,
        {concept.name: size for concept, size in zip(concepts, sizes, strict=True)},
        positions,
        measured_on,
        seconds,
    )


def _measured(tensors: Mapping[str, Tensor], rows: Sequence[int], repeated: float) -> Measured:
    log_ratio, shares = tensors["fluency"][rows].double().mean(0).unbind(-1)
    fluent = [
        [is_fluent(math.exp(ratio), share, repeated) for ratio, share in zip(*line, strict=True)]
        for line in zip(log_ratio.tolist(), shares.tolist(), strict=True)
    ]
    return Measured(
        tensors["added"][rows].double(),
        log_ratio.exp(),
        shares,
        torch.tensor(fluent),
        tensors["direction"][rows],
        tensors["rest"][rows],
    )


def _points(
    concept: str, kind: str, found: Measured, own: Tensor, layers: Sequence[int], doses: Sequence[float]
) -> list[Point]:
    points = []
    for row, layer in enumerate(layers):
        for column, dose in enumerate(doses):
            added = found.added[:, row, column]
            of_draws = added[:, own].mean(1)
            points.append(
                Point(
                    concept,
                    kind,
                    layer,
                    dose,
                    _estimate(added[:, own].mean(0)),
                    (float(of_draws.min()), float(of_draws.max())),
                    _size(added[:, ~own]),
                    float(found.ratio[row, column]),
                    float(found.repeated[row, column]),
                    bool(found.fluent[row, column]),
                )
            )
    return points


def _spot(
    concept: str,
    kind: str,
    found: Measured,
    random: Measured,
    own: Tensor,
    layers: Sequence[int],
    doses: Sequence[float],
) -> tuple[Spot, Tensor]:
    """The sweet spot, and the effect on each prompt at the spot that the other half of them chose."""
    above = torch.tensor(doses) > 0
    effects = found.added[..., own].mean(0)
    effect, places = _crossfitted(effects, found.fluent & above)
    searched = [_crossfitted(one[..., own], random.fluent & above, either_sign=True)[0] for one in random.added]
    others = [found.added[:, row, column][:, ~own] for row, column in places]
    place = _best(effects.mean(-1), found.fluent & above)
    spot = Spot(
        concept,
        kind,
        None if place is None else layers[place[0]],
        math.nan if place is None else doses[place[1]],
        _estimate(effect),
        _size(torch.cat(others)) if others else Estimate(math.nan),
        _estimate(torch.stack(searched).mean(0)),
        math.nan if place is None else float(found.ratio[place]),
    )
    return spot, effect


def _crossfitted(effects: Tensor, allowed: Tensor, either_sign: bool = False) -> tuple[Tensor, list[tuple[int, int]]]:
    """The effect on each prompt at the place that the other half of them chose, nan without one; and the places.

    Args:
        effects: (layers, doses, prompts).
        allowed: places that may be chosen, (layers, doses).
        either_sign: a vector may be turned round, as the choosing half says; what it then does is taken to be the
            opposite.
    """
    halves = torch.arange(effects.shape[2]) % 2 == 0
    values, places = torch.full((effects.shape[2],), math.nan, dtype=torch.float64), []
    for choosing in (halves, ~halves):
        means = effects[..., choosing].mean(-1)
        place = _best(means.abs() if either_sign else means, allowed)
        if place is not None:
            places.append(place)
            turned = -1.0 if either_sign and means[place] < 0 else 1.0
            values[~choosing] = turned * effects[place][~choosing]
    return values, places


def _best(effects: Tensor, allowed: Tensor) -> tuple[int, int] | None:
    """Row and column of the largest effect above 0 that is allowed."""
    effects = effects.where(allowed & (effects > 0), -math.inf)
    flat = int(effects.argmax())
    place = divmod(flat, effects.shape[1])
    return place if math.isfinite(float(effects.flatten()[flat])) else None


def _size(added: Tensor) -> Estimate:
    """Mean size, whatever the sign, of each draw's effect on each prompt, (draws, prompts)."""
    return _estimate(added.abs().mean(0)) if added.numel() else Estimate(math.nan)


def _estimate(values: Tensor) -> Estimate:
    """The mean over prompts with its interval; nan where a prompt has no value."""
    if not len(values) or bool(values.isnan().any()):
        return Estimate(math.nan, NO_INTERVAL)
    return Estimate(float(values.mean()), bootstrap_over_groups(values, torch.arange(len(values)), bounds=None))


def _cosine(found: Measured, layer: int) -> float:
    """Between the vector of a draw and that of the pairs that it leaves out, the mean over draws."""
    return float((found.direction[:, layer] * found.rest[:, layer]).sum(-1).mean())
