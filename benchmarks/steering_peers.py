"""Other steering libraries behind the calls of the laws in `tests/conformance`, each used as its documentation says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.conformance.reference import Edit, Inapplicable, Steerer


class SteeringVectors(Steerer):
    """`SteeringVector.apply`, whose `min_token_index` is "the minimum token index to apply the patch to"."""

    name = "steering-vectors"
    rules = ("all", "from_2")
    components = ("residual", "attention", "mlp")

    @contextmanager
    def steer(self, model: Any, edits: list[Edit], prompt_tokens: Tensor | None = None) -> Iterator[Any]:
        """See `Steerer.steer`."""
        from steering_vectors import SteeringVector

        kind = {"residual": "decoder_block", "attention": "self_attn", "mlp": "mlp"}[edits[0].component]
        vector = SteeringVector({edit.layer: edit.vector for edit in edits}, kind)
        start = 0 if edits[0].rule == "all" else int(edits[0].rule.removeprefix("from_"))
        with vector.apply(model, multiplier=edits[0].strength, min_token_index=start):
            yield model


class Repeng(Steerer):
    """`ControlModel` and `ControlVector`, which stay until `unwrap`; saved as gguf."""

    name = "repeng"
    scoped = False

    @contextmanager
    def steer(self, model: Any, edits: list[Edit], prompt_tokens: Tensor | None = None) -> Iterator[Any]:
        """See `Steerer.steer`."""
        with self._controlled(model, self._vector(model, edits), edits) as controlled:
            yield controlled

    def saved_and_loaded(self, model: Any, edit: Edit, folder: Path) -> Any:
        """See `Steerer.saved_and_loaded`."""
        from repeng import ControlVector

        path = folder / "vector.gguf"
        self._vector(model, [edit]).export_gguf(path)
        return self._controlled(model, ControlVector.import_gguf(path), [edit])

    def _vector(self, model: Any, edits: list[Edit]) -> Any:
        from repeng import ControlVector

        return ControlVector(model.config.model_type, {edit.layer: edit.vector.numpy() for edit in edits})

    @contextmanager
    def _controlled(self, model: Any, vector: Any, edits: list[Edit]) -> Iterator[Any]:
        from repeng import ControlModel

        controlled = ControlModel(model, [edit.layer for edit in edits])
        try:
            controlled.set_control(vector, edits[0].strength)
            yield controlled
        finally:
            controlled.unwrap()


class Pyvene(Steerer):
    """`IntervenableModel` with `AdditionIntervention`.

    Without unit locations it adds at every token; its `generate`, left to its defaults, at every generated one.
    """

    name = "pyvene"
    rules = ("all", "generated")
    components = ("residual", "attention", "mlp")

    @contextmanager
    def steer(self, model: Any, edits: list[Edit], prompt_tokens: Tensor | None = None) -> Iterator[Any]:
        """See `Steerer.steer`."""
        yield _Intervenable(self._wrapped(model, edits), edits[0].rule)

    @contextmanager
    def saved_and_loaded(self, model: Any, edit: Edit, folder: Path) -> Iterator[Any]:
        """See `Steerer.saved_and_loaded`."""
        import pyvene

        self._wrapped(model, [edit]).save(str(folder))
        yield _Intervenable(pyvene.IntervenableModel.load(str(folder), model), edit.rule)

    def _wrapped(self, model: Any, edits: list[Edit]) -> Any:
        import pyvene

        names = {"residual": "block_output", "attention": "attention_output", "mlp": "mlp_output"}
        parts = [
            {
                "layer": edit.layer,
                "component": names[edit.component],
                "intervention_type": pyvene.AdditionIntervention,
                "source_representation": edit.strength * edit.vector,
            }
            for edit in edits
        ]
        return pyvene.IntervenableModel(parts, model)


class _Intervenable:
    def __init__(self, wrapped: Any, rule: str) -> None:
        self.wrapped = wrapped
        self.rule = rule

    def __call__(self, **inputs: Any) -> Any:
        if self.rule == "generated":
            raise Inapplicable("the rule is for generate only")
        options = {name: inputs.pop(name) for name in ("use_cache",) if name in inputs}
        return self.wrapped(inputs, **options)[1]

    def generate(self, **inputs: Any) -> Any:
        base = {name: inputs.pop(name) for name in ("input_ids", "attention_mask")}
        return self.wrapped.generate(base, intervene_on_prompt=self.rule == "all", **inputs)[1]
