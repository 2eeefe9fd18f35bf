"""A language model behind an OpenAI-compatible endpoint as an agent, prompted in the ways people compare.

- ``zero-shot``: the action alone.
- ``react``: a thought, then the action, and earlier thoughts stay in the conversation (Yao et al. 2023, "ReAct").
- few-shot, with either: episodes of other tasks as examples, from a file of trajectories.
- Reflexion, with either: a task that was not solved is tried again, with what the model wrote about its failure (Shinn
  et al. 2023, "Reflexion").

An episode is one conversation: what the world says are the user's messages, what the model says its own. Nothing here
knows a particular world.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opid_agents.openai_api import Budget, ChatClient, ChatResult, Message, Prices, Usage
from opid_gym.agent import Decision
from opid_gym.trajectory import Trajectory, read_jsonl
from opid_gym.vector import TextVectorEnv

STYLES = {
    "zero-shot": "Reply with one line and nothing else, in this form:\nAction: <your next action>",
    "react": (
        "Reply with two lines and nothing else, in this form:\n"
        "Thought: <what you know, what is missing and what to do next, in one or two sentences>\n"
        "Action: <your next action>"
    ),
}
_ACTION = re.compile(r"^\W*action\W*:(.*)$", re.IGNORECASE | re.MULTILINE)
_BULLET = re.compile(r"^(?:[-*\u2022]|\d{1,3}[.)])\s+")  # as in lists; models copy it with the action
_BLANK = re.compile(r"^(\w+)\[.*\]$", re.DOTALL)
_REFLECT = (
    "You did not solve the task. In at most three sentences: what went wrong, and what will you do differently in the "
    "next attempt at the same task?"
)


class NoReply(Exception):
    """The endpoint gave no reply; the message says why."""


@dataclass(frozen=True, slots=True)
class ChatStyle:
    """How a model is prompted.

    Attributes:
        prompting: one of `STYLES`.
        help: how to act, for worlds where actions are free text.
        examples: episodes shown before the first step, of other tasks.
        shots: how many of them, those of the same task type first.
        history: how many of the latest steps stay in the conversation.
        max_actions: maximum number of admissible actions listed.
    """

    prompting: str = "zero-shot"
    help: str = ""
    examples: Sequence[Trajectory] = ()
    shots: int = 1
    history: int = 10
    max_actions: int = 100

    def __post_init__(self) -> None:
        if self.prompting not in STYLES:
            raise ValueError(f"prompting must be one of {sorted(STYLES)}, got {self.prompting!r}")
        if self.history < 0 or self.shots < 0:
            raise ValueError(f"history and shots must be >= 0, got {self.history} and {self.shots}")


@dataclass(slots=True)
class _Episode:
    """A conversation in progress: earlier (what the world said, what the model said)."""

    exchanges: deque[tuple[str, str]] = field(default_factory=deque)
    steps: int = 0


class ChatAgent:
    """Plays through chat completions; all games of a step are asked for at once.

    `Decision.data` has ``prompt_tokens``, ``reply_tokens`` and ``cost``, those of reflections included.

    Args:
        client: the endpoint.
        style: how the model is prompted.
        trials: how often a task is tried until it is solved (Reflexion, if more than once).
    """

    def __init__(self, client: ChatClient, style: ChatStyle | None = None, *, trials: int = 1) -> None:
        if trials < 1:
            raise ValueError(f"trials must be >= 1, got {trials}")
        self.trials = trials
        self._client = client
        self._style = style or ChatStyle()
        self._episodes: defaultdict[int, _Episode] = defaultdict(_Episode)
        self._lessons: defaultdict[str, list[str]] = defaultdict(list)
        self._owed = Usage()  # of reflections, charged to the next decision

    @classmethod
    def make(
        cls,
        envs: TextVectorEnv,
        *,
        seed: int = 0,
        model: str,
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        prompting: str = "zero-shot",
        examples: str | None = None,
        shots: int = 1,
        trials: int = 1,
        history: int = 10,
        temperature: float = 0.0,
        max_tokens: int = 256,
        timeout: float = 60.0,
        concurrency: int = 8,
        prices: Sequence[float] = (0.0, 0.0),
        max_cost: float | None = None,
    ) -> ChatAgent:
        """For `--agent 'chat model=NAME base_url=URL ...'`.

        Args:
            envs: what is played, for how to act in it.
            seed: sent with every request.
            model, base_url: the endpoint.
            api_key_env: the environment variable that holds the key; without one no key is sent.
            prompting, shots, history: see `ChatStyle`.
            examples: a .jsonl of trajectories (as ``opid-gym eval --agent expert --trajectories FILE`` writes).
            trials: see `ChatAgent`.
            temperature, max_tokens, timeout, concurrency: see `ChatClient`.
            prices: of a million tokens, prompt and reply.
            max_cost: no further request is sent once this amount is spent.

        Raises:
            ValueError, OSError: an option is not allowed, or the examples cannot be read.
        """
        client = ChatClient(
            base_url,
            model,
            api_key=os.environ.get(api_key_env) or None,
            temperature=temperature,
            max_tokens=max_tokens,
            extra={"seed": seed},
            timeout=timeout,
            concurrency=concurrency,
            prices=Prices(*prices),
            budget=Budget(cost=max_cost),
        )
        shown = tuple(read_jsonl(Path(examples))) if examples else ()
        style = ChatStyle(prompting, envs.world.action_help, shown, shots, history)
        return cls(client, style, trials=trials)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget the games where `mask` is True; lessons stay."""
        for game in np.flatnonzero(mask).tolist():
            self._episodes.pop(game, None)

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[Decision]:
        """Ask for a reply for each game that is being played.

        Raises:
            NoReply: the endpoint failed for one of them.
        """
        games = np.flatnonzero(infos["_task"]).tolist()
        asked = {game: _shown(observations[game], infos["admissible_actions"][game], self._style) for game in games}
        conversations = {
            game: self._conversation(
                self._episodes[game], infos["task_id"][game], infos["task_type"][game], infos["task"][game], asked[game]
            )
            for game in games
        }
        results = self._ask(list(conversations.values()))
        decisions = [Decision("", valid=False, invalid_reason="this game is not being played")] * len(observations)
        for game, result in zip(games, results, strict=True):
            reply = result.text or ""
            episode = self._episodes[game]
            episode.exchanges.append((asked[game], reply))
            episode.steps += 1
            while len(episode.exchanges) > self._style.history:
                episode.exchanges.popleft()
            action, reason = read_reply(reply, infos["admissible_actions"][game])
            spent, self._owed = result.usage + self._owed, Usage()
            data = {
                "prompt_tokens": spent.prompt_tokens,
                "reply_tokens": spent.completion_tokens,
                "cost": spent.cost,
            }
            prompt = "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in conversations[game])
            decisions[game] = Decision(action, reply, prompt, reason is None, reason, data)
        return decisions

    def on_trajectory(self, trajectory: Trajectory) -> None:
        """An episode is over: where the task will be tried again, write down what to do differently."""
        if self.trials == 1 or trajectory.success:
            return
        steps = trajectory.steps[-2 * self._style.history :]
        story = "\n".join(f"{step.observation}\n> {step.action}" for step in steps)
        ending = trajectory.steps[-1].next_observation if trajectory.steps else ""
        messages = [
            {"role": "system", "content": self._rules()},
            {"role": "user", "content": f"Your task: {trajectory.task}\n\n{story}\n{ending}\n\n{_REFLECT}"},
        ]
        [result] = self._ask([messages])
        self._owed += result.usage
        self._lessons[trajectory.task_id].append(" ".join((result.text or "").split()))

    def _ask(self, conversations: Sequence[Sequence[Message]]) -> list[ChatResult]:
        results = self._client.complete(conversations)
        for result in results:
            if result.text is None:
                raise NoReply(f"no reply from {self._client.model}: {result.failure}: {result.detail}")
        return results

    def _rules(self) -> str:
        return (
            "You act in a world through text. At every step you are shown an observation and what you can do, and you "
            f"choose one action. {STYLES[self._style.prompting]}"
        )

    def _conversation(
        self, episode: _Episode, task_id: str, task_type: str, task: str, asked: str
    ) -> list[dict[str, str]]:
        parts = [self._rules()]
        for example in _examples(self._style, task_id, task_type):
            parts.append("An example of another task, solved:\n\n" + example)
        parts += [f"From your earlier attempt at this task: {lesson}" for lesson in self._lessons[task_id]]
        parts.append(f"Your task now: {task}")
        messages = [{"role": "system", "content": "\n\n".join(parts)}]
        if episode.steps > len(episode.exchanges):
            asked_first = f"({episode.steps - len(episode.exchanges)} earlier steps are not shown.)\n"
        else:
            asked_first = ""
        for said, reply in episode.exchanges:
            messages += [
                {"role": "user", "content": asked_first + said},
                {"role": "assistant", "content": reply},
            ]
            asked_first = ""
        messages.append({"role": "user", "content": asked_first + asked})
        return messages


def read_reply(reply: str, admissible: Sequence[str] | None) -> tuple[str, str | None]:
    r"""The action in a reply, and why it is not a proper one (None if it is).

    The action is what follows the last ``Action:``, or the last line of a reply without one. Where the world lists its
    actions, case, quotation marks and the bullet or number of a list do not matter; where actions are free text, a
    bullet before ``word[text]`` does not.

    >>> read_reply("Thought: it is open.\nAction: `Go North`.", ["go north", "look"])
    ('go north', None)
    >>> read_reply("Action: search[red shoes]", ["search[<your query>]"])
    ('search[red shoes]', None)
    >>> read_reply("Action: - search[red shoes]", ["search[<your query>]"])
    ('search[red shoes]', None)
    >>> read_reply("Action: - search[Kenya]", None)
    ('search[Kenya]', None)
    >>> read_reply("I would leave.", ["look"])
    ('I would leave.', 'no line begins with Action:; the action is not among those that can be taken')
    """
    marked = _ACTION.findall(reply)
    lines = [line for line in reply.splitlines() if line.strip()]
    action = (marked[-1] if marked else lines[-1] if lines else "").strip().strip("`\"'* ")
    reasons = [] if marked else ["no line begins with Action:"]
    if admissible is not None:
        if action not in admissible:
            action = _BULLET.sub("", action).strip("`\"'* ")
        wanted = _plain(action)
        same = [listed for listed in admissible if _plain(listed) == wanted]
        form = _BLANK.match(action)
        fills = form is not None and any(
            blank.startswith(f"{form[1]}[<") or blank in (f"{form[1]}[]", f"{form[1]}[...]") for blank in admissible
        )
        if same:
            action = same[0]
        elif not fills:
            reasons.append("the action is not among those that can be taken")
    elif not action:
        reasons.append("the action is empty")
    elif _BLANK.match(bare := _BULLET.sub("", action)):
        action = bare
    return action, "; ".join(reasons) or None


def _plain(action: str) -> str:
    return " ".join(action.lower().rstrip(".").strip("`\"'* ").split())


def _shown(observation: str, admissible: Sequence[str] | None, style: ChatStyle) -> str:
    if admissible is None:
        return f"{observation}\n\nWhat you can do: {style.help}"
    listed = "\n".join(f"- {action}" for action in admissible[: style.max_actions])
    return f"{observation}\n\nWhat you can do, one of:\n{listed}"


def _examples(style: ChatStyle, task_id: str, task_type: str) -> list[str]:
    others = [example for example in style.examples if example.task_id != task_id]
    chosen = sorted(others, key=lambda example: example.task_type != task_type)[: style.shots]
    return [
        f"Task: {example.task}\n" + "\n".join(f"{step.observation}\nAction: {step.action}" for step in example.steps)
        for example in chosen
    ]
