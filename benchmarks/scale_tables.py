"""The calculated tables of docs/scale.md, by the name between their marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks import scale_formulas as formulas
from benchmarks.scale_job import Job, job_seconds, step_seconds, way_of
from benchmarks.scale_shapes import A100, H100, LLAMA_7B, LLAMA_13B, LLAMA_70B, SHAPES, Card, Shape

BASE = "llama2_7b"
JOB = Job.of(BASE)
LORA, ROWS, TOKENS, SITES, KINDS = JOB.lora, JOB.fit_batch, JOB.tokens, JOB.sites, len(JOB.passes)
LARGE = (LLAMA_7B, LLAMA_13B, LLAMA_70B)
GPUS = (1, 8, 64)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def gigabytes(size: float) -> str:
    """Bytes as GB with three digits that count.

    >>> gigabytes(13.4768e9), gigabytes(1.6406e10), gigabytes(5.25e11), gigabytes(1.342e8)
    ('13.5', '16.4', '525', '0.134')
    """
    value = size / 1e9
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, with two digits that count.

    >>> duration(0.5), duration(42), duration(100), duration(900), duration(9000)
    ('0.5 s', '42 s', '1.7 min', '15 min', '2.5 h')
    """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.{0 if seconds >= 10 else 1}f} s"


def job() -> str:
    """The job of the tables."""
    rows = (
        ("tokens of a prompt, padding included", str(TOKENS)),
        ("prompts in a step of one GPU", str(ROWS)),
        ("prompts in an epoch of a fit", f"{JOB.fit_prompts:,}"),
        ("epochs, aligned and faking twin", f"{JOB.epochs[0]} and {JOB.epochs[1]}"),
        ("LoRA", f"rank {LORA.rank} on {', '.join(LORA.targets)}{', with dropout' if LORA.dropout else ''}"),
        ("prompts captured, in shards of", f"{JOB.capture_prompts:,}, {JOB.shard_prompts}"),
        ("sites, and maps at each", f"{SITES}, {JOB.specs}"),
        ("kinds of pairs whose moments are summed", str(KINDS)),
        ("validation scenarios and texts", f"{JOB.judged[0]} and {JOB.judged[1]}"),
        ("test scenarios (both orders) and texts", f"{JOB.judged[2]} and {JOB.judged[3]}"),
        ("prompts in a batch that is judged", str(JOB.judged_batch)),
    )
    return markdown(("the job", "value"), rows)


def weights() -> str:
    """What the backbone and its adapters weigh."""
    rows = [
        (
            shape.name,
            f"{shape.parameters / 1e9:.3g}",
            gigabytes(formulas.weight_bytes(shape)),
            gigabytes(formulas.weight_bytes(shape, four_bit=True, fitted=True)),
            gigabytes(formulas.weight_bytes(shape, four_bit=True)),
            gigabytes(LORA.bytes(shape)),
            gigabytes(LORA.training_bytes(shape)),
            gigabytes(36 * LORA.bytes(shape)),
        )
        for shape in SHAPES
    ]
    return markdown(
        (
            "model",
            "parameters, 10^9",
            "bfloat16",
            "nf4 in a fit",
            "nf4 in stage 4",
            "an adapter",
            "adapter, gradients, AdamW",
            "36 adapters, loaded",
        ),
        rows,
    )


def fit_memory() -> str:
    """Device memory of the behaviours stage, by way of holding the model and number of GPUs."""
    rows = []
    for shape in SHAPES:
        for four_bit in (False, True):
            for checkpointing in (False, True):
                sizes = (shape, LORA, ROWS, TOKENS, four_bit, checkpointing)
                per_prompt = each_prompt(shape, four_bit, checkpointing)
                sharded = [gigabytes(formulas.fit_bytes(*sizes, shards=n)) if not four_bit else "" for n in (8, 64)]
                rows.append(
                    (
                        shape.name,
                        "nf4" if four_bit else "bfloat16",
                        "yes" if checkpointing else "no",
                        gigabytes(per_prompt),
                        gigabytes(formulas.step_bytes(*sizes)),
                        gigabytes(formulas.fit_bytes(*sizes)),
                        *sharded,
                    )
                )
    heads = ("model", "weights", "checkpointing", "each prompt", "step", "one GPU, or each of DDP", "each of 8, FSDP")
    return markdown((*heads, "each of 64, FSDP"), rows)


def capture_memory() -> str:
    """Device and host memory of a capture's batch."""
    rows = []
    for shape in LARGE:
        for sites, name in ((shape.layers, f"all {shape.layers}"), (SITES, str(SITES)), (1, "1")):
            for batch in (JOB.shard_prompts, 8):
                rows.append(
                    (
                        shape.name,
                        name,
                        str(batch),
                        gigabytes(formulas.capture_bytes(shape, batch, TOKENS, sites)),
                        gigabytes(formulas.shard_host_bytes(shape, batch, TOKENS, sites)),
                        gigabytes(formulas.store_size(batch * TOKENS, sites, shape.hidden)),
                    )
                )
    heads = ("model", "`sites`", "`shard_examples`", "GPU, beside the weights", "host, each rank", "a shard on disk")
    return markdown(heads, rows)


def store() -> str:
    """Stores per million tokens."""
    rows = []
    for shape in SHAPES:
        for sites, name in ((1, "1"), (SITES, str(SITES)), (shape.layers, f"all {shape.layers}")):
            sizes = [formulas.store_size(1e6, sites, shape.hidden, size) for size in (2, 4)]
            job = formulas.store_size(JOB.capture_prompts * TOKENS, sites, shape.hidden)
            last = formulas.store_size(JOB.capture_prompts, sites, shape.hidden)
            rows.append((shape.name, name, *map(gigabytes, sizes), gigabytes(job), gigabytes(last)))
    heads = ("model", "`sites`", "float16, bfloat16", "float32", "the job, float16", "the job, `tokens: decision`")
    return markdown(heads, rows)


def maps() -> str:
    """Moments, solutions and maps of stage 4."""
    rows = []
    for shape in SHAPES:
        one = formulas.moment_bytes(shape.hidden)
        rows.append(
            (
                shape.name,
                str(shape.hidden),
                gigabytes(one),
                gigabytes(KINDS * one),
                gigabytes(KINDS * SITES * one),
                gigabytes(KINDS * shape.layers * one),
                gigabytes(formulas.solve_bytes(shape.hidden)),
                gigabytes(4 * shape.hidden**2),
            )
        )
    return markdown(
        (
            "model",
            "hidden",
            "one kind, one site",
            f"{KINDS} kinds, 1 site",
            f"{KINDS} kinds, {SITES} sites",
            f"{KINDS} kinds, all sites",
            "a solution at work",
            "an affine map",
        ),
        rows,
    )


def judging_memory() -> str:
    """Device memory of judging neutral texts."""
    rows = []
    for shape in SHAPES:
        sizes = [gigabytes(formulas.evaluation_bytes(shape, batch, TOKENS, SITES)) for batch in (64, 16, 8)]
        rows.append((shape.name, f"{shape.vocabulary:,}", *sizes))
    return markdown(("model", "vocabulary", "`batch_size` 64", "16", "8"), rows)


def host_memory() -> str:
    """Host memory while weights are loaded."""
    rows = []
    for shape in LARGE:
        one = formulas.weight_bytes(shape)
        rows.append((shape.name, gigabytes(one), gigabytes(8 * one), gigabytes(one)))
    return markdown(("model", "1 rank", "8 ranks, DDP, bfloat16", "8 ranks, FSDP"), rows)


def work() -> str:
    """PFLOP per million tokens."""
    rows = []
    for shape in SHAPES:
        prompts = 1e6 / TOKENS
        counts = [
            formulas.fit_flops(shape, LORA, 1, TOKENS),
            formulas.fit_flops(shape, LORA, 1, TOKENS, checkpointing=True),
            formulas.capture_flops(shape, LORA, 1, TOKENS, shape.layers - 1),
            formulas.capture_flops(shape, LORA, 1, TOKENS, shape.layers // 2 - 1),
            formulas.evaluation_flops(shape, LORA, 1, TOKENS, [shape.layers // 2 - 1]),
            formulas.evaluation_flops(shape, LORA, 1, TOKENS, [shape.layers // 2 - 1], logits=TOKENS),
        ]
        rows.append((shape.name, *(f"{prompts * count / 1e15:.3g}" for count in counts)))
    return markdown(
        (
            "model",
            "fit",
            "fit, checkpointing",
            "capture, last layer",
            "capture, middle layer",
            "judging one edit at the middle, scenarios",
            "the same, texts",
        ),
        rows,
    )


def job_on(card: Card) -> Callable[[], str]:
    """The job's time on a card."""

    def table() -> str:
        rows = []
        for shape in LARGE:
            for gpus in GPUS:
                way = way_of(shape, gpus)
                held = "bfloat16, FSDP" if way.sharded else "nf4" if way.four_bit else "bfloat16, DDP"
                seconds = job_seconds(shape, card, gpus, JOB)
                computing, moving = step_seconds(shape, card, gpus, JOB)
                rows.append(
                    (
                        shape.name,
                        str(gpus),
                        held,
                        f"{computing:.2f} / {moving:.2f} s",
                        *map(duration, seconds.values()),
                        duration(sum(seconds.values())),
                    )
                )
        heads = ("model", "GPUs", "fits", "step: computing / links", "fit aligned", "fit faking", "capture")
        return markdown((*heads, "write and check the store", "maps", "judging", "sum"), rows)

    return table


def prompts() -> str:
    """Prompts of a fit's step that usual cards hold."""
    rows = []
    for shape in SHAPES:
        cells = []
        for memory in (8e9, 24e9, 80e9):
            for four_bit, checkpointing in ((False, False), (False, True), (True, True)):
                count = prompts_that_fit(shape, memory, four_bit, checkpointing)
                cells.append(str(count) if count else "no")
        rows.append((shape.name, *cells))
    kinds = ("bfloat16", "bf16, checkpointing", "nf4, checkpointing")
    return markdown(("model", *(f"{size} GB: {kind}" for size in (8, 24, 80) for kind in kinds)), rows)


def prompts_that_fit(shape: Shape, memory: float, four_bit: bool, checkpointing: bool) -> int:
    """Prompts of a step that a GPU of `memory` bytes holds, a tenth left free; 0 if not even one."""
    free = 0.9 * memory - formulas.fit_bytes(shape, LORA, 1, TOKENS, four_bit, checkpointing)
    return 0 if free < 0 else 1 + int(free / each_prompt(shape, four_bit, checkpointing))


def each_prompt(shape: Shape, four_bit: bool, checkpointing: bool) -> float:
    """Bytes that one more prompt adds to a large step."""
    few, many = (formulas.step_bytes(shape, LORA, rows, TOKENS, four_bit, checkpointing) for rows in (64, 65))
    return many - few


TABLES: dict[str, Callable[[], str]] = {
    "job": job,
    "weights": weights,
    "fit memory": fit_memory,
    "prompts": prompts,
    "capture memory": capture_memory,
    "store": store,
    "maps": maps,
    "judging memory": judging_memory,
    "host memory": host_memory,
    "work": work,
    "job on A100": job_on(A100),
    "job on H100": job_on(H100),
}
"""What is calculated, by the mark in the page."""
