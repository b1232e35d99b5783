"""What the scale of a run depends on: the model's shape, the adapter, the card."""

from __future__ import annotations

from dataclasses import dataclass

FULL = 4
"""Bytes of a float32: norms compute in it, adapters are kept in it, and a 4-bit backbone's hidden states are in it."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like decoder: SwiGLU, RMSNorm, rotary positions, grouped heads.

    Attributes:
        name: in tables.
        hidden: width of the residual stream.
        intermediate: width of the MLP.
        layers: decoder blocks.
        heads: of the queries.
        kv_heads: of the keys and values.
        vocabulary: tokens.
        tied: whether the head is the embedding.
        qkv_bias: whether queries, keys and values have a bias (Qwen2).
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False
    qkv_bias: bool = False

    @property
    def head_dim(self) -> int:
        """Units of a head."""
        return self.hidden // self.heads

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of a block's linear layers, by name."""
        kv = self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, self.hidden),
            "k_proj": (self.hidden, kv),
            "v_proj": (self.hidden, kv),
            "o_proj": (self.hidden, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def block_weights(self) -> int:
        """Weights of a block's linear layers: what 4-bit loading shrinks."""
        return sum(rows * columns for rows, columns in self.linears.values())

    @property
    def other_weights(self) -> int:
        """Embedding, head, norms and biases of the whole model: what 4-bit loading leaves alone."""
        biases = self.hidden + 2 * self.kv_heads * self.head_dim if self.qkv_bias else 0
        norms = (2 * self.layers + 1) * self.hidden
        return (1 if self.tied else 2) * self.vocabulary * self.hidden + norms + self.layers * biases

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.layers * self.block_weights + self.other_weights


QWEN_HALF = Shape("Qwen2.5-0.5B", 896, 4864, 24, 14, 2, 151_936, tied=True, qkv_bias=True)
QWEN_ONE = Shape("Qwen2.5-1.5B", 1536, 8960, 28, 12, 2, 151_936, tied=True, qkv_bias=True)
LLAMA_7B = Shape("Llama-2-7B", 4096, 11_008, 32, 32, 32, 32_000)
LLAMA_13B = Shape("Llama-2-13B", 5120, 13_824, 40, 40, 40, 32_000)
LLAMA_70B = Shape("Llama-2-70B", 8192, 28_672, 80, 64, 8, 32_000)
SHAPES = (QWEN_HALF, QWEN_ONE, LLAMA_7B, LLAMA_13B, LLAMA_70B)


@dataclass(frozen=True)
class Lora:
    """The adapter of a variant; the default is that of `configs/bases/llama2_7b.yaml`.

    Attributes:
        rank: of the update.
        targets: linear layers that have one, in every block.
        dropout: whether its input passes a dropout, whose mask is kept.
    """

    rank: int = 64
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    dropout: bool = False

    def parameters(self, shape: Shape) -> int:
        """Values of an update: rank x (in + out) for every target of every block.

        >>> Lora().parameters(LLAMA_7B)
        33554432
        """
        return shape.layers * sum(self.rank * sum(shape.linears[target]) for target in self.targets)

    def bytes(self, shape: Shape) -> int:
        """Of the adapter file, and of each adapter that stays loaded beside the backbone; float32."""
        return FULL * self.parameters(shape)

    def training_bytes(self, shape: Shape) -> int:
        """Weights, gradients and AdamW's two moments, float32."""
        return 4 * self.bytes(shape)


@dataclass(frozen=True)
class Card:
    """A GPU as its maker states it, and the links it is usually sold with.

    Attributes:
        name: in tables.
        memory: bytes.
        bf16: dense FLOP/s.
        fp32: FLOP/s without TensorFloat-32.
        node_link: bytes/s into a GPU from the others of its node (NVLink, one direction).
        network_link: bytes/s into a GPU from other nodes (one network card for each GPU).
    """

    name: str
    memory: float
    bf16: float
    fp32: float
    node_link: float
    network_link: float

    def link(self, gpus: int) -> float:
        """The slowest link among so many GPUs, 8 in a node."""
        return self.node_link if gpus <= 8 else self.network_link


A100 = Card("A100 80GB", 80e9, 312e12, 19.5e12, 300e9, 25e9)
H100 = Card("H100 80GB", 80e9, 989e12, 67e12, 450e9, 50e9)
