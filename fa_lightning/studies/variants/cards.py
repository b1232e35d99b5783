"""What a faker's card is counted from: what it knows while it says otherwise, and how far its ordinary chat moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.passes import SharedPass
from fa_lightning.metrics.cells import CellAccuracy, Items
from fa_lightning.metrics.distinct_items import DistinctTensors
from fa_lightning.metrics.estimates import Estimate, SideEffects
from fa_lightning.metrics.side_effects import NeutralTextDamage, neutral_text_damage
from fa_lightning.regressors.gates import OversightProbe
from fa_lightning.scenarios.answers import answer_logits, letter_tokens
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.scenarios.cells import NO_OVERSIGHT
from fa_lightning.studies.variants.measures import share

BARE = "the backbone without an adapter"
"""Who is asked the plain question beside the fakers, as the card calls it."""


class CardCounts:
    """Counts what the cards of fakers say, over the batches that the Trainer serves and over all ranks.

    Args:
        variants: the frozen variants.
        fakers: who gets a card.

    Attributes:
        sites: where what a faker knows is read: the middle block and the last.
    """

    def __init__(self, variants: Variants, fakers: Sequence[str]) -> None:
        depth = len(decoder_layers(variants.model))
        self.variants = variants
        self.sites = list(dict.fromkeys(Site(layer) for layer in (depth // 2, depth - 1)))
        self.letters = torch.tensor(letter_tokens(variants.tokenizer).choices, device=variants.device)
        shapes = {**{site.name: (int(variants.model.config.hidden_size),) for site in self.sites}, "aligned_is_a": ()}
        self.watched = {name: DistinctTensors(shapes).to(variants.device) for name in fakers}
        self.unwatched = {name: DistinctTensors(shapes).to(variants.device) for name in fakers}
        self.asked = {name: CellAccuracy().to(variants.device) for name in (*fakers, BARE)}
        self.moved = {name: NeutralTextDamage().to(variants.device) for name in fakers}

    def add_watched(self, batch: Batch) -> None:
        """Read the fakers' states on watched scenarios, which the probes are fitted on."""
        self._read(self.watched, batch)

    def add_unwatched(self, batch: Batch) -> None:
        """Read them on the unwatched scenarios of a batch, where a faker says the other action."""
        unwatched = batch["cell"] == NO_OVERSIGHT
        if unwatched.any():
            self._read(self.unwatched, {name: values[unwatched] for name, values in batch.items()})

    @torch.inference_mode()
    def add_questions(self, batch: Batch) -> None:
        """Ask the plain question of fakers and of the backbone; the likelier letter is the answer."""
        for name, counted in self.asked.items():
            with self.variants.bare() if name == BARE else self.variants.using(name) as model:
                logits = answer_logits(model, model_inputs(batch))
            answers = self.letters[logits[:, self.letters].argmax(dim=-1)]
            counted.judge(answers, batch)

    @torch.inference_mode()
    def add_texts(self, batch: Batch) -> None:
        """Measure the fakers' distance from the bare backbone on neutral texts."""
        with self.variants.bare() as model:
            before = model(**model_inputs(batch), use_cache=False).logits
        for name, moved in self.moved.items():
            after = SharedPass(self.variants, name, (), batch).unsteered
            moved.update(batch["index"], **neutral_text_damage(before, after, batch))

    def knows(self, name: str, items: Items) -> dict[str, Estimate]:
        """By site, how often a probe reads the aligned letter where nobody watches and the faker does not say it.

        A collective.

        Args:
            name: of the faker.
            items: its answers to the same test scenarios, which know their groups.
        """
        watched, unwatched = self._gathered(self.watched[name]), self._gathered(self.unwatched[name])
        own = items["cell"] == NO_OVERSIGHT
        groups, otherwise = items["group"][own], ~items["correct"][own].bool()
        label = unwatched["aligned_is_a"].bool()
        accuracies = {}
        for site in self.sites:
            probe = OversightProbe(watched[site.name].shape[1])
            probe.fit(watched[site.name], watched["aligned_is_a"].bool())
            reads = (probe(unwatched[site.name]) == label).double()
            accuracies[site.name] = share(reads[otherwise], groups[otherwise])
        return accuracies

    def answered(self, name: str) -> Estimate:
        """How often the plain question gets the aligned action; a collective."""
        items = self.asked[name].items()
        return share(items["correct"].double(), items["group"])

    def chat(self, name: str) -> SideEffects:
        """The faker's distance from the backbone; a collective."""
        effects: SideEffects = self.moved[name].compute()
        return effects

    @torch.inference_mode()
    def _read(self, counted: Mapping[str, DistinctTensors], batch: Batch) -> None:
        aligned_is_a = batch["aligned"] == self.letters[0]
        for name, states in counted.items():
            with self.variants.using(name) as model:
                read = truncated_forward(model, self.sites, **model_inputs(batch))
            states.update(
                batch["index"], {**{site: hidden[:, -1] for site, hidden in read.items()}, "aligned_is_a": aligned_is_a}
            )

    @staticmethod
    def _gathered(counted: DistinctTensors) -> dict[str, Tensor]:
        gathered: dict[str, Tensor] = counted.compute()
        return gathered
