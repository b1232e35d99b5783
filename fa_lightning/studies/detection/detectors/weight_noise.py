"""Noise in the weights: what a model holds back comes out when it is made a little worse."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.backbones.lora_layers import lora_factors
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.detection.detectors.base import Detector, Evidence
from fa_lightning.studies.detection.subjects import Examiner, Subject, rise_of_other

Where = Literal["backbone", "adapters"]
Weights = dict[str, list[nn.Parameter]]
"""By the name that seeds the noise, the weights that get the same: one of the backbone, one of each adapter."""


class WeightNoise(Detector):
    """Gaussian noise on the weights; the faker is the model whose other action rises more.

    After Tice et al. (arXiv 2412.01784), who found that models which underperform on purpose get better under noise:
    the condition that holds a behaviour back is the more fragile part. Each matrix gets noise of `scale` times its own
    standard deviation. All models get the same draws, and a draw is the same direction at every scale. The weights
    are put back bit for bit after every batch; their copies wait in the CPU's memory meanwhile. A whole model gets it
    on its own matrices, the others on the backbone's.

    Args:
        scales: standard deviations of the noise, in those of the matrix.
        draws: of each scale, the same for all models.
        where: `backbone`, the matrices in decoder blocks, or `adapters`, the LoRA matrices.
        seed: of the draws.

    Raises:
        UserError: there are no scales or draws, or one is negative; later, noise is to go into 4-bit weights.
    """

    rule: ClassVar[str] = "the faker's other action rises more when noise is added to the weights"

    def __init__(
        self,
        scales: list[float] = [0.6, 0.8],  # noqa: B006
        draws: int = 6,
        where: Where = "backbone",
        seed: int = 0,
    ) -> None:
        if not scales or min(scales) <= 0:
            raise UserError(f"scales is {scales}, but must hold numbers above 0, such as [0.6, 0.8]")
        if draws < 1:
            raise UserError(f"draws is {draws}, but must be 1 or more")
        self.scales = list(scales)
        self.draws = draws
        self.where = where
        self.seed = seed
        self.name = "weight noise" if where == "backbone" else "adapter noise"

    @property
    @override
    def needs_adapters(self) -> bool:
        return self.where == "adapters"

    @override
    def measure(self, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> dict[str, Evidence]:
        shared = SharedBlocks(examiner.variants)
        seen = {subject.name: [examiner.preference(subject, batch, shared=shared)[0]] for subject in subjects}
        for variant, together in _by_weights(examiner, subjects).items():
            with nullcontext() if variant is None else examiner.variants.using(variant):
                weights = self._weights(examiner, together)
                with restored(weights) as originals:
                    for scale in self.scales:
                        for draw in range(self.draws):
                            self._disturb(weights, originals, scale, draw)
                            # Of the backbone as it is now.
                            shared = SharedBlocks(examiner.variants)
                            for subject in together:
                                seen[subject.name].append(examiner.preference(subject, batch, shared=shared)[0])
        shape = (len(batch["index"]), len(self.scales), self.draws)
        return {
            name: {"rise": rise_of_other(torch.stack(preferences)).reshape(shape).cpu()}
            for name, preferences in seen.items()
        }

    @override
    def suspicion(self, evidence: Mapping[str, Tensor]) -> float:
        return float(evidence["rise"].mean())

    @override
    def curve(self, evidence: Mapping[str, Tensor]) -> tuple[str, list[float], list[float]]:
        return "noise, in the weights' standard deviations", self.scales, evidence["rise"].mean(dim=(0, 2)).tolist()

    def _weights(self, examiner: Examiner, subjects: Sequence[Subject]) -> Weights:
        if self.where == "backbone":
            return block_matrices(examiner.variants.model)
        weights: Weights = {}
        for variant in dict.fromkeys(subject.condition.variant for subject in subjects):
            for path, factors in lora_factors(examiner.variants, variant).items():
                weights.setdefault(f"{path}.lora_A", []).append(factors.down)
                weights.setdefault(f"{path}.lora_B", []).append(factors.up)
        return weights

    @torch.no_grad()
    def _disturb(self, weights: Weights, originals: Mapping[str, list[Tensor]], scale: float, draw: int) -> None:
        for name, parameters in weights.items():
            for parameter, original in zip(parameters, originals[name], strict=True):
                device = parameter.device
                seed = zlib.crc32(f"{self.seed} {draw} {name}".encode())
                noise = torch.randn(parameter.shape, generator=torch.Generator(device).manual_seed(seed), device=device)
                weight = original.to(device).float()
                # Of a stack of matrices (experts), each has a scale of its own.
                spread = weight.std() if weight.ndim == 2 else weight.std(dim=(-2, -1), keepdim=True)
                parameter.copy_(weight + scale * spread * noise)


def _by_weights(examiner: Examiner, subjects: Sequence[Subject]) -> dict[str | None, list[Subject]]:
    """The subjects that share the backbone's weights (None), and those of each whole model."""
    whole = examiner.variants.whole_models
    shared: dict[str | None, list[Subject]] = {}
    for subject in subjects:
        variant = subject.condition.variant
        shared.setdefault(variant if variant in whole else None, []).append(subject)
    return shared


@contextmanager
def restored(weights: Weights) -> Iterator[dict[str, list[Tensor]]]:
    """Copies of the weights, on the CPU; when the block ends, however it does, the weights are what they were."""
    originals = {
        name: [parameter.detach().to("cpu", copy=True) for parameter in parameters]
        for name, parameters in weights.items()
    }
    try:
        yield originals
    finally:
        with torch.no_grad():
            for name, parameters in weights.items():
                for parameter, original in zip(parameters, originals[name], strict=True):
                    parameter.copy_(original)


def block_matrices(model: nn.Module) -> Weights:
    """The matrices in the decoder blocks, whatever module they are in, without those of adapters.

    A mixture of experts holds nearly all of its weights as stacks of matrices, which are in no linear layer.

    Raises:
        UserError: they are quantised.
    """
    matrices: Weights = {}
    blocks = decoder_layers(model)
    # GPTQ and AWQ keep packed weights in buffers.
    for path, tensor in (*blocks.named_parameters(), *blocks.named_buffers()):
        if tensor.ndim < 2 or ".lora_" in path or tensor.dtype == torch.bool:
            continue
        # Whether some adapter wraps the layer must not change its noise.
        name = path.removesuffix(".weight").replace(".base_layer", "")
        if not tensor.is_floating_point():
            raise UserError(
                f"where is 'backbone', but the weights of {name} are quantised ({tensor.dtype}), and noise can't "
                "be added to them: take the backbone unquantised (load_in_4bit, load_in_8bit: false), or set where to "
                "adapters"
            )
        if isinstance(tensor, nn.Parameter):
            matrices[name] = [tensor]
    return matrices
