"""Memory and arithmetic of every stage, as formulas of a model's shape; `benchmarks.scale_confirm` measures them.

Bytes are plain bytes (1 GB is 1e9), FLOPs count a multiply and an add as two, tokens include padding. The frozen
backbone is in bfloat16 or nf4, LoRA and its optimizer in float32; the fit runs under `bf16-mixed`, all after it without
autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from benchmarks.scale_shapes import FULL, Lora, Shape
from fa_lightning.metrics.divergences import PIECE_BYTES

COMPUTE = 2
"""Bytes of a value that autocast has made bfloat16."""

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in nf4: 4 bits, an 8-bit scale for 64 weights, a float32 scale for 256 of those scales."""

NF4_TABLES = (16 + 256 + 1) * 4
"""Bytes of the two code tables and the offset that each 4-bit layer holds."""

SAME_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Linear layers that read the tensor of another."""

ROW_BYTES = 8 + 4 + 1 + 8 + 1
"""Bytes of a store's row vectors: example, position, decision, group and cell of a token."""


def weight_bytes(shape: Shape, four_bit: bool = False, fitted: bool = False) -> float:
    """The frozen backbone, in bfloat16 or nf4.

    Args:
        shape: of the model.
        four_bit: blocks in nf4; the rest in bfloat16.
        fitted: a fit on a 4-bit backbone (PEFT's preparation) makes the rest float32.
    """
    if not four_bit:
        return COMPUTE * shape.parameters
    blocks = shape.layers * (NF4_BYTES * shape.block_weights + NF4_TABLES * len(shape.linears))
    return blocks + (FULL if fitted else COMPUTE) * shape.other_weights


def block_saved_bytes(
    shape: Shape, lora: Lora, tokens: int, four_bit: bool = False, checkpointing: bool = False
) -> float:
    """What one block keeps for its backward pass, for each token of a prompt of `tokens` tokens.

    Frozen layers keep nothing: their inputs are needed for weight gradients alone. What is left are the two norms
    (float32), queries, keys, values and output of attention (keys and values repeated to all heads, since prompts are
    padded), its mask, three tensors of the MLP, and each adapter's input (with the dropout's mask, a byte a value on
    CUDA). Adapters that read one bfloat16 tensor as it is keep it once: those of queries, keys and values, and those of
    the MLP's two first layers (see `fa_lightning.backbones.lean_steps`, which checkpointing goes without).
    """
    stream = FULL if four_bit else COMPUTE
    norms = 2 * FULL * (shape.hidden + 1)
    attention = COMPUTE * (4 * shape.hidden + tokens) + FULL * shape.heads
    mlp = 3 * stream * shape.intermediate
    mask = 1 if lora.dropout else 0
    copied = bool(lora.dropout or four_bit or checkpointing)
    inputs = lora.targets if copied else {SAME_INPUT.get(target, target) for target in lora.targets}
    adapters = sum((COMPUTE + mask) * shape.linears[read][0] for read in inputs)
    adapters += COMPUTE * lora.rank * len(lora.targets)
    return norms + attention + mlp + adapters


def saved_bytes(
    shape: Shape, lora: Lora, rows: int, tokens: int, four_bit: bool = False, checkpointing: bool = False
) -> float:
    """What a fit's forward pass keeps for the backward pass, of a batch of `rows` prompts of `tokens` tokens.

    With gradient checkpointing that is one state for each token and block. Logits are made for the answers alone; a
    float32 head (see `weight_bytes`) is copied to bfloat16 for them.
    """
    stream = FULL if four_bit else COMPUTE
    last_norm, answers = FULL * (shape.hidden + 1), rows * shape.vocabulary * FULL + _head_copy(shape, four_bit)
    if checkpointing:
        return rows * tokens * (shape.layers * stream * shape.hidden + last_norm) + answers
    # The first norm keeps nothing, since embeddings get no gradient; rotary angles are kept once.
    angles = 2 * (FULL if four_bit else COMPUTE) * shape.head_dim
    per_token = shape.layers * block_saved_bytes(shape, lora, tokens, four_bit) + angles
    # Autocast's bfloat16 copies of the adapter live as long as the graph.
    return rows * tokens * per_token + answers + COMPUTE * lora.parameters(shape)


def step_bytes(
    shape: Shape, lora: Lora, rows: int, tokens: int, four_bit: bool = False, checkpointing: bool = False
) -> float:
    """Peak of a fit's step beside weights, gradients and optimizer: what is kept, and one block's backward pass."""
    stream = FULL if four_bit else COMPUTE
    # Gradients of the MLP's three tensors, and of the state in both its dtypes as it passes the norm.
    working = rows * tokens * (3 * stream * shape.intermediate + (2 * FULL + COMPUTE) * shape.hidden)
    if checkpointing:
        working += rows * tokens * block_saved_bytes(shape, lora, tokens, four_bit, checkpointing)
    if four_bit:
        # One layer's weights at a time are unpacked.
        working += COMPUTE * shape.hidden * shape.intermediate
    saved = saved_bytes(shape, lora, rows, tokens, four_bit, checkpointing)
    # The head's copy is gone by the time that blocks go backward.
    return max(saved, saved - _head_copy(shape, four_bit) + working)


def fit_bytes(
    shape: Shape,
    lora: Lora,
    rows: int,
    tokens: int,
    four_bit: bool = False,
    checkpointing: bool = False,
    shards: int = 1,
) -> float:
    """Device memory of a fit; `shards` is the number of GPUs that FSDP cuts the weights over (1 for DDP)."""
    weights, adapter = weight_bytes(shape, four_bit, fitted=True), lora.training_bytes(shape)
    if shards > 1:
        # The block at work and the one fetched ahead are whole, and so are embedding and head.
        whole = COMPUTE * (2 * shape.block_weights + shape.other_weights)
        weights, adapter = weights / shards + whole, adapter / shards
    return weights + adapter + step_bytes(shape, lora, rows, tokens, four_bit, checkpointing)


def forward_flops(
    shape: Shape, lora: Lora, rows: int, tokens: int, layers: int | None = None, logits: int | None = None
) -> float:
    """One forward pass with an adapter.

    Args:
        shape: of the model.
        lora: the adapter.
        rows: prompts.
        tokens: of each, with padding. Attention is counted in full, as masked kernels compute it.
        layers: blocks that run; None is all.
        logits: positions of each prompt that get logits; None is the answer's alone.
    """
    return (shape.layers if layers is None else layers) * _block_flops(shape, lora, rows, tokens) + (
        2 * rows * (1 if logits is None else logits) * shape.hidden * shape.vocabulary
    )


def fit_flops(shape: Shape, lora: Lora, rows: int, tokens: int, checkpointing: bool = False) -> float:
    """Forward and backward pass of a fit.

    Frozen layers have no weight gradient, so their backward pass costs one forward pass, not two; that of attention
    costs 2.5, since it makes the scores again. Checkpointing adds a forward pass but for its last product.
    """
    count = rows * tokens
    attention, adapters = _attention_flops(shape, rows, tokens), _adapter_flops(shape, lora, rows, tokens)
    block = 4 * count * shape.block_weights + 3.5 * attention + 3 * adapters
    total = shape.layers * block + 4 * rows * shape.hidden * shape.vocabulary
    if checkpointing:
        again = _block_flops(shape, lora, rows, tokens) - 2 * count * shape.hidden * shape.intermediate
        return total + shape.layers * again
    # Nothing below the first block's adapters asks for a gradient.
    first = ("q_proj", "k_proj", "v_proj")
    frozen = sum(2 * count * shape.linears[name][0] * shape.linears[name][1] for name in first)
    return total - frozen - sum(2 * count * lora.rank * shape.hidden for name in first if name in lora.targets)


def capture_flops(shape: Shape, lora: Lora, rows: int, tokens: int, deepest: int, variants: int = 2) -> float:
    """Every variant's forward pass, up to the block `deepest` (from 0) and no further; no logits."""
    return variants * forward_flops(shape, lora, rows, tokens, layers=deepest + 1, logits=0)


def evaluation_flops(
    shape: Shape, lora: Lora, rows: int, tokens: int, edits: Sequence[int], logits: int | None = None
) -> float:
    """One variant's unsteered pass and its edits, each from its own layer on.

    Args:
        shape: of the model.
        lora: the adapter.
        rows: prompts.
        tokens: of each, with padding.
        edits: for each edit the layer (from 0) of its site on the residual stream.
        logits: positions that get logits: the answer alone (None) for scenarios, all of them for neutral texts.
    """
    passes = [shape.layers, *(shape.layers - layer - 1 for layer in edits)]
    whole = sum(forward_flops(shape, lora, rows, tokens, layers, logits) for layers in passes)
    if logits is not None:
        return whole
    # The last block's MLP runs on the answer's token alone, but where that block's output is kept for an edit of it.
    narrowed = sum(layers > 0 for layers in passes) - (shape.layers - 1 in edits)
    return whole - narrowed * _mlp_flops(shape, lora, rows * (tokens - 1))


def capture_bytes(shape: Shape, rows: int, tokens: int, sites: int, four_bit: bool = False) -> float:
    """Device memory of a capture beside weights and adapters: a variant's states at all sites, and a block at work."""
    working = rows * tokens * COMPUTE * (3 * shape.intermediate + 2 * shape.hidden)
    unpacked = COMPUTE * shape.hidden * shape.intermediate if four_bit else 0
    return rows * tokens * sites * COMPUTE * shape.hidden + working + unpacked


def shard_host_bytes(
    shape: Shape, rows: int, tokens: int, sites: int, store_bytes: int = 2, variants: int = 2
) -> float:
    """Host memory of a shard while a rank writes it.

    All variants' states, their copy in the store's dtype, and the file twice: as safetensors makes it and as Python
    takes it over.
    """
    return variants * rows * tokens * sites * shape.hidden * (COMPUTE + 3 * store_bytes)


def store_size(tokens: float, sites: int, hidden: int, value_bytes: int = 2, variants: int = 2) -> float:
    """A store on disk: the variants' states at every site, and the row vectors.

    >>> store_size(1e6, 1, 4096) / 1e9
    16.406
    """
    return tokens * (variants * sites * hidden * value_bytes + ROW_BYTES)


def evaluation_bytes(
    shape: Shape, rows: int, tokens: int, layers_kept: int, piece: float = PIECE_BYTES["gpu"]
) -> float:
    """Device memory of judging neutral texts: steered and unsteered logits of all tokens, a piece in float32, states.

    Args:
        shape: of the model.
        rows: texts in a batch.
        tokens: of each.
        layers_kept: layers that edits start from; a state of each token is kept for each.
        piece: bytes of float32 scores that are compared at once.
    """
    logits = COMPUTE * shape.vocabulary * rows * tokens
    compared = min(piece, FULL * shape.vocabulary * rows * (tokens - 1))
    # Both log-probabilities, the first one's exponential, their difference, and the product of the two.
    return 2 * logits + 5 * compared + layers_kept * rows * tokens * COMPUTE * shape.hidden


def moment_bytes(hidden: int) -> float:
    """The streamed sums of one kind of pairs at one site: two float64 matrices (and vectors).

    >>> round(moment_bytes(4096) / 1e9, 2)
    0.27
    """
    return 8 * (2 * hidden**2 + 6 * hidden + 1)


def solve_bytes(hidden: int) -> float:
    """Working memory of one closed solution beside its moments: float64 matrices, one map at a time."""
    return 8 * 7 * hidden**2


def moment_flops(rows: float, hidden: int) -> float:
    """Adding `rows` pairs to one set of sums on a GPU: two products in float32 (never TensorFloat-32)."""
    return 4 * rows * hidden**2


def map_flops(rows: float, hidden: int, width: int) -> float:
    """A step of a perceptron with one inner layer on `rows` pairs, in float32: no gradient is asked of its input."""
    return 10 * rows * hidden * width


def gathered_bytes(shape: Shape, shards: int) -> float:
    """What each GPU receives in a step of FSDP: all weights, once forward and once backward, but its own share."""
    return 2 * COMPUTE * shape.parameters * (shards - 1) / shards


def reduced_bytes(size: float, ranks: int) -> float:
    """What each GPU sends to sum tensors of `size` bytes over all ranks, round the ring: DDP's gradients, moments."""
    return 2 * size * (ranks - 1) / ranks


def steps(items: int, batch: int, ranks: int = 1) -> int:
    """Steps (or shards) that the busiest rank makes.

    >>> steps(1700, 64, 8), steps(1700, 64, 64)
    (4, 1)
    """
    return ceil(items / (batch * ranks))


def _head_copy(shape: Shape, four_bit: bool) -> int:
    return COMPUTE * shape.vocabulary * shape.hidden if four_bit else 0


def _block_flops(shape: Shape, lora: Lora, rows: int, tokens: int) -> float:
    products = 2 * rows * tokens * shape.block_weights
    return products + _attention_flops(shape, rows, tokens) + _adapter_flops(shape, lora, rows, tokens)


def _mlp_flops(shape: Shape, lora: Lora, tokens: int) -> float:
    """One block's MLP with its adapters."""
    flops = 0.0
    for name in ("gate_proj", "up_proj", "down_proj"):
        sides = shape.linears[name]
        flops += 2 * tokens * (sides[0] * sides[1] + (lora.rank * sum(sides) if name in lora.targets else 0))
    return flops


def _attention_flops(shape: Shape, rows: int, tokens: int) -> float:
    return 4 * rows * tokens**2 * shape.hidden


def _adapter_flops(shape: Shape, lora: Lora, rows: int, tokens: int) -> float:
    return 2 * rows * tokens * lora.parameters(shape) / shape.layers
