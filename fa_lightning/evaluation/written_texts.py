"""What models write to test scenarios, and how a judge finds it: cells and recovery, as of any answers."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import torch

from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import Condition, applied
from fa_lightning.evaluation.judges import Judge
from fa_lightning.evaluation.results import MODELS, ExtraTest
from fa_lightning.metrics.cells import CellAccuracy, recovery_between
from fa_lightning.scenarios.batches import Batch, Example, model_inputs
from fa_lightning.scenarios.splits import in_turns
from fa_lightning.scenarios.turn_endings import end_tokens, until_end
from fa_lightning.steering.generation import generated


class WrittenTexts:
    """Lets the four models write to the prompts that the Trainer serves, greedily, and counts what a judge says.

    Args:
        variants: the frozen pair.
        conditions: by name, those of `MODELS` among them.
        judge: of the texts.
        examples: all that will be served.
    """

    def __init__(
        self, variants: Variants, conditions: Mapping[str, Condition], judge: Judge, examples: Sequence[Example]
    ) -> None:
        self.variants = variants
        self.conditions = {name: conditions[name] for name in MODELS}
        self.judge = judge
        self._asked = torch.tensor(sorted(asked_of(examples, judge.items)), device=variants.device)
        self.cells = {name: CellAccuracy().to(variants.device) for name in MODELS}

    @property
    def name(self) -> str:
        """What results call these answers."""
        return f"in writing, by {type(self.judge).__name__}"

    @torch.inference_mode()
    def add_scenarios(self, batch: Batch) -> None:
        """Answer those of a batch that are among the judge's items."""
        kept = torch.isin(batch["index"], self._asked)
        batch = {name: values[kept] for name, values in batch.items()}
        if not len(batch["index"]):
            return
        tokenizer, width = self.variants.tokenizer, batch["input_ids"].shape[1]
        prompts = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
        for name, condition in self.conditions.items():
            with applied(self.variants, condition, batch) as model:
                ends = end_tokens(model, tokenizer)
                pad = tokenizer.pad_token_id
                written = generated(model, model_inputs(batch), pad, self.judge.tokens, ends=ends)
            answers = [
                tokenizer.decode(until_end(row, ends)[0], skip_special_tokens=True)
                for row in written[:, width:].tolist()
            ]
            good = self.judge.is_good(prompts, [answer.strip() for answer in answers])
            correct = torch.tensor(good, device=batch["index"].device)
            self.cells[name].update(correct, batch["cell"], batch["group"], batch["index"], torch.ones_like(correct))

    def result(self) -> ExtraTest:
        """Cells and recovery; a collective."""
        cells = {name: self.cells[name].compute() for name in MODELS}
        steered, faking, aligned = (self.cells[name].items() for name in ("steered", "faking", "aligned"))
        recovery = recovery_between(steered, faking, aligned)
        return ExtraTest(cells["faking"].n, {name: cells[name].pair for name in MODELS}, recovery)


def asked_of(examples: Sequence[Example], most: int | None) -> set[int]:
    """The numbers of at most so many prompts, as evenly from each cell as the cells allow; None takes all.

    Drawn by the hash of their groups, since the first rows of a file are no sample of it, and may all be watched. A
    group comes a second time, as in its other order, when all others have had their turn.

    >>> rows = [Example((1,), 2, 3, cell=cell, group=group, index=i) for i, (cell, group) in enumerate(
    ...     [(0, 7), (0, 7), (0, 5), (0, 6), (1, 9), (1, 8)])]
    >>> sorted(asked_of(rows, 4)), sorted(asked_of(rows, 5))
    ([2, 3, 4, 5], [0, 2, 3, 4, 5])
    """
    turns: Counter[tuple[int, int]] = Counter()
    cells: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for one in examples:
        cells[one.cell].append((turns[one.cell, one.group], one.group, one.index))
        turns[one.cell, one.group] += 1
    queues = [sorted(own) for _, own in sorted(cells.items())]
    return {number for _, _, number in itertools.islice(in_turns(queues), most)}
