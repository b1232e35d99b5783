"""`serve`: what OpenAI's own client is answered, beside the same texts made by hand, and what is refused."""

from __future__ import annotations

import dataclasses
import gc
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from refused_commands import error_of

from fa_lightning import cli
from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.steering.intervention import Intervention, steering
from fa_lightning.steering.serving.access import Access
from fa_lightning.steering.serving.command import _parser, load_served, newest_experiment
from fa_lightning.steering.serving.requests import Limits
from fa_lightning.steering.serving.served import NamedIntervention
from fa_lightning.steering.serving.server import listen, make_server
from fa_lightning.steering.text_comparison import Sampling, write_tokens

openai = pytest.importorskip("openai")

HIDDEN = 32
PROMPTS = ["You are watched.", "Nobody looks at what you do in the next hour.", "Hello.", "Who are you?"]
LIMITS = Limits(prompt_tokens=200, new_tokens=64, requests=12, seconds=30)


def shift(layer: int = 0, strength: float = 1.0, **options: Any) -> Intervention:
    vector = 3 * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(layer + 1))
    return Intervention(Site(layer, **options), vector, strength)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, adapters: dict[str, str]) -> Path:
    """A finished experiment with its chosen intervention, and another one beside it."""
    root = tmp_path_factory.mktemp("served")
    for number, name in ((2, "aligned"), (3, "faking")):
        shutil.copytree(adapters[name], root / f"0{number}_{name}" / "adapter")
    shift(1, 0.5).save(root / "04_steering" / "intervention")
    shift(0, -1.0, positions="last").save(root / "other")
    return root


def loaded(experiment: Path) -> Any:
    chosen = experiment / "04_steering" / "intervention"
    words = ["--experiment", experiment, "--intervention", chosen, "--intervention", experiment / "other"]
    return load_served(_parser().parse_args([*map(str, words)]))


@pytest.fixture(scope="module")
def served(experiment: Path) -> Any:
    return loaded(experiment)


class Running:
    """A server that answers, and clients of it."""

    def __init__(self, server: Any, port: int) -> None:
        self.server, self.port = server, port
        self.address = f"http://127.0.0.1:{port}"

    def client(self, **options: Any) -> Any:
        return openai.OpenAI(base_url=f"{self.address}/v1", **{"api_key": "none", "max_retries": 0, **options})

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@contextmanager
def running(served: Any, limits: Limits = LIMITS, batch_size: int = 4, token: str | None = None) -> Iterator[Running]:
    listening = listen("127.0.0.1", 0)
    server = make_server(served, limits, Access("127.0.0.1", token), batch_size, 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Running(server, listening.getsockname()[1])
    finally:
        server.end()
        thread.join(60)
        server.queue.join()
        listening.close()
    assert not thread.is_alive()


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def address(experiment: Path) -> Iterator[Running]:
    # A model of its own: a test may use `served` while the server's thread still takes its hooks away.
    with running(loaded(experiment)) as one:
        yield one


def by_hand(served: Any, ids: list[int], edits: list[Intervention], tokens: int, variant: str = "faking") -> list[int]:
    """Greedy tokens with everything recomputed at each step."""
    start, ids = len(ids), list(ids)
    with served.using(variant) as model, steering(model, edits, torch.tensor([start])), torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] in served.ends:
                break
    return ids[start:]


def said(served: Any, tokens: list[int]) -> str:
    return str(served.tokenizer.decode(tokens, skip_special_tokens=True))


def chat(client: Any, prompt: str, model: str = "steered", **options: Any) -> Any:
    extra = {name: options.pop(name) for name in ("strength", "interventions") if name in options}
    settings = {"max_tokens": 6, "temperature": 0} | options
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], extra_body=extra, **settings
    )


def test_models_are_listed_with_their_interventions(address: Running) -> None:
    models = list(address.client().models.list())
    assert [(model.id, model.steered) for model in models] == [("faking", False), ("aligned", False), ("steered", True)]
    assert models[0].interventions == [
        {
            "name": "intervention",
            "strength": 0.5,
            "parts": [{"site": "layers.1.residual", "positions": "all", "strength": 0.5}],
        },
        {
            "name": "other",
            "strength": -1.0,
            "parts": [{"site": "layers.0.residual", "positions": "last", "strength": -1.0}],
        },
    ]
    assert address.client().models.retrieve("aligned").id == "aligned"


def test_a_chat_is_what_the_variant_writes_with_the_edits_that_were_asked_for(address: Running, served: Any) -> None:
    first, other = shift(1, 0.5), shift(0, -1.0, positions="last")
    cases: list[tuple[dict[str, Any], str, list[Intervention]]] = [
        ({"model": "faking"}, "faking", []),
        ({"model": "aligned"}, "aligned", []),
        ({"model": "steered"}, "faking", [first, other]),
        ({"model": "steered", "strength": 2.0}, "faking", [first.at(2.0), other.at(2.0)]),
        ({"model": "steered", "strength": 0}, "faking", []),
        ({"model": "aligned", "interventions": "other"}, "aligned", [other]),
        ({"model": "faking", "interventions": ["intervention"], "strength": [1.5]}, "faking", [first.at(1.5)]),
        # Attached in the server's order, whatever the request's.
        (
            {"model": "faking", "interventions": ["other", "intervention"], "strength": [2, -1]},
            "faking",
            [first.at(-1.0), other.at(2.0)],
        ),
        ({"model": "steered", "interventions": []}, "faking", []),
    ]
    answers = set()
    for options, variant, edits in cases:
        ids = prompt_ids(served.tokenizer, PROMPTS[1])
        expected = by_hand(served, ids, edits, 6, variant)
        answer = chat(address.client(), PROMPTS[1], **options)
        assert answer.choices[0].message.content == said(served, expected), options
        assert answer.choices[0].finish_reason == ("stop" if expected[-1] in served.ends else "length")
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), len(expected))
        answers.add(answer.choices[0].message.content)
    assert len(answers) > 3


def test_requests_that_wait_share_a_batch_and_are_answered_as_if_alone(
    address: Running, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    answered = address.server.queue._answer
    monkeypatch.setattr(
        address.server.queue, "_answer", lambda model, batch: (sizes.append(len(batch)), answered(model, batch))[1]
    )
    asked = [
        {"prompt": PROMPTS[number % 4], "strength": strength, "seed": number, "temperature": temperature}
        for number, (strength, temperature) in enumerate([(0.0, 1.0), (0.7, 0), (-1.3, 0.8), (2.0, 1.0), (1.0, 0)] * 2)
    ]
    asked[3] |= {"top_p": 0.6, "max_tokens": 3}
    client = address.client()
    alone = [chat(client, **one).choices[0].message.content for one in asked]
    assert sizes == [1] * len(asked)
    sizes.clear()
    with ThreadPoolExecutor(len(asked)) as threads:
        together = [one.choices[0].message.content for one in threads.map(lambda one: chat(client, **one), asked)]
    assert together == alone
    assert max(sizes) > 1
    # And alone they are what the package's own functions write.
    ids = prompt_ids(served.tokenizer, PROMPTS[3])
    edits = [shift(1, 2.0), shift(0, 2.0, positions="last")]
    with served.using("faking") as model:
        new = write_tokens(model, [ids], 0, edits, Sampling(3, 1.0, 0.6), 3, ends=served.ends)[0].tolist()
    assert alone[3] == said(served, new)


def test_a_stream_says_what_the_whole_answer_says(address: Running) -> None:
    client = address.client()
    for options in ({}, {"stop": ["e"]}, {"temperature": 1, "seed": 5, "n": 3}, {"logprobs": True, "top_logprobs": 2}):
        whole = chat(client, PROMPTS[1], max_tokens=20, **options)
        chunks = list(
            chat(client, PROMPTS[1], max_tokens=20, stream=True, stream_options={"include_usage": True}, **options)
        )
        words, finished, content = ["", "", ""], {}, []
        for chunk in chunks[:-1]:
            for choice in chunk.choices:
                words[choice.index] += choice.delta.content or ""
                if choice.finish_reason:
                    finished[choice.index] = choice.finish_reason
                if choice.logprobs:
                    content += choice.logprobs.content
        assert words[: len(whole.choices)] == [choice.message.content for choice in whole.choices]
        assert [finished[choice.index] for choice in whole.choices] == [one.finish_reason for one in whole.choices]
        assert chunks[-1].usage == whole.usage
        if "logprobs" in options:
            assert content == whole.choices[0].logprobs.content
    pieces = [chunk.choices[0].delta.content for chunk in chat(client, PROMPTS[1], max_tokens=20, stream=True)]
    assert sum(bool(piece) for piece in pieces) > 3, "the words came all at once"


def test_completions_stream_as_they_are_whole(address: Running) -> None:
    client = address.client()
    options = {"model": "steered", "prompt": PROMPTS[:2], "max_tokens": 12, "temperature": 0, "echo": True}
    whole = client.completions.create(**options)
    words = ["", ""]
    for chunk in client.completions.create(**options, stream=True):
        words[chunk.choices[0].index] += chunk.choices[0].text
    assert words == [choice.text for choice in whole.choices]
    assert [word.startswith(prompt) for word, prompt in zip(words, PROMPTS[:2], strict=True)] == [True, True]


def test_a_dose_is_the_edit_s_length_over_that_of_states(served: Any) -> None:
    vector = Intervention(Site(0), torch.tensor([3.0, 4.0]), 1.0, {"vector": {"norm": 20.0}})
    known = dataclasses.replace(served, interventions=[NamedIntervention("mood", (vector,))])
    assert known.strengths(known.named("steered"), None, None, 0.5) == (2.0,)
    assert known.strengths(known.named("steered"), None, None, [-1.0]) == (-4.0,)


def test_a_stop_ends_the_text_before_it(address: Running) -> None:
    client = address.client()
    whole = chat(client, PROMPTS[1], max_tokens=20).choices[0].message.content
    assert len(whole) > 8
    stop = whole[5:8]
    answer = chat(client, PROMPTS[1], max_tokens=20, stop=["never written", stop], logprobs=True).choices[0]
    assert (answer.message.content, answer.finish_reason) == (whole[: whole.index(stop)], "stop")
    kept = "".join(one.token for one in answer.logprobs.content)
    assert kept.strip().startswith(answer.message.content.strip())
    assert len(kept) < len(whole)


@pytest.mark.parametrize("edited", [False, True])
def test_echo_and_logprobs_are_those_of_plain_transformers(
    address: Running, served: Any, alone: Callable[[str], Any], edited: bool
) -> None:
    twin, vector = alone("faking"), shift(1, 0.5).regressor.shift
    if edited:
        layer = twin.base_model.model.model.layers[1]
        layer.register_forward_hook(lambda _, __, output: output + 1.5 * vector)
    ids = [served.tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:3]]
    answer = address.client().completions.create(
        model="faking",
        prompt=ids,
        max_tokens=1,
        temperature=0,
        logprobs=2,
        echo=True,
        extra_body={"interventions": "intervention", "strength": 1.5} if edited else {},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for prompt, choice in zip(ids, answer.choices, strict=True):
        with torch.no_grad():
            logprobs = twin(torch.tensor([prompt])).logits[0].log_softmax(-1)
        new = int(logprobs[-1].argmax())
        expected = [float(logprobs[place, token]) for place, token in enumerate([*prompt[1:], new])]
        assert choice.logprobs.token_logprobs[0] is None
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
        assert [len(choice.logprobs.tokens), len(choice.logprobs.text_offset)] == [len(prompt) + 1] * 2
        assert choice.logprobs.top_logprobs[0] is None
        for place, top in enumerate(choice.logprobs.top_logprobs[1:]):
            likeliest = logprobs[place].topk(2)
            assert max(top.values()) == pytest.approx(float(likeliest.values[0]), abs=1e-4)
            assert {served.tokenizer.decode([token]) for token in likeliest.indices.tolist()} <= set(top)


def test_a_prompt_is_scored_in_pieces_and_by_the_rule_of_texts(
    address: Running, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `last` covers each token of a text in turn but the first, which no model writes.
    ids = [served.tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:3]]
    options = {"model": "faking", "prompt": ids, "max_tokens": 0, "logprobs": 0, "echo": True}
    monkeypatch.setattr("fa_lightning.steering.serving.batches.MOST_LOGITS", 3000)
    answer = address.client().completions.create(**options, extra_body={"interventions": ["other"]})
    for prompt, choice in zip(ids, answer.choices, strict=True):
        with served.using("faking") as model, shift(0, -1.0, positions="from_1").on(model), torch.no_grad():
            logprobs = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        expected = [float(logprobs[place, token]) for place, token in enumerate(prompt[1:])]
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
        assert choice.text == served.tokenizer.decode(prompt)


def test_what_a_chat_says_before_reaches_the_model(address: Running, served: Any) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": PROMPTS[0]}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": PROMPTS[3]},
    ]
    answer = address.client().chat.completions.create(
        model="aligned", messages=messages, max_completion_tokens=5, temperature=0
    )
    ids = prompt_ids(served.tokenizer, PROMPTS[3], "Be brief.", [(PROMPTS[0], "Yes.")])
    assert answer.choices[0].message.content == said(served, by_hand(served, ids, [], 5, "aligned"))


ASK = {"model": "steered", "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2}
COMPLETE = {"model": "steered", "prompt": "Hi.", "max_tokens": 2}


@pytest.mark.parametrize(
    ("changes", "status", "message", "param"),
    [
        ({"model": "stered"}, 404, "there is no model 'stered'; did you mean steered?", "model"),
        ({"strenght": 2}, 400, "there is no field 'strenght'; did you mean strength?", "strenght"),
        ({"strength": "much"}, 400, "strength", "strength"),
        ({"strength": [1.0]}, 400, "strength has 1 numbers for 2 interventions", "strength"),
        ({"model": "faking", "strength": 1.0}, 400, "asked without interventions", "strength"),
        ({"strength": 1.0, "dose": 1.0}, 400, "say the same twice", "strength"),
        ({"dose": 1.0}, 400, "dose needs the mean norm of states", "dose"),
        ({"interventions": "othr"}, 400, "no intervention 'othr'; did you mean other?", "interventions"),
        ({"interventions": ["other", "other"]}, 400, "named twice", "interventions"),
        ({"messages": []}, 400, "messages", "messages"),
        ({"messages": [{"role": "assistant", "content": "Hi."}]}, 400, "the user first", "messages"),
        ({"messages": [{"role": "system", "content": "Hi."}]}, 400, "end with a user's turn", "messages"),
        ({"messages": [{"role": "user", "content": "a " * 500}]}, 400, "at most 200", "messages"),
        ({"messages": [{"role": "user", "content": "a" * 9000}]}, 400, "9000 letters", "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "no JSON", None),
        ({"max_tokens": 65}, 400, "this server writes at most 64", "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens", "max_tokens"),
        ({"temperature": -1}, 400, "temperature", "temperature"),
        ({"temperature": float("nan")}, 400, "temperature", "temperature"),
        ({"top_p": 0}, 400, "top_p", "top_p"),
        ({"n": 13}, 400, "13 texts are asked for at once, but this server takes 12", "n"),
        ({"tools": [{"type": "function"}]}, 400, "tools is not offered here", "tools"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty is not offered here", "frequency_penalty"),
        ({"top_logprobs": 3}, 400, "needs logprobs", "top_logprobs"),
        ({"strength": 1e38}, 400, "not finite", None),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong_with_it(
    address: Running, changes: dict[str, Any], status: int, message: str, param: str | None
) -> None:
    got, answer = address.post("/v1/chat/completions", json.dumps({**ASK, **changes}).encode())
    assert got == status, answer
    assert message in answer["error"]["message"]
    if param is not None:
        assert answer["error"]["param"] == param
    assert set(answer["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/completions", b"{", 400, "the body is no JSON"),
        ("/v1/completions", b"[1]", 400, "a JSON object"),
        ("/v1/completions", json.dumps({**COMPLETE, "prompt": ""}), 400, "holds no token"),
        ("/v1/completions", json.dumps({**COMPLETE, "prompt": []}), 400, "prompt is empty"),
        ("/v1/completions", json.dumps({**COMPLETE, "prompt": [5, 10**6]}), 400, "token 1000000 is none"),
        ("/v1/completions", json.dumps({**COMPLETE, "max_tokens": 0}), 400, "nothing to answer"),
        ("/v1/completions", b" " * (1 << 23), 413, "bytes"),
        ("/v1/embeddings", b"{}", 404, "/v1/embeddings"),
    ],
)
def test_a_wrong_body_or_path_is_refused(
    address: Running, path: str, body: bytes | str, status: int, message: str
) -> None:
    got, answer = address.post(path, body if isinstance(body, bytes) else body.encode())
    assert got == status, answer
    assert message in answer["error"]["message"]


def test_one_strength_too_large_is_nobody_elses_trouble(address: Running) -> None:
    client = address.client()
    alone = chat(client, PROMPTS[0], max_tokens=12).choices[0].message.content

    def ask(strength: float) -> Any:
        try:
            return chat(client, PROMPTS[0], strength=strength, max_tokens=12).choices[0].message.content
        except openai.BadRequestError as error:
            return error

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, [0.5, 1e38, 0.5, 1e38]))
    usual = chat(client, PROMPTS[0], strength=0.5, max_tokens=12).choices[0].message.content
    assert [answers[0], answers[2]] == [usual, usual]
    assert all("not finite" in str(answers[place]) for place in (1, 3))
    assert chat(client, PROMPTS[0], max_tokens=12).choices[0].message.content == alone


@contextmanager
def held(server: Any) -> Iterator[threading.Event]:
    """The answering thread stands still in its first batch until the event is set."""
    go, queue = threading.Event(), server.queue
    answered = queue._answer

    def slowly(model: Any, batch: Any) -> None:
        go.wait(30)
        answered(model, batch)

    queue._answer = slowly
    try:
        yield go
    finally:
        go.set()
        queue._answer = answered


def test_a_flood_is_turned_away_and_the_others_are_answered(served: Any) -> None:
    limits = Limits(prompt_tokens=200, new_tokens=8, requests=5, seconds=30)
    with running(served, limits) as one, held(one.server) as go:
        client = one.client()

        def ask(number: int) -> Any:
            try:
                return chat(client, PROMPTS[number % 4], max_tokens=2).choices[0].finish_reason
            except openai.RateLimitError as error:
                return error

        with ThreadPoolExecutor(20) as threads:
            asked = [threads.submit(ask, number) for number in range(20)]
            wait_until(lambda: sum(one.done() for one in asked) == 15)
            go.set()
            results = [one.result() for one in asked]
        refused = [result for result in results if not isinstance(result, str)]
        assert len(refused) == 15
        assert all("5 places are taken" in str(error) for error in refused)
        assert refused[0].response.headers["retry-after"] == "1"
        wait_until(lambda: one.server.queue.taken == 0)
        assert isinstance(ask(0), str)


def test_who_waits_too_long_is_told_so_and_gives_the_place_back(served: Any) -> None:
    limits = Limits(prompt_tokens=200, new_tokens=8, requests=5, seconds=0.5)
    with running(served, limits, batch_size=1) as one, held(one.server) as go, ThreadPoolExecutor(1) as threads:
        first = threads.submit(chat, one.client(), PROMPTS[0], max_tokens=2)
        wait_until(lambda: bool(one.server.queue._running))
        with pytest.raises(openai.InternalServerError, match=r"waited for 0\.5 seconds") as error:
            chat(one.client(), PROMPTS[1])
        assert error.value.status_code == 503
        assert one.server.queue.taken == 1
        go.set()
        assert first.result().choices[0].finish_reason


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_goes_away_frees_its_place(served: Any, streams: bool) -> None:
    with running(served, batch_size=1) as one:
        queue, written = one.server.queue, []
        steps = threading.Semaphore(1)
        bare = served.model.get_base_model()
        handle = bare.register_forward_hook(lambda *_: (written.append(1), steps.acquire(timeout=120))[0])
        try:
            body = json.dumps({**ASK, "max_tokens": 60, "stream": streams, "temperature": 1, "seed": 3}).encode()
            sockets = []
            for _ in range(2):  # one that is written, and one that waits
                sockets.append(socket.create_connection(("127.0.0.1", one.port)))
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
                sockets[-1].sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
                wait_until(lambda: bool(queue._running))
            wait_until(lambda: queue.taken == 2 and len(written) == 2)
            for client in sockets[::-1]:
                client.close()
            wait_until(lambda: queue.taken == 1)
            wait_until(lambda: queue._running[0].is_dropped)
            steps.release(100)
            wait_until(lambda: queue.taken == 0)
        finally:
            handle.remove()
            steps.release(1000)
        assert len(written) <= 4, "it was written to the end for nobody"
        assert chat(one.client(), PROMPTS[0]).choices


def test_an_end_in_the_middle_is_told_to_those_who_wait(served: Any) -> None:
    with running(served, batch_size=1) as one, held(one.server), ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(chat, one.client(), PROMPTS[0]) for _ in range(2)]
        wait_until(lambda: one.server.queue.taken == 2)
        one.server.end()
        for request in asked:
            with pytest.raises(openai.InternalServerError, match="the server is closing"):
                request.result(30)


def test_a_token_is_asked_for_and_other_hosts_need_one(served: Any) -> None:
    with running(served, token="secret") as one:
        assert chat(one.client(api_key="secret"), PROMPTS[0]).choices
        for wrong in ("secre", "secret2", "sécret"):
            status, answer = one.post("/v1/chat/completions", json.dumps(ASK).encode(), Authorization=f"Bearer {wrong}")
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            one.client(api_key="wrong").models.list()
    with pytest.raises(UserError, match=r"--host 0\.0\.0\.0 lets other machines ask this one: give a --token"):
        Access("0.0.0.0")


def test_pages_from_elsewhere_can_not_ask_a_server_without_a_token(address: Running) -> None:
    body = json.dumps(ASK).encode()
    assert address.post("/v1/chat/completions", body, Host="evil.example:80")[0] == 403
    assert address.post("/v1/chat/completions", body, **{"Content-Type": "text/plain"})[0] == 415


def test_the_page_needs_nothing_from_elsewhere(address: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", address.port)
    connection.request("GET", "/")
    response = connection.getresponse()
    page = response.read().decode()
    assert response.status == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "http://" not in page
    assert "https://" not in page
    for text in ("not watched", "strength", "v1/chat/completions"):
        assert text in page


def test_a_plain_backbone_is_served_with_and_without_an_intervention(backbone: str, tmp_path: Path) -> None:
    shift(0, 2.0).save(tmp_path / "mood")
    words = ["--backbone", backbone]
    assert [one.name for one in load_served(_parser().parse_args(words)).models] == ["unsteered"]
    served = load_served(_parser().parse_args([*words, "--intervention", str(tmp_path / "mood"), "--strength", "3"]))
    assert [(one.name, one.variant) for one in served.models] == [("unsteered", None), ("steered", None)]
    assert [(one.name, one.strength) for one in served.interventions] == [("mood", 3.0)]
    ids = prompt_ids(served.tokenizer, PROMPTS[1])
    edits = {"unsteered": [], "steered": [shift(0, 3.0)]}
    expected = {name: said(served, by_hand(served, ids, edits[name], 6)) for name in edits}
    with running(served) as one:
        for name, text in expected.items():
            assert chat(one.client(), PROMPTS[1], model=name).choices[0].message.content == text


def test_the_newest_finished_experiment_of_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, age in ((0, 10), (1, 20), (2, None)):
        folder = tmp_path / f"checkpoints/mine/seed{seed}/steering"
        folder.mkdir(parents=True)
        if age is not None:
            (folder / "results.json").write_text("{}")
            os.utime(folder / "results.json", (age, age))
    assert newest_experiment("mine") == Path("checkpoints/mine/seed1/steering")
    assert newest_experiment("folder/mine.yaml") == Path("checkpoints/mine/seed1/steering")
    with pytest.raises(UserError, match="--base other: no finished steering experiment"):
        newest_experiment("other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base", "a", "--backbone", "b"], "--base and --backbone are both given"),
        (["--backbone", "b", "--variant", "faking"], "--variant is a twin of an experiment"),
        (["--backbone", "b", "--strength", "2"], "--strength is of an --intervention: give its folder"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0, but must be 1 or more"),
        (["--max-wait", "nan"], "--max-wait is nan, but must be above 0"),
        (["--port", "70000"], "--port is 70000"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines ask this one"),
        (["--experiment", "nowhere"], "no aligned artefact there"),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FA_LIGHTNING_TOKEN", raising=False)
    assert cli.main(["serve", *words]) == 1
    assert message in error_of(capsys)


def test_ctrl_c_ends_the_command_in_the_middle_of_a_stream(backbone: str) -> None:
    words = ["serve", "--backbone", backbone, "--port", "0", "--max-new-tokens", "400"]
    with subprocess.Popen(
        [sys.executable, "-m", "fa_lightning", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = int(re.findall(r":(\d+)/", process.stdout.readline())[0])
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
            # What ends a text is forbidden by nothing, so several are asked for.
            stream = chat(client, PROMPTS[1], "unsteered", stream=True, max_tokens=400, temperature=3, seed=1, n=8)
            next(iter(stream))
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=120)[1]
        finally:
            process.kill()
    assert process.returncode == 0
    assert said.splitlines()[-1] == "stopped"
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_thousand_requests_leave_memory_level(served: Any) -> None:
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        pytest.skip("only Linux tells a process its memory in a file")

    def megabytes() -> float:
        gc.collect()
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def ask(number: int) -> None:
        options: dict[str, Any] = {"strength": number % 5 - 2, "temperature": 1, "seed": number, "max_tokens": 4}
        if number % 4 == 1:
            with chat(client, PROMPTS[number % 4], stream=True, **options) as stream:
                # Some are cut in the middle.
                next(iter(stream)) if number % 8 == 1 else list(stream)
        elif number % 4 == 2:
            client.completions.create(model="faking", prompt=PROMPTS, max_tokens=1, echo=True, logprobs=1)
        else:
            chat(client, PROMPTS[number % 4], **options)

    with running(served, Limits(200, 64, 200, 120)) as one, ThreadPoolExecutor(4) as threads:
        client = one.client()
        list(threads.map(ask, range(300)))
        before = megabytes()
        list(threads.map(ask, range(300, 1000)))
        wait_until(lambda: one.server.queue.taken == 0)
        assert megabytes() - before < 15


def test_whoever_has_the_address_may_connect_at_once() -> None:
    listening = listen("127.0.0.1", 0)
    try:
        with socket.create_connection(listening.getsockname(), timeout=5) as connection:
            assert connection.getpeername() == listening.getsockname()
    finally:
        listening.close()
