"""Skills by rules, on hand-made trajectories and on games really played; and reading an analyzer's JSON."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opid_agents.skills.contrast import discounted_returns, find_contrasts
from opid_agents.skills.extract import COMPACT, SENTENCES, RuleExtractor, Skills, SkillStyle
from opid_agents.skills.reading import had_effect, read_command, state_names, workflow
from opid_agents.skills.report import SkillReport, SkillReportError, parse_skills
from opid_agents.skills.route import route

from opid_gym.trajectory import Step, Trajectory
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import generate
from opid_gym_envs.alfworld.searching import SearchingExpert

NOTHING = "Nothing happens."
START = "You are in a room."


def episode(*moves: str, won: bool = False, task: str = "put a mug on shelf", admissible=None) -> Trajectory:
    """Moves are ``action -> what the world answers``; without an arrow the world says "Nothing happens."."""
    trajectory = Trajectory("task 1", "pick", task, success=won, truncated=not won)
    observation = START
    for move in moves:
        action, _, answer = move.partition(" -> ")
        answer = answer or NOTHING
        trajectory.steps.append(Step(observation, action, 0.0, answer, observation, admissible))
        observation = answer
    if won:
        trajectory.steps[-1].reward = 1.0
    return trajectory


DESK = "go to desk 1 -> On the desk 1, you see a mug 1."
TAKE = "take mug 1 from desk 1 -> You pick up the mug 1."
SHELF = "go to shelf 2 -> On the shelf 2, you see nothing."
PUT = "move mug 1 to shelf 2 -> You move the mug 1."
DRAWER = "go to drawer 1 -> The drawer 1 is closed."
OPEN = "open drawer 1 -> The drawer 1 is open. In it, you see nothing."


class TestWorkflow:
    def test_generalised_and_compact(self):
        assert workflow(episode(DESK, TAKE, SHELF, PUT, won=True)) == [
            "go to desk",
            "take mug",
            "go to shelf",
            "move mug",
        ]

    def test_with_numbers_it_is_the_very_actions(self):
        won = episode(DESK, TAKE, SHELF, PUT, won=True)
        assert workflow(won, keep_numbers=True) == [step.action for step in won.steps]

    def test_detours_are_left_out(self):
        won = episode(
            "look -> You look around.", DRAWER, OPEN, DESK, "take pen 1 from desk 1 -> You pick up the pen 1.",
            "move pen 1 to desk 1 -> You move the pen 1.", "fly away", TAKE, "inventory -> You carry a mug 1.",
            DRAWER, "examine mug 1 -> A mug.", SHELF, PUT, won=True,
        )  # fmt: skip
        assert workflow(won) == ["go to desk", "take mug", "go to shelf", "move mug"]

    def test_what_was_undone_is_left_out(self):
        won = episode(
            DESK, TAKE, "move mug 1 to desk 1 -> You move the mug 1.", TAKE, SHELF,
            "move mug 1 to shelf 2 -> You move the mug 1.", "take mug 1 from shelf 2 -> You pick up the mug 1.", PUT,
            won=True,
        )  # fmt: skip
        assert workflow(won) == ["go to desk", "take mug", "go to shelf", "move mug"]

    def test_a_container_is_opened_once_where_it_is_needed(self):
        won = episode(
            DRAWER, OPEN, DESK, TAKE, DRAWER, "move mug 1 to drawer 1 -> You move the mug 1.",
            won=True, task="put a mug in drawer",
        )  # fmt: skip
        assert workflow(won) == ["go to desk", "take mug", "go to drawer", "open drawer", "move mug"]

    def test_a_tool_that_was_needed_is_taken(self):
        won = episode(
            DESK, "take knife 1 from desk 1 -> You pick up the knife 1.", "go to fridge 1 -> It is closed.",
            "open fridge 1 -> In it, you see a apple 1.", "slice apple 1 with knife 1 -> You sliced the apple 1.",
            "move knife 1 to fridge 1 -> You move it.", "take apple 1 from fridge 1 -> You pick up the apple 1.",
            SHELF, "move apple 1 to shelf 2 -> You move the apple 1.", won=True, task="put a sliced apple on shelf",
        )  # fmt: skip
        plan = workflow(won)
        assert plan[:2] == ["go to desk", "take knife"]
        assert "slice apple with knife" in plan
        assert plan[-3:] == ["take apple", "go to shelf", "move apple"]

    def test_the_last_action_is_the_goal_whatever_it_is(self):
        won = episode(DESK, TAKE, "go to lamp 1 -> A lamp.", "use lamp 1 -> It is on.", won=True, task="look at mug")
        assert workflow(won) == ["go to desk", "take mug", "go to lamp", "use lamp"]
        assert workflow(episode(SHELF, "go to desk 1 -> You are there.", won=True, task="visit the desk")) == [
            "go to desk"
        ]

    def test_the_older_wording(self):
        won = episode(DESK, TAKE, SHELF, "put mug 1 in/on shelf 2 -> You put the mug 1 in/on the shelf 2.", won=True)
        assert workflow(won) == ["go to desk", "take mug", "go to shelf", "put mug"]

    def test_actions_of_another_kind_of_world_without_loops(self):
        won = episode(
            "search[red mug] -> Results 1", "click[b001] -> Item 1", "click[back to search] -> Results 1",
            "click[b002] -> Item 2",
            "click[size 10] -> Size 10.", "click[buy now] -> Thank you.", won=True, task="buy a red mug",
        )  # fmt: skip
        assert workflow(won) == ["search[red mug]", "click[b002]", "click[size 10]", "click[buy now]"]

    def test_nothing_done(self):
        assert workflow(episode("fly", "look -> You look around.")) == []


class TestReading:
    def test_commands(self):
        command = read_command("Take  mug 1 from desk 2")
        assert (command.verb, command.target, command.place, command.kind) == ("take", "mug 1", "desk 2", "act")
        assert command.takes
        assert read_command("put mug 1 in/on desk 2").puts
        assert read_command("move mug 1 to desk 2").puts
        assert (read_command("go to shelf 1").kind, read_command("go to shelf 1").target) == ("move", "shelf 1")
        assert (read_command("turn on lamp 1").verb, read_command("look").kind) == ("turn on", "look")
        assert read_command("") is None

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=60))
    def test_any_text_is_read(self, text):
        read_command(text)

    def test_effects(self):
        (refused, looked, moved, stayed, unread) = episode(
            "fly", "look -> You look around.", DESK, "wait -> On the desk 1, you see a mug 1.", SHELF
        ).steps
        unread.valid = False
        assert [had_effect(s) for s in (refused, looked, moved, stayed, unread)] == [False, False, True, False, False]
        moved.admissible_actions = ("go to shelf 1",)
        assert not had_effect(moved)

    def test_a_refusal_does_not_name_a_state(self):
        names = state_names(episode("fly", "look -> You look around.", DESK, "fly", TAKE))
        assert names == [START, START, START, "On the desk 1, you see a mug 1.", "On the desk 1, you see a mug 1."]


class TestContrast:
    WON = episode(DESK, TAKE, SHELF, PUT, won=True)
    LOST = episode(DESK, SHELF, DRAWER, OPEN)

    def test_discounted_returns(self):
        assert discounted_returns(self.WON, 0.5) == [0.125, 0.25, 0.5, 1.0]
        with pytest.raises(ValueError, match="gamma must be in"):
            discounted_returns(self.WON, 1.5)

    def test_the_action_that_paid_best_where_they_part(self):
        contrasts = find_contrasts([self.WON, self.LOST], gamma=0.5)
        # Both began with the desk: no contrast. At the desk one took the mug (0.25), one left (0). On the shelf without
        # the mug is, to the text, the same as with it.
        assert contrasts["On the desk 1, you see a mug 1."].best == "take mug 1 from desk 1"
        assert START not in contrasts
        assert contrasts["On the desk 1, you see a mug 1."].values == {
            "take mug 1 from desk 1": 0.25,
            "go to shelf 2": 0.0,
        }

    def test_a_failed_sibling_gets_the_better_action_at_its_first_divergence_only(self):
        skills = RuleExtractor().extract(self.LOST, [self.WON, self.LOST])
        assert skills.step_skills == {1: "take mug 1 from desk 1"}
        every = RuleExtractor(first_divergence_only=False).extract(self.LOST, [self.WON, self.LOST])
        assert every.step_skills == {1: "take mug 1 from desk 1", 2: "move mug 1 to shelf 2"}

    def test_a_success_gets_its_own_action(self):
        skills = RuleExtractor().extract(self.WON, [self.WON, self.LOST])
        assert skills.step_skills == {1: "take mug 1 from desk 1", 3: "move mug 1 to shelf 2"}

    def test_mean_over_visits(self):
        """Twice the drawer, once with success, is worth less than the desk, always with success."""
        via_drawer = episode(DRAWER, DESK, TAKE, SHELF, PUT, won=True)
        lost = episode(DRAWER, OPEN)
        contrasts = find_contrasts([via_drawer, lost, self.WON], gamma=0.5)
        assert contrasts[START].values == {"go to drawer 1": (0.0625 + 0) / 2, "go to desk 1": 0.125}
        assert contrasts[START].best == "go to desk 1"

    def test_without_a_success_there_is_none(self):
        assert find_contrasts([self.LOST, episode(DRAWER, OPEN)]) == {}

    def test_one_action_is_no_contrast(self):
        assert find_contrasts([self.WON, self.WON]) == {}

    def test_refused_and_looking_actions_are_never_the_best(self):
        """However well an episode went that began with them."""
        won = episode("fly", "look -> You look around.", DESK, TAKE, SHELF, PUT, won=True)
        contrast = find_contrasts([won, episode(SHELF)])[START]
        assert contrast.best == "go to desk 1"
        assert set(contrast.values) == {"fly", "look", "go to desk 1", "go to shelf 2"}
        won = episode("examine room -> A room.", DESK, TAKE, SHELF, PUT, won=True)
        assert START not in find_contrasts([won, self.LOST])

    def test_a_skill_must_be_possible_where_it_is_given(self):
        lost = episode(DESK, SHELF, admissible=("go to desk 1", "go to shelf 2"))
        assert RuleExtractor().extract(lost, [self.WON, lost]).step_skills == {}

    def test_at_most_so_many_the_largest_decisions_first(self):
        one = RuleExtractor(max_step_skills=1).extract(self.WON, [self.WON, self.LOST])
        assert one.step_skills == {3: "move mug 1 to shelf 2"}
        assert RuleExtractor(max_step_skills=0).extract(self.WON, [self.WON, self.LOST]).step_skills == {}


class TestOwnWaste:
    def test_an_action_without_effect_where_the_next_one_worked(self):
        skills = RuleExtractor().extract(episode("fly", "fly", DESK, SHELF), [])
        assert skills.step_skills == {0: "go to desk 1"}

    def test_a_loop_and_how_it_was_left(self):
        lost = episode(DRAWER, DESK, DRAWER, OPEN, SHELF)
        assert RuleExtractor().extract(lost, [lost]).step_skills == {1: "open drawer 1"}

    def test_no_better_action_known(self):
        lost = episode(DRAWER, DESK, DRAWER, DESK)
        assert RuleExtractor().extract(lost, [lost]).step_skills == {}
        assert RuleExtractor().extract(episode("fly", "fly"), []).step_skills == {}

    def test_can_be_left_out(self):
        assert RuleExtractor(own_waste=False).extract(episode("fly", DESK, SHELF), []).step_skills == {}


class TestEpisodeSkill:
    def skill(self, trajectory: Trajectory, *siblings: Trajectory, style: SkillStyle = COMPACT) -> str:
        return RuleExtractor(style=style).extract(trajectory, [trajectory, *siblings]).episode_skill

    def test_success_is_a_plan(self):
        won = episode(DESK, TAKE, SHELF, PUT, won=True)
        assert self.skill(won) == "go to desk, take mug, go to shelf, move mug"
        assert self.skill(won, style=SENTENCES) == "What worked: go to desk, take mug, go to shelf, move mug."

    def test_failure_with_successful_siblings_is_the_shortest_of_their_plans(self):
        lost = episode(SHELF, DESK)
        long = episode(
            "go to bed 1 -> On the bed 1, you see a knife 1.", "take mug 1 from bed 1 -> You pick it up.",
            "go to sink 1 -> A sink.", "clean mug 1 with sink 1 -> Clean.", SHELF, PUT, won=True,
        )  # fmt: skip
        short = episode(DESK, TAKE, SHELF, PUT, won=True)
        assert self.skill(lost, long, short) == "go to desk, take mug, go to shelf, move mug"
        assert "another one worked like this: go to desk, take" in self.skill(lost, short, style=SENTENCES)

    def test_what_was_refused_again_and_again(self):
        assert self.skill(episode("fly", "jump", "jump", DESK)) == "avoid jump"
        assert self.skill(episode("jump", "jump"), style=SENTENCES) == "Do not repeat 'jump': it has no effect."

    def test_a_loop(self):
        assert self.skill(episode(DRAWER, DESK, DRAWER, DESK)) == "avoid go to desk 1"

    def test_not_finished(self):
        assert self.skill(episode(DESK, TAKE, DRAWER)) == "finish after take mug 1 from desk 1"

    def test_never_found(self):
        offered = ("go to desk 1", "go to shelf 2", "go to bed 1", "look")
        lost = episode(SHELF, admissible=offered)
        assert self.skill(lost) == "go to desk 1, go to bed 1"
        assert self.skill(episode(SHELF)) == "look in new places"

    def test_braces_in_an_action_are_text(self):
        assert self.skill(episode("say {plan} {x}", "say {plan} {x}")) == "avoid say {plan} {x}"

    def test_success_by_a_threshold_on_the_return(self):
        half = episode(DESK, TAKE, SHELF, PUT)
        half.steps[-1].reward = 0.5
        plan = "go to desk, take mug, go to shelf, move mug"
        assert RuleExtractor(success_threshold=0.5).extract(half, [half]).episode_skill == plan
        assert RuleExtractor(success_threshold=0.6).extract(half, [half]).episode_skill.startswith("finish after")

    def test_summary(self):
        skills = RuleExtractor().extract(episode("fly", DESK), [])
        assert skills.episode_summary == "Failed: 'put a mug on shelf', 2 steps, 1 without effect, 1 state seen."


class TestRuleExtractor:
    def test_no_steps_no_skills(self):
        assert RuleExtractor().extract(episode(), []) is None

    def test_a_group_is_one_task(self):
        other = episode(DESK)
        other.task_id = "task 2"
        with pytest.raises(ValueError, match=r"one task, got those of 2: \['task 1', 'task 2'\]"):
            RuleExtractor().extract(episode(DESK), [other])

    def test_settings_are_checked(self):
        with pytest.raises(ValueError, match="max_step_skills must be >= 0, got -1"):
            RuleExtractor(max_step_skills=-1)
        with pytest.raises(ValueError, match="gamma must be in"):
            RuleExtractor(gamma=2)

    def test_style_of_step_skills(self):
        group = [TestContrast.WON, TestContrast.LOST]
        assert RuleExtractor(style=SENTENCES).extract(group[1], group).step_skills == {1: "Take mug 1 from desk 1."}


def play(seed: int, slips: float, rng_seed: int) -> Trajectory:
    """A game played by the searching expert, who now and then does something at random."""
    problem = generate(seed, size="small")
    engine, rng = Engine(Game.compile(problem)), random.Random(rng_seed)
    observation, expert = engine.reset(), SearchingExpert(problem.task, rng)
    trajectory = Trajectory(problem.id, problem.task_type, problem.task)
    for _ in range(30):
        admissible = engine.admissible_commands()
        action = expert.act(observation, admissible)
        if rng.random() < slips:
            action = rng.choice([*admissible, "take nothing 1"])
        answer = engine.step(action)
        trajectory.steps.append(Step(observation, action, float(engine.won), answer, observation, admissible))
        observation = answer
        if engine.won:
            break
    trajectory.success = engine.won
    return trajectory


@pytest.fixture(scope="module")
def groups() -> list[list[Trajectory]]:
    return [[play(seed, 0.45, 100 * seed + k) for k in range(6)] for seed in range(12)]


class TestOnRealGames:
    def test_a_workflow_solves_the_game_it_came_from(self, groups):
        """With its instances named, a plan without detours is a solution: replayed on the engine it wins."""
        won = [(seed, t) for seed, group in enumerate(groups) for t in group if t.success]
        assert len(won) > 30
        solved, steps, planned = 0, 0, 0
        for seed, trajectory in won:
            engine = Engine(Game.compile(generate(seed, size="small")))
            engine.reset()
            plan = workflow(trajectory, keep_numbers=True)
            for action in plan:
                engine.step(action)
            solved += engine.won
            steps, planned = steps + len(trajectory), planned + len(plan)
        assert solved == len(won)
        assert planned < 0.6 * steps

    def test_extraction_is_deterministic_and_the_order_of_a_group_does_not_matter(self, groups):
        extractor = RuleExtractor()
        for group in groups:
            found = extractor.extract_all([group]).skills[0]
            assert found == [extractor.extract(trajectory, group) for trajectory in group]
            assert found[::-1] == extractor.extract_all([group[::-1]]).skills[0]

    def test_every_step_skill_is_possible_and_differs_only_on_purpose(self, groups):
        extractor = RuleExtractor(max_step_skills=3)
        for group, found in zip(groups, extractor.extract_all(groups).skills, strict=True):
            for trajectory, skills in zip(group, found, strict=True):
                assert skills.episode_skill
                assert len(skills.step_skills) <= 3
                for index, action in skills.step_skills.items():
                    step = trajectory.steps[index]
                    assert action in step.admissible_actions
                    assert trajectory.success or action != step.action
                routes = route(skills, len(trajectory))
                assert sum(r.step is not None for r in routes) == len(skills.step_skills)


GOOD = {"episode_summary": "Found it.", "episode_skill": "Look on desks first.", "step_skills": {"1": "Take it."}}


class TestReport:
    def test_a_good_reply(self):
        assert parse_skills(json.dumps(GOOD), 3, 5) == Skills("Found it.", "Look on desks first.", {1: "Take it."})

    @pytest.mark.parametrize(
        "wrapped", ["Sure!\n```json\n{}\n```\nDone.", "```\n{}\n```", "Here you are: {} I hope it helps."]
    )
    def test_within_other_text(self, wrapped):
        assert parse_skills(wrapped.replace("{}", json.dumps(GOOD, indent=1)), 3, 5).step_skills == {1: "Take it."}

    def test_keys_outside_the_trajectory_and_empty_skills_are_dropped(self):
        steps = {"-1": "a", "0": "b", "2": " ", "3": "c", "1": "d"}
        assert parse_skills(json.dumps(GOOD | {"step_skills": steps}), 3, 5).step_skills == {0: "b", 1: "d"}

    def test_at_most_so_many_the_earliest(self):
        steps = {str(i): f"skill {i}" for i in (4, 2, 0, 1)}
        assert parse_skills(json.dumps(GOOD | {"step_skills": steps}), 9, 2).step_skills == {
            0: "skill 0",
            1: "skill 1",
        }

    def test_step_skills_may_be_missing(self):
        assert parse_skills('{"episode_summary": "", "episode_skill": "x"}', 3, 5).step_skills == {}

    def test_a_skill_is_one_printable_line_that_can_be_encoded(self):
        report = GOOD | {"episode_skill": "Go\n\nto\tthe\x00 desk.", "step_skills": {"0": "a\r\nb"}}
        skills = parse_skills(json.dumps(report), 3, 5)
        assert skills.episode_skill == "Go to the desk."
        assert skills.step_skills == {0: "a b"}

    @pytest.mark.parametrize(
        ("reply", "message"),
        [
            ("", r"not a JSON object: there is no \{...\} in it"),
            ("I cannot help with that.", "not a JSON object"),
            ("[1, 2]", "it is a JSON list, not an object"),
            ('{"episode_skill": "x"', "not a JSON object"),
            ("<html>" * 100, "not a JSON object"),
            ("{" * 50_000, "not a JSON object"),
            ('{"a":' * 20_000 + "1" + "}" * 20_000, "at most 100000 are read"),
            ("[" * 40_000 + "{}" + "]" * 40_000, "does not fit|not a JSON object"),
            ("x" * 10_000_000, "10000000 characters; at most 100000"),
            ("{}", "episode_summary: Field required; episode_skill: Field required"),
            ('{"episode_summary": "a", "episode_skill": ["b"]}', "episode_skill: Input should be a valid string"),
            ('{"episode_summary": "a", "episode_skill": "  "}', "episode_skill: String should have at least 1"),
            ('{"episode_summary": "a", "episode_skill": "\\u0000"}', "episode_skill: there is no text in it"),
            ('{"episode_summary": "a", "episode_skill": "b", "step_skills": {"first": "c"}}', "step_skills.first"),
            ('{"episode_summary": "a", "episode_skill": "\\ud800"}', "episode_skill: Input should be a valid string"),
            ('{"episode_summary": "a", "episode_skill": "b", "step_skills": ["c"]}', "step_skills: Input should be"),
        ],
        ids=lambda value: repr(value[:30]),
    )
    def test_what_is_wrong_is_said_in_words(self, reply, message):
        with pytest.raises(SkillReportError, match=message):
            parse_skills(reply, 3, 5)

    def test_a_long_step_skill_is_refused(self):
        with pytest.raises(SkillReportError, match="at most 300 characters"):
            parse_skills(json.dumps(GOOD | {"step_skills": {"0": "x" * 301}}), 3, 5)

    def test_the_message_is_short_and_can_be_sent(self):
        steps = {f"\ud800{i}" + "x" * 5000: "a" for i in range(5)}
        with pytest.raises(SkillReportError) as error:
            parse_skills(json.dumps(GOOD | {"step_skills": steps}), 3, 5)
        assert len(str(error.value).encode()) < 1000

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=200))
    def test_any_reply_is_skills_or_an_error_in_words(self, reply):
        with pytest.raises(SkillReportError):
            parse_skills(reply, 3, 5)

    def test_there_is_a_schema_to_ask_for(self):
        schema = SkillReport.model_json_schema()
        assert schema["required"] == ["episode_summary", "episode_skill"]
        assert "step_skills" in schema["properties"]
