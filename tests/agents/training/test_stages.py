from opid_agents.policy import Policy
from opid_agents.training.warm_start import make_start

from tests.agents.models import tiny_recipe, train


def test_log_probs_of_the_rollout_are_the_old_ones_and_nothing_is_scored_again(tmp_path, monkeypatch):
    def never(self, prompts, replies, **options):
        assert not prompts, "GRPO scored tokens whose log-probabilities it had"
        return []

    monkeypatch.setattr(Policy, "score", never)
    recipe = tiny_recipe("algorithm=grpo", "iterations=1", "train_uniform_groups=true", "warm_start.steps=2")
    train(recipe, tmp_path / "run", policy=make_start(recipe).policy)
