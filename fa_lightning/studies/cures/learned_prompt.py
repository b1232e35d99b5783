"""A learned prefix as an input: read from the folder that its fit wrote, and refused where it was made for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.backbones.load import check_fingerprint
from fa_lightning.errors import UserError
from fa_lightning.scenarios.prompts import Tokenizer
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.studies.cures.inputs import InputCure, Prompted
from fa_lightning.training.learned_prompts import Slot, read_prompt


class LearnedPrompt(InputCure):
    """A prefix that a fit has found, a text or embeddings, from its folder.

    Args:
        folder: that `PromptExport` wrote.
        name: of its row; None takes the method's.

    Attributes:
        facts: what the folder's `prompt.json` says.
        vectors: embeddings (tokens, hidden) of a soft prompt; None for a text.
    """

    def __init__(self, folder: str, name: str | None = None) -> None:
        self.folder = folder
        self.name = name or ""
        self.facts: dict[str, Any] = {}
        self.vectors: Tensor | None = None
        self.slot: Slot | None = None
        self._given_name = name

    @override
    def prepare(self, train: Sequence[Scenario], tokenizer: Tokenizer) -> None:
        self.facts, self.vectors = read_prompt(Path(self.folder))
        self.name = self._given_name or str(self.facts["name"])
        self.needs = tuple(self.facts["needs"])
        self.slot = Slot.of(tokenizer, self.facts["text"])
        if self.vectors is not None and len(self.vectors) != len(self.slot.tokens):
            raise UserError(
                f"{self.folder}: {len(self.vectors)} embeddings for a place of {len(self.slot.tokens)} tokens, so it "
                "was fitted with another tokenizer: fit it again"
            )

    def check_made_for(self, fingerprint: Mapping[str, str], faker: str) -> None:
        """Refuse a prefix of another backbone, or one that was fitted for another faker.

        Args:
            fingerprint: of the loaded backbone.
            faker: adapter folder of the one that is to be cured.

        Raises:
            UserError: naming what differs.
        """
        check_fingerprint(dict(fingerprint), self.facts.get("fingerprint", {}), f"prefix {self.folder!r}")
        start, digest = self.facts.get("start_from", faker), self.facts.get("start_from_digest")
        same = digest_of_artefact(faker) == digest if digest else Path(start).resolve() == Path(faker).resolve()
        if not same:
            again = " as it is now" if Path(start).resolve() == Path(faker).resolve() else ""
            raise UserError(
                f"the prefix {self.folder!r} was fitted for the faker {start!r}, but {faker!r}{again} is to be cured: "
                "fit one for it, or name the other faker"
            )

    @override
    def around(self, message: str) -> Prompted:
        if not self.facts:
            raise ValueError(f"the prefix of {self.folder} is not read yet: call prepare(train, tokenizer) first")
        return Prompted(f"{self.facts['text']}\n{message}")
