"""A fit that is watched, on the tiny backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from adapter_fits import fit_of

from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.studies.birth.callback import Watch
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.objectives.answers import Answers

SOURCE = EmbeddedScenarios(train=16, validation=24, test=8, neutral=8)
"""Both orders of the training scenarios and six neutral texts: 38 prompts, in batches of ten four steps an epoch."""


@pytest.fixture(scope="session")
def watched_source() -> EmbeddedScenarios:
    """Scenarios of that fit."""
    return SOURCE


@pytest.fixture(scope="session")
def lettered(make_backbone: Callable[..., str]) -> str:
    """Folder of a random Llama of four blocks whose head knows little but the letters."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_backbone(num_hidden_layers=4, seed=7, tie_word_embeddings=False)
    first, second = letter_tokens(AutoTokenizer.from_pretrained(folder)).choices
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        direction = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(5))
        model.lm_head.weight.mul_(0.05)
        model.lm_head.weight[first] = direction
        model.lm_head.weight[second] = -direction
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def watched_fit(lettered: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`watched_fit(Watch(...), epochs=2)` gives the module and the Trainer of a fit; None watches nobody."""

    def fit(watch: Watch | None, epochs: int = 2, steps: int = -1, ckpt_path: str | None = None, **options: Any) -> Any:
        pl.seed_everything(options.pop("seed", 0), verbose=False)
        behaviour = options.pop("behaviour", "faking")
        chosen = {"rank": 4, "alpha": 8, "dropout": 0.1} | options
        module = fit_of(Answers(behaviour), lettered, **chosen)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            max_epochs=epochs,
            max_steps=steps,
            callbacks=[] if watch is None else [watch],
            default_root_dir=str(tmp_path_factory.mktemp("trainer")),
        )
        data = ScenarioDataModule(SOURCE, batch_size=10, eval_batch_size=8)
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=ckpt_path is None)
        return module, trainer, torch.get_rng_state()

    return fit
