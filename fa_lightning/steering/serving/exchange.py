"""One client's request while it is answered: its jobs, what is told of them, and that the client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from fa_lightning.backbones.load import ran_out
from fa_lightning.errors import UserError
from fa_lightning.steering.serving.refusals import RequestError
from fa_lightning.steering.serving.requests import Limits
from fa_lightning.steering.serving.texts import Text, TextRequest
from fa_lightning.steering.serving.waiting import ClosingError, Event, FullError, Job, Queue

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


class Exchange:
    """The jobs of one request; made and used in the event loop, told of by the answering thread.

    Args:
        queue: that answers.
        requests: the texts that are asked for.
        limits: of the server.

    Raises:
        RequestError: there is no place, or the server ends.
    """

    def __init__(self, queue: Queue, requests: Sequence[TextRequest], limits: Limits) -> None:
        self._queue = queue
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._jobs = [Job(request, self._teller(index)) for index, request in enumerate(requests)]
        try:
            queue.submit(self._jobs)
        except FullError as error:
            raise RequestError(
                429,
                f"all {limits.requests} places are taken: try again",
                code="rate_limit_exceeded",
                retry_after=1,
            ) from error
        except ClosingError as error:
            raise told(error) from error

    @property
    def texts(self) -> list[Text]:
        """What was written; once all have finished."""
        return [job.text for job in self._jobs]

    def text(self, index: int) -> Text:
        """What was written of one."""
        return self._jobs[index].text

    def drop(self) -> None:
        """Give up what is not finished yet."""
        self._queue.drop([job for job in self._jobs if not job.is_done])

    async def begin(self) -> None:
        """Wait until the first text is being written.

        Raises:
            RequestError: it took too long, or the server ends.
        """
        try:
            _, event = await asyncio.wait_for(self._events.get(), self._limits.seconds)
        except asyncio.TimeoutError as error:
            raise RequestError(
                503,
                f"the request has waited for {self._limits.seconds:g} seconds: the server is busy, try again",
                code="overloaded",
                retry_after=5,
            ) from error
        self._refuse_failed(event)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """What happens, by the index of the text, until all have finished.

        Raises:
            RequestError: one has failed.
        """
        finished = 0
        while finished < len(self._jobs):
            index, event = await self._events.get()
            self._refuse_failed(event)
            finished += event.kind == "finished"
            if event.kind != "started":
                yield index, event

    async def finish(self) -> None:
        """Wait until all texts have finished.

        Raises:
            RequestError: one has failed.
        """
        async for _ in self.events():
            pass

    def _refuse_failed(self, event: Event) -> None:
        if event.error is not None:
            raise told(event.error) from event.error

    def _teller(self, index: int) -> Any:
        def tell(event: Event) -> None:
            # At the very end the loop may be gone, and with it whoever would listen.
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return tell


async def while_there(request: Any, work: Coroutine[Any, Any, Result]) -> Result:
    """What some work gives, for as long as the client is connected.

    Raises:
        ClientGoneError: it has gone; the work was cancelled.
    """
    gone, working = asyncio.ensure_future(_gone(request)), asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (gone, working):
            task.cancel()
        await asyncio.gather(gone, working, return_exceptions=True)


async def _gone(request: Any) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def told(error: Exception) -> RequestError:
    """What a client is told of an error; what is no fault of theirs is in the server's log."""
    if isinstance(error, ClosingError):
        return RequestError(503, "the server is closing", code="closing")
    if ran_out(error):
        return RequestError(503, "the server's memory does not hold this request: ask for less", code="out_of_memory")
    if isinstance(error, UserError):
        return RequestError(400, str(error).replace("--strength", "strength"))
    return RequestError(500, "the server has failed to answer; its log says why", code="internal_error")
