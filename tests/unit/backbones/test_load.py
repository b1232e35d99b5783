"""Loading a backbone by folder: dtype, 4-bit, refusals, and a fingerprint that only other weights change."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fa_lightning.backbones.adapters import attach_adapter, named_backbone, save_adapter
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.load import best_device, check_fingerprint, fingerprint, load_backbone, load_tokenizer
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from tests.conformance.models import make_model


def lora(model, targets=("q_proj", "v_proj")):
    return attach_adapter(model, "faking", LoraArguments(rank=2, alpha=4, dropout=0.0, target_modules=list(targets)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_backbone_is_frozen_evaluating_and_of_the_dtype_asked_for(backbone, dtype):
    model = load_backbone(BackboneArguments(backbone, dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(("is_there", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_where_there_is_one(is_there, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    assert best_device() == device


def test_tokenizer_pads_on_the_left(backbone, tmp_path):
    tokenizer = load_tokenizer(backbone)
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token == "<pad>"
    right = load_tokenizer(backbone)
    right.padding_side, right.pad_token = "right", None
    right.save_pretrained(str(tmp_path))
    again = load_tokenizer(str(tmp_path))
    assert again.padding_side == "left"
    assert again.pad_token == again.eos_token == "</s>"


def test_a_tokenizer_without_any_token_to_pad_with_is_refused(backbone, tmp_path):
    tokenizer = load_tokenizer(backbone)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="pad_token") as caught:
        load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("load", "what"), [(load_backbone, "backbone"), (load_tokenizer, "tokenizer")])
def test_a_name_that_cannot_be_reached_says_what_to_do(load, what):
    with pytest.raises(OSError, match="can't be loaded") as caught:
        load("nobody/no-such-model")
    message = str(caught.value)
    assert message.startswith(f"the {what} 'nobody/no-such-model' (a name (no such folder here))")
    assert "HF_HUB_OFFLINE is set" in message
    assert "hf download" in message


SERVER = """
import http.server, json, os, sys, threading, time

class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        asked.append(self.path)
        if "/resolve/v9/" in self.path:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
            self.end_headers()
            return
        code = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "bare": (404, "EntryNotFound")}
        status, reason = code.get(self.path.split("/")[1], (500, ""))
        if self.path.startswith("/silent"):
            time.sleep(3)
        self.send_response(status)
        self.send_header("X-Error-Code", reason)
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *words):
        pass

asked = []
hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=hub.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"
"""
ASK = """
from fa_lightning.backbones import hub as access
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.load import load_backbone, load_tokenizer

found = {}
for name in sys.argv[1].split(","):
    access.REQUEST_SECONDS = 0.5
    if name.startswith("closed"):
        hub.shutdown()
        hub.server_close()
    for kind, load in (("backbone", load_backbone), ("tokenizer", load_tokenizer)):
        start = time.perf_counter()
        try:
            asked_for = BackboneArguments(name, revision="v9") if name.startswith("pinned") else name
            found[f"{kind} {name}"] = load(asked_for).name_or_path, time.perf_counter() - start
        except OSError as error:
            found[f"{kind} {name}"] = str(error), time.perf_counter() - start
print("FOUND", json.dumps([found, asked]))
"""


@pytest.fixture(scope="module")
def hub_answers(backbone, tmp_path_factory):
    """What loading says, and after how long, of names on a Hub that answers, refuses, is silent or is not there."""
    home = tmp_path_factory.mktemp("home")
    cached = home / "hub" / "models--closed--cached"
    shutil.copytree(backbone, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    names = "gated/model,pinned/model,missing/model,bare/model,silent/model,closed/model,closed/cached"
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    ran = subprocess.run(
        [sys.executable, "-c", SERVER + ASK, names],
        env={**environment, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout.partition("FOUND ")[2])


@pytest.mark.parametrize("what", ["backbone", "tokenizer"])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gated/model", ["is gated", "Accept it on https://huggingface.co/gated/model", "`hf auth login`", "HF_TOKEN"]),
        ("missing/model", ["neither a folder here nor a model on the Hub that you may see", "spelling"]),
        ("pinned/model", ["has no revision 'v9' on the Hub", "https://huggingface.co/pinned/model/commits"]),
        ("bare/model", ["has no config.json on the Hub"]),
        ("silent/model", ["the Hub can't be reached", "Timeout", "not in the Hub's cache", "hf download"]),
        ("closed/model", ["the Hub can't be reached", "Connect", "not in the Hub's cache", "hf download"]),
    ],
)
def test_a_name_on_the_hub_that_can_not_be_had_is_told_at_once(hub_answers, what, name, told):
    message, seconds = hub_answers[0][f"{what} {name}"]
    assert message.startswith(f"the {what} '{name}'")
    for part in told:
        assert part in message
    # One request, not a dozen retried ones: transformers alone takes 47 seconds to say so.
    assert seconds < 8


def test_what_is_in_the_cache_loads_without_the_hub(hub_answers):
    found, asked = hub_answers
    for what in ("backbone", "tokenizer"):
        name, seconds = found[f"{what} closed/cached"]
        assert name == "closed/cached", "what adapters note is the name, not the cache's folder"
        assert seconds < 15
    requests = [path for path in asked if "/resolve/" in path]
    assert len(requests) == 10, "each asks once for each of the five names"


@pytest.mark.parametrize("path", ["/no/such/model", "./model", "a/b/model", ""])
def test_a_path_that_leads_nowhere_is_no_name_on_the_hub(path):
    with pytest.raises(
        FileNotFoundError, match=f"the backbone is '{path}', but there is no such folder. Give a folder"
    ):
        load_backbone(path)


def test_a_file_and_an_adapter_are_no_backbone(backbone, tmp_path):
    with pytest.raises(FileNotFoundError, match="that is a file: give the folder that it is in"):
        load_backbone(f"{backbone}/config.json")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="holds an adapter alone: give the model that it was fitted on"):
        load_backbone(str(tmp_path))


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def without_a_weight(path):
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})


def with_a_narrow_weight(path):
    save_file(load_file(path) | {"model.norm.weight": torch.zeros(5)}, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("config.json", cut, "config.json' is not a valid JSON file"),
        ("model.safetensors", Path.unlink, "no file named model.safetensors"),
        ("model.safetensors", cut, "its weights are damaged or cut short"),
        ("model.safetensors", without_a_weight, r"lack model.layers.1.mlp.up_proj.weight \(1 in all\), which would be"),
        ("model.safetensors", with_a_narrow_weight, r"model.norm.weight is \(5,\) in its weights, but \(32,\) by"),
    ],
)
def test_half_a_model_is_refused_and_never_filled_with_random_weights(backbone, tmp_path, name, damage, told):
    folder = tmp_path / "half"
    shutil.copytree(backbone, folder)
    damage(folder / name)
    with pytest.raises(OSError, match=told) as caught:
        load_backbone(str(folder))
    assert str(caught.value).startswith(f"the backbone '{folder}'")
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(backbone, tmp_path):
    load_backbone(backbone).save_pretrained(str(tmp_path), max_shard_size="40KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(OSError, match=f"can't be loaded: .*{gone.name}"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: cut(folder / "tokenizer.json"), "can't be loaded"),
        (lambda folder: cut(folder / "tokenizer_config.json"), "can't be loaded"),
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "it holds no tokenizer"),
    ],
)
def test_half_a_tokenizer_is_refused(backbone, tmp_path, damage, told):
    folder = tmp_path / "half"
    shutil.copytree(backbone, folder)
    damage(folder)
    with pytest.raises(
        OSError, match=rf"the tokenizer '{folder}' \(a folder\) can't be loaded.* Give a folder"
    ) as caught:
        load_tokenizer(str(folder))
    assert told in str(caught.value)


def test_weights_saved_in_another_dtype_are_the_same_backbone(backbone, tmp_path):
    load_backbone(BackboneArguments(backbone, "bfloat16")).save_pretrained(str(tmp_path))
    assert load_file(tmp_path / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    again = load_backbone(BackboneArguments(str(tmp_path), "float32"))
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert fingerprint(again) == fingerprint(load_backbone(backbone))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_what_4bit_weights_compute_in(backbone, dtype):
    pytest.importorskip("bitsandbytes")
    model = load_backbone(BackboneArguments(backbone, dtype, load_in_4bit=True))
    config = model.config.quantization_config
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == getattr(torch, dtype)
    assert model.model.layers[0].self_attn.q_proj.weight.quant_state.nested
    assert model(torch.arange(10, 20)[None]).logits.dtype == getattr(torch, dtype)


def test_a_folder_without_a_model_says_what_it_should_hold(tmp_path):
    with pytest.raises(OSError, match=r"\(a folder\) can't be loaded: .*config\.json.* Give a folder that holds"):
        load_backbone(str(tmp_path))


@pytest.fixture
def custom_code(backbone, tmp_path):
    """A folder whose config asks for code of its own, which would tell that it ran."""
    folder = tmp_path / "custom"
    shutil.copytree(backbone, folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    return folder, ran


def test_code_that_comes_with_a_model_does_not_run_unless_asked(custom_code, monkeypatch, tmp_path):
    folder, ran = custom_code
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(OSError, match="custom code") as caught:
        load_backbone(str(folder))
    assert not ran.exists()
    assert "trust_remote_code" in str(caught.value)
    model = load_backbone(BackboneArguments(str(folder), trust_remote_code=True))
    assert type(model).__name__ == "OwnModel"
    assert ran.exists()


def test_4bit_without_bitsandbytes_says_what_to_install(backbone, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r'pip install "fa_lightning\[quantization\]"'):
        load_backbone(BackboneArguments(backbone, load_in_4bit=True))


def test_4bit_weights_are_packed_and_still_the_same_model(backbone):
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit

    full, packed = load_backbone(backbone), load_backbone(BackboneArguments(backbone, load_in_4bit=True), device="cpu")
    weight = packed.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.uint8
    assert weight.numel() == full.model.layers[0].mlp.up_proj.weight.numel() // 2
    assert packed.model.embed_tokens.weight.dtype == torch.float32
    for one, other in zip(full.model.layers, packed.model.layers, strict=True):
        exact = one.self_attn.q_proj.weight
        restored = dequantize_4bit(other.self_attn.q_proj.weight, other.self_attn.q_proj.weight.quant_state)
        # Fifteen steps over a block's range: wrong or shuffled weights would be off by more than their own size.
        assert 0.01 < (restored - exact).norm() / exact.norm() < 0.25
    assert fingerprint(packed) == fingerprint(full)
    assert fingerprint(lora(packed)) == fingerprint(full)


def test_4bit_gradients_survive_an_evaluation(backbone):
    """On some CPUs bitsandbytes repacks a layer when it is evaluated, and its gradient is lost."""
    pytest.importorskip("bitsandbytes")
    model = lora(load_backbone(BackboneArguments(backbone, load_in_4bit=True)))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(10, 40)[None]

    def gradients():
        model.zero_grad()
        model(ids).logits[:, -1].square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    before = gradients()
    model.eval()
    with torch.no_grad():
        first = model(ids).logits
        torch.testing.assert_close(model(ids).logits, first)
    after = gradients()
    assert len(before) == 8
    assert all(gradient.norm() > 0 for gradient in before.values())
    torch.testing.assert_close(after, before)


def test_fingerprint_names_the_model(backbone, tiny_tokenizer):
    fields = fingerprint(load_backbone(backbone))
    digest = fields.pop("weights")
    assert fields == {
        "architecture": "llama",
        "hidden_size": "32",
        "layers": "2",
        "vocab_size": str(len(tiny_tokenizer)),
    }
    assert len(digest) == 16


def test_fingerprint_survives_adapters_and_other_dtypes(backbone):
    expected = fingerprint(load_backbone(backbone))
    for dtype in ("float32", "bfloat16", "float16"):
        assert fingerprint(load_backbone(BackboneArguments(backbone, dtype))) == expected
    model = lora(load_backbone(backbone))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    assert fingerprint(model) == expected
    assert fingerprint(lora(load_backbone(backbone), targets=["q_proj", "embed_tokens"])) == expected


def test_fingerprint_tells_weights_apart(backbone, make_backbone):
    expected = fingerprint(load_backbone(backbone))
    other = fingerprint(load_backbone(make_backbone(seed=1)))
    assert {field for field in expected if other[field] != expected[field]} == {"weights"}
    changed = load_backbone(backbone)
    with torch.no_grad():
        changed.model.norm.weight[0] += 0.25
    assert fingerprint(changed)["weights"] != expected["weights"]


def test_a_fingerprint_that_differs_is_refused_with_the_field_named(backbone, make_backbone):
    found = fingerprint(load_backbone(backbone))
    check_fingerprint(found, found, "the store")
    check_fingerprint(found, {}, "an adapter from elsewhere")
    narrow = fingerprint(load_backbone(make_backbone(hidden_size=16)))
    with pytest.raises(ValueError, match=r"the store was made .* its hidden_size is '16', .* has '32'"):
        check_fingerprint(found, narrow, "the store")
    with pytest.raises(ValueError, match="its tail is 'x', the loaded backbone has None"):
        check_fingerprint(found, {"tail": "x"}, "the store")
    with pytest.raises(ValueError, match=r"its weights is 'old'.*earlier version wrote digests fewer weights"):
        check_fingerprint(found, {"weights": "old"}, "the store")


def test_no_pickle_is_read(backbone, tmp_path):
    folder = tmp_path / "backbone"
    shutil.copytree(backbone, folder)
    assert sorted(path.name for path in Path(backbone).glob("model*")) == ["model.safetensors"]
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="can't be loaded"):
        load_backbone(str(folder))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A mixture of experts: stacks of matrices hold most of its weights."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    folder = tmp_path_factory.mktemp("mixture")
    MixtralForCausalLM(
        MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=4, **sizes)
    ).save_pretrained(folder)
    return str(folder)


def test_4bit_that_leaves_most_weights_whole_says_so(mixture, backbone, recwarn):
    with pytest.warns(
        UserWarning, match=r"packs 20% of the weights .*0.mlp.experts.gate_up_proj.* stay float32, 0.00037 GiB"
    ):
        load_backbone(BackboneArguments(mixture, load_in_4bit=True))
    recwarn.clear()
    load_backbone(BackboneArguments(backbone, load_in_4bit=True))
    assert not [one for one in recwarn if "packs" in str(one.message)]


def with_weights(model, folder, tensors, **config):
    """A saved model with more tensors in its file, and another config."""
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file(load_file(path) | tensors, path, metadata={"format": "pt"})
    place = folder / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | config))
    return str(folder)


def test_layers_that_the_config_leaves_out_are_told(tmp_path):
    folder = with_weights(make_model("llama"), tmp_path, {}, num_hidden_layers=1)
    with pytest.warns(UserWarning, match=r"has no place for.*: model.layers.1.input_layernorm.weight \(9 in all\)"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("family", "tensors", "config"),
    [
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, {}),
        ("llama", {"lm_head.weight": torch.ones(64, 32)}, {"tie_word_embeddings": True}),
        (
            "gpt2",
            {"transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4), "transformer.h.0.attn.masked_bias": torch.ones(())},
            {},
        ),
    ],
)
def test_left_overs_that_are_no_weights_are_not_told(tmp_path, recwarn, family, tensors, config):
    load_backbone(with_weights(make_model(family), tmp_path, tensors, **config))
    assert not [one for one in recwarn if "no place for" in str(one.message)]


@pytest.fixture
def revisions(make_backbone, monkeypatch, tmp_path):
    """Folders of the revisions of `some/model` in the Hub's cache: `main` and the tag `v2`."""
    cached = tmp_path / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    for number, name in enumerate(("main", "v2")):
        commit = str(number) * 40
        shutil.copytree(make_backbone(seed=20 + number), cached / "snapshots" / commit)
        (cached / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return {"main": str(cached / "snapshots" / ("0" * 40)), "v2": str(cached / "snapshots" / ("1" * 40))}


def test_a_revision_is_another_model(revisions):
    for revision, folder in ((None, "main"), ("main", "main"), ("v2", "v2"), ("1" * 40, "v2")):
        arguments = BackboneArguments("some/model", revision=revision)
        model = load_backbone(arguments)
        assert fingerprint(model) == fingerprint(load_backbone(revisions[folder]))
        assert model.name_or_path == load_tokenizer(arguments).name_or_path == "some/model"
    assert fingerprint(load_backbone(revisions["main"])) != fingerprint(load_backbone(revisions["v2"]))
    for load in (load_backbone, load_tokenizer):
        with pytest.raises(OSError, match="its revision 'v3' is not in the Hub's cache"):
            load(BackboneArguments("some/model", revision="v3"))


def test_an_adapter_knows_the_revision_that_it_was_fitted_on(revisions, tmp_path):
    model = lora(load_backbone(BackboneArguments("some/model", revision="v2")))
    save_adapter(model, "faking", tmp_path / "adapter", {})
    folder = str(tmp_path / "adapter")
    assert named_backbone(BackboneArguments(), folder) == BackboneArguments("some/model", revision="v2")
    assert Variants.load({"faking": folder}).fingerprint == fingerprint(load_backbone(revisions["v2"]))
    # What is asked for goes before what was noted, and main's weights are others.
    with pytest.raises(ValueError, match="was made for another backbone: its weights"):
        Variants.load({"faking": folder}, BackboneArguments("some/model"))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = revisions["v2"]
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    assert named_backbone(BackboneArguments(), folder) == BackboneArguments(revisions["v2"]), "a folder has none"


@pytest.mark.parametrize("load", [load_backbone, load_tokenizer])
def test_a_folder_has_no_revisions(backbone, load):
    with pytest.raises(ValueError, match=r"revision is 'v2', but the .* is a folder, which has no revisions"):
        load(BackboneArguments(backbone, revision="v2"))
    with pytest.raises(ValueError, match="revision is empty"):
        BackboneArguments(backbone, revision=" ")


def test_attention_is_computed_as_asked_for_and_gives_the_same_numbers(backbone):
    ids = torch.arange(10, 40)[None]
    # A row that is padded, so that masks count.
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    plain = load_backbone(backbone)
    for kind in ("eager", "sdpa"):
        model = load_backbone(BackboneArguments(backbone, attn_implementation=kind))
        assert model.config._attn_implementation == kind
        logits = model(ids, attention_mask=mask).logits[:, 7:]
        torch.testing.assert_close(logits, plain(ids, attention_mask=mask).logits[:, 7:], atol=1e-4, rtol=1e-4)


def test_attention_that_is_not_installed_is_refused_in_one_line(backbone, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(UserError, match=r"attn_implementation is 'flash_attention_2', but .* Set it to sdpa") as caught:
        load_backbone(BackboneArguments(backbone, attn_implementation="flash_attention_2"))
    assert "\n" not in str(caught.value)
