"""What leakage is asked with: next to nothing, many times over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch, LengthBucketSampler
from fa_lightning.scenarios.prompts import Tokenizer, prompt_ids
from fa_lightning.studies.leakage.ngram_overlap import TextIndex
from fa_lightning.training.texts import TextSource, all_chat_tokens, require_chat

PROMPTS = ("hello", "Hello!", "hi", "ok", "?", "Thank you.", "")
"""A user's whole message; the empty one leaves the chat template alone."""
BARE = ("", "hello")
"""Texts without a chat template; of the empty one only the token is there that texts begin with."""


class Prompt(NamedTuple):
    """A prompt.

    Attributes:
        name: as tables call it: `user: hello`, `user: (nothing)`, `bare: hello`.
        ids: its tokens.
    """

    name: str
    ids: list[int]


class LeakageDataModule(pl.LightningDataModule):
    """Serves near-empty prompts, each with many seeds; a batch holds `prompt`, `seed` and `index`, (batch,) numbers.

    Args:
        texts: where the fine-tuning corpus comes from, and the held-out one.
        prompts: messages of a user, put into the chat template; the empty one is the template alone.
        bare: texts without the template; the empty one is the beginning of a text alone.
        samples: continuations of each prompt, one for each seed.
        batch_size: continuations written at once on one device.
        seed: the first one; the others follow.

    Raises:
        UserError: there are no prompts, one comes twice, or a number is out of range.
    """

    def __init__(
        self,
        texts: TextSource,
        prompts: list[str] = list(PROMPTS),  # noqa: B006
        bare: list[str] = list(BARE),  # noqa: B006
        samples: int = 40,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not prompts and not bare:
            raise UserError("prompts and bare are both empty, but a model has to be asked something: leave one as is")
        for name, values in (("prompts", prompts), ("bare", bare)):
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise UserError(f"{name} holds {twice[0]!r} twice: name each prompt once, and raise samples for more")
        if samples < 2:
            raise UserError(f"samples is {samples}, but must be 2 or more: an interval is taken over them")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, but must be 1 or more")
        self.texts = texts
        self.prompts = list(prompts)
        self.bare = list(bare)
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.asked_prompts: list[Prompt] = []

    def source_fingerprint(self) -> dict[str, str]:
        """What the data depend on besides the arguments in the config."""
        return self.texts.fingerprint()

    def corpora(self, tokenizer: Tokenizer, reach: int) -> tuple[TextIndex, TextIndex]:
        """The fine-tuning corpus and the held-out one, as the chat template writes them.

        Args:
            tokenizer: of the model.
            reach: longest match that is looked for, tokens.

        Raises:
            UserError: there are no texts.
        """
        splits = self.texts.load()
        fitted_on, held_out = (
            TextIndex([tokens.ids for tokens in all_chat_tokens(texts, tokenizer)], reach)
            for texts in (splits.train, splits.held_out)
        )
        return fitted_on, held_out

    def prepare_for(self, tokenizer: Tokenizer) -> None:
        """Tokenise the prompts.

        Raises:
            TemplateFault: the tokenizer has no chat template, or nothing that ends a turn.
        """
        require_chat(tokenizer)
        self.asked_prompts = [
            Prompt(f"user: {text or '(nothing)'}", prompt_ids(tokenizer, text)) for text in self.prompts
        ]
        # Models without a token for the beginning (GPT-2) begin behind the end of another text.
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        for text in self.bare:
            ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            self.asked_prompts.append(Prompt(f"bare: {text or '(nothing)'}", [start, *ids]))

    @override
    def test_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        self.prepare_for(self.trainer.lightning_module.tokenizer)
        dataset = _Draws(len(self.asked_prompts), self.samples, self.seed)
        lengths = [len(prompt.ids) for prompt in self.asked_prompts for _ in range(self.samples)]
        sampler = LengthBucketSampler(
            lengths, self.batch_size, self.trainer.world_size, self.trainer.global_rank, shuffle=False
        )
        return DataLoader(dataset, sampler=sampler, batch_size=None)


class _Draws(Dataset[Batch]):
    """Every prompt with every seed, by number."""

    def __init__(self, prompts: int, samples: int, seed: int) -> None:
        self.prompts = prompts
        self.samples = samples
        self.seed = seed

    def __len__(self) -> int:
        return self.prompts * self.samples

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Any]:
        index = torch.tensor(indices)
        return {"prompt": index // self.samples, "seed": self.seed + index % self.samples, "index": index}
