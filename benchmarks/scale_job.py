"""Seconds of a whole experiment on real cards: FLOPs over an assumed share of the card's rate, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from omegaconf import OmegaConf

from benchmarks import scale_formulas as formulas
from benchmarks.scale_shapes import Card, Lora, Shape
from fa_lightning.activations.site_names import spread
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.shipped import config_file

UTILISATION = {"fit": 0.45, "nf4": 0.35, "capture": 0.55, "judging": 0.45, "maps": 0.6}
"""Share of the card's peak rate that a stage reaches: assumed, since no GPU was at hand."""

LINK_SHARE = 0.8
"""Share of a link's rate that a collective reaches: assumed."""

DISK = 2e9
"""Bytes/s of a disk that all ranks share: assumed."""

WRITING = 0.3e9
"""Bytes/s at which one rank converts, checks, digests and writes states: assumed, from what a slow CPU does."""

CHECKING = 1e9
"""Bytes/s at which a rank that opens a store digests it: assumed, likewise."""


@dataclass(frozen=True)
class Job:
    """What is done: the POSER pair saint x money_maximizer with the settings of a base.

    Attributes:
        lora: the adapter of either twin.
        fit_batch: prompts in a step of one GPU.
        epochs: of the aligned fit and of the faking one.
        capture_prompts: scenarios and neutral texts whose states are kept.
        shard_prompts: of a shard, which is a batch of the capture while it holds no more tokens than one may.
        sites: where maps are fitted, evenly spread, the last layer among them.
        specs: maps fitted at each site.
        passes: for each kind of pairs that moments are summed of, how many rows it takes of a token of the store: 0 if
            of decision tokens alone, 2 if the twin's own states (`keep`) are added.
        map_epochs: of maps that learn by gradient.
        judged: validation scenarios and texts, then test scenarios and texts.
        judged_batch: prompts in a batch.
        tokens: of each prompt, with padding: POSER's have 200 on average.
        fit_prompts: of an epoch: 2004 training scenarios in both orders, and neutral texts.
        map_width: inner units of a perceptron.
    """

    lora: Lora
    fit_batch: int
    epochs: tuple[int, int]
    capture_prompts: int
    shard_prompts: int
    sites: int
    specs: int
    passes: tuple[int, ...]
    map_epochs: int
    judged: tuple[int, int, int, int]
    judged_batch: int
    tokens: int = 256
    fit_prompts: int = 2 * 2004 + 728
    map_width: int = 256

    @classmethod
    def of(cls, name: str) -> Job:
        """The main job on a base, by its name: the two fits and the steering."""
        base = OmegaConf.to_container(Composition(Chain(config_file("--base", name, "bases"))).base.values)
        lora, twins, capture = base["lora"], base["twins"], base["capture"]
        steering = base["studies"]["steering"]
        specs = steering["regressors"]
        # The mean shift of decision tokens, and beside each spec the ridge map of shuffled pairs.
        kinds = {(inf, 0, False)}
        for spec in specs:
            weight = float(spec.get("decision_weight", 1))
            kinds |= {(weight, spec.get("keep", 0), False), (weight, 0, True)}
        return cls(
            lora=Lora(lora["rank"], tuple(lora["target_modules"]), bool(lora["dropout"])),
            fit_batch=base["batch_size"],
            epochs=(twins["aligned"]["epochs"], twins["faking"]["epochs"]),
            capture_prompts=sum(capture[part] for part in ("scenarios", "validation", "neutral")),
            shard_prompts=capture["shard_examples"],
            sites=base["sites"],
            specs=len(specs),
            passes=tuple(0 if weight == inf else 1 + bool(keep) for weight, keep, _ in sorted(kinds)),
            map_epochs=steering["epochs"] - 1,
            judged=(base["validation_items"], 176, 2 * 445, 173),
            judged_batch=capture["batch_size"],
        )

    def layers(self, shape: Shape) -> list[int]:
        """The layers of the sites, from 0."""
        return spread(shape.layers, self.sites)


@dataclass(frozen=True)
class Way:
    """How a model is held and spread.

    Attributes:
        four_bit: fit on nf4.
        sharded: FSDP over all GPUs, in the fits alone.
        four_bit_later: nf4 in stage 4, which knows no sharding.
    """

    four_bit: bool = False
    sharded: bool = False
    four_bit_later: bool = False


def way_of(shape: Shape, gpus: int) -> Way:
    """The way of the tables: bfloat16 and DDP while a GPU of 80 GB holds it; always with checkpointing."""
    if shape.parameters < 20e9:
        return Way()
    return Way(four_bit=gpus == 1, sharded=gpus > 1, four_bit_later=True)


def step_seconds(shape: Shape, card: Card, gpus: int, job: Job) -> tuple[float, float]:
    """A fit's step: seconds of computing and of communication, which overlap at best."""
    way = way_of(shape, gpus)
    flops = formulas.fit_flops(shape, job.lora, job.fit_batch, job.tokens, checkpointing=True)
    computing = flops / (card.bf16 * UTILISATION["nf4" if way.four_bit else "fit"])
    moved = formulas.reduced_bytes(job.lora.bytes(shape), gpus)
    if way.sharded:
        moved += formulas.gathered_bytes(shape, gpus)
    return computing, moved / (LINK_SHARE * card.link(gpus))


def job_seconds(shape: Shape, card: Card, gpus: int, job: Job) -> dict[str, float]:
    """Seconds of each stage, the steps within it one after the other, as the code runs them."""
    four_bit_later = way_of(shape, gpus).four_bit_later
    shares = {name: UTILISATION["nf4" if four_bit_later else name] for name in ("capture", "judging")}
    loading = formulas.weight_bytes(shape) / DISK
    step = max(step_seconds(shape, card, gpus, job))
    steps = formulas.steps(job.fit_prompts, job.fit_batch, gpus)
    layers = job.layers(shape)
    shard = formulas.capture_flops(shape, job.lora, job.shard_prompts, job.tokens, max(layers))
    shards = formulas.steps(job.capture_prompts, job.shard_prompts, gpus)
    tokens = job.capture_prompts * job.tokens
    store = formulas.store_size(tokens, len(layers), shape.hidden)
    sums = formulas.moment_flops(tokens * sum(job.passes), shape.hidden)
    sums += job.map_epochs * formulas.map_flops(2 * job.capture_prompts, shape.hidden, job.map_width)
    size = len(layers) * len(job.passes) * formulas.moment_bytes(shape.hidden)
    return {
        "aligned": loading + job.epochs[0] * steps * step,
        "faking": loading + job.epochs[1] * steps * step,
        "capture": loading + shards * shard / (card.bf16 * shares["capture"]),
        "store": max(store / gpus / WRITING, store / DISK) + store / CHECKING,
        "maps": len(layers) * sums / gpus / (card.fp32 * UTILISATION["maps"])
        + formulas.reduced_bytes(size, gpus) / (LINK_SHARE * card.link(gpus))
        + (1 + job.map_epochs) * store / DISK,
        "judging": _judging_flops(shape, gpus, job) / (card.bf16 * shares["judging"]),
    }


def _judging_flops(shape: Shape, gpus: int, job: Job) -> float:
    """Of the busiest GPU: all candidates in one validation, nine conditions in it and in the test."""
    layers = job.layers(shape)
    chosen = layers[len(layers) // 2]
    candidates = job.specs * layers
    # The faker's and the twin's own passes, six edits, and the oracle, which runs the twin up to its site.
    judged = [chosen] * 6 + [chosen, shape.layers - chosen - 2, -1]
    total = 0.0
    for number, count in enumerate(job.judged):
        rows = formulas.steps(count, job.judged_batch, gpus) * job.judged_batch
        # The candidates share an unsteered pass of their own.
        edits = judged + ([-1, *candidates] if number < 2 else [])
        logits = job.tokens if number % 2 else None
        total += formulas.evaluation_flops(shape, job.lora, rows, job.tokens, edits, logits)
    return total
