"""Backbones that do not fit one GPU: weights cut over all ranks, block by block, and the strategy for such a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map
from typing_extensions import override

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.hub import place_of
from fa_lightning.backbones.load import revision_options
from fa_lightning.errors import UserError


class ShardedStrategy(DDPStrategy):
    """Fully sharded data parallelism (FSDP2) for a module that shards its backbone; DDP for any other.

    Each decoder block and the rest of the model are one unit each: gathered before it computes, let go of afterwards.
    Parameters are cut one by one, so that frozen weights in bfloat16 and trainable LoRA matrices in float32 share a
    unit, and both are cut. Checkpoints hold the trainable weights and the optimizer's state whole, as without sharding,
    so a fit may be resumed on another number of ranks, or without sharding.

    Why not Lightning's own: its `FSDPStrategy` runs on CUDA alone and can't be tried without; its
    `ModelParallelStrategy` gathers the frozen backbone for every checkpoint, and leaves modules that are not sharded
    (the maps of stage 4) to drift apart.
    """

    @property
    def shards(self) -> bool:
        """Whether the module has cut its weights."""
        return self.lightning_module is not None and is_sharded(self.lightning_module)

    @override
    def setup(self, trainer: pl.Trainer) -> None:
        if self.shards:
            # A test after the fit would send rank zero's shards to all others.
            module: Any = self.lightning_module
            cut = [name for name, tensor in module.named_parameters() if isinstance(tensor, DTensor)]
            module._ddp_params_and_buffers_to_ignore = cut
        super().setup(trainer)

    @override
    def configure_ddp(self) -> None:
        # The units of a sharded model reduce their own gradients.
        if not self.shards:
            super().configure_ddp()

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        if not self.shards:
            return super().lightning_module_state_dict()
        assert self.lightning_module is not None
        trained = {name: weight for name, weight in self.lightning_module.named_parameters() if weight.requires_grad}
        return {name: _whole(parameter.detach()) for name, parameter in trained.items()}

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        if not self.shards:
            super().load_model_state_dict(checkpoint, strict)
            return
        assert self.lightning_module is not None
        parameters = dict(self.lightning_module.named_parameters())
        state = {name: _cut_like(tensor, parameters.get(name)) for name, tensor in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state: dict[str, Any] = tree_map(_whole, plain.state_dict())
        return state

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states = []
        for optimizer, whole in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            cut = {
                number: {name: _cut_like(value, parameters[number]) for name, value in moments.items()}
                for number, moments in whole["state"].items()
            }
            states.append({**whole, "state": cut})
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})


def is_sharded(module: nn.Module) -> bool:
    """Whether weights of a module are cut over the ranks."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def skeleton(backbone: BackboneArguments) -> Any:
    """The backbone without its weights: what the ranks build that `shard` sends rank zero's weights to.

    Args:
        backbone: of which the config alone is read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = place_of("backbone", backbone.required_name(), backbone.revision)
    trusted, revision = backbone.trust_remote_code, revision_options(folder, backbone)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted, **revision)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, backbone.dtype),
            trust_remote_code=trusted,
            attn_implementation=backbone.attn_implementation,
        )
    model.requires_grad_(False)
    return model.eval()


def shard(model: Any, device: torch.device) -> None:
    """Send rank zero's weights to all ranks, unit by unit, and cut each unit as soon as it is there.

    No rank but zero ever holds more than its shards and one unit, and the weights are read from disk once.

    Args:
        model: with its weights on rank zero, on the CPU or on `device`; elsewhere a `skeleton` will do. Adapters are
            attached already. Not in 4-bit: quantised weights can't be cut.
        device: where this rank computes.

    Raises:
        UserError: the model was not built alike on all ranks, or names no decoder block.
    """
    _refuse_unlike_ranks(model)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    blocks = getattr(model, "_no_split_modules", None) or ()
    units = [module for module in model.modules() if type(module).__name__ in blocks]
    if not units:
        raise UserError(f"{type(model).__name__} names no decoder block (_no_split_modules), so it can't be sharded")
    for unit in (*units, model):
        _receive(unit, device)
        # At the root too: else its weights would stay whole from a forward pass on, and checkpoints find no shards.
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def _receive(unit: nn.Module, device: torch.device) -> None:
    """Put what is not cut yet of a unit onto the device, with rank zero's values; tied weights stay tied."""
    placed: dict[int, Tensor] = {}
    for module in unit.modules():
        for name, old in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if isinstance(old, DTensor):
                continue
            if id(old) not in placed:
                new = torch.empty_like(old, device=device) if old.is_meta else old.detach().to(device)
                dist.broadcast(new, src=0)
                placed[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
            setattr(module, name, placed[id(old)])


def _refuse_unlike_ranks(model: nn.Module) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    own = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors]
    by_rank: list[Any] = [None] * dist.get_world_size()
    # Gathered and not sent, so that all ranks stop where one differs.
    dist.all_gather_object(by_rank, own)
    for other in by_rank:
        if other != own:
            raise UserError(
                f"rank {dist.get_rank()} and another rank have built different models, they differ in "
                f"{sorted(set(other) ^ set(own))[:3]}: give all ranks the same config and the same versions"
            )


def _whole(value: Any) -> Any:
    """A cut tensor gathered on the CPU, which all ranks must ask for; anything else as it is."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _cut_like(value: Any, parameter: Tensor | None) -> Any:
    """A whole tensor cut as `parameter` is, without communication: every rank has read the same file."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
