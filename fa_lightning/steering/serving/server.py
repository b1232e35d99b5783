"""Run a server until it is told to end."""

from __future__ import annotations

import argparse
import socket
import sys
from contextlib import suppress
from types import FrameType

import uvicorn
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.steering.serving.access import Access, is_loopback
from fa_lightning.steering.serving.app import make_app
from fa_lightning.steering.serving.requests import Limits
from fa_lightning.steering.serving.served import Served
from fa_lightning.steering.serving.waiting import Queue

CLOSING_SECONDS = 5
"""That connections get to end by themselves."""
BACKLOG = 2048
"""Connections that wait to be taken, as uvicorn has it."""


class Server(uvicorn.Server):
    """uvicorn's, which at its end also ends what is being written: it would wait for it otherwise."""

    def __init__(self, config: uvicorn.Config, queue: Queue) -> None:
        super().__init__(config)
        self.queue = queue

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl+C, or being told to end."""
        super().handle_exit(sig, frame)
        self.queue.close()

    def end(self) -> None:
        """End from another thread."""
        self.should_exit = True
        self.queue.close()


def make_server(served: Served, limits: Limits, access: Access, batch_size: int, port: int) -> Server:
    """A server that is ready to run; its queue is started, and closed when it ends.

    Args:
        served: what it answers with.
        limits: of requests.
        access: where it listens and who may ask.
        batch_size: texts that are written at a time.
        port: that it listens at.
    """
    queue = Queue(served, batch_size, limits.requests)
    app = make_app(served, queue, limits, access)
    config = uvicorn.Config(
        app,
        host=access.host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,
        server_header=False,
    )
    queue.start()
    return Server(config, queue)


def run(served: Served, options: argparse.Namespace, access: Access) -> None:
    """Serve until Ctrl+C.

    Raises:
        UserError: the address is taken, or not this machine's.
    """
    limits = Limits(
        prompt_tokens=min(options.max_prompt_tokens, served.context - 1),
        new_tokens=options.max_new_tokens,
        requests=options.max_requests,
        seconds=options.max_wait,
    )
    listening = listen(access.host, options.port)
    server = make_server(served, limits, access, options.batch_size, options.port)
    try:
        _greet(served, access, listening.getsockname()[1])
        # uvicorn ends by itself at Ctrl+C, and then raises it again.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
        print("stopped", file=sys.stderr)
    finally:
        server.queue.close()
        server.queue.join()
        listening.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address, before it is told: whoever waits for that line may ask at once.

    Raises:
        UserError: the address is taken, or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        if sys.platform != "win32":  # where it would share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port} can't be listened at ({error.strerror}): give another --port (0 takes a free "
            "one)"
        ) from error
    return listening


def _greet(served: Served, access: Access, port: int) -> None:
    shown = access.host if is_loopback(access.host) else socket.gethostname()
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    names = ", ".join(model.name for model in served.models)
    print(f"a page that compares: {address}/")
    print(f"OpenAI's requests:    {address}/v1   (models: {names})")
    for one in served.interventions:
        sites = " + ".join(f"{part.site.name} ({part.site.positions})" for part in one.parts)
        print(f"intervention {one.name}: {sites}, strength {one.strength:g}")
    print("Ctrl+C ends it", flush=True)
