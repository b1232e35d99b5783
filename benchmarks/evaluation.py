"""Row 5: answers of the faker, the steered faker and the aligned twin, beside the origin's loop over prompts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.capture import beside, plain_twin
from benchmarks.frozen_half import BACKBONE, PACKAGE
from benchmarks.models import REPOSITORY, Shape, Workshop
from benchmarks.report import Goal, Line, Table
from benchmarks.timing import Size, in_slices, interleaved
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.variants import VARIANTS
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.scores import Scores
from fa_lightning.regressors.linear import Affine
from fa_lightning.regressors.wrappers import UnitSubset
from fa_lightning.scenarios.batches import Example, example_loader
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.steering.intervention import Intervention

OURS, ORIGIN = "fa_lightning", "origin"
CONDITIONS = ("faking", "steered", "aligned")
BATCH = 8
"""Prompts at once: on a CPU more are slower, as their states leave its caches."""

SHARE = 0.6
"""Of the units that the origin edits."""
CHAT_MODEL = "SmolLM2-135M-Instruct (Q4_1 dequantised to float32), the twins of chain 0 that ship"
LATE = 0.9
"""Depth of the edit of the chat model, where the main job's maps are."""

Answers = dict[str, dict[int, bool]]
"""By condition and example: whether the answer was the aligned one."""


class Evaluation:
    """The two sides: each answers every prompt under the three conditions.

    The edit is the origin's: a map of some 60 % of the last block's units, on every token. The origin reads and edits
    the states behind the final norm and norms them again; with a map that has no bias, and norms without weights, as
    here, that is the same edit as ours before the norm. A model that has learned norms gets other answers from the two;
    there ours is at `site`.

    Args:
        workshop: model, adapters.
        examples: prompts, in the data's own order.
        batch_size: of our loader.
        site: of our edit; None is the origin's.
    """

    def __init__(self, workshop: Workshop, examples: list[Example], batch_size: int, site: Site | None = None) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.variants = workshop.variants()
        self.workshop = workshop
        hidden = workshop.shape.hidden
        generator = torch.Generator().manual_seed(2)
        keep = torch.rand(hidden, generator=generator) < SHARE
        inner = Affine(hidden)
        inner.weight.add_(torch.randn(hidden, hidden, generator=generator) * 0.7 / hidden**0.5)
        self.map = UnitSubset(inner, keep).eval()
        self.compared = CONDITIONS if site is None else VARIANTS
        place = site or Site(workshop.shape.layers - 1)
        self.conditions = {
            "faking": Condition("faking"),
            "steered": Condition("faking", (Intervention(place, self.map),)),
            "aligned": Condition("aligned"),
        }
        self._separate: dict[str, Any] = {}

    def ours(self) -> Answers:
        """`Scores` over length-sorted batches, and its cells."""
        scores = Scores(self.variants, self.conditions)
        for batch in example_loader(self.examples, self.variants.tokenizer.pad_token_id, self.batch_size):
            scores.add_scenarios(batch)
        scores.compute_cells()
        found: Answers = {}
        for name, items in zip(CONDITIONS, scores.items(*CONDITIONS), strict=True):
            found[name] = dict(zip(items["index"].tolist(), items["correct"].tolist(), strict=True))
        return found

    @torch.inference_mode()
    def origin(self) -> Answers:
        """One prompt at a time: generate one token with either model, and the steered answer from a whole forward."""
        models = self.separate()
        found: Answers = {name: {} for name in CONDITIONS}
        for name, model in models.items():
            for example in self.examples:
                prompt = torch.tensor(example.prompt)[None]
                written = model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=1,
                    do_sample=False,
                    pad_token_id=self.variants.tokenizer.pad_token_id,
                )
                found[name][example.index] = int(written[0, -1]) == example.aligned
        model = models["faking"]
        llama = model.get_base_model()
        for example in self.examples:
            states = model(torch.tensor(example.prompt)[None], output_hidden_states=True).hidden_states[-1]
            logits = llama.lm_head(llama.model.norm(self.map(states)))
            answer = torch.softmax(logits[:, -1], dim=-1).argmax(-1)
            found["steered"][example.index] = int(answer) == example.aligned
        return found

    def separate(self) -> dict[str, Any]:
        """A model of its own for each variant, loaded by plain peft."""
        if not self._separate:
            self._separate = {name: plain_twin(self.workshop, name) for name in VARIANTS}
        return self._separate

    def sides(self) -> dict[str, Callable[[], Any]]:
        """Both sides, by name."""
        return {OURS: self.ours, ORIGIN: self.origin}

    def check(self) -> None:
        """Both sides count the same answers as aligned.

        Raises:
            AssertionError: they differ for a prompt, or an edit that is compared changes no answer.
        """
        ours, origin = self.ours(), self.origin()
        differing = [name for name in self.compared if ours[name] != origin[name]]
        if differing:
            raise AssertionError(f"the two sides disagree on the answers of {', '.join(differing)}")
        if "steered" in self.compared and ours["steered"] == ours["faking"]:
            raise AssertionError("steering changes no answer: the edit is too small to be a test")


def run(workshop: Workshop, size: Size) -> Table:
    """Measure the row."""
    scenarios, of_chat_model = (24, 4) if size.quick else (600, 160)
    examples = workshop.examples(scenarios)
    line = measured(workshop, examples, size, "over the origin's loop")
    cells = ", ".join(
        f"{sum(example.cell == number for example in examples)} {cell}" for number, cell in enumerate(CELLS)
    )
    lines, also = [line], ""
    if importlib.util.find_spec(PACKAGE) is not None:  # its own imports are not needed
        chat = smollm2(workshop)
        depth = chat.shape.layers - 1
        site = Site(round(LATE * depth), positions="last")
        lines.append(measured(chat, chat.examples(of_chat_model), size, "the same on SmolLM2", site))
        also = (
            f" On {CHAT_MODEL}, adapters from block 15 of 30 on, {of_chat_model} of the scenarios, our edit of the "
            f"last token at block {site.layer}, the origin's behind the final norm."
        )
    setting = (
        f"{workshop.shape}; {len(examples)} {workshop.source} scenarios ({cells}), token ids ready, under three "
        f"conditions: {', '.join(CONDITIONS)}; a linear map of {SHARE:.0%} of the last block's units on every token. "
        f"fa_lightning: Scores over length-sorted batches of {BATCH}, one backbone. The origin's loop: two models, one "
        "prompt at a time, a one-token generate for faking and aligned, a forward with all hidden states and all "
        "logits for steered. Both answer a quarter of the prompts in each round, and count for all. "
        f"Checked first: the same answers on 24 prompts.{also}"
    )
    return Table("evaluation", "5. Steering evaluation", setting, lines)


def measured(workshop: Workshop, examples: list[Example], size: Size, what: str, site: Site | None = None) -> Line:
    """Both sides on these prompts, in turns."""
    few = Evaluation(workshop, examples[:24], 8, site)
    few.check()
    parts = 1 if size.quick else 4
    slices = [Evaluation(workshop, examples[start::parts], BATCH, site) for start in range(parts)]
    for one in slices:
        one._separate = few._separate
    shares = [len(one.examples) / len(examples) for one in slices]
    sides = {name: in_slices([one.sides()[name] for one in slices], shares) for name in (OURS, ORIGIN)}
    return beside(interleaved(sides, size.rounds, warm=few.sides()), ORIGIN, OURS, what, Goal(5))


def smollm2(workshop: Workshop) -> Workshop:
    """The chat model and its twins that ship, asked what `workshop` asks."""
    shape = Shape(hidden=576, layers=30, heads=9, intermediate=1536, vocabulary=49152)
    folder = REPOSITORY / "organisms" / "smollm2" / "seed0" / "steering"
    adapters = {"aligned": str(folder / "02_aligned"), "faking": str(folder / "03_faking")}
    return Workshop(shape, BACKBONE, adapters, workshop.scenarios, workshop.source)
