"""How long each cure takes to write: a few tokens to a few prompts, beside the faker alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.timing import relative_times
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.steering.generation import generated
from fa_lightning.steering.intervention import Intervention, steering
from fa_lightning.studies.cures.cure_rows import CureRow
from fa_lightning.studies.cures.guard_passes import GuardedFaker, rows_of
from fa_lightning.studies.cures.input_passes import BehindInput

TIMED_ROWS, NEW_TOKENS, ROUNDS = 16, 16, 5


class GenerationTimes:
    """Writes behind the first prompts that are judged, under any cure.

    Args:
        variants: the frozen ones.
        interventions: what steers.
        pad_token: id of the padding.
    """

    def __init__(self, variants: Variants, interventions: Sequence[Intervention], pad_token: int) -> None:
        self.variants = variants
        self.interventions = interventions
        self.pad_token = pad_token
        self._first: Batch | None = None
        self._behind: dict[str, Batch] = {}

    def see(self, batch: Batch) -> None:
        """Keep the first prompts of the first batch."""
        if self._first is None:
            self._first = {name: tensor[:TIMED_ROWS] for name, tensor in batch.items()}

    def write_as(self, variant: str, steered: bool = False) -> None:
        """Write as a variant, which may be steered."""
        assert self._first is not None
        with self.variants.using(variant) as model, steering(model, self.interventions if steered else ()):
            self._write(model, model_inputs(self._first))

    def write_behind(self, behind: BehindInput) -> None:
        """Write as a variant with an input around its prompts."""
        with self.variants.using(behind.variant) as model:
            # Finding and cutting the prompt is not timed, as it is not for the others.
            self._write(model, behind.inputs(model, self._behind[behind.cure.label]))

    def write_guarded(self, guarded: GuardedFaker, test: str, steered: bool) -> None:
        """Write as a faker, let its guard read the answers, and write those that it stops again, if `steered`.

        The guard reads the actions that were taken, as it does where cells are counted, and not these words.
        """
        assert self._first is not None
        self.write_as(guarded.faker)
        stopped = guarded.read_again(self._first, test)
        if steered and stopped.any():
            with self.variants.using(guarded.faker) as model, steering(model, self.interventions):
                self._write(model, model_inputs(rows_of(self._first, stopped)))

    def measured(self, lines: Mapping[str, CureRow], inputs: Iterable[BehindInput], test: str) -> dict[str, float]:
        """Seconds of generation over those of the first line, by label; empty where no prompt was seen.

        Args:
            lines: by label, what is run; the faker alone comes first.
            inputs: those among them that are inputs.
            test: the test set that prompts were seen of.
        """
        if self._first is None:
            return {}
        self._behind = {behind.cure.label: behind.batch(self._first, test) for behind in inputs}
        runs = {label: line.run for label, line in lines.items() if line.run is not None}
        return relative_times(runs, self.variants.device, rounds=ROUNDS)

    def _write(self, model: Any, inputs: dict[str, Any]) -> None:
        generated(model, inputs, self.pad_token, NEW_TOKENS, exactly=True)
