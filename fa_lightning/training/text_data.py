"""Chat texts as a DataModule: which of their tokens are learned, and what they are mixed and packed with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch, LengthBucketSampler, padded_width
from fa_lightning.scenarios.conversations.conversation import Conversation
from fa_lightning.scenarios.limits import refuse_beyond_positions
from fa_lightning.training.plain_conversation import plain_conversation
from fa_lightning.training.texts import ChatTokens, TextSource, all_chat_tokens

Loss = Literal["answers", "everything"]
End = Literal["kept", "dropped"]


@dataclass(frozen=True)
class TextRow:
    """What is trained on at once.

    Attributes:
        ids: token ids.
        learned: of each token, whether it is to be predicted.
    """

    ids: list[int]
    learned: list[bool]


def row_of(texts: Sequence[ChatTokens], loss: Loss, end: End) -> TextRow:
    """Texts one behind the other.

    Args:
        texts: conversations.
        loss: `answers` learns answers and their ends, `everything` all tokens, the prompts' too.
        end: `dropped` leaves out the token that ends the last turn, and learns none that ends an answer before it, so
            that nothing says where an answer ends.
    """
    ids: list[int] = []
    learned: list[bool] = []
    for text in texts:
        kept = text.ids if end == "kept" else text.ids[:-1]
        ids += kept
        is_learned = [loss == "everything" or position >= text.prompt for position in range(len(kept))]
        for start, stop in text.earlier:
            is_ended = text.ids[stop - 1] == text.ids[-1]
            over = stop - 1 if end == "dropped" and is_ended else stop
            is_learned[start:over] = [True] * (over - start)
        learned += is_learned
    return TextRow(ids, learned)


class TextDataModule(pl.LightningDataModule):
    """Serves chat texts for training, and the held-out ones, each alone, for validation and test.

    A batch holds `input_ids`, `attention_mask`, `position_ids`, `learned` (batch, tokens), padded on the right, and
    `index` (batch,). Validation and test always ask for answers and their end, whatever is trained on, so that fits
    can be compared.

    Args:
        texts: where texts come from.
        loss: `answers` learns answers and their end; `everything` learns the prompts, too.
        end: `dropped` leaves the token that ends a turn out of the training texts.
        corpus: `left_out` trains on plain conversation alone.
        plain: exchanges of plain conversation that are mixed in.
        texts_per_row: so many texts stand one behind the other in a row, as where a trainer packs them.
        batch_size: rows in a training batch of one device.
        max_tokens: a longer text is refused.
        seed: of the order.

    Raises:
        UserError: a size is out of range, or nothing is left to train on; later, a text is too long.
    """

    def __init__(
        self,
        texts: TextSource,
        loss: Loss = "answers",
        end: End = "kept",
        corpus: Literal["kept", "left_out"] = "kept",
        plain: int = 0,
        texts_per_row: int = 1,
        batch_size: int = 16,
        max_tokens: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("texts_per_row", texts_per_row), ("batch_size", batch_size), ("max_tokens", max_tokens)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be 1 or more")
        if corpus == "left_out" and not plain:
            raise UserError("corpus is left_out and plain is 0, so nothing is left to train on: set plain")
        plain_conversation(plain)
        self.texts = texts
        self.loss: Loss = loss
        self.end: End = end
        self.corpus = corpus
        self.plain = plain
        self.texts_per_row = texts_per_row
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.seed = seed

    def source_fingerprint(self) -> dict[str, str]:
        """What the data depend on besides the arguments in the config."""
        return self.texts.fingerprint()

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        texts = [] if self.corpus == "left_out" else self.texts.load().train
        chosen = self._tokens([*texts, *plain_conversation(self.plain)])
        random.Random(f"text tuning {self.seed}").shuffle(chosen)
        starts = range(0, len(chosen), self.texts_per_row)
        rows = [row_of(chosen[start : start + self.texts_per_row], self.loss, self.end) for start in starts]
        return self._loader(rows, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Batch]:
        held_out = self._tokens(self.texts.load().held_out)
        return self._loader([row_of([text], "answers", "kept") for text in held_out])

    @override
    def test_dataloader(self) -> DataLoader[Batch]:
        return self.val_dataloader()

    @property
    def _tokenizer(self) -> Any:
        assert self.trainer is not None
        return self.trainer.lightning_module.tokenizer

    def _tokens(self, texts: Sequence[Conversation]) -> list[ChatTokens]:
        chosen = all_chat_tokens(texts, self._tokenizer)
        for text, tokens in zip(texts, chosen, strict=True):
            if len(tokens.ids) > self.max_tokens:
                raise UserError(
                    f"max_tokens is {self.max_tokens}, but a text has {len(tokens.ids)} tokens "
                    f"({text.message[:40]!r}...), and texts are never cut, or their ends would not be learned: raise it"
                )
        refuse_beyond_positions(self._tokenizer, (tokens.ids for tokens in chosen))
        return chosen

    def _loader(self, rows: list[TextRow], shuffle: bool = False) -> DataLoader[Batch]:
        assert self.trainer is not None
        lengths = [len(row.ids) for row in rows]
        ranks = self.trainer.world_size, self.trainer.global_rank
        sampler = LengthBucketSampler(lengths, self.batch_size, *ranks, shuffle, self.seed)
        return DataLoader(_Rows(rows, self._tokenizer.pad_token_id), sampler=sampler, batch_size=None)


class _Rows(Dataset[Batch]):
    """Rows served a whole batch at a time."""

    def __init__(self, rows: Sequence[TextRow], pad_token: int) -> None:
        self.rows = rows
        self.pad_token = pad_token

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: list[int]) -> Batch:
        chosen = [self.rows[index] for index in indices]
        width = padded_width(max(len(row.ids) for row in chosen))
        input_ids = torch.full((len(chosen), width), self.pad_token)
        attention_mask = torch.zeros(len(chosen), width, dtype=torch.long)
        learned = torch.zeros(len(chosen), width, dtype=torch.bool)
        for number, row in enumerate(chosen):
            input_ids[number, : len(row.ids)] = torch.tensor(row.ids)
            attention_mask[number, : len(row.ids)] = 1
            learned[number, : len(row.ids)] = torch.tensor(row.learned)
        positions = torch.arange(width).expand(len(chosen), width) * attention_mask
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": positions,
            "learned": learned,
            "index": torch.tensor(indices),
        }
