"""Frozen variants: one backbone in memory, on which adapters are swapped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch

from fa_lightning.backbones.adapters import named_backbone, read_sidecar, refuse_other_origins
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.decoder import first_adapted
from fa_lightning.backbones.load import check_fingerprint, fingerprint, load_backbone, load_tokenizer
from fa_lightning.backbones.quantised import is_packed
from fa_lightning.backbones.targets import PREFIX, load_weights
from fa_lightning.backbones.weight_arithmetic import add_interpolated
from fa_lightning.errors import UserError

VariantName = Literal["aligned", "faking"]
VARIANTS: tuple[VariantName, ...] = ("faking", "aligned")


class Variants:
    """Frozen variants: one backbone in memory with all their adapters, one of them active at a time.

    Memory grows by the adapters alone; their ranks and target modules may differ. Nothing is ever merged.

    Attributes:
        model: the PEFT model, in evaluation mode.
        tokenizer: the backbone's.
        fingerprint: the backbone's fields (see `fa_lightning.backbones.load.fingerprint`).
        folders: where each variant was loaded from, as far as it was.
        beside: adapters that are active together with whichever variant is used.
        stacked: by variant, the adapter that it was fitted on top of; using it without says so, once.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint(model)
        self.folders: dict[str, str] = {}
        self.beside: tuple[str, ...] = ()
        self.stacked: dict[str, str] = {}
        self._layers = _swapped_layers(model)
        self._first_adapted: int | None = None
        self._bare = False

    @classmethod
    def load(
        cls,
        adapters: Mapping[str, str],
        backbone: BackboneArguments = BackboneArguments(),
        device: torch.device | str = "cpu",
    ) -> Variants:
        """Load the backbone once and every adapter onto it.

        Args:
            adapters: variant name to adapter folder; there may be none where the backbone is named, which is then used
                `bare`.
            backbone: how it is loaded; without a name, the one that the first adapter was fitted on.
            device: where they compute.

        Raises:
            MissingFileError: a folder is not an adapter's.
            UserError: a name is no adapter's, an adapter was made for another backbone (the field that differs is
                named), or from another one of them as it was before it was made again.
        """
        if not adapters and backbone.name is None:
            raise UserError("adapters is empty, but at least one adapter folder is needed where no backbone is named")
        for name in adapters:
            _refuse_name(name)

        sidecars = {name: read_sidecar(folder) for name, folder in adapters.items()}
        refuse_other_origins(adapters, sidecars)
        if backbone.name is None:
            backbone = named_backbone(backbone, next(iter(adapters.values())))
        base = load_backbone(backbone, device)
        loaded = fingerprint(base)
        for name, sidecar in sidecars.items():
            check_fingerprint(loaded, sidecar.get("fingerprint", {}), f"adapter {adapters[name]!r}")
        model = base
        for name, folder in adapters.items():
            model = load_weights(model, folder, PREFIX + name)
        if not is_packed(base):
            model.to(device)
        model.requires_grad_(False)
        variants = cls(model.eval(), load_tokenizer(backbone))
        variants.folders = dict(adapters)
        variants.stacked = {name: noted["beneath"] for name, noted in sidecars.items() if noted.get("beneath")}
        return variants

    @property
    def names(self) -> list[str]:
        """The variants, in the order in which they were loaded."""
        names = (name.removeprefix(PREFIX) for name in self._peft_config)
        return [name for name in names if name not in self.beside]

    @property
    def _peft_config(self) -> Mapping[str, Any]:
        """PEFT's config of each adapter; empty where the backbone has none."""
        config: Mapping[str, Any] = getattr(self.model, "peft_config", {})
        return config

    def adapter_of(self, name: str) -> str:
        """What PEFT knows an adapter by: of a variant, or one that is `beside`."""
        return PREFIX + name if PREFIX + name in self._peft_config else name

    @property
    def first_adapted(self) -> int:
        """Index of the first block that an adapter is in: below it all variants are the backbone."""
        if self._first_adapted is None:
            self._first_adapted = first_adapted(self.model)
        return self._first_adapted

    @property
    def is_pure_lora(self) -> bool:
        """Whether variants differ in nothing but adapters inside layers, so that two can be active at once."""
        return bool(self._layers)

    @property
    def device(self) -> torch.device:
        """Where they compute."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def add(self, name: str, folder: str) -> None:
        """Load one more adapter onto the same backbone, to be used by this name.

        Raises:
            MissingFileError: the folder is not an adapter's.
            UserError: the name is no adapter's or taken, or the adapter was made for another backbone; the field that
                differs is named.
        """
        self._refuse_taken(name, folder)
        check_fingerprint(self.fingerprint, read_sidecar(folder).get("fingerprint", {}), f"adapter {folder!r}")
        load_weights(self.model, folder, PREFIX + name)
        self.model.requires_grad_(False).eval()
        self._layers, self._first_adapted = _swapped_layers(self.model), None
        self.folders[name] = folder

    def add_interpolated(self, name: str, start: str, end: str, strength: float) -> None:
        """Add the variant start + strength (end - start), in memory alone; see `weight_arithmetic.add_interpolated`.

        Raises:
            UserError: the name is no adapter's or taken, there is no such variant, or their adapters can't be added.
        """
        self._refuse_taken(name, f"{start} + {strength} ({end} - {start})")
        unknown = [one for one in (start, end) if one not in self.names]
        if unknown:
            raise UserError(f"there is no variant {unknown[0]!r}; there are {', '.join(self.names)}")
        add_interpolated(self.model, PREFIX + name, self.adapter_of(start), self.adapter_of(end), strength)
        self._layers, self._first_adapted = _swapped_layers(self.model), None

    def _refuse_taken(self, name: str, what: str) -> None:
        _refuse_name(name)
        if name in self.names:
            raise UserError(f"there is a variant {name!r} already: give {what!r} another name")

    def memory(self) -> tuple[int, int]:
        """Bytes of the backbone's parameters, and of all adapters'."""
        sizes = [0, 0]
        for name, parameter in self.model.named_parameters():
            sizes["lora_" in name] += parameter.nbytes
        return sizes[0], sizes[1]

    @contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """The model with adapter `name` active; no weights move, and what was active before is so afterwards.

        Raises:
            UserError: there is no such variant.
        """
        if self.adapter_of(name) not in self._peft_config:
            raise UserError(f"there is no variant {name!r}; there are {', '.join(self.names)}")
        if not self.beside and name in self.stacked:
            # Lightning takes seconds to import, and `generate` has no other use for it.
            from lightning.pytorch.utilities import rank_zero_warn

            rank_zero_warn(
                f"variant {name!r} was fitted on top of adapter {self.stacked.pop(name)!r}, which is not active here: "
                "this is not the model that was fitted (LeakageModule asks it with both)"
            )
        with self.restored(), self._adapters(enabled=True):
            self._swap([self.adapter_of(variant) for variant in (name, *self.beside)])
            yield self.model

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Whatever is used inside, the same adapters as before are active and `beside` afterwards."""
        beside = self.beside
        # PEFT's model knows no other name than the variant's; the layers know those beside it too.
        active = list((self._layers or [self.model.base_model])[0].active_adapters)
        try:
            yield
        finally:
            self.beside = beside
            self._swap(active)

    @contextmanager
    def bare(self) -> Iterator[Any]:
        """The model without any adapter: the backbone as it is."""
        with self._adapters(enabled=False):
            yield self.model

    @contextmanager
    def _adapters(self, enabled: bool) -> Iterator[None]:
        """Adapters at work or not, in a block that may lie within one of the other kind."""
        if enabled != self._bare or not self._peft_config:
            yield
            return
        tuner = self.model.base_model
        # PEFT thaws and freezes adapters as it enables and disables them.
        trainable = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        turn = (tuner.disable_adapter_layers, tuner.enable_adapter_layers)

        def turn_to(now: bool) -> None:
            turn[now]()
            self._bare = not now
            for parameter, required in trainable:
                parameter.requires_grad_(required)

        try:
            turn_to(enabled)
            yield
        finally:
            turn_to(not enabled)

    def _swap(self, active: list[str]) -> None:
        # PEFT's own swap walks every module and in each the adapters of all variants, to thaw and freeze them: with 36
        # variants of 32 layers that takes several times as long as a short forward pass. Here all stay frozen, so
        # that the layers need only be told the name.
        for layer in self._layers:
            layer._active_adapter = list(active)
        self.model.active_adapter = self.model.base_model.active_adapter = active[0]
        if not self._layers or any(layer.active_adapters != active or layer.merged for layer in self._layers):
            self.model.base_model.set_adapter(active, inference_mode=True)
            self.model.base_model.active_adapter = active[0]


def _swapped_layers(model: Any) -> list[Any]:
    """The layers that adapters are in; none where other parts of the model are swapped too, which PEFT has to do."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    swapped = [module for module in model.modules() if hasattr(module, "_active_adapter")]
    return swapped if all(isinstance(module, BaseTunerLayer) for module in swapped) else []


def _refuse_name(name: str) -> None:
    if not re.fullmatch(r"[^./]+", name):
        raise UserError(f"a variant's name is {name!r}, but an adapter's name can't be empty or hold a dot or a slash")
