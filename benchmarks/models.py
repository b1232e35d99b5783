"""What every row runs on: POSER prompts, and a random-weight Llama with two LoRA adapters, saved in a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fa_lightning.backbones.adapters import attach_adapter, save_adapter
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.curriculum import ANSWER_WORDS
from fa_lightning.backbones.load import load_backbone, load_tokenizer
from fa_lightning.backbones.tokenizer import train_tokenizer
from fa_lightning.backbones.variants import VARIANTS, Variants
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Example, make_examples
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.poser.source import PoserScenarios
from fa_lightning.scenarios.scenario import Scenario

REPOSITORY = Path(__file__).resolve().parent.parent
LORA = LoraArguments()


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int = 512
    layers: int = 8
    heads: int = 8
    intermediate: int = 1408
    vocabulary: int = 32000

    def __str__(self) -> str:
        return (
            f"Llama of random weights, hidden {self.hidden}, {self.layers} layers, intermediate {self.intermediate}, "
            f"vocabulary {self.vocabulary}, float32"
        )


FULL = Shape()
QUICK = Shape(hidden=256, layers=6, heads=4, intermediate=704, vocabulary=8000)
TINY = Shape(hidden=32, layers=4, heads=2, intermediate=64, vocabulary=800)
LLAMA_2_7B = Shape(hidden=4096, layers=32, heads=32, intermediate=11008, vocabulary=32000)


@dataclass
class Workshop:
    """The model, its adapters and its prompts.

    Attributes:
        shape: of the model.
        backbone: folder of the model and its tokenizer.
        adapters: folder of each variant's adapter.
        scenarios: what is asked, in the data's own order.
        source: what the scenarios are, in words.
    """

    shape: Shape
    backbone: str
    adapters: dict[Any, str]
    scenarios: list[Scenario]
    source: str

    @property
    def layer(self) -> int:
        """The block after which half of the blocks have run."""
        return self.shape.layers // 2 - 1

    def variants(self) -> Variants:
        """One backbone in memory with both adapters."""
        return Variants.load(self.adapters, BackboneArguments(self.backbone))

    def examples(self, count: int | None = None) -> list[Example]:
        """The first `count` prompts as token ids."""
        tokenizer = load_tokenizer(self.backbone)
        return make_examples(self.scenarios[:count], tokenizer, letter_tokens(tokenizer))


def poser_root() -> str | None:
    """POSER's folder: the variable POSER_ROOT, else ../shared/poser, else ./POSER; None where there is none."""
    for candidate in (os.environ.get("POSER_ROOT"), REPOSITORY.parent / "shared" / "poser", REPOSITORY / "POSER"):
        if candidate and (Path(candidate) / "data" / "training").is_dir():
            return str(candidate)
    return None


def prompts(count: int, embedded: bool = False) -> tuple[list[Scenario], str]:
    """Scenarios and what they are: POSER's where it is found, else generated ones."""
    root = None if embedded else poser_root()
    if root is not None:
        splits = PoserScenarios(root).load()
        found, name = [*splits.train, *splits.validation, *splits.test], "POSER"
    else:
        found, name = EmbeddedScenarios(train=count).load().train, "generated (POSER was not found)"
    # The files hold one policy's scenarios after the other's: without a shuffle the first ones would be no sample.
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    return [found[index] for index in order[:count]], name


def build(folder: Path, shape: Shape, count: int, embedded: bool = False) -> Workshop:
    """Save the model and its adapters in `folder`.

    The weights are drawn, but for the head, which knows little but the letters, so that the answers differ from prompt
    to prompt and from twin to twin.

    Args:
        folder: an empty folder.
        shape: of the model.
        count: scenarios wanted.
        embedded: take generated scenarios even where POSER is found.
    """
    scenarios, source = prompts(count, embedded)
    tokenizer = train_tokenizer([item.message() for item in scenarios], min(shape.vocabulary, 2000), ANSWER_WORDS)
    backbone = folder / "backbone"
    model = random_llama(shape, pad_token_id=tokenizer.pad_token_id)
    answers = letter_tokens(tokenizer)
    with torch.no_grad():
        direction = 0.2 * torch.randn(shape.hidden)
        model.lm_head.weight.mul_(0.05)
        model.lm_head.weight[answers.choices[0]] = direction
        model.lm_head.weight[answers.choices[1]] = -direction
    model.save_pretrained(str(backbone))
    tokenizer.save_pretrained(str(backbone))
    for name in VARIANTS:
        twin = attach_adapter(load_backbone(str(backbone)), name, LORA)
        with torch.no_grad():
            for parameter in twin.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.05)
        save_adapter(twin, name, folder / name, {"behaviour": name})
    return Workshop(shape, str(backbone), {name: str(folder / name) for name in VARIANTS}, scenarios, source)


def random_llama(shape: Shape, seed: int = 0, **options: Any) -> Any:
    """A Llama of random weights, on the default device and in the default dtype."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=4096,
        initializer_range=0.05,
        tie_word_embeddings=False,
        **options,
    )
    return LlamaForCausalLM(config).eval()
