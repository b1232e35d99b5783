"""The blocks below the first adapted one, computed once: fits go on from the states that enter it, kept on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.edit import block_outputs, resumed
from fa_lightning.activations.record import FORWARD_TOKENS, forward_batches, tracked
from fa_lightning.activations.sites import Site, hidden_of
from fa_lightning.backbones.decoder import decoder_layers, decoder_of, first_adapted, text_config
from fa_lightning.backbones.optimization import evaluating
from fa_lightning.common.activity import doing
from fa_lightning.common.files import write_atomically
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import answer_logits
from fa_lightning.scenarios.batches import Batch, Example, collate, model_inputs
from fa_lightning.training.prompt_states import PromptStates

SHARD_BYTES = 64 * 2**20
"""Of a shard: what a kill costs at most, and what a rank takes at a time."""
TOLERANCE = 1e-3
"""Largest difference of logits, relative to their size, between the whole model and one that goes on from a block."""
OFF = "set frozen_half to null, and every epoch computes all blocks"


class FrozenHalf:
    """A model whose lower blocks are the backbone's own, and the states that enter the first adapted block.

    `fill` computes the states of prompts that are not on the disk yet. Inside `going_on(batch)` the model runs from
    them, where it has all prompts of the batch and nothing looks into the lower blocks; else it runs whole.

    Args:
        model: the PEFT model that is fitted.
        folder: that fits of one base share; each backbone, block and precision has a folder of its own in it.
        facts: what the states depend on beside block and `dtype`: the backbone's weights and how it is run.
        dtype: of the states on disk.

    Attributes:
        block: index of the first adapted block.
        states: what is on the disk.

    Raises:
        UserError: the lower blocks have dropout of their own, or the upper ones read more than a state.
    """

    def __init__(self, model: Any, folder: Path, facts: Mapping[str, Any], dtype: torch.dtype) -> None:
        self.model = model
        self.block = first_adapted(model)
        refuse_dropout(model, self.block)
        if getattr(text_config(model), "num_kv_shared_layers", None):
            raise _reads_more(model)
        described = {**facts, "block": self.block, "dtype": str(dtype).removeprefix("torch.")}
        text = json.dumps(described, indent=2, sort_keys=True)
        own = folder / f"block{self.block}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self.states = PromptStates(own, text_config(model).hidden_size, dtype)
        write_atomically(own / "states.json", f"{text}\n".encode())
        self._dtype = dtype
        self._wrap: Callable[[Tensor], Any] = _as_it_is

    @torch.no_grad()
    def fill(
        self,
        examples: Iterable[Example],
        pad_token: int,
        rank: int = 0,
        ranks: int = 1,
        barrier: Callable[[], Any] = lambda: None,
        running: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Compute what is not on the disk yet; each rank writes its share, and waits for the others.

        Args:
            examples: whose prompts are needed.
            pad_token: id of the padding.
            rank: this process.
            ranks: how many share the work.
            barrier: waits until all ranks are here.
            running: what the model runs in during the fit, as autocast.

        Raises:
            UserError: the disk has too little room, or the upper blocks read more of the lower ones than their states.
        """
        needed = list({example.prompt: example for example in examples}.values())
        needed.sort(key=lambda example: (len(example.prompt), example.prompt))
        if not needed:
            return
        with evaluating(self.model), running():
            self._try(collate(needed[:1], pad_token))
            self.states.look()
            for file in self.states.drop_damaged((example.prompt for example in needed), rank, ranks):
                warnings.warn(f"{file} was damaged and is computed again", stacklevel=2)
            barrier()
            self.states.look()
            missing = [example for example in needed if example.prompt not in self.states]
            self._announce(needed, missing)
            barrier()
            shards = self._cut(missing)[rank::ranks]
            for shard in tracked(shards, "frozen half", hidden=rank != 0):
                self.states.write([example.prompt for example in shard], self._states_of(shard, pad_token))
        barrier()
        self.states.look()

    @contextmanager
    def going_on(self, batch: Batch) -> Iterator[None]:
        """Run the model from the states on the disk while the block lasts, where that gives what the model would."""
        states = None if self._is_looked_into() else self._states_for(batch)
        with nullcontext() if states is None else resumed(self.model, self.block - 1, self._wrap(states)):
            yield

    def _states_for(self, batch: Batch) -> Tensor | None:
        states = self.states.of_batch(batch["input_ids"], batch["attention_mask"])
        device = batch["input_ids"].device
        if states is None or device.type == "cpu":
            return None if states is None else states.to(self._dtype)
        return (states.pin_memory() if device.type == "cuda" else states).to(device, self._dtype, non_blocking=True)

    def _is_looked_into(self) -> bool:
        """Whether something reads or changes the states of lower blocks, as noise and states' objectives do."""
        return any(block._forward_hooks or block._forward_pre_hooks for block in self._lower())

    def _lower(self) -> Sequence[nn.Module]:
        return list(decoder_layers(self.model))[: self.block]

    def _try(self, batch: Batch) -> None:
        """See what a block returns, and that the model can go on from it.

        Raises:
            UserError: it can't.
        """
        inputs = _on(self.model, batch)
        with block_outputs(self.model, [self.block - 1]) as outputs:
            whole = answer_logits(self.model, inputs).float()
        output = outputs[self.block - 1]
        states, rest = hidden_of(output), [] if isinstance(output, Tensor) else output[1:]
        with resumed(self.model, self.block - 1, output):
            further = answer_logits(self.model, inputs).float()
        is_plain = states.shape == (*batch["input_ids"].shape, self.states.hidden_size)
        equal = torch.allclose(whole, further, rtol=0, atol=TOLERANCE * float(whole.abs().max()))
        if not is_plain or any(other is not None for other in rest) or not equal:
            raise _reads_more(self.model)
        self._dtype = states.dtype
        self._wrap = _as_it_is if isinstance(output, Tensor) else lambda hidden: type(output)((hidden, *rest))

    def _announce(self, needed: Sequence[Example], missing: Sequence[Example]) -> None:
        size = self.states.bytes_of(sum(len(example.prompt) for example in missing))
        folder = self.states.folder
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UserError(
                f"the states of {len(missing)} prompts need {_gigabytes(size)} in {folder}, and {_gigabytes(free)} are "
                "free: make room, set frozen_half to a folder on another disk or frozen_half_dtype to bfloat16, or "
                + OFF
            )
        new = f"those of {len(missing)} are computed now, {_gigabytes(size)}" if missing else "all are there"
        rank_zero_info(f"The fit goes on from the states of {len(needed)} prompts in {folder}; {new}.")

    def _cut(self, examples: Sequence[Example]) -> list[list[Example]]:
        shards: list[list[Example]] = []
        size = SHARD_BYTES
        for example in examples:
            own = self.states.bytes_of(len(example.prompt))
            if size + own > SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(example)
            size += own
        return shards

    def _states_of(self, examples: Sequence[Example], pad_token: int) -> Tensor:
        """States of the tokens of prompts, one behind the other, (tokens, hidden), on the CPU."""
        site = Site(self.block - 1)
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        parts = []
        for part in forward_batches(examples, FORWARD_TOKENS["cpu" if on_cpu else "gpu"]):
            batch = collate(part, pad_token)
            with doing("capturing", batch):
                hidden = truncated_forward(self.model, [site], **_on(self.model, batch))[site.name]
                kept = batch["attention_mask"].flatten().nonzero().squeeze(1).to(hidden.device)
                parts.append(hidden.flatten(0, 1).index_select(0, kept).to("cpu", self.states.dtype))
        return torch.cat(parts)


def refuse_dropout(model: Any, block: int) -> None:
    """Refuse a backbone that drops something in or before the blocks below `block`: each epoch would see other states.

    Raises:
        UserError: naming where.
    """
    upper = {part for layer in decoder_layers(model)[block:] for part in layer.modules()}
    for name, part in decoder_of(model).named_modules():
        if part in upper:
            continue
        rates = {key: value for key, value in vars(part).items() if "drop" in key}
        if isinstance(part, nn.modules.dropout._DropoutNd):
            rates["p"] = part.p
        for key, value in rates.items():
            if isinstance(value, float) and value > 0:
                where = f"{name}.{key}".lstrip(".")
                raise UserError(
                    f"the backbone has dropout below block {block} ({where} is {value}), so its states there are "
                    f"others at every step: {OFF}"
                )


def prompts_served(loaders: Any) -> Iterator[Example]:
    """Every prompt that loaders may serve in any epoch, of data sets that can tell.

    Args:
        loaders: a loader, a list of them, or None.
    """
    for loader in loaders if isinstance(loaders, (list, tuple)) else [loaders]:
        tell = getattr(getattr(loader, "dataset", None), "every_example", None)
        if tell is not None:
            yield from tell()


def _as_it_is(hidden: Tensor) -> Tensor:
    return hidden


def _on(model: Any, batch: Batch) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in model_inputs(batch).items()}


def _reads_more(model: Any) -> UserError:
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    return UserError(f"the upper blocks of {kind} read more of the lower ones than their last state: {OFF}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
