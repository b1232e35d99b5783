"""Frozen variants: one backbone in memory, on which adapters are swapped, or the weights of whole models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch

from fa_lightning.backbones.adapters import is_whole, named_backbone, read_sidecar, refuse_other_origins, refuse_whole
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.decoder import first_adapted
from fa_lightning.backbones.load import check_fingerprint, fingerprint, load_backbone, load_tokenizer
from fa_lightning.backbones.quantised import is_packed
from fa_lightning.backbones.targets import PREFIX, load_weights
from fa_lightning.backbones.weight_arithmetic import add_difference, add_interpolated, layers_with
from fa_lightning.backbones.whole_models import WholeModels, load_whole
from fa_lightning.errors import UserError

VariantName = Literal["aligned", "faking"]
VARIANTS: tuple[VariantName, ...] = ("faking", "aligned")


class Variants:
    """Frozen variants: one backbone in memory with all their adapters, one of them active at a time.

    Memory grows by the adapters alone; their ranks and target modules may differ. Nothing is ever merged. A variant may
    also be a whole model, of the backbone's architecture: its weights lie on the host, and take the backbone's place
    while it is used (see `WholeModels`).

    Attributes:
        model: the PEFT model, in evaluation mode; the bare backbone where no variant is an adapter.
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
        self._differences: set[str] = set()
        self._whole = WholeModels(model)

    @classmethod
    def load(
        cls,
        adapters: Mapping[str, str],
        backbone: BackboneArguments = BackboneArguments(),
        device: torch.device | str = "cpu",
    ) -> Variants:
        """Load the backbone once and every adapter onto it.

        Args:
            adapters: variant name to folder, of an adapter or of what names a whole model; there may be none where the
                backbone is named, which is then used `bare`.
            backbone: how it is loaded; without a name, the one that the first adapter was fitted on.
            device: where they compute.

        Raises:
            MissingFileError: a folder is not an adapter's.
            UserError: a name is no adapter's, an adapter was made for another backbone (the field that differs is
                named), or from another one of them as it was before it was made again; or a whole model was changed
                since it was taken, or has no place in the backbone.
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
            if not is_whole(folder):
                model = load_weights(model, folder, PREFIX + name)
        variants = cls(model.requires_grad_(False).eval(), load_tokenizer(backbone))
        for name, folder in adapters.items():
            if is_whole(folder):
                variants._add_whole(name, folder, backbone)
        # Behind the whole models, which keep the backbone's weights on the host where they are now.
        if not is_packed(base):
            model.to(device)
        variants.folders = dict(adapters)
        variants.stacked = {name: noted["beneath"] for name, noted in sidecars.items() if noted.get("beneath")}
        return variants

    @property
    def names(self) -> list[str]:
        """The variants, in the order in which they were loaded."""
        names = [*(name.removeprefix(PREFIX) for name in self._peft_config), *self._whole.names]
        order = {name: place for place, name in enumerate(self.folders)}
        loaded = sorted(names, key=lambda name: order.get(name, len(order)))
        return [name for name in loaded if name not in self.beside and name not in self._differences]

    @property
    def whole_models(self) -> list[str]:
        """Those of the variants that are whole models."""
        return self._whole.names

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
        """Index of the first block that an adapter is in or a whole model differs in: below it all are the backbone."""
        if self._first_adapted is None:
            first, adapted = self._whole.first_block, first_adapted(self.model)
            self._first_adapted = adapted if first is None else min(first, adapted)
        return self._first_adapted

    @property
    def is_pure_lora(self) -> bool:
        """Whether variants differ in nothing but adapters inside layers, so that two can be active at once."""
        return bool(self._layers) and not self.whole_models

    @property
    def device(self) -> torch.device:
        """Where they compute."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def add(self, name: str, folder: str) -> None:
        """Load one more adapter onto the same backbone, to be used by this name.

        Raises:
            MissingFileError: the folder is not an adapter's.
            UserError: the name is no adapter's or taken, the adapter was made for another backbone (the field that
                differs is named), or it is a whole model.
        """
        self._refuse_taken(name, folder)
        refuse_whole(folder, "what is laid beside other variants must be")
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
        self._refuse_pair(name, start, end, f"{start} + {strength} ({end} - {start})")
        add_interpolated(self.model, PREFIX + name, self.adapter_of(start), self.adapter_of(end), strength)
        self._layers, self._first_adapted = _swapped_layers(self.model), None

    def add_difference(self, name: str, start: str, end: str) -> None:
        """Add end - start in memory alone, to be used `shifted`; it is no variant by itself.

        Raises:
            UserError: the name is taken, there is no such variant, or their adapters can't be subtracted.
        """
        self._refuse_pair(name, start, end, f"{end} - {start}")
        add_difference(self.model, PREFIX + name, self.adapter_of(start), self.adapter_of(end))
        self._layers, self._first_adapted = _swapped_layers(self.model), None
        self._differences.add(name)

    @contextmanager
    def shifted(self, difference: str, strength: float) -> Iterator[None]:
        """Whatever is used inside, `strength` times a difference of two others is added to its weights.

        Args:
            difference: added by `add_difference`; of whichever layers and rank, they need not be the variant's own.
            strength: its factor, 1 for all of it.

        Raises:
            UserError: there is no such difference.
        """
        if difference not in self._differences:
            raise UserError(
                f"there is no difference {difference!r}; there are {', '.join(sorted(self._differences)) or 'none'}"
            )
        own = PREFIX + difference
        layers = layers_with(self.model, own)
        before = [layer.scaling[own] for layer in layers]
        with self.restored():
            try:
                for layer in layers:
                    layer.scaling[own] = strength
                self.beside = (*self.beside, own)
                yield
            finally:
                for layer, scale in zip(layers, before, strict=True):
                    layer.scaling[own] = scale

    def _refuse_pair(self, name: str, start: str, end: str, what: str) -> None:
        """Refuse arithmetic of weights on what has none, or under a name that is taken."""
        self._refuse_taken(name, what)
        unknown = [one for one in (start, end) if one not in self.names]
        if unknown:
            raise UserError(f"there is no variant {unknown[0]!r}; there are {', '.join(self.names)}")
        self.refuse_whole_models((start, end), "weight arithmetic is on LoRA's matrices")

    def refuse_whole_models(self, names: Iterable[str], purpose: str) -> None:
        """Refuse variants that are whole models where both of two are needed at once, or an adapter's matrices.

        Args:
            names: of variants.
            purpose: what can't be, as a sentence.

        Raises:
            UserError: naming the first that is one.
        """
        whole = [name for name in names if name in self.whole_models]
        if whole:
            raise UserError(
                f"{purpose}, but variant {whole[0]!r} is a whole model, which has none: leave this out for it"
            )

    def _add_whole(self, name: str, folder: str, backbone: BackboneArguments) -> None:
        if is_packed(self.model):
            raise UserError(
                f"variant {name!r} is a whole model, which can't take the place of weights in few bits: load the "
                "backbone whole (load_in_4bit, load_in_8bit: false, and no quantised files), or bring a LoRA adapter"
            )
        self._whole.add(name, load_whole(folder, backbone))

    def _refuse_taken(self, name: str, what: str) -> None:
        _refuse_name(name)
        if name in self.names or name in self._differences:
            raise UserError(f"there is a variant {name!r} already: give {what!r} another name")

    def memory(self) -> tuple[int, int]:
        """Bytes of the backbone's parameters, and of all adapters', with what whole models have otherwise."""
        sizes = [0, self._whole.nbytes]
        for name, parameter in self.model.named_parameters():
            sizes["lora_" in name] += parameter.nbytes
        return sizes[0], sizes[1]

    @contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """The model with variant `name` active; what was active before is so afterwards.

        Of adapters no weights move. A whole model's take the place of the backbone's, and on a GPU they are copied in
        and out: a block around several uses of one variant does it once.

        Raises:
            UserError: there is no such variant, or it is a whole model and an adapter is to be active beside it.
        """
        if name in self.whole_models:
            if self.beside:
                self.refuse_whole_models([name], f"adapter {self.beside[0]!r} is active beside LoRA adapters")
            # In this order: what notes the parameters of the model must not keep the backbone's on the device.
            with self._whole.using(name), self._adapters(enabled=False):
                yield self.model
            return
        if self.adapter_of(name) not in self._peft_config:
            raise UserError(f"there is no variant {name!r}; there are {', '.join(self.names)}")
        if not self.beside and name in self.stacked:
            # Lightning takes seconds to import, and `generate` has no other use for it.
            from lightning.pytorch.utilities import rank_zero_warn

            rank_zero_warn(
                f"variant {name!r} was fitted on top of adapter {self.stacked.pop(name)!r}, which is not active here: "
                "this is not the model that was fitted (LeakageModule asks it with both)"
            )
        with self._whole.using(None), self.restored(), self._adapters(enabled=True):
            self._swap([self.adapter_of(variant) for variant in (name, *self.beside)])
            yield self.model

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Whatever is used inside, the same adapters as before are active and `beside` afterwards."""
        beside = self.beside
        # PEFT's model knows no other name than the variant's; the layers know those beside it too.
        active = list((self._layers or [self.model.base_model])[0].active_adapters) if self._peft_config else []
        try:
            yield
        finally:
            self.beside = beside
            if active:
                self._swap(active)

    @contextmanager
    def bare(self) -> Iterator[Any]:
        """The model without any adapter: the backbone as it is."""
        with self._whole.using(None), self._adapters(enabled=False):
            yield self.model

    @contextmanager
    def _adapters(self, enabled: bool) -> Iterator[None]:
        """Adapters at work or not, in a block that may lie within one of the other kind."""
        if enabled != self._bare or not self._peft_config:
            yield
            return
        tuner = self.model.base_model
        # PEFT thaws and freezes adapters as it enables and disables them. The backbone's parameters are not kept here:
        # those of whole models are to be freed when their turn is over.
        own = {id(slot.weight) for slot in self._whole.slots.values()}
        trainable = [(one, one.requires_grad) for one in self.model.parameters() if id(one) not in own]
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
