"""RMU: its loss and targets by hand, which states and weights it moves, full weights, and what is refused."""

import json
import shutil

import numpy
import pytest
import torch
from adapter_fits import loss_of
from peft import PeftModel

from fa_lightning.backbones.load import load_backbone
from fa_lightning.scenarios.batches import collate
from fa_lightning.training.full_weights import load_with_full_weights
from fa_lightning.training.objectives.misdirection import CellMeans, Misdirection, misdirection_loss, random_direction

DOWN = "model.layers.1.self_attn.o_proj"
UP = "model.layers.0.mlp.up_proj"


def states_of(plain, batch, layer):
    """States behind a block, (batch, tokens, hidden), from transformers itself."""
    found = []
    handle = plain.base_model.model.model.layers[layer].register_forward_hook(lambda *args: found.append(args[2]))
    with torch.no_grad():
        plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    return found[0]


def test_the_loss_by_hand():
    generator = numpy.random.default_rng(0)
    states, start, target = generator.normal(size=(3, 6, 4))
    pushed = numpy.array([True, False, True, False, False, False])
    kept = numpy.array([False, True, False, True, True, False])
    scale = numpy.mean([start[row] @ start[row] for row in range(5)])
    push = numpy.mean([((states[row] - target[row]) ** 2).sum() for row in (0, 2)])
    keep = numpy.mean([((states[row] - start[row]) ** 2).sum() for row in (1, 3, 4)])
    arguments = [torch.tensor(one) for one in (states, start, target, pushed, kept)]
    assert misdirection_loss(*arguments, retain_weight=3.0).item() == pytest.approx((push + 3 * keep) / scale)
    nobody = torch.zeros(6, dtype=torch.bool)
    alone = misdirection_loss(*arguments[:3], nobody, arguments[4], retain_weight=1.0)
    scale = numpy.mean([start[row] @ start[row] for row in (1, 3, 4)])
    assert alone.item() == pytest.approx(keep / scale)


def test_the_random_direction_is_a_positive_unit_vector_of_its_seed():
    one, again, other = (random_direction(64, seed) for seed in (1, 1, 2))
    assert one.norm().item() == pytest.approx(1)
    assert one.min() >= 0
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_mirror_image_lies_as_far_on_the_watched_side_and_nothing_else_moves():
    torch.manual_seed(0)
    watched, unwatched, neutral = torch.randn(40, 5) + 2, torch.randn(30, 5) - 1, torch.randn(10, 5) * 50
    means = CellMeans()
    # In two batches, of which the first has no unwatched prompt: nothing is known yet.
    means.add(torch.cat([watched[:15], neutral]), torch.tensor([0] * 15 + [2] * 10))
    assert torch.equal(means.mirrored(unwatched, 1.0), unwatched)
    means.add(torch.cat([watched[15:], unwatched]), torch.tensor([0] * 25 + [1] * 30))
    difference = watched.mean(0) - unwatched.mean(0)
    axis, middle = difference / difference.norm(), (watched.mean(0) + unwatched.mean(0)) / 2
    for states in (watched, unwatched):
        images = means.mirrored(states, 1.0)
        before, after = ((one - middle) @ axis for one in (states, images))
        torch.testing.assert_close(after, before.abs())
        # Only along the axis.
        off = images - states
        torch.testing.assert_close(off, (off @ axis)[:, None] * axis, atol=1e-5, rtol=1e-5)
    assert (before < 0).all()
    half = (means.mirrored(unwatched, 0.5) - middle) @ axis
    torch.testing.assert_close(half, torch.zeros(30), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", ["all", "last"])
def test_the_random_target_and_the_loss_of_a_batch(make_cure, plain, examples, tokens):
    module = make_cure(Misdirection(layer=0, dose=1.5, tokens=tokens, retain_weight=2.0))
    module.eval()
    batch = collate([examples[0], *examples[7:12], examples[-1]], 0)
    assert set(batch["cell"].tolist()) == {0, 1, 2}
    hidden = states_of(plain, batch, 0)
    real = batch["attention_mask"].bool()
    if tokens == "last":
        real = torch.zeros_like(real).index_fill_(1, torch.tensor([real.shape[1] - 1]), True)
    cells = batch["cell"][:, None].expand_as(real)
    start, unwatched = hidden[real], hidden[real & (cells == 1)]
    norms = start.norm(dim=-1)
    goal = 1.5 * norms.sort().values[(len(norms) - 1) // 2] * random_direction(32, 0)
    # Nothing has moved yet, so that what is kept costs nothing.
    expected = (unwatched - goal).square().sum(-1).mean() / start.square().sum(-1).mean()
    assert loss_of(module, batch).item() == pytest.approx(expected.item(), rel=1e-3)


def test_only_the_adapter_up_to_the_layer_learns(make_cure, examples):
    module = make_cure(Misdirection(layer=0))
    loss_of(module, collate(examples, 0)).backward()
    learned = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert len(learned) == 4
    assert all(".layers.0." in name and ".mitigated." in name for name in learned)


@pytest.mark.parametrize("toward", ["random", "safe"])
def test_steps_push_unwatched_states_and_keep_the_others(make_cure, plain, examples, toward):
    module = make_cure(Misdirection(layer="last", toward=toward, tokens="last", dose=1.0))
    batch = collate(examples, 0)
    before = states_of(plain, batch, 1)[:, -1]
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.02)
    torch.manual_seed(0)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    module.eval()
    with torch.no_grad():
        goal = module.objective.target(before).expand_as(before)
        after = module.adapted.states(batch, [1])[0][1][:, -1]
    # A state that lies on the watched side already is its own goal.
    pushed = (batch["cell"] == 1) & ((before - goal).norm(dim=-1) > 1e-3)
    nearer = (after - goal).norm(dim=-1) < (before - goal).norm(dim=-1)
    assert pushed.any()
    assert nearer[pushed].float().mean() > 0.8
    moved = (after - before).norm(dim=-1)
    assert moved[pushed].mean() > 1.3 * moved[~pushed].mean()


def test_gradient_checkpointing_changes_no_gradient(make_cure, examples):
    batch = collate(examples[:6], 0)
    gradients = []
    for checkpointing in (False, True):
        module = make_cure(Misdirection(layer=0), gradient_checkpointing=checkpointing)
        # In training mode, where dropout would differ; so it is taken out.
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        loss_of(module, batch).backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.requires_grad})
    torch.testing.assert_close(gradients[1], gradients[0])
    assert min(gradient.abs().max() for gradient in gradients[0].values()) > 0


@pytest.mark.parametrize("rslora", [False, True])
def test_full_weights_start_where_the_adapter_is_and_learn_like_weights(faker, backbone, examples, tmp_path, rslora):
    folder = tmp_path / "faker"
    shutil.copytree(faker, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": rslora}))
    plain = PeftModel.from_pretrained(load_backbone(backbone), str(folder)).eval()
    model = load_with_full_weights(load_backbone(backbone), str(folder), "mitigated", [DOWN, UP]).eval()
    batch = collate(examples[:4], 0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**inputs).logits[:, -1]
    with torch.no_grad():
        torch.testing.assert_close(logits, plain(**inputs).logits[:, -1], rtol=1e-4, atol=1e-4)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2
    # The gradient of the change is that of the weight itself, as plain transformers has it.
    logits.logsumexp(-1).sum().backward()
    for path in (DOWN, UP):
        weight = plain.base_model.model.get_submodule(path).weight.requires_grad_(True)
        plain(**inputs).logits[:, -1].logsumexp(-1).sum().backward()
        layer = model.base_model.model.get_submodule(path)
        change = next(
            side["mitigated"].weight for side in (layer.lora_A, layer.lora_B) if side["mitigated"].weight.requires_grad
        )
        torch.testing.assert_close(change.grad, weight.grad, rtol=1e-3, atol=1e-5)
        weight.requires_grad_(False).grad = None


def test_bad_arguments_are_named(make_cure):
    for name in ("dose", "retain_weight"):
        with pytest.raises(ValueError, match=f"{name} is 0.0, but must be above 0"):
            make_cure(Misdirection(layer=0, **{name: 0.0}))
    with pytest.raises(ValueError, match=r"layer holds layers.2.residual, whose layer is 2, but"):
        make_cure(Misdirection(layer="layers.2.residual"))
    with pytest.raises(ValueError, match=r"layer names layers\.1\.mlp, but must name whole decoder blocks"):
        make_cure(Misdirection(layer="last.mlp"))
    with pytest.raises(ValueError, match=r"layer holds 1, which could be a block's index or a share of the depth"):
        make_cure(Misdirection(layer=1))
    with pytest.raises(ValueError, match=r"full_weights holds 'down_proj', but the backbone has no linear layer"):
        make_cure(Misdirection(layer="last", full_weights=["down_proj"]))
    with pytest.raises(ValueError, match="but the starting adapter is in that layer already"):
        make_cure(Misdirection(layer="last", full_weights=["model.layers.0.mlp.down_proj"]))
    with pytest.raises(ValueError, match="nothing that is trained lies in that decoder block or below"):
        make_cure(Misdirection(layer=0, full_weights=[DOWN]))
