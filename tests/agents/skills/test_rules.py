"""Rules of a task type, from the successes of several tasks."""

from dataclasses import replace

from opid_agents.skills.extract import SENTENCES, RuleExtractor
from opid_agents.skills.rules import common_rules

from opid_gym.trajectory import Step, Trajectory


def won(thing: str, *workflow: str, task_type: str = "pick") -> Trajectory:
    step = Step("a room", "look", 1.0, "a room")
    return Trajectory(f"task {thing}", task_type, f"put some {thing} on shelf", [step], success=True, workflow=workflow)


MUG = won("mug", "go to desk", "take mug", "go to shelf", "move mug")
PLATE = won("plate", "go to drawer", "open drawer", "take plate", "go to shelf", "move plate")
PEN = won("pen", "take pen", "go to shelf", "move pen")


def test_luck_is_left_out_and_the_order_kept():
    assert common_rules([MUG, PLATE, PEN]) == {"pick": ("take it", "go to it", "move it")}


def test_one_task_is_no_type_however_often_it_was_solved():
    assert common_rules([MUG, MUG, MUG]) == {}
    assert common_rules([MUG, won("plate", task_type="clean")]) == {}


def test_a_task_counts_once_however_often_it_was_solved():
    by_the_desk = won("plate", "go to desk", "take plate")
    assert common_rules([MUG, *[PLATE] * 8, by_the_desk, PEN])["pick"] == ("take it", "go to it", "move it")


def test_what_is_done_twice_is_told_twice():
    two = [won(thing, f"take {thing}", f"move {thing}", f"take {thing}", f"move {thing}") for thing in ("mug", "plate")]
    assert common_rules(two) == {"pick": ("take it", "move it", "take it", "move it")}


def test_the_order_of_episodes_does_not_matter():
    assert common_rules([PEN, PLATE, MUG]) == common_rules([MUG, PLATE, PEN])


def test_free_text_that_a_task_names_is_no_fact_of_an_instance():
    shop = [
        Trajectory(f"goal {n}", "shop", f"Find me {what}, with color: {color}", workflow=workflow)
        for n, (what, color, workflow) in enumerate(
            [
                ("soft mugs", "red", ("search soft mugs", "open a match", "choose red", "buy")),
                ("long socks", "blue", ("search long socks", "open a match", "choose blue", "buy")),
            ]
        )
    ]
    assert common_rules(shop, wanted="what is named") == {
        "shop": ("search what is named", "open a match", "choose what is named", "buy")
    }


def test_an_extractor_tells_the_rule_to_every_episode_of_the_type():
    lost = Trajectory("task pan", "pick", "put some pan on shelf", [Step("a room", "look", 0.0, "a room")])
    groups = [[MUG], [PLATE, replace(PLATE, success=False)], [lost]]
    skills = RuleExtractor().extract_all(groups).skills
    assert {skill.episode_skill for group in skills for skill in group} == {"take it, go to it, move it"}
    sentence = RuleExtractor(style=SENTENCES).extract_all(groups).skills[0][0].episode_skill
    assert sentence == "What worked: take what the task names, go to what the task names, move what the task names."


def test_without_a_rule_a_success_tells_its_own_workflow():
    assert (
        RuleExtractor().extract_all([[MUG]]).skills[0][0].episode_skill == "go to desk, take mug, go to shelf, move mug"
    )
