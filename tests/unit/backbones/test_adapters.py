"""Adapters on their way to disk and back, read by plain peft, and the frozen pair that swaps them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fa_lightning.backbones.adapters import (
    adapter_folders,
    attach_adapter,
    backbone_of,
    origin_of,
    read_sidecar,
    save_adapter,
)
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.backbones.load import fingerprint, load_backbone
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError

IDS = torch.arange(10, 30).reshape(2, 10)


def fitted(backbone, name, seed, targets=("q_proj", "v_proj"), rank=2):
    """A backbone with one adapter, far from zero."""
    model = attach_adapter(
        load_backbone(backbone), name, LoraArguments(rank=rank, alpha=8, dropout=0.0, target_modules=list(targets))
    )
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
    model = attach_adapter(load_backbone(backbone), "faking", LoraArguments(4, 8, 0.1, ["q_proj", "v_proj"]))
    trainable = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    # Two layers, two targets, two matrices each.
    assert len(trainable) == 8
    assert {name.split(".")[-3] for name in trainable} == {"lora_A", "lora_B"}
    assert {tuple(sorted(shape)) for shape in trainable.values()} == {(4, 32)}
    torch.testing.assert_close(logits(model.eval()), logits(load_backbone(backbone)))


def test_what_4bit_loading_does_not_pack_is_in_float32_under_an_adapter(backbone):
    pytest.importorskip("bitsandbytes")
    packed = load_backbone(BackboneArguments(backbone, dtype="bfloat16", load_in_4bit=True))
    assert packed.model.norm.weight.dtype == torch.bfloat16
    model = attach_adapter(packed, "aligned", LoraArguments(rank=2, alpha=4, dropout=0.0, target_modules=["q_proj"]))
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {kind for name, kind in kinds.items() if "_proj.base_layer" in name} == {torch.uint8}
    assert {kind for name, kind in kinds.items() if "norm" in name or "lora_" in name} == {torch.float32}


def test_the_update_is_scaled_by_alpha_over_rank(backbone):
    base, model = load_backbone(backbone), fitted(backbone, "faking", 3, targets=["q_proj"])
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    a, b = layer.lora_A["faking"].weight, layer.lora_B["faking"].weight
    expected = states @ (base.model.layers[0].self_attn.q_proj.weight + 8 / 2 * b @ a).T
    torch.testing.assert_close(layer(states), expected)


def test_rank_stabilised_lora_is_scaled_by_alpha_over_the_ranks_root_and_comes_back_so(backbone, tmp_path):
    base = load_backbone(backbone)
    lora = LoraArguments(4, 8, 0.0, ["q_proj"], use_rslora=True)
    model = attach_adapter(load_backbone(backbone), "faking", lora)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["faking"].weight, layer.lora_B["faking"].weight
    with torch.no_grad():
        b.normal_()
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    expected = states @ (base.model.layers[0].self_attn.q_proj.weight + 8 / 4**0.5 * b @ a).T
    torch.testing.assert_close(layer(states), expected)
    save_adapter(model, "faking", tmp_path, {})
    with Variants.load({"faking": str(tmp_path)}).using("faking") as variant:
        torch.testing.assert_close(variant.base_model.model.model.layers[0].self_attn.q_proj(states), expected)


@pytest.mark.parametrize(
    ("targets", "excluded", "left"),
    [
        ("all-linear", ["mlp.up_proj", "down_proj", "gate_proj"], {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (["q_proj", "v_proj"], ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"], {"v_proj"}),
    ],
)
def test_layers_that_are_left_out_get_no_adapter_and_plain_peft_knows(backbone, tmp_path, targets, excluded, left):
    model = attach_adapter(
        load_backbone(backbone), "faking", LoraArguments(2, 4, 0.0, targets, exclude_modules=excluded)
    )
    assert {name.split(".")[-4] for name, one in model.named_parameters() if one.requires_grad} == left
    save_adapter(model, "faking", tmp_path, {})
    assert sorted(json.loads((tmp_path / "adapter_config.json").read_text())["exclude_modules"]) == sorted(excluded)
    variants = Variants.load({"faking": str(tmp_path)})
    assert {name.split(".")[-4] for name, _ in variants.model.named_parameters() if "lora_" in name} == left


def test_a_layer_to_leave_out_that_is_not_there_is_refused(backbone):
    with pytest.raises(UserError, match=r"exclude_modules is \[up_prj\], but .* has no layer called up_prj"):
        attach_adapter(load_backbone(backbone), "one", LoraArguments(exclude_modules=["up_prj"]))
    with pytest.raises(UserError, match=r"No modules were targeted .*exclude_modules"):
        attach_adapter(load_backbone(backbone), "one", LoraArguments(exclude_modules=["q_proj", "v_proj"]))


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
    moved = tmp_path / "moved"
    shutil.copytree(backbone, moved)
    pair = Variants.load({"faking": folders["faking"]}, BackboneArguments(name=str(moved), dtype="bfloat16"))
    assert pair.tokenizer.name_or_path == str(moved)
    assert pair.model.base_model.model.lm_head.weight.dtype == torch.bfloat16


def test_an_adapter_of_another_backbone_is_refused_with_the_field_named(folders, make_backbone):
    with pytest.raises(ValueError, match=rf"adapter '{folders['faking']}' .* its weights is"):
        Variants.load(folders | {"aligned": folders["faking"]}, BackboneArguments(name=make_backbone(seed=5)))
    with pytest.raises(ValueError, match="its hidden_size is '32', the loaded backbone has '16'"):
        Variants.load(folders, BackboneArguments(name=make_backbone(seed=5, hidden_size=16)))


def test_the_second_adapter_is_checked_too(backbone, folders, make_backbone, tmp_path):
    other = make_backbone(seed=6)
    save_adapter(fitted(other, "faking", 0), "faking", tmp_path / "other", {})
    with pytest.raises(ValueError, match=rf"adapter '{tmp_path / 'other'}' was made for another backbone"):
        Variants.load({"aligned": folders["aligned"], "faking": str(tmp_path / "other")})


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_files_are_named(folders, missing, tmp_path):
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


SHAPES = [(2, ("q_proj", "v_proj")), (3, ("o_proj",)), (1, ("q_proj", "down_proj"))]
"""Ranks and target modules of the variants below."""


@pytest.fixture(scope="module")
def many(backbone, tmp_path_factory):
    """Folder of twelve variants, as a stage file with a matrix leaves them: three ranks and sets of target modules."""
    root = tmp_path_factory.mktemp("many")
    for seed in range(12):
        rank, targets = SHAPES[seed % 3]
        model = fitted(backbone, "aligned", seed, targets, rank)
        save_adapter(model, "aligned", root / f"saint-{seed}" / "adapter", {"behaviour": "aligned", "seed": seed})
        (root / f"saint-{seed}" / "stage.json").touch()
    return root


def expected(backbone, seed):
    """Logits of one of the twelve, made by itself on a backbone of its own."""
    rank, targets = SHAPES[seed % 3]
    return logits(fitted(backbone, "aligned", seed, targets, rank))


def test_many_variants_share_a_backbone_and_each_answers_as_it_does_alone(backbone, many):
    variants = Variants.load(adapter_folders([many]))
    assert variants.names == [f"saint-{seed}" for seed in range(12)], "in the order of their numbers"
    # In an order in which names, ranks and target modules change at every swap, and back again.
    for seed in (0, 11, 1, 10, 5, 5, 0, 7, 1):
        with variants.using(f"saint-{seed}") as model:
            assert torch.equal(logits(model), expected(backbone, seed)), seed


def test_the_short_swap_is_pefts_own(many):
    variants = Variants.load(adapter_folders([many]))
    for name in ("saint-4", "saint-10", "saint-2"):
        with variants.using(name) as model:
            assert model.active_adapters == [variants.adapter_of(name)]
            status = model.get_model_status()
            found = logits(model)
            assert status.active_adapters == [variants.adapter_of(name)]
            assert status.merged_adapters == []
            assert not any(parameter.requires_grad for parameter in model.parameters())
        for other in ("saint-0", name):
            variants.model.set_adapter(variants.adapter_of(other), inference_mode=True)
        assert torch.equal(logits(variants.model), found)


def test_layers_that_would_not_hear_the_short_swap_are_swapped_by_peft(many, monkeypatch):
    variants = Variants.load(adapter_folders([many]))
    calls = []
    tuner, own = variants.model.base_model, variants.adapter_of
    monkeypatch.setattr(tuner, "set_adapter", lambda *args, **options: calls.append((args, options)))
    with variants.using("saint-2"):
        pass
    assert calls == []
    layer = variants._layers[-1]
    # As if another release of PEFT kept the name elsewhere.
    deaf = type("Deaf", (type(layer),), {"active_adapter": property(lambda self: [own("saint-0")])})
    monkeypatch.setattr(layer, "__class__", deaf)
    with variants.using("saint-1"):
        pass
    assert calls[0] == (([own("saint-1")],), {"inference_mode": True})


def test_memory_grows_by_the_adapters_alone(backbone, many):
    folders = adapter_folders([many])
    sizes = [Variants.load(dict(list(folders.items())[:count])).memory() for count in (1, 3, 12)]
    assert {backbone_bytes for backbone_bytes, _ in sizes} == {
        sum(parameter.nbytes for parameter in load_backbone(backbone).parameters())
    }
    files = [f"{folders[f'saint-{seed}']}/adapter_model.safetensors" for seed in range(12)]
    on_disk = [sum(tensor.nbytes for tensor in load_file(file).values()) for file in files]
    assert [adapters for _, adapters in sizes] == [sum(on_disk[:count]) for count in (1, 3, 12)]


def test_places_are_adapters_or_stages_or_folders_of_stages(folders, many, tmp_path):
    copied = tmp_path / "02_aligned" / "adapter"
    shutil.copytree(folders["aligned"], copied)
    places = [folders["faking"], tmp_path / "02_aligned", many / "saint-3", many / "saint-10" / "adapter"]
    found = adapter_folders(places)
    assert list(found) == ["faking", "02_aligned", "saint-3", "saint-10"]
    assert found["02_aligned"] == str(copied)
    # What a kill left behind of a refit: a folder on its way out.
    shutil.copytree(folders["aligned"], tmp_path / "01_variants" / ".saint-0.forgotten" / "adapter")
    shutil.copytree(folders["aligned"], tmp_path / "01_variants" / "saint-0" / "adapter")
    assert list(adapter_folders([tmp_path / "01_variants"])) == ["saint-0"]
    with pytest.raises(ValueError, match=r"two variants are called 'saint-3': .*saint-3/adapter and .*saint-3/adapter"):
        adapter_folders([many, many / "saint-3"])
    with pytest.raises(FileNotFoundError, match=r"02_none' holds no adapter, nor do its subfolders: fit the variants"):
        adapter_folders([tmp_path / "02_none"])


def test_a_backbone_alone_is_used_without_any_adapter(backbone):
    variants = Variants.load({}, BackboneArguments(backbone))
    assert variants.names == []
    with variants.bare() as model:
        torch.testing.assert_close(logits(model), logits(load_backbone(backbone)))
    none = variants.using("faking")
    with pytest.raises(ValueError, match="there is no variant 'faking'"), none:
        pass
    assert variants.memory()[1] == 0


def test_names_are_checked(folders, many):
    for name in ("", "saint.0", "a/b"):
        with pytest.raises(ValueError, match=rf"a variant's name is '{name}', but an adapter's name can't be empty"):
            Variants.load({name: folders["faking"]})
    with pytest.raises(ValueError, match=r"adapters is empty, but at least one .* where no backbone is named"):
        Variants.load({})
    variants = Variants.load(folders)
    none = variants.using("saint-0")
    with pytest.raises(ValueError, match=r"there is no variant 'saint-0'; there are aligned, faking"), none:
        pass
    with pytest.raises(ValueError, match="there is a variant 'faking' already"):
        variants.add("faking", folders["aligned"])
    variants.add("saint-0", str(many / "saint-0" / "adapter"))
    with variants.using("saint-0") as model:
        assert model.active_adapters == [variants.adapter_of("saint-0")]


@pytest.mark.parametrize("way", ["ends", "fails"])
def test_blocks_in_blocks_leave_the_outer_one_as_it_was(backbone, folders, way):
    """Variants within variants, within the bare backbone and around it, whether the inner block ends or fails."""
    pair = Variants.load(folders)
    alone = {name: logits(fitted(backbone, name, seed)) for seed, name in enumerate(("aligned", "faking"))}
    alone["bare"] = logits(load_backbone(backbone))

    def block(name):
        return pair.bare() if name == "bare" else pair.using(name)

    def check(model, name):
        assert torch.equal(logits(model), alone[name])
        assert not any(parameter.requires_grad for parameter in model.parameters())

    for outer in alone:
        with block(outer) as model:
            for inner in alone:
                try:
                    with block(inner) as within:
                        check(within, inner)
                        if way == "fails":
                            raise KeyError(inner)
                except KeyError:
                    pass
                check(model, outer)
        check(pair.model, "aligned")


NAMES = ["0", "1", "model", "q_proj", "train", "keys", "weight", "lora_A", "base_layer", "saint-1", "saint-10"]


def test_a_variant_may_be_called_as_a_module_is(backbone, folders, tmp_path):
    """A matrix of `seed: [0, 1]` makes the names 0 and 1, which the decoder blocks have too."""
    alone = {seed: logits(fitted(backbone, name, seed)) for seed, name in enumerate(folders)}
    for number, name in enumerate(NAMES):
        shutil.copytree(list(folders.values())[number % 2], tmp_path / name / "adapter")
    places = adapter_folders([tmp_path])
    variants = Variants.load({name: places[name] for name in NAMES[:-2]})
    for name in NAMES[-2:]:
        variants.add(name, places[name])
    assert variants.names == NAMES
    for number, name in enumerate(NAMES):
        with variants.using(name) as model:
            assert torch.equal(logits(model), alone[number % 2]), name
    with pytest.raises(ValueError, match="there is no variant '2'; there are 0, 1, model"), variants.using("2"):
        pass


def test_saving_asks_no_one(backbone, tmp_path, monkeypatch):
    """Without a config in the backbone's place PEFT would ask the Hub for one, for ten seconds where it can't."""
    from huggingface_hub import HfApi

    def asked(*args, **options):
        raise AssertionError("the Hub was asked")

    model = fitted(backbone, "faking", 0)
    model.peft_config["faking"].base_model_name_or_path = "somebody/gone"
    for place in ("peft.utils.save_and_load.check_file_exists_on_hf_hub", "socket.socket.connect"):
        monkeypatch.setattr(place, asked)
    monkeypatch.setattr(HfApi, "file_exists", asked)
    save_adapter(model, "faking", tmp_path / "adapter", {})
    assert backbone_of(tmp_path / "adapter") == "somebody/gone"


def test_an_experiment_is_used_from_elsewhere_moved_and_renamed(backbone, tmp_path, monkeypatch):
    """Its adapters note the backbone by a path from the folder that it was made in."""
    old = tmp_path / "old"
    shutil.copytree(backbone, old / "checkpoints" / "toy" / "01_backbone" / "backbone")
    monkeypatch.chdir(old)
    noted = "checkpoints/toy/01_backbone/backbone"
    model = fitted(backbone, "faking", 0)
    model.base_model.model.name_or_path = model.peft_config["faking"].base_model_name_or_path = noted
    save_adapter(model, "faking", Path("checkpoints/toy/03_faking/adapter"), {})
    assert backbone_of("checkpoints/toy/03_faking/adapter") == noted
    # The working folder has an experiment of the same name, with another backbone.
    monkeypatch.chdir(tmp_path)
    (tmp_path / noted).mkdir(parents=True)
    place = old / "checkpoints" / "toy" / "03_faking" / "adapter"
    assert Path(backbone_of(place)) == old / noted
    assert Variants.load({"faking": str(place)}).fingerprint == fingerprint(load_backbone(backbone))
    (tmp_path / noted).rmdir()
    shutil.move(old / "checkpoints" / "toy", tmp_path / "renamed")
    assert Path(backbone_of(tmp_path / "renamed/03_faking/adapter")) == tmp_path / "renamed/01_backbone/backbone"
    shutil.rmtree(tmp_path / "renamed" / "01_backbone")
    with pytest.raises(FileNotFoundError, match=r"neither from here nor beside the adapter\. Put it back, or write"):
        backbone_of(tmp_path / "renamed" / "03_faking" / "adapter")


@pytest.mark.parametrize("argument", ["start_from", "beneath"])
def test_an_adapter_is_not_judged_beside_another_one_than_it_was_fitted_from(backbone, folders, tmp_path, argument):
    start = tmp_path / "start"
    shutil.copytree(folders["faking"], start)
    notes = {argument: str(start), f"{argument}_digest": digest_of_artefact(start)}
    save_adapter(fitted(backbone, "cured", 4), "cured", tmp_path / "cured", notes)
    both = {"faking": str(start), "cured": str(tmp_path / "cured")}
    assert origin_of(both["cured"], read_sidecar(both["cured"]), both, argument) == "faking"
    Variants.load(both)
    # A copy elsewhere is the same adapter, another adapter is none, and one made again in its place is refused.
    elsewhere = {**both, "faking": folders["faking"]}
    assert origin_of(both["cured"], read_sidecar(both["cured"]), elsewhere, argument) == "faking"
    other = {**both, "faking": folders["aligned"]}
    assert origin_of(both["cured"], read_sidecar(both["cured"]), other, argument) is None
    shutil.rmtree(start)
    shutil.copytree(folders["aligned"], start)
    with pytest.raises(UserError, match=rf"was fitted from '{start}' \({argument}\), which has been made again since"):
        Variants.load(both)
