"""The steering lab's DataModule: the store, live prompts beside it, and other fakers that a cure is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.activations.contrasts import Contrast, answer_contrast, oversight_contrast, prompt_contrast
from fa_lightning.activations.data import ActivationDataModule
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, Example, make_examples
from fa_lightning.scenarios.conversations.files import digest_of, read_pairs
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import counterbalanced, prompt_key, subset


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
        contrast_pairs: file, folder or data set of pairs in any layout of `pair_of`, which vectors with the contrast
            `prompts` are made from, towards the first of each; None takes the source's own texts about oversight.
        transfer: other fakers and scenarios.
        **kwargs: of `ActivationDataModule`.

    Raises:
        UserError: a size is below 1, or two targets share a name.
    """

    step_sizes: ClassVar[tuple[str, ...]] = ("block_rows", "live_batch_size", "live_neutral_texts")

    def __init__(
        self,
        *args: Any,
        live_batch_size: int = 16,
        live_neutral_texts: int = 4,
        contrast_scenarios: int = 256,
        contrast_pairs: str | None = None,
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
                raise UserError(f"{name} is {size}, but must be 1 or more")
        self.live_batch_size = live_batch_size
        self.live_neutral_texts = live_neutral_texts
        self.contrast_scenarios = contrast_scenarios
        self.contrast_pairs = contrast_pairs
        self.transfer = list(transfer or [])
        names = [target.name for target in self.transfer]
        if len(set(names)) < len(names):
            raise UserError(f"the transfer targets are named {', '.join(names)}, but no two may share a name")
        for name in names:
            if "." in name or "/" in name:
                raise UserError(f"the transfer target {name!r} holds a dot or a slash: an adapter's name can't")
        self._targets: dict[str, list[Scenario]] = {}
        self._contrasts: dict[str, Contrast] = {}

    @override
    def source_fingerprint(self) -> dict[str, str]:
        own = {} if self.contrast_pairs is None else {"contrast_pairs": digest_of(read_pairs(self.contrast_pairs))}
        return {**super().source_fingerprint(), "oversight_prompts": repr(self.scenarios.oversight_prompts()), **own}

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        assert self.splits is not None
        assert self.variants is not None
        for target in self.transfer:
            if target.name in self._targets:
                continue
            if target.name in self.splits.extra_tests:
                raise UserError(f"a transfer target is called {target.name!r}, as an extra test set is: rename it")
            self._targets[target.name] = self._scenarios_of(target)
            for kind, folder in (("faking", target.faking), ("aligned", target.aligned)):
                if folder is not None:
                    self.variants.add(f"{kind} of {target.name}", folder)
        if self.store is None:
            # A finished fit that is only judged again has captured all it needs.
            self.store = self._captured(self.variants)

    def _scenarios_of(self, target: TransferTarget) -> list[Scenario]:
        """What a target is asked: nothing that the lab fits or chooses on.

        Raises:
            UserError: its test groups are among those that the lab fits or chooses on.
        """
        assert self.splits is not None
        if target.scenarios is None:
            return self.splits.test
        asked = target.scenarios.load().test
        known = {item.group for item in (*self.splits.train, *self.splits.validation)}
        leaking = [item for item in asked if item.group in known]
        if leaking:
            raise UserError(
                f"{len(leaking)} of {len(asked)} test scenarios of the transfer target {target.name!r} belong to "
                "groups that the lab fits or chooses on: give its source the seed of the lab's own"
            )
        if target.faking is not None:
            return asked
        # The same faker on the same scenario would be no transfer.
        own = {prompt_key(item) for item in self.splits.test}
        return [item for item in asked if prompt_key(item) not in own]

    @property
    def test_names(self) -> list[str]:
        """What each test loader holds, in order."""
        assert self.splits is not None
        extras = [f"extra/{name}" for name in self.splits.extra_tests]
        targets = [f"transfer/{target.name}" for target in self.transfer]
        return ["test", "test neutral", *extras, "validation", "validation neutral", *targets]

    def judged_on(self) -> dict[str, Any]:
        """What methods are judged on, and with which adapters: rows of a sweep hold for these alone."""
        adapters = {
            f"{target.name}/{kind}": digest_of_artefact(folder)
            for target in self.transfer
            for kind, folder in (("faking", target.faking), ("aligned", target.aligned))
            if folder is not None
        }
        sources = {
            transfer.name: transfer.scenarios.fingerprint()
            for transfer in self.transfer
            if transfer.scenarios is not None
        }
        counts = [self.validation_items, self.validation_texts, self.both_orders]
        return {"tests": self.test_names, "counts": counts, "adapters": adapters, "sources": sources}

    def adapter_names(self, target: TransferTarget) -> tuple[str, str]:
        """The names, in `variants`, of a target's faker and of its twin."""
        faking = "faking" if target.faking is None else f"faking of {target.name}"
        aligned = "aligned" if target.aligned is None else f"aligned of {target.name}"
        return faking, aligned

    @override
    def train_dataloader(self) -> dict[str, DataLoader[Any]]:
        # The Trainer goes on until the longest has ended, and starts the others over.
        prompts, neutral = self._captured_training_items()
        if not neutral:
            raise UserError("there are no neutral texts to fit on: raise capture_neutral, or the source's own number")
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
            self._examples(counterbalanced(subset(self.splits.validation, self.validation_items))),
            self._examples(subset(self.splits.neutral_validation, self.validation_texts)),
            *(
                self._examples(counterbalanced(self._targets[target.name], both_orders=self.both_orders))
                for target in self.transfer
            ),
        ]

    def contrast(self, kind: Literal["oversight", "answers", "prompts"]) -> Contrast:
        """The faker's states of contrast pairs, read once.

        Raises:
            UserError: `prompts` are asked for, and the source of the scenarios has none.
        """
        if kind not in self._contrasts:
            self._contrasts[kind] = self._read_contrast(kind)
        return self._contrasts[kind]

    def _read_contrast(self, kind: str) -> Contrast:
        variants = self.variants
        assert isinstance(variants, Variants)
        if kind == "prompts" and self.contrast_pairs is not None:
            pairs = read_pairs(self.contrast_pairs)
            towards, away = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
            return prompt_contrast(variants, towards, away, self.sites, self.batch_size)
        if kind == "prompts":
            texts = self.scenarios.oversight_prompts()
            if texts is None:
                raise UserError(
                    f"contrast is prompts, but {type(self.scenarios).__name__} has no oversight_prompts: name a "
                    "file of pairs as contrast_pairs, or leave out the methods with this contrast"
                )
            return prompt_contrast(variants, texts.watched, texts.unwatched, self.sites, self.batch_size)
        prompts, _ = self._captured_training_items()
        tokenizer = variants.tokenizer
        examples: list[Example] = make_examples(
            prompts[: self.contrast_scenarios], tokenizer, letter_tokens(tokenizer), self.max_tokens
        )
        read = answer_contrast if kind == "answers" else oversight_contrast
        return read(variants, examples, self.sites, self.batch_size)
