"""A backbone is known by a few values of every weight: what must change its digest, what must not, and at what cost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fa_lightning.backbones.load import fingerprint, load_backbone
from fa_lightning.backbones.weights import digest_of_files, digest_of_model, spots
from fa_lightning.errors import UserError


def changed(backbone, place, change):
    """The backbone's folder again, its model changed in memory and saved."""
    model = load_backbone(backbone)
    with torch.no_grad():
        change(model)
    model.save_pretrained(str(place))
    return place


def test_noise_on_any_weight_is_another_backbone(backbone, tmp_path):
    """One standard deviation on one tensor at a time, projections first of all."""
    expected = digest_of_files(Path(backbone))
    weights = load_file(f"{backbone}/model.safetensors")
    assert sum("proj" in name for name in weights) == 14
    found = set()
    for number, name in enumerate(weights):
        torch.manual_seed(number)
        noisy = weights[name] + torch.randn_like(weights[name]) * weights[name].std().clamp(min=0.01)
        (tmp_path / str(number)).mkdir()
        save_file({**weights, name: noisy}, tmp_path / str(number) / "model.safetensors", metadata={"format": "pt"})
        found.add(digest_of_files(tmp_path / str(number)))
    assert expected not in found
    assert len(found) == len(weights)


def test_a_merged_adapter_and_a_step_of_training_are_another_backbone(backbone, tmp_path):
    from peft import LoraConfig, get_peft_model

    def train(model):
        with torch.enable_grad():
            model.requires_grad_(True)
            ids = torch.arange(5, 25)[None]
            model(ids, labels=ids).loss.backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()

    expected = fingerprint(load_backbone(backbone))
    trained = fingerprint(load_backbone(str(changed(backbone, tmp_path / "trained", train))))
    torch.manual_seed(0)
    tuned = get_peft_model(load_backbone(backbone), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    assert fingerprint(tuned) == expected
    merged = tuned.merge_and_unload()
    # In memory as well as from its files.
    in_memory = fingerprint(merged)
    merged.save_pretrained(str(tmp_path / "merged"))
    from_files = fingerprint(load_backbone(str(tmp_path / "merged")))
    for other in (trained, in_memory, from_files):
        assert {field for field in expected if other[field] != expected[field]} == {"weights"}
    assert in_memory == from_files


def test_a_model_in_memory_and_its_shards_are_one_backbone(backbone, tmp_path):
    expected = fingerprint(load_backbone(backbone))["weights"]
    model = load_backbone(backbone)
    assert digest_of_model(model) == expected
    model.save_pretrained(str(tmp_path / "shards"), max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    assert digest_of_files(tmp_path / "shards") == expected
    assert digest_of_files(tmp_path) is None


def test_a_head_that_is_tied_counts_once_and_another_one_counts(backbone, tmp_path):
    weights = load_file(f"{backbone}/model.safetensors")
    embeddings = weights["model.embed_tokens.weight"]
    heads = {
        "tied": {},
        "saved twice": {"lm_head.weight": embeddings.clone()},
        "own": {"lm_head.weight": embeddings + 1},
    }
    digests = {}
    for name, head in heads.items():
        (tmp_path / name).mkdir()
        rest = {key: tensor for key, tensor in weights.items() if key != "lm_head.weight"}
        save_file({**rest, **head}, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        digests[name] = digest_of_files(tmp_path / name)
    assert digests["tied"] == digests["saved twice"] != digests["own"]


@pytest.mark.parametrize("size", [1, 255, 256, 257, 4096 * 11008])
def test_samples_are_evenly_spread_from_the_first_value_to_the_last(size):
    places = spots(size)
    assert len(places) == min(size, 256)
    assert (places[0], places[-1]) == (0, size - 1)
    steps = np.diff(places, prepend=-1)
    assert (steps > 0).all()
    assert steps.max() <= size / 63 + 1


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda content: content[: len(content) // 2], r"model\.safetensors is cut short"),
        (lambda content: content[:4], r"model\.safetensors is cut short"),
        # What stands in its place where large files were not fetched.
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", r"model\.safetensors is cut short"),
        (lambda content: content[:8] + b"\0" * 8 + content[16:], r"model\.safetensors is damaged"),
    ],
)
def test_a_file_that_is_not_whole_is_told_as_the_users_to_mend(backbone, tmp_path, spoil, told):
    content = Path(backbone, "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(spoil(content))
    with pytest.raises(UserError, match=told + ".*; fetch or make the model again"):
        digest_of_files(tmp_path)


def test_a_damaged_index_is_told(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {')
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json is no valid JSON"):
        digest_of_files(tmp_path)


def test_a_7b_model_in_27_shards_takes_well_under_a_second(tmp_path):
    """Files with holes: as large as Llama 2's to a reader, and next to nothing on the disk."""
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    layer = {
        **dict.fromkeys(names, (4096, 4096)),
        **dict.fromkeys(["gate", "up", "down"], (11008, 4096)),
        "norm": (4096,),
    }
    tensors = {f"model.layers.{number}.{name}.weight": shape for number in range(32) for name, shape in layer.items()}
    tensors |= {"model.embed_tokens.weight": (32000, 4096), "lm_head.weight": (32000, 4096)}
    index = {}
    for shard in range(27):
        own, offset = {}, 0
        for name, shape in list(tensors.items())[shard::27]:
            size = 2 * int(np.prod(shape))
            own[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
            index[name] = f"model-{shard:05}.safetensors"
            offset += size
        header = json.dumps(own).encode()
        with open(tmp_path / f"model-{shard:05}.safetensors", "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + offset)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    start = time.process_time()
    assert digest_of_files(tmp_path)
    assert time.process_time() - start < 0.5
