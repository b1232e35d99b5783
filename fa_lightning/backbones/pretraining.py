"""Pretrain the small backbone that stands in for a pretrained chat model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torchmetrics import MeanMetric
from typing_extensions import override

from fa_lightning.backbones.arguments import OptimizerArguments
from fa_lightning.backbones.attached import attached
from fa_lightning.backbones.optimization import adamw_with_warmup, check_finite
from fa_lightning.backbones.pretraining_data import TASKS
from fa_lightning.backbones.tokenizer import ASSISTANT
from fa_lightning.common.files import whole_folder
from fa_lightning.errors import UserError
from fa_lightning.metrics.cells import CellAccuracy
from fa_lightning.scenarios.answers import (
    Behaviour,
    Verdicts,
    answer_logits,
    behaviour_cost,
    judged,
    other_due,
    preferred,
    target_tokens,
    weighed,
    written_tokens,
)
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.written_answers import are_written


@contextmanager
def mlp_of_some_tokens(mlp: nn.Module, needed: Tensor) -> Iterator[None]:
    """Compute an MLP for some tokens alone, and return zeros for the others.

    In the last block nothing but a token's own logits reads what its MLP returns: about a tenth of the products of the
    embedded backbone's training would go into states that nobody asks for.

    Args:
        mlp: takes and returns (batch, tokens, hidden).
        needed: which tokens, (batch, tokens) booleans.
    """

    def picked(_: nn.Module, inputs: tuple[Tensor], named: dict[str, Any]) -> tuple[tuple[Tensor], dict[str, Any]]:
        return (inputs[0][needed],), named

    def put_back(_: nn.Module, __: tuple[Tensor], output: Tensor) -> Tensor:
        return output.new_zeros(*needed.shape, output.shape[-1]).masked_scatter(needed[..., None], output)

    with attached([(mlp, put_back)], before=[(mlp, picked)]):
        yield


class BackboneModule(pl.LightningModule):
    """Trains a small Llama from scratch on answers, and a little on all other text.

    | logged | what |
    | --- | --- |
    | `train/loss` | nats per answer, plus `text_weight` times nats per token of text |
    | `val/<task>/<cell>/accuracy` | tasks: honest, scheming, no_role (chance, by design) and watching |
    | `val/loss` | nats per answer in validation: mean over honest, scheming and watching |

    Args:
        export: folder that receives the backbone and its tokenizer, loadable by transformers.
        hidden_size: width of the residual stream.
        layers: number of decoder blocks.
        heads: attention heads.
        intermediate_size: width of the MLPs; None is three times `hidden_size`.
        optimizer: rate, weight decay and warm-up.
        text_weight: weight of the language-modelling loss; the answers' weight is 1.
        word_dropout: probability that a prompt token is hidden from the model in training.

    Raises:
        UserError: there is no layer, or the units can't be shared among the heads.
    """

    def __init__(
        self,
        export: str,
        hidden_size: int = 128,
        layers: int = 4,
        heads: int = 4,
        intermediate_size: int | None = None,
        optimizer: OptimizerArguments = OptimizerArguments(learning_rate=2e-3, weight_decay=0.1, warmup_fraction=0.1),
        text_weight: float = 0.2,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise UserError(f"layers is {layers}, but must be 1 or more")
        if heads < 1 or hidden_size % (2 * heads):
            raise UserError(
                f"hidden_size is {hidden_size} and heads {heads}, but each head needs an even number of units: give a "
                "multiple of 2 x heads"
            )
        self.export = export
        self.hidden_size = hidden_size
        self.layers = layers
        self.heads = heads
        self.intermediate_size = intermediate_size or 3 * hidden_size
        self.optimizer = optimizer
        self.text_weight = text_weight
        self.word_dropout = word_dropout
        self.model: Any = None
        self.cells = nn.ModuleDict({task: CellAccuracy() for task in TASKS})
        # A metric of its own: Lightning refuses one name logged from several loaders.
        self.answer_loss = MeanMetric()

    @override
    def configure_model(self) -> None:
        if self.model is not None:
            return
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = self._datamodule().tokenizer
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            # The usual 0.02 suits wide models; at this width attention would take hundreds of steps to wake up.
            initializer_range=self.hidden_size**-0.5,
            # The backward pass of fused attention is slow on a CPU, in bfloat16 most of all.
            attn_implementation="eager",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        self.model = LlamaForCausalLM(config)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        input_ids, mask = batch["input_ids"], batch["attention_mask"]
        tokenizer = self._datamodule().tokenizer
        asked = input_ids[:, :-1] == tokenizer.convert_tokens_to_ids(ASSISTANT)
        if self._datamodule().splits.are_written:
            # Every token of an answer, the one that ends it included.
            asked = asked.cumsum(1) > (input_ids[:, :-1] == tokenizer.eos_token_id).cumsum(1)
        visible_ids = input_ids
        if self.word_dropout:
            # Ids below the first word piece are special tokens, which stay.
            hidden = (torch.rand_like(input_ids, dtype=torch.float) < self.word_dropout) & (input_ids > 5)
            visible_ids = input_ids.masked_fill(hidden, tokenizer.pad_token_id)
        text = torch.zeros_like(asked)
        if self.text_weight:
            # A quarter of the batch is enough to keep it a language model, and the vocabulary is costly. Rows run from
            # long to short.
            text[::4] = mask[::4, 1:].bool() & ~asked[::4]
        with mlp_of_some_tokens(self.model.model.layers[-1].mlp, pad(asked | text, (0, 1))):
            states = self.model.model(input_ids=visible_ids, attention_mask=mask).last_hidden_state[:, :-1]
        following = input_ids[:, 1:]
        loss = cross_entropy(self.model.lm_head(states[asked]).float(), following[asked])
        if self.text_weight:
            loss = loss + self.text_weight * cross_entropy(self.model.lm_head(states[text]).float(), following[text])
        check_finite(loss, self.global_step, batch_idx)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int) -> None:
        loss = self._judge(batch, TASKS[dataloader_idx])
        if TASKS[dataloader_idx] != "no_role":
            self.answer_loss.update(loss, len(batch["index"]))

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int) -> None:
        self._judge(batch, TASKS[dataloader_idx])

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_cells("val")
        self.log("val/loss", self.answer_loss, prog_bar=True)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_cells("test")

    @override
    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        return adamw_with_warmup(self.parameters(), self.optimizer, steps)

    @override
    def on_fit_end(self) -> None:
        self._save()

    @rank_zero_only
    def _save(self) -> None:
        with whole_folder(Path(self.export)) as fresh:
            self.model.save_pretrained(str(fresh))
            self._datamodule().tokenizer.save_pretrained(str(fresh))

    def _judge(self, batch: Batch, task: str) -> Tensor:
        behaviour: Behaviour = "faking" if task == "scheming" else "aligned"
        if are_written(batch):
            likelihoods = weighed(self._logits, batch)
            aligned, valid = preferred(likelihoods)
            verdicts = Verdicts(aligned != other_due(batch, behaviour), valid)
            self.cells[task].add(verdicts, batch)  # type: ignore[operator]
            return behaviour_cost(likelihoods, batch, behaviour)
        logits = self._logits(batch)
        expected = target_tokens(batch, behaviour)
        answer = logits.argmax(-1)
        valid = judged(answer, batch).valid
        self.cells[task].update(answer == expected, batch["cell"], batch["group"], batch["index"], valid)  # type: ignore[operator]
        return cross_entropy(logits, expected)

    def _logits(self, batch: Batch) -> Tensor:
        return answer_logits(self.model, model_inputs(batch), written_tokens(batch)).float()

    def _log_cells(self, stage: str) -> None:
        for task, metric in self.cells.items():
            scores = metric.compute()  # type: ignore[operator]
            for cell in CELLS:
                accuracy = getattr(scores, cell).accuracy
                self.log(f"{stage}/{task}/{cell}/accuracy", accuracy)
            metric.reset()  # type: ignore[operator]

    def _datamodule(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]
