"""The rules the engine implements, in the notation of game files.

A ``game.tw-pddl`` file carries its own rules: a PDDL *domain* (what each action needs and changes) and a *grammar* (how
each action is typed and what the game answers). The engine implements one domain and one family of texts. This module
states both in compact form; exported games carry them, and `opid_gym_envs.alfworld.conformance` compares what a file
says with them. Two generations of text exist and differ in five places, held by ``Dialect``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import ClassVar


class RulesError(ValueError):
    """The domain or the grammar is malformed or says something the engine does not implement."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one generation of the game words things.

    ``Dialect.MOVE`` is the text of ALFWorld 0.4 and later, ``Dialect.PUT`` that of the earlier releases and of the
    official data made with them. Files that mix the two (some were made in between) yield further instances.

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


PUT_COMMANDS = ("move {o} to {r}", "put {o} in/on {r}")
PUT_FEEDBACKS = ("You move the {o} to the {r}.", "You put the {o} in/on the {r}.")
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
        f"  {command + ':':<{32 if command.startswith('move') else 34}}{meaning}\n" for command, meaning in _HELP_LINES
    )
    return "Available commands:\n" + "".join(rows)


Dialect.MOVE = Dialect(PUT_COMMANDS[0], PUT_FEEDBACKS[0], "receptacle", _help_text())
Dialect.PUT = Dialect(PUT_COMMANDS[1], PUT_FEEDBACKS[1], "location", None)

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
    [
        "atlocation",
        "objectatlocation",
        "opened",
        "inreceptacle",
        "holds",
        "holdsany",
        "isclean",
        "ishot",
        "iscool",
        "ison",
        "istoggled",
        "issliced",
        "checked",
    ]
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
  :precondition (and (holds ?a ?o) {_HERE} {_ACCESSIBLE}
    (objectType ?o ?ot) (receptacleType ?r ?rt) (canContain ?rt ?ot))
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
  :effect (and (when (isOn ?o) (not (isOn ?o))) (when (not (isOn ?o)) (isOn ?o)) (isToggled ?o)
    (increase (total-cost) 5)))
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


# --------------------------------------------------------------------------------------------------------------------
# The grammar: what is typed and what is answered.

SPECIAL_CHARACTERS = frozenset('#{}[]|;"<>')
"""Characters that mean something in a grammar and cannot occur in a plain text there."""

# Rules by name; each alternative is "condition -> text", and the first whose condition holds is used.
_RULES = r"""
intro
    -> -= Welcome to TextWorld, ALFRED! =-\n\n#look.feedback#\n\n#task#
task
    -> Your task is to: TASK.
look.feedback
    NEAR -> You are facing the [{r.name | NEAR}]. Next to it, you see #floor#.
    -> You are in the middle of a room. Looking quickly around you, you see #receptacles#.
floor
    FLOOR -> [{'a ' + o.name | FLOOR}]
    -> nothing
receptacles
    receptacleatlocation(r:receptacle, l:location) -> [{'a ' + r.name | receptacleatlocation(r:receptacle, l:location)}]
    -> nothing
inventory.feedback
    holdsany(a:agent) -> You are carrying: [{'a ' + o.name | holds(a:agent, o:object)}].
    -> You are not carrying anything.
GotoLocation.feedback
    -> You arrive at {ARRIVAL.name}. #examineReceptacle.feedback#
OpenObject.feedback
    -> You open the {r.name}. #examineReceptacle.feedback#
CloseObject.feedback
    -> You close the {r.name}.
PickupObject.feedback
    -> You pick up the {o.name} from the {r.name}.
PutObject.feedback
    -> PUT
examineReceptacle.feedback
    openable(r:receptacle) & opened(r:receptacle) -> The {r.name} is open. In it, you see CONTENTS.
    openable(r:receptacle) -> The {r.name} is closed.
    -> On the {r.name}, you see CONTENTS.
examineObject.feedback
    isreceptacleobject(o:object) -> This is a normal {o.name}. In it, you see [{'a ' + o2.name | INSIDE}].
    CLEAN & HOT & SLICED -> This is a hot and clean sliced {o.name}.
    CLEAN & COOL & SLICED -> This is a cool and clean sliced {o.name}.
    CLEAN & SLICED -> This is a clean sliced {o.name}.
    HOT & SLICED -> This is a hot sliced {o.name}.
    COOL & SLICED -> This is a cool sliced {o.name}.
    CLEAN & HOT -> This is a hot and clean {o.name}.
    CLEAN & COOL -> This is a cool and clean {o.name}.
    HOT -> This is a hot {o.name}.
    CLEAN -> This is a clean {o.name}.
    COOL -> This is a cold {o.name}.
    toggleable(o:object) & istoggled(o:object) -> This {o.name} is on.
    toggleable(o:object) & not_istoggled(o:object) -> This {o.name} is off.
    sliceable(o:object) & SLICED -> This is a sliced {o.name}.
    -> There's nothing special about {o.name}.
toggleObject.feedback
    toggleable(o:object) & istoggled(o:object) -> You turn on the {o.name}.
    toggleable(o:object) -> You turn off the {o.name}.
    -> You don't see any switch on the {o.name}.
heatObject.feedback
    -> You heat the {o.name} using the {r.name}.
cleanObject.feedback
    -> You clean the {o.name} using the {r.name}.
coolObject.feedback
    -> You cool the {o.name} using the {r.name}.
sliceObject.feedback
    -> You sliced the {co.name} with the {ko.name}.
list_empty
    -> nothing
list_separator
    -> ,\s
list_last_separator
    -> , and\s
help.feedback
    -> HELP
"""
_NEAR = "atlocation(a:agent, l:location) & receptacleatlocation(r:receptacle, l:location)"
_ABBREVIATIONS = {
    "NEAR": _NEAR,
    "FLOOR": _NEAR.replace("&", "& objectatlocation(o:object, l:location) &")
    + " & not_inreceptacle(o:object, r:receptacle)",
    "CONTENTS": "[{'a ' + o.name | inreceptacle(o:object, r:receptacle)}]",
    "INSIDE": "inreceptacleobject(o2:object, o:object)",
    **{mark: f"is{mark.lower()}(o:object)" for mark in ("CLEAN", "HOT", "COOL", "SLICED")},
}

_COMMANDS = {
    "look": ("look", "look"),
    "inventory": ("inventory", "inventory"),
    "examineReceptacle": ("examine {r}", "examineReceptacle"),
    "examineObject": ("examine {o}", "examineObject"),
    "GotoLocation": ("go to {r}", "GotoLocation"),
    "OpenObject": ("open {r}", "OpenObject"),
    "CloseObject": ("close {r}", "CloseObject"),
    "PickupObject": ("take {o} from {r}", "PickupObject"),
    "PutObject": ("PUT", "PutObject"),
    "CleanObject": ("clean {o} with {r}", "cleanObject"),
    "HeatObject": ("heat {o} with {r}", "heatObject"),
    "CoolObject": ("cool {o} with {r}", "coolObject"),
    "ToggleObject": ("use {o}", "toggleObject"),
    "SliceObject": ("slice {co} with {ko}", "sliceObject"),
    "help": ("help", "help"),
}


def grammar_text(dialect: Dialect = Dialect.MOVE, task: str = "UNKNOWN GOAL") -> str:
    """The grammar the engine implements, as a game file states it, with the task in its place.

    Raises:
        RulesError: the task has characters that mean something in a grammar and cannot be written there.
    """
    bad = sorted(set(task) & SPECIAL_CHARACTERS)
    if bad:
        raise RulesError(f"a task cannot contain {bad[0]!r}, which is a sign of the grammar: {task!r:.80}")
    values = {
        **_ABBREVIATIONS,
        "TASK": task,
        "PUT": dialect.put_feedback.replace("{o}", "{o.name}").replace("{r}", "{r.name}"),
        "ARRIVAL": "r" if dialect.arrival == "receptacle" else "lend",
        "HELP": dialect.help or "",
        r"\n": "\n",
        r"\s": " ",
    }
    words = re.compile("|".join(map(re.escape, values)))
    rules: dict[str, list[dict[str, str]]] = {}
    for line in _RULES.strip().splitlines():
        if not line.startswith(" "):
            options = rules[line] = []
            continue
        condition, text = (words.sub(lambda match: values[match[0]], part) for part in line.strip().split("-> ", 1))
        options.append({"condition": condition.strip(), "rhs": text} if condition else {"rhs": text})
    commands = dict(_COMMANDS)
    if dialect.help is None:
        del rules["help.feedback"], commands["help"]
    actions = "\n".join(
        f'action {name} {{ template :: "{command.replace("PUT", dialect.put_command)}"; '
        f'feedback :: "#{rule}.feedback#"; }}'
        for name, (command, rule) in commands.items()
    )
    return f'grammar :: """\n{json.dumps(rules, indent=1)}\n""";\n\n{actions}\n'
