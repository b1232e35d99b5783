"""The addresses of a server: OpenAI's, and a page at `/`."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from fa_lightning.steering.serving.access import Access
from fa_lightning.steering.serving.bodies import ChatAsked, CompletionAsked, read_body
from fa_lightning.steering.serving.exchange import ClientGoneError, Exchange, while_there
from fa_lightning.steering.serving.refusals import RequestError
from fa_lightning.steering.serving.replies import Reply, error_of, models_of
from fa_lightning.steering.serving.requests import Limits, chat_texts, completion_texts
from fa_lightning.steering.serving.served import Served
from fa_lightning.steering.serving.texts import TextRequest
from fa_lightning.steering.serving.waiting import Queue

MOST_BYTES = 1 << 22
"""Of a request's body."""
CLOSED = 499
"""What nginx notes where the client has gone."""


def make_app(served: Served, queue: Queue, limits: Limits, access: Access) -> FastAPI:
    """The server's application.

    Args:
        served: what requests choose from.
        queue: that answers; started and closed by the caller.
        limits: of requests.
        access: who may ask.
    """
    # Its pages of documentation would load scripts from elsewhere.
    app = FastAPI(title="fa_lightning", docs_url=None, redoc_url=None, openapi_url=None)
    started, page = int(time.time()), files(__package__).joinpath("page.html").read_text(encoding="utf-8")

    async def allowed(request: Request) -> None:
        access.check(request.headers, request.method)

    @app.get("/", response_class=HTMLResponse)
    def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY"})

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok"}

    @app.get("/v1/models", dependencies=[Depends(allowed)])
    def models() -> dict[str, Any]:
        return models_of(served, started)

    @app.get("/v1/models/{name}", dependencies=[Depends(allowed)])
    def model(name: str) -> dict[str, Any]:
        for entry in models_of(served, started)["data"]:
            if entry["id"] == name:
                found: dict[str, Any] = entry
                return found
        raise RequestError(404, f"there is no model {name!r}", "model", "model_not_found")

    @app.post("/v1/chat/completions", dependencies=[Depends(allowed)])
    async def chat(request: Request) -> Response:
        asked: ChatAsked = read_body(ChatAsked, await _body(request))
        reply = Reply("chat", asked.model, served.tokenizer)
        return await _answered(request, asked, chat_texts(asked, served, limits), reply)

    @app.post("/v1/completions", dependencies=[Depends(allowed)])
    async def completions(request: Request) -> Response:
        asked: CompletionAsked = read_body(CompletionAsked, await _body(request))
        reply = Reply("completion", asked.model, served.tokenizer, bool(asked.echo))
        return await _answered(request, asked, completion_texts(asked, served, limits), reply)

    async def _answered(
        request: Request, asked: ChatAsked | CompletionAsked, texts: Sequence[TextRequest], reply: Reply
    ) -> Response:
        exchange = Exchange(queue, texts, limits)
        try:
            await while_there(request, exchange.begin())
            if asked.stream:
                return StreamingResponse(
                    _streamed(exchange, texts, reply, asked.includes_usage),
                    media_type="text/event-stream",
                    headers={"Cache-Control": "no-cache"},
                )
            await while_there(request, exchange.finish())
        except ClientGoneError:
            exchange.drop()
            return Response(status_code=CLOSED)
        except BaseException:
            exchange.drop()
            raise
        return JSONResponse(reply.whole(exchange.texts))

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(error_of(error), error.status, headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        words = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(error_of(RequestError(error.status_code, words)), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_of(RequestError(500, "the server has failed; its log says why")), 500)

    return app


POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


async def _body(request: Request) -> bytes:
    """A request's body, if it is not too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise RequestError(413, f"the body has more than {MOST_BYTES} bytes: send fewer texts at a time")
        parts.append(part)
    return b"".join(parts)


async def _streamed(
    exchange: Exchange, texts: Sequence[TextRequest], reply: Reply, includes_usage: bool
) -> AsyncIterator[str]:
    """Server-sent events: a chunk for each piece of words, and what went wrong in one of its own."""
    try:
        for index, text in enumerate(texts):
            if reply.is_chat or reply.echoes:
                yield _event(reply.chunk(index, reply.prompt_of(text) or None, first=True))
        async for index, event in exchange.events():
            if event.kind == "words":
                yield _event(reply.chunk(index, event.words))
            else:
                yield _event(reply.chunk(index, None, exchange.text(index)))
        if includes_usage:
            yield _event(reply.last_chunk(exchange.texts))
        yield "data: [DONE]\n\n"
    except RequestError as error:
        yield _event(error_of(error))
    finally:
        exchange.drop()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
