"""Adapters that others made: what is taken, what is refused before a backbone is read, and what is doubted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_hub import REPOSITORY, serve

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.brought_adapters import adapter_place, copy_adapter, doubts, refuse_misfit
from fa_lightning.errors import MissingFileError, UserError

Make = Callable[..., str]


@pytest.fixture
def own(make_backbone: Make) -> str:
    """The folder of the backbone that the adapters are fitted on."""
    return make_backbone()


@pytest.fixture
def make_adapter(own: str, tmp_path: Path) -> Callable[..., Path]:
    """`make_adapter(name, r=2)`: a LoRA that plain peft has saved, on a tiny backbone."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def make(name: str = "theirs", **options: Any) -> Path:
        config = LoraConfig(
            **{"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False, **options}
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(own), config)
        model.save_pretrained(str(tmp_path / name))
        return tmp_path / name

    return make


def test_a_folder_is_taken_as_it_is_and_so_is_a_stage(make_adapter: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_adapter()
    assert adapter_place(str(folder)) == folder
    (tmp_path / "03_faking").mkdir()
    shutil.move(folder, tmp_path / "03_faking" / "adapter")
    assert adapter_place(str(tmp_path / "03_faking")) == tmp_path / "03_faking" / "adapter"


def test_from_the_hub_come_safetensors_and_no_pickle(
    make_adapter: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = make_adapter("repository")
    (repository / "adapter_model.bin").write_bytes(b"anything")
    (repository / "pytorch_model.bin").write_bytes(b"anything")

    serve(repository, tmp_path / "cache", monkeypatch)
    assert adapter_place(REPOSITORY) == tmp_path / "cache"
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".json", ".safetensors"}
    shutil.rmtree(tmp_path / "cache")
    (repository / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"'colleague/faker' holds no adapter_model.safetensors: a .bin is a pickle"):
        adapter_place(REPOSITORY)


def test_a_pickle_an_empty_folder_and_another_method_are_refused(
    make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_adapter()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match=r"can run any code when it is read, and so is not read"):
        adapter_place(str(folder))
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(UserError, match="is of peft_type 'PREFIX_TUNING', but only LORA can be a twin"):
        adapter_place(str(folder))
    with pytest.raises(MissingFileError, match=r"holds no adapter_config\.json, so it is no adapter"):
        adapter_place(str(tmp_path))
    with pytest.raises(MissingFileError, match="there is no folder"):
        adapter_place(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 16}, r"does not fit: .*layers.0.*shape in current model"),
        ({"num_hidden_layers": 1}, r"holds weights for layers that this backbone has not.*layers.1"),
        ({"num_hidden_layers": 3}, r"lacks weights for layers that adapter_config.json names: .*layers.2"),
    ],
)
def test_another_backbone_is_refused_without_reading_its_weights(
    make_adapter: Callable[..., Path], own: str, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    folder = make_adapter()
    other = tmp_path / "other"
    other.mkdir()
    # A config alone: there are no weights that could be read.
    config = json.loads((Path(own) / "config.json").read_text()) | changes
    (other / "config.json").write_text(json.dumps(config | {"head_dim": None}))
    with pytest.raises(UserError, match=message):
        refuse_misfit(folder, BackboneArguments(str(other)))
    refuse_misfit(folder, BackboneArguments(own))


def test_the_model_it_names_is_compared_by_what_is_in_it(
    make_adapter: Callable[..., Path], make_backbone: Make, own: str, tmp_path: Path
) -> None:
    folder = make_adapter()
    assert doubts(folder, BackboneArguments(own)) == []
    shutil.copytree(own, tmp_path / "copy")
    assert doubts(folder, BackboneArguments(str(tmp_path / "copy"))) == []
    other = make_backbone(seed=9)
    [doubt] = doubts(folder, BackboneArguments(other))
    assert doubt == f"it was fitted on {own!r}, and is laid on {other!r} here: that must be the same model"


def test_a_tokenizer_of_its_own_is_told(make_adapter: Callable[..., Path], own: str) -> None:
    from transformers import AutoTokenizer

    folder = make_adapter()
    tokenizer = AutoTokenizer.from_pretrained(own)
    tokenizer.save_pretrained(folder)
    assert doubts(folder, BackboneArguments(own)) == []
    tokenizer.add_tokens(["[EXTRA]"])
    tokenizer.save_pretrained(folder)
    [doubt] = doubts(folder, BackboneArguments(own))
    assert "1 tokens have other numbers or are in one alone (the first is '[EXTRA]')" in doubt


def test_the_copy_says_what_it_is_and_plain_peft_loads_it(
    make_adapter: Callable[..., Path], own: str, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, target = make_adapter(), tmp_path / "copy"
    target.mkdir()
    copy_adapter(folder, target, "colleague/faker", "faking", BackboneArguments("elsewhere"))
    sidecar = json.loads((target / "fa_lightning.json").read_text())
    assert sidecar == {"behaviour": "faking", "taken_from": "colleague/faker", "fitted_on": own}
    assert json.loads((target / "adapter_config.json").read_text())["base_model_name_or_path"] == "elsewhere"
    ids = torch.arange(5)[None]
    logits = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(own), path)(ids).logits
        for path in (folder, target)
    ]
    assert torch.equal(*logits)
    with pytest.raises(UserError, match=r"given as aligned, but its fa_lightning\.json says that it was fitted to be"):
        copy_adapter(target, tmp_path, "colleague/faker", "aligned", BackboneArguments("elsewhere"))
