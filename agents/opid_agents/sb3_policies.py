"""Policies for Stable-Baselines3 that score every candidate action by the same network.

SB3's own policies end in a linear layer with one output a slot, for which action 3 is action 3 for ever. In a text
world slot 3 holds another action at every step, so here each candidate's vector is scored on its own, beside the state:

    score_i = w . relu(W_s state + W_a choice_i) - c tried_i

where choice_i holds the candidate's embedding, its product with the task's, its similarities to task, observation and
previous action, and how often it was tried. The learned c begins at a value that makes exploration look around rather
than run in circles, without which a reward at the end of an episode is hardly ever found. Observations
are those of `opid_gym.wrappers.EmbedText`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

NOVELTY = 6.0  # where policies that sample begin; DQN explores by itself
_NEVER = -1e9  # the score of a slot that only repeats another


class ChoiceFeatures(BaseFeaturesExtractor):
    """State and candidates as one flat vector, which is what SB3 passes from its extractors to its networks.

    The vector is ``[state (width), choices (slots * choice_dim), mask (slots)]``; `ChoiceScorer` takes it apart again.
    """

    def __init__(self, observation_space: spaces.Dict, width: int = 64, projected: int = 32) -> None:
        self.slots, dimension = observation_space["actions"].shape or (0, 0)
        self.state_dim = width
        self.choice_dim = 2 * projected + 4
        super().__init__(observation_space, self.state_dim + self.slots * (self.choice_dim + 1))
        self.state = nn.Sequential(nn.Linear(3 * dimension, width), nn.ReLU())
        self.action = nn.Linear(dimension, projected)
        self.match = nn.Linear(dimension, projected)

    def forward(self, observations: dict[str, Tensor]) -> Float[Tensor, "batch features"]:
        """Of a batch of `EmbedText` observations."""
        state, actions = observations["state"], observations["actions"]
        similarities = torch.einsum("bkd,bad->bak", state, actions)
        choices = torch.cat(
            [
                self.action(actions),
                self.match(actions * state[:, :1]),
                similarities,
                observations["tried"].unsqueeze(-1),
            ],
            dim=-1,
        )
        return torch.cat([self.state(state.flatten(1)), choices.flatten(1), observations["mask"]], dim=1)


class ChoiceScorer(nn.Module):
    """The heads: a score for each slot, and the input of the value function.

    Args:
        state_dim: width of the state (after the LSTM, where there is one).
        features: for the shapes.
        width: of the hidden layer.
        novelty: where c begins.
    """

    def __init__(self, state_dim: int, features: ChoiceFeatures, width: int = 64, novelty: float = 0.0) -> None:
        super().__init__()
        self._sizes = (state_dim, features.slots * features.choice_dim, features.slots)
        self._choice_dim = features.choice_dim
        self.of_state = nn.Linear(state_dim, width)
        self.of_choice = nn.Linear(features.choice_dim, width)
        self.score = nn.Linear(width, 1)
        self.novelty = nn.Parameter(torch.tensor(novelty))
        # Names that SB3 looks for.
        self.latent_dim_pi = features.slots
        self.latent_dim_vf = state_dim + width

    def scores(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch slots"]:
        """A score for each slot, slots that repeat a candidate included."""
        _, choices, _ = self._split(features)
        return self.score(self._hidden(features)).squeeze(-1) - self.novelty * choices[..., -1]

    def forward_actor(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch slots"]:
        """Logits: a candidate counts once."""
        *_, mask = self._split(features)
        return self.scores(features).masked_fill(mask == 0, _NEVER)

    def forward_critic(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch latent"]:
        """State and mean candidate."""
        state, _, mask = self._split(features)
        mean = (self._hidden(features) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return torch.cat([state, mean], dim=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.forward_actor(features), self.forward_critic(features)

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state, choices, mask = features.split(self._sizes, dim=1)
        return state, choices.unflatten(1, (-1, self._choice_dim)), mask

    def _hidden(self, features: Tensor) -> Tensor:
        state, choices, _ = self._split(features)
        return torch.relu(self.of_state(state)[:, None] + self.of_choice(choices))


class ChoicePolicy(ActorCriticPolicy):
    """For PPO and A2C."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": ChoiceFeatures, **kwargs})

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = ChoiceScorer(self.features_extractor.state_dim, self.features_extractor, novelty=NOVELTY)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Identity()  # the scores are the logits
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


class RecurrentChoicePolicy(RecurrentActorCriticPolicy):
    """For RecurrentPPO: an LSTM over the states; the candidates of a step go round it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own = {
            "features_extractor_class": ChoiceFeatures,
            "lstm_hidden_size": 64,
            "shared_lstm": True,
            "enable_critic_lstm": False,
        }
        super().__init__(*args, **{**own, **kwargs})

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = ChoiceScorer(self.lstm_output_dim, self.features_extractor, novelty=NOVELTY)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Identity()
        self.features_dim = self.features_extractor.state_dim  # what the LSTM, made next, will read

    @staticmethod
    def _process_sequence(features: Tensor, lstm_states: Any, episode_starts: Tensor, lstm: nn.LSTM) -> Any:
        state, choices = features[:, : lstm.input_size], features[:, lstm.input_size :]
        remembered, lstm_states = RecurrentActorCriticPolicy._process_sequence(state, lstm_states, episode_starts, lstm)
        return torch.cat([remembered, choices], dim=1), lstm_states


class ChoiceQNetwork(QNetwork):
    """Q-values of all slots; a repeated candidate has the value of its first occurrence, so no slot needs a mask."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.q_net = ChoiceScorer(self.features_extractor.state_dim, self.features_extractor)

    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "batch slots"]:
        """Of a batch of `EmbedText` observations."""
        return self.q_net.scores(self.extract_features(obs, self.features_extractor))


class ChoiceDQNPolicy(DQNPolicy):
    """For DQN."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": ChoiceFeatures, "net_arch": [], **kwargs})

    def make_q_net(self) -> ChoiceQNetwork:
        """The online and the target network are each one of these."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return ChoiceQNetwork(**arguments).to(self.device)
