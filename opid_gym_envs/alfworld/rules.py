"""The rules the engine implements, in the notation of game files, and the reading that checks a file states the same.

A ``game.tw-pddl`` file carries its own rules: a PDDL *domain* (what each action needs and changes) and a *grammar* (how
each action is typed and what the game answers). The engine implements one domain and one family of texts. This module holds
both in compact form (``domain_text`` and ``grammar_text``, which an exported game also uses) and brings any file's
rules to a normal form in which spelling does not count: comments, letter case, white space, the order of the members of a
conjunction, names of helper rules in the grammar, rules nothing refers to. What is left either equals ours, or the
file asks for something the engine does not do and ``RulesError`` names the action.

Two generations of text exist and differ in five places, held by ``Dialect``.
"""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from opid_gym_envs.alfworld.pddl import Expression, PddlError, read_pddl, read_typed_list


class RulesError(ValueError):
    """The domain or the grammar is malformed or says something the engine does not implement."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one generation of the game words things.

    ``Dialect.MOVE`` is the text of ALFWorld 0.4 and later, ``Dialect.PUT`` that of the earlier releases and of the official
    data made with them. Files that mix the two (some were made in between) yield further instances.

    Attributes:
        put_command: how putting is typed, ``"move {o} to {r}"`` or ``"put {o} in/on {r}"``.
        put_feedback: what the game answers to it.
        arrival: what follows "You arrive at": the ``"receptacle"`` gone to or its ``"location"``.
        help: the text of the ``help`` command, or None where there is no such command.
    """

    put_command: str
    put_feedback: str
    arrival: str
    help: str | None

    MOVE: ClassVar[Dialect]
    PUT: ClassVar[Dialect]

    @property
    def name(self) -> str:
        """``"move"``, ``"put"``, or ``"mixed"`` for a file between the generations."""
        return "move" if self == Dialect.MOVE else "put" if self == Dialect.PUT else "mixed"


_PUT_COMMANDS = ("move {o} to {r}", "put {o} in/on {r}")
_PUT_FEEDBACKS = ("You move the {o} to the {r}.", "You put the {o} in/on the {r}.")
_HELP_LINES = (
    ("look", "look around your current location"),
    ("inventory", "check your current inventory"),
    ("go to (receptacle)", "move to a receptacle"),
    ("open (receptacle)", "open a receptacle"),
    ("close (receptacle)", "close a receptacle"),
    ("take (object) from (receptacle)", "take an object from a receptacle"),
    ("move (object) to (receptacle)", "place an object in or on a receptacle"),
    ("examine (something)", "examine a receptacle or an object"),
    ("use (object)", "use an object"),
    ("heat (object) with (receptacle)", "heat an object using a receptacle"),
    ("clean (object) with (receptacle)", "clean an object using a receptacle"),
    ("cool (object) with (receptacle)", "cool an object using a receptacle"),
    ("slice (object) with (object)", "slice an object using a sharp object"),
)


def _help_text() -> str:
    # The original aligns the explanations in a column of 34, except the line whose command was renamed later.
    rows = (
        f"  {command + ':':<{32 if command.startswith('move') else 34}}{meaning}\n"
        for command, meaning in _HELP_LINES
    )
    return "Available commands:\n" + "".join(rows)


Dialect.MOVE = Dialect(_PUT_COMMANDS[0], _PUT_FEEDBACKS[0], "receptacle", _help_text())
Dialect.PUT = Dialect(_PUT_COMMANDS[1], _PUT_FEEDBACKS[1], "location", None)

# --------------------------------------------------------------------------------------------------------------------
# The domain: what actions need and change.

PREDICATES: dict[str, tuple[str, ...]] = {
    "atlocation": ("agent", "location"),
    "receptacleatlocation": ("receptacle", "location"),
    "objectatlocation": ("object", "location"),
    "openable": ("receptacle",),
    "opened": ("receptacle",),
    "inreceptacle": ("object", "receptacle"),
    "isreceptacleobject": ("object",),
    "inreceptacleobject": ("object", "object"),
    "isreceptacleobjectfull": ("object",),
    "wasinreceptacle": ("object", "receptacle"),
    "checked": ("receptacle",),
    "examined": ("location",),
    "receptacletype": ("receptacle", "rtype"),
    "cancontain": ("rtype", "otype"),
    "objecttype": ("object", "otype"),
    "holds": ("agent", "object"),
    "holdsany": ("agent",),
    "holdsanyreceptacleobject": ("agent",),
    "full": ("receptacle",),
    "isclean": ("object",),
    "cleanable": ("object",),
    "ishot": ("object",),
    "heatable": ("object",),
    "iscool": ("object",),
    "coolable": ("object",),
    "pickupable": ("object",),
    "moveable": ("object",),
    "toggleable": ("object",),
    "ison": ("object",),
    "istoggled": ("object",),
    "sliceable": ("object",),
    "issliced": ("object",),
}
"""Every predicate of the domain (lower-cased) with the types of its arguments."""

DYNAMIC_PREDICATES = frozenset(
    ["atlocation", "objectatlocation", "opened", "inreceptacle", "holds", "holdsany", "isclean", "ishot", "iscool", "ison", "istoggled", "issliced", "checked"]
)
"""The predicates that some action changes; all others keep their initial truth."""

TYPES = ("agent", "location", "receptacle", "object", "rtype", "otype")

_HERE = "(atLocation ?a ?l) (receptacleAtLocation ?r ?l)"
_ACCESSIBLE = "(or (not (openable ?r)) (opened ?r))"
_ACTIONS = f"""
(:action look :parameters (?a - agent ?l - location)
  :precondition (atLocation ?a ?l)
  :effect (checked ?l))
(:action inventory :parameters (?a - agent)
  :precondition ()
  :effect (checked ?a))
(:action examineReceptacle :parameters (?a - agent ?r - receptacle)
  :precondition (exists (?l - location) (and {_HERE}))
  :effect (checked ?r))
(:action examineObject :parameters (?a - agent ?o - object)
  :precondition (holds ?a ?o)
  :effect (checked ?o))
(:action GotoLocation :parameters (?a - agent ?lStart - location ?lEnd - location ?r - receptacle)
  :precondition (and (atLocation ?a ?lStart) (receptacleAtLocation ?r ?lEnd))
  :effect (and (not (atLocation ?a ?lStart)) (atLocation ?a ?lEnd) (increase (total-cost) 1)))
(:action OpenObject :parameters (?a - agent ?l - location ?r - receptacle)
  :precondition (and (openable ?r) {_HERE} (not (opened ?r)))
  :effect (and (opened ?r) (checked ?r) (increase (total-cost) 1)))
(:action CloseObject :parameters (?a - agent ?l - location ?r - receptacle)
  :precondition (and (openable ?r) {_HERE} (opened ?r))
  :effect (and (not (opened ?r)) (increase (total-cost) 1)))
(:action PickupObject :parameters (?a - agent ?l - location ?o - object ?r - receptacle)
  :precondition (and (pickupable ?o) {_HERE} (inReceptacle ?o ?r) (not (holdsAny ?a)) {_ACCESSIBLE})
  :effect (and (not (inReceptacle ?o ?r)) (not (objectAtLocation ?o ?l)) (holds ?a ?o) (holdsAny ?a)
    (increase (total-cost) 1)))
(:action PutObject :parameters (?a - agent ?l - location ?o - object ?r - receptacle ?ot - otype ?rt - rtype)
  :precondition (and (holds ?a ?o) {_HERE} {_ACCESSIBLE} (objectType ?o ?ot) (receptacleType ?r ?rt) (canContain ?rt ?ot))
  :effect (and (inReceptacle ?o ?r) (objectAtLocation ?o ?l) (not (holds ?a ?o)) (not (holdsAny ?a))
    (increase (total-cost) 1)))
(:action CleanObject :parameters (?a - agent ?l - location ?r - receptacle ?o - object)
  :precondition (and (cleanable ?o) (receptacleType ?r SinkBasinType) {_HERE} (holds ?a ?o))
  :effect (and (isClean ?o) (increase (total-cost) 5)))
(:action HeatObject :parameters (?a - agent ?l - location ?r - receptacle ?o - object)
  :precondition (and (heatable ?o) (receptacleType ?r MicrowaveType) {_HERE} (holds ?a ?o))
  :effect (and (isHot ?o) (not (isCool ?o)) (increase (total-cost) 5)))
(:action CoolObject :parameters (?a - agent ?l - location ?r - receptacle ?o - object)
  :precondition (and (coolable ?o) (receptacleType ?r FridgeType) {_HERE} (holds ?a ?o))
  :effect (and (isCool ?o) (not (isHot ?o)) (increase (total-cost) 5)))
(:action ToggleObject :parameters (?a - agent ?l - location ?o - object ?r - receptacle)
  :precondition (and (toggleable ?o) {_HERE} (inReceptacle ?o ?r))
  :effect (and (when (isOn ?o) (not (isOn ?o))) (when (not (isOn ?o)) (isOn ?o)) (isToggled ?o) (increase (total-cost) 5)))
(:action SliceObject :parameters (?a - agent ?l - location ?co - object ?ko - object)
  :precondition (and (sliceable ?co) (or (objectType ?ko KnifeType) (objectType ?ko ButterKnifeType))
    (atLocation ?a ?l) (objectAtLocation ?co ?l) (holds ?a ?ko))
  :effect (and (isSliced ?co) (increase (total-cost) 5)))
"""
_HELP_ACTION = "(:action help :parameters (?a - agent) :precondition () :effect (checked ?a))\n"


def domain_text(dialect: Dialect = Dialect.MOVE) -> str:
    """The PDDL domain the engine implements, as a game file states it (with ``help`` where the dialect has it)."""
    predicates = "\n".join(
        f"  ({name}{''.join(f' ?x{index} - {kind}' for index, kind in enumerate(kinds))})"
        for name, kinds in PREDICATES.items()
    )
    return (
        "(define (domain alfred)\n(:requirements :adl :action-costs :typing)\n"
        f"(:types {' '.join(TYPES)})\n(:predicates\n{predicates})\n"
        "(:functions (distance ?from ?to) (total-cost) - number)\n"
        f"{_ACTIONS}{_HELP_ACTION if dialect.help is not None else ''})\n"
    )


@lru_cache(maxsize=16)
def check_domain(text: str) -> bool:
    """Check that a PDDL domain states the actions the engine implements.

    Args:
        text: the domain, as in the key ``pddl_domain`` of a game file.

    Returns:
        Whether the domain has the ``help`` action (the later generation does).

    Raises:
        RulesError: the text is malformed, or an action is missing, unknown or different; the message names it.
    """
    actions = _read_domain(text)
    expected = _read_domain(domain_text())
    for name, action in actions.items():
        if name not in expected:
            raise RulesError(f"domain action {name!r} is unknown to the engine; it implements {sorted(expected)}")
        for part, found, wanted in zip(("parameters", "precondition", "effect"), action, expected[name], strict=True):
            if found != wanted:
                raise RulesError(f"the {part} of domain action {name!r} differ from what the engine implements")
    missing = sorted(set(expected) - set(actions) - {"help"})
    if missing:
        raise RulesError(f"domain action {missing[0]!r} is missing")
    return "help" in actions


_NormalAction = tuple[Any, Any, Any]


def _read_domain(text: str) -> dict[str, _NormalAction]:
    try:
        items = read_pddl(text)
    except PddlError as error:
        raise RulesError(f"malformed PDDL domain: {error}") from None
    if not items or items[0] != "define":
        raise RulesError(f"a PDDL domain begins with 'define', found {str(items[:1])!r:.40}")
    types: set[str] = {"object"}
    actions: dict[str, _NormalAction] = {}
    for item in items[1:]:
        if not isinstance(item, tuple) or not item:
            raise RulesError(f"a PDDL domain is a list of parenthesised parts, found {item!r:.40}")
        head = item[0]
        if head == ":types":
            for name, parent in _typed_list(item[1:]):
                if parent != "object":
                    raise RulesError(f"type {name!r} is a kind of {parent!r}; the engine knows only kinds of 'object'")
                types.add(name)
        elif head == ":action":
            name, action = _read_action(item, types)
            actions[name] = action
        elif head == ":derived":
            raise RulesError(f"derived predicate {item[1:2]!r:.60} is not implemented by the engine")
        elif head not in ("domain", ":requirements", ":predicates", ":functions", ":constants"):
            raise RulesError(f"part {head!r:.40} of the domain is not implemented by the engine")
    return actions


def _typed_list(items: tuple[Expression, ...]) -> list[tuple[str, str]]:
    try:
        return read_typed_list(items)
    except PddlError as error:
        raise RulesError(f"malformed PDDL domain: {error}") from None


def _read_action(item: tuple[Expression, ...], types: set[str]) -> tuple[str, _NormalAction]:
    if len(item) < 2 or not isinstance(item[1], str):
        raise RulesError("a domain action has no name")
    name = item[1]
    if len(item) % 2 or not all(isinstance(key, str) for key in item[2::2]):
        raise RulesError(f"malformed domain action {name!r}: need pairs of :parameters, :precondition, :effect")
    parts = dict(zip(item[2::2], item[3::2], strict=True))
    unknown = set(parts) - {":parameters", ":precondition", ":effect"}
    if unknown or not all(isinstance(value, tuple) for value in parts.values()):
        raise RulesError(f"malformed domain action {name!r}")
    effects: set[Any] = set()
    _collect_effects(parts.get(":effect", ()), types, effects)
    parameters = tuple(_typed_list(parts.get(":parameters", ())))
    return name, (parameters, _normal_condition(parts.get(":precondition", ()), types), frozenset(effects))


def _normal_condition(condition: Expression, types: set[str]) -> Any:
    """Normal form of a condition: nested frozensets under ("and"|"or"), constants folded."""
    if not condition:
        return ("and", frozenset())
    head = condition[0]
    if head in ("and", "or"):
        absorbing = ("or" if head == "and" else "and", frozenset())
        members: set[Any] = set()
        for part in condition[1:]:
            normal = _normal_condition(part, types)
            if normal == absorbing:
                return absorbing
            if normal[0] == head:
                members |= normal[1]
            else:
                members.add(normal)
        return next(iter(members)) if len(members) == 1 else (head, frozenset(members))
    if head == "exists" and len(condition) == 3:
        variables = _typed_list(condition[1])
        # The original domain has such a slip ("location," with a comma): nothing has that type, so the
        # quantifier is false, which is why visible objects can never be examined.
        if any(kind not in types for _, kind in variables):
            return ("or", frozenset())
        return ("exists", frozenset(variables), _normal_condition(condition[2], types))
    return tuple(_normal_condition(part, types) if isinstance(part, tuple) else part for part in condition)


def _collect_effects(effect: Expression, types: set[str], into: set[Any]) -> None:
    if not effect or effect[0] == "increase":  # costs guide the original's planner and change nothing in play
        return
    if effect[0] == "and":
        for part in effect[1:]:
            _collect_effects(part, types, into)
    elif effect[0] == "when" and len(effect) == 3:
        into.add(("when", _normal_condition(effect[1], types), effect[2]))
    else:
        into.add(effect)


# --------------------------------------------------------------------------------------------------------------------
# The grammar: what is typed and what is answered.

_NEAR = "atlocation(a:agent, l:location) & receptacleatlocation(r:receptacle, l:location)"
_FLOOR = (
    "atlocation(a:agent, l:location) & objectatlocation(o:object, l:location) & "
    "receptacleatlocation(r:receptacle, l:location) & not_inreceptacle(o:object, r:receptacle)"
)
_CLEAN, _HOT, _COOL, _SLICED = (f"is{mark}(o:object)" for mark in ("clean", "hot", "cool", "sliced"))


def _alternatives(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"condition": condition, "rhs": rhs} if condition else {"rhs": rhs} for condition, rhs in pairs]


def _grammar_rules(dialect: Dialect, task: str) -> dict[str, list[dict[str, str]]]:
    contents = "[{'a ' + o.name | inreceptacle(o:object, r:receptacle)}]"
    rules = {
        "intro": _alternatives(("", "-= Welcome to TextWorld, ALFRED! =-\n\n#look.feedback#\n\n#task#")),
        "task": _alternatives(("", f"Your task is to: {task}.")),
        "look.feedback": _alternatives(
            (
                _NEAR,
                "You are facing the [{r.name | " + _NEAR + "}]. Next to it, you see #floor#.",
            ),
            ("", "You are in the middle of a room. Looking quickly around you, you see #receptacles#."),
        ),
        "floor": _alternatives((_FLOOR, "[{'a ' + o.name | " + _FLOOR + "}]"), ("", "nothing")),
        "receptacles": _alternatives(
            (
                "receptacleatlocation(r:receptacle, l:location)",
                "[{'a ' + r.name | receptacleatlocation(r:receptacle, l:location)}]",
            ),
            ("", "nothing"),
        ),
        "inventory.feedback": _alternatives(
            ("holdsany(a:agent)", "You are carrying: [{'a ' + o.name | holds(a:agent, o:object)}]."),
            ("", "You are not carrying anything."),
        ),
        "GotoLocation.feedback": _alternatives(
            (
                "",
                "You arrive at {"
                + ("r" if dialect.arrival == "receptacle" else "lend")
                + ".name}. #examineReceptacle.feedback#",
            )
        ),
        "OpenObject.feedback": _alternatives(("", "You open the {r.name}. #examineReceptacle.feedback#")),
        "CloseObject.feedback": _alternatives(("", "You close the {r.name}.")),
        "PickupObject.feedback": _alternatives(("", "You pick up the {o.name} from the {r.name}.")),
        "PutObject.feedback": _alternatives(
            ("", dialect.put_feedback.replace("{o}", "{o.name}").replace("{r}", "{r.name}"))
        ),
        "examineReceptacle.feedback": _alternatives(
            (
                "openable(r:receptacle) & opened(r:receptacle)",
                f"The {{r.name}} is open. In it, you see {contents}.",
            ),
            ("openable(r:receptacle)", "The {r.name} is closed."),
            ("", f"On the {{r.name}}, you see {contents}."),
        ),
        "examineObject.feedback": _alternatives(
            (
                "isreceptacleobject(o:object)",
                "This is a normal {o.name}. In it, you see [{'a ' + o2.name | inreceptacleobject(o2:object, o:object)}].",
            ),
            (f"{_CLEAN} & {_HOT} & {_SLICED}", "This is a hot and clean sliced {o.name}."),
            (f"{_CLEAN} & {_COOL} & {_SLICED}", "This is a cool and clean sliced {o.name}."),
            (f"{_CLEAN} & {_SLICED}", "This is a clean sliced {o.name}."),
            (f"{_HOT} & {_SLICED}", "This is a hot sliced {o.name}."),
            (f"{_COOL} & {_SLICED}", "This is a cool sliced {o.name}."),
            (f"{_CLEAN} & {_HOT}", "This is a hot and clean {o.name}."),
            (f"{_CLEAN} & {_COOL}", "This is a cool and clean {o.name}."),
            (_HOT, "This is a hot {o.name}."),
            (_CLEAN, "This is a clean {o.name}."),
            (_COOL, "This is a cold {o.name}."),
            ("toggleable(o:object) & istoggled(o:object)", "This {o.name} is on."),
            ("toggleable(o:object) & not_istoggled(o:object)", "This {o.name} is off."),
            (f"sliceable(o:object) & {_SLICED}", "This is a sliced {o.name}."),
            ("", "There's nothing special about {o.name}."),
        ),
        "toggleObject.feedback": _alternatives(
            ("toggleable(o:object) & istoggled(o:object)", "You turn on the {o.name}."),
            ("toggleable(o:object)", "You turn off the {o.name}."),
            ("", "You don't see any switch on the {o.name}."),
        ),
        "sliceObject.feedback": _alternatives(("", "You sliced the {co.name} with the {ko.name}.")),
        "list_empty": _alternatives(("", "nothing")),
        "list_separator": _alternatives(("", ", ")),
        "list_last_separator": _alternatives(("", ", and ")),
    }
    for verb in ("heat", "clean", "cool"):
        rules[f"{verb}Object.feedback"] = _alternatives(("", f"You {verb} the {{o.name}} using the {{r.name}}."))
    if dialect.help is not None:
        rules["help.feedback"] = _alternatives(("", dialect.help))
    return rules


def _commands(dialect: Dialect) -> dict[str, tuple[str, str]]:
    """Action name -> (what is typed, grammar rule of the answer)."""
    commands = {
        "look": ("look", "look"),
        "inventory": ("inventory", "inventory"),
        "examineReceptacle": ("examine {r}", "examineReceptacle"),
        "examineObject": ("examine {o}", "examineObject"),
        "GotoLocation": ("go to {r}", "GotoLocation"),
        "OpenObject": ("open {r}", "OpenObject"),
        "CloseObject": ("close {r}", "CloseObject"),
        "PickupObject": ("take {o} from {r}", "PickupObject"),
        "PutObject": (dialect.put_command, "PutObject"),
        "CleanObject": ("clean {o} with {r}", "cleanObject"),
        "HeatObject": ("heat {o} with {r}", "heatObject"),
        "CoolObject": ("cool {o} with {r}", "coolObject"),
        "ToggleObject": ("use {o}", "toggleObject"),
        "SliceObject": ("slice {co} with {ko}", "sliceObject"),
    }
    if dialect.help is not None:
        commands["help"] = ("help", "help")
    return commands


def grammar_text(dialect: Dialect = Dialect.MOVE, task: str = "UNKNOWN GOAL") -> str:
    """The grammar the engine implements, as a game file states it, with the task in its place.

    Raises:
        RulesError: the task has characters that mean something in a grammar and cannot be written there.
    """
    bad = sorted(set(task) & _SPECIAL)
    if bad:
        raise RulesError(f"a task cannot contain {bad[0]!r}, which is a sign of the grammar: {task!r:.80}")
    rules = json.dumps(_grammar_rules(dialect, task), indent=1)
    actions = "\n".join(
        f'action {name} {{ template :: "{command}"; feedback :: "#{rule}.feedback#"; }}'
        for name, (command, rule) in _commands(dialect).items()
    )
    return f'grammar :: """\n{rules}\n""";\n\n{actions}\n'


_SPECIAL = frozenset('#{}[]|;"<>')
_DOCUMENT = re.compile(
    r'(?P<comment>\#[^\n]*)|(?P<block>"""[\s\S]*?""")|(?P<string>"[^"]*")|(?P<word>::|[;{}]|[\w/-]+)|(?P<space>\s+)|(?P<bad>[\s\S])',
)
_SYMBOL = re.compile(
    r"\[\s*\{(?P<item>[^|{}\[\]]+)\|(?P<given>[^;|{}\n\[\]#]+)\}\s*\]"  # a list over all matches
    r"|\{(?P<value>[^|{}\[\]<>\n]+)\}"  # a value
    r"|\#(?P<rule>[\w()/!<>\-\s,.]+)\#"  # another rule
    r'|(?P<text>[^;|"<>\[\]#{}]+)'  # plain text
    r"|(?P<bad>[\s\S])"
)
_PIECE = re.compile(r"\s*(?:'(?P<text>[^']*)'|(?P<variable>\w+)(?:\.(?P<field>\w+))?(?:\s+or\s+(?P=variable)\.id)?)\s*")

_Rules = dict[str, list[dict[str, Any]]]
_Part = tuple[Any, ...]


def read_grammar(text: str) -> tuple[Dialect, str]:
    """Read a game's grammar and check that the engine words everything the same way.

    Args:
        text: the grammar, as in the key ``grammar`` of a game file.

    Returns:
        The dialect, and the task (what stands between "Your task is to: " and the final full stop).

    Raises:
        RulesError: the text is malformed, or a command or an answer is missing or worded differently; names it.
    """
    # The task is all that differs between most files: set it aside, so that the rest is read once per generation.
    match = _TASK_VALUE.search(text)
    if match is None:
        return _read_grammar(text)
    try:
        task = json.loads(f'"{match.group(1)}"')
    except ValueError as error:
        raise RulesError(f"rule 'task' is not valid JSON: {error}") from None
    if set(task) & _SPECIAL:
        return _read_grammar(text)
    dialect, placeholder = _read_grammar(f"{text[: match.start(1)]}{_PLACEHOLDER}{text[match.end(1) :]}")
    return dialect, task.replace("\\n", "\n") if placeholder == _PLACEHOLDER else placeholder


_TASK_VALUE = re.compile(r'"rhs"\s*:\s*"Your task is to: ((?:[^"\\]|\\.)*)\."')
_PLACEHOLDER = "UNKNOWN GOAL"


@lru_cache(maxsize=16)
def _read_grammar(text: str) -> tuple[Dialect, str]:
    rules, actions = _read_document(text)
    task = _plain(_expand(rules, "#task#"), "task")
    if not (task.startswith("Your task is to: ") and task.endswith(".") and len(task) > len("Your task is to: ")):
        raise RulesError(f"rule 'task' must read 'Your task is to: <task>.', found {task!r:.80}")
    dialect = _dialect(rules, actions)
    for name, wanted in _expected(dialect).items():
        if name == "intro":
            found = _expand(rules, "#intro#", stop={"task"})
        elif name in actions:
            found = _action_form(rules, actions[name], name)
        else:
            raise RulesError(f"grammar action {name!r} is missing")
        if found != wanted:
            raise RulesError(f"the wording of {name!r} in the grammar is not one the engine implements")
    for name, text_ in _LIST_WORDS.items():
        if _expand(rules, f"#{name}#") != (("text", text_),):
            raise RulesError(f"grammar rule {name!r} must be {text_!r}")
    return dialect, task.removeprefix("Your task is to: ").removesuffix(".")


_LIST_WORDS = {"list_empty": "nothing", "list_separator": ", ", "list_last_separator": ", and "}


@lru_cache(maxsize=16)
def _expected(dialect: Dialect) -> dict[str, Any]:
    rules, actions = _read_document(grammar_text(dialect))
    forms = {name: _action_form(rules, action, name) for name, action in actions.items()}
    return {"intro": _expand(rules, "#intro#", stop={"task"}), **forms}


def _dialect(rules: _Rules, actions: dict[str, dict[str, str]]) -> Dialect:
    """Read the five places in which generations differ, leaving everything else to the comparison."""

    def choose(name: str, part: str, options: dict[Any, str]) -> str:
        if name not in actions:
            raise RulesError(f"grammar action {name!r} is missing")
        form = _action_form(rules, actions[name], name)[part == "feedback"]
        if form not in options:
            raise RulesError(f"the {part} of {name!r} in the grammar is not one the engine implements")
        return options[form]

    def forms(texts: tuple[str, ...], field: str) -> dict[Any, str]:
        return {_expand({}, text.replace("}", field + "}")): text for text in texts}

    arrivals = {
        _expand(rules, f"You arrive at {{{variable}.name}}. #examineReceptacle.feedback#"): place
        for variable, place in (("r", "receptacle"), ("lend", "location"))
    }
    return Dialect(
        put_command=choose("putobject", "template", forms(_PUT_COMMANDS, "")),
        put_feedback=choose("putobject", "feedback", forms(_PUT_FEEDBACKS, ".name")),
        arrival=choose("gotolocation", "feedback", arrivals),
        help=_plain(_action_form(rules, actions["help"], "help")[1], "help") if "help" in actions else None,
    )


def _action_form(rules: _Rules, action: dict[str, str], name: str) -> tuple[Any, Any]:
    template = _expand(rules, action.get("template", ""))
    # Going to a receptacle is typed "go to" and the list of receptacles that are this one: a list of one.
    at_end = ("list", (("name", "r"),), "receptacleatlocation(r:receptacle,lend:location)")
    template = tuple(("name", "r") if name == "gotolocation" and part == at_end else part for part in template)
    return template, _expand(rules, action.get("feedback", ""))


def _plain(parts: _Part, name: str) -> str:
    if len(parts) == 1 and parts[0][0] == "text":
        return parts[0][1]
    raise RulesError(f"rule {name!r} of the grammar must be plain text")


def _expand(rules: _Rules, text: str, stop: frozenset[str] | set[str] = frozenset(), depth: int = 0) -> _Part:
    """Normal form of a right-hand side: a tuple of text, name, list and choice parts, references replaced."""
    if depth > 20:
        raise RulesError("the rules of the grammar refer to themselves")
    parts: list[_Part] = []

    def add(part: _Part) -> None:
        if part[0] == "text" and parts and parts[-1][0] == "text":
            parts[-1] = ("text", parts[-1][1] + part[1])
        elif part != ("text", ""):
            parts.append(part)

    # White space at the very beginning of a right-hand side is lost in the original's reader.
    for match in _SYMBOL.finditer(text.lstrip().replace("\\n", "\n")):
        kind, found = match.lastgroup, match.group()
        if kind == "text":
            add(("text", found))
        elif kind == "value":
            for piece in _value(match["value"]):
                add(piece)
        elif kind == "given":
            item = match["item"].strip()
            inner = _expand(rules, item, stop, depth + 1) if item.startswith("#") else _value(item)
            add(("list", inner, re.sub(r"\s", "", match["given"])))
        elif kind == "rule" and match["rule"] in stop:
            add(("rule", match["rule"]))
        elif kind == "rule":
            for part in _rule(rules, match["rule"], stop, depth):
                add(part)
        else:
            raise RulesError(f"cannot read {found!r} in the grammar text {text!r:.80}")
    return tuple(parts)


def _rule(rules: _Rules, name: str, stop: frozenset[str] | set[str], depth: int) -> _Part:
    if name not in rules:
        raise RulesError(f"grammar rule {name!r} is missing")
    options = []
    for alternative in rules[name]:
        condition = re.sub(r"\s", "", alternative.get("condition", ""))
        options.append((condition, _expand(rules, alternative["rhs"], stop, depth + 1)))
        if not condition:  # always applies: what follows is never reached
            break
    if not options:
        raise RulesError(f"grammar rule {name!r} has no alternatives")
    return options[0][1] if not options[0][0] else (("choice", tuple(options)),)


def _value(expression: str) -> _Part:
    """``o.indefinite + ' ' + o.name`` as parts: (text "a "), (name o)."""
    parts: list[_Part] = []
    for piece in re.split(r"\+", expression):
        match = _PIECE.fullmatch(piece)
        if match is None or match["field"] not in (None, "name", "indefinite"):
            raise RulesError(f"cannot read the value {{{expression}}} in the grammar")
        if match["text"] is not None or match["field"] == "indefinite":
            added = "a" if match["text"] is None else match["text"]
            if parts and parts[-1][0] == "text":
                parts[-1] = ("text", parts[-1][1] + added)
            else:
                parts.append(("text", added))
        else:
            parts.append(("name", match["variable"]))
    return tuple(parts)


def _read_document(text: str) -> tuple[_Rules, dict[str, dict[str, str]]]:
    """Split a grammar into its rules and, by lower-cased name, its actions with ``template`` and ``feedback``."""
    tokens: list[tuple[str, str]] = []
    for match in _DOCUMENT.finditer(text):
        if match.lastgroup == "bad":
            raise RulesError(f"cannot read the grammar at {text[match.start() : match.start() + 40]!r}")
        if match.lastgroup in ("block", "string", "word"):
            tokens.append((match.lastgroup, match.group()))
    rules: _Rules = {}
    actions: dict[str, dict[str, str]] = {}
    current: dict[str, str] | None = None
    position = 0
    while position < len(tokens):
        word = tokens[position][1]
        following = [token[1] for token in tokens[position + 1 : position + 4]]
        kind = tokens[position + 2][0] if len(following) > 1 else ""
        if word == "action" and current is None and following[1:2] == ["{"]:
            current = actions.setdefault(following[0].lower(), {})
            current.clear()
            position += 3
        elif word == "}" and current is not None:
            current = None
            position += 1
        elif word == "grammar" and following[::2] == ["::", ";"] and kind == "block":
            rules.update(_read_rules(following[1][3:-3], commented=current is not None))
            position += 4
        elif word == "pddl" and current is not None and following[::2] == ["::", ";"] and kind == "block":
            position += 4
        elif (
            word in ("template", "feedback")
            and current is not None
            and following[::2] == ["::", ";"]
            and kind == "string"
        ):
            current[word] = following[1][1:-1]
            position += 4
        else:
            raise RulesError(f"cannot read the grammar at {' '.join([word, *following])!r:.80}")
    if current is not None:
        raise RulesError("the grammar ends inside an action")
    return rules, actions


def _read_rules(block: str, commented: bool) -> _Rules:
    block = textwrap.dedent(block)
    if commented:  # inside an action, and only there, lines may be commented out
        block = "\n".join(line for line in block.split("\n") if not line.lstrip().startswith("#"))
    try:
        rules = json.loads(block)
    except ValueError as error:
        raise RulesError(f"a grammar block is not valid JSON: {error}") from None
    if not isinstance(rules, dict) or not all(
        isinstance(options, list)
        and all(
            isinstance(option, dict)
            and isinstance(option.get("rhs"), str)
            and isinstance(option.get("condition", ""), str)
            for option in options
        )
        for options in rules.values()
    ):
        raise RulesError('a grammar block must be {"rule": [{"condition": text, "rhs": text}, ...], ...}')
    return rules
