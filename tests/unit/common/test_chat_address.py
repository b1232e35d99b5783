"""A model at an address: what it is sent, what is kept of it, and what a server may do wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from chat_server import chat_server

from fa_lightning.common import chat_address
from fa_lightning.common.chat_address import ChatAddress
from fa_lightning.errors import UnavailableError, UserError

SETTINGS = {"temperature": 0}


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited, without waiting; and no proxy in between."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    waited: list[float] = []
    monkeypatch.setattr(chat_address.time, "sleep", waited.append)
    return waited


def test_it_is_asked_once_for_each_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with chat_server(lambda message, number: f"{message} {number}") as server:
        options = {"key_variable": "SOME_KEY", "cache": str(tmp_path / "kept")}
        asked = ChatAddress(server.address + "/", "m", SETTINGS, **options)
        assert [asked.reply("a"), asked.reply("b"), asked.reply("a")] == ["a 1", "b 2", "a 1"]
        path, headers, body = server.asked[0]
        assert path == "/v1/chat/completions"
        assert headers["Authorization"] == "Bearer secret"
        assert body == {"temperature": 0, "model": "m", "messages": [{"role": "user", "content": "a"}]}
        # Another model and other settings are asked anew.
        assert ChatAddress(server.address, "n", SETTINGS, **options).reply("a") == "a 3"
        assert ChatAddress(server.address, "m", {"temperature": 1}, **options).reply("a") == "a 4"
        assert ChatAddress(server.address, "m", SETTINGS).reply("a") == "a 5"
    assert asked.reply("b") == "b 2", "nobody is there any more"
    kept = [file.read_text() for file in (tmp_path / "kept").iterdir()]
    assert len(kept) == 4
    assert not any("secret" in text for text in kept)


def test_a_damaged_reply_is_asked_for_again(tmp_path: Path) -> None:
    with chat_server(lambda message, number: str(number)) as server:
        asked = ChatAddress(server.address, "m", SETTINGS, cache=str(tmp_path))
        asked.reply("a")
        (kept,) = tmp_path.iterdir()
        kept.write_text(kept.read_text()[:20])
        assert asked.reply("a") == "2" == json.loads(kept.read_text())["reply"]


def test_a_busy_server_is_tried_again(waits: list[float]) -> None:
    replies: list[Any] = [(503, "busy"), (429, "slow down"), "fine"]
    with chat_server(lambda message, number: replies[number - 1]) as server:
        assert ChatAddress(server.address, "m", SETTINGS).reply("a") == "fine"
        assert "Authorization" not in server.asked[0][1]
    assert waits == [1.0, 2.0]


def test_what_a_server_refuses_is_said_at_once(waits: list[float]) -> None:
    with (
        chat_server(lambda message, number: (404, "no\nsuch model")) as server,
        pytest.raises(UnavailableError, match=r"'m' at http.*/v1/chat/completions can't be asked: .*404") as told,
    ):
        ChatAddress(server.address, "m", SETTINGS).reply("a")
    assert "no such model" in str(told.value)
    assert not waits
    assert len(server.asked) == 1


def test_no_redirection_is_followed() -> None:
    with chat_server(lambda message, number: "mine") as other:
        with (
            chat_server(lambda message, number: (307, other.address)) as server,
            pytest.raises(UnavailableError, match="it answers 307"),
        ):
            ChatAddress(server.address, "m", SETTINGS).reply("a")
        assert not other.asked


def test_a_server_that_is_not_there_or_silent(waits: list[float]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(UnavailableError, match=r"timed out \(tried 2 times\)"):
            ChatAddress(address, "m", SETTINGS, timeout=0.05, retries=1).reply("a")
    with pytest.raises(UnavailableError, match=r"refused \(tried 4 times\)\. Start the server"):
        ChatAddress(address, "m", SETTINGS).reply("a")
    assert waits == [1.0, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    "body", ["", "<html>", "[]", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}']
)
def test_what_is_no_completion(body: str) -> None:
    with (
        chat_server(lambda message, number: (200, body)) as server,
        pytest.raises(UserError, match="no chat completion that holds a text"),
    ):
        ChatAddress(server.address, "m", SETTINGS).reply("a")


def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UserError, match="key_variable is 'SOME_KEY', but the environment has no such variable"):
        ChatAddress("http://127.0.0.1:9/v1", "m", SETTINGS, key_variable="SOME_KEY")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"address": "file:///etc/passwd"}, "must begin with http"),
        ({"model": " "}, "model is empty"),
        ({"timeout": 0.0}, "timeout is 0.0"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_what_is_no_address(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ChatAddress(**{"address": "http://localhost/v1", "model": "m", "settings": SETTINGS, **values})


def test_it_is_reached_by_a_question_whatever_is_kept(tmp_path: Path) -> None:
    with chat_server(lambda message, number: "good") as server:
        address = ChatAddress(server.address, "m", SETTINGS, retries=0, cache=str(tmp_path))
        for _ in range(2):
            address.reach()
        assert [body["messages"][0]["content"] for *_, body in server.asked] == ["Say one word: good."] * 2
        assert not list(tmp_path.iterdir())
    with pytest.raises(
        UnavailableError, match=r"'m' at .* can't be asked: .*refused.* \(tried once\)\. Start the serv"
    ):
        address.reach()
