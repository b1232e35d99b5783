"""The fits that go through the live model: the behaviour-aware loss, and the pairs that a stack's next site sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fa_lightning.activations.massive import ordinary_tokens
from fa_lightning.activations.sites import Site
from fa_lightning.metrics.divergences import kl_divergence
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.faker_pass import Edits, FakerPass, block_of, neutral_divergence
from fa_lightning.regressors.fit import Fit
from fa_lightning.regressors.pairs import training_pairs
from fa_lightning.scenarios.batches import Batch


def behaviour_loss(
    fit: Fit,
    site: Site,
    regressor: Regressor,
    live: FakerPass,
    texts: FakerPass,
    answers: Tensor,
    aligned: dict[str, Tensor],
) -> Tensor:
    """What a map's edit does to the model: KL of answers, KL on neutral texts and, if mixed, the states' error.

    Args:
        fit: with the weights.
        site: where the map is, with its position rule.
        regressor: the map.
        live: the faker's pass over prompts.
        texts: its pass over neutral texts.
        answers: the aligned twin's answer logits on the prompts, (batch, vocabulary).
        aligned: its states by site, (batch, tokens, hidden).

    Returns:
        A scalar, nats.
    """
    used = torch.ones_like(live.batch["index"], dtype=torch.bool)
    if fit.scenarios is not None:
        used = live.batch["index"] < fit.scenarios
    steered = live.steered_logits([(site, regressor)])[:, -1]
    per_prompt = kl_divergence(answers, steered)
    loss = (per_prompt * used).sum() / used.sum().clamp_min(1)
    if fit.neutral_weight:
        loss = loss + fit.neutral_weight * neutral_divergence(texts, site, regressor)
    if fit.objective == "mixed":
        states, wanted = live.states[site.name][:, -1], aligned[site.name][:, -1]
        error = regressor.loss(states, wanted, used.float())
        if fit.keep:
            real = texts.batch["attention_mask"].bool()
            plain = texts.states[site.name][real]
            if fit.positions != "all":
                plain = plain[ordinary_tokens(plain, texts.batch["position_ids"][real])]
            error = error + fit.keep * regressor.loss(plain, plain)
        loss = loss + fit.regression_weight * error
    return loss


def surrogate(loss: Tensor, regressor: nn.Module) -> Tensor:
    """A number with the loss's value and gradient that no longer holds the model's graph.

    So the passes of many maps need the memory of one, and a single backward pass still serves them all, which is what
    DistributedDataParallel expects.
    """
    parameters = [parameter for parameter in regressor.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    linear = [
        (gradient * parameter).sum()
        for gradient, parameter in zip(gradients, parameters, strict=True)
        if gradient is not None
    ]
    total = torch.stack(linear).sum() if linear else loss.new_zeros(())
    return loss.detach() + total - total.detach()


def stack_pairs(
    fit: Fit, site: Site, edits: Edits, live: FakerPass, aligned: dict[str, Tensor], texts: Batch
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The training pairs at the next site of a stack, from the faker as the sites below it steer it by now.

    Args:
        fit: of the stack.
        site: the next one.
        edits: those below it.
        live: the faker's unsteered pass over prompts.
        aligned: the aligned twin's states of the same prompts.
        texts: neutral texts, which the fit is to leave alone.

    Returns:
        Pairs as `training_pairs` gives them.
    """
    steered = live.steered_states(edits, site)
    pairs = [training_pairs(block_of(live.batch, site, steered, aligned[site.name]), site, fit)]
    if fit.keep:
        unsteered = FakerPass(live.variants, texts, [*(edited for edited, _ in edits), site], last_only=True)
        states = unsteered.steered_states(edits, site)
        pairs.append(training_pairs(block_of(texts, site, states, states), site, fit))
    return pairs
