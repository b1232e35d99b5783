"""The path of a user with their own model: shipped experiments on local folders, overrides, memory that runs out."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from local_models import SMALL, save_model, write_small
from safetensors.torch import load_file, save_file
from toy import CONFIGS, config_of, record_of, run

from fa_lightning.backbones.arguments import LoraArguments

STAGES = ["02_aligned", "03_faking", "04_steering"]
FIT = ("fit", "--base", "small_llm.yaml", "--backbone", "model")
ROOT = Path("checkpoints/small_llm@model/seed0/steering")


def fit(base: str, model: str, *words: str) -> int:
    return run("fit", "--base", f"{base}.yaml", "--backbone", model, *words)


def state_of(place: Path, stage: str) -> str:
    return str(record_of(place, f"steering/{stage}", "small_llm@model")["state"])


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command that a user can mend."""
    capsys.readouterr()
    assert run(*words) == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told.partition("error: ")[2]


def write_stage(place: Path) -> str:
    """Write the whole config of the aligned twin on the local model, as `config` prints it; the file's name."""
    from fa_lightning.experiments.chain import Chain
    from fa_lightning.experiments.compose import Composition

    chain = Chain(place / "small_llm.yaml", backbone="model")
    (stage,) = (stage for stage in Composition(chain).stages("steering") if stage.name == "02_aligned")
    (place / "aligned.yaml").write_text(stage.config)
    return "aligned.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the main job has run on the base small_llm and a local Qwen2; leave it as it is."""
    place = tmp_path_factory.mktemp("small_llm")
    save_model(place / "model", "qwen2")
    write_small(place, "small_llm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert fit("small_llm", "model") == 0
    return place


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# The shipped settings


def check_finished(place: Path, base: str, layers: int) -> None:
    """That the settings of the shipped files are in what the run has made."""
    shipped = {stage: config_of(CONFIGS / "bases", f"steering/{stage}", base) for stage in STAGES}
    root = place / "checkpoints" / f"{base}@model" / "seed0" / "steering"
    states = [record_of(place, f"steering/{stage}", f"{base}@model")["state"] for stage in STAGES]
    assert states == ["done"] * 3
    for stage in STAGES[:2]:
        asked = shipped[stage]["model"]["init_args"]["lora"]
        made = json.loads((root / stage / "adapter" / "adapter_config.json").read_text())
        assert (made["r"], made["lora_alpha"], made["lora_dropout"]) == (asked["rank"], asked["alpha"], 0.05)
        assert sorted(made["target_modules"]) == asked["target_modules"] == ["q_proj", "v_proj"]
        assert made["base_model_name_or_path"] == "model"
        state = torch.load(root / stage / "best.ckpt", weights_only=True)["state_dict"]
        # Two matrices in q_proj and v_proj of every layer, trained in float32 on a backbone in bfloat16 or nf4.
        assert len(state) == 4 * layers
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert all(tensor.abs().sum() > 0 for name, tensor in state.items() if "lora_B" in name), "it has learnt"
    store = json.loads((root / "04_steering" / "store" / "manifest.json").read_text())
    asked = shipped["04_steering"]["data"]["init_args"]
    assert store["dtype"] == asked["store_dtype"] == "bfloat16"
    assert store["sites"] == [f"layers.{layer}.residual" for layer in range(layers)]
    assert store["fingerprint"]["backbone_dtype"] == "bfloat16"
    assert store["fingerprint"]["load_in_4bit"] is (base == "qlora")
    results = json.loads((root / "results.json").read_text())
    assert {candidate["regressor"] for candidate in results["candidates"]} == {
        "affine (decision token)",
        "residual_mlp (decision token)",
    }
    assert results["leak_report"]["total"] == 0


def test_small_llm_runs_as_shipped_on_a_local_folder(finished: Path) -> None:
    check_finished(finished, "small_llm", layers=2)
    recorded = {stage: record_of(finished, f"steering/{stage}", "small_llm@model")["fingerprint"] for stage in STAGES}
    assert [recorded[stage].get("model.init_args.backbone.name") for stage in STAGES] == ["model", "model", None]
    assert recorded["04_steering"]["data.init_args.backbone.name"] == "model"


@pytest.mark.slow
@pytest.mark.parametrize("base", ["llama2_7b", "qlora"])
def test_the_large_ones_run_as_shipped_on_a_local_folder(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if base == "qlora":
        pytest.importorskip("bitsandbytes")
    save_model(tmp_path / "model", "llama")
    write_small(tmp_path, base)
    monkeypatch.chdir(tmp_path)
    quantised = []
    from fa_lightning.backbones import load

    monkeypatch.setattr(load, "_refuse_gaps", lambda *_: quantised.append(True))
    assert fit(base, "model") == 0
    check_finished(tmp_path, base, layers=2)
    assert len(quantised) == 3, "each stage loads the backbone once"


@pytest.mark.parametrize("family", list(SMALL))
def test_a_twin_is_fitted_on_every_family(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model", family)
    write_small(tmp_path, "small_llm")
    monkeypatch.chdir(tmp_path)
    words = ["--trainer.max_epochs", "1", "--trainer.logger", "false"]
    assert run("fit", "--config", write_stage(tmp_path), *words) == 0
    from safetensors.torch import load_file

    made = load_file(ROOT / "02_aligned/adapter/adapter_model.safetensors")
    sizes, rank = SMALL[family], 16
    head = sizes.get("head_dim", sizes["hidden_size"] // sizes["num_attention_heads"])
    query, value = head * sizes["num_attention_heads"], head * sizes["num_key_value_heads"]
    a_layer = rank * (2 * sizes["hidden_size"] + query + value)
    assert sum(tensor.numel() for tensor in made.values()) == 2 * a_layer


REAL: dict[str, dict[str, Any]] = {
    "llama": {},  # the defaults of transformers are Llama-2-7b's
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


@pytest.mark.parametrize(
    ("base", "family", "parameters", "adapter", "last_layers"),
    [
        # 33,554,432 and 6,771,970,048 in all are what peft printed for the origin's own fine-tuning.
        ("llama2_7b", "llama", 6_771_970_048 - 33_554_432, 33_554_432, [3, 7, 11, 15, 19, 23, 27, 31]),
        ("qlora", "llama", 6_771_970_048 - 33_554_432, 33_554_432, [7, 15, 23, 31]),
        ("small_llm", "qwen2", 494_032_768, 24 * 16 * (896 + 896 + 896 + 128), [2, 5, 8, 11, 14, 17, 20, 23]),
    ],
)
def test_at_real_size_the_shipped_settings_come_out_right(
    base: str, family: str, parameters: int, adapter: int, last_layers: list[int]
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from fa_lightning.activations.site_names import spread
    from fa_lightning.backbones.adapters import attach_adapter
    from fa_lightning.backbones.decoder import decoder_layers
    from fa_lightning.backbones.load import fingerprint

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **REAL[family]), dtype=torch.bfloat16)
        model.requires_grad_(False)
        assert model.num_parameters() == parameters
        asked = config_of(CONFIGS / "bases", "steering/02_aligned", base)["model"]["init_args"]["lora"]
        lora = LoraArguments(**asked)
        twin = attach_adapter(model, "aligned", lora)
    assert sum(one.numel() for one in twin.parameters() if one.requires_grad) == adapter
    assert {name.split(".")[-4] for name, one in twin.named_parameters() if one.requires_grad} == {"q_proj", "v_proj"}
    data = config_of(CONFIGS / "bases", "steering/04_steering", base)["data"]["init_args"]
    assert spread(len(decoder_layers(twin)), data["sites"]) == last_layers
    # Weights that are not there can't be digested; the other fields are read off the config.
    found = fingerprint(twin)
    config = model.config
    assert found["architecture"] == family
    assert [found[name] for name in ("hidden_size", "layers", "vocab_size")] == [
        str(config.hidden_size),
        str(config.num_hidden_layers),
        str(config.vocab_size),
    ]


# Overrides


def test_a_command_that_failed_before_it_made_anything_may_be_corrected(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "checkpoints")
    assert "no layer called qkv_proj" in refused(capsys, *FIT, "--model.lora.target_modules", "[qkv_proj]")
    assert state_of(copied, "02_aligned") == "running"
    message = refused(capsys, *FIT, "--model.lora.target_modules", "[q_proj]", "--data.max_tokens", "1")
    assert message.startswith("max_tokens is 1"), "another value was wrong too, but the change itself is allowed"


def test_the_same_command_skips_and_another_model_is_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("small_llm", "model", "--model.gradient_checkpointing", "true") == 0
    told = capsys.readouterr().out
    assert "--model.init_args.gradient_checkpointing=true: laid over 02_aligned, 03_faking\n" in told
    skipped = [f"{number}/3 steering/{stage}: done, skipped" in told for number, stage in enumerate(STAGES, 1)]
    assert skipped == [True] * 3
    # A chain is called after the last part of a model's path.
    shutil.copytree(copied / "model", copied / "other" / "model")
    capsys.readouterr()
    assert fit("small_llm", "other/model") == 0
    assert "3/3 steering/04_steering: done, skipped" in capsys.readouterr().out, "the same model at another place"
    path = copied / "other" / "model" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "down_proj" in name)
    save_file({**weights, name: weights[name] * 1.1}, path, {"format": "pt"})
    message = refused(capsys, "fit", "--base", "small_llm.yaml", "--backbone", "other/model")
    assert "stage steering/02_aligned was made from something else" in message
    assert re.search(r"input\.model\.init_args\.backbone(\.name)?: was '\w{16}', is '\w{16}'", message)
    message = refused(capsys, "fit", "--base", "small_llm.yaml", "--backbone", "Qwen/model")
    assert "was 'model', is 'Qwen/model'" in message


def test_an_override_goes_where_the_argument_is(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.lora.rank", "8", "--data.init_args.batch_size=4", "--trainer.max_epochs", "3"]
    message = refused(capsys, *FIT, *words)
    assert "model.init_args.lora.rank: was 16, is 8" in message
    assert "data.init_args.batch_size x ranks: was 8, is 4" in message
    assert "trainer.max_epochs: was 2, is 3" in message
    assert "backbone" not in message


@pytest.mark.parametrize(
    ("word", "close"),
    [
        ("--model.init_args.objective.init_args.behavior", "--model.objective.behaviour"),
        ("--model.init_args.batch_size", "--data.batch_size"),
        ("--trainer.max_epoch", "--trainer.max_epochs"),
        ("--optimizer.lr", ""),
    ],
)
def test_an_override_that_no_stage_knows_is_refused_before_anything_is_deleted(
    copied: Path, capsys: pytest.CaptureFixture[str], word: str, close: str
) -> None:
    message = refused(capsys, *FIT, "--refit", "02_aligned", word, "3")
    assert message.startswith(f"{word}: no stage has such an argument")
    assert close in message
    assert "--model," not in message, "only arguments that hold a value are proposed"
    assert [state_of(copied, stage) for stage in STAGES] == ["done"] * 3


@pytest.mark.parametrize("value", ["many", "[1]"])
def test_a_value_that_only_the_last_stage_takes_is_checked_before_the_first_runs(
    copied: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    message = refused(capsys, *FIT, "--refit", "02_aligned", "--data.init_args.block_rows", value)
    assert message.startswith(f"{CONFIGS}/studies/steering/04_steering.yaml: data.init_args.block_rows")
    assert len(message.splitlines()) == 1
    assert [state_of(copied, stage) for stage in STAGES] == ["done"] * 3


def test_help_says_how_to_take_another_model_and_what_an_override_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run("fit", "--help")
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--backbone M another model than the base's: a Hub name, a folder or a .gguf file" in shown
    assert "laid over every stage that has the argument; others stay as they are" in shown
    assert "it is refused where none has it" in shown


# Bad input through the whole command


def test_a_model_that_is_not_there_is_told_in_one_line(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, told in (("./nowhere", "there is no such folder"), ("no/such-model", "HF_HUB_OFFLINE is set")):
        message = refused(capsys, "fit", "--base", "small_llm.yaml", "--backbone", model)
        assert told in message
        assert message.count("\n") == 1
        folder = copied / "checkpoints" / f"small_llm@{model.rpartition('/')[2]}" / "seed0/steering/02_aligned"
        assert json.loads((folder / "stage.json").read_text())["state"] == "running"
        assert not (folder / "adapter").exists()


def test_modules_that_the_model_has_not_are_told_with_those_it_has(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, *FIT, "--refit", "02_aligned", "--model.lora.target_modules", "[c_attn, v_proj]")
    assert message.startswith("target_modules is [c_attn, v_proj], but Qwen2ForCausalLM has no layer called c_attn")
    assert "q_proj (2 layers)" in message


def test_a_checkpoint_of_another_rank_is_not_resumed(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = copied / ROOT / "02_aligned" / "last.ckpt"
    shutil.copy(last, copied / "rank16.ckpt")
    config = yaml.safe_load((copied / write_stage(copied)).read_text())
    config["model"]["init_args"]["lora"]["rank"] = 8
    config["trainer"]["callbacks"] = []
    (copied / "one.yaml").write_text(yaml.safe_dump(config))
    # LightningCLI would take the checkpoint's own hyper-parameters; the runner and Python do not.
    import lightning.pytorch as pl

    from fa_lightning.experiments.lightning_cli import lightning_cli

    cli = lightning_cli(["--config", "one.yaml"], run=False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
    with pytest.raises(
        ValueError, match=r"does not fit this adapter: missing .*lora_A.* another behaviour, rank, target"
    ):
        trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path="rank16.ckpt", weights_only=True)


def test_two_16_bit_formats_are_not_mixed(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Processors differ in the precision that they take by themselves.
    options = ("--model.init_args.backbone.dtype=float16", "--trainer.precision=bf16-mixed")
    message = refused(capsys, "fit", "--config", write_stage(copied), *options)
    assert message.startswith("model.init_args.backbone.dtype is 'float16', but trainer.precision is 'bf16-mixed': ")
    assert "Set dtype to bfloat16, or the precision to 16-mixed" in message


# Memory that runs out

CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.2 GiB is free."
)


@pytest.fixture
def starve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`starve(when)` lets the backbone's forward pass run out of memory from the first time that `when()` is true."""

    def starve(when: Callable[[], bool], error: type[Exception] = torch.OutOfMemoryError, text: str = CUDA) -> None:
        from transformers.models.qwen2.modeling_qwen2 import Qwen2Model

        forward = Qwen2Model.forward

        # Steering reads the decoder's arguments off its signature.
        @functools.wraps(forward)
        def starved(*given: Any, **named: Any) -> Any:
            if when():
                raise error(text)
            return forward(*given, **named)

        monkeypatch.setattr(Qwen2Model, "forward", starved)

    yield starve
    monkeypatch.undo()


def after(calls: int) -> Callable[[], bool]:
    """True from the given number of calls on."""
    made = iter(range(10**9))
    return lambda: next(made) >= calls


def test_memory_that_runs_out_in_training_is_explained_and_the_same_command_resumes(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, starve: Callable[..., None]
) -> None:
    from fa_lightning.training.module import AdapterModule

    # In the second epoch, so that there is a checkpoint to go on from.
    epoch = {"now": 0}
    start = AdapterModule.on_train_epoch_start
    monkeypatch.setattr(
        AdapterModule, "on_train_epoch_start", lambda module: epoch.update(now=module.current_epoch) or start(module)
    )
    starve(lambda: epoch["now"] == 1)
    message = refused(capsys, *FIT, "--refit", "02_aligned")
    assert re.match(
        r"out of GPU memory in stage steering/02_aligned, while training on a batch of [38] prompts x 112 tokens",
        message,
    )
    assert "(2.50 GiB more were asked for)" in message
    order = [
        "data.init_args.batch_size (is 8) while raising trainer.accumulate_grad_batches as much (is 2)",
        "data.init_args.max_tokens (is 384)",
        "model.init_args.backbone.load_in_4bit: true (is false)",
        "a smaller model",
    ]
    places = [message.index(part) for part in order]
    assert places == sorted(places)
    assert "gradient_checkpointing" not in message, "it is on already"
    assert "the same command goes on from the last checkpoint. Where it refuses a changed setting, add --ref" in message
    assert message.count("\n") == 1
    folder = copied / ROOT / "02_aligned"
    assert state_of(copied, "02_aligned") == "running"
    assert (folder / "last.ckpt").is_file()
    assert not (folder / "adapter").exists()
    assert not (folder.parent / "04_steering").exists(), "nothing made from the old adapter is left"
    monkeypatch.undo()
    monkeypatch.chdir(copied)
    assert run(*FIT) == 0
    told = capsys.readouterr().out
    assert "1/3 steering/02_aligned: resumed" in told
    assert "2/3 steering/03_faking: done, skipped" in told
    check_finished(copied, "small_llm", layers=2)


def test_memory_that_runs_out_in_the_capture_keeps_the_shards_that_are_done(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, starve: Callable[..., None]
) -> None:
    # Two passes a shard: the second shard's first.
    starve(after(2))
    message = refused(capsys, *FIT, "--refit", "04_steering")
    assert message.startswith(
        "out of GPU memory in stage steering/04_steering, while capturing activations on a batch of 8 prom"
    )
    places = [
        message.index(part) for part in ("shard_examples (is 8)", "sites (fewer", "max_tokens", "load_in_4bit: t")
    ]
    assert places == sorted(places)
    store = copied / ROOT / "04_steering" / "store"
    done = {path.name: path.stat().st_mtime_ns for path in store.glob("shard-*")}
    assert len(done) == 2, "one shard and its sidecar"
    assert not (store / "manifest.json").exists()
    assert state_of(copied, "04_steering") == "running"
    monkeypatch.undo()
    monkeypatch.chdir(copied)
    assert run(*FIT) == 0
    assert {name: (store / name).stat().st_mtime_ns for name in done} == done, "what was done is not done again"
    check_finished(copied, "small_llm", layers=2)


@pytest.mark.parametrize(
    ("function", "doing"), [("on_validation_epoch_start", "validating"), ("on_test_epoch_start", "testing")]
)
def test_memory_that_runs_out_while_steering_is_judged(
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    starve: Callable[..., None],
    function: str,
    doing: str,
) -> None:
    from fa_lightning.studies.steering.callback import SteeringEvaluation

    judging: list[bool] = []
    start = getattr(SteeringEvaluation, function)
    monkeypatch.setattr(SteeringEvaluation, function, lambda *given: judging.append(True) or start(*given))
    starve(lambda: bool(judging))
    message = refused(capsys, *FIT, "--refit", "04_steering")
    assert message.startswith(f"out of GPU memory in stage steering/04_steering, while {doing} steering on a batch of ")
    assert "data.init_args.batch_size (is 4)" in message
    folder = copied / ROOT / "04_steering"
    assert state_of(copied, "04_steering") == "running"
    assert not (folder / "evaluation.json").exists()
    kept = torch.load(folder / "last.ckpt", weights_only=False)["epoch"]
    assert kept == (0 if doing == "validating" else 1), "what the same command goes on from"


@pytest.mark.parametrize(
    ("error", "text", "what"),
    [
        (torch.OutOfMemoryError, CUDA, "GPU"),
        (MemoryError, "", "host"),
        (
            RuntimeError,
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
            "host",
        ),
    ],
)
def test_a_plain_fit_explains_it_too(
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    starve: Callable[..., None],
    error: type[Exception],
    text: str,
    what: str,
) -> None:
    starve(after(0), error, text)
    shutil.rmtree(copied / "checkpoints")
    words = ("--config", write_stage(copied), "--model.init_args.gradient_checkpointing=false")
    message = refused(capsys, "fit", *words)
    assert re.match(
        rf"out of {what} memory in stage 02_aligned, while training on a batch of [38] prompts x 1", message
    )
    assert "model.init_args.gradient_checkpointing: true (is false)" in message
    assert "--refit" not in message
    assert not (copied / ROOT / "02_aligned" / "adapter").exists()


def test_any_other_runtime_error_keeps_its_trace(copied: Path, starve: Callable[..., None]) -> None:
    starve(after(0), RuntimeError, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run("fit", "--config", write_stage(copied))
