"""The main job by hand, without a Trainer or YAML: read states, fit a map on them, judge what it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fa_lightning.activations.sites import Site
from fa_lightning.activations.summaries import Read, text_states
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.continuations import Continuations
from fa_lightning.evaluation.scores import Scores
from fa_lightning.metrics.cells import Cells
from fa_lightning.metrics.divergences import recovery
from fa_lightning.metrics.estimates import SideEffects
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.linear import Affine
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.regressors.vectors import ContrastVector
from fa_lightning.scenarios.answers import answer_tokens
from fa_lightning.scenarios.batches import Batch, example_loader, make_examples, plain_examples
from fa_lightning.scenarios.prompts import Tokenizer, has_template
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.splits import counterbalanced
from fa_lightning.scenarios.text_form import TextForm
from fa_lightning.steering.intervention import Intervention
from fa_lightning.steering.text_comparison import refuse_single_text

STEERED = "steered"


def read_states(
    model: Any, tokenizer: Tokenizer, prompts: Sequence[str], site: Site, read: Read = "last", batch_size: int = 16
) -> Tensor:
    """Hidden states of prompts at a site, one for each: (prompts, hidden) float32 on the CPU.

    Example:
        >>> x = read_states(model, tokenizer, ["Hello.", "Who are you?"], Site(12))  # doctest: +SKIP
        >>> pandas.DataFrame(x, index=["Hello.", "Who are you?"])  # doctest: +SKIP

    Args:
        model: a causal LM, perhaps within `variants.using(...)` or a steering block.
        tokenizer: the model's.
        prompts: the user's messages; where there is no chat template, plain texts.
        site: where to read; its position rule has no part in it.
        read: at the `last` token, behind which the model answers, or the `mean` over all but the first.
        batch_size: prompts in a forward pass.

    Raises:
        UserError: there are no prompts, one has no tokens or too many, or there is no such site.
    """
    refuse_single_text(prompts, "prompts")
    if not prompts:
        raise UserError("prompts is empty: give at least one text to read states of")
    form = TextForm(tokenizer, has_template(tokenizer))
    examples = plain_examples([form.asked(prompt) for prompt in prompts], tokenizer)
    return text_states(model, examples, [site], tokenizer.pad_token_id, batch_size, read)[site.name]


def contrast_vector(
    model: Any,
    tokenizer: Tokenizer,
    positive: Sequence[str],
    negative: Sequence[str],
    site: Site,
    read: Read = "last",
) -> Intervention:
    """A steering vector from opposite prompts, at strength 1 (arXiv 2308.10248, 2312.06681).

    Args:
        model: a causal LM.
        tokenizer: the model's.
        positive: what to steer towards.
        negative: what to steer away from, as many, in the same order.
        site: where it is read, and added on the tokens that its position rule names.
        read: see `read_states`.

    Raises:
        UserError: there are not as many of both, or the two sides do not differ.
    """
    refuse_single_text(positive, "positive")
    refuse_single_text(negative, "negative")
    if len(positive) != len(negative):
        raise UserError(
            f"there are {len(positive)} positive and {len(negative)} negative prompts: give as many of both"
        )
    towards, away = (read_states(model, tokenizer, prompts, site, read) for prompts in (positive, negative))
    vector = ContrastVector(towards.shape[1])
    vector.fit_contrast(towards, away)
    return Intervention(site, vector)


def fit_map(x: Tensor, y: Tensor, keep: Tensor | None = None, regressor: Regressor | None = None) -> Regressor:
    """A map from states x to states y of the same prompts, fitted in one step.

    Args:
        x: of the model that is to be steered, (n, hidden).
        y: of the model that it is to be like, (n, hidden).
        keep: states that the map is to leave alone, (m, hidden): together they weigh as much as all pairs. For a model
            that speaks: of all tokens of many ordinary texts with its own answers behind them. With their last tokens
            alone a map cures, and breaks chat (docs/notebooks/read_and_cure_a_faker.ipynb).
        regressor: an unfitted map that learns from moments or samples; None is ridge regression (`Affine`).

    Raises:
        UserError: the shapes differ, or the map learns by gradient, which is what `fit steering` is for.
    """
    if x.shape != y.shape or x.ndim != 2 or not len(x):
        raise UserError(f"x is {tuple(x.shape)} and y {tuple(y.shape)}: give (n, hidden) twice, row by row a pair")
    regressor = Affine(x.shape[1]) if regressor is None else regressor
    kept = x.new_zeros(0, x.shape[1]) if keep is None else keep
    weight = torch.cat([torch.ones(len(x)), torch.full((len(kept),), len(x) / max(1, len(kept)))])
    sources, targets = torch.cat([x, kept]), torch.cat([y, kept])
    if regressor.fit_kind == "closed":
        moments = PairMoments(x.shape[1])
        moments.add(sources, targets, weight)
        regressor.fit(moments)
    elif regressor.fit_kind == "samples":
        regressor.fit_samples(sources, targets, weight)
    else:
        raise UserError(
            f"{regressor.name} is fitted by {regressor.fit_kind}, over epochs and with a validation: name it among the "
            "regressors of `fit steering`"
        )
    return regressor


@dataclass(frozen=True)
class Judgement:
    """How models answered, and what each edit did to texts that have nothing to do with the task.

    Attributes:
        cells: accuracy with and without oversight, with intervals over groups, by name.
        side_effects: by name of what was steered; empty without neutral texts.
    """

    cells: dict[str, Cells]
    side_effects: dict[str, SideEffects]

    def recovery(self, name: str = STEERED) -> float:
        """Share of the twins' difference without oversight that an edit closes; 1 is a full cure."""
        steered, faking, aligned = (self.cells[one].no_oversight.accuracy for one in (name, "faking", "aligned"))
        return recovery(steered, faking, aligned)

    def records(self) -> list[dict[str, Any]]:
        """A row for each model, as `pandas.DataFrame` takes them."""
        rows = []
        for name, cells in self.cells.items():
            row: dict[str, Any] = {
                "model": name,
                "oversight": cells.oversight.accuracy,
                "no_oversight": cells.no_oversight.accuracy,
            }
            if name in self.side_effects:
                effects = self.side_effects[name]
                row |= {
                    key: getattr(effects, key) for key in ("kl_neutral_nats", "kl_answer_nats", "unchanged_answers")
                }
            rows.append(row)
        return rows


@torch.inference_mode()
def judge(
    variants: Variants,
    interventions: Mapping[str, Intervention | Sequence[Intervention]],
    scenarios: Sequence[Scenario],
    neutral: Sequence[Scenario] = (),
    continuation_tokens: int = 0,
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> Judgement:
    """Ask the twins, and the faker under each intervention.

    Args:
        variants: the frozen pair, `faking` and `aligned`.
        interventions: by a name of one's own; what belongs together is attached in its order.
        scenarios: each asked once, half of them with its two actions the other way round.
        neutral: texts on which side effects are measured, as of `splits.neutral_test`.
        continuation_tokens: of the faker's own answer to each of these, where it speaks; 0 counts the text's words.
        batch_size: prompts in a forward pass.
        max_tokens: longer prompts and texts are left out, and their number is said; None takes all.

    Raises:
        UserError: there are no scenarios, all are too long, or a name is that of a twin.
    """
    if not scenarios:
        raise UserError("scenarios is empty: give those of a source, as source.load().test")
    for name in interventions:
        if name in variants.names:
            raise UserError(f"{name!r} is a twin of these variants: call the intervention something else")
    conditions = {name: Condition(name) for name in ("aligned", "faking")}
    for name, edits in interventions.items():
        attached = (edits,) if isinstance(edits, Intervention) else tuple(edits)
        conditions[name] = Condition("faking", attached)
    scores = Scores(variants, conditions, counts_neutral_texts=bool(neutral))
    are_written = any(scenario.is_written for scenario in scenarios)
    for batch in _batches(variants, counterbalanced(list(scenarios)), are_written, batch_size, max_tokens):
        scores.add_scenarios(batch)
    own = Continuations(variants, "faking", continuation_tokens)
    for batch in _batches(variants, neutral, are_written, batch_size, max_tokens):
        scores.add_neutral_texts(own.batch(batch))
    cells = scores.compute_cells()
    return Judgement(cells, scores.compute_damage(cells))


def _batches(
    variants: Variants, items: Sequence[Scenario], are_written: bool, batch_size: int, max_tokens: int | None
) -> Iterator[Batch]:
    if items:
        tokenizer = variants.tokenizer
        examples = make_examples(items, tokenizer, answer_tokens(tokenizer, are_written), max_tokens)
        for batch in example_loader(examples, tokenizer.pad_token_id, batch_size):
            yield {name: values.to(variants.device) for name, values in batch.items()}
