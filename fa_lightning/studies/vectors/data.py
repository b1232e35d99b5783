"""The vectors that are tried: by concept, kind of pairs and draw, and random ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import lightning.pytorch as pl
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.vectors.concepts import SHIPPED, Concept, Drawn, read_concept
from fa_lightning.studies.vectors.result import KINDS, RANDOM


@dataclass(frozen=True)
class Draw:
    """What one vector at each layer is made of.

    Attributes:
        concept: name; empty of a random vector.
        kind: of the pairs, or `random`.
        number: of the draw, from 0.
    """

    concept: str
    kind: str
    number: int


class VectorsDataModule(pl.LightningDataModule):
    """Serves the numbers of the draws; `draws` says what each is.

    Args:
        concepts: names of those that ship, or YAML files in their layout.
        draws: of pairs for each concept and kind, and random vectors.
        pairs: in a draw.
        prompts: of each concept, behind which texts are written.
        seed: of the draws.

    Raises:
        UserError: a number is below 1, a concept is named twice or there is none.
    """

    def __init__(
        self,
        concepts: list[str] = list(SHIPPED),  # noqa: B006
        draws: int = 5,
        pairs: int = 6,
        prompts: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("draws", draws), ("pairs", pairs), ("prompts", prompts)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be 1 or more")
        self.names, self.pairs, self.prompts, self.seed = list(concepts), pairs, prompts, seed
        self.concepts: list[Concept] = []
        self.number = draws

    def source_fingerprint(self) -> dict[str, str]:
        """The texts of the concepts."""
        self.read()
        return {"texts": hashlib.sha256(repr(self.concepts).encode()).hexdigest()}

    def read(self) -> list[Concept]:
        """The concepts.

        Raises:
            MissingFileError: a file does not exist.
            UserError: a file is not what it must be, a name comes twice, or there are too few pairs to draw from.
        """
        if self.concepts:
            return self.concepts
        concepts = [read_concept(name) for name in self.names]
        names = [concept.name for concept in concepts]
        if not concepts or len(set(names)) < len(names):
            raise UserError(
                f"concepts is {self.names}: name at least one, and each once (a file is called by its stem)"
            )
        for concept in concepts:
            for kind in KINDS:
                concept.draws(kind, self.pairs, self.number, self.seed)
        self.concepts = concepts
        return concepts

    @property
    def draws(self) -> list[Draw]:
        """Those of each concept and kind, then the random ones."""
        of_pairs = [
            Draw(concept.name, kind, number)
            for concept in self.read()
            for kind in KINDS
            for number in range(self.number)
        ]
        return [*of_pairs, *(Draw("", RANDOM, number) for number in range(self.number))]

    def drawn(self, draw: Draw) -> Drawn:
        """The pairs of a draw that is not random, and those that it leaves out."""
        (concept,) = (one for one in self.read() if one.name == draw.concept)
        return concept.draws(draw.kind, self.pairs, self.number, self.seed)[draw.number]

    @override
    def test_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        numbers = [{"index": index} for index in range(len(self.draws))]
        ranks = (self.trainer.world_size, self.trainer.global_rank)
        return DataLoader(numbers, sampler=DistributedSampler(numbers, *ranks, shuffle=False))  # type: ignore[arg-type]
