"""LoRA-for-CCS: an adapter that makes answers follow what a contrast-consistent probe finds in the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, binary_cross_entropy_with_logits
from typing_extensions import override

from fa_lightning.backbones.load import DType
from fa_lightning.behaviours.cure import undisturbed
from fa_lightning.behaviours.latent_data import PLAIN, LatentDataModule, ended
from fa_lightning.behaviours.module import BehaviourModule
from fa_lightning.behaviours.states import check_layers, decoder_blocks, recorded_states
from fa_lightning.scenarios.batches import Batch, model_inputs

PURPOSE = "to read states behind: leave LoRA-for-CCS out"
RUNNING = 0.1
"""Share of the newest batch in a probe's running loss and vote."""

NO_ADAPTER = "__base__"
"""What PEFT calls the backbone without any adapter."""


def contrast_loss(zero: Tensor, one: Tensor) -> Tensor:
    """Consistency and confidence of a probe on contrast pairs, the mean over pairs (arXiv 2212.03827, eq. 1 to 3).

    Args:
        zero: probability that 0 is the right answer, (..., pairs).
        one: probability that 1 is, (..., pairs).

    Returns:
        (...); 0.25 where all is 0.5.

    >>> contrast_loss(torch.tensor([0.0]), torch.tensor([1.0])), contrast_loss(torch.tensor([0.5]), torch.tensor([0.5]))
    (tensor(0.), tensor(0.2500))
    """
    return ((zero + one - 1).square() + torch.minimum(zero, one).square()).mean(-1)


class ContrastProbe(nn.Module):
    """Linear CCS probes of one layer, trained together from several first weights; that of the lowest loss speaks.

    States are standardised in each slot by itself, by the statistics of all batches so far, so that which digit ends
    the prompt can't be read. The loss knows no label; labels of training statements say the sign (`vote`).

    Args:
        hidden_size: units per state.
        restarts: first weights.
        seed: of the first weights.
    """

    losses: Tensor
    votes: Tensor

    def __init__(self, hidden_size: int, restarts: int, seed: int) -> None:
        super().__init__()
        drawn = torch.randn(restarts, hidden_size, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(drawn / drawn.norm(dim=1, keepdim=True))
        self.bias = nn.Parameter(torch.zeros(restarts))
        # No momentum: the mean over all batches, as the states of the frozen model don't drift.
        self.slots = nn.ModuleList(nn.BatchNorm1d(hidden_size, affine=False, momentum=None) for _ in range(2))
        self.register_buffer("losses", torch.full((restarts,), 0.25))
        self.register_buffer("votes", torch.zeros(restarts))

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Probability that 0, and that 1, is right, (restarts, pairs) each, of pairs (pairs, 2, hidden)."""
        zero, one = (
            torch.sigmoid(self.weight @ slot(pairs[:, place].float()).T + self.bias[:, None])
            for place, slot in enumerate(self.slots)
        )
        return zero, one

    def still(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """The same by the best restart alone, (pairs,) each, learning nothing; gradients reach the states alone."""
        best = self.best
        slots: Any = self.slots
        zero, one = (
            torch.sigmoid(
                batch_norm(pairs[:, place].float(), slot.running_mean, slot.running_var) @ self.weight[best].detach()
                + self.bias[best].detach()
            )
            for place, slot in enumerate(slots)
        )
        return zero, one

    @property
    def best(self) -> int:
        """The restart of the lowest loss so far."""
        return int(self.losses.argmin())

    @property
    def vote(self) -> float:
        """How much oftener the best restart finds the safe digit than the other one, -1 to 1."""
        return float(self.votes[self.best])

    @torch.no_grad()
    def count(self, zero: Tensor, one: Tensor, safe: Tensor) -> None:
        """Keep running losses and votes of all restarts.

        Args:
            zero: probability that 0 is right, (restarts, pairs).
            one: probability that 1 is right, (restarts, pairs).
            safe: whether 1 is the safe digit, (pairs,).
        """
        found = (belief_of(zero, one) > 0.5) == safe.bool()
        self.losses.lerp_(contrast_loss(zero, one), RUNNING)
        self.votes.lerp_(2 * found.float().mean(-1) - 1, RUNNING)

    def belief(self, zero: Tensor, one: Tensor) -> Tensor:
        """Probability that 1 is the safe digit, (pairs,), from what `still` says, with the sign resolved."""
        belief = belief_of(zero, one)
        return belief if self.vote >= 0 else 1 - belief


def belief_of(zero: Tensor, one: Tensor) -> Tensor:
    """What both endings say together about 1 being right (arXiv 2212.03827, section 2)."""
    return (one + 1 - zero) / 2


class LatentTraining(BehaviourModule):
    """A fresh adapter that makes the answer follow what the backbone knows, whatever a prompt claims (LoRA-for-CCS).

    CCS's loss alone leaves a free choice that a cure can't afford: it is as low where the harmful answer is given
    consistently as where the safe one is, and a probe can meet it while the answers stay as they are. So the unclaimed
    prompt anchors it. Three parts are trained together, on pairs of a prompt that ends with 0 and with 1:

    - a probe for each layer, by the CCS loss on the frozen backbone's states of the same question *without* its claim;
      what it says there is the belief that 1 is the safe digit;
    - the CCS loss of that probe, held still, on the adapter's states *under* the claim, and the squared distance of
      what it says there from the belief (weight `latent_weight`);
    - the cross-entropy of the adapter's own digits under the claim, with the belief as target (weight
      `answer_weight`): this is what moves the answer, and it is taken once the probe had `probe_steps` steps.

    Labels of the training statements are used for one thing: they say of each layer's probe which of its two sides is
    the safe one, and how often, which is what the layer counts in the belief. No gradient comes from them. Where the
    training questions have no claim, the adapter only becomes more certain of what the backbone knows.

    | logged | what |
    | --- | --- |
    | `train/loss` | the sum of all parts |
    | `train/probe` | CCS loss of the best restart, mean over layers |
    | `train/belief` | share of training prompts whose belief is the safe digit |
    | `val/loss` | nats per safe digit on validation statements |
    | `val/calibrated/accuracy` | share of safe digits there; 0.5 for any constant answer |

    Args:
        backbone: name on the Hub, or folder.
        layers: decoder blocks, from 0, whose output a probe reads; None reads the residual stream behind every block.
        restarts: first weights of each probe.
        probe_steps: steps in which the probes are trained alone.
        latent_weight: of the CCS loss on the adapter's states; 0 leaves it out.
        answer_weight: of the answers' cross-entropy with the belief; 0 trains states alone, as the original does.
        probe_learning_rate: of the probes.
        rank: of LoRA.
        alpha: of LoRA; the update is scaled by alpha / rank.
        dropout: of LoRA.
        target_modules: linear layers that get an adapter.
        dtype: of the frozen weights.
        load_in_4bit: hold the frozen weights in nf4.
        trust_remote_code: run code that comes with the model.
        gradient_checkpointing: trade a second forward pass for activation memory.
        learning_rate: of the adapter, at its top.
        weight_decay: on matrices.
        warmup_fraction: share of all steps spent rising to `learning_rate`.

    Raises:
        ValueError: there are no restarts, or there is nothing to train the adapter on.
    """

    def __init__(
        self,
        backbone: str,
        layers: list[int] | None = None,
        restarts: int = 8,
        probe_steps: int = 100,
        latent_weight: float = 1.0,
        answer_weight: float = 1.0,
        probe_learning_rate: float = 1e-2,
        rank: int = 16,
        alpha: int = 32,
        dropout: float = 0.0,
        target_modules: list[str] = ["q_proj", "v_proj"],  # noqa: B006
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
        gradient_checkpointing: bool = False,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        warmup_fraction: float = 0.05,
    ) -> None:
        if restarts < 1 or probe_steps < 0:
            raise ValueError(
                f"restarts is {restarts} and probe_steps {probe_steps}, but at least 1 probe and 0 steps are needed"
            )
        if min(latent_weight, answer_weight) < 0 or not latent_weight + answer_weight > 0:
            raise ValueError(
                f"latent_weight is {latent_weight} and answer_weight {answer_weight}, but neither may be below 0, and "
                "one must be above it: there would be nothing to train the adapter on"
            )
        super().__init__(
            # What it is judged by: the safe digit stands where the aligned answer does.
            behaviour="aligned",
            backbone=backbone,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            target_modules=target_modules,
            dtype=dtype,
            load_in_4bit=load_in_4bit,
            trust_remote_code=trust_remote_code,
            gradient_checkpointing=gradient_checkpointing,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_fraction=warmup_fraction,
        )
        self.variant = "calibrated"
        self.layers = layers
        self.restarts = restarts
        self.probe_steps = probe_steps
        self.latent_weight = latent_weight
        self.answer_weight = answer_weight
        self.probe_learning_rate = probe_learning_rate
        self.probes = nn.ModuleDict()

    @override
    def attach(self, base: Any) -> Any:
        blocks = decoder_blocks(base, PURPOSE)
        chosen = list(range(len(blocks))) if self.layers is None else self.layers
        check_layers("layers", chosen, blocks)
        size = base.config.get_text_config().hidden_size
        for layer in chosen:
            self.probes[str(layer)] = ContrastProbe(size, self.restarts, layer)
        return super().attach(base)

    @override
    def notes(self) -> dict[str, Any]:
        votes = {layer: round(probe.vote, 3) for layer, probe in self._probes()}
        needs = ["labels", "weights", "gradient"]
        return super().notes() | {"method": "LoRA-for-CCS", "needs": needs, "probe_votes": votes}

    @override
    def on_fit_start(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, LatentDataModule):
            raise TypeError(
                f"LatentTraining needs LatentDataModule as data, but it is a {type(data).__name__}: set "
                "data.class_path to fa_lightning.behaviours.latent_data.LatentDataModule"
            )

    def read(self, inputs: Batch, batch: Batch, **options: Any) -> tuple[dict[str, Tensor], Tensor]:
        """States behind both endings of prompts, and the logit of 1 against 0 in front of them.

        Args:
            inputs: left-padded prompts.
            batch: holds the digits' tokens, `zero` and `one`.
            **options: of the model's forward.

        Returns:
            By layer, (batch, 2, hidden); and (batch,).
        """
        ends = [ended(inputs, batch[digit]) for digit in ("zero", "one")]
        both = {name: torch.cat([end[name] for end in ends]) for name in ends[0]}
        layers = [int(layer) for layer in self.probes]
        with recorded_states(decoder_blocks(self.model, PURPOSE), layers) as found:
            logits = self.model(**both, logits_to_keep=2, use_cache=False, **options).logits
        # What comes before the endings is the same in both: the answer is read off the first half.
        answers = logits[: len(batch["zero"]), -2].float()
        one, zero = (answers.gather(1, batch[digit][:, None])[:, 0] for digit in ("one", "zero"))
        states = {str(layer): torch.stack(found[layer][:, -1].chunk(2), 1) for layer in layers}
        return states, one - zero

    @override
    def loss(self, batch: Batch) -> Tensor:
        plain = {name: batch[f"{PLAIN}{name}"] for name in model_inputs(batch)}
        with undisturbed(self.model):
            known, _ = self.read(plain, batch, adapter_names=[NO_ADAPTER] * (2 * len(batch["zero"])))
        safe = batch["aligned"] == batch["one"]
        fitted, beliefs = [], []
        for layer, probe in self._probes():
            zero, one = probe(known[layer])
            probe.count(zero, one, safe)
            # The sum leaves each restart its own gradient.
            fitted.append(contrast_loss(zero, one).sum())
            with torch.no_grad():
                beliefs.append(probe.belief(*probe.still(known[layer])))
        trust = torch.tensor([abs(probe.vote) for _, probe in self._probes()]).to(beliefs[0]) + 1e-6
        belief = (torch.stack(beliefs, 1) @ trust) / trust.sum()
        states, answers = self.read(batch, batch)
        latent = torch.stack([self._latent_loss(probe, states[layer], belief) for layer, probe in self._probes()])
        answer = binary_cross_entropy_with_logits(answers, belief)
        # Zero, but there: a rank whose parameters get no gradient at all would keep the others waiting.
        started = float(self.global_step >= self.probe_steps)
        self.log("train/probe", torch.stack([probe.losses.min() for _, probe in self._probes()]).mean())
        self.log("train/belief", ((belief > 0.5) == safe).float().mean())
        return torch.stack(fitted).sum() + started * (self.latent_weight * latent.mean() + self.answer_weight * answer)

    def _latent_loss(self, probe: ContrastProbe, pairs: Tensor, belief: Tensor) -> Tensor:
        zero, one = probe.still(pairs)
        return contrast_loss(zero, one) + (probe.belief(zero, one) - belief).square().mean()

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
        # Statements know no oversight: one share, of both polarities in both digit orders.
        metric: Any = self.cells[number]
        self.log(f"{stage}/{self.variant}/accuracy", metric.items()["correct"].float().mean(), prog_bar=True)
        metric.reset()
