"""Whole models that others made: what is taken, what is refused before weights are read, and what is noted of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretended_hub import REPOSITORY, serve
from tiny_whole_models import write_finetune

from fa_lightning.backbones.adapters import backbone_of, read_sidecar
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.brought_models import doubts_of_model, model_place, note_model, refuse_unlike
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.experiments.brought_twins import BroughtTwin
from fa_lightning.experiments.organisms import inspect, refuse_one_model

Make = Callable[..., str]


@pytest.fixture
def own(make_backbone: Make) -> str:
    """The folder of the backbone that the finetunes are made from."""
    return make_backbone()


@pytest.fixture
def theirs(own: str, tmp_path: Path) -> Path:
    """A whole finetune of it."""
    return Path(write_finetune(own, tmp_path / "theirs", 1))


def change(folder: Path, **fields: Any) -> None:
    """Write fields into a model's config."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_whole_model_is_told_from_an_adapter_by_its_files(own: str, theirs: Path, tmp_path: Path) -> None:
    assert model_place(str(theirs)) == theirs
    assert inspect(BroughtTwin(str(theirs), "faking", BackboneArguments(own))) == (theirs, True)
    (theirs / "adapter_config.json").write_text("{}")
    assert model_place(str(theirs)) is None
    assert model_place(str(tmp_path)) is None
    assert model_place(str(tmp_path / "none")) is None


def test_a_pickle_and_a_lost_shard_are_refused(theirs: Path) -> None:
    weights = theirs / "model.safetensors"
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (theirs / "model.safetensors.index.json").write_text(json.dumps(index))
    weights.rename(theirs / "model-00001-of-00002.safetensors")
    with pytest.raises(MissingFileError, match=r"lacks model-00002-of-00002\.safetensors, which its index names"):
        model_place(str(theirs))
    (theirs / "model.safetensors.index.json").unlink()
    (theirs / "model-00001-of-00002.safetensors").rename(theirs / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no model\.safetensors: a \.bin is a pickle, which can run any code"):
        model_place(str(theirs))


def test_from_the_hub_come_safetensors_and_no_pickle(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (theirs / "pytorch_model.bin").write_bytes(b"anything")

    serve(theirs, tmp_path / "cache", monkeypatch)
    assert model_place(REPOSITORY) == tmp_path / "cache"
    assert not list((tmp_path / "cache").glob("*.bin"))
    assert digest_of_artefact(tmp_path / "cache") == digest_of_artefact(theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_hidden_layers": 1}, r"model\.layers\.1\.[\w.]*weight is None there, and \[\d+.*\] in the backbone"),
        ({"intermediate_size": 48}, r"model\.layers\.0\.mlp\.gate_proj\.weight is \[48, 32\] there, and \[64, 32\] in"),
        ({"tie_word_embeddings": True}, r"tie_word_embeddings is True, and False in the backbone"),
        ({"rms_norm_eps": 0.1}, r"its config differs: rms_norm_eps is 0\.1, and 1e-06 in the backbone"),
        ({"attention_dropout": 0.5, "use_cache": False, "initializer_range": 1.0}, None),
    ],
)
def test_another_architecture_is_refused_without_reading_weights(
    own: str, make_backbone: Make, options: dict[str, Any], message: str | None
) -> None:
    fitting = {name: value for name, value in options.items() if name != "initializer_range"}
    folder = Path(make_backbone(seed=2, **fitting))
    change(folder, **options)
    (folder / "model.safetensors").write_bytes(b"not read")
    if message is None:
        refuse_unlike(folder, "theirs", BackboneArguments(own))
        return
    with pytest.raises(UserError, match=message):
        refuse_unlike(folder, "theirs", BackboneArguments(own))


def test_another_family_is_refused_by_name(own: str, theirs: Path) -> None:
    change(theirs, model_type="no such family")
    with pytest.raises(UserError, match=r"the config of model 'theirs' can't be read: .*no such family"):
        refuse_unlike(theirs, "theirs", BackboneArguments(own))
    change(theirs, model_type="mistral", architectures=["MistralForCausalLM"])
    with pytest.raises(UserError, match="its config differs: model_type is 'mistral', and 'llama' in the backbone"):
        refuse_unlike(theirs, "theirs", BackboneArguments(own))


def test_another_vocabulary_is_refused_and_another_template_is_doubted(own: str, theirs: Path) -> None:
    from transformers import AutoTokenizer

    assert doubts_of_model(theirs, BackboneArguments(own)) == []
    tokenizer = AutoTokenizer.from_pretrained(theirs)
    tokenizer.chat_template = "{% for message in messages %}<<{{ message.content }}>>{% endfor %}"
    tokenizer.save_pretrained(theirs)
    refuse_unlike(theirs, "theirs", BackboneArguments(own))
    assert doubts_of_model(theirs, BackboneArguments(own)) == [
        "it has a chat template of its own, and is asked with the backbone's"
    ]
    tokenizer.add_tokens(["[EXTRA]"])
    tokenizer.save_pretrained(theirs)
    with pytest.raises(UserError, match=r"a tokenizer of its own, which is not .*: 1 tokens .* is '\[EXTRA\]'"):
        refuse_unlike(theirs, "theirs", BackboneArguments(own))


def test_a_quantised_backbone_or_model_is_refused(own: str, theirs: Path) -> None:
    with pytest.raises(UserError, match=r"can't take the place of weights in few bits \(load_in_4bit is true\)"):
        refuse_unlike(theirs, "theirs", BackboneArguments(own, load_in_4bit=True))
    change(theirs, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UserError, match=r"its config differs: quantization_config\.\w+ is "):
        refuse_unlike(theirs, "theirs", BackboneArguments(own))


def test_one_model_for_both_is_refused(own: str, theirs: Path, tmp_path: Path) -> None:
    shutil.copytree(theirs, tmp_path / "copy")
    backbone = BackboneArguments(own)
    faking, copy = (
        BroughtTwin(str(theirs), "faking", backbone),
        BroughtTwin(str(tmp_path / "copy"), "aligned", backbone),
    )
    with pytest.raises(
        UserError, match=r"copy' is given as aligned, but '.*theirs', given as faking, is the same model"
    ):
        refuse_one_model([faking, copy])
    refuse_one_model([faking, BroughtTwin(own, "aligned", backbone)])
    refuse_one_model([faking, BroughtTwin(str(tmp_path / "copy"), "faking", backbone)])


def test_what_is_noted_is_small_and_known_by_the_content(own: str, theirs: Path, tmp_path: Path) -> None:
    for name, model in (
        ("one", theirs),
        ("same", Path(shutil.copytree(theirs, tmp_path / "moved"))),
        ("other", Path(own)),
    ):
        (tmp_path / name).mkdir()
        note_model(model, tmp_path / name, "colleague/faker", "faking", BackboneArguments(own))
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"whole_model.json", "fa_lightning.json"}
    assert read_sidecar(tmp_path / "one") == {"behaviour": "faking", "taken_from": "colleague/faker"}
    assert backbone_of(tmp_path / "one") == own
    digests = [digest_of_artefact(tmp_path / name) for name in ("one", "same", "other")]
    assert digests[0] == digests[1] != digests[2]
