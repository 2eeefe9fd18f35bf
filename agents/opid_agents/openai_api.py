"""A client for OpenAI-compatible chat endpoints: many conversations at once, and a result for each, whatever happens.

Analyzers of trajectories (`opid_agents.skills.llm`) and agents behind an endpoint use it. A server may be down, slow,
rate-limited, or answer with garbage; none of this is an exception here. `ChatClient.complete` gives one `ChatResult`
a conversation, with a text or with the reason why there is none.

The protocol is ``POST {base_url}/chat/completions`` as hosted services, vLLM, llama.cpp and ``transformers serve``
speak it. The API key appears in no result, message, log line or `repr`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

from opid_gym.named import missing_extra

Message = Mapping[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``"""

Failure = Literal["connection", "timeout", "rate_limit", "status", "too_large", "malformed", "budget", "given_up"]

logger = logging.getLogger(__name__)
_RETRIED_STATUSES = frozenset({408, 409, 425, 429})
_QUOTED = 300  # characters of a server's error that are kept
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Usage:
    """What requests cost; sums with ``+``.

    Attributes:
        requests: requests sent, retries included.
        prompt_tokens, completion_tokens: as the server counts them; 0 where it does not say.
        cost: by the client's prices, in their currency.
        seconds: from sending to the end of the answer, waiting between retries included.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
            self.seconds + other.seconds,
        )

    @property
    def tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost."""

    prompt: float = 0.0
    completion: float = 0.0

    def __call__(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of these numbers of tokens, in the currency of the two prices."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a client may spend over its life; None: no limit.

    Requests that are under way when a limit is reached are finished, so up to `ChatClient.concurrency` of them may
    go beyond it.
    """

    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None

    def exhausted(self, spent: Usage) -> str | None:
        """The limit that is reached, in words; None if there is none."""
        for name in ("requests", "tokens", "cost"):
            limit, used = getattr(self, name), getattr(spent, name)
            if limit is not None and used >= limit:
                return f"the budget of {limit:g} {name} is spent ({used:g} used)"
        return None


@dataclass(frozen=True, slots=True)
class ChatResult:
    """What became of one conversation.

    Attributes:
        text: the model's reply; None if there is none.
        failure: why there is none: ``connection`` (nobody answers), ``timeout``, ``rate_limit`` (429 to the end),
            ``status`` (another HTTP error), ``too_large``, ``malformed`` (not the JSON of the protocol), ``budget``,
            ``given_up`` (too many others failed before it, or no time was left).
        detail: the failure in words, for people and logs.
        usage: what it cost.
        finish_reason: as the server gives it; ``length`` for a reply that was cut.
    """

    text: str | None
    failure: Failure | None = None
    detail: str = ""
    usage: Usage = field(default_factory=Usage)
    finish_reason: str | None = None


@dataclass(slots=True)
class ChatClient:
    """Sends conversations to one model behind one endpoint.

    Attributes:
        base_url: up to and including ``/v1``.
        model: the name the server knows it by.
        api_key: sent as a bearer token; None: not sent.
        temperature, max_tokens: of the replies; None: the server's own.
        extra: further members of the request, e.g. ``{"seed": 1}``.
        concurrency: requests under way at once.
        timeout: seconds one request may take in all, however slowly its answer trickles in.
        retries: how often a request is sent again after a connection error, a time-out, 429 or 5xx, with growing
            pauses; a ``Retry-After`` is obeyed.
        longest_pause: seconds; a server that asks for more is not asked again.
        give_up_after: once this many conversations in a row have failed for such reasons, the rest of the call fails
            without being sent.
        max_reply_bytes: an answer that is larger is dropped unread.
        prices: for `Usage.cost`.
        budget: see there.
        spent: what was used so far; give it to go on from an earlier client's.

    Raises:
        ValueError: a setting makes no sense.
        ImportError: the ``llm`` extra is not installed.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    temperature: float | None = None
    max_tokens: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 4
    longest_pause: float = 30.0
    give_up_after: int = 8
    max_reply_bytes: int = 1_000_000
    prices: Prices = field(default_factory=Prices)
    budget: Budget = field(default_factory=Budget)
    spent: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        try:
            import httpx  # noqa: F401
        except ImportError:
            raise missing_extra("talking to an endpoint", "httpx", "llm") from None
        self.base_url = self.base_url.rstrip("/")
        require_no_secrets(self.base_url)  # first, because nothing of it may be quoted
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must start with http:// or https://, got {self.base_url!r}")
        if not self.model:
            raise ValueError("model must be the name of a model on the server, got an empty text")
        # Headers are ASCII; httpx would quote a key it cannot encode in its error.
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ValueError("api_key must be printable ASCII; what was given is not shown here")
        for name in ("concurrency", "give_up_after", "max_reply_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.retries < 0:
            raise ValueError(f"retries must be >= 0, got {self.retries}")
        for name in ("timeout", "longest_pause"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number of seconds, got {getattr(self, name)}")

    def complete(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        response_format: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> list[ChatResult]:
        """Send every conversation and wait for all of them.

        Args:
            conversations: messages, oldest first.
            response_format: asks the server for JSON, in the form its protocol has for that.
            seconds: for the whole call; what is not answered by then has failed. None: no limit.

        Returns:
            One result a conversation, in order. Failures are results.

        """
        return _run(self.complete_async(conversations, response_format=response_format, seconds=seconds))

    async def complete_async(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        response_format: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> list[ChatResult]:
        """As `complete`, within a running event loop."""
        if not conversations:
            return []
        import httpx

        options = {"temperature": self.temperature, "max_tokens": self.max_tokens, "response_format": response_format}
        body = {
            "model": self.model,
            **{name: value for name, value in options.items() if value is not None},
            **self.extra,
        }
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        # Time-outs are ours: httpx's are for single reads, which a trickle of bytes renews for ever.
        async with httpx.AsyncClient(headers=headers, timeout=None) as http:
            call = _Call(self, http, body, deadline)
            return list(await asyncio.gather(*(call.converse(messages) for messages in conversations)))

    def redact(self, text: str) -> str:
        """`text` without the API key."""
        return text.replace(self.api_key, "[api key]") if self.api_key else text


def require_no_secrets(url: str) -> None:
    """Check that a URL carries no user, password or query: URLs are written to files and logs.

    Raises:
        ValueError: it does; what was given is not quoted.
    """
    if "@" in url or "?" in url:
        raise ValueError("a base URL must not hold a user, a password or a query; keys have a place of their own")


class _Failed(Exception):
    """One request failed; `pause` is None where sending it again makes no sense."""

    def __init__(self, failure: Failure, detail: str, pause: float | None = None) -> None:
        super().__init__(detail)
        self.failure: Failure = failure
        self.pause = pause


class _Call:
    """The state of one call of `ChatClient.complete`."""

    def __init__(self, client: ChatClient, http: Any, body: Mapping[str, Any], deadline: float) -> None:
        self.client = client
        self.http = http
        self.body = body
        self.deadline = deadline
        self.places = asyncio.Semaphore(client.concurrency)
        self.failed_in_a_row = 0
        self.jitter = random.Random()  # not the global one, whose state belongs to the training run

    async def converse(self, messages: Sequence[Message]) -> ChatResult:
        async with self.places:
            client = self.client
            if reason := client.budget.exhausted(client.spent):
                return ChatResult(None, "budget", reason)
            if self.failed_in_a_row >= client.give_up_after:
                return ChatResult(None, "given_up", f"{self.failed_in_a_row} conversations in a row failed before it")
            started = time.monotonic()
            result = await self._with_retries(messages)
            seconds = time.monotonic() - started
            client.spent += Usage(seconds=seconds)
            if result.failure not in (None, "given_up"):
                logger.warning("%s: %s", result.failure, result.detail)
            unavailable = result.failure in ("connection", "timeout", "rate_limit", "status")
            self.failed_in_a_row = self.failed_in_a_row + 1 if unavailable else 0
            return replace(result, usage=replace(result.usage, seconds=seconds))

    async def _with_retries(self, messages: Sequence[Message]) -> ChatResult:
        client = self.client
        attempt = 0
        while True:
            attempt += 1
            left = self.deadline - time.monotonic()
            if left <= 0:
                return ChatResult(None, "given_up", "no time was left", Usage(requests=attempt - 1))
            client.spent += Usage(requests=1)
            try:
                async with asyncio.timeout(min(client.timeout, left)):
                    result = await self._request(messages)
                client.spent += replace(result.usage, requests=0)
                text = None if result.text is None else client.redact(result.text)  # a server may quote the request
                return replace(result, text=text, usage=replace(result.usage, requests=attempt))
            except TimeoutError:
                failed = _Failed("timeout", f"no whole answer within {min(client.timeout, left):.3g} s", pause=0.0)
            except _Failed as error:
                failed = error
            detail = client.redact(str(failed))
            if failed.pause is None or attempt > client.retries or client.budget.exhausted(client.spent):
                return ChatResult(None, failed.failure, detail, Usage(requests=attempt))
            # Doubling, and not all at the same moment.
            growing = min(0.5 * 2.0 ** (attempt - 1), client.longest_pause) * self.jitter.uniform(0.75, 1.25)
            pause = max(failed.pause, growing)
            if failed.pause > client.longest_pause or time.monotonic() + pause >= self.deadline:
                return ChatResult(None, failed.failure, detail, Usage(requests=attempt))
            logger.info("%s, sent again in %.1f s: %s", failed.failure, pause, detail)
            await asyncio.sleep(pause)

    async def _request(self, messages: Sequence[Message]) -> ChatResult:
        import httpx

        request = {**self.body, "messages": [dict(message) for message in messages]}
        # ASCII, because half a character (a lone surrogate) in a prompt has no UTF-8.
        content = json.dumps(request).encode("ascii")
        try:
            async with self.http.stream(
                "POST",
                f"{self.client.base_url}/chat/completions",
                content=content,
                headers={"Content-Type": "application/json"},
            ) as response:
                received = bytearray()
                async for chunk in response.aiter_bytes():
                    received += chunk
                    if len(received) > self.client.max_reply_bytes:
                        raise _Failed("too_large", f"the answer has more than {self.client.max_reply_bytes} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Failed("connection", f"{type(error).__name__}: {error}"[:_QUOTED], pause=0.0) from None
        if response.is_success:
            return _read_answer(bytes(received), self.client.prices)
        shown = " ".join(received[: 4 * _QUOTED].decode("utf-8", "replace").split())
        detail = self.client.redact(f"HTTP {response.status_code}: {shown}")[:_QUOTED]
        retried = response.status_code in _RETRIED_STATUSES or response.status_code >= 500
        pause = _retry_after(response.headers.get("retry-after")) if retried else None
        raise _Failed("rate_limit" if response.status_code == 429 else "status", detail, pause)


def _read_answer(raw: bytes, prices: Prices) -> ChatResult:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError) as error:
        shown = " ".join(raw[:_QUOTED].decode("utf-8", "replace").split())[:80]
        raise _Failed("malformed", f"the answer is not JSON ({str(error)[:80]}): {shown!r}") from None
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
    except (LookupError, TypeError):
        raise _Failed("malformed", "the answer has no choices[0].message.content") from None
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    spent = Usage(0, prompt, completion, prices(prompt, completion))
    if not isinstance(text, str):
        return ChatResult(None, "malformed", f"the reply is not a text but {type(text).__name__}", spent)
    finish = choice.get("finish_reason")
    return ChatResult(text, usage=spent, finish_reason=finish if isinstance(finish, str) else None)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _retry_after(value: str | None) -> float:
    """Seconds from a ``Retry-After``: a number or an HTTP date; 0 for none or nonsense."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return seconds if 0 < seconds < math.inf else 0.0


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # A notebook's loop is running in this thread already, and loops do not nest.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
