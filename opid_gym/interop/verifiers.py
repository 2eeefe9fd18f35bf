"""Text environments for verifiers (Prime Intellect): a `MultiTurnEnv` whose conversations are games.

A row of the data set is a task, a reply of the model is an action, and the rubric pays what the world paid. The package
verifiers is imported when an environment is made; what a conversation is (`Conversations`) does not need it.
"""

from __future__ import annotations

import heapq
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from opid_gym.actions import TAGGED, ActionFormat, parse_action
from opid_gym.interop.shared import one_game, shown
from opid_gym.named import missing_extra
from opid_gym.registration import make_envs
from opid_gym.world import World

Message = dict[str, str]
# Where a rollout's state, a mapping that verifiers owns, keeps the game and what came of it.
_GAME, _EPISODE = "game", "episode"


@dataclass(slots=True)
class _Game:
    env: gym.Env[str, str]
    slot: int
    admissible: Sequence[str] | None


class Conversations:
    """The games of a `MultiTurnEnv`, one for each rollout; any number may be under way, in one thread.

    Args:
        world: what is played.
        max_episode_steps: of every episode.
        action_format: how a reply must look. A reply that does not is played by its best-effort action and counted.
    """

    def __init__(self, world: World, max_episode_steps: int, action_format: ActionFormat) -> None:
        self._world = world
        self._limit = max_episode_steps
        self._format = action_format
        self._free: list[int] = []  # slots that were used before
        self._slots = 0

    def rows(self, task_ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """A row for each task: the prompt, which is the first observation, and the task's id.

        Args:
            task_ids: which tasks; None: all of the split.
        """
        rows = []
        for task_id in self._world.task_ids if task_ids is None else task_ids:
            game, prompt = self._open(task_id)
            self._close(game)
            rows.append({"prompt": [_user(prompt)], "info": {"task_id": task_id}})
        return rows

    def begin(self, state: MutableMapping[str, Any]) -> None:
        """Start the game of the rollout's row, see `MultiTurnEnv.setup_state`."""
        state[_GAME], _ = self._open(state["info"]["task_id"])
        state[_EPISODE] = {"return": 0.0, "success": False, "length": 0, "valid_actions": 0}

    def answer(self, messages: Sequence[Any], state: MutableMapping[str, Any]) -> list[Message]:
        """Play the last message and say what comes of it, see `MultiTurnEnv.env_response`.

        With the episode's last step, ``state["final_env_response"]`` is set, which completes the rollout.
        """
        game: _Game = state[_GAME]
        parsed = parse_action(_text(messages[-1]), self._format, game.admissible)
        observation, reward, terminated, truncated, info = game.env.step(parsed.action)
        game.admissible = info["admissible_actions"]
        episode = state[_EPISODE]
        episode["return"] += float(reward)
        episode["success"] = bool(info["won"])
        episode["length"] += 1
        episode["valid_actions"] += parsed.valid
        if terminated or truncated:
            answer = [_user(f"{observation}\nThe episode is over.")]
            state["final_env_response"] = answer
            return answer
        return [_user(shown(observation, info))]

    def end(self, state: MutableMapping[str, Any]) -> None:
        """Free the game, wherever it stands; ``state["episode"]`` stays."""
        game = state.pop(_GAME, None)
        if game is not None:
            self._close(game)

    def _open(self, task_id: str) -> tuple[_Game, str]:
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot, self._slots = self._slots, self._slots + 1
        env = one_game(self._world, slot, self._limit)
        observation, info = env.reset(options={"task_id": task_id})
        prompt = f"Your task: {info['task']}\n\n{shown(observation, info)}"
        return _Game(env, slot, info["admissible_actions"]), prompt

    def _close(self, game: _Game) -> None:
        heapq.heappush(self._free, game.slot)


def episode_return(state: MutableMapping[str, Any]) -> float:
    """The world's reward, summed over the episode."""
    return float(state[_EPISODE]["return"])


def success(state: MutableMapping[str, Any]) -> float:
    """1 if the task was solved."""
    return float(state[_EPISODE]["success"])


def valid_action_ratio(state: MutableMapping[str, Any]) -> float:
    """The part of the replies that looked as they must."""
    episode = state[_EPISODE]
    return float(episode["valid_actions"] / max(episode["length"], 1))


def instructions(action_format: ActionFormat, action_help: str | None = None) -> str:
    """How to reply, for a system prompt.

    Args:
        action_format: how a reply must look.
        action_help: what can be done, where observations do not list it.

    >>> print(instructions(TAGGED))
    First think step by step inside <think> </think> tags. Then give one action inside <action> </action> tags.
    """
    if action_format.elements:
        decide = "give exactly one of " + " or ".join(f"<{name}>...</{name}>" for name in action_format.elements)
    elif action_format.tag:
        decide = "give one action inside <action> </action> tags"
    else:
        decide = "reply with one action and nothing else"
    if action_format.reasoning:
        text = f"First think step by step inside <think> </think> tags. Then {decide}."
    else:
        text = f"{decide[0].upper()}{decide[1:]}."
    return f"{text}\n\n{action_help}" if action_help else text


def multi_turn_env(
    env: str,
    *,
    task_ids: Sequence[str] | None = None,
    action_format: ActionFormat = TAGGED,
    max_episode_steps: int | None = None,
    system_prompt: str | None = None,
    **arguments: Any,
) -> Any:
    """A `verifiers.MultiTurnEnv`; what a verifiers module's ``load_environment`` returns.

    Args:
        env: a registered environment.
        task_ids: the rows of the data set; None: every task of the split. The data set is made when it is first asked
            for, and starts each of its tasks once.
        action_format: how a reply must look.
        max_episode_steps: of every episode; None: the world's own limit. verifiers' own ``max_turns`` is not used: it
            ends a rollout before its last reply is played.
        system_prompt: None: `instructions`.
        arguments: of the environment.

    Raises:
        ImportError: verifiers is not installed.
        ValueError: an unknown environment.
    """
    try:
        import verifiers as vf
    except ModuleNotFoundError as error:
        if error.name != "verifiers":
            raise
        raise missing_extra("a MultiTurnEnv", "verifiers", "verifiers") from None
    from datasets import Dataset

    world = make_envs(env, 1, **arguments).world
    games = Conversations(world, max_episode_steps or world.default_max_episode_steps, action_format)

    class TextWorldEnv(vf.MultiTurnEnv):  # type: ignore[misc]
        async def setup_state(self, state: Any) -> Any:
            games.begin(state)
            return state

        async def env_response(self, messages: Any, state: Any, **_: Any) -> list[Message]:
            return games.answer(messages, state)

        @vf.cleanup  # type: ignore[untyped-decorator]
        async def end_game(self, state: Any) -> None:
            games.end(state)

        @vf.teardown  # type: ignore[untyped-decorator]
        async def close_world(self) -> None:
            world.close()

    rubric = vf.Rubric(funcs=[episode_return])
    rubric.add_metric(success)
    rubric.add_metric(valid_action_ratio)
    help_text = None if type(world).action_help == World.action_help else world.action_help
    return TextWorldEnv(
        dataset=lambda: Dataset.from_list(games.rows(task_ids)),
        system_prompt=instructions(action_format, help_text) if system_prompt is None else system_prompt,
        rubric=rubric,
        env_id=env,
    )


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _text(message: Any) -> str:
    """The text of a chat message: a mapping or an object; its content a string, a list of parts or None."""
    content = message["content"] if isinstance(message, dict) else message.content
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else vars(part) for part in content]
        return "".join(part.get("text") or "" for part in parts)
    return content or ""
