"""A sharded backbone in two processes (gloo), below the Trainer: who holds what, and the same numbers as unsharded."""

import copy
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from fa_lightning.backbones.adapters import attach_adapter
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.load import load_backbone
from fa_lightning.backbones.sharding import is_sharded, shard, skeleton

RANKS = 2
LORA = {"rank": 3, "alpha": 6, "dropout": 0.0, "target_modules": ["q_proj", "down_proj"]}
"""Three rows can't be shared evenly by two ranks."""


def whole_model(backbone, dtype="float32", seed=1):
    """Backbone and adapter with weights of their own."""
    torch.manual_seed(seed)
    model = attach_adapter(load_backbone(BackboneArguments(backbone, dtype)), "faking", LoraArguments(**LORA))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def ids_of(rank):
    return torch.randint(5, 300, (3, 12), generator=torch.Generator().manual_seed(rank))


def loss_of(model, rank):
    return model(input_ids=ids_of(rank), labels=ids_of(rank)).loss


def weights_and_gradients(rank, backbone):
    """Every weight is cut, tied ones stay tied, and gradients are those of the whole model on both ranks' batches."""
    model = whole_model(backbone) if rank == 0 else attach_adapter(skeleton(backbone), "faking", LoraArguments(**LORA))
    assert rank == 0 or all(parameter.is_meta for parameter in model.parameters())
    reference = whole_model(backbone)
    shard(model, torch.device("cpu"))
    assert is_sharded(model)
    parameters, wanted = dict(model.named_parameters()), dict(reference.named_parameters())
    assert parameters.keys() == wanted.keys()
    held = 0
    for name, parameter in parameters.items():
        assert isinstance(parameter, DTensor), name
        assert parameter.requires_grad == wanted[name].requires_grad
        assert torch.equal(parameter.full_tensor(), wanted[name]), name
        held += parameter.to_local().numel()
    share = held / sum(parameter.numel() for parameter in wanted.values())
    assert 0.45 < share < 0.55, share
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, "tied weights are one shard"
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, dict(reference.named_buffers())[name]), name
    loss_of(model, rank).backward()
    (sum(loss_of(reference, other) for other in range(RANKS)) / RANKS).backward()
    for name, parameter in parameters.items():
        if wanted[name].requires_grad:
            torch.testing.assert_close(parameter.grad.full_tensor(), wanted[name].grad, rtol=1e-5, atol=1e-7)
            assert wanted[name].grad.abs().max() > 0
        else:
            assert parameter.grad is None


def mixed_dtypes(rank, backbone):
    """Frozen bfloat16 and trainable float32 share a unit."""
    model = whole_model(backbone, "bfloat16")
    reference = copy.deepcopy(model)
    shard(model, torch.device("cpu"))
    dtypes = {(parameter.requires_grad, parameter.dtype) for parameter in model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(model, rank).backward()
        (sum(loss_of(reference, other) for other in range(RANKS)) / RANKS).backward()
    for (name, parameter), wanted in zip(model.named_parameters(), reference.parameters(), strict=True):
        if wanted.requires_grad:
            error = (parameter.grad.full_tensor() - wanted.grad).norm() / wanted.grad.norm()
            assert error < 0.03, f"{name}: {error}"


def unlike_models(rank, backbone):
    """Ranks that built different models all refuse."""
    model = attach_adapter(
        load_backbone(backbone), "faking", LoraArguments(**LORA if rank == 0 else LORA | {"rank": 4})
    )
    with pytest.raises(ValueError, match=f"rank {rank} and another rank have built different models.*lora_A"):
        shard(model, torch.device("cpu"))


def no_blocks(rank, backbone):
    with pytest.raises(ValueError, match="Linear names no decoder block"):
        shard(torch.nn.Linear(2, 2), torch.device("cpu"))


CHECKS = (weights_and_gradients, mixed_dtypes, unlike_models, no_blocks)


def run_rank(rank, backbone, folder):
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    for check in CHECKS:
        try:
            check(rank, backbone)
            found = "right"
        except Exception:
            # Whatever went wrong: a rank that stopped here would leave the other one waiting at the barrier.
            found = traceback.format_exc()
        Path(folder, f"{check.__name__}-{rank}").write_text(found)
        dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(make_backbone, tmp_path_factory):
    """What each rank found in each check: all in one start of the processes, which takes longer than the checks."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run_rank, args=(make_backbone(tie_word_embeddings=True), str(folder)), nprocs=RANKS)
    return {path.name: path.read_text() for path in folder.glob("*-*")}


@pytest.mark.slow
@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_on_two_ranks(found, check):
    assert [found[f"{check}-{rank}"] for rank in range(RANKS)] == ["right"] * RANKS


def test_the_skeleton_has_the_names_shapes_and_dtypes_of_the_backbone_and_no_weights(backbone):
    def facts(model):
        tensors = [*model.named_parameters(), *model.named_buffers()]
        return [(name, tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in tensors]

    empty = skeleton(BackboneArguments(backbone, "bfloat16"))
    assert facts(empty) == facts(load_backbone(BackboneArguments(backbone, "bfloat16")))
    assert not empty.training
    assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
