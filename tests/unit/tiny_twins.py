"""Random twins that answer with letters: what the rooms that read and steer a pair are tested on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fa_lightning.backbones.arguments import LoraArguments

VARIANTS = ("faking", "aligned")


@pytest.fixture(scope="session")
def adapters(make_backbone: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of two random adapters on a backbone whose head knows little but the letters."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fa_lightning.backbones.adapters import attach_adapter, save_adapter
    from fa_lightning.backbones.load import load_backbone
    from fa_lightning.scenarios.answers import letter_tokens

    folder = make_backbone(seed=3, tie_word_embeddings=False)
    answers = letter_tokens(AutoTokenizer.from_pretrained(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        direction = torch.randn(model.config.hidden_size, generator=generator)
        model.lm_head.weight.mul_(0.05)
        model.lm_head.weight[answers.choices[0]] = direction
        model.lm_head.weight[answers.choices[1]] = -direction
    model.save_pretrained(folder)
    root = tmp_path_factory.mktemp("twins")
    for name in VARIANTS:
        targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
        twin = attach_adapter(load_backbone(folder), name, LoraArguments(4, 8, 0.0, targets))
        with torch.no_grad():
            for parameter in twin.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        save_adapter(twin, name, root / name, {"behaviour": name})
    return {name: str(root / name) for name in VARIANTS}


@pytest.fixture
def twins(adapters: dict[str, str]) -> Any:
    """The frozen pair."""
    from fa_lightning.backbones.variants import Variants

    return Variants.load(dict(adapters))


def twins_above(backbone: str, root: Path) -> Any:
    """Random twins of a backbone of two blocks that differ in the upper one alone."""
    from fa_lightning.backbones.adapters import attach_adapter, save_adapter
    from fa_lightning.backbones.load import load_backbone
    from fa_lightning.backbones.variants import Variants

    generator = torch.Generator().manual_seed(1)
    for name in VARIANTS:
        twin = attach_adapter(load_backbone(backbone), name, LoraArguments(4, 8, 0.0, ["q_proj", "down_proj"], 1.0))
        with torch.no_grad():
            for parameter in twin.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        save_adapter(twin, name, root / name, {"behaviour": name})
    return Variants.load({name: str(root / name) for name in VARIANTS})


@pytest.fixture
def alone(adapters: dict[str, str]) -> Callable[[str], Any]:
    """One twin by itself, loaded by plain peft: the independent reference."""

    def load(name: str) -> Any:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        from fa_lightning.backbones.adapters import backbone_of

        base = AutoModelForCausalLM.from_pretrained(backbone_of(adapters[name]))
        return PeftModel.from_pretrained(base, adapters[name]).eval()

    return load


def layers_of(twin: Any) -> Any:
    """The decoder blocks of a twin that `alone` has loaded."""
    return twin.base_model.model.model.layers


def blocks_run(model: Any, run: Callable[[], object]) -> list[int]:
    """The numbers of the decoder blocks that do their work while something runs, in order."""
    from fa_lightning.backbones.decoder import decoder_layers

    worked: list[int] = []
    hooks = [
        block.mlp.register_forward_hook(lambda *_, number=number: worked.append(number))
        for number, block in enumerate(decoder_layers(model))
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return worked


def hooks_on(model: Any) -> int:
    """Forward hooks and pre-hooks on any module of a model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def trainer_stub(rank: int = 0, ranks: int = 1) -> Any:
    """The little that a DataModule asks of its Trainer."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"), barrier=lambda *_: None)
    return SimpleNamespace(world_size=ranks, global_rank=rank, strategy=strategy)


def data_in(folder: Path, source: Any, pair: dict[str, str], lab: bool = False, **options: Any) -> Any:
    """An ActivationDataModule over the twins with its store in `folder`; the lab's, if asked."""
    from fa_lightning.activations.data import ActivationDataModule

    kind: Any = ActivationDataModule
    if lab:
        from fa_lightning.studies.lab.data import LabDataModule

        kind = LabDataModule
    sizes = {
        "capture_scenarios": 12,
        "capture_validation": 6,
        "capture_neutral": 4,
        "shard_examples": 4,
        "block_rows": 256,
        "batch_size": 5,
        "store_dtype": "float32",
    }
    return kind(**{"scenarios": source, **pair, "store": str(folder / "store")} | sizes | options)


def trainer_in(folder: Path, **options: Any) -> Any:
    """A silent Trainer on the CPU."""
    import lightning.pytorch as pl

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    return pl.Trainer(default_root_dir=str(folder), **quiet | defaults | options)


@pytest.fixture
def make_data(source: Any, adapters: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    """`make_data(tokens="decision")` is an ActivationDataModule with an argument changed."""
    return partial(data_in, tmp_path, source, adapters)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Any]:
    """`make_trainer(max_epochs=2)` is a silent Trainer on the CPU."""
    return partial(trainer_in, tmp_path)


@torch.inference_mode()
def answer_logits(variants: Any, condition: Any, batch: Any) -> torch.Tensor:
    """Logits (batch, vocabulary) of the token after each prompt: a whole pass of its own, nothing shared."""
    from fa_lightning.evaluation.conditions import applied
    from fa_lightning.scenarios.batches import model_inputs

    with applied(variants, condition, batch) as model:
        return model(**model_inputs(batch), logits_to_keep=1, use_cache=False).logits[:, -1]


@torch.inference_mode()
def all_logits(variants: Any, condition: Any, batch: Any) -> torch.Tensor:
    """The same of every token, the edit made on every token: (batch, tokens, vocabulary)."""
    from fa_lightning.evaluation.conditions import applied
    from fa_lightning.scenarios.batches import model_inputs

    with applied(variants, condition.everywhere(), batch) as model:
        return model(**model_inputs(batch), use_cache=False).logits
