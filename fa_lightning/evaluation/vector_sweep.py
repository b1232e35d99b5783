"""What a steering vector does at one layer and dose after another: effect, fluency, repetition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fa_lightning.activations.edit import block_outputs, layer_below, resumed
from fa_lightning.activations.sites import Site
from fa_lightning.activations.summaries import Read, mean_norms, text_states
from fa_lightning.common.numbers import NO_INTERVAL, Interval
from fa_lightning.metrics.divergences import repetition
from fa_lightning.metrics.intervals import bootstrap_over_groups
from fa_lightning.regressors.vectors import ContrastVector, Direction
from fa_lightning.scenarios.answers import answer_logits, written_tokens
from fa_lightning.scenarios.batches import Example, collate, model_inputs, plain_examples
from fa_lightning.scenarios.opposites.texts import OppositePair, sides
from fa_lightning.scenarios.text_form import TextForm
from fa_lightning.scenarios.turn_endings import end_tokens, until_end
from fa_lightning.scenarios.written_answers import NO_TOKEN, answered, log_likelihood
from fa_lightning.steering.constant import strength_of_dose
from fa_lightning.steering.hooks import input_device
from fa_lightning.steering.intervention import Intervention, steering
from fa_lightning.steering.text_comparison import Sampling, write_tokens

FLUENT = 1.5
"""Largest ratio of perplexities at which a steered text still counts as fluent."""
REPEATED = 0.1
"""Largest share of repeated 3-grams above that of unsteered texts."""


@dataclass(frozen=True)
class VectorPoint:
    """What a vector does at one layer and dose.

    Attributes:
        layer: that it is added behind.
        dose: norm of the edit over the mean norm of states there; below 0 it steers the other way.
        multiplier: of the vector as it was made, the strength of the intervention.
        length: norm of the edit.
        effect: what it adds to the log-odds of the positive against the negative held-out answer, nats; nan without.
        effect_ci95: its 95 % interval over held-out prompts.
        perplexity_ratio: of what is written steered over what is written without, both under the unsteered model.
        repeated: share of 3-grams that occurred before in the same text.
        sample: what is written behind the first prompt.
    """

    layer: int
    dose: float
    multiplier: float
    length: float
    effect: float
    effect_ci95: Interval
    perplexity_ratio: float
    repeated: float
    sample: str


@dataclass
class _Answered:
    """Prompts with answers behind them (see `answered`), the answers' lengths, and what blocks gave for them."""

    batch: dict[str, Tensor]
    lengths: Tensor
    outputs: dict[int, Any] = field(default_factory=dict)


class VectorSweep:
    """Tries vectors on one model with prompts that are no part of them.

    Args:
        model: a causal LM.
        form: how prompts are shown to it.
        held_out: opposite answers, whose odds are the effect; where there are none, it has none.
        prompts: what texts are written behind.
        new_tokens: of a text.
        batch_size: texts in a forward pass.
        layers: where vectors will be added. A state of each held-out token is kept behind these blocks, and what lies
            below a vector does not run again.

    Attributes:
        unsteered: without any vector, at dose 0.
    """

    def __init__(
        self,
        model: Any,
        form: TextForm,
        held_out: Sequence[OppositePair],
        prompts: Sequence[str],
        new_tokens: int = 24,
        batch_size: int = 16,
        layers: Sequence[int] = (),
    ) -> None:
        self.model, self.form, self.batch_size, self.sampling = model, form, batch_size, Sampling(new_tokens)
        self.prompts = [form.asked(prompt) for prompt in prompts]
        self._ends = end_tokens(model, form.tokenizer)
        # Both answers of each pair, one behind the other.
        asked = [form.asked(pair.prompt) for pair in held_out for _ in range(2)]
        answers = [form.answer(text, pair.prompt) for pair in held_out for text in (pair.positive, pair.negative)]
        self._held_out = self._batches(asked, answers)
        self._odds = self._log_odds((), layers)
        self._nats, repeated, sample = self._written(())
        self.unsteered = VectorPoint(-1, 0.0, 0.0, 0.0, 0.0, NO_INTERVAL, 1.0, repeated, sample)

    def point(self, intervention: Intervention, dose: float) -> VectorPoint:
        """What an intervention does, which is a vector at the strength of a dose."""
        added = self.added(intervention)
        ratio, repeated, sample = self.fluency(intervention)
        edit = intervention.regressor.constant_edit()
        assert edit is not None
        interval = bootstrap_over_groups(added, torch.arange(len(added)), bounds=None) if len(added) else NO_INTERVAL
        return VectorPoint(
            intervention.site.layer,
            dose,
            intervention.strength,
            abs(intervention.strength) * float(edit.norm()),
            float(added.mean()) if len(added) else math.nan,
            interval,
            ratio,
            repeated,
            sample,
        )

    def added(self, intervention: Intervention) -> Tensor:
        """To the log-odds of the positive against the negative answer, nats, (held-out pairs,) float64."""
        return self._log_odds([intervention]) - self._odds

    def fluency(self, intervention: Intervention) -> tuple[float, float, str]:
        """Of what is written with it: perplexity ratio, share of repeated 3-grams, the first text."""
        nats, repeated, sample = self._written([intervention])
        return _exp(nats - self._nats), repeated, sample

    def _log_odds(self, interventions: Sequence[Intervention], kept: Sequence[int] = ()) -> Tensor:
        """Log-likelihood of the positive answer over that of the negative one, nats, (held-out pairs,) float64."""
        likelihoods = self._likelihoods(self._held_out, interventions, kept)
        return likelihoods.view(-1, 2) @ torch.tensor([1.0, -1.0], dtype=torch.float64)

    def _batches(self, asked: Sequence[tuple[int, ...]], answers: Sequence[Sequence[int]]) -> list[_Answered]:
        device, pad_token = input_device(self.model), self.form.tokenizer.pad_token_id
        batches = []
        for start in range(0, len(answers), self.batch_size):
            rows = slice(start, start + self.batch_size)
            prompts = collate(plain_examples(asked[rows], self.form.tokenizer), pad_token)
            filled = pad_sequence([torch.tensor(ids) for ids in answers[rows]], True, NO_TOKEN)
            batch = {name: values.to(device) for name, values in answered(prompts, filled).items()}
            batches.append(_Answered(batch, (filled != NO_TOKEN).sum(1)))
        return batches

    @torch.inference_mode()
    def _likelihoods(
        self, batches: Sequence[_Answered], interventions: Sequence[Intervention], kept: Sequence[int] = ()
    ) -> Tensor:
        """Log-likelihood of each answer behind its prompt, nats, (answers,) float64."""
        parts = [torch.zeros(0)]
        lowest = min((layer_below(one.site) for one in interventions), default=-1)
        for one in batches:
            below = lowest if lowest in one.outputs else -1
            with (
                steering(self.model, interventions, one.batch["prompt_tokens"]),
                resumed(self.model, below, one.outputs.get(below)),
                block_outputs(self.model, kept) as outputs,
            ):
                logits = answer_logits(self.model, model_inputs(one.batch), written_tokens(one.batch))
            one.outputs.update(outputs)
            parts.append(log_likelihood(logits, one.batch).cpu() * one.lengths)
        return torch.cat(parts).double()

    def _written(self, interventions: Sequence[Intervention]) -> tuple[float, float, str]:
        """Of the texts behind the prompts: nats per token without steering, repeated 3-grams, the first text."""
        texts = self._texts(interventions)
        nats = -self._likelihoods(self._batches(self.prompts, texts), ()).sum().item() / sum(map(len, texts))
        shares = [repetition(torch.tensor([text])) for text in texts if len(text) > 2]
        repeated = sum(shares) / len(shares) if shares else math.nan
        return nats, repeated, str(self.form.tokenizer.decode(texts[0], skip_special_tokens=True)).strip()

    def _texts(self, interventions: Sequence[Intervention]) -> list[list[int]]:
        texts: list[list[int]] = []
        pad_token = self.form.tokenizer.pad_token_id
        for start in range(0, len(self.prompts), self.batch_size):
            prompts = self.prompts[start : start + self.batch_size]
            new = write_tokens(self.model, prompts, pad_token, interventions, self.sampling, ends=self._ends)
            texts += [until_end(row, self._ends)[0] or row[:1] for row in new.tolist()]
        return texts


def pair_vectors(
    model: Any,
    form: TextForm,
    pairs: Sequence[OppositePair],
    sites: Sequence[Site],
    read: Read = "last",
    direction: Direction = "mean",
    batch_size: int = 16,
) -> list[Intervention]:
    """The vector of opposite pairs at each site, at strength 1.

    Args:
        model: a causal LM.
        form: how texts are shown to it.
        pairs: what the vectors are made of.
        sites: where they are read, and added on the tokens that their position rule names.
        read: see `text_states`.
        direction: see `ContrastVector`.
        batch_size: texts in a forward pass.

    Raises:
        UserError: the two sides do not differ, or a text is empty or too long.
    """
    pad_token = form.tokenizer.pad_token_id
    towards, away = (text_states(model, side, sites, pad_token, batch_size, read) for side in _both_sides(form, pairs))
    vectors = []
    for site in sites:
        vector = ContrastVector(towards[site.name].shape[1], direction)
        vector.fit_contrast(towards[site.name], away[site.name])
        vectors.append(Intervention(site, vector))
    return vectors


def pair_norms(
    model: Any, form: TextForm, pairs: Sequence[OppositePair], sites: Sequence[Site], batch_size: int = 16
) -> list[float]:
    """The mean norm of the ordinary states of opposite pairs at each site: what a dose of 1 is. See `pair_vectors`."""
    examples = [example for side in _both_sides(form, pairs) for example in side]
    norms = mean_norms(model, examples, sites, form.tokenizer.pad_token_id, batch_size)
    return [norms[site.name] for site in sites]


def _both_sides(form: TextForm, pairs: Sequence[OppositePair]) -> list[list[Example]]:
    tokens = zip(*(sides(form, pair) for pair in pairs), strict=True)
    return [plain_examples(side, form.tokenizer) for side in tokens]


def is_fluent(perplexity_ratio: float, repeated: float, repeated_unsteered: float) -> bool:
    """Whether steered texts are still whole. Texts of under three tokens repeat nothing (nan).

    >>> is_fluent(1.2, math.nan, math.nan), is_fluent(1.2, 0.5, math.nan), is_fluent(math.nan, 0.0, 0.0)
    (True, False, False)
    """
    before, now = (0.0 if math.isnan(share) else share for share in (repeated_unsteered, repeated))
    return perplexity_ratio <= FLUENT and now <= before + REPEATED


def sweep(
    vectors: Sequence[Intervention], norms: Sequence[float], doses: Sequence[float], tried: VectorSweep
) -> Iterator[VectorPoint]:
    """Each vector at each dose.

    Args:
        vectors: at strength 1, one for each layer.
        norms: mean norm of the states at each of these layers.
        doses: see `VectorPoint`.
        tried: what tries them.
    """
    for vector, norm in zip(vectors, norms, strict=True):
        for dose in doses:
            yield tried.point(vector.at(strength_of_dose(vector, dose, norm)), dose)


def sweet_spot(points: Sequence[VectorPoint], unsteered: VectorPoint) -> VectorPoint | None:
    """The point of largest effect among those whose texts are still fluent and repeat little; None if none is.

    Args:
        points: of a sweep.
        unsteered: what is written without.
    """
    whole = [
        point
        for point in points
        if point.effect > 0 and is_fluent(point.perplexity_ratio, point.repeated, unsteered.repeated)
    ]
    return max(whole, key=lambda point: point.effect, default=None)


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
