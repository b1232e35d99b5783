"""The formulas of `benchmarks.scale_formulas` beside what the project's own modules do on small random Llamas."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import scale_formulas as formulas
from benchmarks.scale_meters import flops_of, peak_bytes_of, saved_bytes_of
from benchmarks.scale_shapes import SHAPES, Lora, Shape
from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.record import plan_shards, record
from fa_lightning.activations.sites import Site
from fa_lightning.activations.store_writer import StoreWriter
from fa_lightning.backbones.adapters import attach_adapter, save_adapter
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments, OptimizerArguments
from fa_lightning.backbones.load import load_backbone
from fa_lightning.backbones.optimization import adamw_with_warmup
from fa_lightning.backbones.variants import VARIANTS, Variants
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.scores import Scores
from fa_lightning.metrics.divergences import PIECE_BYTES
from fa_lightning.regressors.linear import Affine, MeanShift
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.regressors.networks import ResidualMLP
from fa_lightning.scenarios.batches import Batch, Example, collate, model_inputs
from fa_lightning.steering.intervention import Intervention
from fa_lightning.training.module import AdapterModule
from fa_lightning.training.objectives.answers import Answers

SMALL = (
    Shape("small", 128, 344, 2, 4, 4, 1000),
    Shape("grouped heads", 256, 704, 4, 8, 2, 2000),
    Shape("larger", 512, 1408, 8, 8, 8, 8000),
)
LORA = Lora(rank=8, targets=("q_proj", "v_proj"))
ROWS, TOKENS = 4, 64


@dataclass(frozen=True)
class Check:
    """One formula against one measurement.

    Attributes:
        what: is counted.
        size: name of the small model.
        formula: what the formula says.
        measured: what the code does.
        tolerance: relative error that is accepted.
    """

    what: str
    size: str
    formula: float
    measured: float
    tolerance: float = 0.01

    @property
    def error(self) -> float:
        """Of the formula, relative to the measurement."""
        return self.formula / self.measured - 1


def confirm(shapes: Sequence[Shape] = SMALL) -> Iterator[Check]:
    """Every check on every small model; nothing is timed."""
    yield from real_parameters()
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder, drawn(shape, Path(folder)) as backbone:
            yield from fit_checks(shape, backbone)
            yield from later_checks(shape, backbone)
        yield from moment_checks(shape)


def real_parameters() -> Iterator[Check]:
    """The shapes of the real models, built without weights."""
    for shape in SHAPES:
        with torch.device("meta"):
            model = llama(shape)
        yield Check("parameters", shape.name, shape.parameters, model.num_parameters(), 0)


def fit_checks(shape: Shape, backbone: str) -> Iterator[Check]:
    """The behaviours stage: what is trained, what a step keeps and at most holds, what it computes."""
    batch = prompts(shape)
    for four_bit in (False, True):
        for checkpointing in (False, True):
            kind = f"{'nf4' if four_bit else 'bfloat16'}{', checkpointing' if checkpointing else ''}"
            module = fitted_module(backbone, four_bit, checkpointing)
            frozen, trained = tensors_of(module)
            if not checkpointing:
                held = sum(tensor.nbytes for tensor in frozen)
                yield Check(f"weights, {kind}", shape.name, formulas.weight_bytes(shape, four_bit, True), held)

            def step(module: AdapterModule = module) -> None:
                forward(module, batch).backward()

            arguments = (shape, LORA, ROWS, TOKENS, four_bit, checkpointing)
            saved = saved_bytes_of(lambda module=module: forward(module, batch), [*frozen, *trained])
            yield Check(f"kept for the backward pass, {kind}", shape.name, formulas.saved_bytes(*arguments), saved)
            step()
            gradients = [tensor.grad for tensor in trained if tensor.grad is not None]
            peak = peak_bytes_of(step, [*frozen, *trained, *gradients])
            yield Check(f"peak of a step, {kind}", shape.name, formulas.step_bytes(*arguments), peak, 0.1)
            if four_bit:
                continue
            counted = formulas.fit_flops(shape, LORA, ROWS, TOKENS, checkpointing)
            yield Check(f"FLOPs of a step, {kind}", shape.name, counted, flops_of(step))
            if not checkpointing:
                optimizer = adamw_with_warmup(trained, OptimizerArguments(1e-3, 0.0, 0.05), 10)["optimizer"]
                optimizer.step()
                moments = [value for state in optimizer.state.values() for value in state.values()]
                held = sum(tensor.nbytes for tensor in [*trained, *gradients, *moments])
                yield Check("adapter, gradients, AdamW", shape.name, LORA.training_bytes(shape), held)


def later_checks(shape: Shape, backbone: str) -> Iterator[Check]:
    """Stage 4 before the maps: capture, store and evaluation."""
    home = Path(backbone).parent
    adapters = {name: str(save_random_adapter(backbone, name, home)) for name in VARIANTS}
    file = (home / "faking" / "adapter_model.safetensors").stat().st_size
    # The names of the tensors weigh something in so small a file.
    yield Check("adapter file", shape.name, LORA.bytes(shape), file, 0.05)
    variants = Variants.load(adapters, BackboneArguments(backbone, dtype="bfloat16"))
    known = [*variants.model.parameters(), *variants.model.buffers()]
    batch, examples = prompts(shape), drawn_examples(shape)
    sites = [Site(layer) for layer in range(shape.layers - 1)]

    def capture_all() -> None:
        with torch.inference_mode(), variants.using("faking") as model:
            truncated_forward(model, sites, **model_inputs(batch))

    expected = formulas.capture_bytes(shape, ROWS, TOKENS, len(sites))
    yield Check("peak of a capture", shape.name, expected, peak_bytes_of(capture_all, known), 0.1)
    plan = plan_shards({"train": examples}, ROWS)
    for dtype, size in (("float16", 2), ("float32", 4)):
        store = home / dtype
        writer = StoreWriter(store, {}, [site.name for site in sites], dtype=dtype)
        counted = flops_of(lambda writer=writer: record(variants, writer, plan, sites, decision_only=False))
        tokens = sum(len(example.prompt) for example in examples)
        written = sum(path.stat().st_size for path in store.glob("*.safetensors"))
        sized = formulas.store_size(tokens, len(sites), shape.hidden, size)
        yield Check(f"store, {dtype}", shape.name, sized, written, 0.02)
    deepest = shape.layers - 2
    flops = formulas.capture_flops(shape, LORA, ROWS, TOKENS, deepest)
    yield Check("FLOPs of a capture", shape.name, flops, counted)
    edits = {f"layer {site.layer}": shift_at(shape, site.layer) for site in sites}
    scores = Scores(variants, {"faking": Condition("faking"), **edits})
    layers = [site.layer for site in sites]
    expected = formulas.evaluation_flops(shape, LORA, ROWS, TOKENS, layers)
    yield Check("FLOPs of judging scenarios", shape.name, expected, flops_of(lambda: scores.add_scenarios(batch)))
    expected = formulas.evaluation_flops(shape, LORA, ROWS, TOKENS, layers, logits=TOKENS)
    yield Check("FLOPs of judging texts", shape.name, expected, flops_of(lambda: scores.add_neutral_texts(batch)))
    expected = formulas.evaluation_bytes(shape, ROWS, TOKENS, len(sites), PIECE_BYTES["cpu"])
    peak = peak_bytes_of(lambda: scores.add_neutral_texts(batch), known)
    yield Check("peak of judging texts", shape.name, expected, peak, 0.05)


def moment_checks(shape: Shape) -> Iterator[Check]:
    """The sums that maps are solved from, and the solution."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * shape.hidden, shape.hidden, generator=generator)
    y = x + torch.randn(x.shape, generator=generator) / 10
    moments = PairMoments(shape.hidden)
    # Its products are numpy's on a CPU, which torch's counter does not see.
    moments.add(x, y)
    sums = [value for value in vars(moments).values() if isinstance(value, Tensor)]
    held = sum(tensor.nbytes for tensor in sums)
    yield Check("moments of a kind and site", shape.name, formulas.moment_bytes(shape.hidden), held)
    perceptron = ResidualMLP(shape.hidden, width=64)
    perceptron.standardise(moments)
    flops = flops_of(lambda: perceptron.loss(x, y, torch.ones(len(x))).backward())
    yield Check("FLOPs of a perceptron's step", shape.name, formulas.map_flops(len(x), shape.hidden, 64), flops)
    regressor = Affine(shape.hidden)
    peak = peak_bytes_of(lambda: regressor.fit(moments), [*sums, *regressor.buffers()])
    yield Check("peak of a closed solution", shape.name, formulas.solve_bytes(shape.hidden), peak, 0.05)


def llama(shape: Shape) -> Any:
    """A random model of a shape, on the default device."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    config = (Qwen2Config if shape.qkv_bias else LlamaConfig)(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=512,
    )
    return AutoModelForCausalLM.from_config(config)


@contextmanager
def drawn(shape: Shape, folder: Path) -> Iterator[str]:
    """A random model in bfloat16 and a tokenizer, saved in a folder."""
    from fa_lightning.backbones.tokenizer import train_tokenizer

    torch.manual_seed(0)
    backbone = folder / "backbone"
    llama(shape).to(torch.bfloat16).save_pretrained(str(backbone))
    train_tokenizer(["some words to learn a tokenizer from"], 300, ["A", "B"]).save_pretrained(str(backbone))
    yield str(backbone)


def drawn_examples(shape: Shape) -> list[Example]:
    """Prompts of random tokens, one a little shorter, so that there is padding as in every real batch."""
    generator = torch.Generator().manual_seed(1)
    lengths = [TOKENS - 3, *[TOKENS] * (ROWS - 1)]
    drawn_ids = [
        tuple(torch.randint(0, shape.vocabulary, (length,), generator=generator).tolist()) for length in lengths
    ]
    return [Example(ids, aligned=1, other=2, cell=row % 2, group=row, index=row) for row, ids in enumerate(drawn_ids)]


def prompts(shape: Shape) -> Batch:
    """A batch of those."""
    return collate(drawn_examples(shape), pad_token=0)


def fitted_module(backbone: str, four_bit: bool = False, checkpointing: bool = False, dtype: Any = "bfloat16") -> Any:
    """An AdapterModule with its model."""
    module = AdapterModule(
        Answers("faking"),
        BackboneArguments(backbone, dtype, load_in_4bit=four_bit),
        LoraArguments(rank=LORA.rank, target_modules=list(LORA.targets)),
        gradient_checkpointing=checkpointing,
    )
    module.configure_model()
    return module


def forward(module: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """The loss of a batch under the autocast that `bf16-mixed` gives, with the attention that a GPU has.

    A processor's bfloat16 attention is computed, and kept, in float32: the formulas are those of a GPU.
    """
    as_on_a_gpu = patch("fa_lightning.backbones.lean_steps.AttentionInFloat32", nullcontext)
    with torch.autocast("cpu", torch.bfloat16), as_on_a_gpu:
        loss: Tensor = module.training_step(batch, 0)
    return loss


def tensors_of(module: Any) -> tuple[list[Tensor], list[Tensor]]:
    """What a module holds: frozen tensors (with the scales of 4-bit weights) and trained ones."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in module.model.parameters() if not parameter.requires_grad]
    for parameter in list(frozen):
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            frozen += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return frozen, trained


def save_random_adapter(backbone: str, name: str, home: Path) -> Path:
    """An adapter's folder, as the behaviours stage writes it."""
    model = attach_adapter(
        load_backbone(BackboneArguments(backbone, "bfloat16")),
        name,
        LoraArguments(LORA.rank, 16, 0.0, list(LORA.targets)),
    )
    save_adapter(model, name, home / name, {})
    return home / name


def shift_at(shape: Shape, layer: int) -> Condition:
    """The faker with a constant vector at a layer: an edit that costs no product of its own."""
    return Condition("faking", (Intervention(Site(layer), MeanShift(shape.hidden), 1.0),))
