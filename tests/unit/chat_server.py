"""A small OpenAI-compatible server in a thread, which says what it is told to and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | tuple[int, str]
"""What the model says; or a status and a body."""


class ChatServer:
    """Notes the requests: path, headers and body."""

    def __init__(self, says: Callable[[str, int], Reply]) -> None:
        self.says = says
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.address = ""


@contextmanager
def chat_server(says: Callable[[str, int], Reply]) -> Iterator[ChatServer]:
    """A server that answers `says(message, number of the request)`."""
    server = ChatServer(says)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.path, dict(self.headers), body))
            reply = server.says(body["messages"][-1]["content"], len(server.asked))
            whole = {"choices": [{"message": {"role": "assistant", "content": reply}}]}
            status, text = (200, json.dumps(whole)) if isinstance(reply, str) else reply
            self.send_response(status)
            if status in (301, 302, 303, 307, 308):
                self.send_header("Location", text)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            return

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{listening.server_port}/v1"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
