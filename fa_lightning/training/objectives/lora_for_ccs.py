"""LoRA-for-CCS: answers follow what a contrast-consistent probe reads in the model's own states."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from typing_extensions import override

from fa_lightning.activations.site_names import SiteName, check_sites, resolve_layers
from fa_lightning.backbones.decoder import decoder_layers, text_config
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.training.adapted_model import AdaptedModel
from fa_lightning.training.contrast_data import (
    PLAIN,
    ContrastChoiceDataModule,
    ContrastScenarioDataModule,
    ContrastStatementDataModule,
)
from fa_lightning.training.contrast_probe import ContrastProbe, ccs_loss
from fa_lightning.training.objectives.objective import Objective


def claimed_loss(probe: ContrastProbe, pairs: Tensor, belief: Tensor) -> Tensor:
    """CCS loss of a probe, held still, on states under a claim, and their squared distance from the belief without.

    Args:
        probe: of the states' layer.
        pairs: states at the end of both prompts, (pairs, 2, hidden).
        belief: probability that the second answer is right, (pairs,).
    """
    first, second = probe.still(pairs)
    return ccs_loss(first, second) + (probe.belief(first, second) - belief).square().mean()


class LoraForCcs(Objective):
    """An adapter that makes the answer follow what the model knows, whatever a prompt claims (LoRA-for-CCS).

    CCS's loss alone leaves a free choice that a cure can't afford: it is as low where the harmful answer is given
    consistently as where the safe one is, and a probe can meet it while the answers stay as they are. So the unclaimed
    prompt anchors it. Three parts are trained together, on pairs of a prompt and its opposite, to which the other
    answer is right:

    - a probe for each layer, by the CCS loss on the starting model's states at the end of both prompts *without* what
      they claim (an aim to harm, or poor oversight); what it says there is the belief that the second answer is right;
    - the CCS loss of that probe, held still, on the adapter's states *under* the claim, and the squared distance of
      what it says there from the belief (weight `latent_weight`);
    - the cross-entropy of the adapter's own answers under the claim, with the belief as target (weight
      `answer_weight`): this is what moves the answer, and it is taken once the probe had `probe_steps` steps.

    Labels of the training prompts say of each layer's probe which of its two sides is the right one, and how often,
    which is the weight of the layer in the belief: they choose signs and weigh layers, but no gradient comes from them.
    Of scenarios it must be known, too, which part of a prompt tells of oversight, since that is left out. Where the
    training prompts claim nothing, the adapter only becomes more certain of what the model knows.

    | logged | what |
    | --- | --- |
    | `train/loss` | the sum of all parts |
    | `train/probe` | CCS loss of the best restart, mean over layers |
    | `train/belief` | share of training prompts whose belief is the right answer |

    Args:
        layers: decoder blocks whose output a probe reads, by name, as 0.6 or last (see `site_names`); None reads the
            residual stream behind every block.
        restarts: first weights of each probe.
        probe_steps: steps in which the probes are trained alone.
        latent_weight: of the CCS loss on the adapter's states; 0 leaves it out.
        answer_weight: of the answers' cross-entropy with the belief; 0 trains states alone, as the original does.
        probe_learning_rate: of the probes.
        probe_seed: of their first weights.

    Raises:
        UserError: there are no restarts or layers, or there is nothing to train the adapter on; later, the probes are
            held in half precision, or the data has no contrast pairs.
    """

    method = "LoRA-for-CCS"
    needs = ("labels", "oversight", "weights", "gradient")
    uses_origin = True
    needs_whole_weights = True
    fresh_name = "calibrated"

    def __init__(
        self,
        layers: list[SiteName] | None = None,
        restarts: int = 8,
        probe_steps: int = 100,
        latent_weight: float = 1.0,
        answer_weight: float = 1.0,
        probe_learning_rate: float = 1e-2,
        probe_seed: int = 0,
    ) -> None:
        if restarts < 1 or probe_steps < 0:
            raise UserError(
                f"restarts is {restarts} and probe_steps {probe_steps}, but at least 1 probe and 0 steps are needed"
            )
        if layers is not None and not layers:
            raise UserError("layers is [], but a probe needs one to read: name decoder blocks, as 0.6; null reads all")
        check_sites(layers, "layers")
        if min(latent_weight, answer_weight) < 0 or not latent_weight + answer_weight > 0:
            raise UserError(
                f"latent_weight is {latent_weight} and answer_weight {answer_weight}, but neither may be below 0, and "
                "one must be above it: there would be nothing to train the adapter on"
            )
        super().__init__()
        self.layers = layers
        self.restarts = restarts
        self.probe_steps = probe_steps
        self.latent_weight = latent_weight
        self.answer_weight = answer_weight
        self.probe_learning_rate = probe_learning_rate
        self.probe_seed = probe_seed
        self.probes = nn.ModuleDict()

    @override
    def prepare(self, backbone: nn.Module) -> None:
        blocks = len(decoder_layers(backbone))
        chosen = range(blocks) if self.layers is None else resolve_layers(self.layers, blocks)
        size = text_config(backbone).hidden_size
        for layer in chosen:
            # No two seeds share a draw, nor two layers.
            self.probes[str(layer)] = ContrastProbe(size, self.restarts, self.probe_seed * blocks + layer)

    @override
    def facts(self, data: Any) -> dict[str, Any]:
        return {"probe_votes": {str(layer): round(probe.vote, 3) for layer, probe in self._by_layer().items()}}

    @override
    def begin(self, data: Any) -> None:
        dtype = next(self.probes.parameters()).dtype
        if dtype != torch.float32:
            raise UserError(
                f"the probes are {dtype}, too coarse to learn in, as this precision holds every weight so: set "
                "trainer.precision to bf16-mixed or 32-true (model.init_args.backbone.dtype makes the backbone alone "
                "smaller)"
            )
        known = (ContrastStatementDataModule, ContrastScenarioDataModule, ContrastChoiceDataModule)
        if not isinstance(data, known):
            raise UserError(
                f"LoraForCcs needs {' or '.join(kind.__name__ for kind in known)} as data, but it is a "
                f"{type(data).__name__}: set data.class_path to one of them, of fa_lightning.training.contrast_data"
            )

    @override
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        probes = self._by_layer()
        plain = {name: batch[f"{PLAIN}{name}"] for name in model_inputs(batch)}
        known = _pairs(model.origin_states(plain, list(probes))[0])
        truth = (batch["aligned"] == batch["one"]).chunk(2)[0]
        fitted, beliefs = [], []
        for layer, probe in probes.items():
            first, second = probe(known[layer])
            probe.count(first, second, truth)
            # The sum leaves each restart its own gradient.
            fitted.append(ccs_loss(first, second).sum())
            with torch.no_grad():
                beliefs.append(probe.belief(*probe.still(known[layer])))
        trust = torch.tensor([abs(probe.vote) for probe in probes.values()]).to(beliefs[0]) + 1e-6
        trust /= trust.sum()
        # No matrix product, which autocast would round to 8 bits.
        belief = (torch.stack(beliefs, 1) * trust).sum(1)
        states, logits = model.states(batch, list(probes))
        claimed = _pairs(states)
        latent = torch.stack([claimed_loss(probe, claimed[layer], belief) for layer, probe in probes.items()])
        latent = (latent * trust).sum()
        answer = binary_cross_entropy_with_logits(answer_margins(logits, batch), torch.cat([belief, 1 - belief]))
        # Zero, but there: a rank whose parameters get no gradient at all would keep the others waiting.
        started = float(self.steps_done >= self.probe_steps)
        loss = torch.stack(fitted).sum() + started * (self.latent_weight * latent + self.answer_weight * answer)
        return {
            "loss": loss,
            "probe": torch.stack([probe.losses.min() for probe in probes.values()]).mean(),
            "belief": ((belief > 0.5) == truth).float().mean(),
        }

    @override
    def own_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.probes.parameters()), "lr": self.probe_learning_rate, "weight_decay": 1e-2}]

    @override
    def saved(self) -> dict[str, Any]:
        return self.probes.state_dict()

    @override
    def restore(self, saved: dict[str, Any]) -> None:
        self.probes.load_state_dict(saved)

    def _by_layer(self) -> dict[int, ContrastProbe]:
        return {int(layer): cast("ContrastProbe", probe) for layer, probe in self.probes.items()}


def answer_margins(logits: Tensor, batch: Batch) -> Tensor:
    """Logit of the second answer against the first, (rows,), from logits (rows, vocabulary)."""
    one, zero = (logits.gather(1, batch[answer][:, None])[:, 0] for answer in ("one", "zero"))
    return one - zero


def _pairs(states: dict[int, Tensor]) -> dict[int, Tensor]:
    """States at the end of prompts and of their opposites, the second half of the rows, as (pairs, 2, hidden)."""
    return {layer: torch.stack(hidden[:, -1].chunk(2), 1) for layer, hidden in states.items()}
