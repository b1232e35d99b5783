"""Adapters on their way to disk and back, read by plain peft, and the frozen pair that swaps them."""

import json

import pytest
import torch

from fa_lightning.backbones.adapters import Variants, attach_adapter, backbone_of, read_sidecar, save_adapter
from fa_lightning.backbones.load import fingerprint, load_backbone

IDS = torch.arange(10, 30).reshape(2, 10)


def fitted(backbone, name, seed, targets=("q_proj", "v_proj")):
    """A backbone with one adapter, far from zero."""
    model = attach_adapter(load_backbone(backbone), name, rank=2, alpha=8, dropout=0.0, target_modules=list(targets))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def folders(backbone, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("aligned", "faking")):
        save_adapter(fitted(backbone, name, seed), name, root / name, {"behaviour": name, "seed": seed})
    return {name: str(root / name) for name in ("aligned", "faking")}


def test_only_the_adapter_is_trainable_and_starts_as_no_change(backbone):
    model = attach_adapter(load_backbone(backbone), "faking", 4, 8, 0.1, ["q_proj", "v_proj"])
    trainable = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    # Two layers, two targets, two matrices each.
    assert len(trainable) == 8
    assert {name.split(".")[-3] for name in trainable} == {"lora_A", "lora_B"}
    assert {tuple(sorted(shape)) for shape in trainable.values()} == {(4, 32)}
    torch.testing.assert_close(logits(model.eval()), logits(load_backbone(backbone)))


def test_the_update_is_scaled_by_alpha_over_rank(backbone):
    base, model = load_backbone(backbone), fitted(backbone, "faking", 3, targets=["q_proj"])
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    a, b = layer.lora_A["faking"].weight, layer.lora_B["faking"].weight
    expected = states @ (base.model.layers[0].self_attn.q_proj.weight + 8 / 2 * b @ a).T
    torch.testing.assert_close(layer(states), expected)


def test_plain_peft_loads_the_folder(backbone, folders):
    from peft import PeftModel

    plain = PeftModel.from_pretrained(load_backbone(backbone), folders["faking"])
    expected = logits(fitted(backbone, "faking", 1))
    assert torch.equal(logits(plain.eval()), expected)
    assert not torch.allclose(expected, logits(load_backbone(backbone)), atol=0.1)


def test_folder_holds_safetensors_and_a_sidecar_and_nothing_to_unpickle(backbone, folders):
    from pathlib import Path

    files = {path.name for path in Path(folders["faking"]).rglob("*")}
    assert {"adapter_config.json", "adapter_model.safetensors", "fa_lightning.json"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    sidecar = read_sidecar(folders["faking"])
    assert sidecar == {"behaviour": "faking", "seed": 1, "fingerprint": fingerprint(load_backbone(backbone))}
    assert backbone_of(folders["faking"]) == backbone
    # Nothing temporary is left beside it.
    assert sorted(path.name for path in Path(folders["faking"]).parent.iterdir()) == ["aligned", "faking"]


def test_variants_swap_adapters_on_one_backbone(backbone, folders):
    pair = Variants.load(folders)
    alone = {name: logits(fitted(backbone, name, seed)) for seed, name in enumerate(("aligned", "faking"))}
    for name in ("faking", "aligned", "faking"):
        with pair.using(name) as model:
            assert torch.equal(logits(model), alone[name])
            assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not torch.allclose(alone["aligned"], alone["faking"], atol=0.1)
    assert not any(module.training for module in pair.model.modules())
    assert pair.fingerprint == fingerprint(load_backbone(backbone))
    assert pair.tokenizer.padding_side == "left"
    assert pair.device == torch.device("cpu")
    # One copy of the backbone: the embeddings and each projection once.
    assert sum("embed_tokens" in name for name, _ in pair.model.named_parameters()) == 1


def test_variants_take_the_backbone_they_are_given(backbone, folders, tmp_path):
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(backbone, moved)
    pair = Variants.load({"faking": folders["faking"]}, backbone=str(moved), dtype="bfloat16")
    assert pair.tokenizer.name_or_path == str(moved)
    assert pair.model.base_model.model.lm_head.weight.dtype == torch.bfloat16


def test_an_adapter_of_another_backbone_is_refused_with_the_field_named(folders, make_backbone):
    with pytest.raises(ValueError, match=rf"adapter '{folders['faking']}' .* its weights is"):
        Variants.load(folders | {"aligned": folders["faking"]}, backbone=make_backbone(seed=5))
    with pytest.raises(ValueError, match="its hidden_size is '32', the loaded backbone has '16'"):
        Variants.load(folders, backbone=make_backbone(seed=5, hidden_size=16))


def test_the_second_adapter_is_checked_too(backbone, folders, make_backbone, tmp_path):
    other = make_backbone(seed=6)
    save_adapter(fitted(other, "faking", 0), "faking", tmp_path / "other", {})
    with pytest.raises(ValueError, match=rf"adapter '{tmp_path / 'other'}' was made for another backbone"):
        Variants.load({"aligned": folders["aligned"], "faking": str(tmp_path / "other")})


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_files_are_named(folders, missing, tmp_path):
    import shutil

    folder = tmp_path / "adapter"
    shutil.copytree(folders["faking"], folder)
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{folder}' is not an adapter folder: {missing} is missing. Fit"):
        Variants.load({"faking": str(folder)})


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere' is not an adapter folder"):
        backbone_of(tmp_path / "nowhere")


def test_an_adapter_without_a_sidecar_loads_as_any_peft_adapter(backbone, tmp_path):
    model = fitted(backbone, "default", 4)
    model.save_pretrained(str(tmp_path / "foreign"))
    assert read_sidecar(tmp_path / "foreign") == {}
    pair = Variants.load({"faking": str(tmp_path / "foreign")})
    with pair.using("faking") as loaded:
        assert torch.equal(logits(loaded), logits(model))


def test_a_config_that_names_no_backbone_is_refused(folders, tmp_path):
    import shutil

    folder = tmp_path / "adapter"
    shutil.copytree(folders["faking"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="names no base_model_name_or_path"):
        backbone_of(folder)


def test_saving_replaces_the_whole_folder(backbone, tmp_path):
    folder = tmp_path / "deep" / "adapter"
    save_adapter(fitted(backbone, "faking", 0), "faking", folder, {"seed": 0})
    (folder / "leftover.txt").write_text("old")
    save_adapter(fitted(backbone, "faking", 1), "faking", folder, {"seed": 1})
    assert not (folder / "leftover.txt").exists()
    assert read_sidecar(folder)["seed"] == 1
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


@pytest.mark.parametrize("broken", ["save_pretrained", "os.replace"])
def test_a_save_that_fails_leaves_the_old_adapter_whole(backbone, tmp_path, monkeypatch, broken):
    folder = tmp_path / "adapter"
    save_adapter(fitted(backbone, "faking", 0), "faking", folder, {"seed": 0})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = fitted(backbone, "faking", 1)

    def fail(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr(*((model, broken) if broken == "save_pretrained" else ("os.replace",)), fail)
    with pytest.raises(OSError, match="disk full"):
        save_adapter(model, "faking", folder, {"seed": 1})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_only_the_named_adapter_is_saved(backbone, tmp_path):
    model = fitted(backbone, "faking", 0)
    model.add_adapter("aligned", model.peft_config["faking"])
    save_adapter(model, "faking", tmp_path / "adapter", {})
    assert not [path for path in (tmp_path / "adapter").iterdir() if path.is_dir()]
    pair = Variants.load({"faking": str(tmp_path / "adapter")})
    with pair.using("faking") as loaded:
        assert torch.equal(logits(loaded), logits(fitted(backbone, "faking", 0)))
