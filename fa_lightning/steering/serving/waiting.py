"""Requests that wait, and the thread that answers them in batches."""

from __future__ import annotations

import copy
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from fa_lightning.backbones.load import ran_out
from fa_lightning.errors import UserError
from fa_lightning.steering.serving.batches import answer
from fa_lightning.steering.serving.served import Served
from fa_lightning.steering.serving.texts import Text, TextRequest

GATHERING = 0.05
"""Seconds that an idle server waits after a request for others to share its batch: two that a page sends at once."""


class FullError(Exception):
    """There is no place left."""


class ClosingError(Exception):
    """The server ends."""


@dataclass(frozen=True)
class Event:
    """What happens to a job: it starts, has new words, has finished, or has failed by an error."""

    kind: Literal["started", "words", "finished", "failed"]
    words: str = ""
    error: Exception | None = None


class Job:
    """A text that is asked for, from its request to its end.

    Args:
        request: what is asked for.
        tell: is given each event, in the answering thread.
    """

    text: Text

    def __init__(self, request: TextRequest, tell: Callable[[Event], None]) -> None:
        self.request = request
        self.tell = tell
        self.is_dropped = False
        self.is_done = False
        self.told = ""

    def tell_words(self, words: str) -> None:
        """See `batches.Row`."""
        self.told += words
        self.tell(Event("words", words))

    def tell_finished(self) -> None:
        """See `batches.Row`."""
        self.is_done = True
        self.tell(Event("finished"))

    def fail(self, error: Exception) -> None:
        """It ends without an answer."""
        self.is_done = True
        self.tell(Event("failed", error=error))


class Queue:
    """Places for requests, and one thread that answers those that wait: the oldest, and what fits into its batch.

    A batch is of one variant and at most `batch_size` rows. One that a batch fails for is tried alone, so that nobody
    suffers for another's strength.

    Args:
        served: what answers.
        batch_size: rows at a time.
        places: rows that may wait or be written at once.
    """

    def __init__(self, served: Served, batch_size: int, places: int) -> None:
        self.served = served
        self.batch_size = batch_size
        self.places = places
        self._tokenizer = copy.deepcopy(served.tokenizer)  # the other one is used by the thread that takes requests
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)

    @property
    def taken(self) -> int:
        """Places that are taken."""
        with self._changed:
            return len(self._waiting) + len(self._running)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Refuse what waits and what comes, and end what is being written at its next token."""
        with self._changed:
            self._closing = True
            waiting, running = list(self._waiting), list(self._running)
            self._waiting.clear()
            self._changed.notify_all()
        for job in (*waiting, *running):
            job.is_dropped = True
            if not job.is_done:
                job.fail(ClosingError())

    def join(self) -> None:
        """Wait until the thread has ended; after `close`."""
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take places for all jobs of a request.

        Raises:
            FullError: there are not so many.
            ClosingError: the server ends.
        """
        with self._changed:
            if self._closing:
                raise ClosingError
            if len(self._waiting) + len(self._running) + len(jobs) > self.places:
                raise FullError
            self._waiting.extend(jobs)
            self._changed.notify_all()

    def drop(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more: their places are free at once, or with the next token that is written."""
        with self._changed:
            for job in jobs:
                job.is_dropped = True
            self._waiting = deque(job for job in self._waiting if not job.is_dropped)

    def _work(self) -> None:
        with ExitStack() as stack:
            using: str | None = None
            model = None
            while batch := self._next_batch():
                try:
                    variant = batch[0].request.variant
                    if model is None or variant != using:
                        # Left as it is between batches: whole models cost time to put in.
                        stack.close()
                        model, using = stack.enter_context(self.served.using(variant)), variant
                    for job in batch:
                        job.tell(Event("started"))
                    self._answer(model, batch)
                except Exception as error:
                    logging.getLogger("uvicorn.error").exception("a batch has failed")
                    for job in batch:
                        if not job.is_done:
                            job.fail(error)
                finally:
                    with self._changed:
                        self._running = []

    def _next_batch(self) -> list[Job]:
        """The oldest that waits, with those that fit to it; empty at the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
                self._changed.wait_for(lambda: self._closing or len(self._waiting) >= self.batch_size, GATHERING)
            batch: list[Job] = []
            for job in self._waiting:
                if not batch or (len(batch) < self.batch_size and self._fits(job, batch)):
                    batch.append(job)
            chosen = set(map(id, batch))
            self._waiting = deque(job for job in self._waiting if id(job) not in chosen)
            self._running = batch
            return batch

    def _fits(self, job: Job, batch: Sequence[Job]) -> bool:
        """Whether a job may share a batch: padded to the longest prompt it must leave room for the longest text."""
        requests = [job.request, *(other.request for other in batch)]
        width = max(len(request.ids) for request in requests) + max(request.new_tokens for request in requests)
        return job.request.variant == requests[-1].variant and width <= self.served.context

    def _answer(self, model: object, batch: Sequence[Job]) -> None:
        for job in batch:
            job.text = Text(job.request, self._tokenizer, self.served.ends, words=job.told)
        try:
            answer(model, self.served.tokenizer.pad_token_id, self.served.parts, batch)
        except Exception as error:
            left = [job for job in batch if not (job.is_done or job.is_dropped)]
            if not (isinstance(error, UserError) or ran_out(error)):
                raise
            if len(batch) == 1:
                for job in left:
                    job.fail(error)
                return
            for job in left:
                self._answer(model, [job])
