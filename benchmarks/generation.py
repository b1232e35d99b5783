"""Row 2: cached generation with an edit at one layer, over the same generation without, beside other libraries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import Workshop
from benchmarks.report import Goal, Line, Table
from benchmarks.timing import Seconds, Size, Spread, interleaved, missing, ratio, timed
from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.load import load_backbone
from fa_lightning.regressors.linear import Affine
from fa_lightning.scenarios.batches import Batch, Example, collate, model_inputs
from fa_lightning.steering.folding import fold
from fa_lightning.steering.intervention import Intervention

PLAIN, AGAIN = "unsteered", "unsteered again"
VECTOR, FOLDED, AFFINE = "vector", "folded vector", "affine map"
PYVENE, NNSIGHT_VECTOR, NNSIGHT_AFFINE = "pyvene, vector", "nnsight, vector", "nnsight, affine map"
SAME_EDIT = {FOLDED: VECTOR, PYVENE: VECTOR, NNSIGHT_VECTOR: VECTOR, NNSIGHT_AFFINE: AFFINE}
"""Sides that must write what another one writes."""
TOLERANCE = 1e-3
"""Largest difference allowed between two sides' logits, over the largest logit."""


class Generation:
    """The sides: each writes the same number of tokens, greedily, with the KV cache.

    fa_lightning and the unsteered runs share one model; each other library has one of its own, since they change what
    they wrap.

    Args:
        workshop: the backbone; no adapter is used.
        examples: one prompt a row.
        new_tokens: written in each run.
        relative: norm of the vector over the mean norm of the states.
    """

    def __init__(self, workshop: Workshop, examples: list[Example], new_tokens: int, relative: float = 0.5) -> None:
        self.workshop = workshop
        self.new_tokens = new_tokens
        self.model = load_backbone(workshop.backbone)
        self.batch: Batch = collate(examples, 0)
        self.site = Site(workshop.layer)
        generator = torch.Generator().manual_seed(1)
        with torch.inference_mode():
            states = truncated_forward(self.model, [self.site], **model_inputs(self.batch))[self.site.name]
        hidden = workshop.shape.hidden
        drawn = torch.randn(hidden, generator=generator)
        self.vector = (drawn / drawn.norm() * states.norm(dim=-1).mean() * relative).clone()
        self.affine = Affine(hidden)
        self.affine.weight.add_(torch.randn(hidden, hidden, generator=generator) * relative / hidden**0.5)
        self.affine.bias.copy_(self.vector)
        self.steered = Intervention(self.site, self.vector)
        self.mapped = Intervention(self.site, self.affine)
        self._wrapped: dict[str, Any] = {}

    def options(self, logits: bool) -> dict[str, Any]:
        """What every `generate` is told."""
        told: dict[str, Any] = {
            "max_new_tokens": self.new_tokens,
            "min_new_tokens": self.new_tokens,
            "do_sample": False,
            "use_cache": True,
            "pad_token_id": 0,
        }
        return told | ({"output_logits": True, "return_dict_in_generate": True} if logits else {})

    def inputs(self) -> dict[str, Tensor]:
        """The prompts, left-padded."""
        return {name: self.batch[name] for name in ("input_ids", "attention_mask")}

    @torch.inference_mode()
    def within(self, block: AbstractContextManager[Any], logits: bool = False) -> Any:
        """Generate inside a block."""
        with block:
            return self.model.generate(**self.inputs(), **self.options(logits))

    def plain(self, logits: bool = False) -> Any:
        """Nothing attached."""
        return self.within(nullcontext(), logits)

    def with_vector(self, logits: bool = False) -> Any:
        """`with intervention.on(model)`: a hook adds the vector."""
        return self.within(self.steered.on(self.model), logits)

    def with_fold(self, logits: bool = False) -> Any:
        """`with fold(model, intervention)`: the vector lies in a bias; folding, which is done once, is not timed."""
        with fold(self.model, self.steered):
            seconds, written = timed(lambda: self.within(nullcontext(), logits))
        return written if logits else seconds

    def with_affine(self, logits: bool = False) -> Any:
        """`with intervention.on(model)`: a hook puts the map's states in place."""
        return self.within(self.mapped.on(self.model), logits)

    def pyvene(self, logits: bool = False) -> Any:
        """`IntervenableModel.generate` with `AdditionIntervention`, on the prompt too."""
        if "pyvene" not in self._wrapped:
            import pyvene

            part = {
                "layer": self.site.layer,
                "component": "block_output",
                "intervention_type": pyvene.AdditionIntervention,
                "source_representation": self.vector,
            }
            self._wrapped["pyvene"] = pyvene.IntervenableModel([part], load_backbone(self.workshop.backbone))
        wrapped = self._wrapped["pyvene"]
        with torch.inference_mode():
            return wrapped.generate(self.inputs(), intervene_on_prompt=True, **self.options(logits))[1]

    def nnsight_vector(self, logits: bool = False) -> Any:
        """`LanguageModel.generate` with the vector added in every pass."""
        return self._nnsight(lambda states: states + self.vector, logits)

    def nnsight_affine(self, logits: bool = False) -> Any:
        """`LanguageModel.generate` with the map's states put in place in every pass."""
        return self._nnsight(self.affine, logits)

    def _nnsight(self, edit: Callable[[Tensor], Tensor], logits: bool) -> Any:
        if "nnsight" not in self._wrapped:
            from nnsight import TransformersModel
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(self.workshop.backbone)
            loaded = load_backbone(self.workshop.backbone)
            self._wrapped["nnsight"] = TransformersModel(loaded, task="text-generation", tokenizer=tokenizer)
        model = self._wrapped["nnsight"]
        block = model.model.layers[self.site.layer]
        inputs, options = self.inputs(), self.options(logits)
        with torch.inference_mode(), model.generate(**inputs, **options) as tracer:
            for _ in tracer.iter[: self.new_tokens]:
                block.output = edit(block.output)
            written = tracer.result.save()
        return written  # noqa: RET504  the block runs elsewhere, so nothing can be returned from inside

    def sides(self) -> dict[str, Callable[..., Any]]:
        """Every side that can run here, by name."""
        found = {
            PLAIN: self.plain,
            AGAIN: self.plain,
            VECTOR: self.with_vector,
            FOLDED: self.with_fold,
            AFFINE: self.with_affine,
        }
        if not missing("pyvene"):
            found[PYVENE] = self.pyvene
        if not missing("nnsight"):
            found |= {NNSIGHT_VECTOR: self.nnsight_vector, NNSIGHT_AFFINE: self.nnsight_affine}
        return found

    def check(self) -> float:
        """Sides that make the same edit give the same logits at every written token; the largest difference.

        Raises:
            AssertionError: two sides differ by more than the tolerance, or an edit changes nothing.
        """
        found = {name: torch.stack(side(logits=True).logits) for name, side in self.sides().items() if name != AGAIN}
        worst = 0.0
        for name, logits in found.items():
            if name in SAME_EDIT:
                same = found[SAME_EDIT[name]]
                difference = float((logits - same).abs().max() / same.abs().max())
                if not difference <= TOLERANCE:
                    raise AssertionError(f"{name} writes other logits than {SAME_EDIT[name]}: off by {difference:.2g}")
                worst = max(worst, difference)
            elif name != PLAIN and float((logits - found[PLAIN]).abs().max()) < 1e-2:
                raise AssertionError(f"{name} changes nothing: the edit is too small to be a test")
        return worst


def run(workshop: Workshop, size: Size) -> Table:
    """Measure the row."""
    new_tokens, batches = (8, (1, 4)) if size.quick else (32, (1, 8))
    # Overheads of a percent need more rounds than ratios of five.
    rounds = size.rounds if size.quick else 5 * size.rounds
    table = Table("generation", "2. Steered cached generation", "")
    worst = 0.0
    for batch in batches:
        generation = Generation(workshop, workshop.examples(batch), new_tokens)
        worst = max(worst, generation.check())
        table.lines += lines(interleaved(generation.sides(), rounds), batch, new_tokens)
    table.setting = (
        f"{workshop.shape}, no adapter; {workshop.source} prompts, {new_tokens} new tokens, greedy, KV cache; one edit "
        f"of every token at the output of block {workshop.layer}; {rounds} rounds. Entering and leaving the block is "
        "timed, folding (done once) is not. Checked first: the same edit gives the same logits on every side (largest "
        f"difference {worst:.1g} of the largest logit). steering-vectors does not run beside transformers 5."
    )
    return table


def lines(seconds: Seconds, batch: int, new_tokens: int) -> list[Line]:
    """The comparisons of the row at one batch size."""

    def over(name: str, what: str, goal: float | None = None) -> Line:
        what = f"batch {batch}: {what} over unsteered"
        if name not in seconds:
            return Line(what, None, missing(name.partition(",")[0]) or "")
        each = (1000 * Spread.of(seconds[side]).median / new_tokens for side in (name, PLAIN))
        note = " and ".join(f"{one:.3g}" for one in each) + " ms per step"
        return Line(
            what, ratio(seconds[name], seconds[PLAIN]), note, None if goal is None else Goal(goal, at_most=True)
        )

    return [
        over(AGAIN, "unsteered again (what noise looks like)"),
        over(VECTOR, "constant vector", 1.01),
        over(FOLDED, "constant vector, folded", 1.005),
        over(AFFINE, "affine map", 1.03),
        over(PYVENE, "pyvene, AdditionIntervention, the same vector"),
        over(NNSIGHT_VECTOR, "nnsight, the same vector"),
        over(NNSIGHT_AFFINE, "nnsight, the same affine map"),
    ]
