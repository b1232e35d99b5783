"""Row 1: both twins' states at the middle layer for all tokens, beside four other ways to read them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import Workshop
from benchmarks.report import Goal, Line, Table
from benchmarks.timing import Seconds, Size, Spread, in_slices, interleaved, missing, ratio
from fa_lightning.activations.record import FORWARD_TOKENS, Plan, forward_batches, plan_shards, record
from fa_lightning.activations.sites import Site
from fa_lightning.activations.store_writer import StoreWriter
from fa_lightning.backbones.load import load_backbone
from fa_lightning.backbones.variants import VARIANTS
from fa_lightning.scenarios.batches import Batch, Example, collate, model_inputs

OURS, STORED, FLOOR = "fa_lightning", "fa_lightning, store written", "floor"
BATCHED, FRUGAL, NNSIGHT, ORIGIN = "output_hidden_states", "output_hidden_states, last logits only", "nnsight", "origin"
TOLERANCE = 1e-3
"""Largest difference allowed between two sides' states, over the largest state."""

Kept = dict[str, list[tuple[Tensor, Tensor]]]
"""By variant, for each batch: which example each row is of (rows,), and the states (rows, hidden)."""


class MemoryWriter:
    """Takes the place of a StoreWriter for `record`, and keeps what it is given."""

    rank = 0
    variants = VARIANTS

    def __init__(self) -> None:
        self.kept: Kept = {name: [] for name in VARIANTS}

    def pending(self, shard_ids: list[Any]) -> list[Any]:
        """Everything."""
        return list(shard_ids)

    def write(self, shard_id: Any, split: str, tensors: Any, rows: Any) -> None:
        """Keep the states of the only site."""
        (states,) = tensors.values()
        for name in VARIANTS:
            self.kept[name].append((rows["example"], states[name]))


class Capture:
    """The sides: each reads the states of all prompts and returns them, by variant and batch.

    Args:
        workshop: model, adapters.
        examples: prompts, in the data's own order.
        shard_size: prompts in a shard of the store; `record` cuts it into forward passes of a bounded number of tokens.
    """

    def __init__(self, workshop: Workshop, examples: list[Example], shard_size: int) -> None:
        self.workshop = workshop
        self.examples = examples
        self.site = Site(workshop.layer)
        self.variants = workshop.variants()
        self.plan: Plan = plan_shards({"train": examples}, shard_size)
        pad = self.variants.tokenizer.pad_token_id
        self.sorted_batches = [
            collate(part, pad)
            for _, shard in self.plan.values()
            for part in forward_batches(shard, FORWARD_TOKENS["cpu"])
        ]
        # As many batches in the data's order as there are sorted ones.
        self.batch_size = -(-len(examples) // len(self.sorted_batches))
        starts = range(0, len(examples), self.batch_size)
        self.unsorted_batches = [collate(examples[start : start + self.batch_size], pad) for start in starts]
        self._traced: Any = None
        self._separate: dict[str, Any] = {}

    def ours(self) -> Kept:
        """`record`, all tokens, into memory."""
        writer: Any = MemoryWriter()
        record(self.variants, writer, self.plan, [self.site], decision_only=False)
        return writer.kept

    def stored(self) -> None:
        """`record` into a new store on disk, with its checksums and manifest, float32."""
        with tempfile.TemporaryDirectory() as folder:
            writer = StoreWriter(Path(folder) / "store", {}, [self.site.name])
            record(self.variants, writer, self.plan, [self.site], decision_only=False)
            writer.finish(list(self.plan))

    @torch.inference_mode()
    def floor(self) -> None:
        """The same forward passes alone: batches made before, each adapter switched on once, states dropped."""
        with cut_after(self.variants.model, self.site.layer) as decoder:
            for name in VARIANTS:
                with self.variants.using(name):
                    for batch in self.sorted_batches:
                        decoder(**model_inputs(batch), use_cache=False)

    @torch.inference_mode()
    def batched(self, **options: Any) -> Kept:
        """`model(..., output_hidden_states=True)` over batches in the data's order."""
        kept: Kept = {name: [] for name in VARIANTS}
        for batch in self.unsorted_batches:
            for name in VARIANTS:
                with self.variants.using(name) as model:
                    inputs = model_inputs(batch)
                    found = model(**inputs, output_hidden_states=True, use_cache=False, **options).hidden_states
                kept[name].append(rows_of(batch, found[self.site.layer + 1]))
        return kept

    def frugal(self) -> Kept:
        """The same, without the logits that nobody asked for."""
        return self.batched(logits_to_keep=1)

    @torch.inference_mode()
    def nnsight(self) -> Kept:
        """`NNsight(model).trace`, stopped after the site, over the same sorted batches; on a model of its own."""
        if self._traced is None:
            from nnsight import NNsight

            variants = self.workshop.variants()
            self._traced = variants, NNsight(variants.model)
        variants, traced = self._traced
        kept: Kept = {name: [] for name in VARIANTS}
        for batch in self.sorted_batches:
            inputs = model_inputs(batch)
            for name in VARIANTS:
                with variants.using(name):
                    with traced.trace(**inputs, use_cache=False) as tracer:
                        states = traced.base_model.model.model.layers[self.site.layer].output.save()
                        tracer.stop()
                    kept[name].append(rows_of(batch, states))
        return kept

    @torch.inference_mode()
    def origin(self) -> Kept:
        """Two whole models; for each prompt a one-token generate, then a forward with all hidden states."""
        kept: Kept = {name: [] for name in VARIANTS}
        for name, model in self.separate().items():
            for example in self.examples:
                prompt = torch.tensor(example.prompt)[None]
                model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=1,
                    do_sample=False,
                    pad_token_id=self.variants.tokenizer.pad_token_id,
                )
                states = model(prompt, output_hidden_states=True).hidden_states[self.site.layer + 1][0]
                kept[name].append((torch.full((len(states),), example.index), states))
        return kept

    def separate(self) -> dict[str, Any]:
        """A model of its own for each variant, loaded by plain peft."""
        if not self._separate:
            self._separate = {name: plain_twin(self.workshop, name) for name in VARIANTS}
        return self._separate


def plain_twin(workshop: Workshop, name: str) -> Any:
    """One variant by itself, as transformers and peft load it."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_backbone(workshop.backbone), workshop.adapters[name]).eval()


@contextmanager
def cut_after(model: Any, layer: int) -> Iterator[Any]:
    """The model's decoder without the blocks behind `layer`, its norm and its head: nothing is attached to it."""
    decoder = model.get_base_model().model
    layers, norm = decoder.layers, decoder.norm
    decoder.layers, decoder.norm = layers[: layer + 1], nn.Identity()
    try:
        yield decoder
    finally:
        decoder.layers, decoder.norm = layers, norm


def rows_of(batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The example of each row that is no padding, and its states."""
    mask = batch["attention_mask"].bool()
    return batch["index"][:, None].expand(mask.shape)[mask], hidden[mask]


def by_example(kept: Kept) -> dict[tuple[str, int], Tensor]:
    """States (tokens, hidden) by variant and example."""
    found: dict[tuple[str, int], Tensor] = {}
    for name, batches in kept.items():
        for index, states in batches:
            for example in index.unique().tolist():
                found[name, example] = states[index == example]
    return found


def largest_difference(one: Kept, other: Kept) -> float:
    """Between two sides' states of the same tokens, over the largest state."""
    first, second = by_example(one), by_example(other)
    if first.keys() != second.keys():
        raise AssertionError(f"the sides read different examples: {len(first)} and {len(second)}")
    scale = max(float(states.abs().max()) for states in first.values())
    return max(float((first[key] - second[key]).abs().max()) for key in first) / scale


def sides_of(capture: Capture) -> dict[str, Callable[[], Any]]:
    """Every side that can run here, by name."""
    sides: dict[str, Callable[[], Any]] = {
        OURS: capture.ours,
        STORED: capture.stored,
        FLOOR: capture.floor,
        BATCHED: capture.batched,
        FRUGAL: capture.frugal,
        NNSIGHT: capture.nnsight,
        ORIGIN: capture.origin,
    }
    if missing("nnsight"):
        del sides[NNSIGHT]
    return sides


def check(capture: Capture) -> float:
    """Every side reads the same states; the largest difference.

    Raises:
        AssertionError: two sides differ by more than the tolerance.
    """
    ours = capture.ours()
    worst = 0.0
    for name, side in sides_of(capture).items():
        if name in (OURS, STORED, FLOOR):
            continue
        difference = largest_difference(ours, side())
        if not difference <= TOLERANCE:
            raise AssertionError(f"{name} reads other states: off by {difference:.2g} of the largest")
        worst = max(worst, difference)
    return worst


def run(workshop: Workshop, size: Size) -> Table:
    """Measure the row."""
    prompts, shard_size = (16, 8) if size.quick else (256, 64)
    few = Capture(workshop, workshop.examples(4), 4)
    worst = check(few)
    capture = Capture(workshop, workshop.examples(prompts), shard_size)
    slices = (
        [capture] if size.quick else [Capture(workshop, capture.examples[start::8], shard_size) for start in range(8)]
    )
    for one in (capture, *slices):
        # The models that other libraries touch are made once, and warmed up with a few prompts.
        one._separate, one._traced = few._separate, few._traced
    sides = sides_of(capture)
    for name in (BATCHED, FRUGAL, ORIGIN):
        sides[name] = in_slices(
            [sides_of(one)[name] for one in slices], [len(one.examples) / prompts for one in slices]
        )
    seconds = interleaved(sides, size.rounds, warm=sides_of(few))
    tokens = sum(len(example.prompt) for example in capture.examples)
    setting = (
        f"{workshop.shape}; two LoRA adapters; {prompts} {workshop.source} prompts, {tokens} tokens; all tokens, "
        f"output of block {capture.site.layer} (half of the blocks have run), length-sorted batches of at most "
        f"{FORWARD_TOKENS['cpu']} tokens, those in the data's order of {slices[0].batch_size} prompts. "
        f"The three slow sides read {len(slices[0].examples)} of the prompts in each round, other ones each time, and "
        "count for all. Checked first: "
        f"all sides read the same states (largest difference {worst:.1g} of the largest state)."
    )
    return Table("capture", "1. Paired capture", setting, lines(seconds))


def lines(seconds: Seconds) -> list[Line]:
    """The comparisons of the row."""

    def over(peer: str, what: str, goal: float | None) -> Line:
        return beside(seconds, peer, OURS, f"over {what}", None if goal is None else Goal(goal))

    return [
        over(FLOOR, "the floor: the same truncated forwards, batches ready, nothing attached or kept", 0.97),
        beside(seconds, FLOOR, STORED, "over the floor, with the store written, checksummed and synced to disk", None),
        over(BATCHED, "batched output_hidden_states in the data's order", 3.5),
        over(FRUGAL, "the same, told to make the last logits only", None),
        over(NNSIGHT, "nnsight's trace with tracer.stop(), the same sorted batches", 1.1)
        if NNSIGHT in seconds
        else Line("over nnsight's trace", None, missing("nnsight") or ""),
        over(ORIGIN, "the origin's loop: two models, one prompt at a time, generate one token, then forward", 5),
    ]


def beside(seconds: Seconds, peer: str, ours: str, what: str, goal: Goal | None) -> Line:
    """How many times as fast as a peer."""
    note = f"{Spread.of(seconds[ours]).median:.3g} s, {Spread.of(seconds[peer]).median:.3g} s"
    return Line(what, ratio(seconds[peer], seconds[ours]), note, goal)
