"""Whether a game file states the rules the engine implements.

The rules of a file are brought to a normal form that ignores spelling: comments, letter case, white space, the order
of the members of a conjunction, the names of helper rules in the grammar, and rules that nothing refers to. Either the
result equals the normal form of our own rules (`opid_gym_envs.alfworld.rules`), or the file asks for something that the
engine does not do, and ``RulesError`` names the action.
"""

from __future__ import annotations

import json
import re
import textwrap
from functools import lru_cache
from typing import Any

from opid_gym_envs.alfworld.pddl import Expression, PddlError, read_pddl, read_typed_list
from opid_gym_envs.alfworld.rules import (
    PUT_COMMANDS,
    PUT_FEEDBACKS,
    SPECIAL_CHARACTERS,
    Dialect,
    RulesError,
    domain_text,
    grammar_text,
)

# --------------------------------------------------------------------------------------------------------------------
# The domain.


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
        absorbing: tuple[str, frozenset[Any]] = ("or" if head == "and" else "and", frozenset())
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
        # Stock's domain has such a slip ("location," with a comma): nothing has that type, so the
        # quantifier is false, which is why visible objects can never be examined.
        if any(kind not in types for _, kind in variables):
            return ("or", frozenset())
        return ("exists", frozenset(variables), _normal_condition(condition[2], types))
    return tuple(_normal_condition(part, types) if isinstance(part, tuple) else part for part in condition)


def _collect_effects(effect: Expression, types: set[str], into: set[Any]) -> None:
    if not effect or effect[0] == "increase":  # costs guide stock's planner and change nothing in play
        return
    if effect[0] == "and":
        for part in effect[1:]:
            _collect_effects(part, types, into)
    elif effect[0] == "when" and len(effect) == 3:
        into.add(("when", _normal_condition(effect[1], types), effect[2]))
    else:
        into.add(effect)


# --------------------------------------------------------------------------------------------------------------------
# The grammar.

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
    if set(task) & SPECIAL_CHARACTERS:
        return _read_grammar(text)
    dialect, placeholder = _read_grammar(f"{text[: match.start(1)]}{_PLACEHOLDER}{text[match.end(1) :]}")
    return dialect, task if placeholder == _PLACEHOLDER else placeholder


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
        put_command=choose("putobject", "template", forms(PUT_COMMANDS, "")),
        put_feedback=choose("putobject", "feedback", forms(PUT_FEEDBACKS, ".name")),
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
        return str(parts[0][1])
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

    # White space at the very beginning of a right-hand side is lost in stock's reader.
    for match in _SYMBOL.finditer(text.lstrip()):
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
