"""What a client is told that can't be answered."""

from __future__ import annotations


class RequestError(Exception):
    """What a client is told, in OpenAI's shape.

    Attributes:
        status: of HTTP.
        message: what is wrong and what to do.
        param: the field that is wrong.
        code: in one word, where OpenAI has one.
        retry_after: seconds after which another try is worth it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after
