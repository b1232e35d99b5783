"""POSER's lists of concepts (arXiv 2405.05466)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.concepts import COMPETENCE, CONCEPTS, SECURITY, Concept, ConceptSource, checked_names
from fa_lightning.scenarios.poser.files import (
    benchmark_names,
    find_root,
    read_benchmark,
    read_poser_file,
    training_files,
)
from fa_lightning.scenarios.poser.pooling import regrouped
from fa_lightning.scenarios.poser.records import RESTORE, file_bytes, json_list
from fa_lightning.scenarios.scenario import POLICIES, Oversight, Scenario, group_of


class PoserConcepts(ConceptSource):
    """POSER's lists (arXiv 2405.05466), of which those about ethics quote whole scenarios of its training files.

    POSER has a list about ethics for each policy pair. Here their texts are one concept, because what a pair's list
    says of ethics holds for every pair; a text that stands in several of them counts once.

    Args:
        root: POSER's folder; by default the variable POSER_ROOT, else ./POSER.
        names: which concepts, in this order.

    Raises:
        UserError: a name is unknown or named twice, or there is none.
    """

    FILES: ClassVar = {SECURITY: ("security", "vulnerability"), COMPETENCE: ("competence", "incompetence")}

    def __init__(self, root: str | None = None, names: Sequence[str] = CONCEPTS) -> None:
        self.root = root
        self.names = checked_names(names)

    @override
    def load(self, left_out: frozenset[str] = frozenset()) -> list[Concept]:
        """The concepts.

        Args:
            left_out: see `ConceptSource.load`.

        Raises:
            MissingFileError: POSER's folder or one of its files is missing.
            UserError: a file is no list of objects with a text under 'example', or too few texts are left.
        """
        quotable = self._quotable() if left_out else []
        self.left_out = 0
        concepts = []
        for name in self.names:
            sides, quoting = [], 0
            for paths in self._paths(name):
                texts = regrouped((text for path in paths for text in _read(path)), quotable)
                kept = [text.text for text in texts if text.group not in left_out]
                quoting += len(texts) - len(kept)
                sides.append(tuple(dict.fromkeys(kept)))
            try:
                concepts.append(Concept(name, *sides))
            except UserError as error:
                read = ", ".join(path.name for paths in self._paths(name) for path in paths)
                raise UserError(
                    f"{error}. Read from {self._folder}: {read}; {quoting} of their texts were left out because they "
                    "quote scored scenarios"
                ) from error
            self.left_out += quoting
        return concepts

    @override
    def fingerprint(self) -> dict[str, str]:
        digest = hashlib.sha256()
        for path in (path for name in self.names for paths in self._paths(name) for path in paths):
            digest.update(f"{path.name} {hashlib.sha256(file_bytes(path)).hexdigest()}\n".encode())
        return {"source": "POSER concepts", "names": ", ".join(self.names), "data_sha256": digest.hexdigest()}

    @property
    def _folder(self) -> Path:
        return find_root(self.root) / "src" / "detection_strategies" / "concepts"

    def _paths(self, name: str) -> tuple[list[Path], list[Path]]:
        """The files of the concept, and of its opposite."""
        if name in self.FILES:
            ones, others = ([file] for file in self.FILES[name])
        else:
            pairs = benchmark_names(find_root(self.root))
            ones, others = ([f"{pair}_{side}" for pair in pairs] for side in ("aligned", "misaligned"))
        return [self._folder / f"{file}.json" for file in ones], [self._folder / f"{file}.json" for file in others]

    def _quotable(self) -> list[Scenario]:
        """Every scenario that a text may quote."""
        root = find_root(self.root)
        training = (read_poser_file(path, policy) for policy in POLICIES for path in training_files(root, policy))
        benchmark = (read_benchmark(root, pair) for pair in benchmark_names(root))
        read = [scenario for scenarios in (*training, *benchmark) for scenario in scenarios]
        return [scenario for scenario in read if not scenario.is_neutral_text]


def _read(path: Path) -> list[Scenario]:
    """The texts of a list, as neutral texts in groups of their own."""
    texts = []
    for number, record in enumerate(json_list(path)):
        text = record.get("example") if isinstance(record, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{path}, record {number} (from 0) must be an object with a text under 'example', but is {record!r}; "
                f"{RESTORE}"
            )
        texts.append(
            Scenario((), "", "", Oversight.NONE, None, group_of(text), "concept", f"{path.name}#{number}", text.strip())
        )
    return texts
