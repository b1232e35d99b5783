"""A model behind an OpenAI-compatible address: asked over HTTP, and what it said is kept on disk."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typing_extensions import override

from fa_lightning.common.files import write_atomically
from fa_lightning.errors import UnavailableError, UserError

MOST_BYTES = 1 << 22
"""Of a response; a longer one is none."""
LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever the server asks for."""
WORTH_ANOTHER_TRY = (408, 409, 425, 429)
"""Statuses that pass, besides those of 500 and more."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address would be sent the key and the texts, too."""

    @override
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclass(frozen=True)
class ChatAddress:
    """Asks for chat completions, one message at a time.

    Attributes:
        address: up to where `/chat/completions` begins, as `http://localhost:8000/v1`.
        model: its name there.
        settings: what a request holds beside model and messages.
        key_variable: environment variable that holds the key; None sends none.
        timeout: seconds until a try is given up that hears nothing.
        retries: further tries where the server is not there, is busy or has failed; a second before the first of them,
            and twice as long before each further one, or as long as the server says.
        cache: folder of what was said, a file for each question to this model, with these settings, at this address: it
            is asked no question twice. None keeps nothing.

    Raises:
        UserError: one of these is out of range, or the key's variable is not set.
    """

    address: str
    model: str
    settings: Mapping[str, Any]
    key_variable: str | None = None
    timeout: float = 60.0
    retries: int = 3
    cache: str | None = None

    def __post_init__(self) -> None:
        if not self.address.lower().startswith(("http://", "https://")):
            raise UserError(f"address is {self.address!r}, but must begin with http:// or https://")
        if not self.model.strip():
            raise UserError("model is empty: give the name that the model has at the address")
        if not self.timeout > 0:
            raise UserError(f"timeout is {self.timeout}, but must be seconds above 0, such as 60")
        if self.retries < 0:
            raise UserError(f"retries is {self.retries}, but must be 0 or more")
        if self.key_variable is not None:
            # Hours of work may come before the first question.
            self._key(self.key_variable)

    def reply(self, message: str) -> str:
        """What the model says to a user's message.

        Raises:
            UnavailableError: it can't be reached, or refuses.
            UserError: what comes back is no chat completion.
        """
        asked = {**self.settings, "model": self.model, "messages": [{"role": "user", "content": message}]}
        kept = self._kept_at(asked)
        if kept is not None and (said := _read(kept)) is not None:
            return said
        said = self._said_in(self._sent(json.dumps(asked).encode()))
        if kept is not None:
            write_atomically(kept, json.dumps({"asked": asked, "reply": said}, indent=1).encode())
        return said

    def reach(self) -> None:
        """Ask for a word, whatever is kept: hours of work may come before the first question.

        Raises:
            UnavailableError: it can't be reached, or refuses.
            UserError: what comes back is no chat completion.
        """
        replace(self, cache=None).reply("Say one word: good.")

    @property
    def _url(self) -> str:
        return f"{self.address.rstrip('/')}/chat/completions"

    def _kept_at(self, asked: Mapping[str, Any]) -> Path | None:
        if self.cache is None:
            return None
        content = json.dumps([self._url, asked], sort_keys=True)
        return Path(self.cache) / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"

    def _sent(self, body: bytes) -> bytes:
        """The response, after as many tries as it takes."""
        for tried in range(self.retries + 1):
            wait = 2.0**tried
            try:
                return self._tried(body)
            except urllib.error.HTTPError as error:
                reason = f"it answers {error.code} {error.reason}: {_shortened(error.read(MOST_BYTES))}"
                if error.code not in WORTH_ANOTHER_TRY and error.code < 500:
                    raise self._unavailable(reason) from error
                wait = _seconds(error.headers.get("Retry-After"), wait)
            # What the operating system refuses, what comes too late, and what is no HTTP.
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", "") or error or type(error).__name__)
            if tried < self.retries:
                time.sleep(min(wait, LONGEST_WAIT))
        tries = "once" if self.retries == 0 else f"{self.retries + 1} times"
        raise self._unavailable(f"{reason} (tried {tries})")

    def _tried(self, body: bytes) -> bytes:
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        if self.key_variable is not None:
            request.add_header("Authorization", f"Bearer {self._key(self.key_variable)}")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as response:
            content: bytes = response.read(MOST_BYTES + 1)
        return content

    @staticmethod
    def _key(variable: str) -> str:
        key = os.environ.get(variable, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise UserError(
                f"key_variable is {variable!r}, but the environment has no such variable with a key in it: set it, or "
                "leave key_variable out where no key is needed"
            )
        return key

    def _said_in(self, response: bytes) -> str:
        try:
            said = json.loads(response)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            said = None
        if not isinstance(said, str):
            raise UserError(
                f"{self._url} answers with no chat completion that holds a text: {_shortened(response)}. Give the "
                "address of an OpenAI-compatible server, or let it write more (max_tokens in settings)"
            )
        return said

    def _unavailable(self, reason: str) -> UnavailableError:
        return UnavailableError(
            f"the model {self.model!r} at {self._url} can't be asked: {reason}. Start the server, or mend address, "
            "model or key_variable; what it has said so far is kept"
        )


def _read(kept: Path) -> str | None:
    """What was said once; None where it was not, or where its file is damaged."""
    try:
        said = json.loads(kept.read_text(encoding="utf-8"))["reply"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return said if isinstance(said, str) else None


def _seconds(said: str | None, otherwise: float) -> float:
    """The seconds of a header, which may also be a date or missing."""
    return float(said) if said is not None and said.strip().isdecimal() else otherwise


def _shortened(content: bytes) -> str:
    return " ".join(content.decode(errors="replace").split())[:200] or "nothing"
