"""Skills by rules, on hand-made trajectories and on games really played; and reading an analyzer's JSON."""

from dataclasses import replace

import pytest
from opid_agents.skills.contrast import find_contrasts
from opid_agents.skills.extract import COMPACT, SENTENCES, RuleExtractor, SkillStyle
from opid_agents.skills.route import route

from opid_gym.hindsight import look_back
from opid_gym.trajectory import Step, StepHindsight, Trajectory
from opid_gym_envs.alfworld.env import ALFWorld
from tests.alfworld.slips import play

NOTHING = "Nothing happens."
START = "You are in a room."
# Looks back at any trajectory of a household; which games it has does not matter.
WORLD = ALFWorld(size="small")
DECISIVE_AND_CONTRAST = RuleExtractor(contrast=True)
CONTRAST = RuleExtractor(hindsight="none", contrast=True)


def episode(*moves: str, won: bool = False, task: str = "put some mug on shelf", admissible=None) -> Trajectory:
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
    look_back(WORLD, trajectory)
    return trajectory


DESK = "go to desk 1 -> On the desk 1, you see a mug 1."
TAKE = "take mug 1 from desk 1 -> You pick up the mug 1 from the desk 1."
SHELF = "go to shelf 2 -> On the shelf 2, you see nothing."
PUT = "move mug 1 to shelf 2 -> You move the mug 1 to the shelf 2."
DRAWER = "go to drawer 1 -> The drawer 1 is closed."
OPEN = "open drawer 1 -> The drawer 1 is open. In it, you see nothing."


class TestContrast:
    WON = episode(DESK, TAKE, SHELF, PUT, won=True)
    LOST = episode(DESK, SHELF, DRAWER, OPEN)

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
        skills = CONTRAST.extract(self.LOST, [self.WON, self.LOST])
        assert skills.step_skills == {1: "take mug 1 from desk 1"}
        every = replace(CONTRAST, first_divergence_only=False).extract(self.LOST, [self.WON, self.LOST])
        assert every.step_skills == {1: "take mug 1 from desk 1", 2: "move mug 1 to shelf 2"}

    def test_a_success_gets_its_own_action(self):
        skills = CONTRAST.extract(self.WON, [self.WON, self.LOST])
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
        assert CONTRAST.extract(lost, [self.WON, lost]).step_skills == {}

    def test_at_most_so_many_the_largest_decisions_first(self):
        one = replace(CONTRAST, max_step_skills=1).extract(self.WON, [self.WON, self.LOST])
        assert one.step_skills == {3: "move mug 1 to shelf 2"}
        assert replace(CONTRAST, max_step_skills=0).extract(self.WON, [self.WON, self.LOST]).step_skills == {}

    def test_it_is_off_unless_asked_for(self):
        assert RuleExtractor().extract(self.LOST, [self.WON, self.LOST]).step_skills == {}


class TestHindsight:
    """The shelf was reached with nothing in hand, the mug in sight was passed by twice."""

    ROOM = ("go to desk 1", "go to shelf 2", "go to drawer 1", "look")
    AT_DESK = (*ROOM, "examine desk 1", "take mug 1 from desk 1")

    def lost(self) -> Trajectory:
        trajectory = episode(DESK, SHELF, DESK, DRAWER, "look -> Nothing new.")
        for step, admissible in zip(
            trajectory.steps, [self.ROOM, self.AT_DESK, self.ROOM, self.AT_DESK, self.ROOM], strict=True
        ):
            step.admissible_actions = admissible
        look_back(WORLD, trajectory)
        return trajectory

    def test_decisive_advice_once_an_episode(self):
        lost = self.lost()
        assert [step.hindsight.better for step in lost.steps] == [
            None, "take mug 1 from desk 1", None, "take mug 1 from desk 1", "go to desk 1",
        ]  # fmt: skip
        assert RuleExtractor().extract(lost, [lost]).step_skills == {1: "take mug 1 from desk 1"}

    def test_all_advice_or_none(self):
        lost = self.lost()
        every = RuleExtractor(hindsight="all").extract(lost, [lost])
        assert every.step_skills == {1: "take mug 1 from desk 1", 4: "go to desk 1"}
        assert RuleExtractor(hindsight="none").extract(lost, [lost]).step_skills == {}

    def test_in_order_of_occurrence_up_to_the_limit(self):
        lost = self.lost()
        first = RuleExtractor(hindsight="all", max_step_skills=1).extract(lost, [lost])
        assert first.step_skills == {1: "take mug 1 from desk 1"}
        assert RuleExtractor(max_step_skills=0).extract(lost, [lost]).step_skills == {}

    def test_it_speaks_where_all_failed(self):
        lost = self.lost()
        (skills, _) = RuleExtractor().extract_all([[lost, episode(DRAWER)]]).skills[0]
        assert skills.episode_skill == "take mug 1 from desk 1"
        aimless = episode("look -> Nothing new.")  # nothing decisive to say
        aimless.steps[0].hindsight = StepHindsight(False, wasted=True, better="go to desk 1")
        assert RuleExtractor().extract(aimless, [aimless]).episode_skill == "go to desk 1"
        assert RuleExtractor(hindsight="none").extract(aimless, [aimless]).episode_skill == ""
        sentence = RuleExtractor(style=SENTENCES).extract(lost, [lost]).episode_skill
        assert sentence == "This attempt failed; it missed the moment for 'take mug 1 from desk 1'."

    def test_contrast_fills_the_steps_that_hindsight_leaves(self):
        lost = self.lost()
        won = episode(SHELF, DESK, TAKE, SHELF, PUT, won=True)
        assert DECISIVE_AND_CONTRAST.extract(lost, [won, lost]).step_skills[1] == "take mug 1 from desk 1"
        skills = RuleExtractor(contrast=True, first_divergence_only=False).extract(lost, [won, lost])
        assert len(skills.step_skills) > 1
        assert skills.step_skills[1] == "take mug 1 from desk 1"

    def test_worlds_without_hindsight_have_no_step_skills(self):
        lost = self.lost()
        for step in lost.steps:
            step.hindsight = None
        assert RuleExtractor(hindsight="all").extract(lost, [lost]).step_skills == {}

    def test_any_world_can_speak(self):
        other = Trajectory(
            "t", "k", "fly", [Step("a", "x", 0.0, "b", hindsight=StepHindsight(True, (), False, "y", True))]
        )
        assert RuleExtractor().extract(other, []).step_skills == {0: "y"}


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
            "go to bed 1 -> On the bed 1, you see a mug 1.",
            "take mug 1 from bed 1 -> You pick up the mug 1 from the bed 1.",
            "go to sink 1 -> A sink.", "clean mug 1 with sink 1 -> You clean the mug 1 using the sink 1.",
            SHELF, PUT, won=True,
        )  # fmt: skip
        short = episode(DESK, TAKE, SHELF, PUT, won=True)
        assert self.skill(lost, long, short) == "go to desk, take mug, go to shelf, move mug"
        assert "another one worked like this: go to desk, take" in self.skill(lost, short, style=SENTENCES)

    def test_what_was_refused_again_and_again(self):
        assert self.skill(episode("fly", "jump", "jump", DESK)) == "avoid jump"
        assert self.skill(episode("jump", "jump"), style=SENTENCES) == "Do not repeat 'jump': it has no effect."

    def test_a_loop(self):
        assert self.skill(episode(DRAWER, DESK, DRAWER, DESK)) == "avoid go to desk 1"

    def test_nothing_to_say(self):
        assert self.skill(episode(DESK, TAKE, DRAWER)) == ""

    def test_can_be_left_out(self):
        won = episode(DESK, TAKE, SHELF, PUT, won=True)
        assert RuleExtractor(workflow=False).extract(won, [won]).episode_skill == ""

    def test_braces_in_an_action_are_text(self):
        assert self.skill(episode("say {plan} {x}", "say {plan} {x}")) == "avoid say {plan} {x}"

    def test_success_by_a_threshold_on_the_return(self):
        half = episode(DESK, TAKE, SHELF, PUT)
        half.steps[-1].reward = 0.5
        half.workflow = ("go to desk", "take mug")
        assert RuleExtractor(success_threshold=0.5).extract(half, [half]).episode_skill == "go to desk, take mug"
        assert RuleExtractor(success_threshold=0.6).extract(half, [half]).episode_skill == ""

    def test_summary(self):
        skills = RuleExtractor().extract(episode("fly", DESK), [])
        assert skills.episode_summary == "Failed: 'put some mug on shelf', 2 steps, 1 without effect, 1 state seen."


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
        with pytest.raises(ValueError, match=r"hindsight must be one of \('decisive', 'all', 'none'\), got 'some'"):
            RuleExtractor(hindsight="some")

    def test_style_of_step_skills(self):
        group = [TestContrast.WON, TestContrast.LOST]
        assert replace(CONTRAST, style=SENTENCES).extract(group[1], group).step_skills == {
            1: "Do this now: take mug 1 from desk 1."
        }


def play_and_look_back(seed: int, slips: float, rng_seed: int) -> Trajectory:
    trajectory = play(seed, slips, rng_seed)
    look_back(WORLD, trajectory)
    return trajectory


@pytest.fixture(scope="module")
def groups() -> list[list[Trajectory]]:
    return [[play_and_look_back(seed, 0.45, 100 * seed + k) for k in range(6)] for seed in range(12)]


class TestOnRealGames:
    def test_extraction_is_deterministic_and_the_order_of_a_group_does_not_matter(self, groups):
        extractor = DECISIVE_AND_CONTRAST
        for group in groups:
            found = extractor.extract_all([group]).skills[0]
            assert found == [extractor.extract(trajectory, group) for trajectory in group]
            assert found[::-1] == extractor.extract_all([group[::-1]]).skills[0]

    def test_every_step_skill_is_possible_and_differs_only_on_purpose(self, groups):
        extractor = RuleExtractor(hindsight="all", contrast=True, max_step_skills=3)
        for group, found in zip(groups, extractor.extract_all(groups).skills, strict=True):
            for trajectory, skills in zip(group, found, strict=True):
                assert len(skills.step_skills) <= 3
                for index, action in skills.step_skills.items():
                    step = trajectory.steps[index]
                    assert action in step.admissible_actions
                    assert trajectory.success or action != step.action
                routes = route(skills, len(trajectory))
                assert sum(r.step is not None for r in routes) == len(skills.step_skills)
