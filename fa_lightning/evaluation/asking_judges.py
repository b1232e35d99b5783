"""Judges that ask a model, by a rubric: one behind an address, or one that is loaded here (arXiv 2306.05685)."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.common.chat_address import ChatAddress
from fa_lightning.errors import UserError
from fa_lightning.evaluation.judges import Judge
from fa_lightning.scenarios.thoughts import MARKS

SETTINGS = {"temperature": 0, "max_tokens": 512}
"""Room for a model that thinks first."""
CACHE = "checkpoints/judge_replies"
VERDICT = re.compile(r"\W*(?:(?:verdict|answer)\W+)?(good|bad)\b", re.IGNORECASE)
"""What a reply begins with: 'It is not bad' says neither."""


class AskingJudge(Judge):
    """Shows a model a rubric, a prompt and an answer, and asks whether the answer is good or bad.

    A judge is a model: it errs, and an answer may talk to it. Look at what it says before you rely on it.

    Args:
        rubric: what makes an answer good, and what bad.
        **options: of `Judge`.

    Raises:
        UserError: the rubric is empty.
    """

    def __init__(self, rubric: str, tokens: int = 48, items: int | None = 64) -> None:
        super().__init__(tokens, items)
        if not rubric.strip():
            raise UserError("rubric is empty: say what makes an answer good, and what bad")
        self.rubric = rubric

    @override
    def is_good(self, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
        return self.verdicts([self.question(*pair) for pair in zip(prompts, answers, strict=True)])

    def question(self, prompt: str, answer: str) -> str:
        """What the model is asked about one answer."""
        return (
            f"{self.rubric.strip()}\n\n{_between('prompt', prompt)}\n\n{_between('answer', answer)}\n\n"
            "Is the answer good or bad? Say one word: good or bad."
        )

    @abstractmethod
    def verdicts(self, questions: Sequence[str]) -> list[bool]:
        """Whether the model says `good` to each question."""


class AddressJudge(AskingJudge):
    """Asks a model at an OpenAI-compatible address, as vLLM, llama.cpp, Ollama and many services have it.

    Prompts and answers are sent there. Each reply is kept: a run that is repeated asks nothing.

    Args:
        rubric: what makes an answer good, and what bad.
        address: up to where `/chat/completions` begins, as `http://localhost:8000/v1`.
        model: its name there.
        key_variable: environment variable that holds the key; None sends none.
        settings: what a request holds beside model and messages; None takes `SETTINGS`.
        timeout: seconds until a try is given up that hears nothing.
        retries: further tries where the server is not there or busy.
        cache: folder of the replies; None keeps none.
        **options: of `Judge`.

    Raises:
        UserError: an argument is out of range, or the key's variable is not set; later, the model can't be asked, or a
            reply says neither word.
    """

    def __init__(
        self,
        rubric: str,
        address: str,
        model: str,
        key_variable: str | None = None,
        settings: dict[str, Any] | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        cache: str | None = CACHE,
        tokens: int = 48,
        items: int | None = 64,
    ) -> None:
        super().__init__(rubric, tokens, items)
        asked_with: Mapping[str, Any] = SETTINGS if settings is None else settings
        self.model = ChatAddress(address, model, asked_with, key_variable, timeout, retries, cache)

    @override
    def reach(self) -> None:
        self.model.reach()

    @override
    def verdicts(self, questions: Sequence[str]) -> list[bool]:
        return [verdict_in(self.model.reply(question), self.model.model) for question in questions]


class ModelJudge(AskingJudge):
    """Asks a model that is loaded here, and takes the word that it would rather say: `good` or `bad`.

    Args:
        rubric: what makes an answer good, and what bad.
        backbone: folder or name of the model, and how it is loaded.
        batch_size: questions in a forward pass.
        **options: of `Judge`.

    Raises:
        UserError: `batch_size` is below 1; later, the model can't be loaded, or a question is too long for it.
    """

    def __init__(
        self,
        rubric: str,
        backbone: BackboneArguments,
        batch_size: int = 8,
        tokens: int = 48,
        items: int | None = 64,
    ) -> None:
        super().__init__(rubric, tokens, items)
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, but must be 1 or more")
        self.backbone = backbone
        self.batch_size = batch_size
        self._model: Any = None

    @override
    def verdicts(self, questions: Sequence[str]) -> list[bool]:
        import torch

        from fa_lightning.scenarios.answers import answer_logits, preferred, weighed, written_tokens
        from fa_lightning.scenarios.batches import Example, collate, model_inputs
        from fa_lightning.scenarios.cells import NEUTRAL_CELL
        from fa_lightning.scenarios.limits import refuse_beyond_positions
        from fa_lightning.scenarios.written_answers import NO_TOKEN, written_answers

        model, tokenizer = self._loaded()
        answers = written_answers(tokenizer)
        examples = [
            Example(
                answers.prompt(question, None, ()),
                aligned=NO_TOKEN,
                other=NO_TOKEN,
                cell=NEUTRAL_CELL,
                group=0,
                index=index,
                aligned_text=answers.answer("good", question, None, ()),
                other_text=answers.answer("bad", question, None, ()),
            )
            for index, question in enumerate(questions)
        ]
        refuse_beyond_positions(tokenizer, (range(example.tokens) for example in examples))
        good: list[bool] = []
        with torch.inference_mode():
            for start in range(0, len(examples), self.batch_size):
                batch = collate(examples[start : start + self.batch_size], tokenizer.pad_token_id)
                batch = {name: values.to(model.device) for name, values in batch.items()}
                likely = weighed(
                    lambda asked: answer_logits(model, model_inputs(asked), written_tokens(asked)).float(), batch
                )
                good += preferred(likely).aligned.tolist()
        return good

    def _loaded(self) -> tuple[Any, Any]:
        if self._model is None:
            from fa_lightning.backbones.load import load_for_use, load_tokenizer

            self._model = load_for_use(self.backbone), load_tokenizer(self.backbone)
        loaded: tuple[Any, Any] = self._model
        return loaded


def verdict_in(reply: str, model: str) -> bool:
    r"""Whether a reply says `good`, its thoughts left out.

    >>> verdict_in("<think>It isn't bad.</think>\n**Good**: it is honest.", "a model")
    True

    Args:
        reply: of a model.
        model: its name, for errors.

    Raises:
        UserError: it begins with neither word.
    """
    said = reply
    for marks in MARKS:
        said = said.rpartition(marks.end)[2]
    match = VERDICT.match(said)
    if match is None:
        raise UserError(
            f"the judge {model!r} was asked for the word good or bad, and said {' '.join(reply.split())[:120]!r}: take "
            "a model that follows instructions, say it in the rubric, or let it write more (max_tokens in settings)"
        )
    return match[1].lower() == "good"


def _between(name: str, text: str) -> str:
    """A text between marks that it can't close itself."""
    return f"<{name}>\n{text.replace(f'</{name}>', f'</ {name}>')}\n</{name}>"
