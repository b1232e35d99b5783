"""The steering lab's DataModule: the store, live prompts beside it, and other fakers that a cure is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.activations.contrasts import Contrast, answer_contrast, oversight_contrast, prompt_contrast
from fa_lightning.activations.data import ActivationDataModule
from fa_lightning.backbones.adapters import Variants
from fa_lightning.scenarios.batches import Batch, Example, make_examples
from fa_lightning.scenarios.prompts import answer_format
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits, counterbalanced


@dataclass
class TransferTarget:
    """A faker and its scenarios that a fitted intervention is tried on as it is.

    Attributes:
        name: in tables.
        scenarios: whose test split is asked; None asks the lab's own.
        faking: adapter of the faker to be steered; None takes the lab's own.
        aligned: adapter of the twin it is compared with; None takes the lab's own.
    """

    name: str
    scenarios: ScenarioSource | None = None
    faking: str | None = None
    aligned: str | None = None


class LabDataModule(ActivationDataModule):
    """ActivationDataModule with what comparing many methods needs.

    Training batches hold `states` (a block of the store) and live `prompts` and `neutral` texts, the same items whose
    states are in the store. Test loaders, named by `test_names`: the test split and its neutral texts, each extra test
    set, the validation split and its neutral texts (the sweep chooses on them), and each transfer target.

    Args:
        *args: of `ActivationDataModule`.
        live_batch_size: prompts in a step of a fit through the live model.
        live_neutral_texts: neutral texts in such a step; all of their tokens are scored, so they are dear.
        contrast_scenarios: scenarios that contrast vectors are made from.
        positive_prompts: prompts of the `prompts` contrast: what the vector points to.
        negative_prompts: as many that it points away from.
        transfer: other fakers and scenarios.
        **kwargs: of `ActivationDataModule`.

    Raises:
        ValueError: a size is below 1, the prompts are unequal in number, or two targets share a name.
    """

    def __init__(
        self,
        *args: Any,
        live_batch_size: int = 16,
        live_neutral_texts: int = 4,
        contrast_scenarios: int = 256,
        positive_prompts: list[str] | None = None,
        negative_prompts: list[str] | None = None,
        transfer: list[TransferTarget] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        sizes = {
            "live_batch_size": live_batch_size,
            "live_neutral_texts": live_neutral_texts,
            "contrast_scenarios": contrast_scenarios,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}, but must be 1 or more")
        self.live_batch_size = live_batch_size
        self.live_neutral_texts = live_neutral_texts
        self.contrast_scenarios = contrast_scenarios
        self.prompts = (list(positive_prompts or []), list(negative_prompts or []))
        if len(self.prompts[0]) != len(self.prompts[1]):
            raise ValueError(
                f"positive_prompts has {len(self.prompts[0])} prompts and negative_prompts {len(self.prompts[1])}, but "
                "they are pairs: give as many of each"
            )
        self.transfer = list(transfer or [])
        names = [target.name for target in self.transfer]
        if len(set(names)) < len(names):
            raise ValueError(f"the transfer targets are named {', '.join(names)}, but no two may share a name")
        self._targets: dict[str, ScenarioSplits] = {}
        self._contrasts: dict[str, Contrast] = {}

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        assert self.splits is not None
        assert self.variants is not None
        for target in self.transfer:
            if target.name in self._targets:
                continue
            self._targets[target.name] = self.splits if target.scenarios is None else target.scenarios.load()
            for kind, folder in (("faking", target.faking), ("aligned", target.aligned)):
                if folder is not None:
                    self.variants.add(f"{kind} of {target.name}", folder)
        if self.store is None:
            # A finished fit that is only judged again has captured all it needs.
            self.store = self._captured(self.variants)

    @property
    def test_names(self) -> list[str]:
        """What each test loader holds, in order."""
        assert self.splits is not None
        extras = [f"extra/{name}" for name in self.splits.extra_tests]
        targets = [f"transfer/{target.name}" for target in self.transfer]
        return ["test", "test neutral", *extras, "validation", "validation neutral", *targets]

    def adapter_names(self, target: TransferTarget) -> tuple[str, str]:
        """The names, in `variants`, of a target's faker and of its twin."""
        faking = "faking" if target.faking is None else f"faking of {target.name}"
        aligned = "aligned" if target.aligned is None else f"aligned of {target.name}"
        return faking, aligned

    @override
    def train_dataloader(self) -> dict[str, DataLoader[Any]]:
        # The Trainer goes on until the longest has ended, and starts the others over.
        prompts, neutral = self._captured_training_items()
        return {
            **super().train_dataloader(),
            "prompts": self._examples(prompts, self.live_batch_size),
            "neutral": self._examples(neutral, self.live_neutral_texts),
        }

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        return [
            *super().test_dataloader(),
            self._examples(counterbalanced(self.splits.validation[: self.validation_items])),
            self._examples(self.splits.neutral_validation),
            *(
                self._examples(counterbalanced(self._targets[target.name].test, both_orders=self.both_orders))
                for target in self.transfer
            ),
        ]

    def contrast(self, kind: Literal["oversight", "answers", "prompts"]) -> Contrast:
        """The faker's states of contrast pairs, read once.

        Raises:
            ValueError: `prompts` are asked for and none were given.
        """
        if kind not in self._contrasts:
            self._contrasts[kind] = self._read_contrast(kind)
        return self._contrasts[kind]

    def _read_contrast(self, kind: str) -> Contrast:
        variants = self.variants
        assert isinstance(variants, Variants)
        if kind == "prompts":
            return prompt_contrast(variants, *self.prompts, self.sites, self.batch_size)
        prompts, _ = self._captured_training_items()
        tokenizer = variants.tokenizer
        examples: list[Example] = make_examples(
            prompts[: self.contrast_scenarios], tokenizer, answer_format(tokenizer), self.max_tokens
        )
        read = answer_contrast if kind == "answers" else oversight_contrast
        return read(variants, examples, self.sites, self.batch_size)
