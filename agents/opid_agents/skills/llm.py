"""A model behind an OpenAI-compatible endpoint as the writer of skills, with a cache on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from opid_agents.openai_api import ChatClient, ChatResult, Usage
from opid_agents.skills.analyze import Conversation, Reply

logger = logging.getLogger(__name__)

JsonMode = Literal["none", "object", "schema"]


@dataclass(slots=True)
class EndpointWriter:
    """Asks a model behind an endpoint; see `opid_agents.openai_api.ChatClient` for what it survives.

    A server that refuses the system role, as the chat templates of some models do, is asked in one user message from
    then on.

    Attributes:
        client: the endpoint.
        json_mode: what the server is asked for: ``none``: nothing in particular; ``object``: a JSON object;
            ``schema``: JSON of the very schema, where the server can do that.
        seconds: for one call; what is not answered by then has failed.
        cache: where good replies are kept; None: nowhere.
    """

    client: ChatClient
    json_mode: JsonMode = "none"
    seconds: float | None = None
    cache: ReplyCache | None = None
    _no_system_role: bool = field(default=False, init=False, repr=False)

    def fits(self, conversation: Conversation) -> bool:
        """Always: how much a server takes is not known here, and it says so itself."""
        return True

    def write(
        self, conversations: Sequence[Conversation], schema: Mapping[str, Any]
    ) -> tuple[list[Reply], dict[str, float]]:
        """A reply to each conversation, from the cache where it is there.

        The figures: ``cached`` (conversations), ``calls`` (requests sent, those of the client's own retries too),
        ``prompt_tokens``, ``completion_tokens`` and ``cost``.
        """
        kept = [self.cache.get(self._key(conversation)) if self.cache else None for conversation in conversations]
        missing = [conversation for conversation, text in zip(conversations, kept, strict=True) if text is None]
        before = self.client.spent
        results = iter(self._ask(missing, schema))
        replies = []
        for text in kept:
            if text is not None:
                replies.append(Reply(text))
            else:
                result = next(results)
                replies.append(Reply(result.text, result.failure))
        return replies, _figures(before, self.client.spent) | {"cached": float(len(kept) - len(missing))}

    def _ask(self, conversations: Sequence[Conversation], schema: Mapping[str, Any]) -> list[ChatResult]:
        def complete(asked: Sequence[Conversation]) -> list[ChatResult]:
            asked = [_without_system(conversation) for conversation in asked] if self._no_system_role else asked
            return self.client.complete(asked, response_format=self._format(schema), seconds=self.seconds)

        results = complete(conversations)
        if not self._no_system_role and any(r.failure == "status" and "system" in r.detail.lower() for r in results):
            self._no_system_role = True
            failed = [i for i, result in enumerate(results) if result.text is None]
            for i, result in zip(failed, complete([conversations[i] for i in failed]), strict=True):
                results[i] = result
        return results

    def keep(self, conversation: Conversation, reply: str) -> None:
        """Keep a good reply, if that is possible: a full disk costs the cache and not the run."""
        if self.cache is None:
            return
        try:
            self.cache.put(self._key(conversation), reply)
        except OSError as error:
            logger.warning("a reply cannot be kept in %s: %s", self.cache.folder, error)

    def _key(self, conversation: Conversation) -> str:
        client = self.client
        settings = [client.model, client.temperature, client.max_tokens, dict(client.extra), self.json_mode]
        return json.dumps([settings, conversation], sort_keys=True)

    def _format(self, schema: Mapping[str, Any]) -> dict[str, Any] | None:
        if self.json_mode == "none":
            return None
        if self.json_mode == "object":
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": {"name": "skills", "schema": dict(schema)}}


@dataclass(frozen=True, slots=True)
class ReplyCache:
    """Replies by what was asked, one small file each; several processes may share the folder."""

    folder: Path

    def get(self, key: str) -> str | None:
        """The reply kept under a key; None if there is none that can be read."""
        try:
            kept = json.loads(self._file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return kept["reply"] if isinstance(kept, dict) and isinstance(kept.get("reply"), str) else None

    def put(self, key: str, reply: str) -> None:
        """Keep a reply; a file is never seen half-written."""
        file = self._file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="ascii", dir=file.parent, suffix=".part", delete=False) as part:
            json.dump({"asked": json.loads(key), "reply": reply}, part)
        os.replace(part.name, file)

    def _file(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode("ascii")).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:]}.json"


def _without_system(conversation: Conversation) -> Conversation:
    """The conversation with what the system says at the beginning of the first user message."""
    system, first, *rest = conversation
    if system["role"] != "system":
        return conversation
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def _figures(before: Usage, after: Usage) -> dict[str, float]:
    return {
        "calls": float(after.requests - before.requests),
        "prompt_tokens": float(after.prompt_tokens - before.prompt_tokens),
        "completion_tokens": float(after.completion_tokens - before.completion_tokens),
        "cost": after.cost - before.cost,
    }
