"""From an agent's reply to an action, and why not when there is none.

A reply such as ``<think>The mug may be on the desk.</think><action>go to desk 1</action>`` carries one action. What
makes a reply invalid is a choice of the benchmark, so it is a record (`ActionFormat`) and not code: OPID's reference
wants both tags and no Chinese characters but does not check admissibility; small models answer with the bare action;
agents that search write ``<search>`` or ``<answer>`` in place of ``<action>``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_THOUGHT_END = re.compile("</think>", re.IGNORECASE)
# Each tag is searched on its own: one pattern for the whole element would need quadratic time on a reply made of
# opening tags.
_OPENING, _CLOSING = re.compile("<action>", re.IGNORECASE), re.compile("</action>", re.IGNORECASE)
# Without a tag the end of the reply is sent, as the reference implementation does.
_LAST_WORDS = 30
# What `spaced` adds.
_SPACE = re.compile(r"^(\w+\[)\s+(?=.*\]$)", re.DOTALL)
_CJK = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class ActionFormat:
    """How a reply must look.

    Attributes:
        tag: the action stands in ``<action>`` tags; False: the whole reply is the action.
        reasoning: a thought is required as well. It is everything up to the first ``</think>``: templates of reasoning
            models open it in the prompt, so that replies only close it.
        admissible: the action must be one of the admissible ones (needs them to be known).
        elements: in place of ``<action>``, the action is one element with one of these tags, and keeps them:
            ``<search>who wrote Hamlet</search>``. Two of them, alike or not, are no decision: such a reply gives the
            empty action.
        chinese: replies with Chinese characters are accepted (the reference implementation refuses them).
        lower: the action is lower-cased before use, as the reference does for ALFWorld.
        spaces: small models read and write ``name[text]`` as `spaced` does; the world is sent it without the space.
        max_characters: longer actions are invalid; keeps a runaway reply away from the world.
    """

    tag: bool = True
    reasoning: bool = True
    admissible: bool = False
    elements: tuple[str, ...] = ()
    chinese: bool = False
    lower: bool = True
    spaces: bool = False
    max_characters: int = 10_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(self.elements))  # a list, where it was read from JSON


@dataclass(frozen=True, slots=True)
class ParsedAction:
    """`action` is always something that can be sent; `valid` and `reason` say whether it was properly given."""

    action: str
    valid: bool
    reason: str | None = None


TAGGED = ActionFormat()
BARE = ActionFormat(tag=False, reasoning=False)
SEARCH = ActionFormat(elements=("search", "answer"), lower=False)


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
    >>> parse_action("The mug, or <action>wait</action>?</think><action>take mug</action>").action
    'take mug'
    >>> parse_action("<think>hm</think> look").reason
    'no <action>...</action> in the reply'
    >>> parse_action("<think>hm</think> <search>author of Hamlet</search>", SEARCH).action
    '<search>author of Hamlet</search>'
    """
    reasons = []
    thought = _THOUGHT_END.search(reply)
    # What stands inside the reasoning is not a decision: a reply may quote the format before it decides.
    start = thought.end() if thought else 0
    if format.elements:
        action, problem = _one_element(reply, format.elements, start)
        if problem:
            reasons.append(problem)
    elif format.tag:
        found = _action(reply, start)
        if found is None:
            reasons.append("no <action>...</action> in the reply")
        action = reply[-_LAST_WORDS:].strip() if found is None else found
    else:
        action = reply[start:].strip()
    if format.lower:
        action = action.lower()
    if format.spaces:
        action = _SPACE.sub(r"\1", action)
    if format.reasoning and thought is None:
        reasons.append("no <think>...</think> in the reply")
    if not format.chinese and _CJK.search(reply):
        reasons.append("Chinese characters in the reply")
    if not action and not format.elements:
        reasons.append("the action is empty")
    if len(action) > format.max_characters:
        reasons.append(f"the action has {len(action)} characters, at most {format.max_characters} are allowed")
        action = action[: format.max_characters]
    if format.admissible and admissible is not None and action not in admissible:
        reasons.append("the action is not admissible here")
    return ParsedAction(action, not reasons, "; ".join(reasons) or None)


def spaced(action: str) -> str:
    """An action of the form ``name[text]`` with a space before its text; any other one as it is.

    In many tokenizers the tokens of words hold the space before them. Without it the words of the text would not be the
    tokens that stand in a page or a passage, and a small model could not copy them.

    >>> spaced("click[red]"), spaced("look")
    ('click[ red]', 'look')
    """
    name, bracket, text = action.partition("[")
    return f"{name}[ {text.lstrip()}" if bracket and text.endswith("]") else action


def _one_element(text: str, names: Collection[str], start: int) -> tuple[str, str | None]:
    """The only element with one of these tags from `start` on, or nothing and why."""
    tag = re.compile(f"<(/?)({'|'.join(map(re.escape, names))})>", re.IGNORECASE)
    tags = list(tag.finditer(text, start))
    wanted = " or ".join(f"<{name}>...</{name}>" for name in names)
    if sum(not match.group(1) for match in tags) > 1:
        return "", f"more than one {wanted} in the reply"
    kinds = [(match.group(1), match.group(2).lower()) for match in tags]
    if len(tags) != 2 or kinds != [("", kinds[0][1]), ("/", kinds[0][1])]:
        return "", f"no {wanted} in the reply"
    content = text[tags[0].end() : tags[1].start()].strip()
    if not content:
        return "", f"the {kinds[0][1]} is empty"
    return f"<{kinds[0][1]}>{content}</{kinds[0][1]}>", None


def _action(text: str, start: int) -> str | None:
    """What stands in the first ``<action>...</action>`` from `start` on."""
    first = _OPENING.search(text, start)
    if first is None:
        return None
    last = _CLOSING.search(text, first.end())
    return None if last is None else text[first.end() : last.start()].strip()
