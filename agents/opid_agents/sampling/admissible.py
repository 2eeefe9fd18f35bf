"""From the actions that a world lists to what a reply may be (`opid_agents.sampling.constraints`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from opid_agents.sampling.constraints import Constraint, Phrase
from opid_gym.actions import ActionFormat, spaced

_THOUGHT_END = "</think>"
# A place for words of one's own: search[<your query>], search[...], search[].
_OWN_WORDS = re.compile(r"<[^<>]+>|(?<=\[)(?:\.\.\.)?(?=\]$)")


def admissible_constraint(
    actions: Sequence[str] | None,
    form: ActionFormat,
    reply: str,
    *,
    stop: Sequence[str] = (),
    end: int | None = None,
) -> Constraint:
    r"""Replies that say one of some actions.

    Reasoning before the action stays free where the form has a place for it. So do the words of an action that is
    listed with a place for words, such as ``search[<your query>]``: any, but without line ends, opening brackets and
    what would end the action.

    Args:
        actions: that the world accepts now; None: it lists none, and of a form with elements each may be said, with any
            words.
        form: of a reply.
        reply: how an action is written as a reply; ``{action}``.
        stop: texts that end a reply.
        end: token that ends one without such a text.

    Raises:
        ValueError: there is no action, or no reply of this form would end.

    >>> from opid_gym.actions import BARE, TAGGED
    >>> admissible_constraint(["look", "search[...]"], BARE, " {action}\n", stop=["\n"]).phrases
    (Phrase(opening='', head=' look\n', tail=None), Phrase(opening='', head=' search[', tail=']\n'))
    >>> admissible_constraint(["look"], TAGGED, "<think>I {action}.</think><action>{action}</action>", end=7).phrases
    (Phrase(opening='<action>', head='look</action>', tail=None),)
    """
    if actions is None and form.elements:
        actions = [f"{name}[...]" for name in form.elements]
    if not actions:
        raise ValueError(
            "constrained replies need actions, and the world lists none: name their forms, for example "
            'sampler.actions=["search[...]", "answer[...]"]'
        )
    before, _, closing = reply.rpartition("{action}")
    closing = _to_first(closing, stop)
    if form.tag and not form.elements and "</action>" not in closing:
        closing = "</action>"
    ends_itself = any(text in closing for text in stop)
    if end is None and not closing and not form.elements:
        raise ValueError(
            "constrained replies need an end: a stop text or a tag after {action} in the reply's form "
            f"({reply!r}), or a model with an end token"
        )
    phrases = tuple(dict.fromkeys(_phrases(actions, form, before, closing)))
    if not phrases:
        raise ValueError(f"none of the actions {list(actions)} can be said as one of the elements {form.elements}")
    needs_thought = form.reasoning and phrases[0].opening != _THOUGHT_END
    return Constraint(
        phrases,
        after=_THOUGHT_END if needs_thought else "",
        banned=tuple(dict.fromkeys(("\n", _THOUGHT_END, *stop, *_tags(form)))),
        end=None if ends_itself else end,
    )


def _phrases(actions: Sequence[str], form: ActionFormat, before: str, closing: str) -> Iterator[Phrase]:
    opening = "" if not form.reasoning else _THOUGHT_END
    if form.tag:
        opening = "<action>"
    between = before.rpartition(opening)[2] if opening and opening in before else "" if opening else before
    for action in actions:
        head, *tail = _OWN_WORDS.split(action, maxsplit=1)
        if form.elements:
            name, _, text = head.partition("[")
            if name in form.elements:
                last = f"</{name}>{closing}"
                yield Phrase(f"<{name}>", text, last) if tail else Phrase(f"<{name}>", text.removesuffix("]") + last)
            continue
        if form.spaces and not tail:
            head = spaced(action)
        yield Phrase(opening, between + head, tail[0] + closing) if tail else Phrase(opening, between + head + closing)


def _tags(form: ActionFormat) -> tuple[str, ...]:
    """Texts that words of the model's own must not hold besides, for how the reply and the action are read."""
    if form.elements:
        return tuple(f"<{slash}{name}>" for name in form.elements for slash in ("", "/"))
    return ("[", "</action>") if form.tag else ("[",)


def _to_first(text: str, stop: Sequence[str]) -> str:
    """A text up to the end of the first stop text in it."""
    ends = [text.find(one) + len(one) for one in stop if one in text]
    return text[: min(ends, default=len(text))]
