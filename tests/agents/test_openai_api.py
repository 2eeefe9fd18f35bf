"""The client against a real HTTP server that behaves, and that misbehaves in every way servers do."""

import asyncio
import logging
import socket
import threading
import time

import pytest
from opid_agents.openai_api import Budget, ChatClient, Prices, Usage

from tests.agents.endpoint import Answer, reply, serve
from tests.patience import SECONDS

KEY = "sk-very-secret-0123456789"
ASK = [{"role": "user", "content": "hello"}]


def client(url: str, **options) -> ChatClient:
    return ChatClient(url, "m", **({"timeout": SECONDS, "retries": 0} | options))


def test_replies_come_back_in_order_with_what_they_cost():
    with serve(lambda request, n: reply(request["messages"][-1]["content"].upper())) as endpoint:
        it = client(endpoint.url, prices=Prices(prompt=2.0, completion=4.0), temperature=0.0, extra={"seed": 7})
        results = it.complete([[{"role": "user", "content": f"say {i}"}] for i in range(20)])
    assert [result.text for result in results] == [f"SAY {i}" for i in range(20)]
    assert all(result.failure is None and result.finish_reason == "stop" for result in results)
    assert results[0].usage.cost == pytest.approx((2 * 10 + 4 * 5) / 1e6)
    assert (it.spent.requests, it.spent.prompt_tokens, it.spent.completion_tokens) == (20, 200, 100)
    assert it.spent.cost == pytest.approx(20 * 40e-6)
    assert endpoint.requests[0].items() >= {"model": "m", "temperature": 0.0, "seed": 7}.items()
    assert "max_tokens" not in endpoint.requests[0]


def test_requests_run_side_by_side_up_to_the_limit():
    three = threading.Barrier(3, timeout=SECONDS)  # nobody is answered before three have asked

    def answer(request, n):
        three.wait()
        return reply("x")

    with serve(answer) as endpoint:
        results = client(endpoint.url, concurrency=3).complete([ASK] * 9)
    assert [result.text for result in results] == ["x"] * 9
    assert endpoint.most_running == 3


def test_json_can_be_asked_for():
    with serve(lambda request, n: reply("{}")) as endpoint:
        client(endpoint.url).complete([ASK], response_format={"type": "json_object"})
    assert endpoint.requests[0]["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("answer", "failure", "said"),
    [
        (Answer(b"<html>It works!</html>"), "malformed", "<html>It works!</html>"),
        (Answer(b'{"choices": [{"mess'), "malformed", "not JSON"),
        (Answer(b"[" * 100_000), "malformed", "not JSON"),
        (Answer(b"\xff\xfe\x00"), "malformed", "not JSON"),
        (Answer(b"[]"), "malformed", "no choices"),
        (Answer(b'{"choices": []}'), "malformed", "no choices"),
        (reply(None), "malformed", "not a text but NoneType"),
        (Answer(b"x" * 10_000_000), "too_large", "more than 1000000 bytes"),
        (Answer(b"no such model", status=404), "status", "HTTP 404: no such model"),
        (Answer(b"", status=302, headers={"Location": "/login"}), "status", "HTTP 302"),
        (Answer(b"out of order", status=503), "status", "HTTP 503: out of order"),
        (Answer(b"slow down", status=429), "rate_limit", "HTTP 429: slow down"),
        (Answer(b'{"cho', missing=100), "connection", "peer closed connection"),
    ],
)  # fmt: skip
def test_every_bad_answer_is_a_result_and_no_exception(answer, failure, said):
    with serve(lambda request, n: answer) as endpoint:
        (result,) = client(endpoint.url).complete([ASK])
    assert (result.text, result.failure) == (None, failure)
    assert said in result.detail
    assert len(result.detail) < 400


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        (result,) = client(url).complete([ASK])
    assert result.failure == "connection"


@pytest.mark.parametrize("answer", [Answer(b"{}", delay=SECONDS), Answer(b" " * 1_000, pieces=1_000, pause=0.05)])
def test_a_slow_server_is_left_however_it_is_slow(answer):
    """The second one sends a byte now and then, which renews time-outs that count from read to read.

    Whoever waited for the end would call either answer malformed.
    """
    with serve(lambda request, n: answer) as endpoint:
        (result,) = client(endpoint.url, timeout=0.3).complete([ASK])
    assert result.failure == "timeout"


def test_what_passes_is_sent_again():
    answers = [
        Answer(status=500),
        Answer(status=429, headers={"Retry-After": "0"}),
        Answer(b"{", missing=9),
        reply("ok"),
    ]
    with serve(lambda request, n: answers[n]) as endpoint:
        (result,) = client(endpoint.url, retries=3, longest_pause=0.01).complete([ASK])
    assert result.text == "ok"
    assert result.usage.requests == 4
    assert result.usage.completion_tokens == 5


def test_what_does_not_pass_is_not_sent_again():
    with serve(lambda request, n: Answer(status=401)) as endpoint:
        client(endpoint.url, retries=5).complete([ASK])
    assert len(endpoint.requests) == 1


def test_retry_after_is_obeyed():
    answers = [Answer(status=429, headers={"Retry-After": "1"}), reply("ok")]
    with serve(lambda request, n: answers[n]) as endpoint:
        started = time.monotonic()
        (result,) = client(endpoint.url, retries=1).complete([ASK])
    assert result.text == "ok"
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("value", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_server_that_asks_for_an_hour_is_not_waited_for(value):
    with serve(lambda request, n: Answer(status=429, headers={"Retry-After": value})) as endpoint:
        (result,) = client(endpoint.url, retries=5, longest_pause=3599.0).complete([ASK])  # it would be noticed
    assert result.failure == "rate_limit"
    assert len(endpoint.requests) == 1


def test_an_endpoint_that_is_down_is_given_up():
    with serve(lambda request, n: Answer(status=503)) as endpoint:
        results = client(endpoint.url, give_up_after=3, concurrency=1).complete([ASK] * 50)
    assert len(endpoint.requests) == 3
    assert [result.failure for result in results] == ["status"] * 3 + ["given_up"] * 47


def test_a_call_has_a_time_of_its_own():
    is_over = threading.Event()

    def answer(request, n):
        if n:
            is_over.wait(SECONDS)
        return reply("x")

    with serve(answer) as endpoint:
        results = client(endpoint.url, concurrency=1).complete([ASK] * 40, seconds=3.0)
        is_over.set()
    assert [result.failure for result in results] == [None, "timeout", *["given_up"] * 38]


@pytest.mark.parametrize(
    ("budget", "answered"), [(Budget(requests=2), 2), (Budget(tokens=31), 3), (Budget(cost=15e-6), 1), (Budget(), 5)]
)
def test_a_budget_ends_the_requests(budget, answered):
    with serve(lambda request, n: reply("x")) as endpoint:
        it = client(endpoint.url, concurrency=1, budget=budget, prices=Prices(1.0, 1.0))
        results = it.complete([ASK] * 5)
    assert sum(result.text == "x" for result in results) == answered == len(endpoint.requests)
    if answered < 5:
        assert results[-1].failure == "budget"
        assert "is spent" in results[-1].detail


def test_a_budget_counts_what_was_spent_before():
    with serve(lambda request, n: reply("x")) as endpoint:
        (result,) = client(endpoint.url, budget=Budget(requests=10), spent=Usage(requests=10)).complete([ASK])
    assert result.failure == "budget"
    assert endpoint.requests == []


def test_the_key_is_sent_and_shown_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    with serve(lambda request, n: Answer(f"bad key {KEY}".encode(), status=401 if n else 500)) as endpoint:
        it = client(endpoint.url, api_key=KEY, retries=1, longest_pause=0.01)
        (result,) = it.complete([ASK])
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "[api key]" in result.detail
    for shown in (repr(it), repr(result), caplog.text):
        assert KEY not in shown


def test_half_a_character_in_a_prompt_can_be_sent():
    with serve(lambda request, n: reply("x")) as endpoint:
        (result,) = client(endpoint.url).complete([[{"role": "user", "content": "\ud83d"}]])
    assert result.text == "x"


def test_within_a_running_loop():
    with serve(lambda request, n: reply("x")) as endpoint:

        async def notebook() -> list:
            return [*client(endpoint.url).complete([ASK]), *await client(endpoint.url).complete_async([ASK])]

        assert [result.text for result in asyncio.run(notebook())] == ["x", "x"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base_url": "localhost:8000"}, "must start with http"),
        ({"model": ""}, "name of a model"),
        ({"concurrency": 0}, "concurrency must be >= 1, got 0"),
        ({"timeout": float("nan")}, "timeout must be a positive number of seconds, got nan"),
        ({"retries": -1}, "retries must be >= 0, got -1"),
    ],
)
def test_settings_that_make_no_sense(options, said):
    with pytest.raises(ValueError, match=said):
        ChatClient(**({"base_url": "http://localhost/v1", "model": "m"} | options))


@pytest.mark.parametrize("url", [f"https://me:{KEY}@host/v1", f"https://host/v1?key={KEY}"])
def test_a_key_within_the_url_is_refused_and_not_quoted(url):
    with pytest.raises(ValueError, match="must not hold a user, a password or a query") as caught:
        ChatClient(url, "m")
    assert KEY not in str(caught.value)


def test_a_key_that_cannot_be_sent_is_not_quoted():
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        ChatClient("http://localhost/v1", "m", api_key=f"{KEY}\n")
    assert KEY not in str(caught.value)
