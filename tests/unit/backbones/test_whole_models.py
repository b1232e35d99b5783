"""Whole models as variants: what each says is what plain transformers says, and the backbone is left as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_whole_models import logits_of_folder, name_model, whole_twins, write_finetune

from fa_lightning.backbones import whole_models
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import MissingFileError, UserError

IDS = torch.arange(5, 29)[None]
Make = Callable[..., str]


@pytest.fixture(params=["host", "device"])
def turn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Turns by reference, as on a CPU, and by copies, as on any other device."""
    if request.param == "device":
        monkeypatch.setattr(whole_models, "is_host", lambda device: False)
    return str(request.param)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def bits_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(model: Any, before: dict[str, torch.Tensor]) -> None:
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_says_what_plain_transformers_says_and_the_backbone_is_put_back(
    make_backbone: Make, tmp_path: Path, turn: str, tied: bool, dtype: str
) -> None:
    backbone = make_backbone(seed=4, tie_word_embeddings=tied)
    # Both dtypes are read as the backbone is.
    twins = whole_twins(backbone, tmp_path, dtype=dtype)
    variants = Variants.load(twins, BackboneArguments(backbone, dtype="float32"))
    assert variants.names == variants.whole_models == ["faking", "aligned"]
    assert not variants.is_pure_lora
    before, own = bits_of(variants.model), logits_of_folder(backbone, IDS)
    expected = {name: logits_of_folder(str(tmp_path / f"model of {name}"), IDS) for name in twins}
    assert not torch.equal(expected["faking"], expected["aligned"])
    with variants.using("faking") as model:
        assert torch.equal(logits(model), expected["faking"])
        with variants.using("aligned") as model:
            assert torch.equal(logits(model), expected["aligned"])
            with variants.bare() as model:
                assert torch.equal(logits(model), own)
            assert torch.equal(logits(model), expected["aligned"])
        assert torch.equal(logits(model), expected["faking"])
    assert_same_bits(variants.model, before)
    assert torch.equal(logits(variants.model), own)
    if tied:
        assert variants.model.lm_head.weight is variants.model.model.embed_tokens.weight
    assert not any(parameter.requires_grad for parameter in variants.model.parameters())


def test_the_backbone_is_put_back_after_an_error_inside(make_backbone: Make, tmp_path: Path, turn: str) -> None:
    backbone = make_backbone(seed=4)
    variants = Variants.load(whole_twins(backbone, tmp_path), BackboneArguments(backbone))
    before = bits_of(variants.model)
    with pytest.raises(ZeroDivisionError), variants.using("faking"), variants.using("aligned"):
        raise ZeroDivisionError
    assert_same_bits(variants.model, before)
    with (
        pytest.raises(UserError, match="there is no variant 'third'; there are faking, aligned"),
        variants.using("third"),
    ):
        pass


def test_an_error_half_way_through_a_turn_leaves_the_backbone(
    make_backbone: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = make_backbone(seed=4)
    variants = Variants.load(whole_twins(backbone, tmp_path), BackboneArguments(backbone))
    before, put, calls = bits_of(variants.model), whole_models.Slot.put, []

    def put_some(slot: Any, weight: torch.Tensor) -> None:
        calls.append(slot)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("no room for the third")
        put(slot, weight)

    monkeypatch.setattr(whole_models.Slot, "put", put_some)
    with pytest.raises(torch.OutOfMemoryError), variants.using("faking"):
        pass
    assert len(calls) > 3
    assert_same_bits(variants.model, before)


def test_a_graph_keeps_the_weights_that_it_was_made_with(make_backbone: Make, tmp_path: Path, turn: str) -> None:
    backbone = make_backbone(seed=4)
    twins = whole_twins(backbone, tmp_path)
    variants = Variants.load(twins, BackboneArguments(backbone))

    def slope(model: Any, backward_inside: bool) -> torch.Tensor:
        states = torch.zeros(1, 4, 32, requires_grad=True)
        with model as used:
            loss = used(inputs_embeds=states + 0.1, use_cache=False).logits.logsumexp(-1).sum()
            if backward_inside:
                return torch.autograd.grad(loss, states)[0]
        return torch.autograd.grad(loss, states)[0]

    inside = slope(variants.using("faking"), True)
    assert torch.equal(slope(variants.using("faking"), False), inside)
    assert not torch.equal(slope(variants.using("aligned"), False), inside)
    with torch.inference_mode(), variants.using("faking"):
        pass
    # What was put back in inference mode can be trained through all the same.
    assert slope(variants.bare(), False).shape == (1, 4, 32)


def test_the_host_keeps_only_what_differs_and_what_lies_below_is_shared(make_backbone: Make, tmp_path: Path) -> None:
    backbone = make_backbone(seed=4)
    upper = write_finetune(backbone, tmp_path / "upper", 1, only="layers.1.mlp")
    folder = name_model(tmp_path / "faking", upper, "faking", backbone)
    itself = name_model(tmp_path / "aligned", backbone, "aligned", backbone)
    variants = Variants.load({"faking": folder, "aligned": itself}, BackboneArguments(backbone))
    assert variants.first_adapted == 1
    assert variants.memory()[1] == 3 * 32 * 64 * 4
    with variants.using("aligned") as model:
        assert torch.equal(logits(model), logits_of_folder(backbone, IDS))
    with variants.using("faking") as model:
        assert torch.equal(logits(model), logits_of_folder(upper, IDS))
    everywhere = whole_twins(backbone, tmp_path / "both")
    assert Variants.load(everywhere, BackboneArguments(backbone)).first_adapted == 0


def test_a_whole_model_stands_beside_an_adapter(make_backbone: Make, tmp_path: Path, turn: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from fa_lightning.backbones.adapters import attach_adapter, save_adapter
    from fa_lightning.backbones.load import load_backbone

    backbone = make_backbone(seed=4)
    faker = write_finetune(backbone, tmp_path / "faker", 1)
    adapter = attach_adapter(load_backbone(backbone), "aligned", LoraArguments(2, 4, 0.0, ["q_proj", "down_proj"]))
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=torch.Generator().manual_seed(3))
    save_adapter(adapter, "aligned", tmp_path / "honest", {"behaviour": "aligned"})
    honest = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(backbone), tmp_path / "honest").eval()
    folders = {
        "faking": name_model(tmp_path / "faking", faker, "faking", backbone),
        "aligned": str(tmp_path / "honest"),
    }
    variants = Variants.load(folders, BackboneArguments(backbone))
    assert variants.names == ["faking", "aligned"]
    before = bits_of(variants.model)
    for _ in range(2):
        with variants.using("faking") as model:
            assert torch.equal(logits(model), logits_of_folder(faker, IDS))
            with variants.using("aligned") as model:
                assert torch.equal(logits(model), logits(honest))
            assert torch.equal(logits(model), logits_of_folder(faker, IDS))
        with variants.using("aligned") as model, variants.using("faking"):
            assert torch.equal(logits(model), logits_of_folder(faker, IDS))
    assert_same_bits(variants.model, before)


def test_what_needs_both_at_once_or_an_adapter_is_refused_by_name(make_backbone: Make, tmp_path: Path) -> None:
    from fa_lightning.backbones.lora_layers import fresh_adapter, lora_factors

    backbone = make_backbone(seed=4)
    twins = whole_twins(backbone, tmp_path)
    variants = Variants.load(twins, BackboneArguments(backbone))
    with pytest.raises(UserError, match="LoRA's matrices are read off, but variant 'faking' is a whole model"):
        lora_factors(variants, "faking")
    with (
        pytest.raises(
            UserError, match="a fresh adapter is active beside LoRA adapters, but variant 'faking' is a whole"
        ),
        fresh_adapter(variants, 2, 4),
    ):
        pass
    with pytest.raises(
        UserError, match="weight arithmetic is on LoRA's matrices, but variant 'faking' is a whole model"
    ):
        variants.add_interpolated("between", "faking", "aligned", 0.5)
    with pytest.raises(UserError, match=r"must be an adapter, but .* is a whole model"):
        variants.add("third", twins["faking"])


def test_a_model_that_was_changed_or_is_gone_is_refused(make_backbone: Make, tmp_path: Path) -> None:
    backbone = make_backbone(seed=4)
    twins = whole_twins(backbone, tmp_path)
    model = tmp_path / "model of faking"
    write_finetune(backbone, model, 7)
    with pytest.raises(
        UserError, match="which was changed since it was taken: put it back as it was, or take it as it"
    ):
        Variants.load(twins, BackboneArguments(backbone))
    shutil.rmtree(model)
    with pytest.raises(
        MissingFileError, match=r"which is not copied, and there is no such folder any more: put it back"
    ):
        Variants.load(twins, BackboneArguments(backbone))


def test_few_bits_are_refused(make_backbone: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fa_lightning.backbones import variants as room

    backbone = make_backbone(seed=4)
    twins = whole_twins(backbone, tmp_path)
    monkeypatch.setattr(room, "is_packed", lambda model: True)
    with pytest.raises(
        UserError, match="variant 'faking' is a whole model, which can't take the place of weights in few"
    ):
        Variants.load(twins, BackboneArguments(backbone))
