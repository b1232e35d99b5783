"""The conditions that steering is judged under: which variant runs, and with what edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.edit import edited, layer_below, swap_in
from fa_lightning.activations.positions import rule_in_texts
from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.backbones.variants import Variants
from fa_lightning.common.files import whole_folder
from fa_lightning.metrics.draws import DRAWS, draw_name
from fa_lightning.regressors.linear import Identity
from fa_lightning.regressors.module import MapCandidate, RegressorModule
from fa_lightning.regressors.wrappers import NormMatchedRandom
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.steering.artefact import compare_fingerprints
from fa_lightning.steering.experiment_folders import parts_of
from fa_lightning.steering.intervention import Intervention, steering

ORACLE = "oracle swap"
"""The aligned twin's own states put in the faker's place: what a perfect map at this site would do."""

RANDOM = "norm-matched random"
"""An edit as large as the map's, in a random direction; `DRAWS` of them are judged."""
TWIN = {"aligned": "faking"}
"""The honest twin's own distance from the faker stands beside every edit's."""


@dataclass(frozen=True)
class Condition:
    """A variant and what is done to it.

    Attributes:
        variant: whose adapter is active.
        interventions: attached to it, in order.
        oracle: the site where the other twin's states replace its own, if any.
    """

    variant: str
    interventions: tuple[Intervention, ...] = ()
    oracle: Site | None = None

    @property
    def layer_below(self) -> int | None:
        """The last block that the edits leave alone, -1 if there is none; None where there are no edits."""
        sites = [intervention.site for intervention in self.interventions] + ([self.oracle] if self.oracle else [])
        return min((layer_below(site) for site in sites), default=None)

    @property
    def at_last_token(self) -> bool:
        """Whether its edits change each prompt's last token and no other."""
        edits = self.interventions
        return bool(edits) and self.oracle is None and all(edit.site.positions == "last" for edit in edits)

    def everywhere(self) -> Condition:
        """The same edits on every token of a text that they may come to cover, see `rule_in_texts`."""
        oracle = None if self.oracle is None else in_texts(self.oracle)
        return Condition(self.variant, everywhere(self.interventions), oracle)


def interventions_of(candidate: MapCandidate, strength: float) -> tuple[Intervention, ...]:
    """A candidate at a strength: one intervention, or those of a stack in order."""
    return tuple(
        Intervention(part.site, part.regressor, strength, gate=part.gate) for part in (*candidate.below, candidate)
    )


def save_together(interventions: Sequence[Intervention], folder: Path) -> None:
    """Write one intervention into a folder, or the parts of a stack into folders of it: 0, 1 and so on."""
    with whole_folder(folder) as fresh:
        for number, intervention in enumerate(interventions):
            intervention.save(fresh if len(interventions) == 1 else fresh / str(number))


def loaded_interventions(folder: str, variants: Variants) -> tuple[Intervention, ...]:
    """A saved intervention or stack, checked against the backbone.

    Raises:
        UserError: it was fitted on another backbone.
    """
    interventions = []
    for part in parts_of(folder):
        intervention = Intervention.load(part, variants.model)
        if "backbone" in intervention.fingerprint:
            compare_fingerprints(intervention.fingerprint, {"backbone": variants.fingerprint}, part)
        interventions.append(intervention)
    return tuple(interventions)


def judged_conditions(
    module: RegressorModule, candidate: MapCandidate, strength: float, seed: int
) -> dict[str, Condition]:
    """The four cells' models and the baselines, all at the candidate's site and positions.

    Of a baseline that is drawn at random there are several conditions, by `draw_name`.
    """
    steered = interventions_of(candidate, strength)
    models = {
        "aligned": Condition("aligned"),
        "faking": Condition("faking"),
        "steered": Condition("faking", steered),
        "steered_aligned": Condition("aligned", steered),
    }
    return models | baseline_conditions(module, candidate, strength, seed)


def baseline_conditions(
    module: RegressorModule, candidate: MapCandidate, strength: float, seed: int
) -> dict[str, Condition]:
    """The baselines of a candidate, at its site and positions."""
    site = candidate.site
    edits: dict[str, tuple[Intervention, ...]] = {
        "identity": (Intervention(site, Identity(candidate.regressor.hidden_size), strength),)
    }
    for draw in range(DRAWS):
        # Chains of neighbouring seeds share no direction.
        random = NormMatchedRandom(candidate.regressor, seed * DRAWS + draw)
        edits[draw_name(RANDOM, draw)] = (Intervention(site, random, strength, gate=candidate.gate),)
    conditions = {name: Condition("faking", interventions) for name, interventions in edits.items()}
    conditions[ORACLE] = Condition("faking", oracle=site)
    # A vector's strength is in its own units; a shift or a map in its place means what it means at 1.
    like_a_map = 1.0 if candidate.regressor.constant_edit() is not None else strength
    for name, draws in module.baselines(candidate).items():
        for number, baseline in enumerate(draws):
            label = draw_name(name, number) if len(draws) > 1 else name
            conditions[label] = Condition("faking", interventions_of(baseline, like_a_map))
    return conditions


def everywhere(interventions: Sequence[Intervention]) -> tuple[Intervention, ...]:
    """The same edits on every token that they may come to cover, as they are judged on neutral texts."""
    return tuple(intervention.at(positions=in_texts(intervention.site).positions) for intervention in interventions)


def in_texts(site: Site) -> Site:
    """A site with the position rule by which it is judged on neutral texts."""
    return dataclasses.replace(site, positions=rule_in_texts(site.positions))


@contextmanager
def applied(
    variants: Variants, condition: Condition, batch: Batch, shared: SharedBlocks | None = None
) -> Iterator[Any]:
    """The model in a condition; hooks are gone afterwards. `shared` where the batch runs elsewhere, too."""
    with variants.using(condition.variant) as model, ExitStack() as stack:
        if shared is not None:
            below = condition.layer_below
            # Before the edits: what is shared is read off a block before an edit changes it.
            stack.enter_context(shared.once(model, len(decoder_layers(model)) if below is None else below))
        stack.enter_context(edits_of(variants, condition, batch))
        yield model


def edits_of(
    variants: Variants, condition: Condition, batch: Batch, shared: SharedBlocks | None = None
) -> AbstractContextManager[None]:
    """A condition's edits, to be in place while its variant is used; `shared` where the batch runs elsewhere, too."""
    if condition.oracle is None:
        return steering(variants.model, condition.interventions, batch.get("prompt_tokens"))
    return swapped_states(variants, condition.variant, condition.oracle, batch, shared)


@contextmanager
def swapped_states(
    variants: Variants, variant: str, site: Site, batch: Batch, shared: SharedBlocks | None = None
) -> Iterator[None]:
    """The states of the twin of `variant` on this very batch in place of the model's own at `site`."""
    with variants.using("aligned" if variant == "faking" else "faking") as other, ExitStack() as stack:
        if shared is not None:
            stack.enter_context(shared.once(other, layer_below(site)))
        theirs = truncated_forward(other, [site], **model_inputs(batch))[site.name]
    with edited(variants.model, site, swap_in(theirs, site, batch), (theirs.shape[0], theirs.shape[1])):
        yield
