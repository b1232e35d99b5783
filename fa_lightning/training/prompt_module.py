"""Learn a universal prefix: a frozen faker, prompts with a slot, and embeddings in it that make the answers aligned."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from fa_lightning.backbones.arguments import BackboneArguments, OptimizerArguments
from fa_lightning.backbones.optimization import adamw_with_warmup
from fa_lightning.backbones.targets import load_weights
from fa_lightning.common.version import __version__
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import answer_loss
from fa_lightning.scenarios.batches import Batch, Example
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.frozen_backbone import FrozenBackboneModule, load_best
from fa_lightning.training.learned_prompts import Slot, with_prefix, write_prompt
from fa_lightning.training.objectives.objective import Need
from fa_lightning.training.ordinary_tokens import random_text

FAKER = "faking"
"""What PEFT knows the frozen adapter by."""


class PromptDataModule(ScenarioDataModule):
    """ScenarioDataModule whose prompts hold the prefix that the module starts from."""

    @override
    def examples_of(self, items: list[Scenario], system: str | None = None) -> list[Example]:
        assert self.trainer is not None
        module = self.trainer.lightning_module
        if not isinstance(module, PromptModule):
            raise UserError(f"PromptDataModule is for a prefix's fit, but the model is a {type(module).__name__}")
        return super().examples_of([with_prefix(item, module.start_text) for item in items], system)


class PromptModule(FrozenBackboneModule):
    """What every search for a prefix shares: the frozen faker, the slot in its prompts, and the notes.

    The prefix starts as random ordinary tokens. What is lowered is the cross-entropy of the aligned answer (`error` for
    a neutral text) over training scenarios of all oversight; no weight of the model moves. Needs `PromptDataModule`.

    Attributes:
        method: what a table calls it.
        needs: what it can't do without.

    Args:
        start_from: adapter folder of the faker.
        backbone: which backbone, and how it is loaded; the one that the adapter was fitted on.
        tokens: length of the prefix.
        seed: of the tokens that it starts from.

    Raises:
        UserError: `tokens` is below 1.
    """

    method: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ("labels", "weights", "gradient")
    whole_weights = "a prefix"

    def __init__(self, start_from: str, backbone: BackboneArguments, tokens: int, seed: int) -> None:
        if tokens < 1:
            raise UserError(f"tokens is {tokens}, but a prefix has 1 or more")
        super().__init__(backbone, variant="prompted", judged_by="aligned")
        self.start_from = start_from
        self.tokens = tokens
        self.seed = seed
        self._start_text = ""
        self._slot: Slot | None = None

    @property
    def start_text(self) -> str:
        """The text in whose place the prefix is learned."""
        if not self._start_text:
            self._start_text = random_text(self.tokenizer, self.tokens, self.seed)
        return self._start_text

    @property
    def slot(self) -> Slot:
        """Where it stands."""
        if self._slot is None:
            self._slot = Slot.of(self.tokenizer, self.start_text)
        return self._slot

    @override
    def configure_model(self) -> None:
        super().configure_model()
        # Frozen altogether, so that its adapter's dropout must not disturb it either.
        self.model.eval()

    @override
    def attach(self, backbone: Any) -> Any:
        self.begin_with("start_from", self.start_from)
        model = load_weights(backbone, self.start_from, FAKER).requires_grad_(False)
        self.begin(model)
        return model

    @abstractmethod
    def begin(self, model: Any) -> None:
        """Make what is learned, from the tokens of the start."""

    @abstractmethod
    def result(self) -> tuple[str, Tensor | None]:
        """The prefix: its text, and its embeddings where it is made of them."""

    @override
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": answer_loss(self.answer_logits(batch), batch, self.judged_by)}

    def notes(self) -> dict[str, Any]:
        """What the file of the prefix says about this fit."""
        return {
            "name": self.method,
            "needs": list(self.needs),
            "start_from": self.start_from,
            **self.digests,
            "tokens": self.tokens,
            "training_seconds": round(self.training_seconds, 3),
            **self.costs(),
        }


class SoftPromptModule(PromptModule):
    """A prefix of free embeddings (prompt tuning, arXiv 2104.08691), held in peft's own module for them.

    Args:
        start_from: adapter folder of the faker.
        backbone: which backbone, and how it is loaded; the one that the adapter was fitted on.
        tokens: length of the prefix.
        seed: of the tokens that it starts from.
        optimizer: rate, weight decay and warm-up.
    """

    method = "soft prompt"

    def __init__(
        self,
        start_from: str,
        backbone: BackboneArguments,
        tokens: int = 16,
        seed: int = 0,
        optimizer: OptimizerArguments = OptimizerArguments(learning_rate=1e-2),
    ) -> None:
        super().__init__(start_from, backbone, tokens, seed)
        self.optimizer = optimizer
        self.prompt: Any = None

    @override
    def begin(self, model: Any) -> None:
        from peft import PromptEmbedding, PromptTuningConfig

        words = model.get_input_embeddings()
        start = words(torch.tensor(self.slot.tokens, device=words.weight.device)).detach()
        config = PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.tokens,
            token_dim=start.shape[1],
            num_transformer_submodules=1,
        )
        self.prompt = PromptEmbedding(config, words)
        with torch.no_grad():
            # Float32 whatever the backbone holds: small steps would be lost in fewer bits.
            self.prompt.embedding.weight = torch.nn.Parameter(start.float().clone())

    @override
    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        return self.slot.with_vectors(self.model, batch, self.prompt.embedding.weight)

    @override
    def result(self) -> tuple[str, Tensor | None]:
        return self.start_text, self.prompt.embedding.weight.detach()

    @override
    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        return adamw_with_warmup(self.prompt.parameters(), self.optimizer, steps)


class PromptExport(pl.Callback):
    """Writes the prefix that was found when the fit ends, of the best checkpoint if there is one; on rank zero.

    Args:
        folder: of the prefix.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, PromptModule):
            raise UserError(f"PromptExport is for a prefix's fit, but the model is a {type(pl_module).__name__}")
        load_best(trainer)
        if trainer.is_global_zero:
            text, vectors = pl_module.result()
            notes = {**pl_module.notes(), "fa_lightning": __version__, "fingerprint": pl_module.fingerprint}
            write_prompt(self.folder, text, vectors, notes)
            rank_zero_info(f"{pl_module.method}: {self.folder}")
        trainer.strategy.barrier("prefix exported")
