"""Control vectors: what llama.cpp and repeng find in the file, and what cannot be held by one."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from fa_lightning.activations.sites import Site
from fa_lightning.regressors.linear import Affine
from fa_lightning.steering.gguf import export_gguf
from fa_lightning.steering.intervention import Intervention

gguf = pytest.importorskip("gguf")

LLAMA = {"backbone": {"architecture": "llama", "hidden_size": "4"}}


def shift(layer: int, *values: float, **options: Any) -> Intervention:
    options = {"fingerprint": LLAMA} | options
    site = Site(layer, options.pop("component", "residual"), options.pop("positions", "all"))
    return Intervention(site, torch.tensor(values), **options)


def read(path: Path) -> tuple[dict[str, Any], dict[str, list[float]]]:
    reader = gguf.GGUFReader(path)
    fields = {name: reader.get_field(name).contents() for name in reader.fields if not name.startswith("GGUF.")}
    for tensor in reader.tensors:
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert len(tensor.shape) == 1
    return fields, {tensor.name: tensor.data.tolist() for tensor in reader.tensors}


def test_the_file_holds_what_llama_cpp_and_repeng_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "vector.gguf"
    assert export_gguf(shift(3, 1.0, -2.0, 0.5, 0.0, strength=2.0), path) == path
    fields, tensors = read(path)
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 1
    # Block 3 counted from 0, as both count them; the strength is in the numbers.
    assert tensors == {"direction.3": [2.0, -4.0, 1.0, 0.0]}
    assert [item.name for item in path.parent.iterdir()] == ["vector.gguf"]


def test_several_shifts_share_a_file_and_those_of_a_layer_are_summed(tmp_path: Path) -> None:
    edits = [shift(2, 1.0, 1.0), shift(1, 0.0, 4.0, strength=0.5), shift(2, 1.0, -1.0, strength=-1.0)]
    fields, tensors = read(export_gguf(edits, tmp_path / "v.gguf"))
    assert tensors == {"direction.1": [0.0, 2.0], "direction.2": [0.0, 2.0]}
    assert fields["controlvector.layer_count"] == 2


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([], "interventions is empty"),
        ([shift(0, 1.0)], "its layer is 0, but llama.cpp adds after layer 1 or later"),
        ([shift(1, 1.0), shift(2, 1.0, positions="last")], "layers.2.residual .* positions are 'last'"),
        ([shift(1, 1.0, component="mlp")], "its component is 'mlp'"),
        ([shift(1, 1.0, gate=torch.nn.Identity())], "it has a gate"),
        ([Intervention(Site(1), Affine(2), fingerprint=LLAMA)], "edit of affine depends on the state"),
        ([shift(1, 1.0), shift(1, 1.0, 1.0)], "layer 1 have 1 and 2 units"),
        ([shift(1, 3e38, strength=2.0)], "not finite"),
        ([shift(1, 1.0, fingerprint={})], "name no architecture, .* model_hint='llama'"),
        ([shift(1, 1.0), shift(2, 1.0, fingerprint={"backbone": {"architecture": "gpt2"}})], "name gpt2, llama"),
    ],
)
def test_what_a_control_vector_cannot_hold_is_refused(edits: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_gguf(edits, tmp_path / "v.gguf")
    assert not list(tmp_path.iterdir())


def test_a_given_architecture_is_taken(tmp_path: Path) -> None:
    fields, _ = read(export_gguf(shift(1, 1.0, fingerprint={}), tmp_path / "v.gguf", model_hint="qwen2"))
    assert fields["controlvector.model_hint"] == "qwen2"


def test_a_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export_gguf(shift(1, 1.0), tmp_path / "v.gguf")
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", fail)
    with pytest.raises(OSError, match="disk full"):
        export_gguf(shift(1, 9.0), path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["v.gguf"]


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def absent(name: str, *args: Any, **options: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return genuine(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r'pip install "fa_lightning\[gguf\]"'):
        export_gguf(shift(1, 1.0), tmp_path / "v.gguf")
