"""From an agent's reply to an action, and why not when there is none.

A reply such as ``<think>The mug may be on the desk.</think><action>go to desk 1</action>`` carries one action. What
makes a reply invalid is a choice of the benchmark, so it is a record (`ActionFormat`) and not code: OPID's reference
wants both tags and no Chinese characters but does not check admissibility; small models answer with the bare action.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

# Each tag is searched on its own: one pattern for the whole element would need quadratic time on a reply made of
# opening tags.
_TAGS = {
    name: (re.compile(f"<{name}>", re.IGNORECASE), re.compile(f"</{name}>", re.IGNORECASE))
    for name in ("think", "action")
}
# Without a tag the end of the reply is sent, as the reference implementation does.
_LAST_WORDS = 30
_CJK = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class ActionFormat:
    """How a reply must look.

    Attributes:
        tag: the action stands in ``<action>`` tags; False: the whole reply is the action.
        reasoning: a ``<think>`` block is required as well.
        admissible: the action must be one of the admissible ones (needs them to be known).
        chinese: replies with Chinese characters are accepted (the reference implementation refuses them).
        lower: the action is lower-cased before use, as the reference does for ALFWorld.
        max_characters: longer actions are invalid; keeps a runaway reply away from the world.
    """

    tag: bool = True
    reasoning: bool = True
    admissible: bool = False
    chinese: bool = False
    lower: bool = True
    max_characters: int = 10_000


@dataclass(frozen=True, slots=True)
class ParsedAction:
    """`action` is always something that can be sent; `valid` and `reason` say whether it was properly given."""

    action: str
    valid: bool
    reason: str | None = None


TAGGED = ActionFormat()
BARE = ActionFormat(tag=False, reasoning=False)


def parse_action(reply: str, format: ActionFormat = TAGGED, admissible: Collection[str] | None = None) -> ParsedAction:
    """Read the action out of a reply. Never raises on any text.

    Args:
        reply: what the agent said, of any length and content.
        format: what a valid reply is.
        admissible: the actions the world accepts now; needed only if `format.admissible`.

    Returns:
        The action and whether it is valid. An invalid reply gives its best-effort action, cut to
        `format.max_characters`: the world answers it as it answers any nonsense.

    >>> parse_action("<think>hm</think><action>look</action>")
    ParsedAction(action='look', valid=True, reason=None)
    >>> parse_action("<think>hm</think> look").reason
    'no <action>...</action> in the reply'
    """
    reasons = []
    thought = _element(reply, "think", 0)
    if format.tag:
        # What stands inside the reasoning is not a decision: a reply may quote the format before it decides.
        found = _element(reply, "action", thought[1] if thought else 0)
        if found is None:
            reasons.append("no <action>...</action> in the reply")
        action = found[0].strip() if found else reply[-_LAST_WORDS:].strip()
    else:
        action = reply.strip()
    if format.lower:
        action = action.lower()
    if format.reasoning and thought is None:
        reasons.append("no <think>...</think> in the reply")
    if not format.chinese and _CJK.search(reply):
        reasons.append("Chinese characters in the reply")
    if not action:
        reasons.append("the action is empty")
    if len(action) > format.max_characters:
        reasons.append(f"the action has {len(action)} characters, at most {format.max_characters} are allowed")
        action = action[: format.max_characters]
    if format.admissible and admissible is not None and action not in admissible:
        reasons.append("the action is not admissible here")
    return ParsedAction(action, not reasons, "; ".join(reasons) or None)


def _element(text: str, name: str, start: int) -> tuple[str, int] | None:
    """Content and end of the first ``<name>...</name>`` from `start` on."""
    opening, closing = _TAGS[name]
    first = opening.search(text, start)
    if first is None:
        return None
    last = closing.search(text, first.end())
    return None if last is None else (text[first.end() : last.start()], last.end())
