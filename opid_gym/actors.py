"""A world whose games live in Ray actors: processes of their own, on this machine or on others.

For worlds whose step takes milliseconds or more, such as a browser. A message to an actor and back takes longer than a
step of most text worlds, which are faster in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from opid_gym.named import missing_extra
from opid_gym.world import Task, Turn, World

if TYPE_CHECKING:
    from opid_gym.trajectory import StepHindsight, Trajectory

# Ray's shared memory, which nothing here uses; its least size, in bytes.
_OBJECT_STORE = 80 * 1024 * 1024
_TOLD = ("default_max_episode_steps", "task_options", "action_help", "source", "data")
_ATTEMPTS = 3  # to begin an episode, each in a new actor
_GRACE = 10.0  # seconds in which an actor closes its world


def start_ray(cpus: int) -> None:
    """Start Ray on this machine alone, quietly, for this number of actors or replicas at once."""
    import ray

    ray.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=_OBJECT_STORE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )


class ActorsLost(OSError):
    """New actors died as the former ones had."""


class ActorWorld(World):
    """A world in several actors: slot s is in actor s modulo their number, and all of them play at once.

    Actors start when they are first needed. If one dies, its running episodes are truncated at their next step, with
    the reason in ``info["crashed"]``, and whatever begins there next has a new actor. Where Ray is not running it is
    started on this machine alone, and stays until this process ends; for actors on several machines connect to their
    cluster (``ray.init``) first. The package has to be installed there.

    Args:
        world: ``module:Class``, imported by the actors.
        arguments: of the world.
        actors: how many, 1 or more.

    Attributes:
        lost: episodes that were truncated because their actor had died.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: `actors` is below 1.
        Exception: whatever the world raises.
    """

    def __init__(self, world: str, arguments: Mapping[str, Any], actors: int) -> None:
        if actors < 1:
            raise ValueError(f"actors must be >= 1, got {actors}")
        try:
            import ray
        except ImportError:
            raise missing_extra(f"actors={actors}", "ray", "search") from None
        self._ray = ray
        if not ray.is_initialized():
            start_ray(actors)
        self.lost = 0
        self._actors = actors
        self._made_from = world, dict(arguments)
        self._hosts: dict[int, Any] = {}
        self._described: list[tuple[str, Any]] = []
        self._last: dict[int, Turn] = {}
        self._crashed: set[int] = set()
        for name, value in self._first(lambda host: host.about.remote()).items():
            setattr(self, name, value)

    def start(self, slots: Sequence[int], task_ids: Sequence[str]) -> list[tuple[Task, Turn]]:
        """See `World.start`.

        Raises:
            ActorsLost: new actors die again and again.
        """
        wanted = dict(zip(slots, task_ids, strict=True))
        begun: dict[int, tuple[Task, Turn]] = {}
        for _ in range(_ATTEMPTS):
            left = {slot: task_id for slot, task_id in wanted.items() if slot not in begun}
            if not left:
                break
            begun |= self._call("start", list(left), list(left.values()))
        if len(begun) < len(wanted):
            raise ActorsLost(f"actors died {_ATTEMPTS} times while they began {sorted(set(wanted) - set(begun))}")
        for slot, (_, turn) in begun.items():
            self._last[slot] = turn
            self._crashed.discard(slot)
        return [begun[slot] for slot in slots]

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Turn]:
        """See `World.step`."""
        going = {slot: action for slot, action in zip(slots, actions, strict=True) if slot not in self._crashed}
        played: dict[int, Turn] = self._call("step", list(going), list(going.values()))
        self._last.update(played)
        return [played[slot] if slot in played else self._end(slot) for slot in slots]

    def add_task(self, option: str, value: Any) -> str:
        """See `World.add_task`."""
        task_id: str = self._one("add_task", option, value)
        self._described.append((option, value))
        told = [host.call.remote("add_task", option, value) for number, host in self._hosts.items() if number]
        if told:
            self._ray.wait(told, num_returns=len(told))
        return task_id

    def expert_actions(self, slots: Sequence[int]) -> list[str]:
        """See `World.expert_actions`; nothing is said in an episode that is lost."""
        found: dict[int, str] = self._call("expert_actions", [slot for slot in slots if slot not in self._crashed])
        return [found.get(slot, "") for slot in slots]

    def hindsight(self, trajectory: Trajectory) -> list[StepHindsight]:
        """See `World.hindsight`."""
        found: list[StepHindsight] = self._one("hindsight", trajectory)
        return found

    def workflow(self, trajectory: Trajectory) -> list[str]:
        """See `World.workflow`."""
        found: list[str] = self._one("workflow", trajectory)
        return found

    def close(self) -> None:
        """End the actors."""
        closing = [host.call.remote("close") for host in self._hosts.values()]
        if closing:
            self._ray.wait(closing, num_returns=len(closing), timeout=_GRACE)
        for host in self._hosts.values():
            self._ray.kill(host)
        self._hosts.clear()

    def __getstate__(self) -> NoReturn:
        raise TypeError("a world in actors cannot be pickled or copied: make another one with the same arguments")

    def _end(self, slot: int) -> Turn:
        self.lost += 1
        last = self._last[slot]
        crashed = "the actor that played it has died"
        return replace(last, reward=0.0, truncated=True, extras={**last.extras, "crashed": crashed})

    def _call(self, method: str, slots: Sequence[int], *columns: Sequence[Any]) -> dict[int, Any]:
        """What the actors of some slots answer, by slot; slots whose actor dies have no answer."""
        by_actor: dict[int, list[int]] = {}
        for position, slot in enumerate(slots):
            by_actor.setdefault(slot % self._actors, []).append(position)
        self._open(by_actor)
        asked = {}
        for number, positions in by_actor.items():
            parts = [[column[position] for position in positions] for column in (slots, *columns)]
            asked[number] = self._hosts[number].call.remote(method, *parts)
        found: dict[int, Any] = {}
        for number, answer in asked.items():
            try:
                found |= zip((slots[position] for position in by_actor[number]), self._get(answer), strict=True)
            except self._ray.exceptions.RayActorError:
                self._lose(number)
        return found

    def _one(self, method: str, *arguments: Any) -> Any:
        """What a method of the world gives that does not depend on the games being played."""
        return self._first(lambda host: host.call.remote(method, *arguments))

    def _first(self, ask: Callable[[Any], Any]) -> Any:
        for _ in range(_ATTEMPTS):
            self._open([0])
            try:
                return self._get(ask(self._hosts[0]))
            except self._ray.exceptions.RayActorError:
                self._lose(0)
        raise ActorsLost(f"{_ATTEMPTS} actors in turn died while they made {self._made_from[0]} or were asked about it")

    def _open(self, numbers: Sequence[int] | Mapping[int, Any]) -> None:
        """Start the actors that are not there."""
        world, arguments = self._made_from
        opening = {}
        for number in numbers:
            if number not in self._hosts:
                host = self._hosts[number] = self._ray.remote(_Host).remote()
                opening[number] = host.open.remote(world, arguments, self._described)
        for number, opened in opening.items():
            try:
                self._get(opened)
            except self._ray.exceptions.RayActorError:
                pass  # whoever asks it next learns it
            except BaseException:
                self._ray.kill(self._hosts.pop(number))
                raise

    def _lose(self, number: int) -> None:
        del self._hosts[number]
        self._crashed |= {slot for slot in self._last if slot % self._actors == number}

    def _get(self, answer: Any) -> Any:
        try:
            return self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:  # what the world itself raised
            raise error.cause from None


class _Host:
    """An actor: it holds a world and passes calls on."""

    def __init__(self) -> None:
        self._world: World | None = None

    def open(self, world: str, arguments: Mapping[str, Any], described: Sequence[tuple[str, Any]]) -> None:
        # Not when the actor is made: what is raised then cannot be told from an actor that died.
        from opid_gym.registration import make_world

        self._world = make_world(world, **arguments)
        for option, value in described:
            self._world.add_task(option, value)

    def about(self) -> dict[str, Any]:
        """What a world tells of itself."""
        assert self._world is not None
        found = {name: getattr(self._world, name) for name in _TOLD}
        return {**found, "task_ids": list(self._world.task_ids)}

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the world gives."""
        return getattr(self._world, method)(*arguments)
