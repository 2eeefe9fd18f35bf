import random
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from opid_agents.lm import LMSettings
from opid_agents.policy import ModelSize, Policy
from opid_agents.recipes.recipe import change
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams
from opid_agents.tokenizer import train_tokenizer
from opid_agents.training.demonstrations import advice_at, learned_steps
from opid_agents.training.imitation import HintMix, ImitationSettings, Lessons, following_rate, imitate
from opid_agents.training.warm_start import make_start, world_text
from opid_agents.training.watcher import Silent

from tests.agents.models import tiny_recipe
from tests.agents.training.played import DEMONSTRATIONS

SETTINGS = LMSettings(max_reply_tokens=12)


@pytest.fixture(scope="module")
def policy():
    return Policy.create(train_tokenizer(world_text(SETTINGS, DEMONSTRATIONS), 800), ModelSize(32, 2, 2, 64))


def said(policy, lesson):
    return policy.decode(lesson.prompt_ids), policy.decode(lesson.reply_ids)


def drawn(policy, mix, phase, own=(), count=60, demonstrations=DEMONSTRATIONS, settings=SETTINGS):
    lessons, rng = Lessons(policy, settings, demonstrations, mix), random.Random(1)
    lessons.own = own
    return [lessons.draw(rng, phase) for _ in range(count)]


def test_a_hint_is_answered_by_what_it_names(policy):
    for phase in ("short", "read", "act"):
        hinted = [lesson for lessons in drawn(policy, HintMix(), phase) for lesson in lessons if lesson.hinted]
        for lesson in hinted:
            prompt, reply = said(policy, lesson)
            assert reply == " " + prompt.rsplit("next: ", 1)[1].split("\n")[0] + "\n"
        assert len({policy.decode(lesson.reply_ids) for lesson in hinted}) > 20


def test_hints_are_read_first_without_and_then_with_a_history_and_only_then_the_expert_is_imitated(policy):
    short, read, act = (drawn(policy, HintMix(hints=3, plan=0), phase) for phase in ("short", "read", "act"))
    assert all(len(lessons) == 1 and "\n>" in said(policy, lessons[0])[0] for lessons in short)
    assert not any("\n> " in said(policy, lessons[0])[0] for lessons in short)
    assert all(len(lessons) == 3 and all(lesson.hinted for lesson in lessons) for lessons in read)
    assert any("\n> " in said(policy, lessons[0])[0] for lessons in read)
    for lessons in act:
        assert sum(lesson.hinted for lesson in lessons) == 3
        assert all("next: " not in said(policy, lesson)[0] for lesson in lessons if not lesson.hinted)
        assert any(not lesson.hinted for lesson in lessons)


def test_what_the_expert_does_on_a_page_that_is_new_is_learned_from_the_page_alone_if_that_is_set(policy):
    shown = set()
    for demonstration in DEMONSTRATIONS:
        before = None
        for step in demonstration.steps:
            if step.observation != before and step.data.get("expert", step.action) == step.action:
                shown.add((step.observation, step.action))
            before = step.observation
    plain = []
    for lessons in drawn(policy, HintMix(short_play=True), "short", count=200):
        assert lessons[0].hinted
        plain += lessons[1:]
    assert 20 < len(plain) < 200
    for lesson in plain:
        prompt, reply = said(policy, lesson)
        assert not lesson.hinted
        assert "next: " not in prompt
        assert any(seen in prompt and f" {action}\n" == reply for seen, action in shown)


def test_words_of_the_world_in_no_order_are_to_be_said_again(policy):
    words = {word for t in DEMONSTRATIONS for step in t.steps for word in step.observation.split()}
    told = [said(policy, lesson) for lessons in drawn(policy, HintMix(), "copy") for lesson in lessons]
    for prompt, reply in told:
        assert prompt.split("next:")[1].split("\n")[0] + "\n" == reply
        assert set(reply.split()) <= words
    lengths = [len(reply.split()) for _, reply in told]
    assert min(lengths) == 1
    assert max(lengths) == 12


def test_the_phases_have_the_lengths_that_are_set():
    settings = ImitationSettings(steps=9, copy_steps=1, short_steps=2, read_steps=3)
    assert [settings.phase(step) for step in range(1, 9)] == ["copy"] + ["short"] * 2 + ["read"] * 3 + ["act"] * 2


def test_own_rollouts_are_read_in_and_never_imitated(policy):
    own = [replace(DEMONSTRATIONS[0], task="task of its own")]
    episodes = drawn(policy, HintMix(own=0.5), "act", own)
    of_own = [lessons for lessons in episodes if "task of its own" in said(policy, lessons[0])[0]]
    assert 0.3 < len(of_own) / len(episodes) < 0.7
    assert all(lesson.hinted for lessons in of_own for lesson in lessons)


def test_hints_from_elsewhere_are_copied_too(policy):
    here = {action for step in DEMONSTRATIONS[0].steps for action in step.admissible_actions}
    lessons = Lessons(policy, SETTINGS, DEMONSTRATIONS, HintMix(from_expert=0, from_elsewhere=1))
    lessons.own, rng = DEMONSTRATIONS[:1], random.Random(0)
    named = [policy.decode(lesson.reply_ids).strip() for _ in range(60) for lesson in lessons.draw(rng, "read")]
    assert not set(named) <= here


def test_free_texts_of_hints_are_also_random_words_for_every_action_of_the_world(policy):
    step = replace(DEMONSTRATIONS[0].steps[0], action="answer[Nairobi]", admissible_actions=None, data={})
    questions = [replace(DEMONSTRATIONS[0], steps=[step])]
    lessons = Lessons(policy, SETTINGS, questions, HintMix(from_expert=0), ["answer", "search"])
    rng = random.Random(0)
    told = [policy.decode(lessons.draw(rng, "short")[0].reply_ids).strip() for _ in range(60)]
    words = set(step.observation.split())
    invented = [action for action in told if action != "answer[Nairobi]"]
    assert 15 < len(invented) < 45
    assert {action.split("[")[0] for action in invented} == {"answer", "search"}
    assert all(set(action.partition("[")[2][:-1].split()) <= words for action in invented)


def test_short_episodes_are_hinted_as_often_as_long_ones(policy):
    one_step = [replace(DEMONSTRATIONS[0], steps=DEMONSTRATIONS[0].steps[:1])]
    (lessons,) = drawn(policy, HintMix(hints=5), "read", count=1, demonstrations=one_step)
    assert len(lessons) == 5


def test_the_words_of_a_bracket_are_written_with_the_space_before_them(policy):
    step = replace(DEMONSTRATIONS[0].steps[0], action="click[red]", admissible_actions=("click[red]",), data={})
    shop = [replace(DEMONSTRATIONS[0], steps=[step])]
    settings = replace(SETTINGS, action_format=replace(SETTINGS.action_format, spaces=True))
    (lessons,) = drawn(policy, HintMix(), "act", count=1, demonstrations=shop, settings=settings)
    hinted = [said(policy, lesson) for lesson in lessons if lesson.hinted]
    assert all("next: click[ red]\n" in prompt and reply == " click[ red]\n" for prompt, reply in hinted)


def test_a_plan_is_shown_with_the_episode_that_it_is_of(policy):
    episodes = drawn(policy, HintMix(hints=0, plan=1), "act")
    assert all("plan: " in said(policy, lesson)[0] for lessons in episodes for lesson in lessons)


def test_a_reply_without_a_stop_text_is_taught_to_end(policy):
    settings = LMSettings(reply="<action>{action}</action>", stop=(), max_reply_tokens=12)
    lessons = Lessons(policy, settings, DEMONSTRATIONS, HintMix())
    for phase in ("short", "read", "act"):
        for lesson in lessons.draw(random.Random(0), phase):
            *reply, end = lesson.reply_ids
            assert end == policy.tokenizer.eos_token_id
            assert policy.decode(reply).endswith("</action>")


def test_after_imitation_replies_end_by_themselves():
    settings = LMSettings(reply=" {action}", stop=(), max_reply_tokens=12)
    model = Policy.create(train_tokenizer(world_text(settings, DEMONSTRATIONS), 800), ModelSize(32, 1, 2, 32))
    lessons = Lessons(model, settings, DEMONSTRATIONS, HintMix())
    prompts = [lessons.draw(random.Random(i), "short")[0].prompt_ids for i in range(20)]

    def share():
        sampled = HFSampler(model).sample(prompts, SamplingParams(12), seeds=range(len(prompts)))
        return sum(sampled.ended) / len(prompts)

    before = share()
    imitate(model, lessons, ImitationSettings(steps=60, short_steps=60, short_batch=8, learning_rate=1e-2))
    assert before < 0.2
    assert share() > 0.8


def test_only_steps_where_the_expert_was_heeded_are_learned(policy):
    first = next(t for t in DEMONSTRATIONS if len(learned_steps(t)) < len(t.steps))
    (lessons,) = drawn(policy, HintMix(hints=0), "act", count=1, demonstrations=[first])
    assert [policy.decode(lesson.reply_ids) for lesson in lessons] == [
        f" {first.steps[i].action}\n" for i in learned_steps(first)
    ]
    assert all(advice_at(first, i) == first.steps[i].action for i in learned_steps(first))


def test_the_hints_of_an_episode_cost_little_more_than_the_episode(policy):
    lessons = [lesson for lessons in drawn(policy, HintMix(plan=0), "act", count=1) for lesson in lessons]
    rows = policy.rows([lesson.prompt_ids for lesson in lessons], [lesson.reply_ids for lesson in lessons])
    longest = max(len(lesson.prompt_ids) for lesson in lessons)
    assert len(rows) == 1
    assert len(rows[0].ids) < longest + 6 * 40


def test_imitation_lowers_the_loss_and_is_the_same_for_the_same_seed(policy):
    def losses():
        model = Policy.create(policy.tokenizer, ModelSize(16, 1, 2, 16))
        lessons = Lessons(model, SETTINGS, DEMONSTRATIONS, HintMix())
        found = []
        settings = ImitationSettings(
            steps=25,
            short_steps=15,
            read_steps=10,
            short_batch=8,
            batch_episodes=2,
            learning_rate=1e-2,
            warmup_steps=5,
        )
        imitate(model, lessons, settings, on_step=lambda step, loss: found.append(loss))
        return found

    first = losses()
    assert first == losses()
    assert np.mean(first[-5:]) < 0.8 * np.mean(first[:5])


def test_a_check_can_stop_it_and_own_rollouts_are_exchanged_at_each(policy):
    model = Policy.create(policy.tokenizer, ModelSize(16, 1, 2, 16))
    lessons = Lessons(model, SETTINGS, DEMONSTRATIONS, HintMix())
    settings = ImitationSettings(
        steps=30, short_steps=2, read_steps=2, short_batch=2, batch_episodes=1, check_every=3, check_from=4
    )
    asked, played = [], []

    def own(step):
        played.append(step)
        return DEMONSTRATIONS[:1]

    assert imitate(model, lessons, settings, check=lambda step: asked.append(step) or step == 12, own=own) == 12
    assert asked == [6, 9, 12]
    assert played == [6, 9]
    assert lessons.own == DEMONSTRATIONS[:1]


def test_imitation_may_take_smaller_steps_than_reading(policy):
    settings = ImitationSettings(steps=6, short_steps=1, read_steps=3, short_batch=1, batch_episodes=1, check_every=4)

    def weights(act_rate, stop_after):
        model = Policy.create(policy.tokenizer, ModelSize(16, 1, 2, 16))
        lessons = Lessons(model, SETTINGS, DEMONSTRATIONS, HintMix(hints=1))
        imitate(model, lessons, replace(settings, act_rate=act_rate), check=lambda step: step == stop_after)
        return torch.cat([parameter.flatten() for parameter in model.trained()])

    read = weights(1.0, stop_after=4)
    torch.testing.assert_close(weights(1e-9, stop_after=None), read)
    assert not torch.allclose(weights(1.0, stop_after=None), read, atol=1e-5)


def test_following_is_measured_on_what_the_model_says(policy):
    assert following_rate(policy, SETTINGS, DEMONSTRATIONS, samples=20) < 0.2


def test_a_start_is_whole_and_its_checks_are_told():
    told = []
    result = make_start(tiny_recipe(), on_check=told.append)
    assert tuple(told) == result.checks
    assert result.steps == 30
    assert LMSettings.from_json(result.policy.settings).action_format.admissible


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hints": -1}, "hints must be >= 0, got -1"),
        ({"own": 1.5}, r"own of the hint mix must be in \[0, 1\], got 1.5"),
        ({"from_expert": 0.6, "from_elsewhere": 0.6}, r"shares of one whole, got 0.6 \+ 0.6"),
    ],
)
def test_a_mix_that_is_none_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        HintMix(**wrong)


def test_a_start_that_was_interrupted_goes_on_and_is_the_one_of_an_unbroken_run(tmp_path):
    recipe = tiny_recipe("warm_start.check_every=10", "warm_start.check_from=20", "warm_start.steps=40")
    whole = make_start(recipe)
    for seed, killed_at in ((1, 25), (0, 12), (0, 28)):  # the first one, of another recipe, must leave no trace
        with pytest.raises(KeyboardInterrupt):
            make_start(change(recipe, {"seed": seed}), Interrupts(killed_at), checkpoints=tmp_path / "warm")
    broken = make_start(recipe, checkpoints=tmp_path / "warm")
    assert broken.checks == whole.checks[-2:]  # those that were made after it went on
    pairs = zip(broken.policy.model.parameters(), whole.policy.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert (tmp_path / "warm").exists()  # until the start is on the disk, which is the caller's


class Interrupts(Silent):
    """Somebody who presses Ctrl-C at the update with this number, counted from the beginning."""

    def __init__(self, update):
        self.left = update

    def stage(self, name, total):
        return nullcontext(self.advance if name == "imitate" else lambda done: None)

    def advance(self, done):
        self.left -= done
        if not self.left:
            raise KeyboardInterrupt
