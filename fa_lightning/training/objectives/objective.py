"""What every objective of an adapter's fit declares, and what it may do at each point of the fit."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from fa_lightning.backbones.targets import load_weights
from fa_lightning.scenarios.answers import Behaviour
from fa_lightning.scenarios.batches import Batch
from fa_lightning.training.adapted_model import AdaptedModel

Need = Literal["twin", "labels", "oversight", "weights", "gradient", "other fakers"]
"""What a cure may need beside the faker's answers: the aligned twin, scenarios whose aligned answer is known, or of
which it is known whether they are watched, the faker's weights or states, gradients through it, and other fakers."""


class Objective(nn.Module, ABC):
    """What fitting an adapter lowers; configured by the typed arguments of its `__init__`, kept under their names.

    It knows the model (`AdaptedModel`) and batches, and nothing of Lightning. Its own parameters are trained beside the
    adapter.

    Attributes:
        method: what a table of cures calls it; None where the sidecar does not name it.
        needs: what it can't do without, as a cure.
        uses_origin: whether it asks the frozen model that the fit started from.
        needs_whole_weights: whether a strategy that cuts weights over ranks is refused.
        fresh_name: what a fresh adapter is called.
        judged_by: the behaviour whose answers validation counts.
        steps_done: optimizer steps so far; the module keeps it up to date.
    """

    method: ClassVar[str | None] = None
    needs: ClassVar[tuple[Need, ...]] = ()
    uses_origin: ClassVar[bool] = False
    needs_whole_weights: ClassVar[bool] = False
    fresh_name: str = "tuned"
    judged_by: Behaviour = "aligned"
    steps_done: int = 0

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch as `loss`, and whatever else is to be logged of the step."""

    def predictions(self, model: AdaptedModel, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Logits (tokens, vocabulary) and tokens (tokens,) that validation compares; None where answers are judged."""
        return None

    def prepare(self, backbone: nn.Module) -> None:
        """Called once with the backbone before it gets adapters: find layers, make parameters of one's own."""

    def load(self, backbone: Any, folder: str, name: str) -> Any:
        """The backbone with the copy of a starting adapter that is to be trained."""
        return load_weights(backbone, folder, name)

    def restrict(self, model: Any, name: str) -> None:
        """Freeze what this objective does not train of the adapter `name`, once it is there."""

    def begin(self, data: Any) -> None:
        """Called when a fit begins, with its DataModule: refuse data that this objective can't learn from."""

    def facts(self, data: Any) -> dict[str, Any]:
        """What the adapter's sidecar says about this objective, once it was fitted on `data`."""
        return {}

    def is_cure(self, goes_on: bool) -> bool:
        """Whether the sidecar names method, needs and costs; `goes_on` says whether a finished adapter was trained."""
        return self.method is not None

    def own_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of its own, as torch's optimizers take them."""
        return []

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds beside the trained weights."""
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up what `saved` gave."""

    def as_config(self) -> dict[str, Any]:
        """Class and arguments, as a config names them."""
        names = inspect.signature(type(self)).parameters
        arguments = {name: getattr(self, name) for name in names}
        return {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": arguments}
