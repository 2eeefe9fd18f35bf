"""Reading game files: what a good one says, and that a bad one is refused with its name and the reason."""

from __future__ import annotations

import contextlib
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.problem import TASK_TYPES, Dialect, GameFileError, Problem, load_problem, parse_problem
from opid_gym_envs.alfworld.rules import domain_text, grammar_text
from tests.alfworld.households import extract_games, game_data, make_problem, random_household


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return extract_games(tmp_path_factory.mktemp("games"))


@pytest.fixture(scope="module")
def new(paths: list[Path]) -> dict[str, Any]:
    """A game file of the newer generation."""
    return json.loads(
        next(path for path in paths if "pick_heat" in str(path) and "valid_seen" in str(path)).read_text()
    )


@pytest.fixture(scope="module")
def old(paths: list[Path]) -> dict[str, Any]:
    """A game file of the older generation."""
    return json.loads(next(path for path in paths if "old_generation" in str(path)).read_text())


def same(a: Problem, b: Problem) -> bool:
    return replace(a, facts=tuple(sorted(a.facts))) == replace(b, facts=tuple(sorted(b.facts)))


# ---------------------------------------------------------------------------------------------------- good files


def test_every_shared_game_is_read(paths: list[Path]) -> None:
    assert len(paths) == 17
    for path in paths:
        problem = load_problem(path)
        annotations = json.loads(path.with_name("traj_data.json").read_text())
        assert problem.task_type == annotations["task_type"]
        assert problem.dialect == (Dialect.PUT if "old_generation" in str(path) else Dialect.MOVE)
        assert problem.id == "/".join(path.parts[-4:-1])
        assert problem.task.endswith((annotations["pddl_params"]["toggle_target"].lower(), "it", "them")) or (
            annotations["pddl_params"]["parent_target"].lower() in problem.task
        )
        assert all(argument == argument.lower() for fact in problem.facts for argument in fact)


def test_a_known_game_is_read_in_every_detail(new: dict[str, Any]) -> None:
    problem = parse_problem(new, source="here")
    assert problem.id == "here"
    assert problem.task == "put a hot potato in sinkbasin"
    assert len(problem.facts) == 427
    assert [fact for fact in problem.facts if fact[0] == "atlocation"] == [
        ("atlocation", "agent1", "loc_bar__minus_4_bar_0_bar_2_bar_30")
    ]
    assert problem.goal == (
        "and",
        (
            "exists",
            ("?r", "-", "receptacle"),
            (
                "exists",
                ("?o", "-", "object"),
                (
                    "and",
                    ("heatable", "?o"),
                    ("objecttype", "?o", "potatotype"),
                    ("receptacletype", "?r", "sinkbasintype"),
                    ("ishot", "?o"),
                    ("inreceptacle", "?o", "?r"),
                ),
            ),
        ),
    )
    assert problem.idle == ()


def test_the_task_type_is_inferred_where_no_annotation_says_it(paths: list[Path]) -> None:
    inferred = {}
    for path in paths:
        problem = parse_problem(json.loads(path.read_text()), source=str(path))
        inferred[problem.task_type] = True
        assert problem.task_type == load_problem(path).task_type
    assert set(inferred) == set(TASK_TYPES)
    other = {**json.loads(paths[0].read_text())}
    other["pddl_problem"] = re.sub(r"\(:goal.*", "(:goal (holdsAny agent1)))", other["pddl_problem"], flags=re.DOTALL)
    assert parse_problem(other, source="x").task_type == "unknown"


def test_spelling_does_not_matter(new: dict[str, Any]) -> None:
    """Letter case, white space, comments and the order of facts are the writer's business."""
    rng = random.Random(3)

    def respell(text: str) -> str:
        text = re.sub(r";[^\n]*", "", text)
        words = re.findall(r"[()]|[^\s()]+", text)
        return "; a comment (with a parenthesis\n" + "".join(
            (word.upper() if rng.random() < 0.5 else word) + rng.choice([" ", "\n", "\t", " ; )(\n"]) for word in words
        )

    respelt = {**new, **{key: respell(new[key]) for key in ("pddl_domain", "pddl_problem")}}
    assert same(parse_problem(respelt, source="x"), parse_problem(new, source="x"))


def test_a_goal_that_speaks_of_all_things_keeps_the_things_without_facts(new: dict[str, Any]) -> None:
    data = dict(new)
    data["pddl_problem"] = re.sub(
        r"\(:goal.*", "(:goal (forall (?o - object) (not (holds agent1 ?o)))))", new["pddl_problem"], flags=re.DOTALL
    )
    problem = parse_problem(data, source="x")
    assert ("saltshaker", "object") in problem.idle
    assert not {name for name, _ in problem.idle} & {argument for fact in problem.facts for argument in fact[1:]}


# ---------------------------------------------------------------------------------------------- rules in the file


@pytest.mark.parametrize("dialect", [Dialect.MOVE, Dialect.PUT, replace(Dialect.PUT, help="PUT and HELP\n")])
def test_our_own_rules_read_back(dialect: Dialect) -> None:
    problem = replace(random_household(random.Random(0)), dialect=dialect, task='say "no"; TASK'.replace('"', "'")[:8])
    assert same(parse_problem(game_data(problem), source=problem.id, task_type=problem.task_type), problem)


def test_generations_may_be_mixed(new: dict[str, Any], old: dict[str, Any]) -> None:
    """Each difference is read on its own: files made between the generations play as they are written."""
    mixed = {**old, "grammar": old["grammar"].replace("{lend.name}", "{r.name}")}
    assert parse_problem(mixed, source="x").dialect == replace(Dialect.PUT, arrival="receptacle")
    mixed = {**old, "grammar": old["grammar"].replace("put {o} in/on {r}", "move {o} to {r}")}
    assert parse_problem(mixed, source="x").dialect == replace(Dialect.PUT, put_command="move {o} to {r}")
    assert parse_problem({**new, "pddl_domain": old["pddl_domain"]}, source="x").dialect.help is None
    with pytest.raises(GameFileError, match="'grammar': grammar action 'help' is missing"):
        parse_problem({**old, "pddl_domain": new["pddl_domain"]}, source="x")


@pytest.mark.parametrize("task", ["Put, a potato? (now)", "wash\\nup \\t é", "x" * 3000, "a. b.", ""])
def test_any_words_may_state_the_task(new: dict[str, Any], task: str) -> None:
    data = {**new, "grammar": new["grammar"].replace("put a hot potato in sinkbasin", json.dumps(task)[1:-1])}
    assert parse_problem(data, source="x").task == task


def actions_of(domain: str) -> list[str]:
    return re.findall(r"\(:action (\w+)", re.sub(r";[^\n]*", "", domain))


def test_a_change_of_any_domain_action_is_refused_by_name(new: dict[str, Any]) -> None:
    domain = re.sub(r";[^\n]*", "", new["pddl_domain"])
    names = actions_of(domain)
    assert len(names) == 15
    for name in names:
        start = domain.index(f"(:action {name}\n" if f"(:action {name}\n" in domain else f"(:action {name}")
        for old_text, new_text in (
            (":effect", ":precondition (holdsAny ?a) :effect"),
            (":parameters (", ":parameters (?z "),
        ):
            place = domain.index(old_text, start)
            changed = domain[:place] + new_text + domain[place + len(old_text) :]
            with pytest.raises(GameFileError, match=rf"'pddl_domain'.*{name.lower()}"):
                parse_problem({**new, "pddl_domain": changed}, source="x")
        for effect in re.findall(r"\((?:not \()?(\w+) \?\w+", domain[domain.index(":effect", start) :])[:1]:
            place = domain.index(effect, domain.index(":effect", start))
            changed = domain[:place] + "full" + domain[place + len(effect) :]
            with pytest.raises(GameFileError, match=rf"effect of domain action '{name.lower()}'"):
                parse_problem({**new, "pddl_domain": changed}, source="x")


def test_missing_and_unknown_domain_actions_are_named(new: dict[str, Any]) -> None:
    for name in set(actions_of(domain_text())) - {"help"}:
        parts = domain_text().split("(:action ")
        changed = "(:action ".join(part for part in parts if not part.startswith(name)).rstrip(")\n") + ")))"
        with pytest.raises(GameFileError, match=f"domain action '{name.lower()}' is missing|malformed PDDL"):
            parse_problem({**new, "pddl_domain": changed}, source="x")
    fly = "(:action Fly :parameters (?a - agent) :precondition () :effect (checked ?a))"
    changed = domain_text().rstrip()[:-1] + fly + ")"
    with pytest.raises(GameFileError, match=r"domain action 'fly' is unknown .*backend=\"textworld\""):
        parse_problem({**new, "pddl_domain": changed}, source="x")
    changed = domain_text().rstrip()[:-1] + "(:derived (full ?r) (opened ?r)))"
    with pytest.raises(GameFileError, match="derived predicate"):
        parse_problem({**new, "pddl_domain": changed}, source="x")


def test_every_wording_counts(new: dict[str, Any]) -> None:
    """Changing one letter of any text or condition that play can reach is noticed; of any other, is not."""
    grammar = new["grammar"]
    unused = ("notImplemented", "FromReceptacleObject", "EmptyReceptacleObject", "FullReceptacleObject")
    unused_too = ("InReceptacleObject", "overview(o, r)", "overview_with_state", "overview_state")
    rule, refused, ignored = "", set(), set()
    for match in re.finditer(r'"([^"\n]+)": \[|"(rhs|condition)": "((?:[^"\\]|\\.)*)"', grammar):
        if match[1]:
            rule = match[1]
            continue
        place = match.start(3)
        if match[3].startswith(("Your task", "\\nAvail")):
            continue
        letter = (
            re.search(r"(?<![\\{#])[a-z](?![^{]*})", match[3]) if match[2] == "rhs" else re.search("[a-z]", match[3])
        )
        if letter is None:
            continue
        place += letter.start()
        changed = grammar[:place] + "q" + grammar[place + 1 :]
        if any(word in rule for word in (*unused, *unused_too)):
            assert parse_problem({**new, "grammar": changed}, source="x").task
            ignored.add(rule)
        else:
            with pytest.raises(GameFileError, match=r"key 'grammar'.*backend=\"textworld\""):
                parse_problem({**new, "grammar": changed}, source="x")
            refused.add(rule)
    assert len(refused) == 20
    assert len(ignored) > 6


@pytest.mark.parametrize(
    "command", ["go to [", "open {r}", "take {o} from {r}", "use {o}", "slice {co} with {ko}", '"look"']
)
def test_every_command_counts(new: dict[str, Any], command: str) -> None:
    changed = new["grammar"].replace(f'template :: "{command}', 'template :: "q ' + command).replace('""', '"')
    with pytest.raises(GameFileError, match="key 'grammar'"):
        parse_problem({**new, "grammar": changed}, source="x")


def test_a_missing_grammar_action_is_named(new: dict[str, Any]) -> None:
    for name in re.findall(r"^action (\w+)", grammar_text(), flags=re.MULTILINE):
        lines = [line for line in grammar_text().split("\n") if not line.startswith(f"action {name} ")]
        with pytest.raises(GameFileError, match=f"grammar action '{name.lower()}' is missing"):
            parse_problem({**new, "grammar": "\n".join(lines)}, source="x")


# ----------------------------------------------------------------------------------------------------- bad files


def test_files_that_are_no_games(tmp_path: Path, new: dict[str, Any]) -> None:
    text = json.dumps(new)
    bad = {
        "empty": (b"", "not valid JSON"),
        "truncated": (text[: len(text) // 2].encode(), "not valid JSON"),
        "words": (b"hello", "not valid JSON"),
        "list": (b"[1, 2]", "need a JSON object"),
        "number": (b"3", "need a JSON object"),
        "nothing": (b"{}", "key 'pddl_domain' is missing"),
        "binary": (b"\xff\xfe\x00", "cannot read"),
        "deep": (b"[" * 200_000, "not valid JSON"),
    }
    for name, (content, reason) in bad.items():
        path = tmp_path / f"{name}.tw-pddl"
        path.write_bytes(content)
        with pytest.raises(GameFileError, match=reason) as caught:
            load_problem(path)
        assert str(path) in str(caught.value)
    for path in (tmp_path, tmp_path / "absent.tw-pddl", tmp_path / "a\0b"):
        with pytest.raises(GameFileError, match="cannot read"):
            load_problem(path)


@pytest.mark.parametrize("key", ["pddl_domain", "grammar", "pddl_problem"])
def test_keys_that_are_missing_or_wrong(new: dict[str, Any], key: str) -> None:
    with pytest.raises(GameFileError, match=f"^there: key '{key}' is missing"):
        parse_problem({other: new[other] for other in new if other != key}, source="there")
    for value in (None, 3, ["x"], {"a": 1}):
        with pytest.raises(GameFileError, match=f"^there: key '{key}' must be text, found {type(value).__name__}"):
            parse_problem({**new, key: value}, source="there")
    for text in (
        "",
        "(",
        ")",
        "x",
        "()",
        "(define",
        "\0",
        "(define (problem x)) y",
        "(" * 100_000,
        "(" * 5000 + ")" * 5000,
    ):
        with pytest.raises(GameFileError, match=f"^there: key '{key}'"):
            parse_problem({**new, key: text}, source="there")


def test_a_broken_annotation_is_named(tmp_path: Path, new: dict[str, Any]) -> None:
    path = tmp_path / "game.tw-pddl"
    path.write_text(json.dumps(new))
    for content in ("{", "[]", '{"task_type": 3}', "{}"):
        path.with_name("traj_data.json").write_text(content)
        with pytest.raises(GameFileError, match=r"traj_data\.json"):
            load_problem(path)
    path.with_name("traj_data.json").write_text('{"task_type": "pick_and_place_with_movable_recep"}')
    assert load_problem(path).task_type == "pick_and_place_with_movable_recep"


PROBLEM = """(define (problem p) (:domain alfred)
(:objects agent1 - agent here - location box - receptacle mug - object mugtype - otype)
(:init (atLocation agent1 here) (receptacleAtLocation box here) (inReceptacle mug box) {facts})
(:goal {goal}))"""


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ("(opened box box)", r"\(opened box box\) needs 1 arguments, found 2"),
        ("(opened)", r"needs 1 arguments, found 0"),
        ("(opened chest)", r"chest in fact \(opened chest\) is not declared"),
        ("(opened mug)", r"'mug' in fact \(opened mug\) is a 'object', need a 'receptacle'"),
        ("(opened (box))", "is not declared"),
        ("opened", "':init' holds facts like"),
        ("()", "':init' holds facts like"),
        ("(not opened)", r"a denied fact reads .*, found \(not opened\)"),
        ("(not (inReceptacle mug box))", r"\(inreceptacle mug box\) is stated and denied"),
        ("(opened bøx)", "non-ASCII character 'ø'"),
    ],
)
def test_bad_facts_are_quoted(new: dict[str, Any], facts: str, reason: str) -> None:
    data = {**new, "pddl_problem": PROBLEM.format(facts=facts, goal="(holdsAny agent1)")}
    with pytest.raises(GameFileError, match=f"key 'pddl_problem'.*{reason}"):
        parse_problem(data, source="x")


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        ("", "exactly one formula, found 0"),
        ("(holdsAny agent1) (holdsAny agent1)", "exactly one formula, found 2"),
        ("holdsAny", "made of parenthesised formulas"),
        ("()", "made of parenthesised formulas"),
        ("(not)", "'not' in the goal needs 1 parts, found 0"),
        ("(imply (holdsAny agent1))", "'imply' in the goal needs 2 parts"),
        ("(flies agent1)", "the goal uses 'flies', which is not in the domain"),
        ("(holds agent1)", "'holds' in the goal needs 2 arguments"),
        ("(holds agent1 (mug))", "'holds' in the goal needs 2 arguments"),
        ("(forall ?o (holds agent1 ?o))", "needs a list of variables"),
        ("(forall (o - object) (holds agent1 o))", "needs variables like [?]o, found 'o'"),
        ("(forall (?o -) (holds agent1 ?o))", "no type after it"),
        ("(exists (?o - object))", "needs a list of variables and a formula"),
    ],
)
def test_bad_goals_are_quoted(new: dict[str, Any], goal: str, reason: str) -> None:
    data = {**new, "pddl_problem": PROBLEM.format(facts="", goal=goal)}
    with pytest.raises(GameFileError, match=f"key 'pddl_problem'.*{reason}"):
        parse_problem(data, source="x")


def test_costs_and_denied_facts_do_no_harm(new: dict[str, Any]) -> None:
    facts = "(= (total-cost) 0) (= (distance here here) 3) (not (opened box))"
    data = {**new, "pddl_problem": PROBLEM.format(facts=facts, goal="(holdsAny agent1)")}
    assert {fact[0] for fact in parse_problem(data, source="x").facts} == {
        "atlocation",
        "receptacleatlocation",
        "inreceptacle",
    }


@pytest.mark.parametrize("missing", [":init", ":goal"])
def test_a_missing_part_is_named(new: dict[str, Any], missing: str) -> None:
    text = PROBLEM.format(facts="", goal="(holdsAny agent1)").replace(missing, ":other")
    with pytest.raises(GameFileError, match=f"part '{missing}' is missing"):
        parse_problem({**new, "pddl_problem": text}, source="x")


def test_what_the_engine_cannot_play_is_said_when_compiling() -> None:
    facts = [("atlocation", "agent1", "here"), ("receptacleatlocation", "box_bar_1", "here")]
    goal = ("holdsany", "agent1")
    with pytest.raises(GameFileError, match="exactly one agent, found agent1, agent2"):
        Game.compile(make_problem([*facts, ("holdsany", "agent2")], goal))
    with pytest.raises(GameFileError, match="exactly one location of the agent, found here, there"):
        Game.compile(make_problem([*facts, ("atlocation", "agent1", "there")], goal))
    with pytest.raises(GameFileError, match="exactly one agent, found none"):
        Game.compile(make_problem(facts[1:], goal))
    with pytest.raises(GameFileError, match="'a_minus_b_bar_1' cannot be turned into a name"):
        Game.compile(make_problem([*facts, ("opened", "a_minus_b_bar_1")], goal))
    many = [("pickupable", f"thing_bar_{n}") for n in range(300)]
    scope = tuple(word for n in range(4) for word in (f"?x{n}", "-", "object"))
    with pytest.raises(GameFileError, match="more than 2000000 bindings"):
        Game.compile(make_problem([*facts, *many], ("forall", scope, ("holds", "agent1", "?x0"))))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read_but_never_fail_otherwise(new: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(["pddl_domain", "grammar", "pddl_problem"]))
    text = new[key]
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 400)))
    put = data.draw(st.sampled_from(["", "(", ")", "?", '"', "#", "{", "x", "(not", " - ", "()", "\0", "é"]))
    with contextlib.suppress(GameFileError):
        Game.compile(parse_problem({**new, key: text[:start] + put + text[stop:]}, source="x"))
