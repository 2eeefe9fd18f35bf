"""Our environments in verl-agent's training loop: an environment manager of the shape that its rollouts expect.

verl-agent (Feng et al. 2025, arXiv 2505.10978: GiGPO) drives a batch of games through an object with `reset`, `step`
and `success_evaluator`; observations are dictionaries whose ``text`` holds complete prompts. It is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opid_gym.actions import TAGGED, ActionFormat, parse_action
from opid_gym.prompting import PromptTemplate, PromptView, load_template, render
from opid_gym.vector import TextVectorEnv

Observations = dict[str, Any]


class EnvironmentManager:
    """What verl-agent's ``TrajectoryCollector`` calls for a batch of games.

    Pass two of them where verl-agent's ``make_envs(config)`` returns its own, one for training and one for validation.
    Groups are games of one task side by side: make the environment with ``group_size=config.env.rollout.n``.

    Args:
        envs: made by `opid_gym.registration.make_envs`, without autoreset.
        template: how a step is shown to the model; a bundled template's name, or a template.
        action_format: how a reply must look.
        reward_scale: factor on the rewards; verl-agent's own ALFWorld pays 10 for a success.

    >>> from opid_gym.registration import make_envs
    >>> manager = EnvironmentManager(make_envs("opid/ALFWorld-v0", 2, group_size=2, size="small"))
    >>> observations, infos = manager.reset()
    >>> observations, rewards, dones, infos = manager.step(["<think>hm</think><action>look</action>", "look"])
    >>> rewards, dones, [int(info["is_action_valid"]) for info in infos]
    (array([0., 0.], dtype=float32), array([False, False]), [1, 0])
    """

    def __init__(
        self,
        envs: TextVectorEnv,
        template: str | PromptTemplate = "tagged",
        action_format: ActionFormat = TAGGED,
        *,
        reward_scale: float = 1.0,
    ) -> None:
        self.envs = envs
        self._template = load_template(template) if isinstance(template, str) else template
        self._format = action_format
        self._scale = reward_scale
        self._tasks: list[str] = []
        self._seen: list[str] = []
        self._admissible: list[Sequence[str] | None] = []
        self._history: list[list[tuple[str, str]]] = []
        self._over = np.ones(envs.num_envs, dtype=np.bool_)

    def reset(self, kwargs: Any = None) -> tuple[Observations, list[dict[str, Any]]]:
        """Begin an episode in each game.

        Args:
            kwargs: verl-agent's columns of the data set; None, or one mapping for each game whose ``task_id``, where
                there is one, chooses the task.

        Returns:
            Observations (``text``, a list of prompts; ``anchor``, the state names of GiGPO; ``image``, None) and one
            info for each game.
        """
        ids = [row.get("task_id") for row in kwargs] if kwargs is not None else []
        seen, infos = self.envs.reset(options={"task_ids": ids} if ids and all(ids) else None)
        self._tasks, self._seen = list(infos["task"]), list(seen)
        self._admissible = list(infos["admissible_actions"])
        self._history = [[] for _ in seen]
        self._over = np.zeros(len(seen), dtype=np.bool_)
        return self._observe(infos["anchor"]), [self._info(infos, i, True) for i in range(len(seen))]

    def step(
        self, text_actions: Sequence[str]
    ) -> tuple[Observations, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Read an action from each reply and play it; games that are over are left alone and pay nothing.

        Returns:
            Observations as from `reset`, rewards ``[games]``, which games are over ``[games]``, and infos with ``won``
            and ``is_action_valid``.
        """
        read = [
            parse_action(reply, self._format, admissible)
            for reply, admissible in zip(text_actions, self._admissible, strict=True)
        ]
        actions = [None if over else parsed.action for over, parsed in zip(self._over, read, strict=True)]
        seen, rewards, terminations, truncations, infos = self.envs.step(actions)
        anchors = list(seen)
        for i, action in enumerate(actions):
            if action is not None:
                self._history[i].append((self._seen[i], action))
                self._seen[i], self._admissible[i] = seen[i], infos["admissible_actions"][i]
                anchors[i] = infos["anchor"][i]
        told = [self._info(infos, i, parsed.valid) for i, parsed in enumerate(read)]
        self._over |= terminations | truncations
        return self._observe(anchors), (self._scale * rewards).astype(np.float32), self._over.copy(), told

    def success_evaluator(
        self,
        *,
        total_infos: Sequence[Sequence[Mapping[str, Any]]],
        total_batch_list: Sequence[Sequence[Mapping[str, Any]]],
        **rest: Any,
    ) -> dict[str, NDArray[np.float32]]:
        """Success of each game, and of those of each task type, from the last step that was played in it.

        Args:
            total_infos, total_batch_list: for each game the infos of its steps, and what verl-agent recorded of them:
                ``active_masks`` says whether the game was still being played.
            rest: further records, not needed here.
        """
        found: dict[str, list[float]] = {"success_rate": []}
        for infos, records in zip(total_infos, total_batch_list, strict=True):
            played = [info for info, record in zip(infos, records, strict=True) if record["active_masks"]]
            won = float(bool(played) and bool(played[-1]["won"]))
            found["success_rate"].append(won)
            if played:
                found.setdefault(f"{played[-1]['task_type']}_success_rate", []).append(won)
        return {name: np.array(values, dtype=np.float32) for name, values in found.items()}

    def close(self) -> None:
        """Close the games."""
        self.envs.close()

    def _observe(self, anchors: Sequence[str]) -> Observations:
        texts = [
            str(render(self._template, PromptView(task, observation, tuple(history), admissible)))
            for task, observation, history, admissible in zip(
                self._tasks, self._seen, self._history, self._admissible, strict=True
            )
        ]
        return {"text": texts, "image": None, "anchor": list(anchors)}

    def _info(self, infos: Mapping[str, Any], i: int, valid: bool) -> dict[str, Any]:
        told = {name: values[i] for name, values in infos.items() if not name.startswith("_")}
        return {**told, "won": bool(told["won"]), "is_action_valid": np.array(int(valid))}
