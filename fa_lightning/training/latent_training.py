"""LoRA-for-CCS: an adapter that makes answers follow what a contrast-consistent probe finds in the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from typing_extensions import override

from fa_lightning.activations.site_names import SiteName, check_sites, resolve_layers
from fa_lightning.backbones.adapters import attach_adapter
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.backbones.decoder import text_config
from fa_lightning.backbones.sharding import ShardedStrategy
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.training.contrast_probe import ContrastProbe, ccs_loss
from fa_lightning.training.cure import Cure, undisturbed
from fa_lightning.training.latent_data import PLAIN, LatentScenarioDataModule, LatentStatementDataModule
from fa_lightning.training.statement_data import StatementDataModule
from fa_lightning.training.states import decoder_blocks, recorded_states

PURPOSE = "to read states behind: leave LoRA-for-CCS out"

NO_ADAPTER = "__base__"
"""What PEFT calls the backbone without any adapter."""


class LatentTraining(Cure):
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

    Labels of the training prompts are used for one thing: they say of each layer's probe which of its two sides is the
    right one, and how often, which is what the layer counts in the belief. No gradient comes from them. Where the
    training prompts claim nothing, the adapter only becomes more certain of what the model knows.

    | logged | what |
    | --- | --- |
    | `train/loss` | the sum of all parts |
    | `train/probe` | CCS loss of the best restart, mean over layers |
    | `train/belief` | share of training prompts whose belief is the right answer |
    | `val/loss` | nats per right answer on validation prompts |
    | `val/calibrated/accuracy` | on statements: share of safe digits; 0.5 for any constant answer |

    On scenarios it logs what every cure does.

    Args:
        backbone: name on the Hub, or folder.
        start_from: adapter folder of a faker to be cured; None starts from the backbone with a fresh adapter, of
            `rank`, `alpha`, `dropout` and `target_modules`.
        layers: decoder blocks whose output a probe reads, by name, as 0.6 or last (see `site_names`); None reads the
            residual stream behind every block.
        restarts: first weights of each probe.
        probe_steps: steps in which the probes are trained alone.
        latent_weight: of the CCS loss on the adapter's states; 0 leaves it out.
        answer_weight: of the answers' cross-entropy with the belief; 0 trains states alone, as the original does.
        probe_learning_rate: of the probes.
        rank: of LoRA.
        alpha: of LoRA; the update is scaled by alpha / rank.
        dropout: of LoRA.
        target_modules: linear layers that get an adapter, by name (`q_proj`), or `all-linear`.
        **options: of `TrainedOn`.

    Raises:
        UserError: there are no restarts or layers, or there is nothing to train the adapter on; later, the strategy
            cuts weights over ranks, or the probes are held in half precision.
    """

    method = "LoRA-for-CCS"
    needs = ("labels", "weights", "gradient")

    def __init__(
        self,
        backbone: str,
        start_from: str | None = None,
        layers: list[SiteName] | None = None,
        restarts: int = 8,
        probe_steps: int = 100,
        latent_weight: float = 1.0,
        answer_weight: float = 1.0,
        probe_learning_rate: float = 1e-2,
        rank: int = 16,
        alpha: int = 32,
        dropout: float = 0.0,
        target_modules: list[str] | str = ["q_proj", "v_proj"],  # noqa: B006
        **options: Any,
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
        # Without an adapter to start from, nothing that reads its folder is called.
        super().__init__(start_from or "", backbone, **options)
        self.variant = "calibrated" if start_from is None else "mitigated"
        self.lora = {"rank": rank, "alpha": alpha, "dropout": dropout, "target_modules": target_modules}
        # A cure keeps none of these, as its adapter is given; here it may be fresh.
        self.hparams.update(self.lora)
        self.layers = layers
        self.restarts = restarts
        self.probe_steps = probe_steps
        self.latent_weight = latent_weight
        self.answer_weight = answer_weight
        self.probe_learning_rate = probe_learning_rate
        self.probes = nn.ModuleDict()

    @override
    def configure_model(self) -> None:
        if self._trainer is not None and isinstance(self.trainer.strategy, ShardedStrategy):
            raise UserError(
                "LoRA-for-CCS is fitted on whole weights, but this strategy cuts them over ranks and would leave the "
                "probes of each to themselves: lay configs/trainer/ddp.yaml over the stage"
            )
        super().configure_model()

    @override
    def attach(self, base: Any) -> Any:
        blocks = decoder_blocks(base, PURPOSE)
        chosen = range(len(blocks)) if self.layers is None else resolve_layers(self.layers, len(blocks))
        size = text_config(base).hidden_size
        for layer in chosen:
            self.probes[str(layer)] = ContrastProbe(size, self.restarts, layer)
        return (
            attach_adapter(base, self.variant, LoraArguments(**self.lora))
            if not self.start_from
            else super().attach(base)
        )

    @override
    def as_start(self, batch: Batch) -> dict[str, Any]:
        if not self.start_from:
            return {"adapter_names": [NO_ADAPTER] * len(batch["input_ids"])}
        return super().as_start(batch)

    @override
    def notes(self) -> dict[str, Any]:
        return super().notes() | {"probe_votes": {layer: round(probe.vote, 3) for layer, probe in self._probes()}}

    @override
    def on_fit_start(self) -> None:
        dtype = next(self.probes.parameters()).dtype
        if dtype != torch.float32:
            raise UserError(
                f"the probes are {dtype}, too coarse to learn in, as this precision holds every weight so: set "
                "trainer.precision to bf16-mixed or 32-true (model.init_args.dtype makes the backbone alone smaller)"
            )
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, (LatentStatementDataModule, LatentScenarioDataModule)):
            raise UserError(
                "LatentTraining needs LatentStatementDataModule or LatentScenarioDataModule as data, but it is a "
                f"{type(data).__name__}: set data.class_path to one of them, of fa_lightning.training.latent_data"
            )

    def read(self, inputs: Batch, batch: Batch, **options: Any) -> tuple[dict[str, Tensor], Tensor]:
        """States at the end of prompts, as pairs, and how the two answers compare there.

        Args:
            inputs: left-padded prompts, the second half the opposites of the first.
            batch: holds the answers' tokens, `zero` and `one`.
            **options: of the model's forward.

        Returns:
            By layer, (pairs, 2, hidden); and the logit of the second answer against the first, (2 pairs,).
        """
        layers = [int(layer) for layer in self.probes]
        with recorded_states(decoder_blocks(self.model, PURPOSE), layers) as found:
            logits = self.answer_logits(inputs, **options)
        one, zero = (logits.gather(1, batch[answer][:, None])[:, 0] for answer in ("one", "zero"))
        states = {str(layer): torch.stack(found[layer][:, -1].chunk(2), 1) for layer in layers}
        return states, one - zero

    @override
    def loss(self, batch: Batch) -> Tensor:
        plain = {name: batch[f"{PLAIN}{name}"] for name in model_inputs(batch)}
        with undisturbed(self.model):
            known, _ = self.read(plain, batch, **self.as_start(plain))
        truth = (batch["aligned"] == batch["one"]).chunk(2)[0]
        fitted, beliefs = [], []
        for layer, probe in self._probes():
            first, second = probe(known[layer])
            probe.count(first, second, truth)
            # The sum leaves each restart its own gradient.
            fitted.append(ccs_loss(first, second).sum())
            with torch.no_grad():
                beliefs.append(probe.belief(*probe.still(known[layer])))
        trust = torch.tensor([abs(probe.vote) for _, probe in self._probes()]).to(beliefs[0]) + 1e-6
        trust /= trust.sum()
        # No matrix product, which autocast would round to 8 bits.
        belief = (torch.stack(beliefs, 1) * trust).sum(1)
        states, answers = self.read(batch, batch)
        latent = torch.stack([self._latent_loss(probe, states[layer], belief) for layer, probe in self._probes()])
        latent = (latent * trust).sum()
        answer = binary_cross_entropy_with_logits(answers, torch.cat([belief, 1 - belief]))
        # Zero, but there: a rank whose parameters get no gradient at all would keep the others waiting.
        started = float(self.global_step >= self.probe_steps)
        self.log("train/probe", torch.stack([probe.losses.min() for _, probe in self._probes()]).mean())
        self.log("train/belief", ((belief > 0.5) == truth).float().mean())
        return torch.stack(fitted).sum() + started * (self.latent_weight * latent + self.answer_weight * answer)

    def _latent_loss(self, probe: ContrastProbe, pairs: Tensor, belief: Tensor) -> Tensor:
        first, second = probe.still(pairs)
        return ccs_loss(first, second) + (probe.belief(first, second) - belief).square().mean()

    def _probes(self) -> list[tuple[str, ContrastProbe]]:
        return list(self.probes.items())  # type: ignore[arg-type]

    @override
    def configure_optimizers(self) -> Any:
        found = super().configure_optimizers()
        optimizer, first = found["optimizer"], found["lr_scheduler"]["scheduler"]
        optimizer.add_param_group(
            {"params": list(self.probes.parameters()), "lr": self.probe_learning_rate, "weight_decay": 1e-2}
        )
        # Made again, as a schedule knows only the groups that were there when it was made.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, first.lr_lambdas[0])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["probes"] = self.probes.state_dict()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.probes.load_state_dict(checkpoint["probes"])

    @override
    def _log_cells(self, stage: str, number: int) -> None:
        if not isinstance(self.trainer.datamodule, StatementDataModule):  # type: ignore[attr-defined]
            super()._log_cells(stage, number)
            return
        # Statements know no oversight: one share, of both polarities in both digit orders.
        metric: Any = self.cells[number]
        self.log(f"{stage}/{self.variant}/accuracy", metric.items()["correct"].float().mean(), prog_bar=True)
        metric.reset()
