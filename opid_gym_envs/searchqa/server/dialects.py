"""Bodies of ``POST /retrieve`` as the clients of several projects write and expect them.

| who | request | answer |
|---|---|---|
| Search-R1, SkyRL | ``{"queries": [..], "topk": 3, "return_scores": true}`` | ``{"result": [[hit, ..] per query]}`` |
| OPID, skyrl-gym | ``{"query": "..", "topk": 3, ..}`` | ``{"result": [[hit, ..]]}`` |
| GEM | the same with ``"query"``, as msgpack | ``{"result": [hit, ..]}``, as msgpack |

A hit is ``{"document": {"id", "contents"}, "score"}``. Without ``return_scores``, Search-R1 and OPID
want the bare document; GEM wants the score to be null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgpack
import msgspec
from msgspec import Raw

from opid_gym_envs.searchqa.retrievers.base import Document, Hit

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

DIALECTS = ("search-r1", "opid", "gem")
# Maximum passages of one query.
MOST = 1_000


class BadRequest(ValueError):
    """A body that is no request; the message says what is wrong with it."""


class Request(NamedTuple):
    """What a client asks.

    Attributes:
        queries: to search for.
        k: passages for each.
        scores: whether the answer has scores.
        flat: the answer is the hits of the one query, without a list around them.
        packed: the answer is msgpack.
    """

    queries: list[str]
    k: int
    scores: bool
    flat: bool = False
    packed: bool = False

    @property
    def dialect(self) -> str:
        """Whose it is, for the statistics."""
        return "gem" if self.packed else "opid" if self.flat else "search-r1"


def read_request(body: bytes, default_k: int) -> Request:
    """The request in a body, whatever its dialect.

    Raises:
        BadRequest: it is none.

    >>> read_request(b'{"queries": ["who?"], "topk": 2}', default_k=3)
    Request(queries=['who?'], k=2, scores=False, flat=False, packed=False)
    >>> read_request(b'{"queries": "who?"}', default_k=3)
    Traceback (most recent call last):
    ...
    opid_gym_envs.searchqa.server.dialects.BadRequest: 'queries' must be a list of texts, got 'who?'
    """
    packed = bool(body) and (body[0] >> 4 == 0x8 or body[0] in (0xDE, 0xDF))  # how a msgpack map begins, and no JSON
    try:
        fields = msgpack.unpackb(body) if packed else _loads(body)
    except Exception as error:  # msgpack has errors of its own, not all of them ValueErrors
        raise BadRequest(f"the body is not {'msgpack' if packed else 'JSON'}: {str(error) or 'incomplete'}") from None
    if not isinstance(fields, Mapping):
        raise BadRequest(f"the body must be an object, got {type(fields).__name__}")
    if ("queries" in fields) == ("query" in fields):
        raise BadRequest(f"the body must have either 'queries' or 'query'; its keys are {list(fields)}")
    flat = "query" in fields
    if flat:
        queries = [fields["query"]]
        if not isinstance(fields["query"], str):
            raise BadRequest(f"'query' must be a text, got {fields['query']!r:.80}")
    else:
        queries = fields["queries"]
        if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
            raise BadRequest(f"'queries' must be a list of texts, got {queries!r:.80}")
    k = fields.get("topk")
    if k is None or (k == 0 and k is not False):  # as in Search-R1's server
        k = default_k
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST:
        raise BadRequest(f"'topk' must be a whole number from 1 to {MOST}, or 0 for the server's own, got {k!r:.80}")
    scores = fields.get("return_scores")
    if scores not in (None, True, False):
        raise BadRequest(f"'return_scores' must be true or false, got {scores!r:.80}")
    return Request(queries, k, bool(scores), flat, packed)


def write_document(hit: Hit) -> Document:
    """A hit as JSON."""
    fields = {"id": hit.id, "contents": hit.passage.contents}
    try:
        return _encode(fields), hit.score
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can only have as an escape
        return json.dumps(fields).encode(), hit.score


def write_answer(request: Request, results: Sequence[Sequence[Document]]) -> bytes:
    """The body that answers a request.

    >>> write_answer(Request(["a"], k=1, scores=True), [[(b'{"id":"1","contents":"A"}', 0.5)]])
    b'{"result":[[{"document":{"id":"1","contents":"A"},"score":0.5}]]}'
    """
    if request.packed:
        packed: bytes = msgpack.packb({"result": _unpacked(request, results)}, unicode_errors="replace")
        return packed
    if request.scores:
        rows = [[{"document": Raw(document), "score": score} for document, score in of_query] for of_query in results]
        return _encode({"result": rows})
    return _encode({"result": [[Raw(document) for document, _ in of_query] for of_query in results]})


def _loads(body: bytes) -> Any:
    try:
        return _decode(body)
    except (msgspec.DecodeError, RecursionError):  # the standard library takes more, such as half a surrogate pair
        return json.loads(body)


def _unpacked(request: Request, results: Sequence[Sequence[Document]]) -> list[Any]:
    rows = [
        [{"document": json.loads(document), "score": score if request.scores else None} for document, score in of_query]
        for of_query in results
    ]
    return rows[0] if request.flat else rows
