"""The base module of all evaluations: many models on one backbone in memory, asked batch by batch, reported once."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import lightning.pytorch as pl
from typing_extensions import override

from fa_lightning.backbones.adapters import adapter_folders, named_backbone
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.load import load_tokenizer
from fa_lightning.backbones.variants import Variants
from fa_lightning.common.boards import is_watched, show
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import loaded_interventions
from fa_lightning.steering.intervention import Intervention

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = TypeVar("Result")
Data = TypeVar("Data", bound=pl.LightningDataModule)


class EvaluationModule(pl.LightningModule, ABC, Generic[Data, Result]):
    """Only tests: loads the backbone once with all adapters beside it, asks every model, and reports when all are done.

    A study is a subclass. It asks in `test_step`, and says in `result` what follows from what it counted; every rank
    calls that one, so that all of them fail where one does. Rank zero alone writes, prints and draws the result.

    Args:
        adapters: adapter folders, or folders of them (see `adapter_folders`): the variants.
        folder: receives the files of the result.
        backbone: which one, and how it is loaded.

    Attributes:
        data_class: the DataModule that a study needs.
        scalars_are_metrics: whether `scalars` become metrics of the Trainer, which prints them and keeps them in the
            record of the stage; with False they go to the loggers alone.
        bare_name: what the backbone without an adapter is called, for studies that ask it too; None for others.
        intervention: folder of a saved intervention, for studies that take one; None for none.
        interventions: what that folder holds, once the models are loaded.
    """

    data_class: ClassVar[type[pl.LightningDataModule]]
    scalars_are_metrics: ClassVar[bool] = False
    bare_name: ClassVar[str | None] = None
    intervention: str | None = None

    def __init__(self, adapters: list[str], folder: str, backbone: BackboneArguments = BackboneArguments()) -> None:
        super().__init__()
        self.adapters = list(adapters)
        self.folder = Path(folder)
        self.backbone = backbone
        self.interventions: tuple[Intervention, ...] = ()
        self._variants: Variants | None = None
        self._start = 0.0

    @property
    def variants(self) -> Variants:
        """The models; there once `configure_model` has run."""
        assert self._variants is not None
        return self._variants

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        if self._variants is not None:
            return self._variants.tokenizer
        if self.backbone.name is not None:
            return load_tokenizer(self.backbone)
        return load_tokenizer(named_backbone(self.backbone, next(iter(self.adapter_folders().values()))))

    @property
    def data(self) -> Data:
        """The DataModule that serves the test.

        Raises:
            UserError: it is not of `data_class`.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, self.data_class):
            raise UserError(
                f"{type(self).__name__} needs {self.data_class.__name__} as data, but it is a {type(data).__name__}"
            )
        return data  # type: ignore[return-value]

    @property
    def seconds(self) -> float:
        """Since the test began."""
        return time.perf_counter() - self._start

    def adapter_folders(self) -> dict[str, str]:
        """Folders of the adapters by variant, in the order of the tables.

        Raises:
            UserError: a variant has the name of the backbone without an adapter.
        """
        folders = adapter_folders(self.adapters)
        if self.bare_name in folders:
            raise UserError(
                f"a variant is called {self.bare_name!r}, as the backbone without an adapter is here: rename "
                f"the folder {folders[self.bare_name]}"
            )
        return folders

    def using(self, name: str) -> AbstractContextManager[Any]:
        """The model with a variant's adapter active, or with none for `bare_name`."""
        return self.variants.bare() if name == self.bare_name else self.variants.using(name)

    @override
    def configure_model(self) -> None:
        if self._variants is None:
            device = self.trainer.strategy.root_device
            self._variants = Variants.load(self.adapter_folders(), self.backbone, device=device)
            if self.intervention is not None:
                self.interventions = loaded_interventions(self.intervention, self._variants)
            self.prepare_models()

    def prepare_models(self) -> None:
        """Called once, when the models have been loaded: a study checks or adds to them."""

    @override
    def on_test_start(self) -> None:
        self.begin()
        self._start = time.perf_counter()

    @abstractmethod
    def begin(self) -> None:
        """Called when a test begins: make fresh counters."""

    @abstractmethod
    def result(self) -> Result:
        """What follows from all that was counted; a collective, whose result is the same on every rank."""

    @abstractmethod
    def write(self, result: Result) -> None:
        """Write the files of a result into `folder`, which exists; on rank zero."""

    def show(self, result: Result) -> None:
        """Print a result; on rank zero."""

    def scalars(self, result: Result) -> Mapping[str, float]:
        """The numbers of a result that are logged, by name."""
        return {}

    def figures(self, result: Result) -> Mapping[str, Figure]:
        """The figures of a result for the loggers, by name; on rank zero."""
        return {}

    def texts(self, result: Result) -> Mapping[str, str]:
        """The texts of a result for the loggers, by name; on rank zero."""
        return {}

    @override
    def on_test_epoch_end(self) -> None:
        result = self.result()
        self.log_result(result)
        if self.trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write(result)
            self.show(result)
            if is_watched(self.trainer):
                show(self.trainer, self.figures(result), self.texts(result))
        self.trainer.strategy.barrier("evaluation written")

    def log_result(self, result: Result) -> None:
        """Log the scalars of a result."""
        scalars = dict(self.scalars(result))
        if self.scalars_are_metrics:
            self.log_dict(scalars, rank_zero_only=True)
            return
        for logger in self.loggers:
            # Through `log` they would be printed once for each loader.
            logger.log_metrics(scalars, 0)
