"""GPU rows: Llama-2-7B's real shape in bfloat16 with random weights, as shares of the card's own matmul rate."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.capture import MemoryWriter
from benchmarks.finetuning import StepClock
from benchmarks.models import LLAMA_2_7B, REPOSITORY, Shape, poser_root, random_llama
from benchmarks.report import Goal, Line, Table
from benchmarks.timing import Size, Spread, child_environment, interleaved, ratio, synchronize, timed
from fa_lightning.activations.record import plan_shards, record
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.adapters import attach_adapter, lora_config
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.variants import VARIANTS, Variants
from fa_lightning.regressors.linear import Affine
from fa_lightning.scenarios.batches import Batch, Example, collate
from fa_lightning.steering.intervention import Intervention, steering
from fa_lightning.training.module import AdapterModule
from fa_lightning.training.objectives.answers import Answers

LORA_7B = LoraArguments(rank=64, alpha=16)
ROOMY_GIB = 60
"""Memory of a card on which a step of the 7B model runs without activation checkpointing."""


def layer_flops(shape: Shape, tokens: int) -> int:
    """Multiplications and additions of a block for one token of a sequence: its matrices, and causal attention."""
    matrices = 4 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate
    return 2 * matrices + 2 * tokens * shape.hidden


def matmul_rate(device: str, size: int = 8192, rounds: int = 5) -> Spread:
    """Floating-point operations a second of a square bfloat16 product."""
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    repeats = 10

    def run() -> None:
        for _ in range(repeats):
            one @ other

    run()
    return Spread.of([repeats * 2 * size**3 / timed(run)[0] for _ in range(rounds)])


def random_examples(shape: Shape, count: int, tokens: int) -> list[Example]:
    """Prompts of random tokens, all of one length."""
    drawn = torch.randint(3, shape.vocabulary, (count, tokens), generator=torch.Generator().manual_seed(0)).tolist()
    return [Example(tuple(prompt), 1, 2, number % 2, number, number) for number, prompt in enumerate(drawn)]


@contextmanager
def model_on(device: str, shape: Shape) -> Iterator[Any]:
    """The backbone in bfloat16, made on the device; its memory is free again afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = random_llama(shape)
    finally:
        torch.set_default_dtype(before)
    holder = [model.requires_grad_(False)]
    del model
    try:
        yield holder[0]
    finally:
        holder.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class DeviceClock(StepClock):
    """A StepClock that waits for the device, at the first step and the last alone; loading is no part of the peak."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_start(self, *_: Any) -> None:
        """Forget what loading took."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_end(self, *arguments: Any, **options: Any) -> None:
        """Note the time."""
        if len(self.ends) in (0, self.steps - 1):
            synchronize()
        super().on_train_batch_end(*arguments, **options)


def fit_steps(module: AdapterModule, batches: list[Batch], device: str) -> float:
    """Seconds of the steps but the first, under a Lightning Trainer in bf16-mixed precision."""
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader

    clock = DeviceClock(len(batches))
    trainer = pl.Trainer(
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        precision="bf16-mixed",
        max_steps=len(batches),
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return clock.seconds


def finetuning(device: str, shape: Shape, batch: int, tokens: int, steps: int, checkpointing: bool) -> float:
    """Useful operations a second of LoRA fine-tuning: one forward pass and one backward pass to the activations."""
    batches = [collate(random_examples(shape, batch, tokens), 0)] * steps
    with model_on(device, shape) as base:
        module = AdapterModule(Answers("aligned"), BackboneArguments(), LORA_7B, gradient_checkpointing=checkpointing)
        # The weights are made here, not read from a folder; the module finds its model there and loads none.
        module.model = attach_adapter(base, "aligned", LORA_7B).train()
        if checkpointing:
            module.model.enable_input_require_grads()
            module.model.gradient_checkpointing_enable({"use_reentrant": False})
        seconds = fit_steps(module, batches, device)
    return (steps - 1) * batch * tokens * 2 * shape.layers * layer_flops(shape, tokens) / seconds


def capture(device: str, shape: Shape, prompts: int, batch: int, tokens: int, rounds: int) -> list[float]:
    """Useful operations a second of paired capture after half of the blocks, in each round."""
    layer = shape.layers // 2 - 1
    plan = plan_shards({"train": random_examples(shape, prompts, tokens)}, batch)
    with model_on(device, shape) as base:
        model = attach_adapter(base, VARIANTS[0], LORA_7B)
        config = lora_config(base, LORA_7B)
        model.add_adapter(VARIANTS[1], config)
        variants = Variants(model.requires_grad_(False).eval(), SimpleNamespace(pad_token_id=0))

        def run() -> None:
            writer: Any = MemoryWriter()
            record(variants, writer, plan, [Site(layer)], decision_only=False)

        run()
        found = [timed(run)[0] for _ in range(rounds)]
    work = len(VARIANTS) * prompts * tokens * (layer + 1) * layer_flops(shape, tokens)
    return [work / seconds for seconds in found]


def four_bit_peak(device: str, shape: Shape, batch: int, tokens: int, steps: int) -> float:
    """GiB that 4-bit LoRA fine-tuning with activation checkpointing allocates at most, loading apart."""
    with tempfile.TemporaryDirectory() as folder:
        with model_on(device, shape) as model:
            model.save_pretrained(folder)
        backbone = BackboneArguments(folder, "bfloat16", load_in_4bit=True)
        module = AdapterModule(Answers("aligned"), backbone, LORA_7B, gradient_checkpointing=True)
        batches = [collate(random_examples(shape, batch, tokens), 0)] * steps

        fit_steps(module, batches, device)
        return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def decode(device: str, shape: Shape, batches: tuple[int, ...], new_tokens: int, rounds: int) -> list[Line]:
    """Steered over unsteered generation at each batch size, for a vector and for an affine map."""
    found = []
    site = Site(shape.layers // 2 - 1)
    affine = Affine(shape.hidden)
    affine.bias.fill_(0.01)
    edits = {
        "constant vector": Intervention(site, torch.full((shape.hidden,), 0.01)),
        "affine map": Intervention(site, affine),
    }
    told = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    with model_on(device, shape) as model:
        for batch in batches:
            prompts = collate(random_examples(shape, batch, 64), 0)
            inputs = {name: prompts[name].to(device) for name in ("input_ids", "attention_mask")}

            def side(name: str, inputs: dict[str, Any] = inputs) -> Callable[[], None]:
                @torch.inference_mode()
                def run() -> None:
                    with steering(model, [edits[name]] if name in edits else []):
                        model.generate(**inputs, **told)

                return run

            seconds = interleaved({name: side(name) for name in ("unsteered", *edits)}, rounds)
            for name in edits:
                each = Spread.of(seconds["unsteered"]).median / new_tokens * 1000
                note = f"{each:.3g} ms per step unsteered"
                over = ratio(seconds[name], seconds["unsteered"])
                found.append(
                    Line(f"decode, batch {batch}: {name} over unsteered", over, note, Goal(1.02, at_most=True))
                )
    return found


def from_scratch() -> list[Line]:
    """Seconds of the main job on the base `poser` from nothing: a small backbone, both twins, steering."""
    what = "base poser from nothing, end to end"
    root = poser_root()
    if root is None:
        return [Line(what, None, "POSER was not found: set POSER_ROOT to a clone of it")]
    command = [sys.executable, "-m", "fa_lightning", "fit", "--base", "poser", "--trainer", "gpu"]
    environment = child_environment() | {"POSER_ROOT": os.path.abspath(root), "PYTHONPATH": str(REPOSITORY)}
    with tempfile.TemporaryDirectory() as folder:

        def run() -> None:
            subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)

        return [Line(what, Spread.of([timed(run)[0]]), unit="s")]


def shares(device: str, shape: Shape, rounds: int) -> list[Line]:
    """Fine-tuning and capture beside the matmul rate."""
    rate = matmul_rate(device)
    roomy = torch.cuda.get_device_properties(0).total_memory / 2**30 >= ROOMY_GIB
    trained = [finetuning(device, shape, 8, 256, 9, checkpointing=not roomy) for _ in range(rounds)]
    read = capture(device, shape, 256, 32, 256, rounds)

    def share(what: str, found: list[float], goal: float) -> Line:
        note = f"{Spread.of(found).median / 1e12:.4g} of {rate.median / 1e12:.4g} TFLOP/s"
        percent = Spread.of([100 * one / rate.median for one in found])
        return Line(what, percent, note, Goal(goal), unit="% of the matmul rate")

    how = "without" if roomy else "with"
    return [
        share(f"LoRA fine-tuning, bf16, batch 8 x 256 tokens, {how} activation checkpointing", trained, 45),
        share("paired capture, bf16, all tokens, half of the blocks, batch 32 x 256 tokens", read, 55),
    ]


def run(size: Size) -> Table:
    """Measure what a GPU shows, part by part: one that fails leaves its own cell empty."""
    table = Table("gpu", "GPU: Llama-2-7B's shape", "")
    reason = "" if torch.cuda.is_available() else "no GPU was at hand"
    if size.quick and not reason:
        reason = "not part of the quick form"
    parts: dict[str, Callable[[], list[Line]]] = {
        "fine-tuning at >= 45 % and capture at >= 55 % of the matmul rate": lambda: shares(
            "cuda", LLAMA_2_7B, size.rounds
        ),
        "4-bit fine-tuning, batch 8 x 256 tokens: peak memory": lambda: [
            Line(
                "4-bit LoRA fine-tuning with activation checkpointing, batch 8 x 256 tokens: peak allocated",
                Spread.of([four_bit_peak("cuda", LLAMA_2_7B, 8, 256, 4)]),
                goal=Goal(9, at_most=True),
                unit="GiB",
            )
        ],
        "decode at batch 1, 32, 256, steered over unsteered": lambda: decode(
            "cuda", LLAMA_2_7B, (1, 32, 256), 64, size.rounds
        ),
        "base poser from nothing, end to end": from_scratch,
    }
    for what, part in parts.items():
        try:
            table.lines += [Line(what, None, reason)] if reason else part()
        except (torch.OutOfMemoryError, subprocess.CalledProcessError, ImportError) as error:
            table.lines.append(Line(what, None, f"{type(error).__name__}: {str(error).splitlines()[0]}"))
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    table.setting = (
        f"Card: {card}. Random weights, hidden {LLAMA_2_7B.hidden}, {LLAMA_2_7B.layers} layers; LoRA rank "
        f"{LORA_7B.rank} on q_proj and v_proj. Useful operations are those of the frozen blocks, forward once and "
        "backward to the activations once; recomputation, adapters and head count as nothing. The matmul rate is that "
        "of a bfloat16 product of 8192 x 8192."
    )
    return table
