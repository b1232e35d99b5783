"""Row 3: LoRA fine-tuning to the answer token, beside Hugging Face's Trainer and TRL's SFTTrainer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from typing_extensions import override

from benchmarks import timing
from benchmarks.capture import beside
from benchmarks.models import LORA, Workshop
from benchmarks.report import Goal, Line, Table
from benchmarks.timing import Seconds, Size, interleaved, missing
from fa_lightning.backbones.arguments import BackboneArguments, OptimizerArguments
from fa_lightning.backbones.load import load_backbone, load_tokenizer
from fa_lightning.backbones.optimization import adamw_with_warmup
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import LengthBucketSampler, collate, make_examples, model_inputs
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits, counterbalanced
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.module import AdapterModule
from fa_lightning.training.objectives.answers import Answers

OURS = "fa_lightning"
TRAINER, TRAINER_SAME = "Trainer", "Trainer, our batches"
TRL, TRL_SAME = "SFTTrainer", "SFTTrainer, our batches"
RATE = 1e-3
TOLERANCE = 1e-3
"""Largest difference of validation losses allowed where the batches are the same, relative."""


class Listed(ScenarioSource):
    """Scenarios at hand, all of them to train on."""

    def __init__(self, scenarios: list[Scenario]) -> None:
        self.scenarios = scenarios

    @override
    def load(self) -> ScenarioSplits:
        return ScenarioSplits(train=self.scenarios, validation=[], test=[])

    @override
    def fingerprint(self) -> dict[str, str]:
        return {}


class StepClock(pl.Callback):
    """When each optimizer step ended, and which examples it saw."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.seen: list[list[int]] = []

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ends.append(timing.clock())
        self.seen.append(batch["index"].tolist())

    @property
    def seconds(self) -> float:
        """Of all steps but the first."""
        return self.ends[-1] - self.ends[0]


class Finetuning:
    """The sides: each trains the same adapter from the same start on the same prompts, for an epoch, in float32.

    A side returns the seconds of its steps but the first, so that neither loading nor the first step counts, and leaves
    its validation loss in `losses`.

    Args:
        workshop: the backbone, and the adapter to start from.
        batch_size: prompts in a batch.
        steps: optimizer steps.
        held_out: validation prompts.
    """

    def __init__(self, workshop: Workshop, batch_size: int, steps: int, held_out: int) -> None:
        self.workshop, self.batch_size, self.steps = workshop, batch_size, steps
        self.tokenizer = load_tokenizer(workshop.backbone)
        answers = letter_tokens(self.tokenizer)
        count = batch_size * steps // 2
        self.train = workshop.scenarios[:count]
        if len(self.train) < count:
            raise ValueError(f"{count} scenarios are needed to train on, but the workshop holds {len(self.train)}")
        # Both orders of every scenario, as the DataModule serves them.
        self.examples = make_examples(counterbalanced(self.train, both_orders=True), self.tokenizer, answers)
        lengths = [len(example.prompt) for example in self.examples]
        self.batches: list[list[int]] = list(LengthBucketSampler(lengths, batch_size))
        validation = counterbalanced(workshop.scenarios[-held_out:])
        self.validation = collate(make_examples(validation, self.tokenizer, answers), self.tokenizer.pad_token_id)
        self.losses: dict[str, float] = {}
        self.clocks: dict[str, StepClock] = {}

    def ours(self) -> float:
        """`AdapterModule` and `ScenarioDataModule` under a Lightning Trainer."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        backbone, optimizer = BackboneArguments(self.workshop.backbone), OptimizerArguments(learning_rate=RATE)
        module = AdapterModule(Answers("aligned"), backbone, LORA, optimizer)
        module.configure_model()
        state = load_file(Path(self.workshop.adapters["aligned"]) / "adapter_model.safetensors")
        set_peft_model_state_dict(module.model, state, adapter_name="aligned")
        clock = self.clocks[OURS] = StepClock()
        data = ScenarioDataModule(Listed(self.train), self.batch_size, neutral_share=0.0)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            max_steps=self.steps,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=data)
        self.losses[OURS] = self.validation_loss(module.model)
        return clock.seconds

    def trainer(self, same_batches: bool) -> float:
        """`transformers.Trainer` on a `PeftModel`, its own collator and optimizer loop."""
        from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

        model, optimizers = self.trainable()
        collator = DataCollatorForSeq2Seq(self.tokenizer, padding=True)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                model=model,
                args=TrainingArguments(**self.arguments(folder, same_batches)),
                train_dataset=self.rows(same_batches),
                data_collator=collator,
                optimizers=optimizers,
            )
            return self.trained(trainer, model, TRAINER_SAME if same_batches else TRAINER)

    def trl(self, same_batches: bool) -> float:
        """`trl.SFTTrainer` on a `PeftModel`; its gradient checkpointing is switched off, as nobody else has it."""
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        model, optimizers = self.trainable()
        options = {"bf16": False, "gradient_checkpointing": False, "max_length": None}
        with tempfile.TemporaryDirectory() as folder:
            trainer = SFTTrainer(
                model=model,
                args=SFTConfig(**self.arguments(folder, same_batches), **options),
                train_dataset=Dataset.from_list(self.rows(same_batches)),
                processing_class=self.tokenizer,
                optimizers=optimizers,
            )
            return self.trained(trainer, model, TRL_SAME if same_batches else TRL)

    def trainable(self) -> tuple[Any, tuple[Any, Any]]:
        """The model with the adapter to start from, its optimizer and its schedule."""
        from peft import PeftModel

        base = load_backbone(self.workshop.backbone)
        model = PeftModel.from_pretrained(base, self.workshop.adapters["aligned"], is_trainable=True).train()
        made = adamw_with_warmup(model.parameters(), OptimizerArguments(RATE, 0.0, 0.05), self.steps)
        return model, (made["optimizer"], made["lr_scheduler"]["scheduler"])

    def arguments(self, folder: str, same_batches: bool) -> dict[str, Any]:
        """What either of Hugging Face's trainers is told."""
        return {
            "output_dir": folder,
            "per_device_train_batch_size": self.batch_size,
            "max_steps": self.steps,
            "max_grad_norm": 0.0,
            "train_sampling_strategy": "sequential" if same_batches else "random",
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "report_to": [],
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
        }

    def rows(self, same_batches: bool) -> list[dict[str, list[int]]]:
        """Prompt and answer with labels on the answer alone, in the order of our batches or of the data."""
        order = [index for batch in self.batches for index in batch] if same_batches else range(len(self.examples))
        return [
            {
                "input_ids": [*self.examples[index].prompt, self.examples[index].aligned],
                "attention_mask": [1] * (len(self.examples[index].prompt) + 1),
                "labels": [-100] * len(self.examples[index].prompt) + [self.examples[index].aligned],
            }
            for index in order
        ]

    def trained(self, trainer: Any, model: Any, name: str) -> float:
        """Seconds of a Hugging Face trainer's steps but the first."""
        from transformers import PrinterCallback, TrainerCallback

        ends: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(timing.clock())

        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Clock())
        trainer.train()
        self.losses[name] = self.validation_loss(model)
        return ends[-1] - ends[0]

    @torch.no_grad()
    def validation_loss(self, model: Any) -> float:
        """Nats per answer on the held-out prompts."""
        logits = model.eval()(**model_inputs(self.validation), logits_to_keep=1, use_cache=False).logits[:, -1]
        return float(torch.nn.functional.cross_entropy(logits, self.validation["aligned"]))

    def sides(self) -> dict[str, Callable[[], float]]:
        """Every side that can run here, by name."""
        found: dict[str, Callable[[], float]] = {OURS: self.ours}
        if not missing("accelerate"):
            found |= {TRAINER: lambda: self.trainer(False), TRAINER_SAME: lambda: self.trainer(True)}
        if not (missing("accelerate") or missing("trl")):
            found |= {TRL: lambda: self.trl(False), TRL_SAME: lambda: self.trl(True)}
        return found

    def check(self) -> None:
        """The sides that saw the same batches ended at the same validation loss.

        Raises:
            AssertionError: they did not, or our batches were others than announced.
        """
        if self.clocks[OURS].seen != self.batches:
            raise AssertionError("our run saw other batches than were given to the peers")
        for name in (TRAINER_SAME, TRL_SAME):
            if name in self.losses and abs(self.losses[name] - self.losses[OURS]) > TOLERANCE * self.losses[OURS]:
                raise AssertionError(f"validation loss is {self.losses[OURS]}, but {self.losses[name]} with {name}")


def run(workshop: Workshop, size: Size) -> Table:
    """Measure the row."""
    batch_size, steps = (4, 3) if size.quick else (16, 6)
    finetuning = Finetuning(workshop, batch_size, steps, held_out=16 if size.quick else 64)
    few = Finetuning(workshop, 2, 2, held_out=2)
    seconds = interleaved(finetuning.sides(), size.rounds, warm=few.sides())
    finetuning.check()
    setting = (
        f"{workshop.shape}; LoRA rank {LORA.rank} on {', '.join(LORA.target_modules)}, the same start; "
        f"{workshop.source} prompts, batches of {batch_size}, {steps} steps, of which all but the first are timed; "
        "loss on the answer token alone; AdamW and schedule the same. fa_lightning: AdapterModule and "
        "ScenarioDataModule, batches of similar length. The peers come with batches drawn at random; 'our batches' "
        "gives them ours, in our order. Gradient checkpointing, which SFTTrainer has on by default, is off; on a CPU "
        "it makes the logits of every position, on a GPU those of the answers, as fa_lightning does on both. "
        f"{losses(finetuning)}"
    )
    return Table("finetuning", "3. LoRA fine-tuning", setting, lines(seconds))


def losses(finetuning: Finetuning) -> str:
    """What the validation losses were."""
    listed = ", ".join(f"{name} {loss:.4f}" for name, loss in finetuning.losses.items())
    return f"Validation losses at the end, equal to {TOLERANCE:g} where the batches are: {listed}."


def lines(seconds: Seconds) -> list[Line]:
    """The comparisons of the row."""

    def over(peer: str, what: str, goal: float | None) -> Line:
        if peer not in seconds:
            return Line(what, None, missing("accelerate") or missing("trl") or "")
        return beside(seconds, peer, OURS, what, None if goal is None else Goal(goal))

    return [
        over(TRAINER, "over Hugging Face Trainer + peft", 1.3),
        over(TRAINER_SAME, "the same, given our batches", None),
        over(TRL, "over TRL's SFTTrainer", 1.3),
        over(TRL_SAME, "the same, given our batches", None),
    ]
