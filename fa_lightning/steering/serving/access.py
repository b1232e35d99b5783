"""Who may ask a server: everybody on its own machine, or whoever has the token."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from fa_lightning.errors import UserError
from fa_lightning.steering.serving.refusals import RequestError


@dataclass(frozen=True)
class Access:
    """Where a server listens, and what a client must show.

    Attributes:
        host: that it listens at.
        token: None asks for none.

    Raises:
        UserError: others could reach it, and there is no token.
    """

    host: str
    token: str | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise UserError("--token must be printable ASCII letters without line breaks, and not empty")
        if self.token is None and not is_loopback(self.host):
            raise UserError(
                f"--host {self.host} lets other machines ask this one: give a --token, or set FA_LIGHTNING_TOKEN"
            )

    def check(self, headers: Mapping[str, str], method: str) -> None:
        """Refuse a request without the token; without one, what a page from elsewhere may have sent.

        A browser sends another site's plain forms anywhere, also to this machine; JSON it asks for first. And a name of
        theirs may lead to this machine.

        Raises:
            RequestError: 401, 403 or 415.
        """
        if self.token is not None:
            scheme, _, shown = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), self.token.encode()):
                raise RequestError(
                    401, "this server wants its token: send `Authorization: Bearer TOKEN`", code="invalid_api_key"
                )
        elif not is_loopback(_name_of(headers.get("host", ""))):
            raise RequestError(403, "without a token this server answers to localhost only")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and kind != "application/json":
            raise RequestError(415, "the body must be JSON: send `Content-Type: application/json`")


def is_loopback(host: str) -> bool:
    """Whether a name or an address leads to this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """The name in a Host header, without its port.

    >>> _name_of("localhost:8000"), _name_of("[::1]:8000"), _name_of("127.0.0.1")
    ('localhost', '::1', '127.0.0.1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
