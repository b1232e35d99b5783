"""What takes a clock or a process of its own: seconds beside FLOPs, and the host memory of writing a shard."""

from __future__ import annotations

import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import scale_confirm as real
from benchmarks import scale_formulas as formulas
from benchmarks.scale_shapes import Shape
from fa_lightning.activations.record import plan_shards, record
from fa_lightning.activations.sites import Site
from fa_lightning.activations.store import ROW_DTYPES, ActivationStore
from fa_lightning.activations.store_writer import StoreWriter
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.variants import VARIANTS, Variants
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.scores import Scores

TIMED = (
    Shape("256 x 4", 256, 704, 4, 4, 4, 8000),
    Shape("512 x 8", 512, 1408, 8, 8, 8, 8000),
    Shape("1024 x 8", 1024, 2816, 8, 16, 16, 8000),
)
ROUNDS = 5
HOST = Shape("1024 x 4", 1024, 2816, 4, 8, 8, 1000)
HOST_ROWS, HOST_TOKENS, HOST_SITES = 64, 128, 4


@dataclass(frozen=True)
class Timing:
    """One stage at one size.

    Attributes:
        stage: which.
        size: hidden size and layers.
        flops: by the formula.
        seconds: median, of the processor.
        rate: FLOP/s of this size's own MLP product, measured in the same rounds.
    """

    stage: str
    size: str
    flops: float
    seconds: float
    rate: float

    @property
    def utilisation(self) -> float:
        """Share of the product's rate that the stage reaches."""
        return self.flops / self.seconds / self.rate


def time_stages(shape: Shape) -> list[Timing]:
    """A fit's step with and without checkpointing, a capture and a judgement, in float32, beside the bare product."""
    with tempfile.TemporaryDirectory() as folder, real.drawn(shape, Path(folder)) as backbone:
        batch, examples = real.prompts(shape), real.drawn_examples(shape)
        modules = {again: real.fitted_module(backbone, checkpointing=again, dtype="float32") for again in (False, True)}
        adapters = {name: str(real.save_random_adapter(backbone, name, Path(folder))) for name in VARIANTS}
        variants = Variants.load(adapters, BackboneArguments(backbone))
        middle = shape.layers // 2 - 1
        plan, store = plan_shards({"train": examples}, real.ROWS), Path(folder) / "store"
        conditions = {"faking": Condition("faking"), "steered": real.shift_at(shape, middle)}
        states, weight = (
            torch.randn(real.ROWS * real.TOKENS, shape.hidden),
            torch.randn(shape.hidden, shape.intermediate),
        )
        turn = iter(range(ROUNDS + 1))

        def fit(checkpointing: bool) -> Any:
            return modules[checkpointing].training_step(batch, 0).backward()

        def capture() -> Any:
            writer = StoreWriter(store.with_name(f"store{next(turn)}"), {}, [Site(middle).name])
            return record(variants, writer, plan, [Site(middle)], decision_only=False)

        sides: dict[str, Callable[[], Any]] = {
            "product": lambda: [states @ weight for _ in range(8)],
            "fit": lambda: fit(False),
            "fit, checkpointing": lambda: fit(True),
            "capture": capture,
            "judging": lambda: Scores(variants, conditions).add_scenarios(batch),
        }
        seconds = _interleaved(sides)
    size = (shape, real.LORA, real.ROWS, real.TOKENS)
    flops = {
        "fit": formulas.fit_flops(*size),
        "fit, checkpointing": formulas.fit_flops(*size, checkpointing=True),
        "capture": formulas.capture_flops(*size, middle),
        "judging": formulas.evaluation_flops(*size, [middle]),
    }
    rate = 8 * 2 * real.ROWS * real.TOKENS * shape.hidden * shape.intermediate / seconds["product"]
    return [Timing(stage, shape.name, count, seconds[stage], rate) for stage, count in flops.items()]


def store_rates() -> tuple[float, float]:
    """Bytes/s at which one rank writes states (converts, checks, digests, writes), and checks a store that it opens."""
    states, rows = _states()
    with tempfile.TemporaryDirectory() as folder:
        writer = StoreWriter(folder, {}, list(states), dtype="float16")
        ids = range(3)
        start = time.perf_counter()
        written = sum(writer.write(shard, "train", states, rows).bytes for shard in ids)
        writing = written / (time.perf_counter() - start)
        writer.finish(ids)
        start = time.perf_counter()
        ActivationStore.open(folder)
        return writing, written / (time.perf_counter() - start)


def host_check() -> real.Check:
    """Resident memory that writing a shard adds to the states it is given, in a fresh process (Linux)."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        grown = pool.apply(_write_shard)
    rows = (HOST, HOST_ROWS, HOST_TOKENS, HOST_SITES)
    # The states themselves are there before the write begins.
    given = 2 * HOST_ROWS * HOST_TOKENS * HOST_SITES * HOST.hidden * formulas.COMPUTE
    return real.Check("host memory of a shard", HOST.name, formulas.shard_host_bytes(*rows), given + grown, 0.1)


def _write_shard() -> int:
    states, rows = _states()
    with tempfile.TemporaryDirectory() as folder:
        writer = StoreWriter(folder, {}, list(states), dtype="float16")
        before = _peak()
        writer.write(0, "train", states, rows)
        return _peak() - before


def _states() -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """What a shard is written from: random states of both variants, and row vectors."""
    count = HOST_ROWS * HOST_TOKENS
    sites = [Site(layer).name for layer in range(HOST_SITES)]
    states = {
        site: {name: torch.randn(count, HOST.hidden, dtype=torch.bfloat16) for name in VARIANTS} for site in sites
    }
    return states, {name: torch.zeros(count, dtype=torch.int64) for name in ROW_DTYPES}


def _peak() -> int:
    """The most resident bytes so far; `getrusage` would tell the parent's peak where that was higher."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


def _interleaved(sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median processor seconds of each, in turns after a warm-up: a busy machine is busy for all of them."""
    for run in sides.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, run in sides.items():
            start = time.process_time()
            run()
            found[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in found.items()}
